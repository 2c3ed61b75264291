//! What a cached lookup costs, and what a cached name does.
//!
//! `cargo test --release -p weir-dns -- --ignored --nocapture --test-threads 1 cost`

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Nanoseconds a lookup, the median of `rounds` of 10,000 lookups of a name of each thread's own.
fn median(resolver: &Resolver, names: &[&str], rounds: usize) -> Vec<f64> {
    const LOOKUPS: u32 = 10_000;
    let barrier = Barrier::new(names.len());
    let run = |name: &str| {
        let one = async || {
            let started = Instant::now();
            for _ in 0..LOOKUPS {
                let answer = resolver.lookup(black_box(name)).await;
                assert!(black_box(answer).is_ok());
            }
            started.elapsed().as_nanos() as f64 / f64::from(LOOKUPS)
        };
        runtime().block_on(async {
            barrier.wait();
            let mut costs = Vec::with_capacity(rounds);
            for _ in 0..rounds {
                costs.push(one().await);
            }
            costs.sort_by(f64::total_cmp);
            costs[rounds / 2]
        })
    };
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = names
            .iter()
            .map(|name| scope.spawn(move || run(name)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a cost"))
            .collect()
    })
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_fresh_answer() {
    for (what, stage) in [
        ("counted", scripted(Config::default())),
        ("silent", quiet()),
    ] {
        // Answers of their own: who shares one shares the count of those who hold it.
        stage.script.then(Duration::ZERO, found(1, 300));
        stage.script.then(Duration::ZERO, found(2, 300));
        runtime().block_on(async {
            stage.octet("api.openai.com").await;
            stage.octet("api.anthropic.com").await;
        });
        let (one, other) = ("api.openai.com", "api.anthropic.com");
        for (how, names) in [
            ("1 thread", &[one][..]),
            ("2 threads, a name each", &[one, other]),
            ("2 threads, one name", &[one, one]),
        ] {
            let costs = median(&stage.resolver, names, 1001);
            println!("{what}, {how}: {costs:.1?} ns a lookup");
        }
    }
}

/// Nobody counts.
fn quiet() -> Stage {
    let mut stage = scripted(Config::default());
    let transport = Box::new(stage.script.clone());
    stage.resolver = Resolver::with(&Config::default(), "/nonexistent", transport, Arc::new(()));
    stage
}

/// The resident memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|it| it.parse::<usize>().ok());
    pages.expect("a number of pages") * 4096
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_hundred_thousand_names() {
    const NAMES: usize = 100_000;
    let stage = scripted(Config {
        max_ttl: 3600 * SECOND,
        ..Config::default()
    });
    stage.script.always(Duration::ZERO, found(1, 3600));
    let runtime = runtime();
    let before = resident();
    let started = Instant::now();
    runtime.block_on(async {
        for number in 0..NAMES {
            stage.octet(&format!("host-{number:06}.example.com")).await;
            // The scripted transport's own notes don't count.
            stage.script.0.lock().asked.clear();
        }
    });
    let (filled, grown) = (started.elapsed(), resident() - before);
    assert_eq!(stage.resolver.dump().len(), NAMES);
    println!(
        "{NAMES} names: {:.1} MB, {} bytes a name, {:?} to ask for each",
        grown as f64 / 1e6,
        grown / NAMES,
        filled / NAMES as u32
    );
    let costs = median(&stage.resolver, &["host-054321.example.com"], 1001);
    println!("among them: {costs:.1?} ns a lookup");
}
