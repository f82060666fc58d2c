//! S3: random command sequences, pipelined and split at random, against a plain model of RFC 5321, 4.1.4 and RFC 3030.

use hikyaku::submission::{Settings, refusal};
use proptest::prelude::*;

use crate::cases::sized;
use crate::driver::Client;

/// What a client may send.
#[derive(Clone, Debug)]
enum Op {
    Ehlo,
    Helo,
    BadEhlo,
    Mail(u8),
    BadMail,
    MailWithParameter(u8),
    Rcpt(u8),
    BadRcpt,
    RcptWithParameter(u8),
    Data(Body),
    Bdat { body: Body, is_last: bool },
    Rset,
    Noop,
    Vrfy,
    StartTls,
    Auth,
    Unknown,
    Characters,
}

/// Content, or a piece of it.
#[derive(Clone, Copy, Debug)]
enum Body {
    Good,
    Empty,
    BareLf,
    Nul,
    TooLarge,
    /// Fine, but the store refuses it.
    Loop,
}

impl Body {
    fn text(self) -> String {
        match self {
            Self::Good => "A: b\r\n\r\n.x\r\n".to_owned(),
            Self::Empty => String::new(),
            Self::BareLf => "A: b\r\n\r\nx\ny\r\n".to_owned(),
            Self::Nul => "A: b\r\n\r\n\0\r\n".to_owned(),
            Self::TooLarge => "x".repeat(MOST + 1) + "\r\n",
            Self::Loop => "Received: x\r\nReceived: x\r\n".to_owned(),
        }
    }

    fn refusal(self) -> Option<u16> {
        match self {
            Self::Good | Self::Empty | Self::Loop => None,
            Self::BareLf | Self::Nul => Some(550),
            Self::TooLarge => Some(552),
        }
    }
}

const MOST: usize = 400;

/// The transaction that the model thinks is open.
#[derive(Clone, Debug, Default)]
struct Open {
    reverse_path: String,
    recipients: Vec<String>,
    content: Option<String>,
}

#[derive(Default)]
struct Model {
    hello: Option<bool>,
    open: Option<Open>,
    replies: Vec<u16>,
    accepted: Vec<(String, Vec<String>, String)>,
}

impl Model {
    fn run(&mut self, op: &Op) {
        let code = match op {
            Op::Ehlo | Op::Helo => {
                self.hello = Some(matches!(op, Op::Ehlo));
                self.open = None;
                250
            }
            Op::BadEhlo => 501,
            Op::Mail(who) => self.mail(*who),
            Op::BadMail | Op::BadRcpt => 501,
            Op::MailWithParameter(_) if self.hello.is_none() || self.open.is_some() => 503,
            Op::MailWithParameter(_) if self.hello == Some(false) => 555,
            Op::MailWithParameter(who) => self.mail(*who),
            Op::RcptWithParameter(_) if self.can_add() && self.hello == Some(false) => 555,
            Op::Rcpt(who) | Op::RcptWithParameter(who) => match &mut self.open {
                Some(open) if open.content.is_none() => {
                    open.recipients.push(format!("r{who}@y.test"));
                    250
                }
                _ => 503,
            },
            Op::Data(body) => return self.data(*body),
            Op::Bdat { body, is_last } => self.bdat(*body, *is_last),
            Op::Rset => {
                self.open = None;
                250
            }
            Op::Noop => 250,
            Op::Vrfy => 252,
            Op::StartTls | Op::Auth => 502,
            Op::Unknown | Op::Characters => 500,
        };
        self.replies.push(code);
    }

    fn can_add(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.content.is_none())
    }

    fn mail(&mut self, who: u8) -> u16 {
        if self.hello.is_none() || self.open.is_some() {
            return 503;
        }
        self.open = Some(Open { reverse_path: format!("s{who}@x.test"), ..Open::default() });
        250
    }

    fn data(&mut self, body: Body) {
        match self.open.take() {
            Some(open) if open.content.is_some() => {
                self.open = Some(open);
                self.replies.push(503);
            }
            Some(open) if open.recipients.is_empty() => self.replies.push(554),
            None => self.replies.push(503),
            Some(open) => {
                self.replies.push(354);
                let reply = self.finish(open, body.text(), body.refusal());
                self.replies.push(reply);
            }
        }
    }

    fn bdat(&mut self, body: Body, is_last: bool) -> u16 {
        let Some(mut open) = self.open.take() else { return 503 };
        if open.recipients.is_empty() {
            return 554;
        }
        let content = open.content.take().unwrap_or_default() + &body.text();
        let refusal = if content.len() > MOST { Some(552) } else { body.refusal() };
        if is_last || refusal.is_some() {
            return self.finish(open, content, refusal);
        }
        open.content = Some(content);
        self.open = Some(open);
        250
    }

    fn finish(&mut self, open: Open, content: String, refusal: Option<u16>) -> u16 {
        if let Some(code) = refusal {
            return code;
        }
        if content.matches("Received:").count() >= 2 && content.starts_with("Received:") {
            return 554;
        }
        self.accepted.push((open.reverse_path, open.recipients, content));
        250
    }
}

