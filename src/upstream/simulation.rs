//! The room under virtual time: endpoints that serve, slow down and fail, and requests that come by
//! chance. The same seed tells the same story. What holds must hold for all seeds that are tried.

use super::balance::{Order, hash};
use super::breaker::{Event, Look};
use super::endpoint::Leave;
use super::{AllOpen, Endpoint, EndpointId, Group, ProviderId, Settings, Share, Upstreams};
use super::{retry, settings};
use crate::observe::Breakers;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SEEDS: std::ops::Range<u64> = 1..4;

/// What an endpoint does with a request that comes at a time, in seconds.
type Behaviour = Box<dyn Fn(f64) -> Service>;

#[derive(Clone, Copy)]
struct Service {
    /// Mean time to serve one, in seconds.
    seconds: f64,
    /// It fails instead, by this chance.
    fails: f64,
}

const STEADY: Service = Service {
    seconds: 0.1,
    fails: 0.0,
};

struct World {
    upstreams: Upstreams,
    group: Group,
    behaviour: Vec<Behaviour>,
    chance: StdRng,
    start: Instant,
    now: f64,
    /// What is under way: when, in nanoseconds, and what then.
    agenda: BinaryHeap<Reverse<(u64, usize)>>,
    works: Vec<Work>,
    /// Tries, by endpoint.
    tried: Vec<usize>,
    refused: usize,
}

#[derive(Clone, Copy)]
struct Work {
    endpoint: usize,
    leave: Leave,
    began: f64,
    ends: f64,
    fails: bool,
    heard: bool,
}

impl World {
    /// One provider for each endpoint, with its weight.
    fn new(order: Order, weights: &[usize], behaviour: Vec<Behaviour>, seed: u64) -> Self {
        let provider = |number: usize| settings::Provider {
            name: format!("p{number}"),
            urls: vec![format!("http://{number}.test/").parse().expect("a URL")],
            ..settings::Provider::default()
        };
        let all = Settings {
            providers: (0..weights.len()).map(provider).collect(),
            retry_budget: 0.2,
            all_open: AllOpen::Refuse,
            ..Settings::default()
        };
        let upstreams = Upstreams::new(&all, None, &Breakers::default());
        let shares: Vec<Share> = (weights.iter().enumerate())
            .map(|(number, weight)| Share {
                provider: ProviderId(number),
                model: None,
                weight: *weight,
            })
            .collect();
        let policy = retry::Policy {
            retries: 0,
            on: None,
        };
        let start = Instant::now();
        let budget = retry::Budget::new(0.2, start);
        Self {
            group: Group::new(&upstreams, &shares, order, policy, budget),
            upstreams,
            behaviour,
            chance: StdRng::seed_from_u64(seed),
            start,
            now: 0.0,
            agenda: BinaryHeap::new(),
            works: Vec::new(),
            tried: vec![0; weights.len()],
            refused: 0,
        }
    }

