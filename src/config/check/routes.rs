//! `target_map`, `model_routes`, `routing` and `providers[].models`: what goes where.

use super::Check;
use super::providers::{self, Pool};
use crate::config::file::{Balance, File, Route, RouteForm, Target};
use crate::config::path::Path;
use crate::route::settings::{self, ModelRoute, ProviderIndex, Settings};
use std::collections::HashSet;

/// Reads all rules of routing; bare URLs become providers in the pool.
pub(super) fn routes(file: &File, pool: &mut Pool, check: &mut Check<'_>) -> Settings {
    let mut settings = Settings::default();
    target_map(file, pool, &mut settings, check);
    model_routes(file, pool, &mut settings, check);
    provider_models(file, &mut settings, check);
    aliases(&settings, check);
    let default = file.routing.as_ref().and_then(|routing| routing.default_provider.as_ref());
    if let Some(name) = default {
        let path = check.key("routing").key("default_provider");
        settings.default_provider = pool.find(&name.0, &path, check);
    }
    settings
}

fn target_map(file: &File, pool: &mut Pool, settings: &mut Settings, check: &mut Check<'_>) {
    let map = check.key("target_map");
    for (prefix, target) in file.target_map.iter().flat_map(|map| &map.0) {
        let path = map.key(prefix);
        let visible = prefix.bytes().all(|byte| byte.is_ascii_graphic());
        if !prefix.starts_with('/') || prefix.contains(['?', '#']) || !visible {
            let found = format!("the path {prefix:?}");
            let allowed = "a path that begins with `/`, without `?query` or `#fragment`";
            check.findings.wrong_because(&path, found, allowed);
        }
        let Some(target) = target else {
            check.missing(&path, "a URL, or a provider's name");
            continue;
        };
        let provider = match target.0.contains("://") {
            true => check.url(&target.0, &path).and_then(|url| pool.bare(vec![url])),
            false => pool.find(&target.0, &path, check),
        };
        settings.target_map.extend(provider.map(|provider| (prefix.clone(), provider)));
    }
}

fn model_routes(file: &File, pool: &mut Pool, settings: &mut Settings, check: &mut Check<'_>) {
    let map = check.key("model_routes");
    for (name, route) in file.model_routes.iter().flat_map(|map| &map.0) {
        let path = map.key(name);
        if name.is_empty() {
            check.findings.wrong_because(&path, "an empty name", "a model's name or a glob");
        }
        match route {
            None => check.missing(&path, ROUTE),
            Some(Route::Text(url)) if url.contains("://") => {
                let provider = check.url(url, &path).and_then(|url| pool.bare(vec![url]));
                let target = provider.map(whole);
                settings.models.extend(target.map(|target| plain_route(name, target)));
            }
            Some(Route::Text(other)) => {
                if is_glob(name) {
                    let allowed = "a URL or a mapping (an alias has an exact name, no glob)";
                    check.findings.wrong(&path, allowed);
                }
                settings.aliases.push((name.clone(), other.clone()));
            }
            Some(Route::Form(form)) => {
                settings.models.extend(route_form(name, form, pool, &path, check));
            }
        }
    }
}

const ROUTE: &str = "a URL, the name of another route, or a mapping with url, urls or targets";

const RETRIES_DEFAULT: u64 = 2;
const RETRIES_MAX: u64 = 20;

fn plain_route(pattern: &str, target: settings::Target) -> ModelRoute {
    ModelRoute {
        pattern: pattern.to_owned(),
        targets: vec![target],
        balance: settings::Balance::RoundRobin,
        retries: RETRIES_DEFAULT as u32,
    }
}

fn whole(provider: ProviderIndex) -> settings::Target {
    settings::Target {
        provider,
        model: None,
        weight: 1,
    }
}

fn route_form(
    name: &str,
    form: &RouteForm,
    pool: &mut Pool,
    path: &Path,
    check: &mut Check<'_>,
) -> Option<ModelRoute> {
    let retries = form.retries.map_or(RETRIES_DEFAULT, |retries| retries.0);
    if retries > RETRIES_MAX {
        check.findings.wrong(&path.key("retries"), format!("a number from 0 to {RETRIES_MAX}"));
    }
    let targets: Vec<settings::Target> = match (&form.url, &form.urls, &form.targets) {
        (Some(url), None, None) => {
            let url = check.url(&url.0, &path.key("url"))?;
            pool.bare(vec![url]).map(whole).into_iter().collect()
        }
        (None, Some(list), None) => {
            let urls = providers::urls(list, &path.key("urls"), check);
            pool.bare(urls).map(whole).into_iter().collect()
        }
        (None, None, Some(list)) => {
            let path = path.key("targets");
            if list.0.is_empty() {
                check.findings.wrong_because(&path, "an empty list", "at least one target");
            }
            let one = |(index, it)| target(it, pool, &path.index(index), check);
            list.items().filter_map(one).collect()
        }
        (None, None, None) => {
            if !check.findings.covers(path) {
                let found = "none of `url`, `urls` and `targets`";
                check.findings.wrong_because(path, found, "one of them");
            }
            return None;
        }
        _ => {
            let found = "more than one of `url`, `urls` and `targets`";
            check.findings.wrong_because(path, found, "one of them");
            return None;
        }
    };
    Some(ModelRoute {
        pattern: name.to_owned(),
        targets,
        balance: match form.balance {
            Some(Balance::Random) => settings::Balance::Random,
            // The others were answered as not built yet.
            _ => settings::Balance::RoundRobin,
        },
        retries: u32::try_from(retries).unwrap_or(u32::MAX),
    })
}

