//! Messages of many shapes, the same each time. None has white space before a colon (RFC 5322, 4.5): neither dkimpy nor
//! OpenDKIM's test mode reads such a field.

use std::fmt::Write;

/// A message as it is submitted.
pub struct Sample {
    pub content: Vec<u8>,
    /// By BDAT in so many chunks, else by DATA.
    pub chunks: Option<usize>,
}

/// Picks one of some, by a number that is used up.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        // Knuth's MMIX constants; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }

    fn pick<'a>(&mut self, some: &[&'a str]) -> &'a str {
        some[usize::try_from(self.below(some.len() as u64)).unwrap()]
    }
}

const FROM: [&str; 7] = [
    "From: x@a.test",
    "From: \"A, B\" <x@A.test>",
    "from: X\t Y\r\n\t<x@news.a.test>",
    "FROM: (a comment; with (another)) x@a.test",
    "From: =?utf-8?q?J=C3=BCrg?=\r\n  <x@shop.news.a.test> ",
    "From:\r\n x@a.test",
    "From:x@a.test   ",
];
const SUBJECT: [&str; 6] = [
    "",
    "Subject:\r\n",
    "Subject: plain\r\n",
    "Subject: trailing   \r\n",
    "Subject: folded\r\n\tonce  and\r\n   twice\t\r\n",
    "SUBJECT: =?utf-8?b?w7w=?=  =?utf-8?b?w7w=?=\r\n",
];
const LISTS: [&str; 4] = [
    "",
    "List-Unsubscribe: <https://a.test/u?x=1>,\r\n <mailto:u@a.test>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
    "List-Id: A  list <l.a.test>\r\nList-Help: <https://a.test/>\r\nPrecedence: bulk\r\n",
    "Feedback-ID: c:a:b\r\nList-Owner: <mailto:o@a.test>\r\nList-unsubscribe: <mailto:u@a.test>\r\n",
];
const MIME: [&str; 3] = [
    "",
    "MIME-Version: 1.0\r\nContent-Type: text/plain;\r\n\tcharset=\"utf-8\"\r\nContent-Transfer-Encoding: 8bit\r\n",
    "Mime-Version: 1.0 (x)\r\ncontent-type:multipart/mixed; boundary=\"b\"\r\n",
];
const EXTRA: [&str; 6] = [
    "",
    "Date: Thu, 26 Nov 2026 09:00:00 +0000\r\nMessage-ID: <x.1@a.test>\r\n",
    "Cc: c@b.test,\r\n\td@b.test\r\nReply-To: r@a.test\r\nBcc: hidden@b.test\r\n",
    "X-Hikyaku-Campaign: spring\r\nReturn-Path: <x@y.test>\r\nTo: second@b.test\r\n",
    "In-Reply-To: <a@b.test>\r\nReferences: <a@b.test>\r\n <c@d.test>\r\nComments: 1\r\nComments: 2\r\n",
    "Resent-From: r@b.test\r\nResent-To: q@b.test\r\nSender: s@a.test\r\n",
];
const LINES: [&str; 12] = [
    "",
    "plain text",
    ".",
    "..two dots",
    "two  spaces\tand a tab",
    "trailing space ",
    "trailing tab\t",
    " \t ",
    "  leading",
    "gr\u{fc}n \u{2014} 8 bit",
    "From at the beginning",
    "-- ",
];
const ENDS: [&str; 6] = ["", "\r\n", "\r\n\r\n\r\n", " \r\n\t\r\n", "last \r\n \r\n\r\n", "."];

/// The sample of a number.
pub fn sample(number: u64) -> Sample {
    let mut dice = Dice(number);
    let mut text = String::new();
    for hop in 0..[0, 1, 3, 30][usize::try_from(dice.below(4)).unwrap()] {
        write!(text, "Received: from h{hop}.test\r\n\tby h.test ;  Thu, 26 Nov 2026 09:00:00 +0000\r\n").unwrap();
    }
    let mut fields = [
        format!("{}\r\n", dice.pick(&FROM)),
        format!("To: <{number}@sink.test>\r\n"),
        dice.pick(&SUBJECT).to_owned(),
        dice.pick(&LISTS).to_owned(),
        dice.pick(&MIME).to_owned(),
        dice.pick(&EXTRA).to_owned(),
        format!("X-Number: {number}\r\n"),
    ];
    let turn = usize::try_from(dice.below(7)).unwrap();
    fields.rotate_left(turn);
    text.push_str(&fields.concat());
    text.push_str("\r\n");
    let lines = [0, 1, 10, 100][usize::try_from(dice.below(4)).unwrap()];
    for _ in 0..lines {
        text.push_str(dice.pick(&LINES));
        text.push_str("\r\n");
    }
    if number % 10 == 3 {
        text.push_str(&"long  line ".repeat(80));
        text.push_str("\r\n");
    }
    if number % 25 == 7 {
        // More than a session keeps in memory.
        while text.len() < 300_000 + 40_000 * usize::try_from(number).unwrap() {
            text.push_str(dice.pick(&LINES));
            text.push_str("\r\n");
        }
    }
    text.push_str(dice.pick(&ENDS));
    let chunks = (number % 3 == 1).then(|| 1 + usize::try_from(dice.below(4)).unwrap());
    if chunks.is_none() && !text.ends_with("\r\n") {
        text.push_str("\r\n");
    }
    Sample { content: text.into_bytes(), chunks }
}
