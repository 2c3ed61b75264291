//! `target_map`, `model_routes`, `routing` and `providers[].models`: what goes where.

use super::aliases::{self, is_glob};
use super::fallbacks;
use super::providers::{self, Pool};
use super::{Check, bounds};
use crate::config::file::{
    AllOpen, Balance, File, Hash, HashBy, RetryOn, Route, RouteForm, Target,
};
use crate::config::lists::List;
use crate::config::path::Path;
use crate::config::units::Text;
use crate::route::settings::{self, ModelRoute, ProviderIndex, Settings};
use crate::types::Fault;
use crate::upstream::settings as upstream;
use std::collections::HashSet;

/// Reads all rules of routing; bare URLs become providers in the pool.
pub(super) fn routes(file: &File, pool: &mut Pool, check: &mut Check<'_>) -> Settings {
    let mut settings = Settings::default();
    target_map(file, pool, &mut settings, check);
    model_routes(file, pool, &mut settings, check);
    provider_models(file, &mut settings, check);
    aliases::report(&settings, check);
    fallbacks::report(file, &settings, check);
    let default = file
        .routing
        .as_ref()
        .and_then(|routing| routing.default_provider.as_ref());
    if let Some(name) = default {
        let path = check.key("routing").key("default_provider");
        settings.default_provider = pool.find(&name.0, &path, check);
    }
    settings
}

fn target_map(file: &File, pool: &mut Pool, settings: &mut Settings, check: &mut Check<'_>) {
    let map = check.key("target_map");
    let mut seen: Vec<&String> = Vec::new();
    for (prefix, target) in file.target_map.iter().flat_map(|map| &map.0) {
        let path = map.key(prefix);
        let visible = prefix.bytes().all(|byte| byte.is_ascii_graphic());
        if !prefix.starts_with('/') || prefix.contains(['?', '#']) || !visible {
            let found = format!("the path {prefix:?}");
            let allowed = "a path that begins with `/`, without `?query` or `#fragment`";
            check.findings.wrong_because(&path, found, allowed);
        }
        let same = |other: &&String| other.trim_end_matches('/') == prefix.trim_end_matches('/');
        if let Some(other) = seen.iter().find(|other| same(other)) {
            let found = format!("the path of {other:?} again");
            check.findings.wrong_because(&path, found, "each path once");
        }
        seen.push(prefix);
        let Some(target) = target else {
            check.missing(&path, "a URL, or a provider's name");
            continue;
        };
        let provider = match target.0.contains("://") {
            true => check
                .url(&target.0, &path)
                .and_then(|url| pool.bare(vec![url])),
            false => pool.find(&target.0, &path, check),
        };
        settings
            .target_map
            .extend(provider.map(|provider| (prefix.clone(), provider)));
    }
}

fn model_routes(file: &File, pool: &mut Pool, settings: &mut Settings, check: &mut Check<'_>) {
    let map = check.key("model_routes");
    for (name, route) in file.model_routes.iter().flat_map(|map| &map.0) {
        let path = map.key(name);
        if name.is_empty() {
            check.findings.wrong_because(&path, "an empty name", MODEL);
        } else if !is_name(name) {
            let found = "a name with a control character";
            check.findings.wrong_because(&path, found, MODEL);
        }
        match route {
            None => check.missing(&path, ROUTE),
            Some(Route::Text(url)) if url.contains("://") => {
                let provider = check.url(url, &path).and_then(|url| pool.bare(vec![url]));
                let target = provider.map(whole);
                settings
                    .models
                    .extend(target.map(|target| plain_route(name, target)));
            }
            Some(Route::Text(other)) => {
                if is_glob(name) {
                    let allowed = "a URL or a mapping (an alias has an exact name, no glob)";
                    check.findings.wrong(&path, allowed);
                }
                if is_name(other) {
                    settings.aliases.push((name.clone(), other.clone()));
                } else {
                    check.findings.wrong(&path, ROUTE);
                }
            }
            Some(Route::Form(form)) => {
                settings
                    .models
                    .extend(route_form(name, form, pool, &path, check));
            }
        }
    }
}

/// True for a model's name that a header can carry.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(char::is_control)
}

const MODEL: &str = "a model's name or a glob, without control characters";

const ROUTE: &str = "a URL, the name of another route, or a mapping with url, urls or targets";

const RETRIES_DEFAULT: u64 = 2;
const RETRIES_MAX: u64 = 20;

fn plain_route(pattern: &str, target: settings::Target) -> ModelRoute {
    ModelRoute {
        pattern: pattern.to_owned(),
        targets: vec![target],
        balance: settings::Balance::RoundRobin,
        retries: RETRIES_DEFAULT as u32,
        retry_on: None,
        fallback: Vec::new(),
        lenient: false,
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
        check.findings.wrong(
            &path.key("retries"),
            format!("a number from 0 to {RETRIES_MAX}"),
        );
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
                check
                    .findings
                    .wrong_because(&path, "an empty list", "at least one target");
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
        balance: balance(form, path, check),
        retries: u32::try_from(retries).unwrap_or(u32::MAX),
        retry_on: form.retry_on.as_ref().map(retry_on),
        fallback: texts(form.fallback.as_ref()),
        lenient: form.lenient.is_some_and(|lenient| lenient.0),
    })
}

