//! What is wrong with a configuration: each mistake with its place in the file, what was found and
//! what is allowed.
//!
//! Never repeats a secret: what is shown is the text as it was written, before `${NAME}` and `file:`
//! were followed, and without the parts that may hold a password. Filled by every step of
//! [`super::parse`]; printed by the command line and the admin API.

use super::lines::Lines;
use super::path::{Path, Step};
use serde::Serialize;
use serde_yaml::Value;
use std::fmt;

/// All mistakes of a configuration, in the order of its lines. Never empty when it is an `Err`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Mistakes(pub Vec<Mistake>);

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The file as it was named, or where else the configuration came from.
    pub file: String,
    /// Line in the file, from 1; `None` where the mistake isn't in a line (no such file).
    pub line: Option<usize>,
    /// Path in the file such as `providers[0].base_url`; empty for the file as a whole.
    pub path: String,
    /// What is the matter.
    #[serde(flatten)]
    pub what: What,
}

/// What is the matter at a mistake's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum What {
    /// Something else must stand there.
    Wrong {
        /// What stands there; never a secret.
        found: String,
        /// What may stand there.
        allowed: String,
        /// The allowed word that the found one resembles.
        #[serde(skip_serializing_if = "Option::is_none")]
        did_you_mean: Option<String>,
    },
    /// A key that a later version understands.
    NotBuilt {
        /// The key without its place, such as `listen[].tls`.
        not_built_yet: String,
    },
}

impl Mistakes {
    /// A mistake of a file as a whole.
    pub(super) fn of_file(file: &str, found: impl Into<String>, allowed: &str) -> Self {
        Self(vec![Mistake {
            file: file.to_owned(),
            line: None,
            path: String::new(),
            what: What::Wrong {
                found: found.into(),
                allowed: allowed.to_owned(),
                did_you_mean: None,
            },
        }])
    }
}

impl fmt::Display for Mistakes {
    /// One line a mistake.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistake {
    /// `FILE:LINE: path: found X; allowed: Y (did you mean `z`?)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        match &self.what {
            What::Wrong {
                found,
                allowed,
                did_you_mean,
            } => {
                write!(f, "found {found}; allowed: {allowed}")?;
                match did_you_mean {
                    Some(word) => write!(f, " (did you mean `{word}`?)"),
                    None => Ok(()),
                }
            }
            What::NotBuilt { not_built_yet } => write!(f, "not built yet: {not_built_yet}"),
        }
    }
}

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

    fn found(&self, path: &Path) -> String {
        match path.find(&self.written) {
            Some(value) => shown(value, path),
            None => "nothing".to_owned(),
        }
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
        .map(|word| (strsim::damerau_levenshtein(&text, &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= 1 + word.chars().count() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word.to_owned())
}

/// Longer words aren't compared further: the distance takes quadratic time.
const WORD_CHARS_MAX: usize = 64;

/// A value in words, without what may be a secret.
fn shown(value: &Value, path: &Path) -> String {
    let hidden = is_secret(path);
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Tagged(_) => "a value with a `!tag`".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) if hidden => {
            "a value that isn't shown".to_owned()
        }
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => {
            let text = if is_proxy(path) {
                without_authority(text)
            } else {
                without_secrets(text)
            };
            let short: String = text.chars().take(SHOWN_CHARS_MAX).collect();
            let dots = if short.len() < text.len() { "…" } else { "" };
            format!("{short:?}{dots}")
        }
    }
}

const SHOWN_CHARS_MAX: usize = 80;

/// Values below these keys are never shown.
fn is_secret(path: &Path) -> bool {
    let keys: Vec<&str> = path.keys().collect();
    let named = keys.last().is_some_and(|key| {
        let key = key.to_lowercase();
        // Unknown keys are meant too: `apikey`, `auth_token`, ….
        ["key", "token", "secret", "password", "sha256", "authorization"]
            .iter()
            .any(|word| key.contains(word))
    });
    named || keys.windows(2).any(|pair| pair[1] == "set" && matches!(pair[0], "headers" | "request" | "response"))
}

/// Values that may be a proxy's URL, which may hold a password in any malformed way.
fn is_proxy(path: &Path) -> bool {
    matches!(path.last(), Some(Step::Key(key)) if key == "proxy_url" || key == "egress")
}

/// What stands before the first `:`.
fn without_authority(text: &str) -> String {
    match text.split_once(':') {
        Some((scheme, _)) if scheme.contains("${") => "${…}".to_owned(),
        Some((scheme, rest)) if rest.starts_with("//") => format!("{scheme}://***"),
        Some(_) => "***".to_owned(),
        None => text.to_owned(),
    }
}

/// A text without the user of a URL, without its query, and without the defaults of `${NAME:-…}`.
fn without_secrets(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(":-") {
        plain.push_str(&rest[..at]);
        if !plain.contains("${") {
            plain.push_str(":-");
            rest = &rest[at + 2..];
            continue;
        }
        plain.push_str(":-…");
        rest = rest[at..].find('}').map_or("", |end| &rest[at + end..]);
    }
    plain.push_str(rest);
    let masked = match plain.rsplit_once('@') {
        Some((front, host)) => match front.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://***@{host}"),
            None => format!("***@{host}"),
        },
        None => plain,
    };
    match masked.split_once('?') {
        Some((front, _)) if front.contains("://") => format!("{front}?***"),
        _ => masked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let at = |keys: &[&str]| keys.iter().fold(Path::root(), |path, key| path.key(key));
        for (path, text, expected) in [
            (at(&["api_key"]), "sk-1", "a value that isn't shown"),
            (at(&["x", "apikey"]), "sk-1", "a value that isn't shown"),
            (
                at(&["headers", "request", "set", "X-Any"]),
                "sk-1",
                "a value that isn't shown",
            ),
            (at(&["proxy_url"]), "http://user:pw", "\"http://***\""),
            (at(&["proxy_url"]), "user:pw@host", "\"***\""),
            (at(&["egress"]), "diret", "\"diret\""),
            (at(&["url"]), "https://u:pw@host/x", "\"https://***@host/x\""),
            (at(&["url"]), "https://host/x?key=1", "\"https://host/x?***\""),
            (at(&["url"]), "${A:-sk-1}", "\"${A:-…}\""),
            (at(&["url"]), "a:-b", "\"a:-b\""),
        ] {
            let value = Value::String(text.to_owned());
            assert_eq!(shown(&value, &path), expected, "{path}");
        }
    }

    #[test]
    fn the_nearest_word_is_near() {
        let words = ["body_bytes", "header_bytes", "queue"];
        assert_eq!(nearest("bodybytes", words).as_deref(), Some("body_bytes"));
        assert_eq!(nearest("quue", words).as_deref(), Some("queue"));
        assert_eq!(nearest("zebra", words), None);
    }
}
