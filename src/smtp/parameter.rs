//! Parameters of MAIL and RCPT: SIZE, BODY, SMTPUTF8, RET, ENVID, MT-PRIORITY, AUTH, REQUIRETLS, NOTIFY, ORCPT.
//!
//! [`mail`] and [`rcpt`] take what follows the path in a command line. An unknown parameter, a repeated one or a value out
//! of its grammar is an error of the whole command (RFC 5321, 4.1.1.11). Values are kept in the form they came in (xtext),
//! after a check that they decode to nothing that could disturb a DSN, a log line or an outbound command.

use super::command::CommandError;
use super::extension::{BodyType, Notify, Ret};

/// ENVID= is at most 100 octets (RFC 3461, 4.4).
const ENVID_MOST: usize = 100;
/// AUTH= is at most 500 octets (RFC 4954, 5).
const AUTH_MOST: usize = 500;
/// ORCPT= is at most 500 octets (RFC 3461, 4.2).
const ORCPT_MOST: usize = 500;

/// What MAIL said beside the reverse-path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// SIZE= of RFC 1870.
    pub size: Option<u64>,
    /// BODY= of RFC 6152.
    pub body: Option<BodyType>,
    /// SMTPUTF8 of RFC 6531.
    pub smtputf8: bool,
    /// RET= of RFC 3461.
    pub ret: Option<Ret>,
    /// ENVID= of RFC 3461, as xtext.
    pub envid: Option<Box<str>>,
    /// MT-PRIORITY= of RFC 6710, -9 to 9.
    pub priority: Option<i8>,
    /// AUTH= of RFC 4954 was there; what it says is ignored, as RFC 4954, 5 allows who trusts nobody with it.
    pub auth: bool,
    /// REQUIRETLS of RFC 8689.
    pub require_tls: bool,
}

/// What RCPT said beside the forward-path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RcptParameters {
    /// NOTIFY= of RFC 3461.
    pub notify: Notify,
    /// ORCPT= of RFC 3461, `type;xtext`.
    pub orcpt: Option<Box<str>>,
}

/// Parses the parameters of MAIL.
pub fn mail(text: &str) -> Result<MailParameters, CommandError> {
    let mut parameters = MailParameters::default();
    for part in text.split(' ').filter(|part| !part.is_empty()) {
        let (keyword, value) = keyword_and_value(part);
        if keyword.eq_ignore_ascii_case("SIZE") {
            once(&mut parameters.size, value.and_then(decimal))?;
        } else if keyword.eq_ignore_ascii_case("BODY") {
            once(&mut parameters.body, value.and_then(body))?;
        } else if keyword.eq_ignore_ascii_case("SMTPUTF8") {
            flag(&mut parameters.smtputf8, value)?;
        } else if keyword.eq_ignore_ascii_case("RET") {
            once(&mut parameters.ret, value.and_then(ret))?;
        } else if keyword.eq_ignore_ascii_case("ENVID") {
            once(&mut parameters.envid, value.filter(|value| is_envid(value)).map(Into::into))?;
        } else if keyword.eq_ignore_ascii_case("AUTH") {
            if parameters.auth || !value.is_some_and(is_auth) {
                return Err(CommandError::Parameter);
            }
            parameters.auth = true;
        } else if keyword.eq_ignore_ascii_case("REQUIRETLS") {
            flag(&mut parameters.require_tls, value)?;
        } else if keyword.eq_ignore_ascii_case("MT-PRIORITY") {
            once(&mut parameters.priority, value.and_then(priority))?;
        } else {
            return Err(CommandError::UnknownParameter);
        }
    }
    Ok(parameters)
}

/// Parses the parameters of RCPT.
pub fn rcpt(text: &str) -> Result<RcptParameters, CommandError> {
    let mut set = None;
    let mut orcpt = None;
    for part in text.split(' ').filter(|part| !part.is_empty()) {
        let (keyword, value) = keyword_and_value(part);
        if keyword.eq_ignore_ascii_case("NOTIFY") {
            once(&mut set, value.and_then(notify))?;
        } else if keyword.eq_ignore_ascii_case("ORCPT") {
            once(&mut orcpt, value.filter(|value| is_orcpt(value)).map(Into::into))?;
        } else {
            return Err(CommandError::UnknownParameter);
        }
    }
    Ok(RcptParameters { notify: set.unwrap_or(Notify::UNSPECIFIED), orcpt })
}