fn balance(form: &RouteForm, path: &Path, check: &mut Check<'_>) -> settings::Balance {
    let hash = path.key("hash");
    if form.hash.is_some() && !matches!(form.balance, Some(Balance::Hash)) {
        check
            .findings
            .wrong(&hash, "nothing, unless `balance: hash`");
    }
    match form.balance {
        None | Some(Balance::RoundRobin) => settings::Balance::RoundRobin,
        Some(Balance::Random) => settings::Balance::Random,
        Some(Balance::LeastLoaded) => settings::Balance::LeastLoaded,
        Some(Balance::Hash) => {
            let none = Hash::default();
            let given = form.hash.as_ref().unwrap_or(&none);
            settings::Balance::Hash(hashing(given, &hash, check))
        }
    }
}

fn hashing(given: &Hash, path: &Path, check: &mut Check<'_>) -> settings::Hash {
    const PREFIX: usize = 1 << 10;
    const BOUND: f64 = 1.25;
    let bytes = bounds::size(given.prefix, &path.key("prefix"), 1..=1 << 20, check);
    let name = given.header.as_ref().map(|text| text.0.as_str());
    let by_header = matches!(given.by, Some(HashBy::Header));
    if name.is_some_and(|name| http::HeaderName::try_from(name).is_err()) {
        check.findings.wrong(&path.key("header"), "a header's name");
    } else if name.is_some() && !by_header {
        check
            .findings
            .wrong(&path.key("header"), "nothing, unless `by: header`");
    } else if name.is_none() && by_header {
        check.missing(&path.key("header"), "a header's name");
    }
    let bound = given.bound.map_or(BOUND, |bound| bound.0);
    if !(1.0..=100.0).contains(&bound) {
        check
            .findings
            .wrong(&path.key("bound"), "a number from 1 to 100, such as 1.25");
    }
    settings::Hash {
        by: match given.by {
            None | Some(HashBy::Prefix) => settings::Affinity::Prefix(bytes.unwrap_or(PREFIX)),
            Some(HashBy::User) => settings::Affinity::User,
            Some(HashBy::Key) => settings::Affinity::Key,
            Some(HashBy::Header) => settings::Affinity::Header(name.unwrap_or_default().to_owned()),
        },
        bound,
    }
}

/// `routing.all_open`.
pub(super) fn all_open(file: &File) -> upstream::AllOpen {
    let routing = file.routing.as_ref();
    match routing.and_then(|routing| routing.all_open) {
        None | Some(AllOpen::Refuse) => upstream::AllOpen::Refuse,
        Some(AllOpen::Try) => upstream::AllOpen::Try,
    }
}

fn texts(list: Option<&List<Text>>) -> Vec<String> {
    let items = list.into_iter().flat_map(List::items);
    items.map(|(_, text)| text.0.clone()).collect()
}

fn retry_on(list: &List<RetryOn>) -> Vec<Fault> {
    let meant = |(_, word): (usize, &RetryOn)| match word {
        RetryOn::Connect => Fault::Connect,
        RetryOn::Reset => Fault::Reset,
        RetryOn::Timeout => Fault::Timeout,
        RetryOn::Busy => Fault::Busy,
        RetryOn::Error => Fault::Error,
        RetryOn::Account => Fault::Account,
    };
    list.items().map(meant).collect()
}

fn target(
    target: &Target,
    pool: &Pool,
    path: &Path,
    check: &mut Check<'_>,
) -> Option<settings::Target> {
    let weight = target.weight.map_or(1, |weight| weight.0);
    if !(1..=WEIGHT_MAX).contains(&weight) {
        check.findings.wrong(
            &path.key("weight"),
            format!("a weight from 1 to {WEIGHT_MAX}"),
        );
    }
    let model = target.model.as_ref().map(|model| model.0.clone());
    if model.as_ref().is_some_and(|model| !is_name(model)) {
        check
            .findings
            .wrong(&path.key("model"), "the name that the upstream knows");
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

/// `providers[].models`: one route each. Where `model_routes` has the model too, that route counts,
/// and must name the provider.
fn provider_models(file: &File, settings: &mut Settings, check: &mut Check<'_>) {
    let routes = check.key("model_routes");
    let written = file.model_routes.iter().flat_map(|map| &map.0);
    let written: HashSet<&str> = written.map(|(name, _)| name.as_str()).collect();
    let mut named: HashSet<&str> = HashSet::new();
    let path = check.key("providers");
    let providers = file.providers.iter().flat_map(|list| list.items());
    // The pool has one provider for each item that could be read, in the same order.
    for (place, (index, provider)) in providers.enumerate() {
        let path = path.index(index).key("models");
        for (index, Text(model)) in provider.models.iter().flat_map(|list| list.items()) {
            let path = path.index(index);
            let target = whole(ProviderIndex(place));
            if !is_name(model) {
                check.findings.wrong(&path, MODEL);
            } else if written.contains(model.as_str()) {
                let route = settings.models.iter().find(|route| route.pattern == *model);
                let mut targets = route.iter().flat_map(|route| &route.targets);
                let serves = targets.any(|other| other.provider == target.provider);
                if !serves && !check.findings.covers(&routes.key(model)) {
                    let allowed =
                        "a model whose entry in `model_routes` has this provider as a target";
                    check.findings.wrong(&path, allowed);
                }
            } else if !named.insert(model) {
                let allowed = "a model that no other provider lists (for several providers, use \
                               `model_routes` with `targets`)";
                check.findings.wrong(&path, allowed);
            } else {
                settings.models.push(plain_route(model, target));
            }
        }
    }
}
