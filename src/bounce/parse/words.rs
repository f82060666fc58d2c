//! Words by which systems tell that a message came back, in the languages they write.
//!
//! They decide only whether a text is about a failure at all; what failed is the classifier's to say. All in lower case.

/// A message was not delivered.
const FAILURE: &[&str] = &[
    "not be delivered",
    "not be sent",
    "not been delivered",
    "not been sent",
    "not delivered",
    "n't be delivered",
    "n't been delivered",
    "n't delivered",
    "cannot be delivered",
    "unable to deliver",
    "able to deliver",
    "not deliver",
    "n't deliver",
    "unable to send",
    "undeliver",
    "undelivr",
    "non-deliver",
    "nondeliver",
    "failed recipient",
    "failed address",
    "failure reason",
    "following address",
    "following destination",
    "following recipient",
    "following user",
    "following email address",
    "following e-mail address",
    "these recipients",
    "not reach",
    "not be reached",
    "delivery to the following",
    "delivery has failed",
    "delivery failed",
    "delivery failure",
    "delivery error",
    "delivery of your",
    "delivery problem",
    "delivery status",
    "delevery to the",
    "failed to deliver",
    "failed permanently",
    "error delivering",
    "error processing",
    "error sending",
    "error was detected",
    "error has occurred",
    "permanent error",
    "permanent failure",
    "permanent fatal",
    "fatal error",
    "failed for the",
    "trouble delivering",
    "was rejected",
    "been rejected",
    "automatically rejected",
    "was refused",
    "been returned",
    "returned to sender",
    "returned mail",
    "returned message",
    "failure notice",
    "failure notification",
    "could not deliver",
    "no valid recipient",
    "valid recipients",
    "addresses were unknown",
    "bounced",
    "bounce message",
    "user unknown",
    "unknown user",
    "unknown recipient",
    "no such user",
    "recipient unknown",
    "invalid user",
    "invalid recipient",
    "invalid address",
    "wrong or no longer",
    "address is wrong",
    "mailbox full",
    "mailbox is full",
    "over quota",
    "quota exceeded",
    "quota violation",
    "malformed address",
    "incorrectly constructed",
    "duplicated message-id",
    "looping",
    "not member",
    "not a member",
    "too many hops",
    "mail loop",
    "may not exist",
    "does not exist",
    "doesn't exist",
    // Other languages.
    "n'a pas pu",
    "n'a pas été",
    "non remis",
    "non distribu",
    "échec de la remise",
    "échec de remise",
    "impossible de remettre",
    "nicht zugestellt",
    "nicht ausgeliefert",
    "unzustellbar",
    "fehler bei der zustellung",
    "zustellung fehlgeschlagen",
    "konnte nicht",
    "no se pudo entregar",
    "no pudo ser entregado",
    "no se ha podido entregar",
    "no ha podido",
    "no fue entregado",
    "não pôde ser entregue",
    "não foi entregue",
    "falha na entrega",
    "impossibile recapitare",
    "non è stato recapitato",
    "mancato recapito",
    "niet worden bezorgd",
    "niet bezorgd",
    "kunde inte levereras",
    "kunne ikke leveres",
    "nie mogła zostać dostarczona",
    "nie została dostarczona",
    "nepodařilo doručit",
    "не может быть доставлено",
    "не доставлено",
    "не удалось доставить",
    "teslim edilemedi",
    "配信できません",
    "配送できません",
    "送信できません",
    "送信に失敗",
    "届けることができません",
    "届けできません",
    "エラーのため",
    "无法投递",
    "无法送达",
    "无法发送",
    "投递失败",
    "退信",
    "無法投遞",
    "無法傳送",
    "無法傳遞",
    "전달되지",
    "보내지 못했",
    "전송 실패",
];

/// A message is late, and attempts go on.
const DELAY: &[&str] = &[
    "not yet been delivered",
    "not yet been sent",
    "n't been delivered yet",
    "has been delayed",
    "been delayed",
    "is delayed",
    "delivery is delayed",
    "message delayed",
    "warning message only",
    "will be retried",
    "attempts will continue",
    "attempts will be made",
    "attempts will continue to be made",
    "continue to be made",
    "will continue to try",
    "will keep trying",
    "still trying to deliver",
    "still being retried",
    "not need to resend",
    "do not resend",
    "temporarily deferred",
    "remain in queue",
    "incomplete delivery",
    "delivery incomplete",
];