fn keyword_and_value(part: &str) -> (&str, Option<&str>) {
    match part.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (part, None),
    }
}

/// Puts a parsed value into its place; a second one, or one that did not parse, is an error.
fn once<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), CommandError> {
    match (place.is_some(), value) {
        (false, Some(value)) => {
            *place = Some(value);
            Ok(())
        }
        _ => Err(CommandError::Parameter),
    }
}

/// Sets what is there or not; a value, or a second one, is an error.
fn flag(place: &mut bool, value: Option<&str>) -> Result<(), CommandError> {
    if *place || value.is_some() {
        return Err(CommandError::Parameter);
    }
    *place = true;
    Ok(())
}

/// Digits only; RFC 1870 allows 20 of them. A number over 64 bits is as good as the largest one.
pub(super) fn decimal(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// RFC 4954, 5: `<>`, or a mailbox as xtext.
fn is_auth(value: &str) -> bool {
    value == "<>" || !value.is_empty() && value.len() <= AUTH_MOST && is_xtext(value)
}

fn body(value: &str) -> Option<BodyType> {
    if value.eq_ignore_ascii_case("7BIT") {
        Some(BodyType::SevenBit)
    } else if value.eq_ignore_ascii_case("8BITMIME") {
        Some(BodyType::EightBitMime)
    } else {
        None
    }
}

fn ret(value: &str) -> Option<Ret> {
    if value.eq_ignore_ascii_case("FULL") {
        Some(Ret::Full)
    } else if value.eq_ignore_ascii_case("HDRS") {
        Some(Ret::Headers)
    } else {
        None
    }
}

/// A digit with or without a minus (RFC 6710, 9).
fn priority(value: &str) -> Option<i8> {
    let is_form = matches!(value.as_bytes(), [b'0'..=b'9'] | [b'-', b'1'..=b'9']);
    if is_form { value.parse().ok() } else { None }
}

fn notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::NEVER);
    }
    let mut set = Notify::UNSPECIFIED;
    for word in value.split(',') {
        let bit = if word.eq_ignore_ascii_case("SUCCESS") {
            Notify::SUCCESS
        } else if word.eq_ignore_ascii_case("FAILURE") {
            Notify::FAILURE
        } else if word.eq_ignore_ascii_case("DELAY") {
            Notify::DELAY
        } else {
            return None;
        };
        set = set.with(bit);
    }
    Some(set)
}

fn is_envid(value: &str) -> bool {
    !value.is_empty() && value.len() <= ENVID_MOST && is_xtext(value)
}

/// `addr-type;xtext`; for the type `utf-8` the forms of RFC 6533, 3, non-ASCII characters among them.
fn is_orcpt(value: &str) -> bool {
    let Some((kind, address)) = value.split_once(';') else { return false };
    let is_atom = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    if value.len() > ORCPT_MOST || kind.is_empty() || address.is_empty() || !kind.bytes().all(is_atom) {
        return false;
    }
    if kind.eq_ignore_ascii_case("utf-8") { is_utf8_address(address) } else { is_xtext(address) }
}

/// RFC 3461, 4: printable ASCII without `+` and `=`, which are written as `+` and two upper-case hexadecimal digits.
/// What they stand for must be printable too.
fn is_xtext(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let meant = match byte {
            b'+' => match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                (Some(high), Some(low)) => high * 16 + low,
                _ => return false,
            },
            b'=' => return false,
            other => other,
        };
        if !matches!(meant, b' '..=b'~') || (byte == b' ') {
            return false;
        }
    }
    true
}

/// RFC 6533, 3: as xtext, with `\x{...}` and with characters over 127 as they are.
fn is_utf8_address(text: &str) -> bool {
    let is_plain = |c: char| super::address::is_plain_utf8(c) || matches!(c, '!'..='~');
    if !text.chars().all(is_plain) {
        return false;
    }
    let ascii: String = text.chars().filter(char::is_ascii).collect();
    let mut rest = ascii.as_str();
    while let Some((before, after)) = rest.split_once("\\x{") {
        let Some((digits, after)) = after.split_once('}') else { return false };
        let meant = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        let is_harmless = meant.is_some_and(|c| matches!(c, '!'..='~') || super::address::is_plain_utf8(c));
        if !is_xtext(before) || digits.len() > 6 || !is_harmless {
            return false;
        }
        rest = after;
    }
    is_xtext(rest)
}

