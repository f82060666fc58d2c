//! The messages: made from a number, recognised by it. Everything about one follows from its number.

/// Where messages come from, and their DSNs go to.
const FROM: &str = "from.test";
/// Where they go.
const TO: &str = "to.test";
/// Over the submission's limit of what stays in memory: 256 KiB.
const SPILLED: usize = 300 << 10;
/// Enough of these and segments fill up.
const LARGE: usize = 100 << 10;
/// More than the buffers of a connection.
const HEAVY: usize = 8 << 20;
const LINE: &[u8] = b"no line of this is like the one at its place in another message, for it begins elsewhere\r\n";

/// A number's look-alike of chance.
pub fn scrambled(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One of them. The highest digit of its number, in base 16, is its kind.
#[derive(Clone, Copy, Debug)]
pub struct Letter(pub u32);

/// What a letter is like and what is to become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of any size, with one to four recipients; some of them are never taken, or at the second try only.
    Mixed,
    /// Small, with one recipient that is taken.
    Plain,
    /// Small, with one recipient that is never taken.
    Refused,
    /// Small, to one of 256 domains, which the last two digits tell.
    Routed,
    /// Small, to one of 256 domains that no mail can be sent to.
    Unroutable,
    /// Larger than what the kernels hold of a connection, to a domain as above.
    Heavy,
}

impl Kind {
    /// The first number of this kind; its numbers are the next 2^28.
    pub fn first(self) -> u32 {
        (self as u32) << 28
    }
}

/// The domain of the letters whose number ends with `index`: one that mail can reach, or one that it cannot.
pub fn routed_domain(is_reachable: bool, index: u8) -> String {
    format!("{}{index}.test", if is_reachable { "c" } else { "b" })
}

impl Letter {
    pub fn reverse_path(self) -> String {
        format!("sender-{}@{FROM}", self.0)
    }

    pub fn kind(self) -> Kind {
        match self.0 >> 28 {
            0 => Kind::Mixed,
            1 => Kind::Plain,
            2 => Kind::Refused,
            3 => Kind::Routed,
            4 => Kind::Unroutable,
            _ => Kind::Heavy,
        }
    }

    /// The sink takes `ok` and, at the second try, `later`; it never takes `refused`.
    pub fn forward_paths(self) -> Vec<String> {
        let number = self.0;
        let [.., index] = number.to_be_bytes();
        match self.kind() {
            Kind::Mixed => {}
            Kind::Plain => return vec![format!("ok-{number}-0@{TO}")],
            Kind::Refused => return vec![format!("refused-{number}-0@{TO}")],
            Kind::Routed | Kind::Heavy => return vec![format!("ok-{number}-0@{}", routed_domain(true, index))],
            Kind::Unroutable => return vec![format!("refused-{number}-0@{}", routed_domain(false, index))],
        }
        let mut paths = vec![format!("ok-{number}-0@{TO}")];
        for (every, kind) in [(5, "ok"), (13, "later"), (11, "refused")] {
            if number.is_multiple_of(every) {
                paths.push(format!("{kind}-{number}-{every}@{TO}"));
            }
        }
        paths
    }

    /// Every address at which something must arrive: the good recipients', and the sender's if there is a bad one.
    pub fn arrives_at(self) -> Vec<String> {
        let (bad, mut good): (Vec<_>, Vec<_>) =
            self.forward_paths().into_iter().partition(|path| path.starts_with("refused-"));
        if !bad.is_empty() {
            good.push(self.reverse_path());
        }
        good
    }

    /// CRLF lines, without the final dot and without dot-stuffing.
    pub fn content(self) -> Vec<u8> {
        let number = self.0;
        let chance = scrambled(u64::from(number)) as usize;
        let size = match number % 16 {
            _ if self.kind() == Kind::Heavy => HEAVY,
            _ if self.kind() != Kind::Mixed => 500 + chance % 1_000,
            7 => SPILLED,
            1 | 5 | 9 | 13 => LARGE,
            _ => 500 + chance % 8_000,
        };
        let mut out = format!(
            "X-Seq: {number}\r\nFrom: <{}>\r\nTo: undisclosed-recipients:;\r\nSubject: Message {number}\r\nDate: Thu, 01 \
             Jan 2026 00:00:00 +0000\r\nMessage-ID: <{number}@{FROM}>\r\n\r\n.begins with a dot\r\n..\r\n",
            self.reverse_path()
        )
        .into_bytes();
        out.extend_from_slice(&LINE[chance % (LINE.len() - 2)..]);
        while out.len() < size {
            out.extend_from_slice(LINE);
        }
        out
    }

    /// Of [`Letter::content`].
    pub fn sum(self) -> u32 {
        crc32c::crc32c(&self.content())
    }
}

/// The message that an address belongs to.
pub fn of_address(address: &str) -> Option<Letter> {
    address.split_once('@')?.0.split('-').nth(1)?.parse().ok().map(Letter)
}
