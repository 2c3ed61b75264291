//! Who is asking: which team's which key a request shows. Keys stand in the configuration, or are made
//! at run time and kept in a file ([`store`]).
//!
//! Of a secret only its SHA-256 is kept, and found in a table by it. A comparison that ends early tells
//! an attacker something about a *digest* then, and nobody can choose secrets by their digests; so the
//! look-up needs no constant time, and takes no longer with ten thousand keys than with one.
//!
//! It never sees a header: `proxy::plan` finds what is presented and says what a fault means in HTTP.

mod file;
mod secret;
pub mod store;
#[cfg(test)]
mod tests;
mod words;

pub use secret::digest;
pub use store::KeyStore;

use super::addresses::Addresses;
use super::rate::{Late, Moment, Rate};
use super::settings::{Credential, Key, RateLimit, Team};
use crate::types::digest::Digest;
use crate::types::identity::Identity;
use ahash::{AHashMap, AHashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// All keys of one configuration, with those made at run time, which all configurations share.
#[derive(Clone, Debug)]
pub struct Keys {
    teams: Option<Arc<Teams>>,
    store: Arc<KeyStore>,
    failures: Arc<Addresses>,
}

/// The teams of one configuration, and the keys that stand in it.
#[derive(Debug, Default)]
pub struct Teams {
    by_name: AHashMap<Arc<str>, Known>,
    by_digest: AHashMap<Digest, Caller>,
    by_certificate: AHashMap<String, Caller>,
}

#[derive(Debug)]
struct Known {
    team: Arc<Team>,
    /// Names of its keys in the configuration.
    names: AHashSet<Arc<str>>,
}

/// Who asks. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The team.
    pub team: Arc<Team>,
    /// Which of its keys.
    pub key: Arc<Key>,
}

/// What a request shows of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presented<'a> {
    /// A secret that was sent with it.
    pub bearer: Option<&'a [u8]>,
    /// The verified certificate of its connection.
    pub certificate: Option<&'a Identity>,
}

/// Why nobody is known by what was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyFault {
    /// Nothing was presented.
    Missing,
    /// Several secrets were, and they differ.
    Several,
    /// No key is known by it.
    Invalid,
    /// The key's time, or the certificate's, is over.
    Expired,
}

/// Faults of one client address before it is asked to wait. Who has a good key never notices: this
/// bounds what answers and logs cost, not how often one may guess, for nobody guesses 256 bits.
const FAULTS: RateLimit = RateLimit {
    per_second: 1.0,
    burst: 100,
};

// === impl Keys ===

impl Keys {
    /// No teams yet; keys made at run time are kept in `state_dir`, which isn't touched.
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            teams: None,
            store: Arc::new(KeyStore::new(state_dir)),
            failures: Arc::default(),
        }
    }

    /// The same with other teams; `None` lets everybody in.
    #[must_use]
    pub fn with_teams(&self, teams: Option<&[Arc<Team>]>) -> Self {
        Self {
            teams: teams.map(|teams| Arc::new(Teams::new(teams))),
            ..self.clone()
        }
    }

    /// Nobody needs a key.
    pub fn is_open(&self) -> bool {
        self.teams.is_none()
    }

    /// The teams; `None` where nobody needs a key.
    pub fn teams(&self) -> Option<&Teams> {
        self.teams.as_deref()
    }

    /// Keys made at run time.
    pub fn store(&self) -> &Arc<KeyStore> {
        &self.store
    }

    /// Who asks; `None` where nobody needs a key. A secret counts before a certificate; one that no key
    /// is known by (SDKs insist on sending some) keeps nobody out whose certificate is a key.
    ///
    /// Takes no lock and allocates nothing.
    ///
    /// # Errors
    /// Nobody is known by what was presented.
    pub fn identify(
        &self,
        presented: Presented<'_>,
        now: SystemTime,
    ) -> Result<Option<Caller>, KeyFault> {
        let Some(teams) = &self.teams else {
            return Ok(None);
        };
        let by_secret = match presented.bearer {
            Some(secret) => self.by_digest(teams, &digest(secret), now),
            None => Err(KeyFault::Missing),
        };
        let caller = match by_secret {
            Err(fault @ (KeyFault::Missing | KeyFault::Invalid)) => {
                let by_certificate = presented
                    .certificate
                    .and_then(|identity| teams.by_certificate(identity, now));
                by_certificate.unwrap_or(Err(fault))
            }
            known => known,
        };
        caller.map(Some)
    }

    /// Whose key this is, whether its time is over or not; for people who ask.
    pub fn named(&self, team: &str, name: &str) -> Option<Caller> {
        let known = self.teams.as_ref()?.by_name.get(team)?;
        let written = known.team.keys.iter().find(|key| &*key.name == name);
        let key = match written {
            Some(key) => Arc::clone(key),
            None => self.store.named(team, name)?,
        };
        Some(Caller {
            team: Arc::clone(&known.team),
            key,
        })
    }

    /// A client failed to show who it is.
    ///
    /// # Errors
    /// It did so too often: how long it is to wait.
    pub fn failed(&self, client: Option<IpAddr>, now: Moment) -> Result<(), Duration> {
        let Some(client) = client else { return Ok(()) };
        let slot = self.failures.slot(client, now);
        let rate = Rate::per_second(FAULTS.per_second, FAULTS.burst);
        match rate.take(&slot.rate, 1, now) {
            Err(Late::For(wait)) => Err(wait),
            _ => Ok(()),
        }
    }

    fn by_digest(
        &self,
        teams: &Teams,
        digest: &Digest,
        now: SystemTime,
    ) -> Result<Caller, KeyFault> {
        if let Some(caller) = teams.by_digest.get(digest) {
            return in_time(caller.clone(), None, now);
        }
        let made = self.store.known();
        let made = made.find(digest).ok_or(KeyFault::Invalid)?;
        let known = teams.by_name.get(&made.team).ok_or(KeyFault::Invalid)?;
        if known.names.contains(&made.key.name) {
            // The configuration has given the name to another key since.
            return Err(KeyFault::Invalid);
        }
        let caller = Caller {
            team: Arc::clone(&known.team),
            key: Arc::clone(&made.key),
        };
        in_time(caller, made.until, now)
    }
}

