//! What operators ask and are told: the types that JSON is read into and written from, and of which
//! the OpenAPI document is made. Money is in US dollars, time in UTC.

use super::ask::{Lapse, List, Moment, NUMBER_MAX, When, whole};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// === usage ===

/// What usage may be summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum By {
    /// Teams.
    Team,
    /// Keys, each within its team.
    Key,
    /// Models, as clients name them.
    Model,
    /// Models, as upstreams were asked for them.
    UpstreamModel,
    /// Providers.
    Provider,
    /// Days in UTC.
    Day,
}

/// Which usage.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    /// What the sums are made by, in this order; without it there is one sum of all.
    #[serde(default)]
    pub by: List<By>,
    /// From this moment on: a date, a date with time, or how long ago. Default: all that is kept.
    pub since: Option<When>,
    /// Up to this moment, which isn't in it; of a date, up to its end. Default: now.
    pub until: Option<When>,
    /// Of this team only.
    pub team: Option<String>,
    /// Of this key only.
    pub key: Option<String>,
    /// Of this model only.
    pub model: Option<String>,
    /// Of this provider only.
    pub provider: Option<String>,
}

/// What was used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Usage {
    /// In the order of what they are summed by.
    pub rows: Vec<UsageRow>,
    /// There are more rows than are told: ask for less.
    pub truncated: bool,
}

/// One sum. A label that was asked for and is missing is of requests without it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct UsageRow {
    /// `2026-11-01`, where it was asked for by day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Where it was asked for by team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// Where it was asked for by key: a name within its team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Where it was asked for by model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Where it was asked for by upstream model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_model: Option<String>,
    /// Where it was asked for by provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Requests that an upstream was tried for.
    pub requests: u64,
    /// Tokens of prompts, cached ones among them.
    pub input: u64,
    /// Tokens of answers, reasoning among them.
    pub output: u64,
    /// Tokens of prompts that came from a provider's cache.
    pub cached: u64,
    /// Tokens of prompts that were put into a provider's cache.
    pub cache_write: u64,
    /// Tokens of reasoning.
    pub reasoning: u64,
    /// Requests whose model has no price.
    pub unpriced: u64,
    /// What the others cost, in US dollars.
    pub cost_usd: f64,
}

// === upstreams ===

/// All endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Upstreams {
    /// In the order of the configuration.
    pub upstreams: Vec<Upstream>,
}

/// An endpoint, as the process that answers knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Upstream {
    /// Its provider.
    pub provider: String,
    /// Its base URL.
    pub endpoint: String,
    /// Its breaker, or its provider's: `closed`, `half_open` or `open`.
    pub breaker: &'static str,
    /// Whether it answers its health checks, where it is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// Requests that it carries.
    pub in_flight: u64,
    /// Tries that failed since the start.
    pub failures: u64,
    /// How soon its answers begin, as balancing has it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_seconds: Option<f64>,
    /// How long it isn't tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_seconds: Option<f64>,
    /// How long it is tried after others, for it said that it has no time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resting_seconds: Option<f64>,
    /// How long its provider is tried after others, for it didn't accept weir's account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unaccepted_seconds: Option<f64>,
}

// === limits ===

/// When a budget begins anew, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
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

/// Money that may be spent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// How much, in US dollars.
    #[schemars(range(min = 0.000_001, max = 9_000_000.0))]
    pub usd: f64,
    /// When it begins anew.
    pub per: Period,
    /// Shares of it at which a warning is given, ascending. Default: `[0.8, 0.95]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10), inner(range(min = 0.000_001, max = 0.999_999)))]
    pub warn: Option<Vec<f64>>,
}

/// How much may be used; what is missing has no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// Requests in a minute.
    #[serde(default, deserialize_with = "whole")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = NUMBER_MAX))]
    pub requests_per_minute: Option<u64>,
    /// Tokens in a minute, prompts and answers together.
    #[serde(default, deserialize_with = "whole")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = NUMBER_MAX))]
    pub tokens_per_minute: Option<u64>,
    /// Requests at once.
    #[serde(default, deserialize_with = "whole")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = NUMBER_MAX))]
    pub in_flight: Option<u64>,
    /// Tokens of all requests at once.
    #[serde(default, deserialize_with = "whole")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = NUMBER_MAX))]
    pub in_flight_tokens: Option<u64>,
}

/// How a rate stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Rate {
    /// In a minute.
    pub limit: u64,
    /// Could be used now.
    pub remaining: u64,
    /// Until all of it is there again, in seconds.
    pub resets_seconds: f64,
    /// Had by other hosts that share it; missing where none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<u64>,
    /// Granted to this host, and not used yet; counts as remaining.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<u64>,
}

/// How places stand.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Places {
    /// How many there are; missing where there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// How many are taken.
    pub used: u64,
    /// How many are left; missing where there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// Of those that are taken, how many are on other hosts that share them; missing where none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<u64>,
    /// Granted to this host, and not taken yet; counts as remaining.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<u64>,
}

