//! Keys made at run time as several hosts know them: of each the last word that was said on any host, its
//! entry or that it was revoked. Called by whoever shares words.
//!
//! ```text
//!   keys.json ──▶ what has changed since the last agreement is a new word ──▶ others
//!       ▲                        keys.words.json                               │
//!       └────────────── a younger word of another host ◀────────────────────────┘
//! ```
//!
//! A host that was away tells and hears all that was said meanwhile; one that comes anew, with no keys,
//! gets those of the others. Whoever takes the file of the keys away has revoked them, on all hosts.

use super::file::{self, Entry, Fault};
use super::store::{KeyStore, StoreFault, key_of};
use crate::govern::shared::{Word, Words};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

const NAME: &str = "keys.words.json";
/// That a key was revoked is remembered for so long.
const REVOKED: Duration = Duration::from_secs(100 * 24 * 3600);

/// The words of this host as they were last agreed on, by `TEAM/NAME`.
type Known = BTreeMap<String, Said>;

/// The last word on a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Said {
    version: i64,
    /// `None`: it was revoked.
    entry: Option<Entry>,
}

impl Words for KeyStore {
    fn news(&self) -> Arc<Notify> {
        Arc::clone(self.changed())
    }

    fn have_changed(&self) -> bool {
        *self.agreed().lock() != file::stamp(self.folder())
    }

    fn agree(&self, others: &[Word]) -> Result<Vec<Word>, String> {
        let ours = self.agree_at(others, SystemTime::now());
        ours.map_err(|fault| StoreFault::from(fault).to_string())
    }
}

impl KeyStore {
    fn agree_at(&self, others: &[Word], now: SystemTime) -> Result<Vec<Word>, Fault> {
        let folder = self.folder();
        let lock = file::lock(folder)?;
        let mut entries = file::read(folder)?;
        let mut known: Known = file::other(folder, NAME)?.unwrap_or_default();
        let before = known.clone();
        learn(&mut known, &entries, now);
        let changed = take_over(&mut known, &mut entries, others, now);
        if changed {
            file::write(folder, entries, &lock)?;
        }
        // Whoever ends here says once more what it has just heard: that changes nothing.
        if known != before {
            file::write_other(folder, NAME, &known)?;
        }
        *self.agreed().lock() = file::stamp(folder);
        drop(lock);
        if changed {
            self.look();
        }
        Ok(unknown_to(others, &known))
    }
}

/// What was made, changed or revoked here since the last agreement are new words.
fn learn(known: &mut Known, entries: &[Entry], now: SystemTime) {
    let next = |before: i64| micros(now).max(before.saturating_add(1));
    for (name, said) in known.iter_mut() {
        let is_there = entries.iter().any(|entry| name_of(entry) == *name);
        if said.entry.is_some() && !is_there {
            said.version = next(said.version);
            said.entry = None;
        }
    }
    for entry in entries {
        let said = known.entry(name_of(entry)).or_insert(Said {
            version: 0,
            entry: None,
        });
        if said.entry.as_ref() != Some(entry) {
            said.version = next(said.version);
            said.entry = Some(entry.clone());
        }
    }
    let forgotten = micros(now - REVOKED);
    known.retain(|_, said| said.entry.is_some() || said.version > forgotten);
}

/// Takes younger words of others; true where keys have changed by that.
fn take_over(
    known: &mut Known,
    entries: &mut Vec<Entry>,
    others: &[Word],
    now: SystemTime,
) -> bool {
    let forgotten = micros(now - REVOKED);
    let mut changed = false;
    for word in others {
        let version = known.get(&word.name).map_or(i64::MIN, |said| said.version);
        if word.version <= version {
            continue;
        }
        // What another version of weir says, or who isn't weir.
        let Some(entry) = read(word) else {
            tracing::warn!(
                key = word.name,
                "another host says something of this key that isn't understood"
            );
            continue;
        };
        if entry.is_none() && word.version <= forgotten {
            continue;
        }
        let place = entries.iter().position(|it| name_of(it) == word.name);
        match (place, &entry) {
            (Some(place), Some(entry)) => entries[place] = entry.clone(),
            (Some(place), None) => drop(entries.remove(place)),
            (None, Some(entry)) => entries.push(entry.clone()),
            (None, None) => {}
        }
        changed |= place.is_some() || entry.is_some();
        let version = word.version;
        known.insert(word.name.clone(), Said { version, entry });
    }
    changed
}

