//! Settings → snapshot. What outlives a configuration is carried over.

use super::Fault;
use crate::config::Settings;
use crate::egress::{self, Egress};
use crate::govern::settings::Unpriced;
use crate::govern::{Accounts, Governor, Keys, Ledger};
use crate::observe::Observer;
use crate::route::settings::Balance;
use crate::route::{ProviderIndex, Table};
use crate::snapshot::{Exit, Snapshot};
use crate::tokens::calibration::Calibration;
use crate::tokens::price::Prices;
use crate::types::glob::is_glob;
use crate::upstream::retry::{Budget, Faults, Policy};
use crate::upstream::{self, Group, Hedge, Order, ProviderId, Share, Upstreams};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A snapshot of a configuration that nothing is served from, for `weir check` and `weir explain`.
/// Writes no log and opens no socket.
///
/// # Errors
/// What can't be used: a certificate, a proxy's URL.
pub fn offline(settings: &Settings) -> Result<Snapshot, Fault> {
    let quiet = crate::observe::Settings {
        file: None,
        ..settings.observe.clone()
    };
    let shared = Shared {
        observer: Observer::new(&quiet)?,
        governor: Arc::new(Governor::new(settings.govern.clone(), Accounts::private())),
        keys: Keys::new(settings.state_dir.clone()),
        ledger: None,
        resolver: resolver(settings, Arc::new(()))?,
        own: egress::Own::new(addresses_of(settings)),
        dialling: Arc::default(),
        calibration: Arc::default(),
    };
    shared.build(settings, None)
}

/// Models that a team under a budget could ask for and that have no price, in sentences.
pub(super) fn unpriced(snapshot: &Snapshot, settings: &Settings) -> Vec<String> {
    let mut teams = settings.govern.teams.iter().flatten();
    let budgeted = teams.any(|team| {
        let keys = team.keys.iter().map(|key| &key.allowance);
        let mut all = keys.chain([&team.allowance]);
        all.any(|allowance| !allowance.budgets.is_empty())
    });
    if !budgeted {
        return Vec::new();
    }
    let fate = match settings.govern.unpriced {
        Unpriced::Refuse => "requests for it under a budget are refused",
        Unpriced::Allow => "requests for it cost nothing of a budget",
    };
    let routes = snapshot.routes.models.routes().iter();
    let exact = routes.filter(|route| !is_glob(&route.pattern));
    let targets = exact.flat_map(|route| route.targets.iter().map(move |it| (route, it)));
    targets
        .filter_map(|(route, target)| {
            let provider = snapshot.upstreams.provider(ProviderId(target.provider.0));
            let model = target.model.as_deref().unwrap_or(&route.pattern);
            let price = snapshot.prices.find(&provider.name, model);
            price.is_none().then(|| {
                let (route, provider) = (&route.pattern, &provider.name);
                format!(
                    "model_routes.{route}: {model:?} of {provider} has no price, so {fate}; name one in \
                     `prices` (limits.unpriced says what becomes of it)"
                )
            })
        })
        .collect()
}

/// Those of the file; a port 0 isn't known yet.
fn addresses_of(settings: &Settings) -> Vec<SocketAddr> {
    let sockets = super::sockets_of(settings);
    sockets.iter().filter_map(|it| it.address.tcp()).collect()
}

pub(super) fn resolver(
    settings: &Settings,
    observer: Arc<dyn weir_dns::Observer>,
) -> Result<weir_dns::Resolver, Fault> {
    weir_dns::Resolver::with_observer(settings.egress.dns.clone(), observer)
        .map_err(|error| Fault::Unusable(format!("dns: {error}")))
}

/// What outlives a configuration.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) observer: Arc<Observer>,
    pub(super) governor: Arc<Governor>,
    /// Of no configuration: its keys made at run time are those of all.
    pub(super) keys: Keys,
    /// Where usage is written down, if it is.
    pub(super) ledger: Option<Arc<Ledger>>,
    pub(super) resolver: weir_dns::Resolver,
    /// Where weir listens, which no request may be sent to.
    pub(super) own: egress::Own,
    /// What dialling has taught.
    pub(super) dialling: Arc<egress::Memory>,
    /// What upstreams' reports have taught of their tokens.
    pub(super) calibration: Arc<Calibration>,
}

