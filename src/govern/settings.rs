//! Who may do how much. Filled by `config::check`.

use crate::types::glob::glob;
use crate::types::{Money, Priority};
use globset::{GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Limits of the host, and the teams that share it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `rate_limit`: per client address; `None` = no limit.
    pub rate_limit: Option<RateLimit>,
    /// `limits.in_flight`: requests at once; 0 = no cap.
    pub in_flight_max: usize,
    /// `limits.in_flight_tokens`: estimated tokens of all requests at once; 0 = no cap.
    pub in_flight_tokens_max: u64,
    /// `limits.per_address`: of each client address.
    pub per_address: Allowance,
    /// `limits.cached_tokens`: whether tokens from a cache count against tokens per minute.
    pub cached_tokens_count: bool,
    /// `limits.unpriced`: what becomes of a request under a budget whose model has no price.
    pub unpriced: Unpriced,
    /// `limits.unmetered`: what becomes of a request under a budget or a limit of tokens whose tokens nobody
    /// can tell.
    pub unmetered: Unmetered,
    /// `limits.queue`: where requests wait for routes that say so.
    pub queue: Queue,
    /// `limits.drains`: answers that are read on after their clients have left; 0 = none.
    pub drains_max: usize,
    /// `limits.body_bytes`: largest request body, after decompression too.
    pub body_bytes_max: usize,
    /// `limits.buffered_bytes`: all bodies that are held at once, of all requests together.
    pub buffered_bytes_max: usize,
    /// `teams`; `None` = the proxy is open.
    pub teams: Option<Vec<Arc<Team>>>,
    /// Routes that have limits of their own, by pattern.
    pub routes: Vec<(String, Terms)>,
}

/// What becomes of a request under a budget whose cost nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unpriced {
    /// It is refused.
    #[default]
    Refuse,
    /// It is served, and costs nothing.
    Allow,
}

/// What becomes of a request under a budget or a limit of tokens that can't be metered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmetered {
    /// It is refused.
    #[default]
    Refuse,
    /// It is served, and costs what was reserved for it.
    Allow,
}

/// Where requests wait that a limit doesn't let in yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// So many may wait, of all limits together.
    pub size: usize,
    /// No longer than this.
    pub timeout: Duration,
}

/// What holds for one route of `model_routes`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// What all requests of the route may use together.
    pub allowance: Allowance,
    /// Whether what a limit doesn't let in yet waits in the queue, or is refused.
    pub waits: bool,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Tokens that come back in a second; above 0.
    pub per_second: f64,
    /// Size of the bucket; 1 or more.
    pub burst: u32,
}

/// Keys that share limits and a budget.
#[derive(Debug)]
pub struct Team {
    /// Its name: unique, for logs, metrics and the command line.
    pub name: Arc<str>,
    /// Models that it may use; `None` = all.
    pub models: Option<Models>,
    /// What all its keys may use together.
    pub allowance: Allowance,
    /// How urgent its requests are where they must wait.
    pub priority: Priority,
    /// What a request may say of its own priority.
    pub priority_header: PriorityHeader,
    /// Keys that the file names; others are made at run time.
    pub keys: Vec<Arc<Key>>,
}

/// Who is asking, within a team.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name: unique within the team.
    pub name: Arc<str>,
    /// How it shows that it is who it is.
    pub credential: Credential,
    /// From when on it isn't accepted.
    pub expires: Option<SystemTime>,
    /// Models that it may use, of those of its team; `None` = all of them.
    pub models: Option<Models>,
    /// What it may use, within what its team may.
    pub allowance: Allowance,
    /// How urgent its requests are; `None` = as its team's.
    pub priority: Option<Priority>,
}

/// What a request may say of its own priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PriorityHeader {
    /// That it is less urgent.
    #[default]
    Lower,
    /// What it likes.
    Any,
    /// Nothing that counts.
    Off,
}

/// What a key is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// SHA-256 of a secret that is sent with each request.
    Sha256([u8; 32]),
    /// Subject (RFC 4514) or URI of a client certificate.
    ClientCert(String),
}

/// Models by exact name or glob.
#[derive(Clone, Debug)]
pub struct Models {
    /// As they are written.
    pub patterns: Vec<String>,
    /// The same, ready to match.
    pub set: GlobSet,
}

impl Models {
    /// Makes these patterns ready.
    ///
    /// # Errors
    /// What globset says of one of them, or of all together.
    pub fn new(patterns: Vec<String>) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in &patterns {
            set.add(glob(pattern)?);
        }
        Ok(Self {
            set: set.build()?,
            patterns,
        })
    }

    /// Whether one of them takes this name.
    pub fn contain(&self, name: &str) -> bool {
        self.set.is_match(name)
    }
}

/// How much may be used; 0 = no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowance {
    /// Requests in a minute.
    pub requests_per_minute: u64,
    /// Requests that may come at once after a pause; 0 = as many as in a minute.
    pub requests_burst: u64,
    /// Tokens in a minute, prompts and answers together.
    pub tokens_per_minute: u64,
    /// Tokens that may come at once after a pause; 0 = as many as in a minute.
    pub tokens_burst: u64,
    /// Requests at once.
    pub in_flight: u64,
    /// Tokens of all requests at once: what is estimated of each until it is over.
    pub in_flight_tokens: u64,
    /// Each holds by itself.
    pub budgets: Vec<Budget>,
}

/// Money that may be spent.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// How much; above 0.
    pub limit: Money,
    /// When it begins anew.
    pub per: Period,
    /// Shares of it, ascending and below 1, at which a warning is given.
    pub warn_at: Vec<f64>,
}

impl Budget {
    /// Where a warning is given when nobody says otherwise.
    pub fn warn_at_default() -> Vec<f64> {
        vec![0.8]
    }
}

/// When a budget begins anew; in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// At midnight.
    Day,
    /// On Monday.
    Week,
    /// On the first.
    Month,
    /// On the first of January.
    Year,
    /// Never.
    Total,
}
