//! What a client of the control socket may ask a generation, and the answers, as `weir dns`, `weir keys`
//! and the generation exchange them in JSON. The supervisor between them looks into neither.

use super::build::Shared;
use super::{keys, resolving};
use crate::config::Settings;
use crate::egress::settings::is_name;
use crate::govern::Keys;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

pub use super::keys::{IssuedKey, KeyList, KeysAsk, allowance_in_words, told};
pub use crate::govern::keys::store::{
    Limits as KeyLimits, Listed as ListedKey, Moment, Source as KeySource, Spending,
    State as KeyState, Wish,
};

/// A question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Question {
    /// Which names are remembered; the answer is a [`DnsAnswer`].
    DnsDump,
    /// Forget this name, or all; the answer is [`Flushed`].
    DnsFlush {
        /// Which; `None`: all.
        name: Option<String>,
    },
    /// Of the keys made at run time.
    Keys {
        /// What is to be done with them.
        what: KeysAsk,
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

/// Gives `tell` this process's answer; a question about files is answered on a thread of its own. One that
/// it doesn't know, from a newer program, is answered with an `error`.
pub(super) fn answer(
    question: Value,
    shared: &Shared,
    keys: Keys,
    tell: impl FnOnce(Value) + Send + 'static,
) {
    let answer = match serde_json::from_value(question) {
        Ok(Question::DnsDump) => serde_json::to_value(resolving::dump(&shared.resolver)),
        Ok(Question::DnsFlush { name }) => serde_json::to_value(Flushed {
            flushed: shared.resolver.flush(name.as_deref()),
        }),
        Ok(Question::Keys { what }) => {
            let aside = std::thread::Builder::new().name("weir-keys".into());
            let started = aside.spawn(move || tell(keys::answer(&what, &keys, SystemTime::now())));
            if let Err(error) = started {
                // Whoever asked hears nothing, and says so.
                tracing::error!(%error, "a question about keys can't be answered");
            }
            return;
        }
        Err(error) => Err(error),
    };
    tell(answer.unwrap_or_else(|error| json!({"error": error.to_string()})));
}

/// The answer to a question that needs no running weir: about keys, from the configuration and the file.
pub fn answer_alone(question: Question, settings: &Settings) -> Value {
    match question {
        Question::Keys { what } => {
            let keys = Keys::new(settings.state_dir.clone());
            let keys = keys.with_teams(settings.govern.teams.as_deref());
            keys::answer(&what, &keys, SystemTime::now())
        }
        Question::DnsDump | Question::DnsFlush { .. } => {
            json!({"error": "only a running weir knows"})
        }
    }
}
