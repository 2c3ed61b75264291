//! Words that all hosts know: of each name the last one that any of them said. Used for keys that are
//! made at run time; what a word means isn't known here. Called by `agreeing`.
//!
//! The server numbers changes, so that only what is new travels: a host says up to which number it has
//! heard, and what it knows that the server doesn't. A server that has forgotten begins a new age, in
//! which everybody hears and tells everything once.

use super::link::Call;
use ahash::AHashMap;
use redis::{Script, Value};
use std::fmt;
use std::sync::{Arc, LazyLock};
use tokio::sync::Notify;

/// The script by which words are told and heard.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("words.lua")));
/// Words in one exchange, each way: a millisecond or two of the server's time.
const WORDS_MAX: usize = 500;
/// Their bytes, but for a single one that is longer.
const BYTES_MAX: usize = 1 << 20;

/// What was said of a name, and when: the higher version counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it is about.
    pub name: String,
    /// Grows with each change; microseconds of Unix time, or one more than the one before.
    pub version: i64,
    /// What is said: JSON. `null` says that there is no such thing; an empty text, that the server need
    /// not remember that any more.
    pub text: String,
}

/// The versions that the server knows, by name.
pub type Versions = AHashMap<String, i64>;

/// Who keeps the words of this host. Everything may block.
pub trait Words: fmt::Debug + Send + Sync {
    /// Told when the host has something new to say; what another process of it says is found by asking.
    fn news(&self) -> Arc<Notify>;

    /// True where something may have been said since [`Words::agree`] was last called.
    fn have_changed(&self) -> bool;

    /// Takes over what others said, and answers with what this host has said that the server doesn't know.
    ///
    /// # Errors
    /// Why its words can't be read or written; nothing is told then.
    fn agree(&self, others: &[Word], known: &Versions) -> Result<Vec<Word>, String>;
}

/// What the server has been heard to say.
#[derive(Debug, Default)]
pub(super) struct Theirs {
    age: String,
    number: i64,
    pub(super) versions: Versions,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    age: String,
    number: i64,
    last: i64,
    pub(super) words: Vec<Word>,
}

/// What the next command has room for, of what is to be told.
pub(super) fn next(ours: &mut Vec<Word>) -> Vec<Word> {
    let mut bytes = 0;
    let fits = ours.iter().take(WORDS_MAX).take_while(|word| {
        let before = bytes;
        bytes += word.name.len() + word.text.len();
        before == 0 || bytes <= BYTES_MAX
    });
    let count = fits.count();
    ours.drain(..count).collect()
}

// === impl Theirs ===

impl Theirs {
    /// As the server says how words stand, where there is no more to hear.
    pub(super) fn stand(&self) -> String {
        format!("{} {}", self.age, self.number)
    }

    /// What is told, and asked: what came since.
    pub(super) fn call(&self, prefix: &str, told: &[Word]) -> Call {
        let age = format!("{:032x}", rand::random::<u128>());
        let number = self.number.to_string();
        let [words, bytes] = [WORDS_MAX, BYTES_MAX].map(|it| it.to_string());
        let mut arguments = vec![age, self.age.clone(), number, words, bytes];
        for word in told {
            let version = word.version.to_string();
            arguments.extend([word.name.clone(), version, word.text.clone()]);
        }
        Call {
            script: &SCRIPT,
            keys: ["words", "said", "changes"]
                .map(|key| super::draw::key(prefix, key))
                .to_vec(),
            arguments,
        }
    }

    /// Remembers what was heard. True where a new age has begun: what was to be told is to be found anew.
    pub(super) fn hear(&mut self, heard: &Heard) -> bool {
        let is_new = heard.age != self.age;
        if is_new {
            self.age.clone_from(&heard.age);
            self.versions.clear();
        }
        self.number = heard.number;
        let words = heard.words.iter();
        let versions = words.map(|word| (word.name.clone(), word.version));
        self.versions.extend(versions);
        is_new
    }
}

// === impl Heard ===

impl Heard {
    /// `None` where it isn't an answer of the script.
    pub(super) fn of(reply: Value) -> Option<Self> {
        let texts: Vec<String> = redis::from_redis_value(reply).ok()?;
        let ([age, number, last], rest) = texts.split_first_chunk::<3>()?;
        let (words, more) = rest.as_chunks::<3>();
        if !more.is_empty() {
            return None;
        }
        let words = words.iter().map(|[name, version, text]| {
            Some(Word {
                name: name.clone(),
                version: version.parse().ok()?,
                text: text.clone(),
            })
        });
        Some(Self {
            age: age.clone(),
            number: number.parse().ok()?,
            last: last.parse().ok()?,
            words: words.collect::<Option<_>>()?,
        })
    }

    /// There is more to hear.
    pub(super) fn is_part(&self) -> bool {
        self.number < self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_takes_so_many_words_or_bytes_and_at_least_one() {
        let word = |length: usize| Word {
            name: "n".into(),
            version: 1,
            text: "x".repeat(length),
        };
        let mut ours = vec![word(1); WORDS_MAX + 1];
        assert_eq!(next(&mut ours).len(), WORDS_MAX);
        assert_eq!((next(&mut ours).len(), next(&mut ours).len()), (1, 0));
        let mut ours = [BYTES_MAX * 2, BYTES_MAX - 3, 1, 1].map(word).to_vec();
        let lengths = [(); 4].map(|()| next(&mut ours).len());
        assert_eq!(lengths, [1, 2, 1, 0]);
    }
}
