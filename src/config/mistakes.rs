//! What is wrong with a configuration: each mistake with its place in the file, what was found and
//! what is allowed.
//!
//! Collected by [`super::findings`]; printed by the command line and the admin API.

use serde::Serialize;
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
        /// The key without its place, such as `providers[].health`.
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
