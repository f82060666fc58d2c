//! From the text of a reply to what it says about limits: the simulator's only knowledge of replies, as a sender's.

use crate::limit::controller::Signal;

/// What a reply to a message says.
pub fn of(reply: &str) -> Signal {
    let says = |words: &str| reply.contains(words);
    match reply.as_bytes().first() {
        Some(b'2') => Signal::Accepted,
        Some(b'5') => Signal::Neutral,
        _ if says("messages per connection") => Signal::MessagesPerConnection,
        _ if says("Too many connections") => Signal::Connections,
        _ if says("[TSS04]") => Signal::Reputation,
        _ if says("4.7.28") => Signal::Rate,
        _ if says("4.2.2") || says("greylist") => Signal::Neutral,
        _ => Signal::Unknown,
    }
}
