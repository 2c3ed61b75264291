use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const ORDERS: [Order; 4] = [
    Order::RoundRobin,
    Order::Random,
    Order::LeastLoaded,
    Order::Hash { bound: 1.25 },
];

fn balancer(order: Order, choices: usize) -> Balancer {
    Balancer::new(
        order,
        (0..choices).map(|number| format!("http://{number}/")),
    )
}

fn fine(weights: &[i64]) -> Vec<Candidate> {
    let weights = weights.iter().enumerate();
    weights
        .map(|(number, weight)| Candidate::new(number, Standing::Fine, weight * UNIT, 0))
        .collect()
}

/// The choices of one request, best first.
fn sorted(
    balancer: &Balancer,
    mut candidates: Vec<Candidate>,
    value: Option<u64>,
    chance: &mut StdRng,
) -> Vec<usize> {
    balancer.sort(&mut candidates, value, &mut || chance.random());
    candidates.iter().map(|it| it.number).collect()
}

/// How often each choice came first.
fn firsts(balancer: &Balancer, candidates: &[Candidate], requests: u64) -> Vec<usize> {
    let mut counts = vec![0; candidates.len()];
    let mut chance = StdRng::seed_from_u64(1);
    for value in 0..requests {
        let value = Some(hash(&value.to_be_bytes()));
        counts[sorted(balancer, candidates.to_vec(), value, &mut chance)[0]] += 1;
    }
    counts
}

#[test]
fn turns_are_taken_by_weight_and_spread() {
    let turns = balancer(Order::RoundRobin, 2);
    assert_eq!(firsts(&turns, &fine(&[3, 1]), 400), [300, 100]);
    let turns = balancer(Order::RoundRobin, 3);
    assert_eq!(firsts(&turns, &fine(&[1, 1, 1]), 300), [100, 100, 100]);
    let mut chance = StdRng::seed_from_u64(1);
    let mut next = || sorted(&turns, fine(&[5, 1, 1]), None, &mut chance)[0];
    let first: Vec<usize> = (0..7).map(|_| next()).collect();
    assert_eq!(first, [0, 0, 1, 0, 2, 0, 0], "as nginx has it");
}

#[test]
fn turns_of_what_is_paused_are_shared_by_all_others() {
    let turns = balancer(Order::RoundRobin, 3);
    let mut candidates = fine(&[1, 1, 1]);
    candidates[1].standing = Standing::Paused;
    assert_eq!(firsts(&turns, &candidates, 300), [150, 0, 150]);
    candidates[1].standing = Standing::Fine;
    assert_eq!(firsts(&turns, &candidates, 300), [100, 100, 100]);
}

#[test]
fn chance_and_hash_go_by_weight() {
    for order in [Order::Random, Order::Hash { bound: 1.25 }] {
        let counts = firsts(&balancer(order, 2), &fine(&[3, 1]), 4000);
        assert!((2850..3150).contains(&counts[0]), "{order:?} {counts:?}");
    }
}

#[test]
fn no_choice_comes_twice_and_none_is_forgotten() {
    let mut chance = StdRng::seed_from_u64(1);
    for order in ORDERS {
        let balancer = balancer(order, 4);
        for value in 0..50 {
            let mut all = sorted(&balancer, fine(&[100, 1, 1, 1]), Some(value), &mut chance);
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3], "{order:?}");
        }
    }
}

#[test]
fn who_stands_worse_comes_later_in_every_order() {
    let mut chance = StdRng::seed_from_u64(1);
    let standings = [
        Standing::Paused,
        Standing::Unaccepted,
        Standing::Fine,
        Standing::Resting,
    ];
    for order in ORDERS {
        let balancer = balancer(order, 4);
        for value in 0..50 {
            let mut candidates = fine(&[9, 1, 1, 1]);
            for (it, standing) in candidates.iter_mut().zip(standings) {
                it.standing = standing;
            }
            let all = sorted(&balancer, candidates, Some(value), &mut chance);
            assert_eq!(all, [2, 3, 1, 0], "{order:?}");
        }
    }
}

