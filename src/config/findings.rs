//! Collects mistakes while a file is read and checked: adds the line, the words for what was found,
//! and the nearest known word. Filled by every step of [`super::parse`].

use super::lines::Lines;
use super::mistakes::{Mistake, Mistakes, What};
use super::path::{Path, Step};
use super::shown::shown;
use serde_yaml::Value;

/// Collects mistakes while a file is read and checked.
pub(super) struct Findings {
    origin: String,
    /// The file as written: nothing replaced, nothing taken out.
    written: Value,
    lines: Lines,
    mistakes: Vec<(Path, Mistake)>,
}

impl Findings {
    /// `written` is the tree before anything was replaced in it.
    pub(super) fn new(origin: &str, written: Value, lines: Lines) -> Self {
        Self {
            origin: origin.to_owned(),
            written,
            lines,
            mistakes: Vec::new(),
        }
    }

    /// What stands at `path` is not what is `allowed`.
    pub(super) fn wrong(&mut self, path: &Path, allowed: impl Into<String>) {
        let found = self.found(path);
        self.wrong_because(path, found, allowed);
    }

    /// As [`Findings::wrong`], with the words that are allowed: the nearest one is suggested.
    pub(super) fn wrong_word<'w>(
        &mut self,
        path: &Path,
        allowed: impl Into<String>,
        words: impl IntoIterator<Item = &'w str>,
    ) {
        let near = match path.find(&self.written) {
            Some(Value::String(text)) => nearest(text, words),
            _ => None,
        };
        let found = self.found(path);
        self.add(
            path,
            What::Wrong {
                found,
                allowed: allowed.into(),
                did_you_mean: near,
            },
        );
    }

    /// As [`Findings::wrong`], with a sentence for what was found, which must not hold a secret.
    pub(super) fn wrong_because(
        &mut self,
        path: &Path,
        found: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        self.add(
            path,
            What::Wrong {
                found: found.into(),
                allowed: allowed.into(),
                did_you_mean: None,
            },
        );
    }

    /// The key at the end of `path` isn't one of `known`.
    pub(super) fn unknown_key(&mut self, path: &Path, known: &[&str]) {
        let near = match path.last() {
            Some(Step::Key(key)) => nearest(key, known.iter().copied()),
            _ => None,
        };
        let allowed = match known {
            [] => "no key".to_owned(),
            _ => known.join(", "),
        };
        self.add(
            path,
            What::Wrong {
                found: "an unknown key".to_owned(),
                allowed,
                did_you_mean: near,
            },
        );
    }

    /// The key is written twice; the first one is at `first`.
    pub(super) fn twice(&mut self, path: &Path, line: usize, first: usize) {
        let what = What::Wrong {
            found: format!("the key a second time (first on line {first})"),
            allowed: "each key once".to_owned(),
            did_you_mean: None,
        };
        self.add_at(path, Some(line), what);
    }

    /// `key` is known but not built yet.
    pub(super) fn not_built(&mut self, path: &Path, key: impl Into<String>) {
        self.add(
            path,
            What::NotBuilt {
                not_built_yet: key.into(),
            },
        );
    }

    /// Whether a mistake was reported at `path`, around it or within it, so that nothing can be
    /// concluded from what is missing there.
    pub(super) fn covers(&self, path: &Path) -> bool {
        self.mistakes
            .iter()
            .any(|(reported, _)| reported.starts_with(path) || path.starts_with(reported))
    }

    /// How many mistakes there are.
    pub(super) fn len(&self) -> usize {
        self.mistakes.len()
    }

    /// All mistakes by line, or `value` when there are none.
    pub(super) fn result<T>(self, value: T) -> Result<T, Mistakes> {
        if self.mistakes.is_empty() {
            return Ok(value);
        }
        let mut mistakes: Vec<_> = self.mistakes.into_iter().map(|(_, it)| it).collect();
        mistakes.sort_by_key(|mistake| mistake.line);
        mistakes.dedup();
        Err(Mistakes(mistakes))
    }

    /// What stands at a place, in words, without what may be a secret.
    pub(super) fn found(&self, path: &Path) -> String {
        match path.find(&self.written) {
            Some(value) => shown(value, path),
            None => "nothing".to_owned(),
        }
    }

    /// What stands at a place, before `${NAME}` was followed; it may be a secret.
    pub(super) fn written(&self, path: &Path) -> Option<&Value> {
        path.find(&self.written)
    }

    fn add(&mut self, path: &Path, what: What) {
        let line = Some(self.lines.line(path));
        self.add_at(path, line, what);
    }

    fn add_at(&mut self, path: &Path, line: Option<usize>, what: What) {
        let mistake = Mistake {
            file: self.origin.clone(),
            line,
            path: path.to_string(),
            what,
        };
        self.mistakes.push((path.clone(), mistake));
    }
}

/// The word that `text` was probably meant to be.
pub(super) fn nearest<'w>(text: &str, words: impl IntoIterator<Item = &'w str>) -> Option<String> {
    let text: String = text.to_lowercase().chars().take(WORD_CHARS_MAX).collect();
    words
        .into_iter()
        .map(|word| {
            (
                strsim::damerau_levenshtein(&text, &word.to_lowercase()),
                word,
            )
        })
        .filter(|(distance, word)| {
            let chars = word.chars().count();
            // A word of which nothing is left resembles nothing.
            *distance <= 1 + chars / 4 && *distance < chars
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word.to_owned())
}

/// Longer words aren't compared further: the distance takes quadratic time.
const WORD_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let words = ["body_bytes", "header_bytes", "queue"];
        assert_eq!(nearest("bodybytes", words).as_deref(), Some("body_bytes"));
        assert_eq!(nearest("quue", words).as_deref(), Some("queue"));
        assert_eq!(nearest("zebra", words), None);
        assert_eq!(nearest("", ["p", "m1"]), None);
    }
}
