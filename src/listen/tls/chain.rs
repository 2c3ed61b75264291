//! A chain of certificates looked at as a client will: names, times, keys, and who signed whom. All
//! mistakes are found at once. Called by `load`; trusts nobody and decides nothing for handshakes.

use super::load::Mistake;
use chrono::{DateTime, Utc};
use rustls::pki_types::CertificateDer;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

/// Below this browsers and rustls refuse an RSA key.
const RSA_BITS_MIN: usize = 2048;

/// What a chain's first certificate says, all of the chain being sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Lower case; addresses as they are written.
    pub names: Vec<String>,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// The first moment that any certificate of the chain expires.
    pub not_after: SystemTime,
}

/// Looks a chain over.
///
/// # Errors
/// All that is wrong with it.
pub fn check(
    path: &Path,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<Leaf, Vec<Mistake>> {
    let chain = parse(path, chain)?;
    let mut mistakes = Vec::new();
    for (at, certificate) in chain.iter().enumerate() {
        mistakes.extend(in_time(path, at, certificate, now));
    }
    if !rightly_ordered(&chain) {
        mistakes.push(Mistake::new(
            path,
            wrong_order(&chain),
            "put the server's certificate first, then the one that signed it, and so on; leave out \
             what belongs to no one in the file",
        ));
    }
    let leaf = &chain[0];
    mistakes.extend(strong(path, leaf));
    mistakes.extend(for_servers(path, leaf));
    let names = match names(leaf) {
        Ok(names) if names.is_empty() => {
            mistakes.push(Mistake::new(
                path,
                format!(
                    "has no names: {} has no DNS name and no address as its subject alternative name",
                    subject(leaf)
                ),
                "have it made again with subjectAltName; clients don't look at CN",
            ));
            names
        }
        Ok(names) => names,
        Err(said) => {
            mistakes.push(Mistake::new(path, said, "have it made again"));
            Vec::new()
        }
    };
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let ends = chain.iter().map(|it| system_time(it.validity().not_after));
    Ok(Leaf {
        names,
        not_before: system_time(leaf.validity().not_before),
        not_after: ends.min().unwrap_or(UNIX_EPOCH),
    })
}

/// Whether a certificate may sign those of clients, and does so now.
///
/// # Errors
/// Why not, in words that go on from its name.
pub fn authority(der: &CertificateDer<'_>, now: SystemTime) -> Result<(), String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Err("a block that is no certificate".to_owned());
    };
    let subject = subject(&certificate);
    if !certificate.is_ca() {
        return Err(format!(
            "{subject} is no authority (basicConstraints CA:TRUE)"
        ));
    }
    match outside(&certificate, now) {
        Some(said) => Err(format!("{subject} {said}")),
        None => Ok(()),
    }
}

fn parse<'a>(
    path: &Path,
    chain: &'a [CertificateDer<'_>],
) -> Result<Vec<X509Certificate<'a>>, Vec<Mistake>> {
    let (mut parsed, mut mistakes) = (Vec::new(), Vec::new());
    for (at, der) in chain.iter().enumerate() {
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => parsed.push(certificate),
            _ => mistakes.push(Mistake::new(
                path,
                format!("block {} is no X.509 certificate", at + 1),
                "see what it is with openssl x509 -text, and copy it again",
            )),
        }
    }
    if mistakes.is_empty() {
        Ok(parsed)
    } else {
        Err(mistakes)
    }
}

fn in_time(
    path: &Path,
    at: usize,
    certificate: &X509Certificate<'_>,
    now: SystemTime,
) -> Option<Mistake> {
    let said = outside(certificate, now)?;
    let advice = if certificate.validity().not_after.timestamp() < seconds(now) {
        "renew it"
    } else {
        "wait, or set the clock of this host right"
    };
    Some(Mistake::new(
        path,
        format!("certificate {} ({}) {said}", at + 1, subject(certificate)),
        advice,
    ))
}

