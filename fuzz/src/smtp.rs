//! Commands, addresses, content and replies.

use std::fmt::Write as _;
use std::io::IoSlice;
use std::sync::{Arc, LazyLock};

use hikyaku::delivery::stuffing::Stuffer;
use hikyaku::message::header::{fields, length};
use hikyaku::message::mailbox::mailboxes;
use hikyaku::message::{BodyType, Notify, Phase, Ret};
use hikyaku::reply::{Classifier, Diagnostic};
use hikyaku::smtp::address::Address;
use hikyaku::smtp::command::{Command, Recipient, parse};
use hikyaku::smtp::content::{Scan, normalize};
use hikyaku::smtp::data::Decoder;
use hikyaku::smtp::parameter::{MailParameters, RcptParameters};
use hikyaku::smtp::reply::{Extensions, Reader, Reply, Violation};

use super::{is_plain, pieces};

/// A command line, as long as a session lets it be. What was taken, written out, is taken as the same.
pub fn command(octets: &[u8]) {
    let line = &octets[..octets.len().min(2_046)];
    let Ok(command) = parse(line) else { return };
    let written = match &command {
        Command::Mail(path, parameters) => format!("MAIL FROM:<{}>{}", path.as_str(), of_mail(parameters)),
        Command::Rcpt(Recipient::Mailbox(path), parameters) => format!("RCPT TO:<{path}>{}", of_rcpt(parameters)),
        Command::Rcpt(Recipient::Postmaster, parameters) => format!("RCPT TO:<postmaster>{}", of_rcpt(parameters)),
        Command::Ehlo(name) => format!("EHLO {name}"),
        Command::Helo(name) => format!("HELO {name}"),
        Command::Bdat(size, is_last) => format!("BDAT {size}{}", if *is_last { " LAST" } else { "" }),
        Command::Auth(argument) => format!("AUTH {argument}"),
        _ => return,
    };
    assert!(is_plain(&written) || matches!(command, Command::Auth(_)), "{written:?}");
    assert_eq!(parse(written.as_bytes()), Ok(command), "{written:?}");
}

fn of_mail(parameters: &MailParameters) -> String {
    let mut text = String::new();
    if let Some(size) = parameters.size {
        let _ = write!(text, " SIZE={size}");
    }
    match parameters.body {
        Some(BodyType::SevenBit) => text.push_str(" BODY=7BIT"),
        Some(BodyType::EightBitMime) => text.push_str(" BODY=8BITMIME"),
        None => {}
    }
    match parameters.ret {
        Some(Ret::Full) => text.push_str(" RET=FULL"),
        Some(Ret::Headers) => text.push_str(" RET=HDRS"),
        None => {}
    }
    if let Some(envid) = &parameters.envid {
        let _ = write!(text, " ENVID={envid}");
    }
    if let Some(priority) = parameters.priority {
        let _ = write!(text, " MT-PRIORITY={priority}");
    }
    if parameters.auth {
        text.push_str(" AUTH=<>");
    }
    if parameters.require_tls {
        text.push_str(" REQUIRETLS");
    }
    if parameters.smtputf8 {
        text.push_str(" SMTPUTF8");
    }
    text
}

fn of_rcpt(parameters: &RcptParameters) -> String {
    let mut text = String::new();
    let bits = [
        (Notify::NEVER, "NEVER"),
        (Notify::SUCCESS, "SUCCESS"),
        (Notify::FAILURE, "FAILURE"),
        (Notify::DELAY, "DELAY"),
    ];
    let words: Vec<_> = bits.iter().filter(|(bit, _)| parameters.notify.has(*bit)).map(|(_, word)| *word).collect();
    if !words.is_empty() {
        let _ = write!(text, " NOTIFY={}", words.join(","));
    }
    if let Some(orcpt) = &parameters.orcpt {
        let _ = write!(text, " ORCPT={orcpt}");
    }
    text
}

/// An address, and the value of a From field.
pub fn address(octets: &[u8]) {
    for found in mailboxes(octets).unwrap_or_default() {
        same(&found);
        assert_eq!(mailboxes(format!("x <{found}>").as_bytes()), Some(vec![found]));
    }
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let parsed = text.parse::<Address>();
    assert_eq!(Address::of_path(&format!("<{text}>")).ok(), parsed.clone().ok());
    if let Ok(address) = parsed {
        same(&address);
    }
}

fn same(address: &Address) {
    assert!(is_plain(address.as_str()) && address.as_str().len() <= 254, "{address:?}");
    assert_eq!(format!("{}@{}", address.local_part(), address.domain()), address.as_str());
    assert_eq!(address.as_str().parse().as_ref(), Ok(address));
}

