//! The users file as a whole: what it takes, who is verified by it, and what each check costs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::sasl::{Certificate, Claim, Mechanism};
use super::*;

/// Argon2id of "right" with the least that is allowed, so that tests are quick.
const QUICK: &str = "$argon2id$v=19$m=8,t=1,p=1$";
const CLIENT: &str = "192.0.2.1";

/// A users file in a folder of its own.
struct Case {
    folder: tempfile::TempDir,
    users: Users,
    registry: Registry,
}

fn hash(password: &str) -> String {
    use argon2::{Algorithm, Argon2, Params, Version};
    use base64::Engine;
    let mut out = [0; 32];
    let params = Params::new(8, 1, 1, Some(32)).unwrap();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), b"saltsalt", &mut out)
        .unwrap();
    let encode = |octets: &[u8]| base64::engine::general_purpose::STANDARD_NO_PAD.encode(octets);
    format!("{QUICK}{}${}", encode(b"saltsalt"), encode(&out))
}

fn entry(name: &str, more: &str) -> String {
    format!("[[user]]\nname = \"{name}\"\ntenant = \"t\"\npassword = \"{}\"\n{more}\n", hash("right"))
}

impl Case {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let registry = Registry::new().unwrap();
        let users =
            Users::new(prepare(Some(&path), SenderPolicy::Enforce).unwrap(), Clock::of_runtime(), &registry).unwrap();
        Self { folder, users, registry }
    }

    fn write(&self, text: &str) {
        fs::write(self.folder.path().join("users.toml"), text).unwrap();
    }

    async fn password(&self, name: &str, password: &str) -> Result<Arc<User>, Denial> {
        self.password_from(name, password, CLIENT).await
    }

    async fn password_from(&self, name: &str, password: &str, client: &str) -> Result<Arc<User>, Denial> {
        let claim = Claim::Password { name: name.into(), password: password.into(), is_own: true };
        self.users.verify(Mechanism::Plain, claim, client.parse().unwrap()).await
    }

    fn count(&self, metric: &str) -> String {
        let text = self.registry.render();
        let line = text.lines().find(|line| line.starts_with(metric)).unwrap_or_default();
        line.rsplit(' ').next().unwrap_or_default().to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn every_wrong_answer_costs_one_hash_whoever_it_is_about() {
    let keys = Keys::new("right").unwrap();
    let no_password = format!("[[user]]\nname = \"scram\"\ntenant = \"t\"\nscram = \"{keys}\"\n");
    let text = entry("ann", "") + &entry("off", "disabled = true") + &entry("far", "networks = [\"10.0.0.0/8\"]");
    let case = Case::new(&(text + &no_password));
    for (at, (name, password)) in [
        ("ann", "wrong"),
        ("nobody", "wrong"),
        ("off", "wrong"),
        ("off", "right"),
        // Nothing is remembered of those who may not come in.
        ("off", "right"),
        ("far", "right"),
        ("far", "right"),
        ("scram", "right"),
        ("\u{7}", "wrong"),
        ("ann", "\u{7}"),
    ]
    .into_iter()
    .enumerate()
    {
        let (before, client) = (case.users.hashes(), format!("192.0.2.{at}"));

        let denied = case.password_from(name, password, &client).await;

        assert_eq!(denied.err(), Some(Denial::Wrong), "{name}");
        assert_eq!(case.users.hashes() - before, 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_right_password_is_hashed_once_in_five_minutes_and_again_when_the_entry_changes() {
    let case = Case::new(&(entry("ann", "") + &entry("bob", "")));
    let mut hashes = Vec::new();
    let mut ask = async |what: &str| {
        assert!(case.password("ann", "right").await.is_ok(), "{what}");
        hashes.push(case.users.hashes());
    };

    ask("first").await;
    ask("cached").await;
    tokio::time::advance(Duration::from_secs(300)).await;
    ask("too old").await;
    case.write(&(entry("ann", "") + &entry("bob", "recipients_per_day = 5")));
    case.users.look();
    ask("only bob changed").await;
    case.write(&entry("ann", "recipients_per_day = 5"));
    case.users.look();
    ask("ann changed").await;

    assert_eq!(hashes, [1, 1, 2, 2, 3]);
    assert_eq!(case.count("hikyaku_auth_cache_hits_total"), "2");
    assert_eq!(case.password("ann", "right ").await.err(), Some(Denial::Wrong), "another password is not cached");
}

#[tokio::test(start_paused = true)]
async fn a_cached_password_is_worth_nothing_once_the_user_is_disabled() {
    let case = Case::new(&entry("ann", ""));
    assert!(case.password("ann", "right").await.is_ok());

    case.write(&entry("ann", "disabled = true"));
    case.users.look();

    assert_eq!(case.password("ann", "right").await.err(), Some(Denial::Wrong));
    assert!(case.users.current("ann").is_none());
    assert_eq!(case.count("hikyaku_auth_attempts_total{mechanism=\"PLAIN\",result=\"disabled\"}"), "1");
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_leaves_the_one_before_in_force_and_is_told() {
    let case = Case::new(&entry("ann", ""));
    let path = case.folder.path().join("users.toml");

    case.write("[[user]]\nname = 5\n");
    case.users.look();
    let bad = (case.users.error(), case.count("hikyaku_users_file_valid"));
    fs::remove_file(&path).unwrap();
    case.users.look();
    let gone = case.users.error();
    case.write(&entry("bob", ""));
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    case.users.look();
    let open = case.users.error();
    let is_ann_in = case.password("ann", "right").await.is_ok();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    case.users.look();

    assert!(bad.0.unwrap().contains("users.toml: user no. 1: ") && bad.1 == "0");
    assert!(gone.unwrap().contains("users.toml") && open.unwrap().contains("mode 0644"));
    assert!(is_ann_in);
    assert_eq!((case.users.error(), case.count("hikyaku_users_file_valid").as_str()), (None, "1"));
    assert!(case.users.current("bob").is_some() && case.users.current("ann").is_none());
}

#[tokio::test(start_paused = true)]
async fn who_fails_too_often_waits_without_a_hash_and_is_let_in_after() {
    let case = Case::new(&(entry("ann", "") + &entry("bob", "")));
    for _ in 0..4 {
        assert_eq!(case.password("ann", "wrong").await.err(), Some(Denial::Wrong));
    }
    let hashes = case.users.hashes();

    let here = case.password("ann", "right").await.err();
    let elsewhere = case.password_from("ann", "right", "192.0.2.2").await.err();
    let neighbour = case.password("bob", "right").await.err();
    assert_eq!((here, elsewhere, neighbour), (Some(Denial::Held), Some(Denial::Held), Some(Denial::Held)));
    assert_eq!(case.users.hashes(), hashes);

    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(case.password("ann", "right").await.is_ok());
    assert_eq!(case.count("hikyaku_auth_attempts_total{mechanism=\"PLAIN\",result=\"held\"}"), "3");
}

#[tokio::test(start_paused = true)]
async fn nobody_acts_as_another_and_a_proof_counts_for_the_keys_of_now() {
    let keys = Keys::new("right").unwrap();
    let case = Case::new(&entry("ann", &format!("scram = \"{keys}\"")));
    let client = CLIENT.parse().unwrap();
    let proof = |keys: &Keys, is_right| Claim::Proof { name: "ann".into(), keys: keys.clone(), is_right };
    let verify = async |claim| case.users.verify(Mechanism::ScramSha256, claim, client).await.err();

    assert_eq!(verify(proof(&keys, true)).await, None);
    assert_eq!(verify(proof(&keys, false)).await, Some(Denial::Wrong));
    assert_eq!(verify(proof(&Keys::new("right").unwrap(), true)).await, Some(Denial::Wrong));
    let other = Claim::Password { name: "ann".into(), password: "right".into(), is_own: false };
    assert_eq!(verify(other).await, Some(Denial::Wrong));
    assert_eq!(case.users.keys("ann"), keys);
    assert_eq!(case.users.keys("nobody"), case.users.keys("nobody"));
    assert_eq!(case.users.keys("nobody").iterations, keys.iterations);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_stands_for_the_user_who_names_it() {
    let hex = "01".repeat(32);
    let text =
        entry("ann", &format!("certificates = [\"sha256:{hex}\"]")) + &entry("bob", "certificates = [\"b.test\"]");
    let case = Case::new(&text);
    let ask = async |octet: u8, name: &str, asked: Option<&str>| {
        let certificate = Some(Certificate { sha256: [octet; 32], names: vec![name.to_owned()] });
        let claim = Claim::Certificate { certificate, name: asked.map(str::to_owned) };
        let user = case.users.verify(Mechanism::External, claim, CLIENT.parse().unwrap()).await;
        user.map(|user| user.name.to_string()).ok()
    };

    assert_eq!(ask(1, "x.test", None).await.as_deref(), Some("ann"));
    assert_eq!(ask(2, "B.test", Some("bob")).await.as_deref(), Some("bob"));
    assert_eq!(ask(2, "b.test", Some("ann")).await, None);
    assert_eq!(ask(2, "x.test", Some("ann")).await, None);
    let none = Claim::Certificate { certificate: None, name: None };
    assert!(case.users.verify(Mechanism::External, none, CLIENT.parse().unwrap()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_address_of_somebody_else_is_refused_or_counted() {
    let case = Case::new(&entry("ann", "senders = [\"*@a.test\"]"));
    let ann = case.users.current("ann").unwrap();
    let (own, other) = ("x@a.test".parse().unwrap(), "x@b.test".parse().unwrap());
    let may = |address| case.users.may_send_from(&ann, Some(address), "From");

    assert_eq!((may(&own), may(&other)), (true, false));
    let path = case.folder.path().join("users.toml");
    case.users.apply(prepare(Some(&path), SenderPolicy::Allow).unwrap());
    assert_eq!((may(&own), may(&other)), (true, true));
    assert_eq!(case.count("hikyaku_auth_foreign_senders_total"), "1");
    case.write(&entry("ann", ""));
    case.users.look();
    assert!(may(&other), "the policy stays when the file is read again");
}

#[tokio::test]
async fn hashes_are_few_at_a_time_and_nobody_waits_for_ever() {
    let case = Case::new(&entry("ann", ""));
    let permits = case.users.inner.hashes.available_permits();
    let all = case.users.inner.hashes.clone().acquire_many_owned(u32::try_from(permits).unwrap()).await.unwrap();

    let waiting: Vec<_> = (0..WAITING_MOST)
        .map(|_| {
            let users = case.users.clone();
            let claim = Claim::Password { name: "ann".into(), password: "right".into(), is_own: true };
            tokio::spawn(async move { users.verify(Mechanism::Plain, claim, CLIENT.parse().unwrap()).await.is_ok() })
        })
        .collect();
    while case.users.inner.waiting.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let late = case.password("ann", "right").await.err();
    drop(all);
    let mut entered = 0;
    for task in waiting {
        entered += usize::from(task.await.unwrap());
    }

    assert_eq!((late, entered), (Some(Denial::Busy), WAITING_MOST));
    assert_eq!(case.users.inner.hashes.available_permits(), permits);
}
