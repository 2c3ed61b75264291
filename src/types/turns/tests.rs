use super::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;

type Line = Turns<usize, Entry>;

/// An entry as the tests know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    team: usize,
    cost: u64,
    number: u64,
}

const SEEDS: std::ops::Range<u64> = 0..50;

fn push(line: &mut Line, number: u64, team: usize, priority: Priority, cost: u64) -> Ticket<usize> {
    let entry = Entry { team, cost, number };
    line.push(team, priority, cost, entry)
}

fn numbers(line: &mut Line) -> Vec<u64> {
    std::iter::from_fn(|| line.pop(|_| true).map(|it| it.number)).collect()
}

#[test]
fn who_came_first_goes_first_within_a_team() {
    let mut line = Line::default();
    for number in 0..5 {
        push(&mut line, number, 1, Priority::Normal, 10_000 - number);
    }
    assert_eq!(numbers(&mut line), [0, 1, 2, 3, 4]);
    assert!(line.is_empty());
}

#[test]
fn a_team_that_sends_little_does_not_wait_for_all_that_another_sent() {
    let mut line = Line::default();
    for number in 0..100 {
        push(&mut line, number, 1, Priority::Normal, 50_000);
    }
    push(&mut line, 100, 2, Priority::Normal, 1_000);
    push(&mut line, 101, 2, Priority::Normal, 1_000);
    let order = numbers(&mut line);
    assert_eq!(order[..3], [100, 101, 0]);
}

#[test]
fn what_another_place_is_for_waits_and_loses_nothing() {
    let mut line = Line::default();
    push(&mut line, 0, 1, Priority::High, 100);
    push(&mut line, 1, 1, Priority::High, 100);
    push(&mut line, 2, 2, Priority::Batch, 100);
    assert_eq!(line.pop(|it| it.number == 1).map(|it| it.number), Some(1));
    assert_eq!(line.pop(|it| it.number > 2), None);
    assert_eq!(line.len(), 2);
    assert_eq!(numbers(&mut line), [0, 2]);
}

#[test]
fn each_entry_comes_out_once_whatever_is_taken_out_between() {
    for seed in SEEDS {
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut line = Line::default();
        let mut inside: Vec<(Ticket<usize>, Entry)> = Vec::new();
        for number in 0..2_000 {
            let (team, cost) = (chance.random_range(0..8), chance.random_range(0..100_000));
            let priority = Priority::ALL[chance.random_range(0..3)];
            let ticket = push(&mut line, number, team, priority, cost);
            inside.push((ticket, Entry { team, cost, number }));
            if chance.random_bool(0.2) {
                let (ticket, entry) = inside.remove(chance.random_range(0..inside.len()));
                assert_eq!(line.remove(&ticket), Some(entry), "seed {seed}");
                assert_eq!(line.remove(&ticket), None, "seed {seed}");
            }
            if chance.random_bool(0.7) {
                let odd = chance.random_bool(0.3);
                let fits = |it: &Entry| !odd || it.number % 2 == 1;
                let some = inside.iter().any(|(_, it)| fits(it));
                let popped = line.pop(fits);
                assert_eq!(popped.is_some(), some, "seed {seed}: work is conserved");
                if let Some(popped) = popped {
                    let at = inside.iter().position(|(_, it)| *it == popped);
                    let (_, entry) = inside.remove(at.expect("it was inside"));
                    assert!(fits(&entry));
                }
            }
            assert_eq!(line.len(), inside.len(), "seed {seed}");
        }
        let mut rest = numbers(&mut line);
        rest.sort_unstable();
        let mut expected: Vec<u64> = inside.iter().map(|(_, it)| it.number).collect();
        expected.sort_unstable();
        assert_eq!(rest, expected, "seed {seed}");
    }
}

/// What teams were served that always have something waiting.
#[test]
fn teams_that_wait_are_served_as_many_tokens_but_for_one_request() {
    const TEAMS: usize = 5;
    for seed in SEEDS {
        let mut chance = SmallRng::seed_from_u64(seed);
        // Each team's requests are of its own size.
        let largest: Vec<u64> = (0..TEAMS)
            .map(|_| chance.random_range(1..200_000))
            .collect();
        let max = *largest.iter().max().expect("teams");
        let mut line = Line::default();
        let mut served = [0_u64; TEAMS];
        let mut since = served;
        let mut number = 0;
        let mut fill = |line: &mut Line, team: usize, chance: &mut SmallRng| {
            let cost = chance.random_range(1..=largest[team]);
            push(line, number, team, Priority::Normal, cost);
            number += 1;
        };
        for team in (0..TEAMS).flat_map(|team| [team; 3]) {
            fill(&mut line, team, &mut chance);
        }
        for step in 0..5_000 {
            let popped = line.pop(|_| true).expect("somebody waits");
            served[popped.team] += popped.cost;
            fill(&mut line, popped.team, &mut chance);
            let spread = |of: &[u64]| of.iter().max().unwrap() - of.iter().min().unwrap();
            assert!(
                spread(&served) <= max + QUANTUM,
                "seed {seed}, step {step}: {served:?}"
            );
            if step == 1_234 {
                since = served;
            }
            if step > 1_234 {
                let interval: Vec<u64> = served.iter().zip(since).map(|(a, b)| a - b).collect();
                assert!(spread(&interval) <= 2 * max + QUANTUM, "{interval:?}");
            }
        }
    }
}

