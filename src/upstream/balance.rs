//! Which endpoint of a route is tried first, and which next. The turns come from
//! `pingora-load-balancing`; this file only gives its backends the identity that it lacks.

use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::{BackendIter, BackendSelection, Random, RoundRobin};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

/// Chooses among `n` weighted choices.
pub enum Balancer {
    /// One choice: nothing to choose.
    Single,
    /// In turns, by weight.
    RoundRobin(Arc<RoundRobin>, usize),
    /// By chance, by weight.
    Random(Arc<Random>, usize),
}

/// How turns are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In turns.
    RoundRobin,
    /// By chance.
    Random,
}

impl Balancer {
    /// A balancer over choices `0..weights.len()`.
    ///
    /// The library tells backends apart by address and weight alone, so each choice gets an address
    /// of its own that is never dialled: its number.
    pub fn new(order: Order, weights: &[usize]) -> Self {
        if weights.len() < 2 {
            return Self::Single;
        }
        let backends: BTreeSet<Backend> = weights
            .iter()
            .enumerate()
            .map(|(number, weight)| backend(number, *weight))
            .collect();
        match order {
            Order::RoundRobin => {
                Self::RoundRobin(Arc::new(RoundRobin::build(&backends)), weights.len())
            }
            Order::Random => Self::Random(Arc::new(Random::build(&backends)), weights.len()),
        }
    }

    /// The choices to try, best first, at most `count`, none twice.
    pub fn order(&self, count: usize) -> Vec<usize> {
        match self {
            Self::Single => vec![0],
            Self::RoundRobin(selection, choices) => distinct(selection.iter(b""), *choices, count),
            Self::Random(selection, choices) => distinct(selection.iter(b""), *choices, count),
        }
    }
}

/// The first is the library's pick; the others follow in a circle. Asking it for more would use up
/// turns that belong to the next requests.
fn distinct(mut picks: impl BackendIter, choices: usize, count: usize) -> Vec<usize> {
    let first = picks.next().and_then(number).unwrap_or(0);
    (0..count.clamp(1, choices))
        .map(|step| (first + step) % choices)
        .collect()
}

fn backend(number: usize, weight: usize) -> Backend {
    let bits = u32::try_from(number).unwrap_or(u32::MAX);
    Backend {
        addr: pingora::protocols::l4::socket::SocketAddr::Inet(
            SocketAddrV4::new(Ipv4Addr::from_bits(bits), 0).into(),
        ),
        weight,
        ext: http::Extensions::new(),
    }
}

fn number(backend: &Backend) -> Option<usize> {
    match backend.addr.as_inet()?.ip() {
        std::net::IpAddr::V4(address) => usize::try_from(address.to_bits()).ok(),
        std::net::IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each choice came first, when each request wanted all of them in order.
    fn firsts(balancer: &Balancer, choices: usize, requests: usize) -> Vec<usize> {
        let mut counts = vec![0; choices];
        for _ in 0..requests {
            counts[balancer.order(choices)[0]] += 1;
        }
        counts
    }

    #[test]
    fn turns_are_taken_by_weight() {
        let balancer = Balancer::new(Order::RoundRobin, &[3, 1]);
        assert_eq!(firsts(&balancer, 2, 400), [300, 100]);
        let balancer = Balancer::new(Order::RoundRobin, &[1, 1, 1]);
        assert_eq!(firsts(&balancer, 3, 300), [100, 100, 100]);
    }

    #[test]
    fn chance_goes_by_weight() {
        let balancer = Balancer::new(Order::Random, &[3, 1]);
        let counts = firsts(&balancer, 2, 4000);
        assert!((2700..3300).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn no_choice_comes_twice_and_none_is_forgotten() {
        for order in [Order::RoundRobin, Order::Random] {
            let balancer = Balancer::new(order, &[100, 1, 1, 1]);
            for _ in 0..50 {
                let mut all = balancer.order(9);
                all.sort_unstable();
                assert_eq!(all, [0, 1, 2, 3]);
                assert_eq!(balancer.order(2).len(), 2);
            }
        }
    }

    #[test]
    fn equal_weights_are_not_collapsed_into_one() {
        let balancer = Balancer::new(Order::RoundRobin, &[1, 1]);
        assert_eq!(firsts(&balancer, 2, 10), [5, 5]);
    }
}
