//! The words of a page: tags go, what separates blocks becomes a line's end.

/// Elements whose text nobody sees.
const UNSEEN: &[&str] = &["style", "script", "title"];
/// Elements that begin a new line.
const BLOCKS: &[&str] =
    &["br", "p", "div", "tr", "li", "ul", "ol", "table", "pre", "h1", "h2", "h3", "h4", "hr", "blockquote", "dt", "dd"];

/// The lines of a page.
pub(super) fn lines(page: &str) -> Vec<String> {
    let mut out = String::with_capacity(page.len());
    let mut rest = page;
    let mut unseen: Option<&str> = None;
    while let Some((text, behind)) = rest.split_once('<') {
        if unseen.is_none() {
            out.push_str(text);
        }
        let Some((tag, after)) = behind.split_once('>') else {
            rest = "";
            break;
        };
        let name =
            tag.trim_start_matches('/').split([' ', '\t', '\n', '/']).next().unwrap_or_default().to_ascii_lowercase();
        let is_end = tag.starts_with('/');
        if is_end && unseen == Some(name.as_str()) {
            unseen = None;
        } else if !is_end && unseen.is_none() {
            unseen = UNSEEN.iter().find(|unseen| **unseen == name).copied();
        }
        if BLOCKS.contains(&name.as_str()) {
            out.push('\n');
        }
        rest = after;
    }
    if unseen.is_none() {
        out.push_str(rest);
    }
    let unescaped = entities(&out);
    unescaped.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// Text with its character references replaced.
fn entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('&') {
        out.push_str(before);
        let end = behind.bytes().take(10).position(|octet| octet == b';');
        let named = end.and_then(|end| Some((reference(behind.get(..end)?)?, behind.get(end + 1..)?)));
        match named {
            Some((c, after)) => {
                out.push(c);
                rest = after;
            }
            None => {
                out.push('&');
                rest = behind;
            }
        }
    }
    out.push_str(rest);
    out
}

fn reference(name: &str) -> Option<char> {
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some(' '),
        _ => {
            let number = name.strip_prefix('#')?;
            let hex = number.strip_prefix(['x', 'X']);
            let code = hex.map_or_else(|| number.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
            char::from_u32(code?).map(|c| if c.is_control() || c == '\u{a0}' { ' ' } else { c })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_is_seen() {
        let page = "<html><head><title>x</title><style>p{}</style></head><body>a &lt;b@c.test&gt;<br>d&nbsp;&#233;&#xe9;&bogus; e<p>f<script>g</script>";

        assert_eq!(lines(page), ["a <b@c.test>", "d éé&bogus; e", "f"]);
        assert_eq!(lines("a < b"), ["a "].map(str::trim_end));
    }
}
