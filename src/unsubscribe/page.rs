//! What people see: pages that need no script, no cookie, no picture and no other page.
//!
//! They work where a mail program opens them in a frame of its own, are read well by who has them read aloud, and follow the
//! colours of the system. Nobody may frame them, index them, keep them or learn from a Referer where they stand.

use std::fmt::Write;

use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};

/// The methods that are answered.
pub const METHODS: &str = "GET, HEAD, POST, OPTIONS";
/// After so many seconds what could not be stored is worth another try.
const RETRY_SECONDS: &str = "30";
/// The field of our own form, and its value.
pub const FIELD: (&str, &str) = ("confirm", "page");

/// All of the style; its hash stands in [`POLICY`].
const STYLE: &str = ":root{color-scheme:light dark}\
body{font:1.125rem/1.6 system-ui,sans-serif;max-width:34rem;margin:12vh auto;padding:0 1.25rem;\
color:#1a1a1a;background:#fff}\
h1{font-size:1.6rem;line-height:1.25}\
button{font:inherit;padding:.6rem 1.4rem;border:2px solid #0b57d0;border-radius:.5rem;background:#0b57d0;color:#fff;\
cursor:pointer}\
button:focus-visible{outline:3px solid #f29900;outline-offset:3px}\
@media(prefers-color-scheme:dark){body{color:#eee;background:#16181c}\
button{border-color:#a8c7fa;background:#a8c7fa;color:#062e6f}}";
/// Content Security Policy 3: nothing but this style, and a form that leads back here.
const POLICY: &str = "default-src 'none'; style-src 'sha256-yRthuYUmheXYP/JgiXFe5dYhoubfvd0DmHT5y1rXeM0='; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// What a link is about, as a page names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// What the sender is called; empty: nothing.
    pub sender: Box<str>,
    /// The class that the recipient is taken off; empty: all of the sender's mail.
    pub class: Box<str>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// Whether it is meant.
    Ask(About),
    /// It is done, by our own page.
    Done(About),
    /// It is done, for a program (RFC 8058, 3.2).
    OneClick,
    /// What may be asked.
    Options,
    /// No such link, or one that somebody made up.
    Unknown,
    /// The link is too old.
    Expired,
    /// A POST that asks for nothing known.
    NoWish,
    /// Too many octets.
    TooLarge,
    /// The request did not come in time.
    Late,
    /// Another method.
    Method,
    /// The client comes too often.
    TooMany,
    /// It could not be stored.
    Failed,
}

impl Page {
    /// All that [`Self::outcome`] gives.
    pub const OUTCOMES: [&str; 12] = [
        "asked",
        "page",
        "one-click",
        "options",
        "unknown",
        "expired",
        "no-wish",
        "too-large",
        "late",
        "method",
        "too-many",
        "failed",
    ];

    /// As metrics call it.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Ask(_) => "asked",
            Self::Done(_) => "page",
            Self::OneClick => "one-click",
            Self::Options => "options",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::NoWish => "no-wish",
            Self::TooLarge => "too-large",
            Self::Late => "late",
            Self::Method => "method",
            Self::TooMany => "too-many",
            Self::Failed => "failed",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Ask(_) | Self::Done(_) | Self::OneClick => StatusCode::OK,
            Self::Options => StatusCode::NO_CONTENT,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Expired => StatusCode::GONE,
            Self::NoWish => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Failed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Heading and text.
    fn words(&self) -> (&'static str, String) {
        match self {
            Self::Ask(about) => (
                "Unsubscribe?",
                format!("The address that this link was sent to will get no more mail{}.", about.words()),
            ),
            Self::Done(about) => (
                "You are unsubscribed",
                format!(
                    "The address that this link was sent to gets no more mail{}. What is on its way already may still \
                     arrive. You can close this page.",
                    about.words()
                ),
            ),
            Self::OneClick | Self::Options => ("", String::new()),
            Self::Unknown => (
                "This link is not known",
                "It may have been cut off on its way. Take it from the message once more, or write to the sender."
                    .into(),
            ),
            Self::Expired => (
                "This link is too old",
                "Nothing was changed. Take the link of a newer message, or write to the sender.".into(),
            ),
            Self::NoWish => ("Nothing was changed", "Open the link of the message and press the button there.".into()),
            Self::TooLarge => ("Nothing was changed", "The request is too large.".into()),
            Self::Late => ("Nothing was changed", "The request did not come in time. Please try again.".into()),
            Self::Method => ("Nothing was changed", "Open the link of the message in a browser.".into()),
            Self::TooMany => ("Too many requests", "Nothing was changed. Please try again in a minute.".into()),
            Self::Failed => {
                ("This does not work right now", "Nothing was changed. Please try again in a minute.".into())
            }
        }
    }

