//! How allowances stand on all hosts together, for people who ask: read from the server, changing
//! nothing. The keeper asks it, some at a time, between its exchanges.

use super::draw::{Kind, key};
use super::link::Call;
use super::{Sharing, State};
use ahash::AHashMap;
use redis::{Script, Value};
use std::sync::LazyLock;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("look.lua")));
/// Allowances that are asked for at once: a fraction of a millisecond of the server's time.
const NAMES_MAX: usize = 256;
/// How long people wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was heard, by the names of allowances.
#[derive(Debug, Default)]
pub struct Fleet(AHashMap<String, i64>);

/// What somebody wants to know, and whom to tell.
#[derive(Debug)]
pub(super) struct Question {
    names: Vec<(String, Kind)>,
    tell: Sender<Vec<(String, i64)>>,
}

impl Sharing {
    /// How these allowances stand on other hosts. Blocks for a moment. What couldn't be heard in time is
    /// missing.
    pub fn fleet(&self, names: &[(String, Kind)]) -> Fleet {
        let mut fleet = Fleet::default();
        if self.state() != State::Up {
            return fleet;
        }
        let (tell, told) = mpsc::channel();
        let questions = names.chunks(NAMES_MAX).map(|names| Question {
            names: names.to_vec(),
            tell: tell.clone(),
        });
        self.0.questions.lock().extend(questions);
        drop(tell);
        self.0.wake.notify_one();
        let due = Instant::now() + PATIENCE;
        // Until all is told, or nobody will.
        while let Ok(some) = told.recv_timeout(due.saturating_duration_since(Instant::now())) {
            fleet.0.extend(some);
        }
        fleet
    }
}

impl Fleet {
    /// Used by other hosts; of a rate the microseconds until all of it is there again.
    pub fn told(&self, name: &str) -> Option<i64> {
        self.0.get(name).copied()
    }
}

impl Question {
    pub(super) fn call(&self, prefix: &str, host: &str, lease_ms: i64) -> Call {
        let names = self.names.iter();
        let keys = names.map(|(name, _)| key(prefix, &format!("a:{name}")));
        let kinds = self.names.iter().map(|(_, kind)| kind.letter().to_owned());
        Call {
            script: &SCRIPT,
            keys: [key(prefix, "hosts")].into_iter().chain(keys).collect(),
            arguments: [host.to_owned(), lease_ms.to_string()]
                .into_iter()
                .chain(kinds)
                .collect(),
        }
    }

    /// Tells what was answered; `None` where it is no answer.
    pub(super) fn answer(self, reply: Value) -> Option<()> {
        let numbers: Vec<i64> = redis::from_redis_value(reply).ok()?;
        if numbers.len() != self.names.len() {
            return None;
        }
        let told = self.names.into_iter().zip(numbers);
        let told = told.map(|((name, kind), number)| (name, number.saturating_mul(kind.unit())));
        // Whoever asked may have gone.
        let _ = self.tell.send(told.collect());
        Some(())
    }
}
