//! The endpoints that weir sends to: what each is, how many requests it carries, which comes next.
//! It never resolves names, opens sockets or sees bodies. Called by `snapshot` (to build) and
//! `proxy::connect` (for each try).

pub mod attempt;
pub mod balance;
pub mod breaker;
pub mod bulkhead;
mod condition;
pub mod endpoint;
pub mod group;
pub mod health;
pub mod hedge;
pub mod pace;
pub mod renewed;
pub mod retry;
pub mod settings;
#[cfg(test)]
mod simulation;

pub use attempt::{Attempt, Outcome};
pub use balance::{Balancer, Order};
pub use bulkhead::{Turn, Unavailable};
pub use endpoint::Endpoint;
pub use group::{Choice, Group, Share};
pub use hedge::Hedge;
pub use renewed::Renewed;
pub use settings::{AllOpen, IncludeUsage, Settings};

use crate::dialect::provider::{self as dialect, KeyHeader};
use crate::observe::Breakers;
use crate::types::{BaseUrl, HeaderEdits};
use ahash::AHashMap;
use bulkhead::Bulkhead;
use condition::{Account, Terms};
use endpoint::Load;
use http::{HeaderName, HeaderValue};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All providers and endpoints of one configuration.
#[derive(Debug)]
pub struct Upstreams {
    providers: Vec<Provider>,
    endpoints: Vec<Arc<Endpoint>>,
    all_open: AllOpen,
}

/// A provider, ready for requests.
#[derive(Debug)]
pub struct Provider {
    /// Its name: the label in metrics, the value of `x-weir-provider`.
    pub name: Arc<str>,
    /// The credential to send, and in which header; `None` passes the client's own on.
    pub credential: Option<(HeaderName, HeaderValue)>,
    /// What it speaks; `None` takes requests as they come.
    pub dialect: Option<dialect::Provider>,
    /// Its credential, where that is renewed from time to time.
    pub renewed: Option<Arc<Renewed>>,
    /// By which its requests are signed.
    pub aws: Option<settings::AwsKeys>,
    /// Edits of requests to this provider.
    pub headers: HeaderEdits,
    /// Whether it is asked for usage in the client's stead.
    pub include_usage: IncludeUsage,
    /// How long an answer is read on when its client has left.
    pub drain: Option<Duration>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointId>,
    /// How many requests it may carry, once this configuration is live.
    places: settings::Places,
    /// What it carries now, and who waits; survives a reload.
    bulkhead: Arc<Bulkhead>,
    account: Arc<Account>,
}

/// A provider's place in [`Upstreams`]; the same number as in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProviderId(pub usize);

/// An endpoint's place in [`Upstreams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId(pub usize);

impl Provider {
    /// Requests that wait for a place at it.
    pub fn waiting(&self) -> usize {
        self.bulkhead.waiting()
    }
}

impl Provider {
    /// It is used by the operator's credential, not by the client's.
    pub fn has_own_account(&self) -> bool {
        self.credential.is_some() || self.renewed.is_some() || self.aws.is_some()
    }

    /// It is called by gRPC.
    pub fn is_called(&self) -> bool {
        let spoken = self.dialect.as_ref().map(|it| it.dialect);
        spoken == Some(dialect::Dialect::Grpc)
    }
}

