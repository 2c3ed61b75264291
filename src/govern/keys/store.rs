//! Keys made at run time: made, listed, revoked and replaced by whoever commands weir, and known to every
//! process of it soon after. They are kept in `state_dir/keys.json`.
//!
//! ```text
//!   create, revoke, rotate ─ lock, read, write ─▶ keys.json ◀─ look, 4 times a second ─ each process
//! ```
//!
//! A file that is damaged changes nothing for those who know the last good one, and is never written
//! over; a process that starts with it refuses keys made at run time. A file that is taken away takes
//! its keys with it.

use super::file::{self, Entry, Fault, Replaced, Stamp};
use super::secret::{self, digest};
use super::words::Agreed;
use super::{Keys, Teams};
use crate::govern::settings::{Credential, Key};
use crate::types::digest::Digest;
use crate::types::{Secret, is_name};
use ahash::AHashMap;
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

pub use super::file::{Limits, Moment, Spending};

/// How often each process looks whether the file has changed.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Keys made at run time.
const KEYS_MAX: usize = 10_000;
/// Replaced secrets of one key that are good at once.
const REPLACED_MAX: usize = 8;
/// How long a replaced secret may be good.
const OVERLAP_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// The keys made at run time, as this process knows them, and where they are kept.
#[derive(Debug)]
pub struct KeyStore {
    folder: PathBuf,
    known: ArcSwap<Table>,
    seen: Mutex<Seen>,
    watched: AtomicBool,
    /// Told after each change that this process makes.
    changed: Arc<Notify>,
    /// What was last shared with other hosts.
    agreed: Mutex<Agreed>,
}

#[derive(Debug, Default)]
struct Seen {
    stamp: Stamp,
    /// Why the file can't be used, as it was told last.
    fault: Option<String>,
}

/// All keys, by the digests of their secrets.
#[derive(Debug, Default)]
pub(super) struct Table {
    by_digest: AHashMap<Digest, Made>,
    by_name: AHashMap<(String, String), Arc<Key>>,
}

/// One secret of a key.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) team: Arc<str>,
    pub(super) key: Arc<Key>,
    /// It has been replaced, and is good until then.
    pub(super) until: Option<SystemTime>,
}

/// A key that somebody wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    /// A team of the configuration.
    pub team: String,
    /// The key's name, 1 to 64 letters, digits and `. _ - :`; `None`: weir finds one.
    pub name: Option<String>,
    /// From when on it isn't accepted.
    pub expires: Option<Moment>,
    /// Models that it may use, of those of its team.
    pub models: Option<Vec<String>>,
    /// What it may use, within what its team may.
    pub limits: Limits,
    /// What it may spend.
    pub budgets: Vec<Spending>,
}

/// A key that was made, or has a new secret. The secret is told this once.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Its team.
    pub team: String,
    /// Its name.
    pub name: String,
    /// What clients send.
    pub secret: Secret<String>,
    /// From when on it isn't accepted.
    pub expires: Option<Moment>,
    /// How long the secret before it is good.
    pub replaced_until: Option<Moment>,
}

/// A key as it is listed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    /// Its team.
    pub team: String,
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// Whether it is accepted.
    pub state: State,
    /// `sha256` or `client_cert`.
    pub credential: String,
    /// When it was made, at run time.
    pub created: Option<Moment>,
    /// From when on it isn't accepted.
    pub expires: Option<Moment>,
    /// How long a secret that was replaced is still good.
    pub replaced_until: Option<Moment>,
    /// Models that it may use, of those of its team.
    pub models: Option<Vec<String>>,
    /// What it may use, within what its team may.
    pub limits: Limits,
    /// What it may spend.
    pub budgets: Vec<Spending>,
}

/// Where a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The configuration.
    Configuration,
    /// Made at run time.
    Made,
}

/// Whether a key is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is.
    Active,
    /// Its time is over.
    Expired,
    /// The configuration has no such team any more.
    NoTeam,
    /// The configuration has a key of the same name.
    Shadowed,
}

/// Why a key was not made, revoked or given a new secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// The configuration has no teams: nobody needs a key.
    Open,
    /// The configuration has no such team.
    NoTeam(String),
    /// There is a key of this name.
    Taken(String),
    /// No key of this name was made at run time.
    NoKey(String),
    /// The key stands in the configuration.
    Written(String),
    /// Something about the wish is wrong.
    Wrong(String),
    /// The file can't be read or written.
    File(String),
}

// === impl KeyStore ===