    fn steady(order: Order, weights: &[usize], seconds: &[f64], seed: u64) -> Self {
        let behaviour = seconds.iter().map(|seconds| {
            let service = Service {
                seconds: *seconds,
                ..STEADY
            };
            Box::new(move |_| service) as Behaviour
        });
        Self::new(order, weights, behaviour.collect(), seed)
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.now)
    }

    fn endpoint(&self, number: usize) -> &Arc<Endpoint> {
        self.upstreams.endpoint(EndpointId(number))
    }

    fn in_flight(&self) -> Vec<usize> {
        let all = self.upstreams.endpoints().iter();
        all.map(|it| it.in_flight()).collect()
    }

    fn breaker(&self, number: usize) -> Look {
        self.endpoint(number).known(self.instant()).breaker
    }

    /// Lets requests come by a Poisson process for so many seconds; `look` sees the world after each.
    fn run(&mut self, seconds: f64, per_second: f64, mut look: impl FnMut(&Self)) {
        let end = self.now + seconds;
        loop {
            let gap = -self.chance.random::<f64>().max(f64::MIN_POSITIVE).ln() / per_second;
            let next = self.now + gap;
            self.work_until(next.min(end));
            if next >= end {
                return;
            }
            let value = hash(&self.chance.random_range(0..1000_u64).to_be_bytes());
            self.request(value);
            look(self);
        }
    }

    fn work_until(&mut self, time: f64) {
        while let Some(Reverse((nanos, number))) = self.agenda.peek().copied() {
            let at = nanos as f64 / 1e9;
            if at > time {
                break;
            }
            self.agenda.pop();
            self.now = at.max(self.now);
            self.step(number);
        }
        self.now = time;
    }

    /// A request is tried once; where it went.
    fn request(&mut self, value: u64) -> Option<usize> {
        let now = self.instant();
        let chance = &mut self.chance;
        let mut draw = || chance.random::<f64>();
        let choices = self
            .group
            .candidates_by(&self.upstreams, Some(value), now, &mut draw);
        let taken = choices.iter().find_map(|choice| {
            let leave = self.upstreams.endpoint(choice.endpoint).enter(now).ok()?;
            Some((choice.endpoint.0, leave))
        });
        let Some((endpoint, leave)) = taken else {
            self.refused += 1;
            return None;
        };
        self.tried[endpoint] += 1;
        let load = &self.endpoint(endpoint).load;
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        let service = (self.behaviour[endpoint])(self.now);
        let time = service.seconds * (0.5 + self.chance.random::<f64>());
        self.works.push(Work {
            endpoint,
            leave,
            began: self.now,
            ends: self.now + time,
            fails: self.chance.random::<f64>() < service.fails,
            heard: false,
        });
        self.plan(self.works.len() - 1, self.now + time / 2.0);
        Some(endpoint)
    }

    fn plan(&mut self, number: usize, at: f64) {
        self.agenda.push(Reverse(((at * 1e9) as u64, number)));
    }

    fn step(&mut self, number: usize) {
        let (work, now) = (self.works[number], self.instant());
        let chance = self.chance.random();
        let endpoint = Arc::clone(self.endpoint(work.endpoint));
        let leaves = || {
            endpoint.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        };
        match (work.heard, work.fails) {
            (false, true) => {
                leaves();
                endpoint.handle_by(work.leave, Event::Bad, now, chance);
            }
            (false, false) => {
                let after = Duration::from_secs_f64(self.now - work.began);
                endpoint.load.condition.measured(after, now);
                endpoint.handle_by(work.leave, Event::Good(after), now, chance);
                self.works[number].heard = true;
                self.plan(number, work.ends);
            }
            (true, _) => leaves(),
        }
    }

    fn shares(&self) -> Vec<f64> {
        let all: usize = self.tried.iter().sum();
        let share = |count: &usize| *count as f64 / all as f64;
        self.tried.iter().map(share).collect()
    }
}

const HASH: Order = Order::Hash { bound: 1.25 };

#[test]
fn shares_go_by_weight() {
    for seed in SEEDS {
        for order in [
            Order::RoundRobin,
            Order::Random,
            Order::Hash { bound: 100.0 },
        ] {
            let mut world = World::steady(order, &[1, 2, 3], &[0.1; 3], seed);
            world.run(100.0, 100.0, |_| {});
            for (share, due) in world.shares().iter().zip([1.0 / 6.0, 1.0 / 3.0, 0.5]) {
                // Of a hash, a thousand values are dealt out.
                let off = if matches!(order, Order::Hash { .. }) {
                    0.06
                } else {
                    0.02
                };
                assert!(
                    (share - due).abs() < off,
                    "{order:?}, seed {seed}: {share} of {due}"
                );
            }
        }
    }
}

#[test]
fn nobody_who_is_well_starves() {
    for seed in SEEDS {
        for order in [Order::RoundRobin, Order::Random, Order::LeastLoaded, HASH] {
            let speeds = [0.05, 0.1, 0.1, 0.2, 0.4];
            let mut world = World::steady(order, &[1; 5], &speeds, seed);
            world.run(100.0, 50.0, |_| {});
            for share in world.shares() {
                assert!(share > 0.02, "{order:?}, seed {seed}: {:?}", world.shares());
            }
            assert_eq!(world.refused, 0);
        }
    }
}