/// What comes after DATA; the first octet says how it is cut. Compared with a reading of RFC 5321, 4.5.2 that is not made
/// for speed; then the content goes out again as it would to a next hop.
pub fn data(octets: &[u8]) {
    let Some((&size, wire)) = octets.split_first() else { return };
    let (content, used, has_ended) = decoded(std::iter::once(wire));
    assert_eq!(decoded(pieces(wire, size)), (content.clone(), used, has_ended), "by {size}");
    let end = match wire.starts_with(b".\r\n") {
        true => Some(3),
        false => wire.windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 5),
    };
    assert_eq!(has_ended, end.is_some());
    match end {
        Some(end) => assert_eq!((used, content.as_slice()), (end, unstuffed(&wire[..end - 3]).as_slice())),
        // A CR behind a dot is kept until it is known what follows.
        None => assert!(used == wire.len() && unstuffed(wire).starts_with(&content)),
    }

    let (mut whole, mut by_pieces) = (Scan::default(), Scan::default());
    whole.push(&content);
    pieces(&content, size).for_each(|piece| by_pieces.push(piece));
    assert_eq!(whole, by_pieces);
    let is_bare = String::from_utf8_lossy(&content).replace("\r\n", "").contains(['\r', '\n']);
    assert_eq!(whole.has_bare_line_ending_at_end(), is_bare);

    let (mut normal, mut last) = (Vec::new(), 0);
    pieces(&content, size).for_each(|piece| normalize(piece, &mut last, &mut normal));
    let mut scan = Scan::default();
    scan.push(&normal);
    assert!(!scan.has_bare_line_ending_at_end() && normal.len() <= 2 * content.len());
    goes_out(&normal, size);
}

fn decoded<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, usize, bool) {
    let (mut decoder, mut content, mut used) = (Decoder::default(), Vec::new(), 0);
    for part in parts {
        let decoded = decoder.decode(part, |octets| content.extend_from_slice(octets));
        used += decoded.used;
        if decoded.has_ended {
            return (content, used, true);
        }
        assert_eq!(decoded.used, part.len());
    }
    (content, used, false)
}

fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let is_stuffed = |at: usize| wire[at] == b'.' && (at == 0 || wire[..at].ends_with(b"\r\n"));
    (0..wire.len()).filter(|&at| !is_stuffed(at)).map(|at| wire[at]).collect()
}

/// Content without bare line ends, sent by DATA, comes back as it was, and nothing but its own end ends it.
fn goes_out(content: &[u8], size: u8) {
    let (mut stuffer, mut wire) = (Stuffer::default(), Vec::new());
    for piece in pieces(content, size) {
        let mut slices: Vec<IoSlice<'_>> = Vec::new();
        stuffer.stuff(piece, &mut slices);
        slices.iter().for_each(|slice| wire.extend_from_slice(slice));
    }
    wire.extend_from_slice(stuffer.end());
    let mut sent = content.to_vec();
    if !sent.is_empty() && !sent.ends_with(b"\r\n") {
        sent.extend_from_slice(b"\r\n");
    }
    assert_eq!(decoded(std::iter::once(wire.as_slice())), (sent, wire.len(), true));
}

/// A receiver's octets; the first one says how they are cut.
pub fn reply(octets: &[u8]) {
    static CLASSIFIER: LazyLock<Arc<Classifier>> = LazyLock::new(Classifier::built_in);

    let Some((&size, wire)) = octets.split_first() else { return };
    let (replies, violation) = read(std::iter::once(wire));
    assert_eq!(read(pieces(wire, size)), (replies.clone(), violation), "by {size}");
    for (reply, lines) in &replies {
        assert!((200..600).contains(&reply.code) && is_plain(&reply.text) && reply.text.len() <= 1_024, "{reply:?}");
        if *lines == 1 && reply.text.len() < 1_000 {
            let status = reply.status.map(|status| format!("{status} ")).unwrap_or_default();
            let written = format!("{} {status}{}\r\n", reply.code, reply.text);
            assert_eq!(read(std::iter::once(written.as_bytes())), (vec![(reply.clone(), 1)], None), "{written:?}");
        }
        for step in [Phase::Mail, Phase::Rcpt, Phase::EndOfData] {
            let verdict = CLASSIFIER.of(step, reply, None);
            assert_eq!(verdict.is_some(), reply.code >= 400, "{reply:?}");
        }
    }
    let text = String::from_utf8_lossy(wire);
    let diagnostic = Diagnostic::parse(&text);
    // Characters of at most four octets.
    assert!(diagnostic.text.len() <= 4 * 4_096);
}

/// Replies with their numbers of lines, and what was wrong then.
fn read<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<(Reply, usize)>, Option<Violation>) {
    let (mut reader, mut replies) = (Reader::default(), Vec::new());
    for part in parts {
        reader.room().extend_from_slice(part);
        loop {
            match reader.next() {
                Ok(Some(received)) => {
                    let lines = reader.lines(&received).count();
                    let _ = Extensions::parse(reader.lines(&received));
                    replies.push((reader.reply(&received), lines));
                }
                Ok(None) => break,
                Err(violation) => return (replies, Some(violation)),
            }
        }
    }
    (replies, None)
}

/// Content from its beginning: the fields of its header section follow each other without a gap, and where it ends is not
/// told otherwise when there is more.
pub fn header(octets: &[u8]) {
    let mut walk = fields(octets);
    let mut at = 0;
    for field in walk.by_ref() {
        assert!(field.start == at && field.end > field.start && field.end <= octets.len());
        assert!(!field.name.is_empty() && field.name.iter().all(u8::is_ascii_graphic), "{:?}", field.name);
        assert!(field.text().is_none_or(|text| is_plain(&text)));
        at = field.end;
    }
    assert!(walk.end() == at && (walk.body() == at || octets[at..].starts_with(b"\r\n")));
    for cut in (0..octets.len()).step_by(1 + octets.len() / 64) {
        if let Some(told) = length(&octets[..cut]) {
            assert_eq!(length(octets), Some(told), "cut at {cut}");
        }
    }
}
