//! The endpoints that weir sends to: what each is, how many requests it carries, which comes next.
//! It never resolves names, opens sockets or sees bodies. Called by `snapshot` (to build) and
//! `proxy::connect` (for each try).

pub mod attempt;
pub mod balance;
pub mod bulkhead;
pub mod hedge;
pub mod retry;
pub mod settings;

pub use attempt::{Attempt, Outcome};
pub use balance::{Balancer, Order};
pub use bulkhead::{Turn, Unavailable};
pub use hedge::Hedge;
pub use settings::{IncludeUsage, Settings};

use crate::types::{BaseUrl, HeaderEdits};
use ahash::AHashMap;
use attempt::Load;
use http::HeaderValue;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All providers and endpoints of one configuration.
#[derive(Debug)]
pub struct Upstreams {
    providers: Vec<Provider>,
    endpoints: Vec<Arc<Endpoint>>,
}

/// A provider, ready for requests.
#[derive(Debug)]
pub struct Provider {
    /// Its name: the label in metrics, the value of `x-weir-provider`.
    pub name: Arc<str>,
    /// `Authorization` to send; `None` passes the client's own on.
    pub authorization: Option<HeaderValue>,
    /// Edits of requests to this provider.
    pub headers: HeaderEdits,
    /// Whether it is asked for usage in the client's stead.
    pub include_usage: IncludeUsage,
    /// How long an answer is read on when its client has left.
    pub drain: Option<Duration>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointId>,
}

/// A provider's place in [`Upstreams`]; the same number as in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProviderId(pub usize);

/// An endpoint's place in [`Upstreams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId(pub usize);

/// One base URL of one provider.
#[derive(Debug)]
pub struct Endpoint {
    /// Whose it is.
    pub provider: ProviderId,
    /// Where it is.
    pub base: BaseUrl,
    /// `host:port`: its name in the access log.
    pub name: Arc<str>,
    /// `Host` of requests to it.
    pub host_header: HeaderValue,
    /// What it carries now; survives a reload.
    load: Arc<Load>,
}

impl Upstreams {
    /// Builds the endpoints of `settings`. An endpoint that `old` had too (same provider name, same
    /// base URL) keeps its state.
    pub fn new(settings: &Settings, old: Option<&Self>) -> Self {
        let mut known = old.map(Self::loads).unwrap_or_default();
        let mut upstreams = Self {
            providers: Vec::with_capacity(settings.providers.len()),
            endpoints: Vec::new(),
        };
        for (number, provider) in settings.providers.iter().enumerate() {
            let mut endpoints = Vec::with_capacity(provider.urls.len());
            for base in &provider.urls {
                endpoints.push(EndpointId(upstreams.endpoints.len()));
                let load = known.remove(&(Arc::from(provider.name.as_str()), base.clone()));
                upstreams.endpoints.push(Arc::new(Endpoint {
                    provider: ProviderId(number),
                    name: base.authority().into(),
                    host_header: host_header(base),
                    base: base.clone(),
                    load: load.unwrap_or_default(),
                }));
            }
            upstreams.providers.push(Provider {
                name: provider.name.as_str().into(),
                authorization: provider
                    .api_key
                    .as_ref()
                    .and_then(|key| bearer(key.expose())),
                headers: provider.headers.clone(),
                include_usage: provider.include_usage,
                drain: provider.drain,
                endpoints,
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
        _turn: &Turn,
    ) -> Result<(usize, Attempt), Unavailable> {
        let Some(choice) = choices.first() else {
            let wait = Duration::ZERO;
            return Err(Unavailable::Paused { wait });
        };
        let endpoint = Arc::clone(self.endpoint(choice.endpoint));
        Ok((0, Attempt::begin(endpoint)))
    }

    /// Whether one of these would be tried now, if there is a place: none of what is paused.
    pub fn any_open(&self, choices: &[Choice], _now: Instant) -> bool {
        !choices.is_empty()
    }
}

/// One way to serve a request: an endpoint, and the model's name there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Where.
    pub endpoint: EndpointId,
    /// The name that the upstream knows, when it differs from the client's.
    pub model: Option<Arc<str>>,
}

/// The choices of a route and the turns between them.
pub struct Group {
    choices: Vec<Choice>,
    balancer: Balancer,
    policy: retry::Policy,
    retries: Arc<retry::Budget>,
}

/// What a [`Group`] is made of: a provider with its share.
pub struct Share {
    /// Who.
    pub provider: ProviderId,
    /// The model's name there, when it is mapped.
    pub model: Option<Arc<str>>,
    /// Share relative to the others; 1 or more.
    pub weight: usize,
}

impl Group {
    /// A group over providers; a provider's endpoints divide its share evenly.
    pub fn new(
        upstreams: &Upstreams,
        shares: &[Share],
        order: Order,
        policy: retry::Policy,
        retries: retry::Budget,
    ) -> Self {
        let counts = |share: &Share| upstreams.provider(share.provider).endpoints.len();
        let common = shares.iter().map(counts).fold(1, least_common_multiple);
        let mut choices = Vec::new();
        let mut weights = Vec::new();
        for share in shares {
            for endpoint in &upstreams.provider(share.provider).endpoints {
                choices.push(Choice {
                    endpoint: *endpoint,
                    model: share.model.clone(),
                });
                weights.push(share.weight * (common / counts(share)));
            }
        }
        Self {
            balancer: Balancer::new(order, &weights),
            choices,
            policy,
            retries: Arc::new(retries),
        }
    }

    /// How its requests are tried again.
    pub fn policy(&self) -> retry::Policy {
        self.policy
    }

    /// How many retries all of them may have.
    pub fn retries(&self) -> &Arc<retry::Budget> {
        &self.retries
    }

    /// The choices for one request, best first, none twice.
    pub fn candidates(&self) -> Vec<Choice> {
        let numbers = self.balancer.order(self.choices.len());
        numbers
            .into_iter()
            .map(|n| self.choices[n].clone())
            .collect()
    }

    /// All choices, in the order of the file.
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.choices).finish()
    }
}

