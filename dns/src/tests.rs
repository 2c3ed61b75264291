//! The resolver against a scripted transport on paused time, and against a server on loopback.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use super::*;
use crate::server::{Reply, Server};

const SECOND: Duration = Duration::from_secs(1);

/// Says what it is told to, after a while, and counts.
#[derive(Clone, Debug, Default)]
struct Script(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    outcomes: VecDeque<(Duration, Outcome)>,
    asked: usize,
}

impl Script {
    fn then(&self, delay: Duration, outcome: Outcome) {
        self.0.lock().outcomes.push_back((delay, outcome));
    }

    fn asked(&self) -> usize {
        self.0.lock().asked
    }
}

impl Transport for Script {
    fn ask<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move {
            let next = {
                let mut lines = self.0.lock();
                lines.asked += 1;
                lines.outcomes.pop_front()
            };
            let (delay, outcome) = next.expect("a line for each query");
            tokio::time::sleep(delay).await;
            outcome
        })
    }
}

fn scripted(config: Config) -> (Resolver, Script) {
    let script = Script::default();
    let hosts = Hosts::new("/nonexistent");
    let resolver = Resolver::with(&config, hosts, Box::new(script.clone()));
    (resolver, script)
}

fn found(last: u8, ttl: u32) -> Outcome {
    Outcome::Found {
        addresses: Arc::from([IpAddr::from([192, 0, 2, last])]),
        ttl: ttl * SECOND,
    }
}

fn failed() -> Outcome {
    Outcome::Unavailable("SERVFAIL".into())
}

fn last_octet(result: Result<Answer, LookupError>) -> u8 {
    match result.expect("an answer")[0] {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => panic!("{address}"),
    }
}