/// How a budget stands. What requests in flight may cost counts as used.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Spending {
    /// Of which period.
    pub per: Period,
    /// How much may be spent in it.
    pub usd: f64,
    /// How much is.
    pub used_usd: f64,
    /// How much is left.
    pub remaining_usd: f64,
    /// Of what is used, how much was on other hosts that share it; missing where none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elsewhere_usd: Option<f64>,
    /// Granted to this host, and not used yet; counts as left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_usd: Option<f64>,
    /// When it begins anew; missing where it never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<Moment>,
}

/// How limits stand now, all processes of this weir and all hosts that share them together; only what has a limit is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Standing {
    /// Requests per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Rate>,
    /// Tokens per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Rate>,
    /// Requests in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<Places>,
    /// Tokens in flight, as estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_tokens: Option<Places>,
    /// Budgets.
    pub budgets: Vec<Spending>,
}

/// Whose limits.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitQuery {
    /// Of this team and its keys only.
    pub team: Option<String>,
}

/// What is in use now.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Limits {
    /// Of the host.
    pub host: Standing,
    /// Of each team that has limits.
    pub teams: Vec<TeamStanding>,
    /// Of each key that has limits of its own.
    pub keys: Vec<KeyStanding>,
    /// Of each model that has limits.
    pub models: Vec<ModelStanding>,
}

/// Limits of a team.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TeamStanding {
    /// Its name.
    pub team: String,
    /// How they stand.
    #[serde(flatten)]
    pub standing: Standing,
}

/// Limits of a key.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct KeyStanding {
    /// Its team.
    pub team: String,
    /// Its name.
    pub key: String,
    /// How they stand.
    #[serde(flatten)]
    pub standing: Standing,
}

/// Limits of a model.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ModelStanding {
    /// The route's name.
    pub model: String,
    /// How they stand.
    #[serde(flatten)]
    pub standing: Standing,
}

// === teams and keys ===

/// The teams of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Teams {
    /// By name.
    pub teams: Vec<Team>,
}

/// A team.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Team {
    /// Its name.
    pub team: String,
    /// Models that it may use, by name or glob; missing where it may use all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// How much it may use.
    pub limits: Allowed,
    /// What it may spend.
    pub budgets: Vec<Budget>,
    /// How that stands now.
    pub standing: Standing,
}

/// Which keys.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyQuery {
    /// Of this team only.
    pub team: Option<String>,
}

/// Keys, without their secrets: nobody knows those but their owners.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Keys {
    /// By team and name.
    pub keys: Vec<Key>,
}

/// Where a key was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Source {
    /// In the configuration, where alone it can be changed.
    Configuration,
    /// By the command line or here.
    Made,
}

/// Whether a key is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum State {
    /// It is.
    Active,
    /// Its time is over.
    Expired,
    /// Its team isn't in the configuration any more.
    NoTeam,
    /// The configuration has another key of its name.
    Shadowed,
}

/// What a key is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Credential {
    /// A secret, of which weir keeps the SHA-256.
    Sha256,
    /// A client certificate.
    ClientCert,
}

/// A key.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Key {
    /// Its team.
    pub team: String,
    /// Its name, its own within the team.
    pub name: String,
    /// Where it was made.
    pub source: Source,
    /// Whether it is accepted.
    pub state: State,
    /// What it is known by.
    pub credential: Credential,
    /// When it was made; missing where it stands in the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Moment>,
    /// From when on it isn't accepted; missing where it always is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
    /// Until when a secret that was replaced is good, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_until: Option<Moment>,
    /// Models that it may use, of those of its team; missing where it may use them all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// How much it may use, within what its team may.
    pub limits: Allowed,
    /// What it may spend, within what its team may.
    pub budgets: Vec<Budget>,
}

/// The name of a key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyName {
    /// Its team.
    #[schemars(extend("pattern" = NAME))]
    pub team: String,
    /// Its name.
    #[schemars(extend("pattern" = NAME))]
    pub name: String,
}

/// Names of teams and keys.
const NAME: &str = "^[A-Za-z0-9._:-]{1,64}$";

/// A key that is to be made.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// A team of the configuration.
    #[schemars(extend("pattern" = NAME))]
    pub team: String,
    /// A name that no other key of the team has. Default: one is made up.
    #[schemars(extend("pattern" = NAME))]
    pub name: Option<String>,
    /// From when on it isn't accepted: a date, a date with time, or how long from now. Default: never.
    pub expires: Option<When>,
    /// Models that it may use, by name or glob. Default: all those of its team.
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 200)))]
    pub models: Option<Vec<String>>,
    /// How much it may use. Default: as much as its team.
    #[serde(default)]
    pub limits: Allowed,
    /// What it may spend. Default: as much as its team.
    #[serde(default)]
    #[schemars(length(max = 5))]
    pub budgets: Vec<Budget>,
}

/// How a secret is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Overlap {
    /// How long the old secret works beside the new one, at most 366 days. Default: `0s`.
    pub overlap: Option<Lapse>,
}

/// A key that was made, or has another secret.
#[derive(Clone, PartialEq, Serialize, JsonSchema)]
pub struct Made {
    /// What clients send. It is told this once and kept nowhere.
    pub secret: String,
    /// The key.
    #[serde(flatten)]
    pub key: Key,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made")
            .field("secret", &"***")
            .field("key", &self.key)
            .finish()
    }
}
