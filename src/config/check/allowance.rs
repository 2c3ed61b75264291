//! `limits` of whoever has some, and the terms of routes: `limits` and `on_limit` of `model_routes`.

use super::Check;
use crate::config::file::{File, OnLimit, Route, TeamLimits};
use crate::config::path::Path;
use crate::config::units::Whole;
use crate::govern::settings::{Allowance, Terms};

/// Limits without budgets; `path` is that of the mapping.
pub(super) fn allowance(
    limits: Option<&TeamLimits>,
    path: &Path,
    check: &mut Check<'_>,
) -> Allowance {
    let nothing = TeamLimits::default();
    let limits = limits.unwrap_or(&nothing);
    let count = |limit: Option<Whole>| limit.map_or(0, |limit| limit.0);
    let mut burst = |burst: Option<Whole>, rate: Option<Whole>, key: &str, of: &str| {
        if count(burst) > 0 && count(rate) == 0 && !check.findings.covers(&path.key(of)) {
            let allowed = format!("none without `{of}`");
            check.findings.wrong(&path.key(key), allowed);
        }
        count(burst)
    };
    Allowance {
        requests_burst: burst(
            limits.requests_burst,
            limits.requests_per_minute,
            "requests_burst",
            "requests_per_minute",
        ),
        tokens_burst: burst(
            limits.tokens_burst,
            limits.tokens_per_minute,
            "tokens_burst",
            "tokens_per_minute",
        ),
        requests_per_minute: count(limits.requests_per_minute),
        tokens_per_minute: count(limits.tokens_per_minute),
        in_flight: count(limits.in_flight),
        in_flight_tokens: count(limits.in_flight_tokens),
        budgets: Vec::new(),
    }
}

/// The terms of all routes that have some, by pattern.
pub(super) fn terms(file: &File, check: &mut Check<'_>) -> Vec<(String, Terms)> {
    let routes = check.key("model_routes");
    let mut all = Vec::new();
    for (name, route) in file.model_routes.iter().flat_map(|map| &map.0) {
        let Some(Route::Form(form)) = route else {
            continue;
        };
        let path = routes.key(name).key("limits");
        let terms = Terms {
            allowance: allowance(form.limits.as_ref(), &path, check),
            waits: matches!(form.on_limit, Some(OnLimit::Wait)),
        };
        if terms != Terms::default() {
            all.push((name.clone(), terms));
        }
    }
    all
}