/// Nothing goes on, whatever else is said.
const END: &[&str] = &["permanent", "given up", "giving up", "not going to try", "no further", "will not be retried"];

/// Subjects of notifications.
const SUBJECTS: &[&str] = &[
    "undeliver",
    "undelivr",
    "returned mail",
    "returned message",
    "returned to sender",
    "returning to sender",
    "return receipt: fail",
    "delivery status",
    "delivery fail",
    "delivery err",
    "delivery prob",
    "delivery notif",
    "delivery has fail",
    "delivery delay",
    "delivery unsuccessful",
    "delivery incomplete",
    "failure notice",
    "failure notif",
    "failed delivery",
    "mail failed",
    "mail failure",
    "mail system error",
    "message delayed",
    "message undeliver",
    "could not be delivered",
    "not be delivered",
    "error sending your mail",
    "non-deliver",
    "nondeliver",
    "not delivered",
    "considered unsolicited",
    "loop alert",
    "loop back warning",
    "not member article",
    "warning: message",
    "warning: could not send",
    "non remis",
    "non distribu",
    "unzustellbar",
    "nicht zugestellt",
    "no se puede entregar",
    "no entregado",
    "no se ha podido entregar",
    "não entregue",
    "não é possível entregar",
    "non recapitabile",
    "mancata consegna",
    "onbestelbaar",
    "не доставлено",
    "недоставл",
    "配信不能",
    "配信エラー",
    "送信エラー",
    "退信",
    "投递失败",
    "无法投递",
    "未送达",
    "無法投遞",
    "배달 실패",
    "error sending message",
    // Parcels fail, too: what is said of them as well as of mail is a notice with the colon of Exchange only.
    "delayed mail",
    "zustellbenachrichtigung",
    "zustellungsstatus",
    "rückläufer",
    "échec de la remise",
    "échec de remise",
    "non-remise",
    "état de remise",
    "notificación de estado de la entrega",
    "notificación del estado de entrega",
    "notificação de status de entrega",
    "notificação do status de entrega",
    "mancato recapito",
    "impossibile recapitare",
    "stato del recapito",
    "nie można dostarczyć:",
    "niedostarczon",
    "kan inte levereras:",
    "kan ikke leveres:",
    "ei voida toimittaa",
    "nedoručiteln",
    "kézbesíthetetlen",
    "teslim edilemiyor:",
    "не удается доставить:",
    "недоставк",
    "состоянии доставки",
    "发送失败",
    "无法送达",
    "無法傳遞",
    "メールエラー",
    "エラー通知",
    "送信失敗",
    "不達",
    "전송 실패",
    "배달되지",
    "보내지 못",
];

/// Subjects of notifications, and of other mail.
const PERHAPS: &[&str] = &[
    "mail delivery",
    "mail error",
    "message delivery",
    "bounce",
    "échec",
    "fehler",
    "zustell",
    "返送",
    "戻り",
    "mail could not",
    "message you sent",
    "delivery report",
    "message not delivered",
];

/// Names under which systems write notifications: local parts, and parts of display names.
const SYSTEM_LOCALS: &[&str] = &[
    "mailer-daemon",
    "mailer_daemon",
    "mailerdaemon",
    "mail-daemon",
    "maildaemon",
    "postmaster",
    "post_master",
    "post.master",
    "poostmaster",
    "mailadmin",
    "mail-admin",
    "mail.delivery.system",
    "mail.delivery.subsystem",
    "mdaemon",
    "mailmaster",
    "mailer",
    "bounce",
    "bounces",
    "ndr",
];
const SYSTEM_NAMES: &[&str] = &[
    "mail delivery",
    "mail deliver",
    "delivery system",
    "delivery subsystem",
    "mail administrator",
    "mail admin",
    "system administrator",
    "mail system",
    "mailer-daemon",
    "mailer daemon",
    "postmaster",
    "ndr administrator",
    "antivirus",
    "content-filter",
    "lsmtp",
    "smtp_mail_service",
    "mail service",
    "mail server",
    "mailserver",
];

