//! `model_routes`: exact names, aliases and globs.

use super::settings::{Balance, Settings, Target};
use crate::types::Fault;
use crate::types::glob::{glob, is_glob};
use ahash::AHashMap;
use globset::GlobMatcher;
use std::sync::Arc;

/// All routes by model.
#[derive(Debug)]
pub struct Models {
    routes: Vec<Route>,
    exact: AHashMap<Box<str>, RouteIndex>,
    /// Longest pattern first.
    globs: Vec<(GlobMatcher, RouteIndex)>,
    /// Alias, and the name that it stands for in the end.
    aliases: AHashMap<Box<str>, Arc<str>>,
    /// What `GET /v1/models` names: exact names and aliases, in the order of the file.
    names: Vec<Box<str>>,
}

/// A route's place in [`Models`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteIndex(pub usize);

/// One route.
#[derive(Debug)]
pub struct Route {
    /// The name or glob as the operator wrote it: the only form of a model's name that may become
    /// a metric's label.
    pub pattern: Arc<str>,
    /// Who can serve it; never empty.
    pub targets: Vec<Target>,
    /// How a target is chosen.
    pub balance: Balance,
    /// Further tries after the first.
    pub retries: u32,
    /// What they follow; `None` leaves that to the request.
    pub retry_on: Option<Vec<Fault>>,
    /// Names of models whose routes are tried when no target could answer, in order.
    pub fallback: Vec<Arc<str>>,
    /// What can't be said in a provider's dialect is dropped, instead of refused.
    pub lenient: bool,
}

impl Models {
    /// Builds the table from checked settings.
    pub fn new(settings: &Settings) -> Self {
        let mut models = Self {
            routes: Vec::new(),
            exact: AHashMap::new(),
            globs: Vec::new(),
            aliases: AHashMap::new(),
            names: Vec::new(),
        };
        for route in &settings.models {
            models.add(route);
        }
        models
            .globs
            .sort_by_key(|(glob, _)| std::cmp::Reverse(glob.glob().glob().len()));
        for (alias, target) in &settings.aliases {
            let name = resolve(target, &settings.aliases);
            if let Some(route) = models.find(name) {
                if !is_glob(name) {
                    models.aliases.insert(alias.as_str().into(), name.into());
                }
                models.exact.insert(alias.as_str().into(), route);
                models.names.push(alias.as_str().into());
            }
        }
        models
    }

    fn add(&mut self, route: &super::settings::ModelRoute) {
        let index = RouteIndex(self.routes.len());
        self.routes.push(Route {
            pattern: route.pattern.as_str().into(),
            targets: route.targets.clone(),
            balance: route.balance.clone(),
            retries: route.retries,
            retry_on: route.retry_on.clone(),
            lenient: route.lenient,
            fallback: route
                .fallback
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
        });
        if is_glob(&route.pattern) {
            // A pattern that globset can't read was reported by the check of the configuration.
            if let Ok(glob) = glob(&route.pattern) {
                self.globs.push((glob.compile_matcher(), index));
            }
        } else {
            self.exact.insert(route.pattern.as_str().into(), index);
            self.names.push(route.pattern.as_str().into());
        }
    }

    /// The route of a model: exact names and aliases first, then the longest glob.
    pub fn find(&self, model: &str) -> Option<RouteIndex> {
        if let Some(route) = self.exact.get(model) {
            return Some(*route);
        }
        self.globs
            .iter()
            .find(|(glob, _)| glob.is_match(model))
            .map(|(_, route)| *route)
    }

    /// The name that an alias stands for; `None` for what is no alias, or stands for a glob.
    pub fn alias_of(&self, model: &str) -> Option<&Arc<str>> {
        self.aliases.get(model)
    }

    /// A route by its index.
    pub fn route(&self, index: RouteIndex) -> &Route {
        &self.routes[index.0]
    }

    /// All routes in the order of the file.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Names that a caller can ask for (globs can't be listed).
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(AsRef::as_ref)
    }

    /// True when no model is routed, so that no body needs to be read to find one.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

/// Follows aliases to the name that is none; a cycle, refused by the check, ends after one round.
fn resolve<'a>(name: &'a str, aliases: &'a [(String, String)]) -> &'a str {
    let mut name = name;
    for _ in 0..aliases.len() {
        match aliases.iter().find(|(alias, _)| alias == name) {
            Some((_, target)) => name = target,
            None => break,
        }
    }
    name
}