fn in_time(caller: Caller, until: Option<SystemTime>, now: SystemTime) -> Result<Caller, KeyFault> {
    let ends = [caller.key.expires, until];
    if ends.into_iter().flatten().any(|end| end <= now) {
        return Err(KeyFault::Expired);
    }
    Ok(caller)
}

// === impl Teams ===

impl Teams {
    /// Tables of checked settings: names and credentials are unique.
    fn new(all: &[Arc<Team>]) -> Self {
        let mut teams = Self::default();
        for team in all {
            for key in &team.keys {
                let caller = Caller {
                    team: Arc::clone(team),
                    key: Arc::clone(key),
                };
                match &key.credential {
                    Credential::Sha256(digest) => drop(teams.by_digest.insert(*digest, caller)),
                    Credential::ClientCert(name) => {
                        teams.by_certificate.insert(name.clone(), caller);
                    }
                }
            }
            let known = Known {
                team: Arc::clone(team),
                names: team.keys.iter().map(|key| Arc::clone(&key.name)).collect(),
            };
            teams.by_name.insert(Arc::clone(&team.name), known);
        }
        teams
    }

    /// A team by its name.
    pub fn team(&self, name: &str) -> Option<&Arc<Team>> {
        self.by_name.get(name).map(|known| &known.team)
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<&Arc<Team>> {
        let mut all: Vec<_> = self.by_name.values().map(|known| &known.team).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// By one of the certificate's URIs, else by its subject; `None` where it is no key.
    fn by_certificate(
        &self,
        identity: &Identity,
        now: SystemTime,
    ) -> Option<Result<Caller, KeyFault>> {
        let mut names = identity.uris.iter().chain([&identity.subject]);
        let caller = names.find_map(|name| self.by_certificate.get(name))?;
        // A connection may outlive the certificate that it began with.
        Some(in_time(caller.clone(), Some(identity.not_after), now))
    }

    /// The configuration has a key of this name.
    fn has_written(&self, team: &str, name: &str) -> bool {
        let known = self.by_name.get(team);
        known.is_some_and(|known| known.names.contains(name))
    }
}

// === impl Caller ===

impl Caller {
    /// Whether it may use a model that the request names, or the path of a request that names none;
    /// `stands_for` is what the name is an alias of. Team and key must both allow one of the two.
    pub fn may_use(&self, name: &str, stands_for: Option<&str>) -> bool {
        let lists = [&self.team.models, &self.key.models];
        lists.into_iter().flatten().all(|models| {
            models.contain(name) || stands_for.is_some_and(|name| models.contain(name))
        })
    }

    /// There are models that it may not use.
    pub fn is_restricted(&self) -> bool {
        self.team.models.is_some() || self.key.models.is_some()
    }
}

// === impl KeyFault ===

impl KeyFault {
    /// In metrics and answers.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Missing => "missing_key",
            Self::Several | Self::Invalid => "invalid_key",
            Self::Expired => "expired_key",
        }
    }
}
