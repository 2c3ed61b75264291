//! `listen[].tls`: certificates, ACME, certificates of clients.
//!
//! Sees that files are named, can be read and are PEM; what stands in them is checked by
//! `listen::tls::load`.

use super::{Check, bounds};
use crate::config::file::{self, Certificate, ListenTls, TlsVersion};
use crate::config::lists::List;
use crate::config::path::Path;
use crate::config::units::Text;
use crate::listen::tls::settings::{self, Acme, ClientAuth, Settings};
use crate::types::{BaseUrl, Scheme};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads TLS of a listener.
pub(super) fn tls(tls: &ListenTls, path: &Path, check: &mut Check<'_>) -> Settings {
    const HSTS: Duration = DAY.saturating_mul(365);
    const HSTS_MAX: Duration = DAY.saturating_mul(3650);
    let has_certificates = (tls.certificates.as_ref()).is_some_and(|list| !list.0.is_empty());
    if !has_certificates && tls.acme.is_none() && !check.findings.covers(path) {
        let found = "neither `certificates` nor `acme`";
        let allowed = "one of them, or both";
        check.findings.wrong_because(path, found, allowed);
    }
    let hsts = &path.key("hsts");
    let hsts =
        (tls.hsts).map(|span| bounds::seconds(span, "no such header", HSTS_MAX, hsts, check));
    Settings {
        certificates: certificates(tls.certificates.as_ref(), &path.key("certificates"), check),
        acme: (tls.acme.as_ref()).map(|it| acme(it, &path.key("acme"), check)),
        tls12: tls.min_version != Some(TlsVersion::Tls13),
        client_auth: client_auth(tls, path, check),
        hsts: hsts.unwrap_or(HSTS),
    }
}

fn certificates(
    list: Option<&List<Certificate>>,
    path: &Path,
    check: &mut Check<'_>,
) -> Vec<settings::Certificate> {
    let mut certificates = Vec::new();
    for (index, certificate) in list.iter().flat_map(|list| list.items()) {
        let path = path.index(index);
        let mut part = |text: Option<&Text>, key: &str, allowed: &str| {
            let path = path.key(key);
            if text.is_none() {
                check.missing(&path, allowed);
            }
            check.pem(text, &path)
        };
        let cert = part(
            certificate.cert.as_ref(),
            "cert",
            "the path of a certificate in PEM",
        );
        let key = part(
            certificate.key.as_ref(),
            "key",
            "the path of the certificate's private key in PEM",
        );
        if let (Some(cert), Some(key)) = (cert, key) {
            certificates.push(settings::Certificate { cert, key });
        }
    }
    certificates
}

fn client_auth(tls: &ListenTls, path: &Path, check: &mut Check<'_>) -> ClientAuth {
    let (ca_path, auth_path) = (path.key("client_ca"), path.key("client_auth"));
    let ca = check.pem(tls.client_ca.as_ref(), &ca_path);
    let auth = tls.client_auth.unwrap_or(file::ClientAuth::None);
    match (auth, &tls.client_ca) {
        (file::ClientAuth::None, Some(_)) => {
            let allowed = "optional or required, beside a `client_ca`";
            check.missing(&auth_path, allowed);
        }
        (file::ClientAuth::Optional | file::ClientAuth::Required, None) => {
            let allowed = "the path of a PEM file with the authorities of client certificates";
            check.missing(&ca_path, allowed);
        }
        _ => {}
    }
    match (auth, ca) {
        (file::ClientAuth::Optional, Some(ca)) => ClientAuth::Optional(ca),
        (file::ClientAuth::Required, Some(ca)) => ClientAuth::Required(ca),
        _ => ClientAuth::None,
    }
}

// === ACME ===

