//! The receivers' characters, and which share of the messages each of them gets.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::config::units::Span;
use crate::simulate::{Receiver as Rules, Window};

/// How a receiver behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Character {
    /// Answers at once.
    Fast {
        /// Offers CHUNKING.
        has_chunking: bool,
    },
    /// Takes its time for every answer.
    Slow {
        /// So much.
        delay: Duration,
    },
    /// Turns every recipient away until some time has passed since the first try.
    Greylisting {
        /// This long.
        wait: Duration,
    },
    /// Refuses connections past a number, and is slow enough for more of them to be wanted.
    FewConnections {
        /// This number.
        most: usize,
        /// Before every answer.
        delay: Duration,
    },
    /// Does not know one recipient in so many.
    UnknownUsers {
        /// So many.
        one_in: u32,
    },
    /// Defers at the end of data, the first time, one message in so many.
    Moody {
        /// So many.
        one_in: u32,
    },
    /// Where the senders' DSNs come to.
    Sender,
    /// Takes everything from everybody, and counts.
    Sink {
        /// Offers CHUNKING.
        has_chunking: bool,
        /// Before every answer.
        delay: Duration,
    },
}

impl Character {
    /// How long every answer takes.
    pub fn delay(&self) -> Duration {
        match self {
            Self::Slow { delay } | Self::FewConnections { delay, .. } | Self::Sink { delay, .. } => *delay,
            _ => Duration::ZERO,
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Fast { has_chunking: true } => "answers at once, offers CHUNKING".to_owned(),
            Self::Fast { has_chunking: false } => "answers at once".to_owned(),
            Self::Slow { delay } => format!("answers after {} ms", delay.as_millis()),
            Self::Greylisting { wait } => format!("450 to everybody for {:.1} s", wait.as_secs_f64()),
            Self::FewConnections { most, delay } => {
                format!("421 past {most} connections; answers after {} ms", delay.as_millis())
            }
            Self::UnknownUsers { one_in } => format!("550 to one recipient in {one_in}"),
            Self::Moody { one_in } => format!("451 at the end of data, once, one in {one_in}"),
            Self::Sender => "takes the DSNs".to_owned(),
            Self::Sink { delay, .. } => format!("takes everything after {} ms", delay.as_millis()),
        }
    }
}

/// A domain with one MX host of one character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The recipient domain; its MX host is `mx.` before it.
    pub domain: &'static str,
    /// Where the MX host listens.
    pub address: Ipv4Addr,
    /// How it behaves.
    pub character: Character,
    /// Its part of 100 messages.
    pub share: u32,
}

/// The domain of every reverse-path.
pub const SENDER_DOMAIN: &str = "sender.test";

/// Every receiver of the demonstration; the shares add up to 100.
pub const SITES: [Site; 8] = [
    site("fast.test", 1, Character::Fast { has_chunking: false }, 30),
    site("chunking.test", 2, Character::Fast { has_chunking: true }, 20),
    site("slow.test", 3, Character::Slow { delay: Duration::from_millis(20) }, 10),
    site("greylisting.test", 4, Character::Greylisting { wait: Duration::from_millis(1_500) }, 10),
    site("few-connections.test", 5, Character::FewConnections { most: 2, delay: Duration::from_millis(4) }, 10),
    site("unknown-users.test", 6, Character::UnknownUsers { one_in: 10 }, 10),
    site("moody.test", 7, Character::Moody { one_in: 5 }, 10),
    site(SENDER_DOMAIN, 8, Character::Sender, 0),
];

/// The domain of the receiver whose limits are found while the demonstration stays up; it gets none of the messages above.
pub const LIMITED_DOMAIN: &str = "limited.test";
/// Where its MX host listens.
pub const LIMITED_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 9);

/// What that receiver allows. It is slow, so that the rate is worth more connections than it takes.
pub fn limited() -> Rules {
    Rules {
        rate_per_minute: 240.0,
        window: Window::Sliding,
        connections: 5,
        service_time: Span(Duration::from_millis(800)),
        ..Rules::default()
    }
}

const fn site(domain: &'static str, host: u8, character: Character, share: u32) -> Site {
    Site { domain, address: Ipv4Addr::new(127, 77, 0, host), character, share }
}

/// The site that message `number` goes to.
pub fn of_message(number: u32) -> &'static Site {
    // Multiplying by a number without a common factor with 100 spreads each hundred messages over all sites.
    let mut place = u32::try_from(u64::from(number) * 37 % 100).unwrap_or_default();
    let found = SITES.iter().find(|site| {
        let is_here = place < site.share;
        place = place.wrapping_sub(site.share);
        is_here
    });
    const FIRST: &Site = &SITES[0];
    found.unwrap_or(FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_messages_are_shared_out_exactly() {
        for site in &SITES {
            let count = (500..600).filter(|number| of_message(*number).domain == site.domain).count();

            assert_eq!(count, site.share as usize, "{}", site.domain);
        }
    }
}