/// How now is outside of its time.
fn outside(certificate: &X509Certificate<'_>, now: SystemTime) -> Option<String> {
    let validity = certificate.validity();
    if seconds(now) > validity.not_after.timestamp() {
        return Some(format!("expired at {}", when(validity.not_after)));
    }
    (seconds(now) < validity.not_before.timestamp())
        .then(|| format!("is not valid before {}", when(validity.not_before)))
}

fn rightly_ordered(chain: &[X509Certificate<'_>]) -> bool {
    chain.windows(2).all(|pair| signed_by(&pair[0], &pair[1]))
}

fn wrong_order(chain: &[X509Certificate<'_>]) -> String {
    let Some(at) = chain
        .windows(2)
        .position(|pair| !signed_by(&pair[0], &pair[1]))
    else {
        return String::new();
    };
    let (this, next) = (&chain[at], &chain[at + 1]);
    let mut said = format!(
        "is in the wrong order: certificate {} ({}) was not signed by the next one ({}), but by {}",
        at + 1,
        subject(this),
        subject(next),
        this.issuer(),
    );
    if let Some(right) = chain.iter().position(|it| signed_by(this, it)) {
        said += &format!(", which is certificate {}", right + 1);
    } else if this.issuer() == next.subject() {
        said = format!(
            "has a broken link: certificate {} ({}) names the next one as its issuer, but that one's \
             key didn't sign it, or not by an algorithm that is still trusted",
            at + 1,
            subject(this),
        );
    }
    said
}

fn signed_by(this: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    if this.issuer().as_raw() != issuer.subject().as_raw() {
        return false;
    }
    let key = &issuer.public_key().subject_public_key.data;
    let message = this.tbs_certificate.as_ref();
    let signature = &this.signature_value.data;
    // All algorithms are tried: an answer by another than was named does no harm to a mere check.
    let provider = super::load::provider();
    let algorithms = provider.signature_verification_algorithms.all;
    algorithms
        .iter()
        .any(|it| it.verify_signature(key, message, signature).is_ok())
}

fn strong(path: &Path, leaf: &X509Certificate<'_>) -> Option<Mistake> {
    let found = match leaf.public_key().parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() >= RSA_BITS_MIN => return None,
        Ok(PublicKey::RSA(key)) => format!("has an RSA key of {} bits", key.key_size()),
        Ok(PublicKey::EC(_)) => return None,
        Ok(PublicKey::DSA(_)) => "has a DSA key".to_owned(),
        // Ed25519, which x509-parser knows by its number only.
        Ok(_) if leaf.public_key().algorithm.algorithm.to_id_string() == "1.3.101.112" => {
            return None;
        }
        _ => "has a key of a kind that no client takes".to_owned(),
    };
    Some(Mistake::new(
        path,
        format!("{found} ({})", subject(leaf)),
        &format!("make one of ECDSA P-256, or RSA of at least {RSA_BITS_MIN} bits"),
    ))
}

fn for_servers(path: &Path, leaf: &X509Certificate<'_>) -> Option<Mistake> {
    let usage = leaf.extended_key_usage().ok().flatten()?.value;
    (!usage.server_auth && !usage.any).then(|| {
        Mistake::new(
            path,
            format!(
                "is not for servers: the extended key usage of {} lacks serverAuth",
                subject(leaf)
            ),
            "have it made again for a server",
        )
    })
}

/// DNS names in lower case, and addresses.
fn names(leaf: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let alternatives = leaf
        .subject_alternative_name()
        .map_err(|_| "has subject alternative names that can't be read".to_owned())?;
    let mut names = Vec::new();
    for name in alternatives.iter().flat_map(|it| &it.value.general_names) {
        let name = match name {
            GeneralName::DNSName(name) => name.to_ascii_lowercase(),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => address.to_string(),
                None => continue,
            },
            _ => continue,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn subject(certificate: &X509Certificate<'_>) -> String {
    let subject = certificate.subject().to_string();
    if subject.is_empty() {
        "without a subject".to_owned()
    } else {
        subject
    }
}

/// The time of a certificate; what is before 1970 counts as 1970.
pub fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn when(time: ASN1Time) -> String {
    DateTime::<Utc>::from(system_time(time))
        .format("%Y-%m-%d %H:%M:%S UTC")
        .to_string()
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
