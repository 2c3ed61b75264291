//! Why there is no new certificate, as one sentence that says where to look. Made by every step of
//! an issuance, read by whoever reads weir's log.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no new certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A file in the state directory can't be read or written.
    State {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The file of the account isn't one.
    Account {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The server doesn't know the account, or knows it no longer.
    AccountRefused {
        /// The account's file.
        path: PathBuf,
        /// What the server says.
        problem: String,
    },
    /// The configured authorities can't be used.
    Authorities {
        /// `acme.ca`.
        path: PathBuf,
        /// What is wrong with them.
        why: String,
    },
    /// There was no answer of an ACME server.
    Unreachable {
        /// What was tried.
        step: &'static str,
        /// What came instead.
        why: String,
        /// How long the server asks to be left alone.
        wait: Option<Duration>,
    },
    /// The server says no.
    Refused {
        /// To what.
        step: &'static str,
        /// Its reason.
        problem: String,
        /// How long the server asks to be left alone.
        wait: Option<Duration>,
    },
    /// The server could not make sure that a name is ours.
    Validation {
        /// The name.
        domain: String,
        /// What it tried: `http-01`, `tls-alpn-01`.
        challenge: &'static str,
        /// What it found.
        problem: String,
    },
    /// The server offers nothing that weir can answer.
    NoChallenge {
        /// For this name.
        domain: String,
        /// What it offers.
        offered: Vec<String>,
    },
    /// A certificate came that must not be used.
    Certificate(String),
    /// A key or a request could not be made.
    Crypto(String),
}

impl Error {
    /// How long the server asks to be left alone.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Unreachable { wait, .. } | Self::Refused { wait, .. } => *wait,
            _ => None,
        }
    }

    /// Whether another kind of challenge may do better.
    pub(super) fn is_validation(&self) -> bool {
        matches!(self, Self::Validation { .. })
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State { path, why } => write!(
                f,
                "{}: {why}; weir keeps its certificates there: give its user the right to write \
                 to state_dir, and room on the disk",
                path.display()
            ),
            Self::Account { path, why } => write!(
                f,
                "{}: not an ACME account: {why}; restore the file, or move it away and weir \
                 registers a new account",
                path.display()
            ),
            Self::AccountRefused { path, problem } => write!(
                f,
                "the ACME server refuses the account in {}: {problem}; if that account is gone for \
                 good, move the file away and weir registers a new one",
                path.display()
            ),
            Self::Authorities { path, why } => write!(
                f,
                "acme.ca {}: {why}; it must hold certificates in PEM",
                path.display()
            ),
            Self::Unreachable { step, why, .. } => write!(
                f,
                "no answer of an ACME server to {step}: {why}; is acme.directory right, and can \
                 this host reach it?"
            ),
            Self::Refused { step, problem, .. } => {
                write!(f, "the ACME server refuses {step}: {problem}")
            }
            Self::Validation {
                domain,
                challenge: challenge @ "http-01",
                problem,
            } => write!(
                f,
                "the ACME server could not validate {domain} by {challenge}: {problem}; the name \
                 must lead to this host, and its port 80 to a plaintext listener of weir"
            ),
            Self::Validation {
                domain,
                challenge,
                problem,
            } => write!(
                f,
                "the ACME server could not validate {domain} by {challenge}: {problem}; the name \
                 must lead to this host, and its port 443 to a TLS listener of weir"
            ),
            Self::NoChallenge { domain, offered } => write!(
                f,
                "for {domain} the ACME server offers only {}; weir answers tls-alpn-01 on a TLS \
                 listener that port 443 leads to, and http-01 on a plaintext one that port 80 \
                 leads to",
                match offered.is_empty() {
                    true => "nothing".to_owned(),
                    false => offered.join(", "),
                }
            ),
            Self::Certificate(why) => write!(
                f,
                "the ACME server's certificate is not used: {why}; the one there is stays"
            ),
            Self::Crypto(why) => write!(f, "a key could not be made: {why}"),
        }
    }
}