/// Subjects of automatic responses, at their beginning.
const RESPONSES: &[&str] = &[
    "auto:",
    "auto reply",
    "auto-reply",
    "autoreply",
    "auto response",
    "auto-response",
    "autoresponse",
    "autoresponder",
    "automatic reply",
    "automatic response",
    "automated reply",
    "automated response",
    "out of office",
    "out of the office",
    "out-of-office",
    "ooo:",
    "vacation",
    "on vacation",
    "away from",
    "i am away",
    "abwesen",
    "automatische antwort",
    "automatisch antwoord",
    "afwezig",
    "réponse automatique",
    "absence",
    "respuesta automática",
    "fuera de la oficina",
    "risposta automatica",
    "fuori sede",
    "resposta automática",
    "ausência",
    "autosvar",
    "automatiskt svar",
    "automaattinen vastaus",
    "odpowiedź automatyczna",
    "автоответ",
    "автоматический ответ",
    "自動応答",
    "自動返信",
    "不在",
    "自动回复",
    "自動回覆",
    "자동 회신",
    "부재중",
];

/// How subjects begin of what people pass on, and of what they answer.
const PASSED_ON: &[&str] =
    &["fwd:", "fw:", "wg:", "tr:", "rv:", "enc:", "vs:", "doorst:", "i: ", "转发", "轉寄", "転送"];
const ANSWERS: &[&str] = &["re:", "aw:", "sv:", "r: ", "回复", "回覆"];

/// How people begin to write.
const GREETINGS: &[&str] = &[
    "hello",
    "hi ",
    "hi,",
    "dear ",
    "good morning",
    "good afternoon",
    "hallo",
    "moin",
    "guten tag",
    "sehr geehrte",
    "liebe",
    "bonjour",
    "salut",
    "hola",
    "buenos",
    "estimad",
    "ciao",
    "buongiorno",
    "gentile",
    "olá",
    "prezad",
    "hej",
    "dzień dobry",
    "здравствуйте",
    "привет",
    "добрый",
];

fn has(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

/// Whether lower-case text tells of a failure.
pub(super) fn tells_failure(lower: &str) -> bool {
    has(lower, FAILURE)
}

/// Whether lower-case text tells that attempts go on.
pub(super) fn tells_delay(lower: &str) -> bool {
    has(lower, DELAY)
}

/// Whether lower-case text tells that nothing goes on.
pub(super) fn tells_end(lower: &str) -> bool {
    has(lower, END)
}

/// Whether a subject is that of a notification.
pub(super) fn is_notice(subject: &str) -> bool {
    has(&subject.to_lowercase(), SUBJECTS)
}

/// Whether a subject begins as that of a notification does.
pub(super) fn begins_notice(subject: &str) -> bool {
    let lower = subject.to_lowercase();
    SUBJECTS.iter().any(|start| lower.trim_start().starts_with(start))
}

/// Whether a subject may be that of a notification.
pub(super) fn is_perhaps_notice(subject: &str) -> bool {
    has(&subject.to_lowercase(), PERHAPS)
}

/// Whether a From field's value is MAILER-DAEMON's.
pub(super) fn is_daemon(from: &str) -> bool {
    let lower = from.to_ascii_lowercase();
    lower.contains("mailer-daemon") || lower.contains("mail delivery sub") || lower.contains("mail delivery system")
}

/// Whether a From field's value is that of a mail system.
pub(super) fn is_system(from: &str) -> bool {
    let lower = from.to_lowercase();
    let address = lower.split_once('<').map_or(lower.as_str(), |(_, rest)| rest);
    let local =
        address.split(['@', '>']).next().unwrap_or_default().trim_matches(|c: char| c.is_whitespace() || c == '"');
    SYSTEM_LOCALS.contains(&local)
        || local.starts_with("mailer-daemon")
        || local.starts_with("postmaster")
        || has(&lower, SYSTEM_NAMES)
}

/// Whether a subject is that of an automatic response.
pub(super) fn is_response(subject: &str) -> bool {
    let lower = subject.to_lowercase();
    let bare = lower.trim_start_matches("re:").trim_start_matches(['[', '(', '*', ' ', '"', '\'']);
    RESPONSES.iter().any(|start| bare.starts_with(start))
}

/// Whether a subject begins as that of what somebody passes on.
pub(super) fn is_passed_on(subject: &str) -> bool {
    let lower = subject.trim_start().to_lowercase();
    PASSED_ON.iter().any(|start| lower.starts_with(start))
}

/// Whether a subject begins as that of an answer.
pub(super) fn is_answer(subject: &str) -> bool {
    let lower = subject.trim_start().to_lowercase();
    ANSWERS.iter().any(|start| lower.starts_with(start))
}

/// Whether a text begins as people begin to write.
pub(super) fn is_greeting(text: &str) -> bool {
    let lower = text.chars().take(20).collect::<String>().to_lowercase();
    GREETINGS.iter().any(|start| lower.starts_with(start))
}