    fn text(&self) -> String {
        let (heading, text) = self.words();
        let form = match self {
            Self::Ask(_) => {
                let (name, value) = FIELD;
                format!("<form method=\"post\"><button name=\"{name}\" value=\"{value}\">Unsubscribe</button></form>\n")
            }
            _ => String::new(),
        };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{heading}</title>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"robots\" content=\"noindex, nofollow\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{heading}</h1>\n<p>{text}</p>\n{form}</main>\n</body>\n</html>\n"
        )
    }

    /// The whole answer. One to HEAD has the same fields; the server sends no body after it.
    pub fn response(&self) -> Response<String> {
        let (kind, text) = match self {
            Self::OneClick => ("text/plain; charset=utf-8", "unsubscribed\n".to_owned()),
            Self::Options => ("text/plain; charset=utf-8", String::new()),
            page => ("text/html; charset=utf-8", page.text()),
        };
        let mut response = Response::new(text);
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        for (name, value) in [
            (CONTENT_TYPE, kind),
            (CONTENT_SECURITY_POLICY, POLICY),
            (REFERRER_POLICY, "no-referrer"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (CACHE_CONTROL, "no-store"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("x-robots-tag", HeaderValue::from_static("noindex, nofollow"));
        if matches!(self, Self::Options | Self::Method) {
            headers.insert(ALLOW, HeaderValue::from_static(METHODS));
        }
        if matches!(self, Self::Failed | Self::TooMany) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        response
    }
}

impl About {
    /// Whose mail, and of what class, as the end of a sentence.
    fn words(&self) -> String {
        let mut out = String::new();
        if !self.class.is_empty() {
            let _ = write!(out, " of the kind <strong>{}</strong>", escaped(&self.class));
        }
        match &*self.sender {
            "" => out.push_str(" from this sender"),
            sender => {
                let _ = write!(out, " from <strong>{}</strong>", escaped(sender));
            }
        }
        out
    }
}

/// A text as HTML shows it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn about() -> About {
        About { sender: "A & <b>".into(), class: "news".into() }
    }

    #[test]
    fn the_policy_lets_in_the_style_that_there_is() {
        let hash = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));

        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "{hash}");
    }

    #[test]
    fn names_are_shown_and_not_obeyed() {
        let text = Page::Ask(about()).text();

        assert!(text.contains("<strong>A &amp; &lt;b&gt;</strong>") && !text.contains("<b>"), "{text}");
        assert!(text.contains("of the kind <strong>news</strong>"), "{text}");
        assert!(Page::Done(About::default()).text().contains("no more mail from this sender."));
    }

    #[test]
    fn only_the_question_has_a_form_and_no_page_has_what_the_policy_forbids() {
        for page in [Page::Ask(about()), Page::Done(about()), Page::Unknown, Page::Expired, Page::Failed] {
            let text = page.text();

            assert_eq!(text.contains("<form"), matches!(page, Page::Ask(_)));
            assert!(Page::OUTCOMES.contains(&page.outcome()));
            for word in ["<script", " style=", " src=", " href=", "<link", "http:", "https:", " onclick="] {
                assert!(!text.contains(word), "{page:?}: {word}");
            }
            assert!(text.contains("<html lang=\"en\">") && text.contains("viewport") && text.contains("noindex"));
        }
    }

    #[test]
    fn every_answer_keeps_itself_out_of_caches_frames_indexes_and_referers() {
        for page in [Page::Ask(about()), Page::OneClick, Page::Options, Page::Unknown, Page::Method, Page::Failed] {
            let response = page.response();

            let of = |name: &str| response.headers().get(name).map_or("", |value| value.to_str().unwrap());
            assert!(of("content-security-policy").contains("default-src 'none'"));
            assert!(of("content-security-policy").contains("frame-ancestors 'none'"));
            assert_eq!((of("referrer-policy"), of("cache-control")), ("no-referrer", "no-store"));
            assert_eq!((of("x-robots-tag"), of("x-content-type-options")), ("noindex, nofollow", "nosniff"));
            assert_eq!(of("allow").is_empty(), !matches!(page, Page::Options | Page::Method));
            assert_eq!(of("retry-after").is_empty(), page != Page::Failed);
            assert!(of("set-cookie").is_empty() && of("location").is_empty());
        }
    }
}
