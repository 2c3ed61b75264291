//! Which certificate a client is shown, by the server name that it asks for (RFC 6066, section 3).

use super::challenges::Challenges;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// Certificates by name: exact, then the wildcard of one label, then the default, which is the first.
#[derive(Debug, Default)]
pub struct ByName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl ByName {
    /// Adds a certificate under its names (lower case); gives back those that another already has.
    pub fn add(&mut self, names: &[String], certified: &Arc<CertifiedKey>) -> Vec<String> {
        let mut taken = Vec::new();
        for name in names {
            let (map, key) = match name.strip_prefix("*.") {
                Some(rest) => (&mut self.wildcard, rest),
                None => (&mut self.exact, name.as_str()),
            };
            if map.contains_key(key) {
                taken.push(name.clone());
            } else {
                map.insert(key.to_owned(), Arc::clone(certified));
            }
        }
        self.default.get_or_insert_with(|| Arc::clone(certified));
        taken
    }

    /// No certificate at all: ACME hasn't got one yet.
    pub fn is_empty(&self) -> bool {
        self.default.is_none()
    }

    fn pick(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        name.and_then(|name| {
            self.exact.get(name).or_else(|| {
                let (_, rest) = name.split_once('.')?;
                self.wildcard.get(rest)
            })
        })
        .or(self.default.as_ref())
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives it in lower case.
        self.pick(hello.server_name()).cloned()
    }
}

/// Certificates that answer ACME's tls-alpn-01.
#[derive(Debug)]
pub struct OfChallenges(pub Challenges);

impl ResolvesServerCert for OfChallenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.alpn(hello.server_name()?)
    }
}
