//! Records there and back, and records of earlier versions.

use super::*;

fn envelope_with(recipients: usize) -> Envelope {
    let recipient = |index: usize| Recipient {
        forward_path: format!("user{index}@example.com").parse().unwrap(),
        notify: Notify::FAILURE,
        orcpt: index.is_multiple_of(2).then(|| "rfc822;a@b".into()),
    };
    Envelope {
        reverse_path: ReversePath::Mailbox("bounce@example.org".parse().unwrap()),
        recipients: (0..recipients).map(recipient).collect(),
        accepted_at: UnixTime(1_800_000_000),
        tenant: "shop".into(),
        campaign: "spring".into(),
        class: "offers".into(),
        lane: Lane::Bulk,
        body: BodyType::EightBitMime,
        smtputf8: true,
        traits: ContentTraits { has_eight_bit: true, has_eight_bit_header: false },
        ret: Some(Ret::Headers),
        envid: Some("QQ314159".into()),
        tls: TlsWish::Required,
        kind: Kind::Dsn,
    }
}

#[test]
fn envelopes_round_trip() {
    let original = envelope_with(3);
    let mut out = Vec::new();
    let mut builder = Builder::new(&mut out, MESSAGE);
    put_envelope(&mut builder, MessageId(5), &original);
    builder.finish();

    let frame = Frame::trusted(&out).unwrap();

    assert_eq!(id(&frame), Some(MessageId(5)));
    assert_eq!(*envelope(&frame).unwrap(), original);
    assert_eq!(unfinished(&frame).len(), 3);
}

#[test]
fn a_record_of_before_requiretls_is_read_and_every_wish_is_kept() {
    // Written by 0.1, whose flags were six octets: id, reverse-path, time, tenant, flags, recipient.
    let golden: &[u8] = &[
        0, 0, 0, 0, 0, 0, 0, 0, 69, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, //
        1, 8, 5, 0, 0, 0, 0, 0, 0, 0, 2, 8, b'a', b'@', b'x', b'.', b't', b'e', b's', b't', //
        4, 4, 0, 0xd2, 0x49, 0x6b, 5, 1, b't', 7, 6, 1, 1, 0, 1, 2, 0, //
        3, 10, 4, 8, b'b', b'@', b'y', b'.', b't', b'e', b's', b't', 0, 0, 0,
    ];
    let old = envelope(&Frame::trusted(golden).unwrap()).unwrap();
    let wishes = [TlsWish::Unsaid, TlsWish::Required, TlsWish::Waived];
    let kept = wishes.map(|tls| {
        let mut out = Vec::new();
        let mut builder = Builder::new(&mut out, MESSAGE);
        put_envelope(&mut builder, MessageId(5), &Envelope { tls, ..envelope_with(1) });
        builder.finish();
        envelope(&Frame::trusted(&out).unwrap()).unwrap().tls
    });

    for kind in [Kind::Submitted, Kind::Dsn, Kind::TlsReport, Kind::Returned] {
        let mut out = Vec::new();
        let mut builder = Builder::new(&mut out, MESSAGE);
        put_envelope(&mut builder, MessageId(5), &Envelope { kind, ..envelope_with(1) });
        builder.finish();
        assert_eq!(envelope(&Frame::trusted(&out).unwrap()).unwrap().kind, kind);
    }

    let (lane, ret) = (old.lane, old.ret);
    assert_eq!((old.tls, lane, ret, old.kind), (TlsWish::Unsaid, Lane::Normal, Some(Ret::Headers), Kind::Submitted));
    let (from, to) = (old.reverse_path.as_str(), old.recipients[0].forward_path.as_str());
    assert_eq!((from, to, old.accepted_at), ("a@x.test", "b@y.test", UnixTime(1_800_000_000)));
    assert_eq!(kept, wishes);
}

#[test]
fn events_and_attempts_round_trip() {
    let deferred = Event::Deferred { attempts: 300, due: UnixTime(9), delay_reported: true };
    let events_ = [Event::Delivered, deferred, Event::Bounced, Event::Expired, Event::Deleted]
        .into_iter()
        .zip(0..)
        .map(|(event, recipient)| RecipientEvent { recipient, event })
        .collect::<Vec<_>>();
    let mx: SocketAddr = "[2001:db8::1]:25".parse().unwrap();
    let mut out = Vec::new();
    write_events(&mut out, MessageId(7), &events_);
    let first = out.len();
    write_attempt(&mut out, MessageId(7), &[0, 500], mx);

    assert_eq!(events(&Frame::trusted(&out).unwrap()), events_);
    assert_eq!(attempt(&Frame::trusted(&out[first..]).unwrap()), Some((vec![0, 500], mx)));
}

#[test]
fn a_copy_keeps_fields_that_nobody_knows_and_says_what_is_left() {
    let mut out = Vec::new();
    let mut builder = Builder::new(&mut out, MESSAGE);
    put_envelope(&mut builder, MessageId(5), &envelope_with(2));
    builder.field(999, b"of a later version");
    builder.finish();
    let left = Pending { attempts: 4, ..fresh(2)[1] };

    let copied = copy(&Frame::trusted(&out).unwrap(), 3, &[left], 0, 0);

    let frame = Frame::trusted(&copied).unwrap();
    assert_eq!(frame.fields().find(999), Some(&b"of a later version"[..]));
    assert_eq!((copied_from(&frame), unfinished(&frame)), (Some(3), vec![left]));
    assert_eq!(*envelope(&frame).unwrap(), envelope_with(2));
}