/// What goes over the wire, and whether the model knows that DATA is refused, so that no content follows.
fn wire(op: &Op, is_data_refused: bool) -> Vec<u8> {
    let text = match op {
        Op::Ehlo => "EHLO c.test\r\n".to_owned(),
        Op::Helo => "HELO c.test\r\n".to_owned(),
        Op::BadEhlo => "EHLO a b\r\n".to_owned(),
        Op::Mail(who) => format!("MAIL FROM:<s{who}@x.test>\r\n"),
        Op::BadMail => "MAIL FROM:<@>\r\n".to_owned(),
        Op::MailWithParameter(who) => format!("MAIL FROM:<s{who}@x.test> BODY=8BITMIME RET=FULL\r\n"),
        Op::Rcpt(who) => format!("RCPT TO:<r{who}@y.test>\r\n"),
        Op::BadRcpt => "RCPT TO:<x>\r\n".to_owned(),
        Op::RcptWithParameter(who) => format!("RCPT TO:<r{who}@y.test> NOTIFY=NEVER\r\n"),
        Op::Data(_) if is_data_refused => "DATA\r\n".to_owned(),
        Op::Data(body) => format!("DATA\r\n{}.\r\n", body.text().replace("\r\n.", "\r\n..")),
        Op::Bdat { body, is_last } => {
            let text = body.text();
            format!("BDAT {}{}\r\n{text}", text.len(), if *is_last { " LAST" } else { "" })
        }
        Op::Rset => "RSET\r\n".to_owned(),
        Op::Noop => "NOOP\r\n".to_owned(),
        Op::Vrfy => "VRFY x\r\n".to_owned(),
        Op::StartTls => "STARTTLS\r\n".to_owned(),
        Op::Auth => "AUTH PLAIN AGEAYg==\r\n".to_owned(),
        Op::Unknown => "FROB x\r\n".to_owned(),
        Op::Characters => "NOOP \x07\r\n".to_owned(),
    };
    text.into_bytes()
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        6 => Just(Body::Good),
        1 => Just(Body::Empty),
        1 => Just(Body::BareLf),
        1 => Just(Body::Nul),
        1 => Just(Body::TooLarge),
        1 => Just(Body::Loop),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => Just(Op::Ehlo),
        1 => Just(Op::Helo),
        1 => Just(Op::BadEhlo),
        6 => (0..9u8).prop_map(Op::Mail),
        1 => Just(Op::BadMail),
        1 => (0..9u8).prop_map(Op::MailWithParameter),
        8 => (0..9u8).prop_map(Op::Rcpt),
        1 => Just(Op::BadRcpt),
        1 => (0..9u8).prop_map(Op::RcptWithParameter),
        5 => body().prop_map(Op::Data),
        5 => (body(), any::<bool>()).prop_map(|(body, is_last)| Op::Bdat { body, is_last }),
        1 => Just(Op::Rset),
        1 => Just(Op::Noop),
        1 => Just(Op::Vrfy),
        1 => Just(Op::StartTls),
        1 => Just(Op::Auth),
        1 => Just(Op::Unknown),
        1 => Just(Op::Characters),
    ]
}

/// Runs the operations through the model and gives what goes over the wire.
fn script(model: &mut Model, ops: &[Op]) -> Vec<u8> {
    let mut input = Vec::new();
    for op in ops {
        let before = model.replies.len();
        model.run(op);
        let is_data_refused = model.replies.get(before) != Some(&354);
        input.extend(wire(op, is_data_refused));
    }
    input
}

fn settings() -> Settings {
    Settings {
        max_errors: 1_000,
        max_junk_commands: 1_000,
        max_message_size: MOST as u64,
        max_hops: 2,
        ..Settings::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: sized(2_000, 100_000) as u32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sequences_are_answered_as_the_model_says(
        ops in prop::collection::vec(op(), 1..40),
        pieces in prop::collection::vec(1..200usize, 1..20),
        starts_with_ehlo in prop::bool::weighted(0.8),
    ) {
        let mut model = Model::default();
        let ops: Vec<Op> = starts_with_ehlo.then_some(Op::Ehlo).into_iter().chain(ops).collect();
        let input = script(&mut model, &ops);

        let mut client = Client::new(settings());
        let mut codes = Vec::new();
        let (mut rest, mut sizes) = (input.as_slice(), pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            codes.extend(client.codes_of(piece));
            rest = after;
        }

        prop_assert_eq!(&codes[..1], [220]);
        prop_assert_eq!(&codes[1..], model.replies.as_slice(), "{}", String::from_utf8_lossy(&input));
        let accepted: Vec<_> = client.messages.into_iter().map(|message| {
            let recipients = message.envelope.recipients.iter().map(|r| r.forward_path.to_string()).collect();
            (message.envelope.reverse_path.as_str().to_owned(), recipients, String::from_utf8(message.received).unwrap())
        }).collect();
        prop_assert_eq!(accepted, model.accepted);
    }

    /// A MAIL that is refused for now must leave nothing for what is pipelined after it.
    #[test]
    fn nothing_is_accepted_while_storage_is_full(ops in prop::collection::vec(op(), 1..40)) {
        let mut client = Client::ready(settings());
        client.answers.mail = Some(refusal::STORAGE_FULL);
        let mut model = Model { hello: Some(true), ..Model::default() };
        let ops: Vec<Op> = ops.into_iter().filter(|op| !matches!(op, Op::Data(_))).collect();

        client.send(&script(&mut model, &ops));

        prop_assert!(client.messages.is_empty());
        prop_assert!(client.session.transaction().is_none());
    }

    #[test]
    fn arbitrary_octets_neither_panic_nor_are_kept(input in prop::collection::vec(any::<u8>(), 0..5_000)) {
        let mut client = Client::ready(Settings::default());

        client.send(&input);

        prop_assert!(client.messages.is_empty());
        prop_assert!(client.peak_held < 256 * 1024);
    }
}
