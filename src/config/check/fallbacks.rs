//! `model_routes.*.fallback`: each names another route.

use super::Check;
use super::aliases::{is_glob, is_route};
use crate::config::file::{File, Route};
use crate::route::settings::Settings;

/// Notes fallbacks that lead nowhere, or back to their own route, and those that are there twice.
pub(super) fn report(file: &File, settings: &Settings, check: &mut Check<'_>) {
    let map = check.key("model_routes");
    let aliases = || settings.aliases.iter().map(|(alias, _)| alias.as_str());
    let patterns = || settings.models.iter().map(|route| route.pattern.as_str());
    for (name, route) in file.model_routes.iter().flat_map(|map| &map.0) {
        let Some(Route::Form(form)) = route else {
            continue;
        };
        let path = map.key(name).key("fallback");
        let mut seen = Vec::new();
        for (index, text) in form.fallback.iter().flat_map(|list| list.items()) {
            let (path, other) = (path.index(index), text.0.as_str());
            let others = patterns().chain(aliases());
            let others = others.filter(|it| *it != name && !is_glob(it));
            let known = aliases().any(|alias| alias == other) || is_route(settings, other);
            let covered = check.findings.covers(&map.key(other));
            let allowed = "the name of another model that `model_routes` has";
            if other == name || is_glob(other) || !known && !covered {
                check.findings.wrong_word(&path, allowed, others);
            } else if stands_for(settings, other) == name {
                let found = "another name of the same route";
                check.findings.wrong_because(&path, found, allowed);
            } else if seen.contains(&other) {
                let found = format!("{other:?} again");
                check.findings.wrong_because(&path, found, allowed);
            }
            seen.push(other);
        }
    }
}

/// The name at the end of a chain of aliases.
fn stands_for<'a>(settings: &'a Settings, name: &'a str) -> &'a str {
    let next = |name: &str| settings.aliases.iter().find(|(alias, _)| alias == name);
    let mut at = name;
    // A circle is told of elsewhere.
    for _ in &settings.aliases {
        at = next(at).map_or(at, |(_, target)| target.as_str());
    }
    at
}
