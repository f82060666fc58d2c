//! Messages that ask for different things of TLS never meet on a connection (RFC 8689).

use std::collections::HashMap;
use std::time::Duration;

use hikyaku::dns::security::Assurance;
use hikyaku::message::{Envelope, Ret, TlsWish};
use hikyaku::queue::Settings;
use hikyaku::smtp::address::ReversePath;

use crate::common::{Receiver, Stage, bounced};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_asks_for_another_assurance_goes_over_another_connection() {
    let stage = Stage::started(Settings::default());
    let slow = Receiver { transaction: Duration::from_millis(5), ..Receiver::default() };
    stage.script.set("d1.test", Receiver { idle: Duration::from_secs(5), ..slow });

    for number in 0..60 {
        let (tls, is_null) = match number % 4 {
            0 => (TlsWish::Unsaid, false),
            1 => (TlsWish::Required, false),
            2 => (TlsWish::Required, true),
            _ => (TlsWish::Waived, false),
        };
        let mut envelope = Envelope { tls, ..stage.envelope(&[&format!("u{number}@d1.test")]) };
        if is_null {
            envelope.reverse_path = ReversePath::Null;
        }
        stage.submit(envelope).await;
    }
    stage.until_done(60).await;

    let mut of_connection: HashMap<usize, Assurance> = HashMap::new();
    let mut carried: HashMap<Assurance, usize> = HashMap::new();
    for done in stage.done() {
        *carried.entry(done.assurance).or_default() += 1;
        assert_eq!(*of_connection.entry(done.connection).or_insert(done.assurance), done.assurance);
    }
    let all = [Assurance::Usual, Assurance::Required, Assurance::Preferred, Assurance::Waived];
    assert_eq!(all.map(|assurance| carried[&assurance]), [15; 4]);
    assert!(of_connection.len() < 60, "connections are shared within an assurance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dsn_about_requiretls_asks_for_it_and_returns_no_body() {
    let stage = Stage::started(Settings::default());
    stage.script.set("d1.test", Receiver { outcome: std::sync::Arc::new(|_, _| bounced("no")), ..Receiver::default() });
    let (asking, seen) = (stage.envelope(&["a@d1.test"]), stage.spool.clone());
    let caught = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let note = caught.clone();
    let outcome = std::sync::Arc::new(move |id, _| {
        note.lock().push(seen.load(id).unwrap());
        crate::common::delivered()
    });
    stage.script.set("d199.test", Receiver { outcome, ..Receiver::default() });

    for tls in [TlsWish::Required, TlsWish::Waived] {
        stage.submit(Envelope { tls, ret: Some(Ret::Full), ..asking.clone() }).await;
    }
    stage.until("both DSNs", |_| caught.lock().len() == 2).await;

    for message in caught.lock().iter() {
        let content = String::from_utf8(message.content.chunk(0, 1 << 20).unwrap().to_vec()).unwrap();
        let has_body = content.contains("Hello");
        match message.envelope.tls {
            TlsWish::Required => assert!(!has_body && content.contains("text/rfc822-headers"), "{content}"),
            TlsWish::Unsaid => assert!(has_body, "{content}"),
            TlsWish::Waived => panic!("nobody has waived anything for the DSN"),
        }
    }
    let asked: Vec<_> = caught.lock().iter().map(|message| message.envelope.tls).collect();
    assert!(asked.contains(&TlsWish::Required) && asked.contains(&TlsWish::Unsaid), "{asked:?}");
}
