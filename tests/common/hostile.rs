//! The bad input that several tests share: false ends of data (S1) and hostile text in parameters (S4).
#![allow(dead_code)]

const AROUND: [&str; 6] = ["\n", "\r", "\r\n", "\0", "\r\r\n", ""];
/// What a smuggler would hide behind a false end of data.
pub const HIDDEN: &str = "MAIL FROM:<evil@x.test>\r\nRCPT TO:<v@y.test>\r\nDATA\r\nB: c\r\n\r\nsmuggled\r\n";

/// Content up to and with the variant, and what follows it; whether that ends the data.
pub fn variants() -> impl Iterator<Item = (String, bool)> {
    AROUND.into_iter().flat_map(|before| {
        AROUND.into_iter().map(move |after| {
            let is_end = before.ends_with("\r\n") && after == "\r\n";
            (format!("A: b\r\n\r\nbody{before}.{after}"), is_end)
        })
    })
}

/// A CR or LF that is no part of a CRLF.
pub fn has_bare(content: &str) -> bool {
    let without = content.replace("\r\n", "");
    without.contains(['\r', '\n'])
}

/// What a parameter or field may be made of by somebody who means harm.
pub const TEXTS: [&str; 29] = [
    "\r",
    "\n",
    "\nRCPT TO:<v@y.test>",
    "\rRCPT TO:<v@y.test>",
    "\0",
    "%0a",
    "%0d%0aDATA",
    "\u{2028}",
    "\u{2029}",
    "\u{85}",
    "\u{202e}",
    "\u{61c}",
    "\u{ad}",
    "\u{180e}",
    "\u{3002}",
    "\u{ff0e}",
    "\u{ff61}",
    "\"",
    "\\",
    "<>",
    "><",
    "@a.test,@b.test:",
    "a%b",
    "a!b",
    "$(id)",
    "`id`",
    ";rm -rf /",
    "|sh",
    "\x1b[2J",
];

/// Every place of a parameter, with the hostile text in it.
pub fn lines(text: &str) -> Vec<String> {
    let places = [
        "EHLO {}",
        "EHLO a{}b.test",
        "HELO {}",
        "MAIL FROM:<{}>",
        "MAIL FROM:<a{}@x.test>",
        "MAIL FROM:<a@x{}.test> SMTPUTF8",
        "MAIL FROM:<a{}@x.test> SMTPUTF8",
        "MAIL FROM:<\"a{}\"@x.test>",
        "MAIL FROM:<a@x.test> ENVID={}",
        "MAIL FROM:<a@x.test> ENVID=a{}b",
        "MAIL FROM:<a@x.test> SIZE={}",
        "MAIL FROM:<a@x.test> BODY={}",
        "MAIL FROM:<a@x.test> RET={}",
        "MAIL FROM:<a@x.test> AUTH={}",
        "MAIL FROM:<a@x.test> {}",
        "RCPT TO:<{}>",
        "RCPT TO:<b{}@y.test>",
        "RCPT TO:<b@y{}.test>",
        "RCPT TO:<b@[{}]>",
        "RCPT TO:<b@y.test> ORCPT={}",
        "RCPT TO:<b@y.test> ORCPT=rfc822;b{}@y.test",
        "RCPT TO:<b@y.test> ORCPT=utf-8;b{}@y.test",
        "RCPT TO:<b@y.test> NOTIFY={}",
        "RCPT TO:<b@y.test> {}",
        "VRFY {}",
        "NOOP {}",
        "HELP {}",
        "{}",
        "RSET {}",
    ];
    places.iter().map(|place| place.replace("{}", text)).collect()
}

/// No control character, and nothing that moves or hides what stands around it.
pub fn is_harmless(text: &str) -> bool {
    !text.chars().any(|c| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202e}' | '\u{61c}' | '\u{ad}' | '\u{180e}')
    })
}
