//! Command lines (RFC 5321, 4.1), parsed strictly.
//!
//! [`parse`] takes one line without its CRLF. Finding the line's end is the session's business; here a CR, an LF, a NUL or
//! any other control character anywhere in the line is an error, so nothing hidden in a parameter can become a command, a
//! trace field or a log line. smtp-proto's parser is not used: it ends a command at a bare LF, skips stray CRs, and takes
//! control characters in paths, all of which a server at a trust boundary must refuse.

use super::address::{Address, AddressError, ReversePath};
use super::parameter::{self, MailParameters, RcptParameters, decimal};

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// EHLO with the client's name: a domain or an address literal.
    Ehlo(&'a str),
    /// HELO with the client's name.
    Helo(&'a str),
    /// MAIL FROM.
    Mail(ReversePath, MailParameters),
    /// RCPT TO.
    Rcpt(Recipient, RcptParameters),
    /// DATA.
    Data,
    /// AUTH with its argument: a mechanism, and perhaps an initial response (RFC 4954).
    Auth(&'a str),
    /// STARTTLS (RFC 3207).
    StartTls,
    /// BDAT: size of the chunk, and whether it is the last one (RFC 3030).
    Bdat(u64, bool),
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// VRFY with something to verify.
    Vrfy,
    /// HELP.
    Help,
    /// QUIT.
    Quit,
    /// A command of an RFC that this server does not offer: EXPN, ETRN, TURN, SEND, SOML, SAML.
    Unsupported,
}

/// What RCPT names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// A mailbox.
    Mailbox(Address),
    /// `<Postmaster>` without a domain (RFC 5321, 4.5.1).
    Postmaster,
}

/// Why a line is not a command that can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A control character, or an octet over 127 where none may be.
    #[error("characters that are not allowed in a command")]
    Characters,
    /// No such command.
    #[error("command not recognized")]
    Unrecognized,
    /// The argument is missing, superfluous or not of the command's form.
    #[error("syntax error in the argument")]
    Argument,
    /// The EHLO name is neither a domain nor an address literal.
    #[error("not a domain or an address literal")]
    Name,
    /// The reverse-path breaks the grammar.
    #[error("bad reverse-path: {0}")]
    ReversePath(AddressError),
    /// The forward-path breaks the grammar.
    #[error("bad forward-path: {0}")]
    ForwardPath(AddressError),
    /// A non-ASCII address without SMTPUTF8, or one that is not UTF-8.
    #[error("a non-ASCII address needs SMTPUTF8")]
    NonAscii,
    /// A known parameter with a bad value, or given twice.
    #[error("bad parameter")]
    Parameter,
    /// A parameter that is not offered.
    #[error("parameter not recognized")]
    UnknownParameter,
    /// BDAT whose size cannot be read: where the next command begins is unknown.
    #[error("bad chunk size")]
    ChunkSize,
}

/// Parses one line, given without its CRLF.
pub fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
    let is_control = |b: &u8| *b < b' ' || *b == 0x7f;
    if line.iter().any(is_control) {
        return Err(if is_verb(line, b"BDAT") { CommandError::ChunkSize } else { CommandError::Characters });
    }
    let Ok(text) = std::str::from_utf8(line) else {
        let has_path = is_verb(line, b"MAIL") || is_verb(line, b"RCPT");
        return Err(match () {
            () if has_path => CommandError::NonAscii,
            () if is_verb(line, b"BDAT") => CommandError::ChunkSize,
            () => CommandError::Characters,
        });
    };
    let (verb, argument) = text.split_once(' ').unwrap_or((text, ""));
    with_argument(verb, argument.trim_matches(' '))
}

fn is_verb(line: &[u8], verb: &[u8]) -> bool {
    line.get(..verb.len()).is_some_and(|start| start.eq_ignore_ascii_case(verb))
}

fn with_argument<'a>(verb: &str, argument: &'a str) -> Result<Command<'a>, CommandError> {
    let mut folded = [0; 8];
    let verb = folded.get_mut(..verb.len()).map(|place| {
        place.copy_from_slice(verb.as_bytes());
        place.make_ascii_uppercase();
        &*place
    });
    match verb.unwrap_or_default() {
        b"MAIL" => mail(argument),
        b"RCPT" => rcpt(argument),
        b"DATA" => bare(argument, Command::Data),
        b"BDAT" => bdat(argument),
        b"EHLO" => name(argument).map(Command::Ehlo),
        b"HELO" => name(argument).map(Command::Helo),
        b"RSET" => bare(argument, Command::Rset),
        b"QUIT" => bare(argument, Command::Quit),
        b"STARTTLS" => bare(argument, Command::StartTls),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" if argument.is_empty() => Err(CommandError::Argument),
        b"VRFY" => Ok(Command::Vrfy),
        b"AUTH" if argument.is_empty() => Err(CommandError::Argument),
        b"AUTH" => Ok(Command::Auth(argument)),
        b"EXPN" | b"ETRN" | b"TURN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML" => Ok(Command::Unsupported),
        _ => Err(CommandError::Unrecognized),
    }
}