impl Shared {
    /// Makes a snapshot of checked settings; state of `old` is carried over.
    pub(super) fn build(
        &self,
        settings: &Settings,
        old: Option<&Snapshot>,
    ) -> Result<Snapshot, Fault> {
        let upstreams = Upstreams::new(
            &settings.upstream,
            old.map(|old| &old.upstreams),
            &self.observer.metrics.breakers,
        );
        let exits = exits(settings, &upstreams)?;
        let routes = Table::new(&settings.route);
        let budget = || Budget::new(settings.upstream.retry_budget, Instant::now());
        let route_groups = routes
            .models
            .routes()
            .iter()
            .map(|route| {
                let shares: Vec<Share> = route
                    .targets
                    .iter()
                    .map(|target| Share {
                        provider: ProviderId(target.provider.0),
                        model: target.model.as_deref().map(Arc::from),
                        weight: target.weight,
                    })
                    .collect();
                let order = match &route.balance {
                    Balance::RoundRobin => Order::RoundRobin,
                    Balance::Random => Order::Random,
                    Balance::LeastLoaded => Order::LeastLoaded,
                    Balance::Hash(hash) => Order::Hash { bound: hash.bound },
                };
                let policy = Policy {
                    retries: route.retries,
                    on: route.retry_on.clone().map(Faults::of),
                };
                Group::new(&upstreams, &shares, order, policy, budget())
            })
            .collect();
        let provider_groups = (0..upstreams.providers().len())
            .map(|number| {
                let share = Share {
                    provider: ProviderId(number),
                    model: None,
                    weight: 1,
                };
                let policy = Policy {
                    retries: PATH_RETRIES,
                    on: None,
                };
                Group::new(&upstreams, &[share], Order::RoundRobin, policy, budget())
            })
            .collect();
        let terms_of = |pattern: &str| {
            let mut all = settings.govern.routes.iter();
            all.find(|(name, _)| name == pattern)
                .map(|(_, terms)| terms.clone())
        };
        let patterns = routes.models.routes().iter();
        let route_terms = patterns.map(|route| terms_of(&route.pattern)).collect();
        let hedges = settings.upstream.hedges.iter().map(|(pattern, hedge)| {
            let old = old.and_then(|old| old.hedges.get(pattern));
            (pattern.clone(), Hedge::new(*hedge, old))
        });
        Ok(Snapshot {
            hedges: hedges.collect(),
            batches: settings.upstream.batches.iter().cloned().collect(),
            route_terms,
            prices: Prices::new(&settings.tokens),
            model_list: model_list(&routes, &upstreams),
            corridor: settings.proxy.clone(),
            egress: Egress::new(
                settings.egress.clone(),
                self.resolver.clone(),
                Arc::clone(&self.dialling),
            )
            .refusing(self.own.clone()),
            keys: self.keys.with_teams(settings.govern.teams.as_deref()),
            governor: Arc::clone(&self.governor),
            calibration: Arc::clone(&self.calibration),
            ledger: self.ledger.clone(),
            observer: Arc::clone(&self.observer),
            routes,
            upstreams,
            exits,
            route_groups,
            provider_groups,
        })
    }
}

/// Makes ready what the first requests would wait for: names of upstreams, and the vocabulary that
/// tokens are counted with. What takes too long is left to them.
pub(super) async fn warm(
    snapshot: &Snapshot,
    resolver: &weir_dns::Resolver,
    vocabulary: std::thread::JoinHandle<()>,
) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut names: Vec<Arc<str>> = (snapshot.upstreams.endpoints().iter())
        .map(|endpoint| Arc::clone(&endpoint.base.host))
        .collect();
    names.sort_unstable();
    names.dedup();
    let lookups: Vec<_> = names
        .into_iter()
        .map(|name| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.lookup(&name).await.map(drop) })
        })
        .collect();
    let all = async {
        for lookup in lookups {
            // A name that can't be resolved fails its requests, not the start.
            drop(lookup.await);
        }
        ready(vocabulary).await;
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        tracing::warn!("some upstreams' names were not resolved within {PATIENCE:?}");
    }
}

