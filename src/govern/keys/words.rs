//! Keys made at run time as several hosts know them: of each the last word that was said on any host, its
//! entry or that it was revoked. Called by whoever shares words.
//!
//! ```text
//!   keys.json ──▶ what has changed since the last agreement is a new word ──▶ others
//!       ▲                        keys.words.json                               │
//!       └────────────── a younger word of another host ◀────────────────────────┘
//! ```
//!
//! An agreement reads what this host has, and takes time in proportion to it; what is told and heard is
//! only what is new.
//!
//! A host that was away tells and hears all that was said meanwhile; one that comes anew, with no keys,
//! gets those of the others. Whoever takes the file of the keys away has revoked them, on all hosts.

use super::file::{self, Entry, Fault, Stamp};
use super::store::{KeyStore, StoreFault, key_of};
use crate::govern::shared::{Versions, Word, Words};
use ahash::AHashMap;
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

/// What was last shared. It has all keys a second time: to read thousands of them takes long.
#[derive(Debug, Default)]
pub(super) struct Agreed {
    /// The file of the keys, as it was then.
    keys: Stamp,
    /// The file of their words, as this process has written it.
    words: Stamp,
    /// What stands in that.
    known: Known,
}

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
        self.agreed().lock().keys != file::stamp(self.folder())
    }

    fn agree(&self, others: &[Word], known: &Versions) -> Result<Vec<Word>, String> {
        let ours = self.agree_at(others, known, SystemTime::now());
        ours.map_err(|fault| StoreFault::from(fault).to_string())
    }
}

impl KeyStore {
    fn agree_at(
        &self,
        others: &[Word],
        theirs: &Versions,
        now: SystemTime,
    ) -> Result<Vec<Word>, Fault> {
        let folder = self.folder();
        let lock = file::lock(folder)?;
        let mut keys = Keyed::new(file::read(folder)?);
        let mut agreed = self.agreed().lock();
        // Where this doesn't come to its end, they are read again.
        let before = std::mem::take(&mut *agreed);
        let mut known = match file::stamp_other(folder, NAME) {
            stamp @ Stamp::There { .. } if stamp == before.words => before.known,
            _ => file::other(folder, NAME)?.unwrap_or_default(),
        };
        let learnt = learn(&mut known, &keys, now);
        let taken = take_over(&mut known, &mut keys, others, now);
        if taken.keys {
            let entries = keys.entries();
            file::write(folder, &entries, &lock)?;
            // At once: who has a key that was revoked waits for nothing that comes after.
            self.know(&entries);
        }
        // Whoever ends here says once more what it has just heard: that changes nothing.
        if learnt || taken.words {
            file::write_other(folder, NAME, &known)?;
        }
        let mut ours = unknown_to(theirs, &known);
        ours.extend(outlived(others, &known, now));
        *agreed = Agreed {
            keys: file::stamp(folder),
            words: file::stamp_other(folder, NAME),
            known,
        };
        drop(lock);
        Ok(ours)
    }
}

/// The keys of the file in their order, found by `TEAM/NAME`.
struct Keyed {
    entries: Vec<Option<Entry>>,
    places: AHashMap<String, usize>,
}

/// What has changed.
#[derive(Default)]
struct Taken {
    keys: bool,
    words: bool,
}

/// What was made, changed or revoked here since the last agreement are new words; true where there are.
fn learn(known: &mut Known, keys: &Keyed, now: SystemTime) -> bool {
    let next = |before: i64| micros(now).max(before.saturating_add(1));
    let mut learnt = false;
    for (name, said) in known.iter_mut() {
        let entry = keys.find(name);
        if said.entry.as_ref() != entry {
            said.version = next(said.version);
            said.entry = entry.cloned();
            learnt = true;
        }
    }
    for entry in keys.entries.iter().flatten() {
        known.entry(name_of(entry)).or_insert_with(|| {
            learnt = true;
            Said {
                version: next(0),
                entry: Some(entry.clone()),
            }
        });
    }
    let (forgotten, before) = (micros(now - REVOKED), known.len());
    known.retain(|_, said| said.entry.is_some() || said.version > forgotten);
    learnt || known.len() < before
}

/// Takes younger words of others.
fn take_over(known: &mut Known, keys: &mut Keyed, others: &[Word], now: SystemTime) -> Taken {
    let forgotten = micros(now - REVOKED);
    let mut taken = Taken::default();
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
        taken.keys |= keys.set(&word.name, entry.clone());
        taken.words = true;
        let version = word.version;
        known.insert(word.name.clone(), Said { version, entry });
    }
    taken
}

/// The outer `None` is what isn't understood.
fn read(word: &Word) -> Option<Option<Entry>> {
    let entry: Option<Entry> = serde_json::from_str(&word.text).ok()?;
    let sound = entry
        .as_ref()
        .is_none_or(|entry| name_of(entry) == word.name && key_of(entry).is_ok());
    sound.then_some(entry)
}

