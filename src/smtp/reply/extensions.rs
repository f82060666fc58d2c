//! What a receiver announced in its reply to EHLO (RFC 5321, 4.1.1.1).
//!
//! Unknown keywords and malformed parameters are ignored: the extension is then not used.

/// The extensions that matter to delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 8689.
    pub require_tls: bool,
    /// RFC 2034.
    pub enhanced_status_codes: bool,
    /// RFC 1870: announced; with the limit in octets unless none was given.
    pub size: bool,
    /// RFC 1870: the largest message in octets.
    pub size_limit: Option<u64>,
    /// RFC 9422, MAILMAX: most transactions of a session.
    pub mail_max: Option<u32>,
    /// RFC 9422, RCPTMAX: most recipients of a transaction.
    pub rcpt_max: Option<u32>,
}

impl Extensions {
    /// Reads the lines of a reply to EHLO, codes taken off. The first line is the receiver's name.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut extensions = Self::default();
        for line in lines.skip(1) {
            if let Ok(line) = std::str::from_utf8(line) {
                extensions.add(line);
            }
        }
        extensions
    }

    fn add(&mut self, line: &str) {
        // Some receivers write `AUTH=` and `SIZE=`; the grammar says a space.
        let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        match keyword.as_str() {
            "PIPELINING" => self.pipelining = true,
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "CHUNKING" => self.chunking = true,
            "STARTTLS" => self.starttls = true,
            "DSN" => self.dsn = true,
            "REQUIRETLS" => self.require_tls = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "SIZE" => {
                self.size = true;
                // RFC 1870, 4: zero means that no fixed limit is in force.
                self.size_limit = words.next().and_then(|limit| limit.parse().ok()).filter(|&limit| limit > 0);
            }
            "LIMITS" => self.add_limits(line),
            _ => {}
        }
    }

    fn add_limits(&mut self, line: &str) {
        for word in line.split(' ').skip(1) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let value = value.parse().ok().filter(|&value| value > 0);
            if name.eq_ignore_ascii_case("MAILMAX") {
                self.mail_max = value;
            } else if name.eq_ignore_ascii_case("RCPTMAX") {
                self.rcpt_max = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Extensions {
        Extensions::parse(text.split('\n').map(str::as_bytes))
    }

    #[test]
    fn keywords_are_read_in_any_case_with_their_parameters() {
        let found = parse("mx.test PIPELINING\npipelining\nSIZE 1000\nLIMITS MAILMAX=20 RCPTMAX=5 X=1\nDSN\nX-OTHER");

        let expected = Extensions {
            pipelining: true,
            size: true,
            size_limit: Some(1000),
            mail_max: Some(20),
            rcpt_max: Some(5),
            dsn: true,
            ..Extensions::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_name_in_the_first_line_is_no_extension() {
        assert_eq!(parse("CHUNKING"), Extensions::default());
    }

    #[test]
    fn size_zero_and_malformed_parameters_set_no_limit() {
        let found = parse("x\nSIZE 0\nLIMITS MAILMAX=0 RCPTMAX=lots");

        assert_eq!(found, Extensions { size: true, ..Extensions::default() });
    }
}
