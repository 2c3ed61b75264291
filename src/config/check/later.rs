//! Keys whose meaning isn't built yet: read for their form, then answered. A value that turns a
//! thing off is as good as none.

use super::Check;
use crate::config::file::{Balance, Dialect, File, Provider, Route, RouteForm};
use crate::config::path::Path;

/// Notes every key that is used and isn't built.
pub(super) fn report(file: &File, check: &mut Check<'_>) {
    let logging = file.logging.as_ref();
    let tracing = file.tracing.as_ref();
    let otlp = tracing.and_then(|tracing| tracing.otlp_endpoint.as_ref());
    for (used, keys) in [
        (
            logging
                .and_then(|logging| logging.bodies)
                .is_some_and(|bodies| bodies.0),
            &["logging", "bodies"],
        ),
        (
            otlp.is_some_and(|url| !url.0.is_empty()),
            &["tracing", "otlp_endpoint"],
        ),
    ] {
        if used {
            let path = keys.iter().fold(Path::root(), |path, key| path.key(key));
            check.findings.not_built(&path, keys.join("."));
        }
    }
    let providers = check.key("providers");
    for (index, it) in file.providers.iter().flat_map(|list| list.items()) {
        provider(it, &providers.index(index), check);
    }
    let routes = check.key("model_routes");
    for (name, route) in file.model_routes.iter().flat_map(|map| &map.0) {
        if let Some(Route::Form(form)) = route {
            route_form(form, &routes.key(name), check);
        }
    }
}

fn provider(provider: &Provider, path: &Path, check: &mut Check<'_>) {
    let dialect = match provider.dialect {
        None | Some(Dialect::Openai) => None,
        Some(Dialect::Anthropic) => Some("anthropic"),
        Some(Dialect::Azure) => Some("azure"),
        Some(Dialect::Gemini) => Some("gemini"),
        Some(Dialect::Ollama) => Some("ollama"),
        Some(Dialect::Grpc) => Some("grpc"),
    };
    if let Some(dialect) = dialect {
        let key = format!("providers[].dialect ({dialect})");
        check.findings.not_built(&path.key("dialect"), key);
    }
    for (used, key) in [
        (
            provider.max_in_flight.is_some_and(|max| max.0 > 0),
            "max_in_flight",
        ),
        (provider.breaker.is_some(), "breaker"),
        (provider.health.is_some(), "health"),
    ] {
        if used {
            check
                .findings
                .not_built(&path.key(key), format!("providers[].{key}"));
        }
    }
}

fn route_form(form: &RouteForm, path: &Path, check: &mut Check<'_>) {
    let balance = match form.balance {
        None | Some(Balance::RoundRobin | Balance::Random) => None,
        Some(Balance::LeastLoaded) => Some("least_loaded"),
        Some(Balance::Hash) => Some("hash"),
    };
    if let Some(balance) = balance {
        let key = format!("model_routes.*.balance ({balance})");
        check.findings.not_built(&path.key("balance"), key);
    }
}
