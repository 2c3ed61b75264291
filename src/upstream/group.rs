//! The choices of a route, and whose turn it is.

use super::balance::{Balancer, Candidate, Order, UNIT};
use super::{EndpointId, ProviderId, Upstreams, retry};
use std::sync::Arc;
use std::time::Instant;

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
    /// In thousandths of a unit, by choice.
    weights: Vec<i64>,
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
                let weight = share.weight * (common / counts(share));
                weights.push(
                    i64::try_from(weight)
                        .unwrap_or(i64::MAX / UNIT)
                        .saturating_mul(UNIT),
                );
            }
        }
        let names = choices.iter().map(|choice| {
            let base = &upstreams.endpoint(choice.endpoint).base;
            format!("{base} {}", choice.model.as_deref().unwrap_or_default())
        });
        Self {
            balancer: Balancer::new(order, names),
            choices,
            weights,
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

    /// How turns are taken.
    pub fn order(&self) -> Order {
        self.balancer.order()
    }

    /// The choices for one request, best first, none twice. `value` is what it has in common with others
    /// that had better go the same way.
    pub fn candidates(
        &self,
        upstreams: &Upstreams,
        value: Option<u64>,
        now: Instant,
    ) -> Vec<Choice> {
        self.candidates_by(upstreams, value, now, &mut rand::random)
    }

    /// The same, with chance given.
    pub(super) fn candidates_by(
        &self,
        upstreams: &Upstreams,
        value: Option<u64>,
        now: Instant,
        chance: &mut dyn FnMut() -> f64,
    ) -> Vec<Choice> {
        if let [only] = self.choices.as_slice() {
            return vec![only.clone()];
        }
        let mut candidates: Vec<Candidate> = self
            .choices
            .iter()
            .zip(&self.weights)
            .enumerate()
            .map(|(number, (choice, weight))| {
                upstreams
                    .endpoint(choice.endpoint)
                    .candidate(number, *weight, now)
            })
            .collect();
        if self.order() == Order::LeastLoaded {
            self.expect(&mut candidates, upstreams, now);
        }
        self.balancer.sort(&mut candidates, value, chance);
        let choices = candidates.iter().map(|it| self.choices[it.number].clone());
        choices.collect()
    }

    /// Says how soon each is expected to answer. Of whom nothing is known, or nothing new, as much is hoped
    /// as half of what the others need: it is found out soon, and not by too many at once.
    fn expect(&self, candidates: &mut [Candidate], upstreams: &Upstreams, now: Instant) {
        let pace = |it: &Candidate| upstreams.endpoint(self.choices[it.number].endpoint).pace();
        let (mut sum, mut count) = (0.0, 0.0);
        for pace in candidates.iter().filter_map(pace) {
            sum += pace.seconds();
            count += 1.0;
        }
        let hoped = sum / f64::max(count, 1.0) / 2.0;
        for it in candidates {
            it.pace = pace(it).map_or(hoped, |pace| pace.expected(hoped, now));
        }
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

fn least_common_multiple(a: usize, b: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
}
