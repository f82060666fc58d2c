//! S3, A3, A4: random sequences of commands with STARTTLS and AUTH in every place, against a plain model of RFC 5321, 3207 and
//! 4954. (Without TLS and AUTH, but with every kind of content: `tests/submission/reference.rs`.)

use std::sync::Arc;

use hikyaku::clock::{Clock, UnixTime};
use hikyaku::message::MessageId;
use hikyaku::metrics::Registry;
use hikyaku::submission::admit::{Context, admit};
use hikyaku::submission::refusal::{Cause, Refusal};
use hikyaku::submission::session::{Gate, Offer, Session, Step};
use hikyaku::submission::{Settings, Tls, TlsMode};
use hikyaku::tls::{Acceptor, Certificates, Files, Secured};
use hikyaku::users::sasl::Claim;
use hikyaku::users::{Denial, SenderPolicy, Users, prepare};
use proptest::prelude::*;

use crate::cases::{cases, sized};

/// What a client sends in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Ehlo,
    Helo,
    StartTls,
    /// With commands behind it in the same packet.
    StartTlsAndMore,
    StartTlsArgument,
    Auth,
    AuthLogin,
    AuthWrong,
    AuthGarbage,
    AuthUnknown,
    AuthCancelled,
    Mail,
    Rcpt,
    Data,
    Bdat,
    BdatBadSize,
    Rset,
    Noop,
}

const RIGHT: &str = "AGFubgByaWdodA==";
const WRONG: &str = "AGFubgB3cm9uZw==";

impl Op {
    fn wire(self) -> String {
        match self {
            Self::Ehlo => "EHLO c.test\r\n".to_owned(),
            Self::Helo => "HELO c.test\r\n".to_owned(),
            Self::StartTls => "STARTTLS\r\n".to_owned(),
            Self::StartTlsAndMore => {
                "STARTTLS\r\nEHLO evil.test\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<v@y.test>\r\n".to_owned()
            }
            Self::StartTlsArgument => "STARTTLS now\r\n".to_owned(),
            Self::Auth => format!("AUTH PLAIN {RIGHT}\r\n"),
            Self::AuthLogin => "AUTH LOGIN\r\nYW5u\r\ncmlnaHQ=\r\n".to_owned(),
            Self::AuthWrong => format!("AUTH PLAIN {WRONG}\r\n"),
            Self::AuthGarbage => "AUTH PLAIN !!!!\r\n".to_owned(),
            Self::AuthUnknown => "AUTH CRAM-MD5\r\n".to_owned(),
            Self::AuthCancelled => "AUTH LOGIN\r\n*\r\n".to_owned(),
            Self::Mail => "MAIL FROM:<a@x.test>\r\n".to_owned(),
            Self::Rcpt => "RCPT TO:<b@y.test>\r\n".to_owned(),
            Self::Data => "DATA\r\nA: b\r\n\r\nMAIL FROM:<evil@x.test>\r\n.\r\n".to_owned(),
            Self::Bdat => "BDAT 6 LAST\r\nA: b\r\n".to_owned(),
            Self::BdatBadSize => "BDAT x\r\n".to_owned(),
            Self::Rset => "RSET\r\n".to_owned(),
            Self::Noop => "NOOP\r\n".to_owned(),
        }
    }
}

/// Where a session stands, as the RFCs have it.
#[derive(Clone, Debug, Default)]
struct Model {
    needs_tls: bool,
    is_stranger: bool,
    /// EHLO, not HELO.
    hello: Option<bool>,
    is_secure: bool,
    is_user: bool,
    failures: u32,
    /// Whose transaction is open, and how many recipients it has.
    open: Option<(&'static str, usize)>,
    accepted: Vec<&'static str>,
    is_closed: bool,
}

impl Model {
    fn run(&mut self, op: Op) -> Vec<u16> {
        match op {
            Op::Ehlo | Op::Helo => {
                (self.hello, self.open) = (Some(op == Op::Ehlo), None);
                vec![250]
            }
            Op::StartTlsArgument => vec![501],
            Op::StartTls | Op::StartTlsAndMore => self.start_tls(op == Op::StartTlsAndMore),
            Op::Auth | Op::AuthLogin | Op::AuthWrong | Op::AuthGarbage | Op::AuthUnknown | Op::AuthCancelled => {
                self.auth(op)
            }
            Op::Mail => vec![self.mail("a@x.test")],
            Op::Rcpt => vec![self.open.as_mut().map_or(503, |(_, recipients)| {
                *recipients += 1;
                250
            })],
            Op::Data => match self.open.take() {
                // The content is not content then, but three lines that are no commands, and a MAIL.
                None => [vec![503], self.content_as_commands()].concat(),
                Some((_, 0)) => [vec![554], self.content_as_commands()].concat(),
                Some((path, _)) => {
                    self.accepted.push(path);
                    vec![354, 250]
                }
            },
            Op::Bdat => match self.open.take() {
                None => vec![503],
                Some((_, 0)) => vec![554],
                Some((path, _)) => {
                    self.accepted.push(path);
                    vec![250]
                }
            },
            Op::BdatBadSize => {
                (self.is_closed, self.open) = (true, None);
                vec![501]
            }
            Op::Rset => {
                self.open = None;
                vec![250]
            }
            Op::Noop => vec![250],
        }
    }

