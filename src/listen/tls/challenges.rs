//! Answers to the questions by which an ACME server sees that a name is ours: http-01 (RFC 8555,
//! section 8.3) and tls-alpn-01 (RFC 8737). Filled by whoever speaks ACME, in whichever process: all
//! others get them by [`Challenges::export`]. Asked by the resolver and by the HTTP service.

use super::load;
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// The protocol that a tls-alpn-01 question is asked in (RFC 8737, section 6.2).
pub const ALPN: &[u8] = b"acme-tls/1";

/// All answers that are waiting to be asked for. A clone is the same set.
#[derive(Clone, Default)]
pub struct Challenges {
    pending: Arc<Mutex<Pending>>,
}

#[derive(Default)]
struct Pending {
    http: BTreeMap<String, String>,
    alpn: BTreeMap<String, Answer>,
}

struct Answer {
    certificate: Vec<u8>,
    key: Vec<u8>,
    certified: Arc<CertifiedKey>,
}

/// [`Challenges`] on their way to another process.
#[derive(Serialize, Deserialize)]
struct Exported {
    http: BTreeMap<String, String>,
    /// Certificate and key, both in DER.
    alpn: BTreeMap<String, (Vec<u8>, Vec<u8>)>,
}

impl Challenges {
    /// Answers tls-alpn-01 for a domain: a self-signed certificate and its key in PKCS #8, both DER.
    ///
    /// # Errors
    /// When the key can't be used, or isn't the certificate's.
    pub fn set_alpn(&self, domain: &str, certificate: &[u8], key: &[u8]) -> Result<(), Error> {
        let answer = Answer::new(certificate.to_vec(), key.to_vec())?;
        self.pending.lock().alpn.insert(lower(domain), answer);
        Ok(())
    }

    /// The answer to tls-alpn-01 for a server name.
    pub fn alpn(&self, domain: &str) -> Option<Arc<CertifiedKey>> {
        let pending = self.pending.lock();
        pending
            .alpn
            .get(&lower(domain))
            .map(|answer| Arc::clone(&answer.certified))
    }

    /// Forgets the answer for a domain.
    pub fn clear(&self, domain: &str) {
        self.pending.lock().alpn.remove(&lower(domain));
    }

    /// Answers http-01: what `/.well-known/acme-challenge/{token}` holds.
    pub fn set_http(&self, token: &str, key_authorization: &str) {
        let mut pending = self.pending.lock();
        pending
            .http
            .insert(token.to_owned(), key_authorization.to_owned());
    }

    /// What `/.well-known/acme-challenge/{token}` holds.
    pub fn http(&self, token: &str) -> Option<String> {
        self.pending.lock().http.get(token).cloned()
    }

    /// Forgets the answer for a token.
    pub fn clear_http(&self, token: &str) {
        self.pending.lock().http.remove(token);
    }

    /// All answers for other processes. Holds keys of challenge certificates, which are worth nothing
    /// after they were asked for.
    pub fn export(&self) -> serde_json::Value {
        let pending = self.pending.lock();
        let alpn = pending.alpn.iter().map(|(domain, answer)| {
            let both = (answer.certificate.clone(), answer.key.clone());
            (domain.clone(), both)
        });
        let exported = Exported {
            http: pending.http.clone(),
            alpn: alpn.collect(),
        };
        // Texts and numbers: nothing in it can fail.
        serde_json::to_value(exported).unwrap_or_default()
    }

    /// Takes the answers of another process in the place of all that are here.
    ///
    /// # Errors
    /// Says what can't be taken; nothing is changed then.
    pub fn import(&self, challenges: &serde_json::Value) -> Result<(), String> {
        let exported = Exported::deserialize(challenges)
            .map_err(|_| "ACME challenges of another form can't be taken over".to_owned())?;
        let mut alpn = BTreeMap::new();
        for (domain, (certificate, key)) in exported.alpn {
            let answer = Answer::new(certificate, key)
                .map_err(|error| format!("the ACME challenge for {domain}: {error}"))?;
            alpn.insert(lower(&domain), answer);
        }
        let http = exported.http;
        *self.pending.lock() = Pending { http, alpn };
        Ok(())
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = self.pending.lock();
        f.debug_struct("Challenges")
            .field("http", &pending.http.len())
            .field("alpn", &pending.alpn.keys())
            .finish()
    }
}

impl Answer {
    fn new(certificate: Vec<u8>, key: Vec<u8>) -> Result<Self, Error> {
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
        let secret = load::provider().key_provider.load_private_key(secret)?;
        // Not by rustls's own comparison: webpki refuses to read the certificate, whose extension
        // acmeIdentifier is critical and unknown to it.
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if secret.public_key().as_deref() != Some(parsed.public_key().raw) {
            return Err(InconsistentKeys::KeyMismatch.into());
        }
        let chain = vec![CertificateDer::from(certificate.clone())];
        Ok(Self {
            certificate,
            key,
            certified: Arc::new(CertifiedKey::new(chain, secret)),
        })
    }
}

/// Server names are compared in lower case, without the root's dot.
fn lower(domain: &str) -> String {
    domain.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_answered_until_they_are_cleared() {
        let challenges = Challenges::default();
        challenges.set_http("token", "token.thumbprint");
        assert_eq!(
            challenges.http("token").as_deref(),
            Some("token.thumbprint")
        );
        let other = Challenges::default();
        other.import(&challenges.export()).unwrap();
        challenges.clear_http("token");
        assert_eq!(challenges.http("token"), None);
        assert_eq!(other.http("token").as_deref(), Some("token.thumbprint"));
    }

    #[test]
    fn what_is_no_certificate_and_key_is_refused_and_changes_nothing() {
        let challenges = Challenges::default();
        challenges.set_http("token", "answer");
        assert!(challenges.set_alpn("a.test", b"no", b"key").is_err());
        for bad in [
            serde_json::json!({"http": {}, "alpn": {"a.test": [[1], [2]]}}),
            serde_json::json!({"http": 1}),
        ] {
            assert!(challenges.import(&bad).is_err());
            assert!(challenges.http("token").is_some());
        }
    }
}