impl Upstreams {
    /// Builds the endpoints of `settings`. An endpoint that `old` had too (same provider name, same
    /// base URL) keeps its state, and so does a provider of the same name. Nothing of `old` changes before
    /// [`Self::go_live`]. What opens is told to `breakers`.
    pub fn new(settings: &Settings, old: Option<&Self>, breakers: &Breakers) -> Self {
        let now = Instant::now();
        let mut known = old.map(Self::loads).unwrap_or_default();
        let mut bulkheads = old.map(Self::bulkheads).unwrap_or_default();
        let mut upstreams = Self {
            providers: Vec::with_capacity(settings.providers.len()),
            endpoints: Vec::new(),
            all_open: settings.all_open,
        };
        for (number, provider) in settings.providers.iter().enumerate() {
            let name: Arc<str> = provider.name.as_str().into();
            let key_header = provider.dialect.as_ref();
            let key_header = key_header.map_or(KeyHeader::Bearer, |it| it.dialect.key_header());
            let credential = provider
                .api_key
                .as_ref()
                .and_then(|key| credential(key_header, key.expose()));
            // What was said of another credential isn't said of this one.
            let before = old.and_then(|old| old.providers.iter().find(|it| it.name == name));
            let before = before.filter(|it| it.credential == credential);
            let renewed = provider.service_account.as_ref().map(|account| {
                let known = old.into_iter().flat_map(|old| &old.providers);
                let mut known = known.filter_map(|it| it.renewed.as_ref());
                let known = known.find(|it| it.account == *account).map(Arc::clone);
                known.unwrap_or_else(|| Arc::new(Renewed::new(account.clone())))
            });
            let account =
                before.map_or_else(|| Arc::new(Account::new(now)), |it| Arc::clone(&it.account));
            let rules = provider.breaker.map(breaker::Rules::of_endpoint);
            let known_bulkhead = bulkheads.take(&provider.name, &provider.urls);
            let bulkhead = known_bulkhead.unwrap_or_else(|| Bulkhead::new(provider.places));
            let count = provider.urls.len();
            let mut endpoints = Vec::with_capacity(count);
            for (place, base) in provider.urls.iter().enumerate() {
                endpoints.push(EndpointId(upstreams.endpoints.len()));
                let load = known.remove(&(Arc::clone(&name), base.clone()));
                let load = load.unwrap_or_else(|| Arc::new(Load::new(old.is_some(), now)));
                upstreams.endpoints.push(Arc::new(Endpoint {
                    provider: ProviderId(number),
                    name: base.authority().into(),
                    host_header: host_header(base),
                    base: base.clone(),
                    bulkhead: Arc::clone(&bulkhead),
                    load,
                    account: Arc::clone(&account),
                    provider_name: Arc::clone(&name),
                    place,
                    terms: Terms {
                        breaker: rules,
                        slow_start: provider.slow_start,
                    },
                    provider_rules: provider
                        .breaker
                        .and_then(|it| breaker::Rules::of_provider(it, count)),
                    health: provider.health.clone(),
                    breakers: breakers.clone(),
                }));
            }
            upstreams.providers.push(Provider {
                name,
                credential,
                dialect: provider.dialect.clone(),
                renewed,
                aws: provider.aws.clone(),
                headers: provider.headers.clone(),
                include_usage: provider.include_usage,
                drain: provider.drain,
                endpoints,
                places: provider.places,
                bulkhead,
                account,
            });
        }
        upstreams
    }

    fn loads(&self) -> AHashMap<(Arc<str>, BaseUrl), Arc<Load>> {
        self.endpoints
            .iter()
            .map(|endpoint| {
                let provider = Arc::clone(&self.provider(endpoint.provider).name);
                (
                    (provider, endpoint.base.clone()),
                    Arc::clone(&endpoint.load),
                )
            })
            .collect()
    }

    fn bulkheads(&self) -> bulkhead::Known {
        let all = self.providers.iter().map(|provider| {
            let endpoints = provider.endpoints.iter();
            let urls = endpoints.map(|id| self.endpoint(*id).base.clone());
            let bulkhead = Arc::clone(&provider.bulkhead);
            (Arc::clone(&provider.name), urls.collect(), bulkhead)
        });
        bulkhead::Known(all.collect())
    }

    /// The configuration is used from now on: its caps hold, and what it doesn't watch isn't known any more.
    pub fn go_live(&self) {
        let now = Instant::now();
        self.endpoints.iter().for_each(|it| it.go_live(now));
        for provider in &self.providers {
            provider.bulkhead.set_places(provider.places);
        }
    }

    /// A provider by its id.
    pub fn provider(&self, id: ProviderId) -> &Provider {
        &self.providers[id.0]
    }

    /// An endpoint by its id.
    pub fn endpoint(&self, id: EndpointId) -> &Arc<Endpoint> {
        &self.endpoints[id.0]
    }

    /// All providers.
    pub fn providers(&self) -> &[Provider] {
        &self.providers
    }