#[tokio::test]
async fn literals_answer_themselves_without_a_query() {
    let (resolver, script) = scripted(Config::default());
    for (host, address) in [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::a", "2001:db8::a"),
        ("[2001:DB8::A]", "2001:db8::a"),
    ] {
        let answer = resolver.lookup(host).await.expect("an answer");
        assert_eq!(answer[0].to_string(), address);
    }
    assert_eq!(script.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_answer_is_given_again_whatever_the_spelling() {
    let (resolver, script) = scripted(Config::default());
    script.then(Duration::ZERO, found(1, 60));
    for host in ["api.example", "API.Example", "api.example."] {
        assert_eq!(last_octet(resolver.lookup(host).await), 1);
    }
    assert_eq!(script.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_use_is_renewed_before_it_runs_out() {
    let (resolver, script) = scripted(Config::default());
    script.then(Duration::ZERO, found(1, 100));
    script.then(SECOND, found(2, 100));
    assert_eq!(last_octet(resolver.lookup("a").await), 1);
    tokio::time::advance(80 * SECOND).await;
    let asked = Instant::now();
    assert_eq!(last_octet(resolver.lookup("a").await), 1);
    assert_eq!(last_octet(resolver.lookup("a").await), 1);
    assert_eq!(asked.elapsed(), Duration::ZERO, "nobody waited");
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(last_octet(resolver.lookup("a").await), 2);
    assert_eq!(script.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_past_its_ttl_is_asked_for_again() {
    let (resolver, script) = scripted(Config::default());
    script.then(Duration::ZERO, found(1, 10));
    script.then(Duration::from_millis(20), found(2, 10));
    assert_eq!(last_octet(resolver.lookup("a").await), 1);
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(last_octet(resolver.lookup("a").await), 2);
}

#[tokio::test(start_paused = true)]
async fn many_at_once_share_one_query() {
    let (resolver, script) = scripted(Config::default());
    script.then(SECOND, found(1, 60));
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let resolver = resolver.clone();
            tokio::spawn(async move { last_octet(resolver.lookup("a").await) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.expect("joined"), 1);
    }
    assert_eq!(script.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_caller_may_leave_and_the_others_are_served() {
    let (resolver, script) = scripted(Config::default());
    script.then(SECOND, found(1, 60));
    let first = tokio::spawn({
        let resolver = resolver.clone();
        async move { resolver.lookup("a").await }
    });
    tokio::task::yield_now().await;
    let second = resolver.lookup("a");
    first.abort();
    assert_eq!(last_octet(second.await), 1);
    assert_eq!(script.asked(), 1);
}

#[test]
fn a_runtime_that_ends_does_not_take_the_waiters_of_others_with_it() {
    let (resolver, script) = scripted(Config::default());
    script.then(3600 * SECOND, found(1, 60));
    script.then(Duration::ZERO, found(2, 60));
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let (doomed, ours) = (runtime(), runtime());
    doomed.block_on(async {
        let lookup = resolver.lookup("a");
        assert!(
            tokio::time::timeout(Duration::from_millis(1), lookup)
                .await
                .is_err()
        );
    });
    let waiter = ours.spawn({
        let resolver = resolver.clone();
        async move { last_octet(resolver.lookup("a").await) }
    });
    ours.block_on(tokio::task::yield_now());
    drop(doomed);
    assert_eq!(ours.block_on(waiter).expect("joined"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_missing_name_is_remembered_and_asked_again_later() {
    let (resolver, script) = scripted(Config::default());
    script.then(Duration::ZERO, Outcome::NotFound);
    script.then(Duration::ZERO, found(1, 60));
    for _ in 0..3 {
        let error = resolver.lookup("a").await.expect_err("no such name");
        assert_eq!(error, LookupError::NotFound { host: "a".into() });
    }
    assert_eq!(script.asked(), 1);
    tokio::time::advance(5 * SECOND).await;
    assert_eq!(last_octet(resolver.lookup("a").await), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_unavailable_after_the_timeout() {
    let (resolver, script) = scripted(Config::default());
    script.then(3600 * SECOND, found(1, 60));
    let asked = Instant::now();
    let error = resolver.lookup("a").await.expect_err("nobody answers");
    assert!(matches!(error, LookupError::Unavailable { .. }), "{error}");
    assert_eq!(asked.elapsed().as_secs(), 2);
    assert!(resolver.lookup("a").await.is_err());
    assert_eq!(script.asked(), 1, "a failure is remembered for a moment");
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_serves_while_the_servers_fail_and_only_the_first_waits() {
    let (resolver, script) = scripted(Config::default());
    script.then(Duration::ZERO, found(1, 60));
    script.then(3600 * SECOND, failed());
    script.then(Duration::ZERO, failed());
    script.then(Duration::ZERO, found(2, 60));
    assert_eq!(last_octet(resolver.lookup("a").await), 1);
    tokio::time::advance(60 * SECOND).await;
    let asked = Instant::now();
    assert_eq!(last_octet(resolver.lookup("a").await), 1);
    let waited = asked.elapsed();
    assert!(waited >= STALE_PATIENCE && waited < SECOND, "{waited:?}");
    tokio::time::sleep(4 * SECOND).await; // the query times out behind it; then a pause of 1 s
    let asked = Instant::now();
    assert_eq!(last_octet(resolver.lookup("a").await), 1);
    assert_eq!(
        asked.elapsed(),
        Duration::ZERO,
        "nobody waits while they fail"
    );
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(last_octet(resolver.lookup("a").await), 1);
    tokio::time::sleep(SECOND).await;
    assert_eq!(last_octet(resolver.lookup("a").await), 2, "they are back");
    assert_eq!(script.asked(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_is_not_served_past_its_limit() {
    let (resolver, script) = scripted(Config {
        stale: 30 * SECOND,
        ..Config::default()
    });
    script.then(Duration::ZERO, found(1, 60));
    script.then(Duration::ZERO, failed());
    assert_eq!(last_octet(resolver.lookup("a").await), 1);
    tokio::time::advance(90 * SECOND).await;
    assert!(resolver.lookup("a").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_glance_waits_for_its_patience_and_then_never_for_a_name_that_failed() {
    let (resolver, script) = scripted(Config::default());
    script.then(3600 * SECOND, failed());
    script.then(3600 * SECOND, failed());
    let patience = Duration::from_millis(300);
    let asked = Instant::now();
    assert!(resolver.glance("a", patience).await.is_err());
    assert!(asked.elapsed() < SECOND / 2);
    tokio::time::sleep(10 * SECOND).await;
    let asked = Instant::now();
    assert!(resolver.glance("a", patience).await.is_err());
    assert_eq!(asked.elapsed(), Duration::ZERO);
    tokio::time::sleep(SECOND / 10).await;
    assert_eq!(script.asked(), 2, "but a query goes on behind it");
}

#[tokio::test(start_paused = true)]
async fn the_number_of_queries_at_once_is_bounded() {
    let (resolver, script) = scripted(Config::default());
    for _ in 0..FLIGHTS_MAX {
        script.then(SECOND, found(1, 60));
    }
    let tasks: Vec<_> = (0..=FLIGHTS_MAX)
        .map(|number| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.lookup(&format!("n{number}.example")).await })
        })
        .collect();
    let mut refused = 0;
    for task in tasks {
        refused += usize::from(task.await.expect("joined").is_err());
    }
    assert_eq!((refused, script.asked()), (1, FLIGHTS_MAX));
}

#[tokio::test]
async fn names_of_the_hosts_file_are_not_asked_for() {
    let path = std::env::temp_dir().join(format!("weir-hosts-lookup-{}", std::process::id()));
    std::fs::write(&path, "10.1.2.3 db.internal\n").expect("a temporary file");
    let script = Script::default();
    let resolver = Resolver::with(
        &Config::default(),
        Hosts::new(&path),
        Box::new(script.clone()),
    );
    let answer = resolver.lookup("db.internal").await.expect("an answer");
    assert_eq!(answer[0].to_string(), "10.1.2.3");
    let answer = resolver.lookup("localhost").await.expect("an answer");
    assert_eq!(answer[0].to_string(), "127.0.0.1");
    assert_eq!(script.asked(), 0);
    std::fs::remove_file(&path).expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_wire_a_hundred_lookups_cost_one_query_a_family() {
    let server = Server::start(|_, kind| match kind {
        1 => Reply::Addresses(vec!["192.0.2.1"], 60),
        _ => Reply::Code(0),
    })
    .await;
    let resolver = Resolver::new(Config {
        servers: vec![server.address()],
        ..Config::default()
    })
    .expect("a resolver");
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let resolver = resolver.clone();
            tokio::spawn(async move { last_octet(resolver.lookup("wire.example").await) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.expect("joined"), 1);
    }
    assert_eq!(server.queries(), 2);
}

#[test]
fn over_the_wire_a_resolver_outlives_the_runtime_it_was_first_used_on() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let (first, second) = (runtime(), runtime());
    // Runs by itself, whichever of the two is used.
    let dns = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let server = dns.block_on(Server::start(|_, kind| match kind {
        1 => Reply::Addresses(vec!["192.0.2.1"], 60),
        _ => Reply::Code(0),
    }));
    let resolver = Resolver::new(Config {
        servers: vec![server.address()],
        ..Config::default()
    })
    .expect("a resolver");
    assert_eq!(
        last_octet(first.block_on(resolver.lookup("one.example"))),
        1
    );
    drop(first);
    assert_eq!(
        last_octet(second.block_on(resolver.lookup("two.example"))),
        1
    );
}

#[tokio::test]
async fn over_the_wire_a_server_that_says_nothing_is_unavailable_in_time() {
    let server = Server::start(|_, _| Reply::Silence).await;
    let timeout = Duration::from_millis(200);
    let resolver = Resolver::new(Config {
        servers: vec![server.address()],
        timeout,
        ..Config::default()
    })
    .expect("a resolver");
    let asked = Instant::now();
    let error = resolver
        .lookup("silent.example")
        .await
        .expect_err("nobody answers");
    assert!(matches!(error, LookupError::Unavailable { .. }), "{error}");
    assert!(asked.elapsed() < 10 * timeout, "{:?}", asked.elapsed());
}

/// `cargo test --release -- --ignored --nocapture cost` prints what a fresh answer costs.
#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_fresh_answer() {
    let (resolver, script) = scripted(Config::default());
    script.then(Duration::ZERO, found(1, 300));
    resolver.lookup("api.openai.com").await.expect("an answer");
    let rounds = 5_000_000_u32;
    let started = std::time::Instant::now();
    for _ in 0..rounds {
        let answer = resolver
            .lookup(std::hint::black_box("api.openai.com"))
            .await;
        assert!(std::hint::black_box(answer).is_ok());
    }
    println!("{:?} a lookup", started.elapsed() / rounds);
}
