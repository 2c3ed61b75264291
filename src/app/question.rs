//! What a client of the control socket may ask a generation, and the answers, as `weir dns` and the
//! generation exchange them in JSON. The supervisor between them looks into neither.

use super::build::Shared;
use super::resolving;
use crate::egress::settings::is_name;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Question {
    /// Which names are remembered; the answer is a [`DnsAnswer`].
    DnsDump,
    /// Forget this name, or all; the answer is [`Flushed`].
    DnsFlush {
        /// Which; `None`: all.
        name: Option<String>,
    },
}

impl Question {
    /// Asks to forget this name, or all.
    ///
    /// # Errors
    /// A sentence, where it is no host name.
    pub fn flush(name: Option<String>) -> Result<Self, String> {
        let is_host = |name: &String| is_name(name.strip_suffix('.').unwrap_or(name));
        if name.as_ref().is_none_or(is_host) {
            return Ok(Self::DnsFlush { name });
        }
        Err(
            "what is to be flushed is no host name: expected labels of letters, digits, - and _, 253 \
             bytes at most; without a name all is flushed"
                .to_owned(),
        )
    }
}

/// What DNS knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsAnswer {
    /// In the order of their names.
    pub names: Vec<DnsName>,
    /// In the order in which they are named.
    pub servers: Vec<DnsServer>,
}

/// A name that is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DnsName {
    /// In lower case.
    pub name: String,
    /// None where it doesn't exist, or where nobody could say.
    pub addresses: Vec<IpAddr>,
    /// `hosts`, `dns` or `handed over`.
    pub source: String,
    /// How long the addresses are still the truth.
    pub fresh_seconds: f64,
    /// How long they may stand in for it, from now.
    pub stale_seconds: f64,
    /// How long ago they were said.
    pub age_seconds: f64,
    /// How long ago somebody asked for the name.
    pub idle_seconds: f64,
    /// The servers say that there is no such name.
    pub missing: bool,
    /// Queries in a row that failed.
    pub failures: u8,
    /// What the last of them brought.
    pub error: Option<String>,
}

/// A DNS server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DnsServer {
    /// Where it is asked.
    pub address: SocketAddr,
    /// Queries that it was sent.
    pub queries: u64,
    /// Those that it didn't answer, or not well.
    pub failures: u64,
    /// How long it takes, on a moving average.
    pub latency_ms: Option<f64>,
    /// It is asked last, as it didn't answer lately.
    pub silent: bool,
}

/// How many names were forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Names.
    pub flushed: usize,
}

/// This process's answer. A question that it doesn't know, from a newer program, is answered with an
/// `error`.
pub(super) fn answer(question: Value, shared: &Shared) -> Value {
    let answer = match serde_json::from_value(question) {
        Ok(Question::DnsDump) => serde_json::to_value(resolving::dump(&shared.resolver)),
        Ok(Question::DnsFlush { name }) => serde_json::to_value(Flushed {
            flushed: shared.resolver.flush(name.as_deref()),
        }),
        Err(error) => Err(error),
    };
    answer.unwrap_or_else(|error| json!({"error": error.to_string()}))
}