#[test]
fn of_two_choices_loads_stay_close() {
    for seed in SEEDS {
        let spread = |order| {
            let mut world = World::steady(order, &[1; 10], &[0.1; 10], seed);
            let mut widest = 0;
            world.run(20.0, 800.0, |world| {
                let loads = world.in_flight();
                let (least, most) = (loads.iter().min(), loads.iter().max());
                widest = widest.max(most.unwrap_or(&0) - least.unwrap_or(&0));
            });
            widest
        };
        let (two, chance) = (spread(Order::LeastLoaded), spread(Order::Random));
        println!("seed {seed}: in flight differ by {two} at most; by chance by {chance}");
        assert!(two <= 14 && two < chance, "seed {seed}: {two}, {chance}");
    }
}

#[test]
fn the_slower_one_gets_less() {
    for seed in SEEDS {
        let mut world = World::steady(Order::LeastLoaded, &[1; 3], &[0.1, 0.1, 1.0], seed);
        world.run(100.0, 60.0, |_| {});
        let shares = world.shares();
        assert!(shares[2] < 0.12, "seed {seed}: {shares:?}");
    }
}

#[test]
fn a_hash_never_loads_anyone_beyond_the_bound() {
    for seed in SEEDS {
        let mut world = World::steady(HASH, &[1, 1, 2], &[0.1, 0.3, 0.2], seed);
        let mut taken = 0;
        for _ in 0..20_000 {
            let gap = world.chance.random::<f64>() * 0.02;
            world.work_until(world.now + gap);
            // Half of all that comes is the same.
            let popular = world.chance.random::<f64>() < 0.5;
            let value = if popular {
                0
            } else {
                world.chance.random_range(0..1000_u64)
            };
            let endpoint = world.request(hash(&value.to_be_bytes())).expect("taken");
            let (loads, weights) = (world.in_flight(), [0.25, 0.25, 0.5]);
            let all: usize = loads.iter().sum();
            let most = (1.25 * weights[endpoint] * all as f64).ceil().max(2.0);
            assert!(loads[endpoint] as f64 <= most, "seed {seed}: {loads:?}");
            taken += 1;
        }
        assert_eq!(taken, 20_000);
    }
}

/// The endpoint with this number fails in this time.
fn ill(number: usize, from: f64, to: f64) -> Vec<Behaviour> {
    (0..4)
        .map(|it| {
            Box::new(move |now: f64| Service {
                fails: f64::from(u8::from(it == number && (from..to).contains(&now))),
                ..STEADY
            }) as Behaviour
        })
        .collect()
}

#[test]
fn who_fails_is_paused_soon_and_tried_again_when_healed() {
    for seed in SEEDS {
        for order in [Order::RoundRobin, Order::Random, Order::LeastLoaded, HASH] {
            let what = format!("{order:?}, seed {seed}");
            let mut world = World::new(order, &[1; 4], ill(0, 60.0, 120.0), seed);
            world.run(60.0, 40.0, |_| {});
            let before = world.tried[0];
            assert!(before > 300, "{what}: {before}");
            // It had a window full of good answers: half of them must be bad first.
            let mut opened = f64::INFINITY;
            world.run(7.0, 40.0, |world| {
                if world.breaker(0) == Look::Open {
                    opened = opened.min(world.now - 60.0);
                }
            });
            assert!(opened < 7.0, "{what}");
            let met = world.tried[0];
            assert!(met - before >= 5, "{what}: {met}");
            world.run(53.0, 40.0, |world| {
                if world.breaker(0) == Look::HalfOpen {
                    let out = world.in_flight()[0];
                    assert!(out <= 1, "{what}: {out} probes at {}", world.now);
                }
            });
            assert_ne!(world.breaker(0), Look::Closed, "{what}");
            let probes = world.tried[0] - met;
            assert!((1..=3).contains(&probes), "{what}: {probes} probes");
            println!(
                "{what}: paused after {opened:.1} s, {} met the fault",
                world.tried[0] - before
            );
            // At most eight times 15 s, give or take a tenth.
            world.run(135.0, 40.0, |_| {});
            assert_eq!(world.breaker(0), Look::Closed, "{what}");
            world.run(10.0, 40.0, |_| {});
            let healed = world.tried[0];
            world.run(60.0, 40.0, |_| {});
            let share = (world.tried[0] - healed) as f64 / 2400.0;
            assert!(share > 0.15, "{what}: {share}");
            assert_eq!(world.refused, 0, "{what}");
        }
    }
}