    fn content_as_commands(&mut self) -> Vec<u16> {
        vec![500, 500, self.mail("evil@x.test"), 500]
    }

    fn start_tls(&mut self, has_more: bool) -> Vec<u16> {
        if self.is_secure || self.hello != Some(true) {
            // What stands behind it is a pipelined command like any other.
            let mut codes = vec![503];
            if has_more {
                codes.extend([self.run(Op::Ehlo)[0], self.mail("evil@x.test"), self.run(Op::Rcpt)[0]]);
            }
            return codes;
        }
        (self.is_secure, self.hello, self.is_user, self.failures, self.open) = (true, None, false, 0, None);
        vec![220]
    }

    fn auth(&mut self, op: Op) -> Vec<u16> {
        let refusal = match () {
            () if self.hello != Some(true) || self.is_user || self.open.is_some() => Some(503),
            () if !self.is_secure => Some(538),
            () => None,
        };
        if let Some(code) = refusal {
            return match op {
                // Its lines are no commands.
                Op::AuthLogin => vec![code, 500, 500],
                Op::AuthCancelled => vec![code, 500],
                _ => vec![code],
            };
        }
        match op {
            Op::Auth | Op::AuthLogin => {
                self.is_user = true;
                if op == Op::Auth { vec![235] } else { vec![334, 334, 235] }
            }
            Op::AuthWrong => {
                self.failures += 1;
                self.is_closed = self.failures == 3;
                if self.is_closed { vec![535, 421] } else { vec![535] }
            }
            Op::AuthGarbage => vec![501],
            Op::AuthUnknown => vec![504],
            _ => vec![334, 501],
        }
    }

    fn mail(&mut self, path: &'static str) -> u16 {
        match () {
            () if self.hello.is_none() => 503,
            () if self.needs_tls && !self.is_secure => 530,
            () if self.is_stranger && !self.is_user => 530,
            () if self.open.is_some() => 503,
            () => {
                self.open = Some((path, 0));
                250
            }
        }
    }
}

/// One user, `ann`.
struct World {
    users: Users,
    _folder: tempfile::TempDir,
    acceptor: Arc<Acceptor>,
}

impl World {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users.toml");
        let hash = format!("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ${}", "A".repeat(43));
        std::fs::write(&file, format!("[[user]]\nname = \"ann\"\ntenant = \"shop\"\npassword = \"{hash}\"\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let users = prepare(Some(&file), SenderPolicy::Allow).unwrap();
        let users = Users::new(users, Clock::system(), &Registry::new().unwrap()).unwrap();

        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["mx.test".to_owned()]).unwrap();
        let files = Files { chain: folder.path().join("chain.pem"), key: folder.path().join("key.pem") };
        std::fs::write(&files.chain, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::set_permissions(&files.chain, std::fs::Permissions::from_mode(0o644)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let acceptor = Acceptor::new(Certificates::load(vec![files]).unwrap(), provider, None).unwrap();
        Self { users, _folder: folder, acceptor: Arc::new(acceptor) }
    }

    fn session(&self, model: &Model) -> Client<'_> {
        let mode = if model.needs_tls { TlsMode::Required } else { TlsMode::Offered };
        let tls = Some(Tls { acceptor: Arc::clone(&self.acceptor), mode });
        let most = 100_000;
        let settings = Settings { tls, auth: true, max_errors: most, max_junk_commands: most, ..Settings::default() };
        let settings = Arc::new(settings);
        let from = if model.is_stranger { [192, 0, 2, 1] } else { [127, 0, 0, 1] };
        let mut door = Door { users: &self.users };
        let mut session = Session::new(Arc::clone(&settings), "mx.test".into(), from.into(), &mut door);
        session.advance(b"", &mut door);
        session.replies().clear();
        Client { session, door, settings, accepted: Vec::new(), is_closed: false }
    }
}

struct Door<'a> {
    users: &'a Users,
}

impl Gate for Door<'_> {
    fn mail(&mut self) -> Result<(), Refusal> {
        Ok(())
    }

