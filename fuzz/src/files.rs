//! What is on disk: records of the spool, the configuration, the users file.

use std::fmt::{Debug, Display};
use std::path::Path;
use std::str::FromStr;

use hikyaku::config::Config;
use hikyaku::config::units::{ByteRate, ByteSize, Network, Rate, Share, Span};
use hikyaku::log::record::{Builder, Frame, Lengths, Seal, seal};
use hikyaku::message::MessageId;
use hikyaku::spool::codec;
use hikyaku::trusted::watched::Content;
use hikyaku::users::Table;

/// Octets as they may stand in a segment; then, as damage under a right checksum would be, as the fields of a record. The
/// first octet is the record's kind. What is read as an envelope is written and read as the same.
pub fn record(octets: &[u8]) {
    let Some((&kind, fields)) = octets.split_first() else { return };
    let (bound, offset) = (Seal { salt: 0x1234_5678_9abc_def0 }, 4_096);
    assert!(Frame::read(octets, bound, offset).is_none(), "a checksum by chance");
    if let Some(lengths) = Lengths::read(octets) {
        assert!(lengths.total() % 8 == 0 && lengths.total() >= u64::from(lengths.meta));
    }
    if let Some(frame) = Frame::trusted(octets) {
        everything_of(&frame);
    }

    let mut written = Vec::new();
    let mut builder = Builder::new(&mut written, kind);
    builder.raw(fields);
    builder.finish();
    seal(&mut written, bound, offset);
    let frame = Frame::read(&written, bound, offset).expect("a record that was just written");
    assert_eq!(frame.kind(), kind);
    assert!(Frame::read(&written, bound, offset + 8).is_none(), "it is bound to its place");
    everything_of(&frame);

    let Some(envelope) = codec::envelope(&frame) else { return };
    let mut again = Vec::new();
    let mut builder = Builder::new(&mut again, codec::MESSAGE);
    codec::put_envelope(&mut builder, MessageId(9), &envelope);
    builder.finish();
    seal(&mut again, bound, offset);
    let frame = Frame::read(&again, bound, offset).expect("a record that was just written");
    assert_eq!((codec::envelope(&frame), codec::id(&frame)), (Some(envelope), Some(MessageId(9))));
}

fn everything_of(frame: &Frame<'_>) {
    let fields = frame.fields().count();
    let octets = frame.bytes().len();
    assert!(fields <= octets);
    let events = codec::events(frame).len();
    let pendings = codec::pendings(frame.fields()).len() + codec::unfinished(frame).len();
    assert!(events <= octets && pendings <= 2 * octets, "{events} events, {pendings} pendings of {octets} octets");
    let _ = (codec::id(frame), codec::spill(frame), codec::void_place(frame), codec::copied_from(frame));
    if let Some((_, events)) = codec::concludes(frame) {
        assert!(events.len() <= octets);
    }
    if let Some((recipients, _)) = codec::attempt(frame) {
        assert!(recipients.len() <= octets);
    }
}

/// A configuration; each of its words as a unit, too.
pub fn configuration(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets);
    for word in text.split(|c: char| c.is_whitespace() || matches!(c, '"' | '=' | ',')).take(64) {
        unit::<Span>(word);
        unit::<ByteSize>(word);
        unit::<ByteRate>(word);
        unit::<Rate>(word);
        unit::<Share>(word);
        unit::<Network>(word);
    }
    match Config::parse(&text, Path::new("x.toml")) {
        Ok(config) => {
            assert_eq!(Config::parse(&text, Path::new("x.toml")).ok().as_ref(), Some(&config));
            assert!(config.complaints().is_empty());
            let written = toml::to_string(&config).expect("a configuration can be written");
            assert_eq!(Config::parse(&written, Path::new("x.toml")).ok(), Some(config), "{written}");
        }
        Err(error) => assert!(error.to_string().len() <= 16 * 1024 + 8 * text.len()),
    }
}

/// What was taken and written out is taken as the same.
fn unit<T: FromStr<Err: Display> + Display + PartialEq + Debug>(word: &str) {
    match word.parse::<T>() {
        Ok(unit) => match unit.to_string().parse::<T>() {
            Ok(again) => assert_eq!(again, unit, "{word:?}"),
            Err(error) => panic!("{word:?}, written as {unit}: {error}"),
        },
        Err(error) => assert!(error.to_string().len() <= 1_024 + 8 * word.len()),
    }
}

/// A users file.
pub fn users(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets);
    if let Err(error) = Table::parse(&text, Path::new("users.toml")) {
        let told = error.to_string();
        assert!(told.len() <= 1_024 + 8 * text.len());
    }
}
