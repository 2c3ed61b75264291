//! Certificates with their keys: how one is read, and whether a new one may take the place of the
//! old. Called with what is on disk and with what an ACME server has sent. Touches no file.

use super::due::Held;
use super::error::Error;
use instant_acme::CertificateIdentifier;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, Der, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A chain whose key is known to belong to it.
pub(super) struct Pair {
    chain: Vec<CertificateDer<'static>>,
    /// When it is valid, and for what.
    pub(super) held: Held,
    /// By what the server knows it (RFC 9773 section 4.1); `None` where it doesn't say who signed it.
    pub(super) id: Option<CertificateIdentifier<'static>>,
}

fn crypto() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

impl Pair {
    /// Reads a private key and a chain.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence.
    pub(super) fn read(pem: &str) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| format!("no private key: {error}"))?;
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("no certificate: {error}"))?;
        let Some(leaf) = chain.first() else {
            return Err("no certificate in it".to_owned());
        };
        let (held, id) = facts(leaf)?;
        CertifiedKey::from_der(chain.clone(), key, &crypto())
            .map_err(|error| format!("certificate and key: {error}"))?;
        Ok(Self { chain, held, id })
    }

    /// Whether it may be used from now on for these names.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self, domains: &[String], now: SystemTime) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Certificate(why));
        if now >= self.held.not_after {
            return refuse("it has expired already".to_owned());
        }
        if now < self.held.not_before {
            return refuse("it is not yet valid; is this host's clock right?".to_owned());
        }
        for domain in domains {
            if !self.held.names.contains(domain) {
                return refuse(format!("it isn't for {domain}"));
            }
        }
        if let [leaf, between @ .., last] = &*self.chain {
            self.check_chain(leaf, between, last, domains, now)?;
        }
        Ok(())
    }

    /// Every certificate must be signed by the next.
    fn check_chain(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        last: &CertificateDer<'static>,
        domains: &[String],
        now: SystemTime,
    ) -> Result<(), Error> {
        let refuse = |why: &dyn std::fmt::Display| {
            Error::Certificate(format!("its chain doesn't hold: {why}"))
        };
        let mut anchors = RootCertStore::empty();
        anchors.add(last.clone()).map_err(|error| refuse(&error))?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(anchors), Arc::new(crypto()))
                .build()
                .map_err(|error| refuse(&error))?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(since.unwrap_or_default());
        for domain in domains {
            let name = ServerName::try_from(domain.as_str()).map_err(|error| refuse(&error))?;
            verifier
                .verify_server_cert(leaf, between, &name, &[], now)
                .map_err(|error| refuse(&error))?;
        }
        Ok(())
    }
}

fn facts(
    leaf: &CertificateDer<'_>,
) -> Result<(Held, Option<CertificateIdentifier<'static>>), String> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| "not a certificate".to_owned())?;
    let names =
        leaf.subject_alternative_name()
            .ok()
            .flatten()
            .map_or_else(BTreeSet::new, |names| {
                let dns = names
                    .value
                    .general_names
                    .iter()
                    .filter_map(|name| match name {
                        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                        _ => None,
                    });
                dns.collect()
            });
    let held = Held {
        not_before: moment(leaf.validity().not_before.timestamp()),
        not_after: moment(leaf.validity().not_after.timestamp()),
        names,
    };
    let authority =
        leaf.extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(it) => it.key_identifier.as_ref(),
                _ => None,
            });
    let id = authority.map(|authority| {
        CertificateIdentifier::new(
            Der::from_slice(authority.0),
            Der::from_slice(leaf.raw_serial()),
        )
        .into_owned()
    });
    Ok((held, id))
}

/// From seconds since 1970; what is before counts as 1970.
fn moment(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    /// An authority, and what it signs.
    struct Signer {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    fn signer(name: &str) -> Signer {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Signer {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    const NOW: i64 = 1_800_000_000;

    fn now() -> SystemTime {
        moment(NOW)
    }

    /// A key and a certificate for these names, `days` old, valid for ninety.
    fn signed(by: &Signer, names: &[&str], days_old: i64) -> (String, String) {
        let names: Vec<_> = names.iter().map(|it| (*it).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        let from = NOW - days_old * 86_400;
        let from = Duration::from_secs(from.try_into().expect("after 1970"));
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + from;
        params.not_after = params.not_before + Duration::from_secs(90 * 86_400);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &by.issuer).expect("signed");
        (key.serialize_pem(), certificate.pem())
    }

    fn domains() -> [String; 2] {
        ["a.test", "b.test"].map(str::to_owned)
    }

    fn refused(pem: &str) -> String {
        let pair = Pair::read(pem).expect("a pair");
        let error = pair.check(&domains(), now()).expect_err("it is refused");
        error.to_string()
    }

    #[test]
    fn a_sound_one_is_used() {
        let signer = signer("one");
        let (key, leaf) = signed(&signer, &["b.test", "A.test"], 1);
        let pair = Pair::read(&format!("{key}{leaf}{}", signer.pem)).expect("a pair");
        assert_eq!(pair.held.not_before, moment(NOW - 86_400));
        assert_eq!(pair.held.not_after, moment(NOW + 89 * 86_400));
        assert_eq!(pair.held.names, domains().into());
        assert!(pair.id.is_some(), "no identifier");
        pair.check(&domains(), now()).expect("it is sound");
        let alone = Pair::read(&format!("{key}{leaf}")).expect("a pair");
        alone.check(&domains(), now()).expect("it is sound");
    }

    #[test]
    fn one_that_is_expired_early_or_for_other_names_is_refused() {
        let signer = signer("one");
        let pem = |names: &[&str], days| {
            let (key, leaf) = signed(&signer, names, days);
            format!("{key}{leaf}{}", signer.pem)
        };
        let both = ["a.test", "b.test"];
        assert!(refused(&pem(&both, 90)).contains("expired already"));
        assert!(refused(&pem(&both, -1)).contains("not yet valid"));
        assert!(refused(&pem(&["a.test"], 0)).contains("isn't for b.test"));
    }

    #[test]
    fn a_chain_that_does_not_hold_is_refused() {
        let (one, other) = (signer("one"), signer("one"));
        let (key, leaf) = signed(&one, &["a.test", "b.test"], 1);
        let said = refused(&format!("{key}{leaf}{}", other.pem));
        assert!(said.contains("its chain doesn't hold"), "{said}");
        // What is too much in it does no harm.
        let pair = Pair::read(&format!("{key}{leaf}{}{}", other.pem, one.pem)).expect("a pair");
        pair.check(&domains(), now()).expect("it holds");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let signer = signer("one");
        let (_, leaf) = signed(&signer, &["a.test"], 1);
        let (other, _) = signed(&signer, &["a.test"], 1);
        let why = Pair::read(&format!("{other}{leaf}"))
            .err()
            .expect("refused");
        assert!(why.contains("certificate and key"), "{why}");
    }

    #[test]
    fn what_is_no_pair_is_no_pair() {
        let signer = signer("one");
        let (key, leaf) = signed(&signer, &["a.test"], 1);
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for pem in ["", "nonsense", &key, &leaf, &format!("{key}{junk}")] {
            assert!(Pair::read(pem).is_err(), "{pem}");
        }
    }
}
