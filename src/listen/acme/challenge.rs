//! Proof that a name is ours: what is shown to the ACME server while it looks, and taken away when
//! it is over, also when nobody waits for it any more. Called by an order.

use super::error::Error;
use crate::listen::tls::Challenges;
use instant_acme::{ChallengeType, KeyAuthorization};
use rcgen::{CertificateParams, CustomExtension, KeyPair};

/// Kinds of proof that weir can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On port 443 (RFC 8737).
    TlsAlpn01,
    /// On port 80 (RFC 8555 section 8.3).
    Http01,
}

/// What is being shown. Dropping it takes it away.
pub(super) struct Shown {
    challenges: Challenges,
    what: What,
}

enum What {
    Alpn(String),
    Http(String),
}

impl Kind {
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }

    pub(super) fn to_acme(self) -> ChallengeType {
        match self {
            Self::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Self::Http01 => ChallengeType::Http01,
        }
    }
}

impl Shown {
    /// Shows the proof for a name.
    ///
    /// # Errors
    /// The certificate of the proof can't be made.
    pub(super) fn new(
        challenges: &Challenges,
        kind: Kind,
        domain: &str,
        token: &str,
        proof: &KeyAuthorization,
    ) -> Result<Self, Error> {
        let what = match kind {
            Kind::TlsAlpn01 => {
                let (certificate, key) = certificate(domain, proof.digest().as_ref())
                    .map_err(|error| Error::Crypto(error.to_string()))?;
                challenges
                    .set_alpn(domain, &certificate, &key)
                    .map_err(|error| Error::Crypto(error.to_string()))?;
                What::Alpn(domain.to_owned())
            }
            Kind::Http01 => {
                challenges.set_http(token, proof.as_str());
                What::Http(token.to_owned())
            }
        };
        Ok(Self {
            challenges: challenges.clone(),
            what,
        })
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        match &self.what {
            What::Alpn(domain) => self.challenges.clear(domain),
            What::Http(token) => self.challenges.clear_http(token),
        }
    }
}

/// Signed by itself, for one name, with the digest of the proof in it; and its key, in PKCS #8.
fn certificate(domain: &str, digest: &[u8]) -> Result<(Vec<u8>, Vec<u8>), rcgen::Error> {
    let mut params = CertificateParams::new([domain.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.der().to_vec(), key.serialize_der()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer, X509Certificate};

    #[test]
    fn what_is_shown_is_taken_away_when_it_is_dropped() {
        let challenges = Challenges::default();
        let what = What::Http("token".to_owned());
        challenges.set_http("token", "proof");
        let shown = Shown {
            challenges: challenges.clone(),
            what,
        };
        assert!(challenges.http("token").is_some());
        drop(shown);
        assert!(challenges.http("token").is_none());
        let (leaf, key) = certificate("a.test", &[7; 32]).expect("made");
        challenges.set_alpn("a.test", &leaf, &key).expect("a pair");
        let what = What::Alpn("a.test".to_owned());
        drop(Shown {
            challenges: challenges.clone(),
            what,
        });
        assert!(challenges.alpn("a.test").is_none());
    }

    #[test]
    fn the_certificate_of_a_proof_holds_one_name_and_the_digest() {
        let (leaf, _) = certificate("a.test", &[7; 32]).expect("made");
        let (_, leaf) = X509Certificate::from_der(&leaf).expect("a certificate");
        let names = leaf.subject_alternative_name().expect("readable");
        assert_eq!(names.expect("there").value.general_names.len(), 1);
        let digest = leaf.extensions().iter().find(|it| {
            // id-pe-acmeIdentifier
            it.oid.to_id_string() == "1.3.6.1.5.5.7.1.31"
        });
        let digest = digest.expect("the extension");
        assert!(digest.critical, "clients must know it");
        // An OCTET STRING of 32 bytes.
        assert_eq!(digest.value[..2], [4, 32]);
        assert_eq!(digest.value[2..], [7; 32]);
    }
}