    /// All endpoints.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Begins a try at the first of these choices that takes one now, and says which that is. Where all
    /// that could are full, it waits for the first free place among them. Dropping the future gives the
    /// place in the line up.
    ///
    /// # Errors
    /// Why none takes it.
    pub async fn attempt(
        &self,
        choices: &[Choice],
        turn: &Turn,
    ) -> Result<(usize, Attempt), Unavailable> {
        let now = Instant::now();
        // Most of the time the first one takes it.
        if let Some(first) = choices.first()
            && let endpoint = self.endpoint(first.endpoint)
            && endpoint.wait(now).is_none()
            && let Some(permit) = endpoint.bulkhead.take(&endpoint.load)
            && let Ok(leave) = endpoint.enter(now)
        {
            let attempt = Attempt::begin(Arc::clone(endpoint), permit, leave);
            return Ok((0, attempt));
        }
        let paused = |choice: &Choice| self.endpoint(choice.endpoint).wait(now);
        let mut waits: Vec<Option<Duration>> = choices.iter().map(paused).collect();
        let (began, mut since) = (tokio::time::Instant::now(), None);
        loop {
            let open = waits.iter().enumerate().filter(|(_, wait)| wait.is_none());
            let mut open: Vec<usize> = open.map(|(number, _)| number).collect();
            let forced = open.is_empty();
            if forced {
                let soonest = waits.iter().enumerate().min_by_key(|(_, wait)| **wait);
                match soonest {
                    Some((number, _)) if self.all_open == AllOpen::Try => open.push(number),
                    soonest => {
                        let wait = soonest.and_then(|(_, wait)| *wait).unwrap_or_default();
                        return Err(Unavailable::Paused { wait });
                    }
                }
            }
            let endpoint = |number: &usize| self.endpoint(choices[*number].endpoint);
            let endpoints: Vec<&Arc<Endpoint>> = open.iter().map(endpoint).collect();
            let (number, permit) = bulkhead::place(&endpoints, turn, since).await?;
            let endpoint = endpoints[number];
            let leave = match forced {
                true => Ok(endpoint.forced()),
                false => endpoint.enter(Instant::now()),
            };
            match leave {
                Ok(leave) => {
                    let attempt = Attempt::begin(Arc::clone(endpoint), permit, leave);
                    return Ok((open[number], attempt));
                }
                // It failed while its place was waited for: another one is asked.
                Err(wait) => {
                    waits[open[number]] = Some(wait);
                    since = Some(began);
                }
            }
        }
    }

    /// Whether one of these would be tried now, if there is a place: none of what is paused.
    pub fn any_open(&self, choices: &[Choice], now: Instant) -> bool {
        self.first_open(choices, now).is_some()
    }

    /// The first of these that would be tried now, if there is a place.
    pub fn first_open<'c>(&self, choices: &'c [Choice], now: Instant) -> Option<&'c Choice> {
        let open = |choice: &&Choice| self.endpoint(choice.endpoint).wait(now).is_none();
        let forced = || choices.first().filter(|_| self.all_open == AllOpen::Try);
        choices.iter().find(open).or_else(forced)
    }
}

fn host_header(base: &BaseUrl) -> HeaderValue {
    HeaderValue::from_str(&base.authority()).expect("a host that http::Uri read is a header value")
}

