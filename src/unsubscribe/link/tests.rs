//! Links made, changed on the way and read again.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::log::simulated::Simulated;
use crate::log::storage::Storage;
use crate::message::Recipient;
use crate::smtp::address::ReversePath;

const NOW: UnixTime = UnixTime(1_795_000_000);

fn list() -> Suppression {
    let storage = Simulated::new(1);
    storage.claim(&Suppression::DIRECTORIES).unwrap();
    Suppression::open(Arc::new(storage), NOW).unwrap().list
}

fn settings(url: &str) -> Settings {
    let tenant = Tenant { name: "shop".into(), of_class: true, sender: "Shop".into(), mailto: Box::default() };
    Settings {
        url: url.into(),
        max_age: Duration::from_secs(180 * DAY),
        tenants: vec![tenant],
        proxy_networks: Vec::new(),
    }
}

fn envelope(class: &str, to: &[&str]) -> Envelope {
    let recipients = to.iter().map(|to| Recipient::new(to.parse().unwrap())).collect();
    let envelope = Envelope::new(ReversePath::Null, recipients, NOW);
    Envelope { tenant: "shop".into(), class: class.into(), ..envelope }
}

fn fields(links: &Links, class: &str) -> String {
    let mut out = Vec::new();
    assert_eq!(links.offer(&mut out, &envelope(class, &["ann@x.example"]), MessageId(7), false), Offer::Added);
    String::from_utf8(out).unwrap()
}

/// The path of the link in the fields.
fn path(fields: &str) -> String {
    let url = fields.split(['<', '>']).nth(1).unwrap();
    format!("/{}", url.splitn(4, '/').nth(3).unwrap())
}

#[test]
fn a_link_says_who_gets_no_more_of_what() {
    let list = list();
    for (base, class) in [("a", ""), ("a", "news"), ("A/b", "a-b.c_d"), ("u", "news")] {
        let links = Links::new(settings(&format!("https://u.example.com/{base}/")), list.clone());
        let path = path(&fields(&links, class));

        let claim = links.read(&path, NOW).unwrap();

        assert_eq!((claim.message, claim.recipient), (MessageId(7), list.hash(&"Ann@x.example".parse().unwrap())));
        assert_eq!(claim.scope.names(), ("shop", class));
        assert_eq!((&*claim.about.sender, &*claim.about.class), ("Shop", class));
        assert_eq!(links.read(&path.to_uppercase(), NOW), Ok(claim.clone()));
        assert_eq!(
            links.read(path.strip_prefix(&format!("/{base}")).unwrap(), NOW),
            Ok(claim),
            "behind a proxy that takes it away"
        );
    }
}

#[test]
fn lines_are_short_where_that_can_be() {
    let short = fields(&Links::new(settings("https://u.example.com/"), list()), "");
    let mut long = settings(&format!("https://{}.example.com/", ["a"; 60].concat()));
    long.tenants[0].mailto = ["b"; 60].concat().into();
    let long = fields(&Links::new(long, list()), &"c".repeat(64));

    assert!(
        short.starts_with("List-Unsubscribe:\r\n <https://") && short.lines().all(|line| line.len() <= 78),
        "{short}"
    );
    assert!(long.starts_with("List-Unsubscribe: <https://"), "no line that has only a name: {long}");
    assert!(long.lines().all(|line| line.len() < 300) && long.contains(">,\r\n <mailto:u+"), "{long}");
    for text in [short, long] {
        assert!(text.ends_with(">\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"), "{text}");
    }
}

#[test]
fn only_messages_to_one_recipient_of_a_tenant_with_links_are_given_one() {
    let links = Links::new(settings("https://u.example.com/"), list());
    let (one, two) = (envelope("", &["a@x.example"]), envelope("", &["a@x.example", "b@x.example"]));
    let urgent = Envelope { lane: Lane::Urgent, ..one.clone() };
    let other = Envelope { tenant: "other".into(), ..one.clone() };
    let own = Envelope { kind: Kind::Dsn, ..one.clone() };
    let mut out = Vec::new();

    let mut offer = |envelope: &Envelope, has_own| links.offer(&mut out, envelope, MessageId(1), has_own);

    assert!([&urgent, &other, &own].into_iter().all(|envelope| offer(envelope, false) == Offer::Off));
    assert_eq!(offer(&two, false), Offer::Several);
    assert_eq!([offer(&one, true), offer(&two, true), offer(&urgent, true)], [Offer::Own, Offer::Own, Offer::Off]);
    assert!(out.is_empty());
}

#[test]
fn a_link_holds_for_its_time_and_for_its_key_and_as_long_as_its_tenant_has_links() {
    let own = list();
    let links = Links::new(settings("https://u.example.com/"), own.clone());
    let path = path(&fields(&links, "news"));
    let after = |days: u64| links.read(&path, NOW.plus(Duration::from_secs(days * DAY))).map(drop);

    assert_eq!([after(0), after(180), after(181)], [Ok(()), Ok(()), Err(Fault::Expired)]);
    let none = Settings { tenants: Vec::new(), ..settings("https://u.example.com/") };
    assert_eq!(Links::new(none, own).read(&path, NOW), Err(Fault::Unknown));
    assert_eq!(
        Links::new(settings("https://u.example.com/"), list()).read(&path, NOW),
        Err(Fault::Unknown),
        "another key"
    );
}

proptest! {
    #[test]
    fn nothing_that_is_changed_on_the_way_is_one_of_ours(at in 0_usize..60, by in "[a-z2-7./%-]") {
        let links = Links::new(settings("https://u.example.com/"), list());
        let mut path = path(&fields(&links, "news"));
        let good = path.clone();
        path.replace_range(at % good.len()..at % good.len() + 1, &by);

        prop_assert_eq!(links.read(&path, NOW).is_ok(), path == good);
        prop_assert!(links.read(&good[..at % good.len()], NOW).is_err());
    }
}
