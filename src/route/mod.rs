//! Which provider serves a path or a model. Pure tables, built once from settings; they know
//! nothing of health, keys or sockets. Called by `proxy::plan` and `weir explain`.
//!
//! The rules, first match wins:
//! 1. the body names a model that `model_routes` knows;
//! 2. the longest `target_map` path that is a prefix at a `/` boundary;
//! 3. `routing.default_provider`;
//! 4. nothing: the caller answers 404.

pub mod join;
pub mod model;
pub mod settings;
pub mod table;

pub use join::join;
pub use model::{Models, Route, RouteIndex};
pub use settings::{ProviderIndex, Settings};
pub use table::PathTable;

use std::fmt;

/// All tables together.
#[derive(Debug)]
pub struct Table {
    /// `model_routes`, with aliases and globs.
    pub models: Models,
    /// `target_map`.
    pub paths: PathTable,
    default: Option<ProviderIndex>,
}

/// Where a request goes, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Rule 1.
    Model(RouteIndex),
    /// Rule 2: the provider, and the entry's place in the table.
    Path(ProviderIndex, usize),
    /// Rule 3.
    Default(ProviderIndex),
}

/// Why nothing serves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// A model was named, and no rule took it.
    Model,
    /// No model was named, and no path matched.
    Path,
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "no route serves this model",
            Self::Path => "no route serves this path",
        })
    }
}

impl Table {
    /// Builds the tables. Settings are already checked: every index and alias is right.
    pub fn new(settings: &Settings) -> Self {
        Self {
            models: Models::new(settings),
            paths: PathTable::new(&settings.target_map),
            default: settings.default_provider,
        }
    }

    /// Applies the rules to a path and the model that the request names.
    ///
    /// # Errors
    /// When no rule matches.
    pub fn find(&self, path: &str, model: Option<&str>) -> Result<Found, NotFound> {
        if let Some(route) = model.and_then(|name| self.models.find(name)) {
            return Ok(Found::Model(route));
        }
        if let Some((provider, entry)) = self.paths.find(path) {
            return Ok(Found::Path(provider, entry));
        }
        match (self.default, model) {
            (Some(provider), _) => Ok(Found::Default(provider)),
            (None, Some(_)) => Err(NotFound::Model),
            (None, None) => Err(NotFound::Path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::settings::{Balance, ModelRoute, Target};
    use super::*;

    fn table(default: Option<usize>) -> Table {
        let to = |index| {
            vec![Target {
                provider: ProviderIndex(index),
                model: None,
                weight: 1,
            }]
        };
        let route = |pattern: &str, index| ModelRoute {
            pattern: pattern.into(),
            targets: to(index),
            balance: Balance::RoundRobin,
            retries: 2,
            retry_on: None,
            fallback: Vec::new(),
            lenient: false,
        };
        Table::new(&Settings {
            target_map: vec![
                ("/v1".into(), ProviderIndex(10)),
                ("/v1/search".into(), ProviderIndex(11)),
            ],
            models: vec![
                route("gpt-4o", 0),
                route("gpt-*", 1),
                route("gpt-4*", 2),
                route("qwen?", 3),
            ],
            aliases: vec![
                ("fast".into(), "quick".into()),
                ("quick".into(), "gpt-4o".into()),
            ],
            default_provider: default.map(ProviderIndex),
        })
    }

    fn pattern(table: &Table, model: &str) -> Option<String> {
        let route = table.models.find(model)?;
        Some(table.models.route(route).pattern.to_string())
    }

    #[test]
    fn exact_wins_then_the_longest_glob() {
        let table = table(None);
        assert_eq!(pattern(&table, "gpt-4o").as_deref(), Some("gpt-4o"));
        assert_eq!(pattern(&table, "gpt-4-turbo").as_deref(), Some("gpt-4*"));
        assert_eq!(pattern(&table, "gpt-3.5").as_deref(), Some("gpt-*"));
        assert_eq!(pattern(&table, "qwen3").as_deref(), Some("qwen?"));
        assert_eq!(pattern(&table, "qwen33"), None);
        assert_eq!(pattern(&table, "fast").as_deref(), Some("gpt-4o"));
    }

    #[test]
    fn the_model_beats_the_path_and_the_path_beats_the_default() {
        let table = table(Some(20));
        let find = |path, model| table.find(path, model).unwrap();
        assert!(matches!(
            find("/v1/chat/completions", Some("gpt-4o")),
            Found::Model(_)
        ));
        assert_eq!(
            find("/v1/search/x", Some("unknown")),
            Found::Path(ProviderIndex(11), 1)
        );
        assert_eq!(
            find("/v1/searching", None),
            Found::Path(ProviderIndex(10), 0)
        );
        assert_eq!(find("/v2", None), Found::Default(ProviderIndex(20)));
    }

    #[test]
    fn without_a_rule_the_refusal_says_what_was_missing() {
        let table = table(None);
        assert_eq!(table.find("/v2", Some("unknown")), Err(NotFound::Model));
        assert_eq!(table.find("/v2", None), Err(NotFound::Path));
    }
}