/// The outer `None` is what isn't understood.
fn read(word: &Word) -> Option<Option<Entry>> {
    let entry: Option<Entry> = serde_json::from_str(&word.text).ok()?;
    let sound = entry
        .as_ref()
        .is_none_or(|entry| name_of(entry) == word.name && key_of(entry).is_ok());
    sound.then_some(entry)
}

fn unknown_to(others: &[Word], known: &Known) -> Vec<Word> {
    let theirs: BTreeMap<&str, i64> = others.iter().map(|it| (&*it.name, it.version)).collect();
    let new = known.iter().filter(|(name, said)| {
        let version = theirs.get(name.as_str());
        version.is_none_or(|version| *version < said.version)
    });
    let words = new.filter_map(|(name, said)| {
        Some(Word {
            name: name.clone(),
            version: said.version,
            text: serde_json::to_string(&said.entry).ok()?,
        })
    });
    words.collect()
}

fn name_of(entry: &Entry) -> String {
    format!("{}/{}", entry.team, entry.name)
}

fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::govern::keys::Teams;
    use crate::govern::keys::store::Wish;
    use crate::govern::settings::{Allowance, Team};

    fn teams() -> Teams {
        Teams::new(&[Arc::new(Team {
            name: "search".into(),
            models: None,
            allowance: Allowance::default(),
            keys: Vec::new(),
        })])
    }

    fn store(name: &str) -> KeyStore {
        let name = format!("weir-words-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        KeyStore::new(folder)
    }

    fn create(store: &KeyStore, name: &str) {
        let wish = Wish {
            team: "search".into(),
            name: Some(name.into()),
            ..Wish::default()
        };
        (store.create(Some(&teams()), &wish, SystemTime::now())).unwrap();
    }

    fn names(store: &KeyStore) -> Vec<String> {
        let entries = file::read(store.folder()).unwrap();
        let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
        names.sort();
        names
    }

    #[test]
    fn hosts_agree_whoever_speaks_first() {
        let (one, two) = (store("one"), store("two"));
        create(&one, "a");
        create(&two, "b");
        let said = one.agree(&[]).unwrap();
        assert_eq!(said.len(), 1);
        let said = two.agree(&said).unwrap();
        assert!(
            one.agree(&said)
                .unwrap()
                .iter()
                .all(|word| word.name == "search/a")
        );
        assert_eq!(
            (names(&one), names(&two)),
            (names(&two), vec!["a".into(), "b".into()])
        );
        assert!(!one.have_changed() && !two.have_changed());

        two.revoke(Some(&teams()), "search", "a").unwrap();
        assert!(two.have_changed());
        let before = one.agree(&[]).unwrap();
        let said = two.agree(&before).unwrap();
        assert_eq!(said.len(), 1, "only what is new");
        one.agree(&said).unwrap();
        assert_eq!(names(&one), ["b"]);
        // Somebody who was away says what was true before.
        one.agree(&before).unwrap();
        two.agree(&before).unwrap();
        assert_eq!(
            (names(&one), names(&two)),
            (vec!["b".into()], vec!["b".into()])
        );
        for store in [one, two] {
            std::fs::remove_dir_all(store.folder()).unwrap();
        }
    }

    #[test]
    fn what_isnt_understood_changes_nothing() {
        let one = store("junk");
        create(&one, "a");
        let word = |name: &str, text: &str| Word {
            name: name.into(),
            version: i64::MAX,
            text: text.into(),
        };
        let ours = one.agree(&[]).unwrap();
        let others = [
            word("search/a", "no json"),
            word("search/a", "{}"),
            word("search/other", &ours[0].text),
        ];
        one.agree(&others).unwrap();
        assert_eq!(names(&one), ["a"]);
        std::fs::remove_dir_all(one.folder()).unwrap();
    }
}