/// Connects to the busiest upstreams, before a request asks for one.
pub(super) async fn connect_ahead(snapshot: &Snapshot) {
    let exits = snapshot.exits.iter();
    let endpoints = exits.map(|exit| (&exit.endpoint, &exit.limits));
    snapshot.egress.connect_ahead(endpoints).await;
}

/// Further tries for requests that no model route governs.
const PATH_RETRIES: u32 = 2;

fn exits(settings: &Settings, upstreams: &Upstreams) -> Result<Vec<Exit>, Fault> {
    upstreams
        .endpoints()
        .iter()
        .map(|endpoint| {
            let provider = &settings.upstream.providers[endpoint.provider.0];
            exit(settings, provider, &endpoint.base)
                .map_err(|error| Fault::Unusable(format!("provider {}: {error}", provider.name)))
        })
        .collect()
}

fn exit(
    settings: &Settings,
    provider: &upstream::settings::Provider,
    base: &crate::types::BaseUrl,
) -> Result<Exit, String> {
    let mode = match &provider.egress {
        upstream::settings::Egress::Auto => egress::Mode::Auto,
        upstream::settings::Egress::Direct => egress::Mode::Direct,
        upstream::settings::Egress::Proxy => egress::Mode::Proxy(None),
        upstream::settings::Egress::Urls(urls) => {
            let proxies: Result<egress::Proxies, egress::ProxyUrlError> = urls
                .iter()
                .map(|url| url.expose().parse().map(Arc::new))
                .collect();
            egress::Mode::Proxy(Some(proxies.map_err(|error| format!("egress: {error}"))?))
        }
    };
    let tls = egress::Tls::load(
        provider.tls.server_name.clone(),
        provider.tls.verify,
        provider.tls.ca.as_deref(),
        provider
            .tls
            .client
            .as_ref()
            .map(|(cert, key)| (cert.as_path(), key.as_path())),
    )?;
    let general = settings.proxy.timeouts;
    let own = provider.timeouts;
    Ok(Exit {
        endpoint: egress::Endpoint::new(base.scheme, &base.host, base.port, mode, tls)
            .map_err(|error| error.to_string())?,
        limits: egress::Limits {
            connect: own.connect.unwrap_or(general.connect),
            first_byte: own.first_byte.unwrap_or(general.first_byte),
            idle: own.idle.unwrap_or(general.idle),
            write: own.idle.unwrap_or(general.idle),
        },
    })
}

/// The answer to `GET /v1/models` (OpenAI's list), or `None` when nothing can be listed.
fn model_list(routes: &Table, upstreams: &Upstreams) -> Option<Bytes> {
    let models: Vec<_> = routes
        .models
        .names()
        .map(|name| {
            let owner = routes.models.find(name).and_then(|index| {
                let ProviderIndex(provider) = routes.models.route(index).targets.first()?.provider;
                Some(upstreams.provider(ProviderId(provider)).name.to_string())
            });
            serde_json::json!({"id": name, "object": "model", "created": 0, "owned_by": owner})
        })
        .collect();
    if models.is_empty() {
        return None;
    }
    let list = serde_json::json!({"object": "list", "data": models});
    Some(list.to_string().into())
}

/// Waits for the vocabulary that tokens are counted with: half a second of one CPU from the start of
/// the process.
pub(super) async fn ready(vocabulary: std::thread::JoinHandle<()>) {
    let joined = tokio::task::spawn_blocking(move || vocabulary.join().is_ok()).await;
    if !joined.unwrap_or(false) {
        tracing::error!("the vocabulary that tokens are counted with could not be made ready");
    }
}

/// Whether requests are weighed before they are sent: something limits their tokens, or may.
pub(super) fn weighs(settings: &Settings) -> bool {
    let govern = &settings.govern;
    govern.teams.is_some()
        || govern.in_flight_tokens_max > 0
        || govern.per_address != Default::default()
        || govern
            .routes
            .iter()
            .any(|(_, terms)| terms.allowance != Default::default())
        || settings.proxy.estimates
}