/// Upper-case only (RFC 3461, 4: hexchar).
fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parameters_of_mail_are_kept() {
        let parameters =
            mail("SIZE=1234 body=8bitmime SMTPUTF8 RET=HDRS ENVID=QQ+2B1 mt-priority=-4 AUTH=<> RequireTLS").unwrap();

        let expected = MailParameters {
            size: Some(1234),
            body: Some(BodyType::EightBitMime),
            smtputf8: true,
            ret: Some(Ret::Headers),
            envid: Some("QQ+2B1".into()),
            priority: Some(-4),
            auth: true,
            require_tls: true,
        };
        assert_eq!(parameters, expected);
    }

    #[test]
    fn all_parameters_of_rcpt_are_kept() {
        let parameters = rcpt("NOTIFY=SUCCESS,delay ORCPT=rfc822;a+2Bb@x.test").unwrap();

        assert_eq!(parameters.notify, Notify::SUCCESS.with(Notify::DELAY));
        assert_eq!(parameters.orcpt.as_deref(), Some("rfc822;a+2Bb@x.test"));
    }

    #[test]
    fn unknown_parameters_are_told_from_bad_ones() {
        for unknown in ["FOO", "BODYX=7BIT", "NOTIFY=NEVER", "=", "MT-PRIORITYX=3"] {
            assert_eq!(mail(unknown), Err(CommandError::UnknownParameter), "{unknown}");
        }
        let bad = [
            "MT-PRIORITY",
            "MT-PRIORITY=10",
            "MT-PRIORITY=-0",
            "MT-PRIORITY=+1",
            "MT-PRIORITY=1 MT-PRIORITY=1",
            "SIZE",
            "SIZE=",
            "SIZE=-1",
            "SIZE=1x",
            "BODY=BINARYMIME",
            "SMTPUTF8=1",
            "RET=ALL",
            "ENVID=",
            "SIZE=1 SIZE=1",
        ];
        for bad in bad {
            assert_eq!(mail(bad), Err(CommandError::Parameter), "{bad}");
        }
        for bad in [
            "NOTIFY=NEVER,FAILURE",
            "NOTIFY=",
            "NOTIFY",
            "ORCPT=a@b",
            "ORCPT=;a",
            "ORCPT=rfc822;",
            "NOTIFY=DELAY NOTIFY=DELAY",
        ] {
            assert_eq!(rcpt(bad), Err(CommandError::Parameter), "{bad}");
        }
    }

    #[test]
    fn encoded_control_characters_are_refused() {
        for bad in [
            "ENVID=a+0A",
            "ENVID=a+0D+0Ab",
            "ENVID=a+00",
            "ENVID=a+7F",
            "ENVID=a+2b",
            "ENVID=a+",
            "ENVID=a=b",
            "ENVID=ü",
        ] {
            assert_eq!(mail(bad), Err(CommandError::Parameter), "{bad}");
        }
        for bad in [
            "ORCPT=rfc822;a+0Ab@x",
            "ORCPT=utf-8;a\\x{A}b@x",
            "ORCPT=utf-8;a\\x{2028}b@x",
            "ORCPT=utf-8;a\\x{zz}@x",
            "ORCPT=utf-8;a\\x{41@x",
            "ORCPT=utf-8;a\u{2028}@x",
            "ORCPT=rfc822;ü@x",
        ] {
            assert_eq!(rcpt(bad), Err(CommandError::Parameter), "{bad}");
        }
        assert!(rcpt("ORCPT=utf-8;ü\\x{1F600}@x").is_ok());
    }

    #[test]
    fn overlong_values_are_refused() {
        assert!(mail(&format!("ENVID={}", "a".repeat(100))).is_ok());
        assert!(mail(&format!("ENVID={}", "a".repeat(101))).is_err());
        assert!(rcpt(&format!("ORCPT=rfc822;{}", "a".repeat(493))).is_ok());
        assert!(rcpt(&format!("ORCPT=rfc822;{}", "a".repeat(494))).is_err());
    }
}