fn acme(acme: &file::Acme, path: &Path, check: &mut Check<'_>) -> Acme {
    const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
    let email = (acme.email.as_ref()).filter(|email| !email.0.is_empty());
    if email.is_some_and(|email| !is_email(&email.0)) {
        let allowed = "an e-mail address such as ops@example.com";
        check.findings.wrong(&path.key("email"), allowed);
    }
    let directory = acme.directory.as_ref();
    if let Some(Text(url)) = directory {
        self::directory(url, &path.key("directory"), check);
    }
    Acme {
        directory: directory.map_or(LETS_ENCRYPT, |url| &url.0).to_owned(),
        email: email.map(|email| email.0.clone()),
        domains: domains(acme.domains.as_ref(), &path.key("domains"), check),
        ca: check.pem(acme.ca.as_ref(), &path.key("ca")),
    }
}

/// Whoever answers in the directory's place gets certificates for the account's names.
fn directory(url: &str, path: &Path, check: &mut Check<'_>) {
    let is_plain = |url: BaseUrl| url.scheme == Scheme::Http;
    if check.url(url, path).is_some_and(is_plain) {
        check.findings.wrong(path, "a URL with https://");
    }
}

/// As much of an address as mistakes are made in.
fn is_email(text: &str) -> bool {
    let Some((user, host)) = text.split_once('@') else {
        return false;
    };
    // A comma would begin another address, a `?` the parameters of a `mailto:`.
    let letters = |byte: u8| byte.is_ascii_graphic() && !b"@,;:?<>\"".contains(&byte);
    !user.is_empty() && user.bytes().all(letters) && is_name(&host.to_ascii_lowercase())
}

fn domains(list: Option<&List<Text>>, path: &Path, check: &mut Check<'_>) -> Vec<String> {
    /// As many as Let's Encrypt takes.
    const DOMAINS_MAX: usize = 100;
    let at_least = "at least one name that the certificate is for";
    match list.map(|list| list.0.len()) {
        None => check.missing(path, at_least),
        Some(0) => check
            .findings
            .wrong_because(path, "an empty list", at_least),
        Some(written) if written > DOMAINS_MAX => {
            let found = format!("{written} names");
            let allowed = format!("at most {DOMAINS_MAX}");
            check.findings.wrong_because(path, found, allowed);
        }
        Some(_) => {}
    }
    let mut domains: Vec<String> = Vec::new();
    for (index, Text(text)) in list.iter().flat_map(|list| list.items()) {
        let path = path.index(index);
        let name = text.to_ascii_lowercase();
        if name.contains('*') {
            let allowed = "a name without `*`: wildcards are proven by dns-01, which weir doesn't \
                           speak (use `certificates`)";
            check.findings.wrong(&path, allowed);
        } else if !is_name(&name) {
            let allowed = "a DNS name such as api.example.com (xn--… where it has other letters)";
            check.findings.wrong(&path, allowed);
        } else if domains.contains(&name) {
            check.findings.wrong(&path, "each name once");
        } else {
            domains.push(name);
        }
    }
    domains
}

/// A DNS name in lower case that a certificate can be for: labels of letters, digits and `-`, no
/// address, no dot at the end.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let letters = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        (1..=63).contains(&label.len())
            && label.bytes().all(letters)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_dns() {
        let long = format!("{}.example", "a".repeat(63));
        for name in [
            "api.example.com",
            "localhost",
            "xn--bcher-kva.example",
            "4.de",
            &long,
        ] {
            assert!(is_name(name), "{name}");
        }
        let longer = format!("{}.example", "a".repeat(64));
        let longest = ["a"; 127].join(".");
        assert_eq!(longest.len(), 253);
        assert!(is_name(&longest));
        let past = format!("{longest}.a");
        for name in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a.b",
            "a-.b",
            "a_b.c",
            "a b",
            "A.b",
            "bücher.example",
            "192.0.2.1",
            "[::1]",
            "a:443",
            "https://a",
            &longer,
            &past,
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn addresses_of_mail_have_a_user_and_a_host() {
        for text in ["ops@example.com", "a.b+c@Example.com", "root@localhost"] {
            assert!(is_email(text), "{text}");
        }
        for text in [
            "ops",
            "@a",
            "a@",
            "a@b@c",
            "a b@c",
            "mailto:a@b",
            "a@b,c@d",
            "a@b?c=d",
            "Ana <a@b>",
        ] {
            assert!(!is_email(text), "{text}");
        }
    }
}