fn host_header(base: &BaseUrl) -> HeaderValue {
    HeaderValue::from_str(&base.authority()).expect("a host that http::Uri read is a header value")
}

/// `Bearer KEY`; `None` for a key that no header can carry, which the check of the configuration
/// has refused.
fn bearer(key: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
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
            ..Settings::default()
        }
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
        let upstreams = Upstreams::new(
            &settings(&[&["http://a/", "http://b/"], &["http://c/"]]),
            None,
        );
        let group = Group::new(
            &upstreams,
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
            counts[group.candidates()[0].endpoint.0] += 1;
        }
        assert_eq!(counts, [100, 100, 200]);
    }

    #[test]
    fn state_survives_a_reload_where_name_and_url_are_the_same() {
        let old = Upstreams::new(&settings(&[&["http://a/", "http://b/"]]), None);
        let first = Choice {
            endpoint: EndpointId(0),
            model: None,
        };
        let attempt = Attempt::begin(Arc::clone(old.endpoint(first.endpoint)));
        let new = Upstreams::new(&settings(&[&["http://b/", "http://a/"]]), Some(&old));
        assert_eq!(new.endpoint(EndpointId(1)).in_flight(), 1);
        assert_eq!(new.endpoint(EndpointId(0)).in_flight(), 0);
        drop(attempt);
        assert_eq!(new.endpoint(EndpointId(1)).in_flight(), 0);
    }

    #[test]
    fn who_refuses_usage_is_known_for_a_day_and_across_reloads() {
        let old = Upstreams::new(&settings(&[&["http://a/", "http://b/"]]), None);
        let now = Instant::now();
        assert!(!old.endpoint(EndpointId(0)).refuses_usage(now));
        old.endpoint(EndpointId(0)).usage_refused(now);
        let new = Upstreams::new(&settings(&[&["http://b/", "http://a/"]]), Some(&old));
        let (refuser, other) = (new.endpoint(EndpointId(1)), new.endpoint(EndpointId(0)));
        let day = Duration::from_secs(24 * 3600);
        assert!(refuser.refuses_usage(now + day - Duration::from_nanos(1)));
        assert!(!refuser.refuses_usage(now + day), "asked again");
        assert!(!other.refuses_usage(now));
    }
}