fn bare<'a>(argument: &str, command: Command<'a>) -> Result<Command<'a>, CommandError> {
    if argument.is_empty() { Ok(command) } else { Err(CommandError::Argument) }
}

/// RFC 5321, 4.1.1.1: a domain or an address literal. What is refused here would otherwise stand in every trace field.
fn name(argument: &str) -> Result<&str, CommandError> {
    let name = argument.strip_suffix('.').unwrap_or(argument);
    let is_fine = name.is_ascii() && name.len() <= 255 && super::address::is_domain(name);
    if is_fine { Ok(name) } else { Err(CommandError::Name) }
}

fn bdat(argument: &str) -> Result<Command<'_>, CommandError> {
    let mut words = argument.split(' ').filter(|word| !word.is_empty());
    let size = words.next().and_then(decimal).filter(|size| *size < u64::MAX).ok_or(CommandError::ChunkSize)?;
    let is_last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(CommandError::ChunkSize),
    };
    if words.next().is_some() { Err(CommandError::ChunkSize) } else { Ok(Command::Bdat(size, is_last)) }
}

fn mail(argument: &str) -> Result<Command<'_>, CommandError> {
    let argument = after_word(argument, "FROM:").ok_or(CommandError::Argument)?;
    let (path, rest) = split_path(argument).ok_or(CommandError::ReversePath(AddressError::Form))?;
    let parameters = parameter::mail(rest)?;
    if path.is_empty() {
        return Ok(Command::Mail(ReversePath::Null, parameters));
    }
    if !parameters.smtputf8 && !path.is_ascii() {
        return Err(CommandError::NonAscii);
    }
    let address = without_route(path).and_then(str::parse).map_err(CommandError::ReversePath)?;
    Ok(Command::Mail(ReversePath::Mailbox(address), parameters))
}

fn rcpt(argument: &str) -> Result<Command<'_>, CommandError> {
    let argument = after_word(argument, "TO:").ok_or(CommandError::Argument)?;
    let (path, rest) = split_path(argument).ok_or(CommandError::ForwardPath(AddressError::Form))?;
    let parameters = parameter::rcpt(rest)?;
    if path.eq_ignore_ascii_case("postmaster") {
        return Ok(Command::Rcpt(Recipient::Postmaster, parameters));
    }
    let address = without_route(path).and_then(str::parse).map_err(CommandError::ForwardPath)?;
    Ok(Command::Rcpt(Recipient::Mailbox(address), parameters))
}

/// What follows `FROM:` or `TO:`. A space after the colon breaks the grammar but is common and harmless.
fn after_word<'a>(argument: &'a str, word: &str) -> Option<&'a str> {
    let (start, rest) = argument.split_at_checked(word.len())?;
    start.eq_ignore_ascii_case(word).then(|| rest.trim_start_matches(' '))
}

/// Splits `<path> parameters`. A `>` inside a quoted local-part does not end the path.
fn split_path(argument: &str) -> Option<(&str, &str)> {
    let inner = argument.strip_prefix('<')?;
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'>' if !is_quoted => {
                let rest = inner.get(at + 1..)?;
                let is_separated = rest.is_empty() || rest.starts_with(' ');
                return is_separated.then_some((inner.get(..at)?, rest));
            }
            _ => {}
        }
    }
    None
}

/// Drops a source route, `@a,@b:`, as RFC 5321, 4.1.1.3 and appendix C say: accepted, checked, ignored.
fn without_route(path: &str) -> Result<&str, AddressError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    let (route, mailbox) = path.split_once(':').ok_or(AddressError::Form)?;
    let is_hop = |hop: &str| hop.strip_prefix('@').is_some_and(super::address::is_domain);
    if route.split(',').all(is_hop) { Ok(mailbox) } else { Err(AddressError::Form) }
}

#[cfg(test)]
mod tests;