/// A key in its header; `None` for one that no header can carry, which the check of the configuration
/// has refused.
pub fn credential(header: KeyHeader, key: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = match header {
        KeyHeader::Bearer => (http::header::AUTHORIZATION, format!("Bearer {key}")),
        KeyHeader::XApiKey => (HeaderName::from_static("x-api-key"), key.to_owned()),
        KeyHeader::ApiKey => (HeaderName::from_static("api-key"), key.to_owned()),
        KeyHeader::XGoogApiKey => (HeaderName::from_static("x-goog-api-key"), key.to_owned()),
    };
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(urls: &[&[&str]]) -> Settings {
        Settings {
            providers: urls
                .iter()
                .enumerate()
                .map(|(number, urls)| settings::Provider {
                    name: format!("p{number}"),
                    urls: urls.iter().map(|url| url.parse().unwrap()).collect(),
                    ..settings::Provider::default()
                })
                .collect(),
            retry_budget: 0.2,
            all_open: AllOpen::Refuse,
            ..Settings::default()
        }
    }

    fn upstreams(settings: &Settings, old: Option<&Upstreams>) -> Upstreams {
        Upstreams::new(settings, old, &Breakers::default())
    }

    fn share(provider: usize, weight: usize) -> Share {
        Share {
            provider: ProviderId(provider),
            model: None,
            weight,
        }
    }

    #[test]
    fn a_providers_endpoints_divide_its_share() {
        let all = upstreams(
            &settings(&[&["http://a/", "http://b/"], &["http://c/"]]),
            None,
        );
        let group = Group::new(
            &all,
            &[share(0, 1), share(1, 1)],
            Order::RoundRobin,
            retry::Policy {
                retries: 0,
                on: None,
            },
            retry::Budget::new(0.2, Instant::now()),
        );
        let mut counts = [0; 3];
        for _ in 0..400 {
            counts[group.candidates(&all, None, Instant::now())[0].endpoint.0] += 1;
        }
        assert_eq!(counts, [100, 100, 200]);
    }

    fn anybody() -> Turn {
        Turn {
            tenant: crate::types::Tenant::Nobody,
            priority: crate::types::Priority::Normal,
            tokens: 1,
            until: None,
        }
    }

    #[tokio::test]
    async fn state_survives_a_reload_where_name_and_url_are_the_same() {
        let old = upstreams(&settings(&[&["http://a/", "http://b/"]]), None);
        let first = [Choice {
            endpoint: EndpointId(0),
            model: None,
        }];
        let attempt = old.attempt(&first, &anybody()).await.expect("no cap");
        let new = upstreams(&settings(&[&["http://b/", "http://a/"]]), Some(&old));
        assert_eq!(new.endpoint(EndpointId(1)).in_flight(), 1);
        assert_eq!(new.endpoint(EndpointId(0)).in_flight(), 0);
        drop(attempt);
        assert_eq!(new.endpoint(EndpointId(1)).in_flight(), 0);
    }

    #[test]
    fn who_refuses_usage_is_known_for_a_day_and_across_reloads() {
        let old = upstreams(&settings(&[&["http://a/", "http://b/"]]), None);
        let now = Instant::now();
        assert!(!old.endpoint(EndpointId(0)).refuses_usage(now));
        old.endpoint(EndpointId(0)).usage_refused(now);
        let new = upstreams(&settings(&[&["http://b/", "http://a/"]]), Some(&old));
        let (refuser, other) = (new.endpoint(EndpointId(1)), new.endpoint(EndpointId(0)));
        let day = Duration::from_secs(24 * 3600);
        assert!(refuser.refuses_usage(now + day - Duration::from_nanos(1)));
        assert!(!refuser.refuses_usage(now + day), "asked again");
        assert!(!other.refuses_usage(now));
    }
    #[test]
    fn what_nobody_watches_any_more_is_forgotten_when_that_is_live() {
        let mut watched = settings(&[&["http://a/", "http://b/"]]);
        let rules = settings::Breaker {
            failures: 1,
            ..settings::Breaker::default()
        };
        let health = settings::Health {
            fall: 1,
            ..settings::Health::default()
        };
        watched.providers[0].breaker = Some(rules);
        watched.providers[0].health = Some(health);
        let old = upstreams(&watched, None);
        let now = Instant::now();
        for endpoint in old.endpoints() {
            let leave = endpoint.enter(now).expect("nothing is known");
            endpoint.handle(leave, breaker::Event::Bad, now);
            endpoint.told(false, now);
        }
        let paused = |all: &Upstreams| all.endpoint(EndpointId(0)).wait(now).is_some();
        watched.providers[0].breaker = None;
        watched.providers[0].health = None;
        let new = upstreams(&watched, Some(&old));
        assert_eq!(old.endpoint(EndpointId(0)).known(now).healthy, Some(false));
        assert!(paused(&old), "it isn't live yet");
        new.go_live();
        for endpoint in new.endpoints() {
            let known = endpoint.known(now);
            assert_eq!(
                (known.breaker, known.healthy),
                (breaker::Look::Closed, None)
            );
        }
        watched.providers[0].breaker = Some(rules);
        assert!(!paused(&upstreams(&watched, Some(&new))), "it begins anew");
    }
}
