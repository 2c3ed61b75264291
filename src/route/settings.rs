//! What the routing tables are built from. Filled by `config::check`, read by [`super`].

use crate::types::Fault;

/// Names a provider: its place in `upstream::Settings::providers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProviderIndex(pub usize);

/// All rules of routing, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `target_map`: a path prefix and the provider that serves it.
    pub target_map: Vec<(String, ProviderIndex)>,
    /// `model_routes` with targets, and the routes that `providers[].models` are short for.
    pub models: Vec<ModelRoute>,
    /// `model_routes` whose value names another route: alias, then the name it stands for.
    /// Chains are allowed; a cycle or an unknown end is a mistake that `config::check` reports.
    pub aliases: Vec<(String, String)>,
    /// `routing.default_provider`.
    pub default_provider: Option<ProviderIndex>,
}

/// One entry of `model_routes`.
#[derive(Clone, Debug)]
pub struct ModelRoute {
    /// A model's exact name, or a glob: `*` any text, `?` one character.
    pub pattern: String,
    /// Never empty.
    pub targets: Vec<Target>,
    /// How a target is chosen.
    pub balance: Balance,
    /// Further tries after the first, over the route's endpoints.
    pub retries: u32,
    /// What they follow; `None` leaves that to the request.
    pub retry_on: Option<Vec<Fault>>,
    /// Names of models whose routes are tried when no target could answer, in order.
    pub fallback: Vec<String>,
    /// What can't be said in a provider's dialect is dropped, instead of refused.
    pub lenient: bool,
}

/// One way to serve a route.
#[derive(Clone, Debug)]
pub struct Target {
    /// Who serves it.
    pub provider: ProviderIndex,
    /// The name that the upstream knows, when it differs from the client's.
    pub model: Option<String>,
    /// Share of requests relative to the route's other targets; 1 or more.
    pub weight: usize,
}

/// How a route spreads requests over its endpoints.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Balance {
    /// In turns, by weight.
    #[default]
    RoundRobin,
    /// By chance, by weight.
    Random,
    /// The better of two, by what they carry and how soon they answer.
    LeastLoaded,
    /// What has something in common goes the same way.
    Hash(Hash),
}

/// How requests that have something in common go the same way.
#[derive(Clone, Debug, PartialEq)]
pub struct Hash {
    /// What they have in common.
    pub by: Affinity,
    /// How many times its share an endpoint may carry; 1 or more.
    pub bound: f64,
}

/// What requests may have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// The key of weir; where there are none, the address.
    Key,
    /// Whom the client says that it asks for.
    User,
    /// This header.
    Header(String),
    /// The beginning of the prompt, up to so many bytes.
    Prefix(usize),
}
