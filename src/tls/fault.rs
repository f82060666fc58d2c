//! What is wrong with a certificate, for people: operators, and whoever reads a TLS report.

use rustls::CertificateError;

/// Says why a certificate is not taken.
pub fn in_words(error: &CertificateError) -> String {
    use CertificateError as E;
    let text = match error {
        E::Expired | E::ExpiredContext { .. } => "the certificate has expired",
        E::NotValidYet | E::NotValidYetContext { .. } => "the certificate is not valid yet",
        E::NotValidForName => "the certificate is for another name",
        E::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            return format!("the certificate is not for {} but for {names}", expected.to_str());
        }
        E::UnknownIssuer => "the certificate is not signed by an authority that is trusted",
        E::BadSignature => "the certificate's signature is wrong",
        E::BadEncoding => "the certificate cannot be read",
        E::Revoked => "the certificate has been revoked",
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => "the certificate is not one for servers",
        // Nobody but our own check of TLSA records gives this one.
        E::ApplicationVerificationFailure => "no TLSA record names the certificate",
        E::Other(error) if error.0.to_string() == "CaUsedAsEndEntity" => "the certificate is that of an authority",
        other => return format!("the certificate is not taken: {other}"),
    };
    text.to_owned()
}

/// A name without what rustls puts around it: `DnsName("a.test")`.
fn bare(name: &str) -> &str {
    name.split('"').nth(1).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_as_they_stand_in_certificates() {
        let expected = "mx.a.test".try_into().unwrap();
        let presented = vec!["DnsName(\"b.test\")".to_owned(), "DnsName(\"*.c.test\")".to_owned()];

        let told = in_words(&CertificateError::NotValidForNameContext { expected, presented });

        assert_eq!(told, "the certificate is not for mx.a.test but for b.test, *.c.test");
        assert_eq!(in_words(&CertificateError::Expired), "the certificate has expired");
    }
}