#[test]
fn of_two_the_one_with_less_to_do_is_taken() {
    let mut chance = StdRng::seed_from_u64(1);
    let balancer = balancer(Order::LeastLoaded, 2);
    let mut first = |in_flight: [usize; 2], pace: [f64; 2], weights: [i64; 2]| {
        let mut candidates = fine(&weights);
        for (it, (in_flight, pace)) in candidates.iter_mut().zip(in_flight.into_iter().zip(pace)) {
            it.in_flight = in_flight;
            it.pace = pace;
        }
        sorted(&balancer, candidates, None, &mut chance)[0]
    };
    assert_eq!(first([3, 2], [0.1, 0.1], [1, 1]), 1, "carries less");
    assert_eq!(first([3, 2], [0.1, 0.2], [1, 1]), 0, "is quicker");
    assert_eq!(first([5, 2], [0.1, 0.1], [3, 1]), 0, "is greater");
}

#[test]
fn what_has_the_same_value_goes_the_same_way_and_only_what_must_moves() {
    let moved = |from: usize, to: usize| {
        let mut chance = StdRng::seed_from_u64(1);
        let (before, after) = (
            balancer(Order::Hash { bound: 1.25 }, from),
            balancer(Order::Hash { bound: 1.25 }, to),
        );
        let mut moved = 0;
        for value in 0..10_000_u64 {
            let value = Some(hash(&value.to_be_bytes()));
            let old = sorted(&before, fine(&vec![1; from]), value, &mut chance)[0];
            let new = sorted(&after, fine(&vec![1; to]), value, &mut chance)[0];
            assert!(old == new || new >= from || old >= to, "{old} to {new}");
            moved += usize::from(old != new);
        }
        moved
    };
    assert_eq!(moved(5, 5), 0);
    let joined = moved(4, 5);
    assert!((1900..2100).contains(&joined), "a fifth: {joined}");
    let left = moved(5, 4);
    assert!((1900..2100).contains(&left), "a fifth: {left}");
}

#[test]
fn who_carries_more_than_the_bound_is_passed_over() {
    let mut chance = StdRng::seed_from_u64(1);
    let balancer = balancer(Order::Hash { bound: 1.25 }, 4);
    let value = Some(hash(b"popular"));
    let home = sorted(&balancer, fine(&[1; 4]), value, &mut chance);
    let first_with = |in_flight: usize, chance: &mut StdRng| {
        let mut candidates = fine(&[1; 4]);
        for it in &mut candidates {
            it.in_flight = 8;
        }
        candidates[home[0]].in_flight = in_flight;
        sorted(&balancer, candidates, value, chance)[0]
    };
    // 1.25 × ¼ × (24 + 11 + 1) = 11.25: twelve. With 12 + 1 it would be 11.6 and thirteen carried.
    assert_eq!(first_with(8, &mut chance), home[0]);
    assert_eq!(first_with(11, &mut chance), home[0], "at the bound");
    assert_eq!(first_with(12, &mut chance), home[1], "one past it");
}

/// What one choice costs. `cargo test --release --lib balance::tests::costs -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn costs() {
    let mut chance = StdRng::seed_from_u64(1);
    for order in ORDERS {
        for choices in [2, 8, 64] {
            let balancer = balancer(order, choices);
            let candidates = fine(&vec![1; choices]);
            let mut scratch = candidates.clone();
            let began = std::time::Instant::now();
            const TIMES: u32 = 200_000;
            for value in 0..TIMES {
                scratch.copy_from_slice(&candidates);
                balancer.sort(&mut scratch, Some(u64::from(value)), &mut || {
                    chance.random()
                });
                std::hint::black_box(&scratch);
            }
            println!("{order:?} of {choices}: {:?}", began.elapsed() / TIMES);
        }
    }
}
