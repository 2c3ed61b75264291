//! Where a configuration comes from, and why it can't be used.

use crate::config::{self, Mistakes, Settings};
use std::fmt;
use std::path::PathBuf;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Environment variables alone.
    Environment,
    /// Settings that the program made; they are never read again.
    Given(Box<Settings>),
}

/// Why weir could not start, or the configuration could not be used.
#[derive(Debug)]
pub enum Fault {
    /// The configuration has mistakes.
    Mistakes(Mistakes),
    /// The environment names no provider, and there is no file.
    Nothing,
    /// Something that was named can't be used: a port, a file, a certificate.
    Unusable(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistakes(mistakes) => mistakes.fmt(f),
            Self::Nothing => f.write_str(
                "no configuration: name a file with -c FILE, put one at /etc/weir/weir.yaml, \
                 or set OPENAI_API_KEY or OLLAMA_BASE",
            ),
            Self::Unusable(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Fault {}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Unusable(error.to_string())
    }
}

impl Source {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(&self) -> Result<Settings, Fault> {
        let env = |name: &str| std::env::var(name).ok();
        match self {
            Self::File(path) => config::load(path, &env).map_err(Fault::Mistakes),
            Self::Environment => config::from_env(&env)
                .ok_or(Fault::Nothing)?
                .map_err(Fault::Mistakes),
            Self::Given(settings) => Ok((**settings).clone()),
        }
    }

    /// Tells one configuration from another, for people: the file's SHA-256 in 12 digits.
    pub fn hash(&self) -> String {
        let text = match self {
            Self::File(path) => std::fs::read(path).unwrap_or_default(),
            Self::Environment => return "environment".into(),
            Self::Given(_) => return "built-in".into(),
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
        let digits = digest.as_ref().iter().take(6);
        digits.map(|byte| format!("{byte:02x}")).collect()
    }

    /// What the file looks like; taken before it is read, so that no change is missed.
    pub(super) fn stamp(&self) -> config::watch::Stamp {
        match self {
            Self::File(path) => config::watch::Stamp::of(path),
            Self::Environment | Self::Given(_) => config::watch::Stamp::default(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Environment => f.write_str("environment"),
            Self::Given(_) => f.write_str("built in"),
        }
    }
}