fn target(
    target: &Target,
    pool: &Pool,
    path: &Path,
    check: &mut Check<'_>,
) -> Option<settings::Target> {
    let weight = target.weight.map_or(1, |weight| weight.0);
    if !(1..=WEIGHT_MAX).contains(&weight) {
        check.findings.wrong(&path.key("weight"), format!("a weight from 1 to {WEIGHT_MAX}"));
    }
    let model = target.model.as_ref().map(|model| model.0.clone());
    if model.as_ref().is_some_and(String::is_empty) {
        check.findings.wrong(&path.key("model"), "the name that the upstream knows");
    }
    let Some(name) = &target.provider else {
        check.missing(&path.key("provider"), "a provider's name");
        return None;
    };
    Some(settings::Target {
        provider: pool.find(&name.0, &path.key("provider"), check)?,
        model,
        weight: usize::try_from(weight).unwrap_or(usize::MAX),
    })
}

/// The balancer holds a place for each unit of weight.
const WEIGHT_MAX: u64 = 1000;

/// `providers[].models`: one route each, which no other rule may name.
fn provider_models(file: &File, settings: &mut Settings, check: &mut Check<'_>) {
    let routes = file.model_routes.iter().flat_map(|map| &map.0);
    let mut named: HashSet<&str> = routes.map(|(name, _)| name.as_str()).collect();
    let path = check.key("providers");
    let providers = file.providers.iter().flat_map(|list| list.items());
    // The pool has one provider for each item that could be read, in the same order.
    for (place, (index, provider)) in providers.enumerate() {
        let path = path.index(index).key("models");
        for (index, model) in provider.models.iter().flat_map(|list| list.items()) {
            let path = path.index(index);
            if model.0.is_empty() {
                check.findings.wrong(&path, "a model's name or a glob");
            } else if !named.insert(&model.0) {
                let allowed = "a model that has no other route (for several providers, or other \
                               names upstream, use `model_routes` with `targets`)";
                check.findings.wrong(&path, allowed);
            } else {
                let route = plain_route(&model.0, whole(ProviderIndex(place)));
                settings.models.push(route);
            }
        }
    }
}

/// Notes aliases that lead nowhere or in a circle.
fn aliases(settings: &Settings, check: &mut Check<'_>) {
    let map = check.key("model_routes");
    let next = |name: &str| {
        let alias = settings.aliases.iter().find(|(alias, _)| alias == name);
        alias.map(|(_, target)| target.as_str())
    };
    let is_route = |name: &str| {
        let patterns = settings.models.iter().map(|route| route.pattern.as_str());
        patterns.clone().any(|pattern| pattern == name)
            || patterns.clone().any(|pattern| is_glob(pattern) && matches(pattern, name))
    };
    let names = settings.models.iter().map(|route| &route.pattern);
    let names = names.chain(settings.aliases.iter().map(|(alias, _)| alias));
    let names: Vec<&str> = names.map(String::as_str).filter(|name| !is_glob(name)).collect();
    let mut circled: HashSet<&str> = HashSet::new();
    for (alias, target) in &settings.aliases {
        let path = map.key(alias);
        if next(target).is_none() && !is_route(target) && !check.findings.covers(&map.key(target)) {
            let others = names.iter().copied().filter(|name| name != alias);
            let allowed = "a URL with http:// or https://, or the name of another route";
            check.findings.wrong_word(&path, allowed, others);
        }
        let mut seen = vec![alias.as_str()];
        let mut at = target.as_str();
        while let Some(after) = next(at) {
            if let Some(start) = seen.iter().position(|name| *name == at) {
                // Told once, at the circle's first alias in the file.
                if start == 0 && !circled.contains(at) {
                    circled.extend(&seen);
                    let circle = [&seen[..], &[at]].concat().join(" → ");
                    let found = format!("an alias that leads back to itself ({circle})");
                    check.findings.wrong_because(&path, found, "the name of another route");
                }
                break;
            }
            seen.push(at);
            at = after;
        }
    }
}

/// A name with `*` or `?`, which `route` reads as a glob.
fn is_glob(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// `*` stands for any text, `?` for one character.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut pos) = (0, 0);
    // The last star, and where in the name what follows it was tried.
    let mut star: Option<(usize, usize)> = None;
    while pos < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, pos));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[pos] => {
                at += 1;
                pos += 1;
            }
            _ => match star {
                Some((back, tried)) => {
                    star = Some((back, tried + 1));
                    at = back + 1;
                    pos = tried + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name, matching) in [
            ("qwen*", "qwen-72b", true),
            ("*", "", true),
            ("a*b*c", "a--b-b--c", true),
            ("a*b*c", "a--c-c", false),
            ("gpt-?", "gpt-4", true),
            ("gpt-?", "gpt-4o", false),
            ("gpt-4", "gpt-4", true),
        ] {
            assert_eq!(matches(pattern, name), matching, "{pattern} {name}");
        }
    }
}