    fn rcpt(&mut self, _offer: &Offer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn users(&self) -> Option<&Users> {
        Some(self.users)
    }

    fn nonce(&mut self) -> Option<[u8; 18]> {
        Some([7; 18])
    }

    fn count(&mut self, _cause: Cause) {}
}

struct Client<'a> {
    session: Session,
    door: Door<'a>,
    settings: Arc<Settings>,
    accepted: Vec<String>,
    is_closed: bool,
}

impl Client<'_> {
    /// Sends one piece, and gives the codes of the replies. At a handshake the rest of the piece is forgotten, as the
    /// connection does it.
    fn send(&mut self, input: &[u8]) -> Vec<u16> {
        let (mut at, mut replies) = (0, Vec::new());
        while !self.is_closed {
            let (used, step) = self.session.advance(&input[at..], &mut self.door);
            at += used;
            replies.append(self.session.replies());
            match step {
                Step::Read => break,
                Step::Write => {}
                Step::Store => self.store(),
                Step::Verify => self.verify(),
                Step::Secure => {
                    let (version, cipher) = ("TLSv1.3", "TLS_AES_256_GCM_SHA384");
                    let none = Secured { version, cipher, exporter: None, server_end_point: Vec::new(), client: None };
                    self.session.secured(none);
                    break;
                }
                Step::Close => self.is_closed = true,
            }
        }
        replies.append(self.session.replies());
        let replies = String::from_utf8(replies).unwrap();
        let last = |line: &&str| line.as_bytes()[3] == b' ';
        replies.lines().filter(last).map(|line| line[..3].parse().unwrap()).collect()
    }

    fn verify(&mut self) {
        let (_, claim) = self.session.take_claim().unwrap();
        let is_right =
            matches!(&claim, Claim::Password { name, password, is_own: true } if name == "ann" && password == "right");
        let user = self.door.users.current("ann").unwrap();
        self.session.verified(if is_right { Ok(user) } else { Err(Denial::Wrong) }, &mut self.door);
    }

    fn store(&mut self) {
        let transaction = self.session.take_transaction().unwrap();
        let id = MessageId(1);
        let user = self.session.user().map(|user| (user, self.door.users));
        let context = Context {
            settings: &self.settings,
            hostname: "mx.test",
            client: self.session.client(),
            hello: self.session.hello(),
            security: self.session.security().map(AsRef::as_ref),
            user,
            id,
            time: UnixTime(0),
            has_eight_bit: false,
            links: None,
        };
        let admitted = admit(transaction, self.session.content().bytes(), &context).unwrap();
        assert_eq!(&*admitted.envelope.tenant, if user.is_some() { "shop" } else { "default" });
        self.accepted.push(admitted.envelope.reverse_path.as_str().to_owned());
        self.session.accepted(id);
    }
}

fn op() -> impl Strategy<Value = Op> {
    use Op::*;
    let rare =
        [StartTlsArgument, AuthGarbage, AuthUnknown, AuthCancelled, Helo, BdatBadSize, StartTlsAndMore, Noop, Rset];
    prop_oneof![
        3 => Just(Ehlo),
        2 => Just(StartTls),
        2 => prop::sample::select(vec![Auth, AuthLogin]),
        1 => Just(AuthWrong),
        4 => Just(Mail),
        4 => Just(Rcpt),
        3 => prop::sample::select(vec![Data, Bdat]),
        3 => prop::sample::select(rare.to_vec()),
    ]
}

#[test]
fn starttls_and_auth_in_every_place_are_answered_as_the_model_says() {
    let world = World::new();
    let count = sized(3_000, 300_000);
    let config = ProptestConfig { cases: count as u32, failure_persistence: None, ..ProptestConfig::default() };
    let sequences = (any::<bool>(), any::<bool>(), prop::collection::vec(op(), 1..40));
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&sequences, |(needs_tls, is_stranger, ops)| {
        let mut model = Model { needs_tls, is_stranger, ..Model::default() };
        let mut client = world.session(&model);
        for op in &ops {
            let expected = if model.is_closed { Vec::new() } else { model.run(*op) };
            let got = client.send(op.wire().as_bytes());
            prop_assert_eq!(&got, &expected, "{:?} of {:?}", op, &ops);
            prop_assert_eq!(client.session.transaction().is_some(), model.open.is_some());
            prop_assert_eq!(client.session.user().is_some(), model.is_user);
            prop_assert_eq!(client.is_closed, model.is_closed);
        }
        prop_assert_eq!(client.accepted, model.accepted);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    cases(count);
}