/// What this host has said that the server doesn't know.
fn unknown_to(theirs: &Versions, known: &Known) -> Vec<Word> {
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

/// Keys that were revoked so long ago that the server need not remember it.
fn outlived(others: &[Word], known: &Known, now: SystemTime) -> Vec<Word> {
    let forgotten = micros(now - REVOKED);
    let old = others.iter().filter(|word| {
        word.text == "null" && word.version <= forgotten && !known.contains_key(&word.name)
    });
    let words = old.map(|word| Word {
        text: String::new(),
        ..word.clone()
    });
    words.collect()
}

// === impl Keyed ===

impl Keyed {
    fn new(entries: Vec<Entry>) -> Self {
        let names = entries.iter().map(name_of);
        Self {
            places: names.zip(0..).collect(),
            entries: entries.into_iter().map(Some).collect(),
        }
    }

    fn find(&self, name: &str) -> Option<&Entry> {
        let place = self.places.get(name)?;
        self.entries.get(*place)?.as_ref()
    }

    /// Puts an entry in the place of the one of its name, or takes that away; false where nothing changes.
    fn set(&mut self, name: &str, entry: Option<Entry>) -> bool {
        if self.find(name) == entry.as_ref() {
            return false;
        }
        match self.places.get(name) {
            Some(place) => self.entries[*place] = entry,
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push(entry);
            }
        }
        true
    }

    fn entries(self) -> Vec<Entry> {
        self.entries.into_iter().flatten().collect()
    }
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
            priority: crate::types::Priority::Normal,
            priority_header: Default::default(),
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

    fn versions(words: &[Word]) -> Versions {
        let versions = words.iter().map(|it| (it.name.clone(), it.version));
        versions.collect()
    }

    /// What a host says that hears these words of a server that has no others.
    fn agree(store: &KeyStore, others: &[Word]) -> Vec<Word> {
        store.agree(others, &versions(others)).unwrap()
    }

    #[test]
    fn hosts_agree_whoever_speaks_first() {
        let (one, two) = (store("one"), store("two"));
        create(&one, "a");
        create(&two, "b");
        let said = agree(&one, &[]);
        assert_eq!(said.len(), 1);
        let said = agree(&two, &said);
        let theirs = agree(&one, &said);
        assert!(theirs.iter().all(|word| word.name == "search/a"));
        assert_eq!(
            (names(&one), names(&two)),
            (names(&two), vec!["a".into(), "b".into()])
        );
        assert!(!one.have_changed() && !two.have_changed());

        two.revoke(Some(&teams()), "search", "a").unwrap();
        assert!(two.have_changed());
        let before = agree(&one, &[]);
        let said = agree(&two, &before);
        assert_eq!(said.len(), 1, "only what is new");
        agree(&one, &said);
        assert_eq!(names(&one), ["b"]);
        // Somebody who was away says what was true before.
        agree(&one, &before);
        agree(&two, &before);
        assert_eq!(
            (names(&one), names(&two)),
            (vec!["b".into()], vec!["b".into()])
        );
        for store in [one, two] {
            std::fs::remove_dir_all(store.folder()).unwrap();
        }
    }

    #[test]
    fn of_ten_thousand_keys_only_the_new_ones_are_told_and_their_order_stays() {
        let (one, two) = (store("many"), store("few"));
        create(&one, "k");
        let [entry] = &file::read(one.folder()).unwrap()[..] else {
            panic!("one key");
        };
        let named = |number| Entry {
            name: format!("k{number}"),
            ..entry.clone()
        };
        let entries: Vec<Entry> = (0..10_000).map(named).collect();
        let lock = file::lock(one.folder()).unwrap();
        file::write(one.folder(), &entries, &lock).unwrap();
        drop(lock);
        let said = agree(&one, &[]);
        assert_eq!(said.len(), 10_000);
        assert_eq!(agree(&two, &said), []);
        assert_eq!(names(&two).len(), 10_000);
        let theirs = versions(&said);
        two.revoke(Some(&teams()), "search", "k5000").unwrap();
        let new = two.agree(&[], &theirs).unwrap();
        assert_eq!((new.len(), new[0].text.as_str()), (1, "null"));
        one.agree(&new, &theirs).unwrap();
        let left = file::read(one.folder()).unwrap();
        let expected = entries.iter().filter(|entry| entry.name != "k5000");
        assert!(left.iter().eq(expected));
        for store in [one, two] {
            std::fs::remove_dir_all(store.folder()).unwrap();
        }
    }

    #[test]
    fn that_a_key_was_revoked_is_forgotten_everywhere_after_months() {
        let one = store("old");
        create(&one, "a");
        let said = agree(&one, &[]);
        let of = |age: Duration| Word {
            version: micros(SystemTime::now() - age),
            text: "null".into(),
            ..said[0].clone()
        };
        let day = Duration::from_secs(24 * 3600);
        let (fresh, old) = (of(REVOKED - day), of(REVOKED + day));
        let called = |name: &str, word: &Word| Word {
            name: name.into(),
            ..word.clone()
        };
        let (fresh, ancient) = (called("search/b", &fresh), called("search/c", &old));
        let mut theirs = versions(&said);
        theirs.insert(fresh.name.clone(), fresh.version);
        let told = one.agree(&[fresh, ancient, old], &theirs).unwrap();
        let [forgotten] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!((&*forgotten.name, &*forgotten.text), ("search/c", ""));
        assert_eq!(names(&one), ["a"], "what is known is younger");
        std::fs::remove_dir_all(one.folder()).unwrap();
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
        let ours = agree(&one, &[]);
        let others = [
            word("search/a", "no json"),
            word("search/a", "{}"),
            word("search/other", &ours[0].text),
        ];
        agree(&one, &others);
        assert_eq!(names(&one), ["a"]);
        std::fs::remove_dir_all(one.folder()).unwrap();
    }
}
