//! The messages: made from a number, recognised by it. Everything about one follows from its number.

/// Where messages come from, and their DSNs go to.
const FROM: &str = "from.test";
/// Where they go.
const TO: &str = "to.test";
/// Over the submission's limit of what stays in memory: 256 KiB.
const SPILLED: usize = 300 << 10;
/// Enough of these and segments fill up.
const LARGE: usize = 100 << 10;
const LINE: &[u8] = b"no line of this is like the one at its place in another message, for it begins elsewhere\r\n";

/// A number's look-alike of chance.
pub fn scrambled(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Letter(pub u32);

impl Letter {
    pub fn reverse_path(self) -> String {
        format!("sender-{}@{FROM}", self.0)
    }

    /// The sink takes `ok` and, at the second try, `later`; it never takes `refused`.
    pub fn forward_paths(self) -> Vec<String> {
        let number = self.0;
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
