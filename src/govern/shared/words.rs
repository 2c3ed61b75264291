//! Words that all hosts know: of each name the last one that any of them said. Used for keys that are
//! made at run time; what a word means isn't known here. Called by `keeper`.

use super::link::Call;
use redis::{Script, Value};
use std::fmt;
use std::sync::{Arc, LazyLock};
use tokio::sync::Notify;

/// The script by which words are told and heard.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("words.lua")));
/// Words that are told in one command.
pub(super) const WORDS_MAX: usize = 1000;

/// What was said of a name, and when: the higher version counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it is about.
    pub name: String,
    /// Grows with each change; microseconds of Unix time, or one more than the one before.
    pub version: i64,
    /// What is said.
    pub text: String,
}

/// Who keeps the words of this host. Everything may block.
pub trait Words: fmt::Debug + Send + Sync {
    /// Told when the host has something new to say; what another process of it says is found by asking.
    fn news(&self) -> Arc<Notify>;

    /// True where something may have been said since [`Words::agree`] was last called.
    fn have_changed(&self) -> bool;

    /// Takes over what others said, and answers with what this host has said that they don't know.
    ///
    /// # Errors
    /// Why its words can't be read or written; nothing is told then.
    fn agree(&self, others: &[Word]) -> Result<Vec<Word>, String>;
}

/// What is told.
pub(super) fn call(prefix: &str, ours: &[Word]) -> Call {
    let told = ours.iter().flat_map(|word| {
        let version = word.version.to_string();
        [word.name.clone(), version, word.text.clone()]
    });
    Call {
        script: &SCRIPT,
        keys: ["words", "changes"]
            .map(|key| format!("{prefix}:{key}"))
            .to_vec(),
        arguments: told.collect(),
    }
}

/// What the script answered: how often words were changed, and all of them; `None` where it isn't an
/// answer of it.
pub(super) fn heard(reply: Value) -> Option<(i64, Vec<Word>)> {
    let texts: Vec<String> = redis::from_redis_value(reply).ok()?;
    let (changes, rest) = texts.split_first()?;
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
    Some((changes.parse().ok()?, words.collect::<Option<_>>()?))
}
