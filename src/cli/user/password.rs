//! A password for a user: asked for on the terminal, read from standard input, or made.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::cli::exit::Failure;
use crate::cli::out;
use crate::users::prep::LENGTH_MOST;

/// Characters of a password that somebody chose (NIST SP 800-63B, 5.1.1.2).
const LEAST: usize = 8;

/// A password.
pub(super) struct Secret {
    pub text: String,
    /// We made it: nobody knows it unless it is printed.
    is_ours: bool,
}

impl Secret {
    /// A new one of 144 random bits.
    pub fn generated() -> Result<Self, Failure> {
        let mut octets = [0; 18];
        aws_lc_rs::rand::fill(&mut octets).map_err(|_| anyhow!("the system gives no random numbers"))?;
        Ok(Self { text: URL_SAFE_NO_PAD.encode(octets), is_ours: true })
    }

    /// The first line of standard input.
    pub fn from_input() -> Result<Self, Failure> {
        let line = line(&mut std::io::stdin().lock()).context("cannot read standard input")?;
        chosen(line)
    }

    /// Asks twice on the terminal.
    pub fn asked() -> Result<Self, Failure> {
        let no_terminal = "there is no terminal to ask on; use --password-stdin or --generate";
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").context(no_terminal);
        let terminal = terminal.map_err(Failure::usage)?;
        let silence = Silence::begin(&terminal).context(no_terminal).map_err(Failure::usage)?;
        let mut answers = BufReader::new(&terminal);
        let mut ask = |question: &str| {
            (&terminal).write_all(question.as_bytes())?;
            let answer = line(&mut answers);
            (&terminal).write_all(b"\n")?;
            answer
        };
        let first = ask("Password: ").context("cannot read the password")?;
        let second = ask("Again: ").context("cannot read the password")?;
        drop(silence);
        if first != second {
            return Err(Failure::usage(anyhow!("these were two passwords")));
        }
        chosen(first)
    }

    /// Prints one that we made.
    pub fn print(&self) -> anyhow::Result<()> {
        if self.is_ours {
            out::line(&self.text)?;
        }
        Ok(())
    }
}

fn chosen(text: String) -> Result<Secret, Failure> {
    if text.chars().count() < LEAST {
        return Err(Failure::usage(anyhow!("the password is too short; allowed: {LEAST} characters or more")));
    }
    Ok(Secret { text, is_ours: false })
}

/// A line without its end.
fn line(input: &mut impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    // With its end, and one more that tells that it is too long.
    let most = LENGTH_MOST as u64 + 3;
    input.take(most).read_line(&mut line)?;
    let text = line.strip_suffix('\n').unwrap_or(&line);
    let text = text.strip_suffix('\r').unwrap_or(text);
    ensure!(text.len() <= LENGTH_MOST, "the password is too long; allowed: {LENGTH_MOST} octets");
    Ok(text.to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silence<'a> {
    terminal: &'a std::fs::File,
    before: Termios,
}

impl<'a> Silence<'a> {
    fn begin(terminal: &'a std::fs::File) -> rustix::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_where_lines_end_and_spaces_are_part_of_it() {
        let read = |text: &str| line(&mut text.as_bytes()).ok();

        assert_eq!(read(" pass word \r\nmore").as_deref(), Some(" pass word "));
        assert_eq!(read("password").as_deref(), Some("password"));
        assert_eq!(read(&"x".repeat(LENGTH_MOST)).map(|text| text.len()), Some(LENGTH_MOST));
        assert_eq!(read(&"x".repeat(LENGTH_MOST + 1)), None);
    }

    #[test]
    fn a_password_is_long_enough_and_one_of_ours_is_new_each_time() {
        assert!(chosen("1234567".into()).is_err() && chosen("\u{fc}2345678".into()).is_ok());
        assert_ne!(Secret::generated().ok().map(|one| one.text), Secret::generated().ok().map(|one| one.text));
    }
}