#[test]
fn classes_share_by_weight_and_none_starves() {
    const PER_ROUND: u64 = 21;
    for seed in SEEDS {
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut line = Line::default();
        let mut served = [0_u64; 3];
        const MAX: u64 = 40_000;
        // Many teams in one class take nothing from the others.
        for _ in 0..30 {
            for (class, priority) in Priority::ALL.into_iter().enumerate() {
                for team in 0..=class {
                    let cost = chance.random_range(1..=MAX);
                    push(&mut line, class as u64, team, priority, cost);
                }
            }
        }
        for _ in 0..5_000 {
            let popped = line.pop(|_| true).expect("somebody waits");
            let class = popped.number as usize;
            served[class] += popped.cost;
            let cost = chance.random_range(1..=MAX);
            push(
                &mut line,
                popped.number,
                popped.team,
                Priority::ALL[class],
                cost,
            );
            let all: u64 = served.iter().sum();
            for (served, priority) in served.iter().zip(Priority::ALL) {
                let share = all * priority.weight() / PER_ROUND;
                let off = served.abs_diff(share);
                assert!(
                    off <= 2 * MAX + 2 * QUANTUM * priority.weight(),
                    "seed {seed}: {priority:?} had {served} of {share}"
                );
            }
        }
    }
}

#[test]
fn a_class_alone_has_all_and_nothing_is_saved_up_meanwhile() {
    let mut line = Line::default();
    for number in 0..1_000 {
        push(&mut line, number, 1, Priority::Batch, 5_000);
    }
    for _ in 0..500 {
        assert!(line.pop(|_| true).is_some());
    }
    // The others were away: they get their share from now on, not what they didn't ask for.
    for number in 0..100 {
        push(&mut line, 10_000 + number, 2, Priority::Normal, 5_000);
    }
    let order: Vec<u64> = (0..50)
        .map(|_| line.pop(|_| true).unwrap().number)
        .collect();
    let batches = order.iter().filter(|number| **number < 10_000).count();
    assert!((9..=11).contains(&batches), "a fifth of 50, not {batches}");
}

#[test]
fn who_asks_again_and_again_gets_no_more_than_who_waits() {
    let mut line = Line::default();
    let mut backlog: VecDeque<u64> = (0..1_000).collect();
    for number in backlog.drain(..) {
        push(&mut line, number, 1, Priority::Normal, 3_000);
    }
    let (mut again, mut number) = (0, 10_000);
    push(&mut line, number, 2, Priority::Normal, 3_000);
    for _ in 0..200 {
        if line.pop(|_| true).unwrap().team == 2 {
            again += 1;
            number += 1;
            push(&mut line, number, 2, Priority::Normal, 3_000);
        }
    }
    assert!((95..=101).contains(&again), "half of 200, not {again}");
}

#[test]
fn those_ahead_are_those_that_go_before() {
    let mut line = Line::default();
    for number in 0..100 {
        push(&mut line, number, 1, Priority::Normal, 1_000);
    }
    for number in 100..120 {
        push(&mut line, number, 2, Priority::Batch, 1_000);
    }
    // Behind its own hundred, with a quarter of their tokens for the batches.
    let own = line.ahead(&1, Priority::Normal, 1_000).entries;
    assert!((119.0..=121.0).contains(&own), "{own}");
    let other = line.ahead(&3, Priority::Normal, 1_000).entries;
    assert!(other <= 2.0, "{other}");
    let high = line.ahead(&3, Priority::High, 1_000).entries;
    assert!(high <= 1.0, "{high}");
    assert_eq!(
        Line::default().ahead(&1, Priority::Batch, 9),
        Ahead::default()
    );
}

#[test]
fn a_turn_costs_no_more_for_large_requests() {
    let mut line = Line::default();
    push(&mut line, 0, 1, Priority::Batch, u64::MAX);
    push(&mut line, 1, 2, Priority::Batch, u64::MAX);
    push(&mut line, 2, 1, Priority::Batch, u64::MAX);
    // Round by round this would be millions of them.
    assert_eq!(numbers(&mut line), [0, 1, 2]);
}