#[test]
fn nobody_is_lost_for_ever() {
    for seed in SEEDS {
        let mut plans = StdRng::seed_from_u64(seed);
        let behaviour = (0..5)
            .map(|_| {
                let times: Vec<(f64, f64)> = (0..6)
                    .map(|_| (plans.random::<f64>() * 500.0, plans.random::<f64>() * 60.0))
                    .collect();
                Box::new(move |now: f64| {
                    let is_ill = |(from, long): &(f64, f64)| (*from..from + long).contains(&now);
                    Service {
                        fails: if times.iter().any(is_ill) { 0.9 } else { 0.0 },
                        ..STEADY
                    }
                }) as Behaviour
            })
            .collect();
        let mut world = World::new(Order::LeastLoaded, &[1; 5], behaviour, seed);
        world.run(600.0, 30.0, |_| {});
        world.run(145.0, 30.0, |_| {});
        let before = world.tried.clone();
        world.run(60.0, 30.0, |_| {});
        for (number, before) in before.iter().enumerate() {
            assert_eq!(world.breaker(number), Look::Closed, "seed {seed}");
            assert!(world.tried[number] > *before, "seed {seed}");
        }
        world.work_until(world.now + 10.0);
        assert_eq!(world.in_flight(), [0; 5], "seed {seed}");
    }
}

#[test]
fn a_whole_that_fails_opens_and_heals_too() {
    for seed in SEEDS {
        let behaviour = (0..3)
            .map(|_| {
                Box::new(|now: f64| Service {
                    fails: if (10.0..40.0).contains(&now) {
                        1.0
                    } else {
                        0.0
                    },
                    ..STEADY
                }) as Behaviour
            })
            .collect();
        let mut world = World::new(Order::RoundRobin, &[1; 3], behaviour, seed);
        world.run(40.0, 30.0, |_| {});
        assert!(world.refused > 500, "seed {seed}: {}", world.refused);
        world.run(140.0, 30.0, |_| {});
        let refused = world.refused;
        world.run(60.0, 30.0, |_| {});
        assert_eq!(world.refused, refused, "seed {seed}");
    }
}

/// Conversations of several turns, while endpoints join and leave.
#[test]
fn conversations_keep_their_endpoint() {
    const CONVERSATIONS: u64 = 2000;
    let mut kept_in_all = Vec::new();
    for (from, to) in [(4, 4), (4, 5), (5, 4), (8, 9), (9, 8)] {
        let home = |endpoints: usize, world: &mut World| -> Vec<usize> {
            let weights = vec![1; endpoints];
            *world = World::steady(HASH, &weights, &vec![0.1; endpoints], 1);
            (0..CONVERSATIONS)
                .map(|it| {
                    // Few are under way at once.
                    world.work_until(world.now + 0.2);
                    world.request(hash(&it.to_be_bytes())).expect("taken")
                })
                .collect()
        };
        let mut world = World::steady(HASH, &[1], &[0.1], 1);
        let (before, after) = (home(from, &mut world), home(to, &mut world));
        let kept = before.iter().zip(&after).filter(|(a, b)| a == b).count();
        let kept = kept as f64 / CONVERSATIONS as f64;
        println!(
            "{from} endpoints, then {to}: {:.1} % of conversations stay",
            kept * 100.0
        );
        let due = (from.min(to) as f64) / (from.max(to) as f64);
        assert!((kept - due).abs() < 0.03, "{from} to {to}: {kept} of {due}");
        kept_in_all.push(kept);
    }
    assert_eq!(kept_in_all[0], 1.0);
}
