//! `[unsubscribe]`: links by which recipients take themselves off (RFC 2369, RFC 8058), and where they are answered.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::Uri;
use serde::{Deserialize, Serialize};

use super::Complaints;
use super::names::is_host_name;
use super::units::{Network, Span};

/// Octets of the longest base of links: with a token and the longest class the line stays under 998 (RFC 5322, 2.1.1).
const URL_MOST: usize = 200;
/// Octets of the longest domain of addresses, and of the longest name of a sender.
const TEXT_MOST: usize = 200;

/// One-click unsubscription.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Unsubscribe {
    /// Addresses and ports where links are answered. Empty: nowhere.
    pub listen: Vec<SocketAddr>,
    /// Whether that is under TLS, with the certificates of `[[certificate]]`.
    pub tls: bool,
    /// From where X-Forwarded-For tells who the client is.
    pub proxy_networks: Vec<Network>,
    /// What links begin with, as the world reaches `listen`.
    pub url: String,
    /// How long a link holds.
    pub max_age: Span,
    /// Whose messages get links.
    #[serde(rename = "tenant")]
    pub tenants: Vec<UnsubscribeTenant>,
}

/// A tenant whose messages get links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnsubscribeTenant {
    /// The tenant's name.
    pub name: String,
    /// What a recipient is taken off.
    #[serde(default)]
    pub scope: UnsubscribeScope,
    /// What the page calls the sender; empty: nothing.
    #[serde(default)]
    pub sender: String,
    /// The domain of the address that stands beside the link; empty: none does.
    #[serde(default)]
    pub mailto: String,
}

/// What a recipient is taken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnsubscribeScope {
    /// Mail of the message's class; where it has none, all of the tenant's.
    #[default]
    Class,
    /// All mail of the tenant.
    Tenant,
}

impl Default for Unsubscribe {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            tls: true,
            proxy_networks: Network::loopback().to_vec(),
            url: String::new(),
            max_age: Span(Duration::from_secs(180 * 86_400)),
            tenants: Vec::new(),
        }
    }
}

impl Unsubscribe {
    /// The host that links lead to, without its port; none if `url` is none that can be used.
    pub fn host(&self) -> Option<String> {
        let url: Uri = self.url.parse().ok()?;
        let is_right = url.scheme_str() == Some("https")
            && url.query().is_none()
            && self.url.ends_with('/')
            && self.url.len() <= URL_MOST
            && self.url.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._~:/".contains(&octet));
        Some(url.host()?.to_owned()).filter(|host| is_right && is_host_name(host))
    }

    pub(super) fn check(&self, has_certificates: bool, complaints: &mut Complaints) {
        for (index, address) in self.listen.iter().enumerate() {
            let is_private = address.ip().to_canonical().is_loopback();
            let text = format!(
                "{address} is no address of loopback, and one-click needs https (RFC 8058, 3.1); allowed: `tls = true` and a \
                 [[certificate]], or an address of loopback that a proxy with TLS forwards to"
            );
            complaints.unless(is_private || self.tls, format!("unsubscribe.listen[{index}]"), text);
        }
        let text = "needs a [[certificate]]; allowed: a certificate too, or false behind a proxy";
        complaints.unless(self.listen.is_empty() || !self.tls || has_certificates, "unsubscribe.tls", text);
        let text = format!(
            "{:?} is no base of links; allowed: \"https://unsubscribe.example.com/\" or with a path, a \"/\" at its end, at \
             most {URL_MOST} of letters, digits, '-._~:/'",
            self.url
        );
        let is_needless = self.url.is_empty() && self.tenants.is_empty();
        complaints.unless(is_needless || self.host().is_some(), "unsubscribe.url", text);
        // 30 days: 15 U.S.C. 7704(a)(3). Five years: nobody clicks on older mail, and keys change.
        let (least, most) = (Span(Duration::from_secs(30 * 86_400)), Span(Duration::from_secs(1_826 * 86_400)));
        complaints.range("unsubscribe.max_age", &self.max_age, &least, &most);
        let is_whole = self.max_age.0.as_secs().is_multiple_of(86_400);
        complaints.unless(
            is_whole,
            "unsubscribe.max_age",
            "links have days only; allowed: whole days, such as \"180d\"",
        );
        for (index, tenant) in self.tenants.iter().enumerate() {
            tenant.check(&format!("unsubscribe.tenant[{index}]"), complaints);
        }
        let names = self.tenants.iter().map(|tenant| tenant.name.as_str());
        complaints.different(names, |index| format!("unsubscribe.tenant[{index}].name"));
    }
}

impl UnsubscribeTenant {
    fn check(&self, key: &str, complaints: &mut Complaints) {
        complaints.tenant(format!("{key}.name"), &self.name);
        let is_plain = self.sender.len() <= TEXT_MOST && !self.sender.chars().any(crate::unseen::is_unseen);
        let text = format!("allowed: at most {TEXT_MOST} octets without control characters");
        complaints.unless(is_plain, format!("{key}.sender"), text);
        if !self.mailto.is_empty() {
            complaints.host_name(format!("{key}.mailto"), &self.mailto);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    fn said(text: &str) -> String {
        Config::parse(text, Path::new("c")).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn what_one_click_cannot_work_with_is_told_by_its_key() {
        let tenant = "[[unsubscribe.tenant]]\nname = \"shop\"\n";
        let good = format!("[unsubscribe]\nurl = \"https://u.example.com/x/\"\n{tenant}");
        assert_eq!(said(&good), "");
        assert_eq!(said("[unsubscribe]\nlisten = [\"127.0.0.1:8026\"]\ntls = false\n"), "");

        for (text, key) in [
            ("[unsubscribe]\nlisten = [\"192.0.2.1:443\"]\ntls = false\n".to_owned(), "unsubscribe.listen[0]"),
            ("[unsubscribe]\nlisten = [\"192.0.2.1:443\"]\n".to_owned(), "unsubscribe.tls"),
            (tenant.to_owned(), "unsubscribe.url"),
            (good.replace("https", "http"), "unsubscribe.url"),
            (good.replace("/x/", "/x"), "unsubscribe.url"),
            (good.replace("/x/", "/?x/"), "unsubscribe.url"),
            (good.replace("/x/", "/#/"), "unsubscribe.url"),
            (good.replace("u.example.com", "u@example.com"), "unsubscribe.url"),
            (good.replace("u.example.com", &"a".repeat(300)), "unsubscribe.url"),
            ("[unsubscribe]\nmax_age = \"29d\"\n".to_owned(), "unsubscribe.max_age"),
            ("[unsubscribe]\nmax_age = \"30d 1h\"\n".to_owned(), "unsubscribe.max_age"),
            (format!("{good}{tenant}"), "unsubscribe.tenant[1].name"),
            (format!("{good}mailto = \"a b\"\n"), "unsubscribe.tenant[0].mailto"),
            (format!("{good}sender = \"a\\u202eb\"\n"), "unsubscribe.tenant[0].sender"),
        ] {
            assert!(said(&text).contains(&format!("c: {key}: ")), "{text}: {}", said(&text));
        }
    }
}
