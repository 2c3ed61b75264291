//! What the routing tables are built from. Filled by `config::check`, read by [`super`].

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
    pub retry_on: Option<Vec<RetryOn>>,
    /// Names of models whose routes are tried when no target could answer, in order.
    pub fallback: Vec<String>,
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

/// What went wrong with a try that another may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// There was no connection.
    Connect,
    /// The connection broke before the answer's head.
    Reset,
    /// No first byte in time.
    Timeout,
    /// 408, 409, 429, 503, 529.
    Busy,
    /// Another 5xx.
    Error,
    /// 401, 402, 403 for weir's own credential.
    Account,
}

/// How a route spreads requests over its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Balance {
    /// In turns, by weight.
    #[default]
    RoundRobin,
    /// By chance, by weight.
    Random,
}