impl KeyStore {
    /// Below this `state_dir`; touches nothing yet, and knows no key.
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            folder: state_dir,
            known: ArcSwap::default(),
            seen: Mutex::default(),
            watched: AtomicBool::new(false),
            changed: Arc::default(),
            agreed: Mutex::default(),
        }
    }

    /// Looks at once, and from now on again and again, until nobody has the store any more; a second call
    /// does nothing.
    pub fn watch(self: &Arc<Self>) {
        if self.watched.swap(true, Ordering::Relaxed) {
            return;
        }
        self.look();
        let store = Arc::downgrade(self);
        // A thread of its own: those that count tokens may all be busy for longer than a revoked key may
        // still be taken.
        let watcher = std::thread::Builder::new().name("weir-keys".into());
        let watching = watcher.spawn(move || {
            loop {
                std::thread::sleep(LOOK_INTERVAL);
                let Some(store) = store.upgrade() else { return };
                store.look();
            }
        });
        if let Err(error) = watching {
            self.watched.store(false, Ordering::Relaxed);
            tracing::error!(%error, "changes of the keys made at run time will not be noticed");
        }
    }

    /// Takes over what the file says, if it has changed; why it can't be used, if it can't.
    pub fn look(&self) -> Option<String> {
        let mut seen = self.seen.lock();
        let stamp = file::stamp(&self.folder);
        if stamp == seen.stamp {
            return seen.fault.clone();
        }
        let first = seen.stamp == Stamp::Unseen;
        let read = match file::read(&self.folder) {
            // Not made yet.
            Err(Fault::System(_)) if first && !self.folder.exists() => Ok(Vec::new()),
            read => read,
        };
        let table = read.and_then(|entries| Table::new(&entries));
        let fault = match table {
            Ok(table) => {
                if seen.fault.is_some() || !first {
                    tracing::info!(
                        keys = table.by_name.len(),
                        "the keys made at run time changed"
                    );
                }
                self.known.store(Arc::new(table));
                seen.stamp = stamp;
                None
            }
            Err(Fault::Corrupt(why)) => {
                seen.stamp = stamp;
                Some(why)
            }
            // It may be well again without looking different.
            Err(Fault::System(why)) => Some(why),
        };
        if let Some(why) = fault
            .as_ref()
            .filter(|why| seen.fault.as_ref() != Some(why))
        {
            let keys = self.known.load().by_name.len();
            tracing::error!(
                %why,
                keys,
                "the file of the keys made at run time can't be used: those that were known before go \
                 on, and all others are refused, until it is mended, or removed with its keys"
            );
        }
        seen.fault.clone_from(&fault);
        fault
    }

    /// Makes a key. Every process of this weir knows it within a second.
    ///
    /// # Errors
    /// Why not. Nothing is changed then.
    pub fn create(
        &self,
        teams: Option<&Teams>,
        wish: &Wish,
        now: SystemTime,
    ) -> Result<Issued, StoreFault> {
        let teams = teams.ok_or(StoreFault::Open)?;
        if teams.team(&wish.team).is_none() {
            return Err(StoreFault::NoTeam(wish.team.clone()));
        }
        let name = match &wish.name {
            Some(name) => name.clone(),
            None => format!("key-{}", secret::letters(8).map_err(StoreFault::Wrong)?),
        };
        if !is_name(&name) {
            let what = "a key's name has 1 to 64 letters, digits and . _ - :";
            return Err(StoreFault::Wrong(what.into()));
        }
        if wish.expires.is_some_and(|expires| expires.0 <= now) {
            return Err(StoreFault::Wrong(
                "the key would have expired already".into(),
            ));
        }
        let secret = secret::fresh().map_err(StoreFault::Wrong)?;
        let entry = Entry {
            team: wish.team.clone(),
            name,
            sha256: digest(secret.expose().as_bytes()),
            created: Moment(now),
            expires: wish.expires,
            models: wish.models.clone(),
            limits: wish.limits,
            budgets: wish.budgets.clone(),
            replaced: Vec::new(),
        };
        key_of(&entry).map_err(StoreFault::Wrong)?;
        let called = called(&entry.team, &entry.name);
        self.change(|entries| {
            let same = |other: &Entry| other.team == entry.team && other.name == entry.name;
            if teams.has_written(&entry.team, &entry.name) || entries.iter().any(same) {
                return Err(StoreFault::Taken(called.clone()));
            }
            if entries.len() >= KEYS_MAX {
                let what = format!("there are {KEYS_MAX} keys already; revoke some");
                return Err(StoreFault::Wrong(what));
            }
            entries.push(entry.clone());
            Ok(())
        })?;
        tracing::info!(team = entry.team, key = entry.name, "a key was made");
        Ok(Issued {
            team: entry.team,
            name: entry.name,
            secret,
            expires: entry.expires,
            replaced_until: None,
        })
    }

    /// All keys: those of the configuration, and those made at run time, by team and name.
    ///
    /// # Errors
    /// The file can't be used.
    pub fn list(&self, teams: Option<&Teams>, now: SystemTime) -> Result<Vec<Listed>, StoreFault> {
        let entries = match file::read(&self.folder) {
            Err(_) if !self.folder.exists() => Vec::new(),
            read => read?,
        };
        let teams_ = teams.map(Teams::all).unwrap_or_default();
        let written = teams_.into_iter().flat_map(|team| {
            let keys = team.keys.iter();
            keys.map(|key| Listed::written(&team.name, key, now))
        });
        let made = entries.iter().map(|entry| Listed::made(entry, teams, now));
        let mut all: Vec<Listed> = written.chain(made).collect();
        all.sort_by(|a, b| (&a.team, &a.name).cmp(&(&b.team, &b.name)));
        Ok(all)
    }

    /// Takes a key back. No process of this weir accepts it after a second.
    ///
    /// # Errors
    /// There is none, it stands in the configuration, or the file can't be changed.
    pub fn revoke(&self, teams: Option<&Teams>, team: &str, name: &str) -> Result<(), StoreFault> {
        self.change(|entries| {
            let at = position(entries, teams, team, name)?;
            entries.remove(at);
            Ok(())
        })?;
        tracing::info!(team, key = name, "a key was revoked");
        Ok(())
    }

    /// Gives a key a new secret; the one that it has is good for `overlap`.
    ///
    /// # Errors
    /// There is no such key, it stands in the configuration, or the file can't be changed.
    pub fn rotate(
        &self,
        teams: Option<&Teams>,
        team: &str,
        name: &str,
        overlap: Duration,
        now: SystemTime,
    ) -> Result<Issued, StoreFault> {
        if overlap > OVERLAP_MAX {
            return Err(StoreFault::Wrong("an overlap is at most 366 days".into()));
        }
        let secret = secret::fresh().map_err(StoreFault::Wrong)?;
        let until = (!overlap.is_zero()).then(|| Moment(now + overlap));
        let mut expires = None;
        self.change(|entries| {
            let at = position(entries, teams, team, name)?;
            let entry = &mut entries[at];
            if entry.expires.is_some_and(|expires| expires.0 <= now) {
                let what = "the key has expired; revoke it, and make another one";
                return Err(StoreFault::Wrong(what.into()));
            }
            let sha256 = digest(secret.expose().as_bytes());
            let before = std::mem::replace(&mut entry.sha256, sha256);
            entry.replaced.retain(|old| old.until.0 > now);
            // Without an overlap all that came before ends: somebody may have stolen it.
            match until {
                Some(until) => entry.replaced.push(Replaced {
                    sha256: before,
                    until,
                }),
                None => entry.replaced.clear(),
            }
            let too_many = entry.replaced.len().saturating_sub(REPLACED_MAX);
            entry.replaced.drain(..too_many);
            expires = entry.expires;
            Ok(())
        })?;
        tracing::info!(team, key = name, ?overlap, "a key was given a new secret");
        Ok(Issued {
            team: team.to_owned(),
            name: name.to_owned(),
            secret,
            expires,
            replaced_until: until,
        })
    }

    /// Changes the file under its lock. One that can't be read is left as it is.
    fn change(
        &self,
        change: impl FnOnce(&mut Vec<Entry>) -> Result<(), StoreFault>,
    ) -> Result<(), StoreFault> {
        {
            let lock = file::lock(&self.folder)?;
            let mut entries = file::read(&self.folder)?;
            change(&mut entries)?;
            file::write(&self.folder, &entries, &lock)?;
            self.know(&entries);
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Takes over what was just written, under the lock: to read thousands of keys once more takes long.
    pub(super) fn know(&self, entries: &[Entry]) {
        let mut seen = self.seen.lock();
        // What can't be used is told by whoever looks.
        if let Ok(table) = Table::new(entries) {
            self.known.store(Arc::new(table));
            seen.stamp = file::stamp(&self.folder);
            seen.fault = None;
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }

    pub(super) fn agreed(&self) -> &Mutex<Agreed> {
        &self.agreed
    }

    pub(super) fn known(&self) -> Guard<Arc<Table>> {
        self.known.load()
    }

    pub(super) fn named(&self, team: &str, name: &str) -> Option<Arc<Key>> {
        let key = (team.to_owned(), name.to_owned());
        self.known.load().by_name.get(&key).cloned()
    }
}

/// Where the key is among those made at run time.
fn position(
    entries: &[Entry],
    teams: Option<&Teams>,
    team: &str,
    name: &str,
) -> Result<usize, StoreFault> {
    let mut all = entries.iter();
    let at = all.position(|entry| entry.team == team && entry.name == name);
    at.ok_or_else(|| match teams {
        Some(teams) if teams.has_written(team, name) => StoreFault::Written(called(team, name)),
        _ => StoreFault::NoKey(called(team, name)),
    })
}

fn called(team: &str, name: &str) -> String {
    format!("{team}/{name}")
}

pub(super) fn key_of(entry: &Entry) -> Result<Key, String> {
    Ok(Key {
        name: entry.name.as_str().into(),
        credential: Credential::Sha256(entry.sha256),
        expires: entry.expires.map(|expires| expires.0),
        models: file::models(entry.models.as_deref())?,
        allowance: file::allowance(&entry.limits, &entry.budgets)?,
        priority: None,
    })
}

// === impl Table ===

impl Table {
    fn new(entries: &[Entry]) -> Result<Self, Fault> {
        let mut table = Self::default();
        for entry in entries {
            let wrong = |why| Fault::Corrupt(format!("keys.json has a key that can't be: {why}"));
            let key = Arc::new(key_of(entry).map_err(wrong)?);
            let made = |until| Made {
                team: entry.team.as_str().into(),
                key: Arc::clone(&key),
                until,
            };
            for old in &entry.replaced {
                table.by_digest.insert(old.sha256, made(Some(old.until.0)));
            }
            table.by_digest.insert(entry.sha256, made(None));
            let called = (entry.team.clone(), entry.name.clone());
            table.by_name.insert(called, key);
        }
        Ok(table)
    }

    pub(super) fn find(&self, digest: &Digest) -> Option<&Made> {
        self.by_digest.get(digest)
    }
}

// === impl Listed ===

impl Listed {
    fn written(team: &str, key: &Key, now: SystemTime) -> Self {
        let (limits, budgets) = Limits::of(&key.allowance);
        Self {
            team: team.to_owned(),
            name: key.name.to_string(),
            source: Source::Configuration,
            state: match key.expires {
                Some(expires) if expires <= now => State::Expired,
                _ => State::Active,
            },
            credential: match key.credential {
                Credential::Sha256(_) => "sha256",
                Credential::ClientCert(_) => "client_cert",
            }
            .to_owned(),
            created: None,
            expires: key.expires.map(Moment),
            replaced_until: None,
            models: key.models.as_ref().map(|models| models.patterns.clone()),
            limits,
            budgets,
        }
    }

    fn made(entry: &Entry, teams: Option<&Teams>, now: SystemTime) -> Self {
        let team = teams.and_then(|teams| teams.team(&entry.team));
        let state = match teams {
            _ if team.is_none() => State::NoTeam,
            Some(teams) if teams.has_written(&entry.team, &entry.name) => State::Shadowed,
            _ if entry.expires.is_some_and(|expires| expires.0 <= now) => State::Expired,
            _ => State::Active,
        };
        let replaced = entry.replaced.iter().map(|old| old.until);
        Self {
            team: entry.team.clone(),
            name: entry.name.clone(),
            source: Source::Made,
            state,
            credential: "sha256".to_owned(),
            created: Some(entry.created),
            expires: entry.expires,
            replaced_until: replaced.filter(|until| until.0 > now).max(),
            models: entry.models.clone(),
            limits: entry.limits,
            budgets: entry.budgets.clone(),
        }
    }
}

// === impl StoreFault ===

impl From<Fault> for StoreFault {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::System(why) => Self::File(why),
            Fault::Corrupt(why) => Self::File(format!(
                "{why}; mend it, or move it away to begin anew without its keys"
            )),
        }
    }
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("the configuration has no `teams`: nobody needs a key"),
            Self::NoTeam(team) => {
                write!(
                    f,
                    "no team is called {team:?}; add it to `teams` of the configuration"
                )
            }
            Self::Taken(key) => write!(f, "there is a key {key} already; choose another name"),
            Self::NoKey(key) => write!(f, "there is no key {key}; see `weir keys list`"),
            Self::Written(key) => {
                write!(
                    f,
                    "{key} stands in the configuration; change it there, and reload"
                )
            }
            Self::Wrong(what) | Self::File(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StoreFault {}

impl Keys {
    /// Every key with its state; see [`KeyStore::list`].
    ///
    /// # Errors
    /// The file of those made at run time can't be used.
    pub fn list(&self, now: SystemTime) -> Result<Vec<Listed>, StoreFault> {
        self.store.list(self.teams(), now)
    }
}
