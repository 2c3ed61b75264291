//! Lookups on paused time.

use tokio::time::Instant;

use super::*;
use crate::Known;
use crate::flight::FLIGHTS_MAX;

#[tokio::test]
async fn literals_answer_themselves_without_a_query() {
    let stage = scripted(Config::default());
    for (host, address) in [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::a", "2001:db8::a"),
        ("[2001:DB8::A]", "2001:db8::a"),
    ] {
        let answer = stage.resolver.lookup(host).await.expect("an answer");
        assert_eq!(answer[0].to_string(), address);
    }
    assert_eq!(stage.script.asked(), 0);
    assert_eq!(stage.counts(), [0; 5], "literals aren't lookups");
}

#[tokio::test]
async fn what_is_no_name_is_not_found_without_a_query() {
    let stage = scripted(Config::default());
    let long = "a.".repeat(127) + "a";
    for host in [
        "",
        ".",
        "a..b",
        "fe80::1%eth0",
        "[fe80::1%eth0]",
        "a b",
        &long,
    ] {
        let error = stage.resolver.lookup(host).await.expect_err("no name");
        assert!(
            matches!(error, LookupError::NotFound { .. }),
            "{host}: {error}"
        );
    }
    assert_eq!(stage.script.asked(), 0);
    assert!(stage.resolver.dump().is_empty(), "nothing to remember");
}

#[tokio::test(start_paused = true)]
async fn a_fresh_answer_is_given_again_whatever_the_spelling() {
    let stage = scripted(Config::default());
    stage.script.then(Duration::ZERO, found(1, 60));
    for host in ["api.example", "API.Example", "api.example."] {
        assert_eq!(stage.octet(host).await, 1);
    }
    assert_eq!(stage.script.asked(), 1);
    assert_eq!(stage.counts(), [2, 0, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_dot_at_the_end_tells_names_apart_that_would_be_searched_for() {
    let stage = scripted(Config::default());
    stage.script.then(Duration::ZERO, found(1, 60));
    stage.script.then(Duration::ZERO, found(2, 60));
    assert_eq!(stage.octet("db").await, 1);
    assert_eq!(stage.octet("db.").await, 2);
    assert_eq!(stage.octet("DB").await, 1);
    assert_eq!(stage.script.0.lock().asked, ["db", "db."]);
}

#[tokio::test(start_paused = true)]
async fn a_name_in_use_is_renewed_before_it_runs_out_without_a_lookup() {
    let stage = scripted(Config::default());
    stage.script.then(Duration::ZERO, found(1, 100));
    stage.script.then(SECOND, found(2, 100));
    assert_eq!(stage.octet("a.example").await, 1);
    tokio::time::sleep(74 * SECOND).await;
    assert_eq!(stage.script.asked(), 1);
    tokio::time::sleep(13 * SECOND).await;
    assert_eq!(stage.script.asked(), 2, "at four fifths, give or take");
    assert_eq!(stage.octet("a.example").await, 2);
    assert_eq!(stage.counts(), [1, 0, 1, 0, 0], "a hit, not a stale answer");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_looks_up_any_more_is_left_alone() {
    let stage = scripted(Config::default());
    stage.script.always(Duration::ZERO, found(1, 60));
    stage.octet("a.example").await;
    tokio::time::sleep(3600 * SECOND).await;
    let asked = stage.script.asked();
    assert!(
        (10..=15).contains(&asked),
        "{asked} queries in ten minutes of use"
    );
    let before = Instant::now();
    assert_eq!(stage.octet("a.example").await, 1);
    assert_eq!(before.elapsed(), Duration::ZERO, "still nobody waits");
    assert_eq!(stage.counts(), [0, 1, 1, 0, 0]);
    tokio::time::sleep(SECOND).await;
    assert_eq!(stage.script.asked(), asked + 1, "asked for behind it");
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(stage.script.asked(), asked + 2, "and in use again");
}

#[tokio::test(start_paused = true)]
async fn a_changed_address_is_seen_within_its_ttl_and_a_second_by_each_lookup() {
    for ttl in [0_u32, 1, 5, 60, 300, 86_400] {
        let stage = scripted(Config::default());
        stage.script.then(Duration::ZERO, found(1, ttl));
        stage.script.always(SECOND / 10, found(2, ttl));
        assert_eq!(stage.octet("a.example").await, 1);
        // As the cache takes it: `min_ttl..=max_ttl`.
        let kept = ttl.clamp(1, 300);
        tokio::time::sleep((kept + 1) * SECOND).await;
        assert_eq!(stage.octet("a.example").await, 2, "TTL {ttl}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_served_at_once_and_renewed_behind() {
    let stage = scripted(Config::default());
    let known = Known {
        name: "a.example".into(),
        addresses: vec![IpAddr::from([192, 0, 2, 1])],
        fresh: Duration::ZERO,
        stale: 60 * SECOND,
        missing_for: None,
    };
    stage.resolver.learn([known]);
    stage.script.then(SECOND, found(2, 60));
    let before = Instant::now();
    for _ in 0..10 {
        assert_eq!(stage.octet("a.example").await, 1);
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(stage.octet("a.example").await, 2);
    assert_eq!(stage.script.asked(), 1);
    assert_eq!(stage.counts(), [1, 10, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn servers_that_are_dead_for_ten_minutes_fail_no_lookup_of_a_known_name() {
    let stage = scripted(Config::default());
    let names: Vec<String> = (0..20).map(|n| format!("n{n}.example")).collect();
    stage.script.always(Duration::ZERO, found(1, 30));
    for name in &names {
        stage.octet(name).await;
    }
    // Silence: each query takes its whole time.
    stage.script.always(3600 * SECOND, found(1, 30));
    let (died, asked) = (Instant::now(), stage.script.asked());
    let mut lookups = 0;
    while died.elapsed() < 600 * SECOND {
        for name in &names {
            let before = Instant::now();
            assert_eq!(stage.octet(name).await, 1);
            assert_eq!(before.elapsed(), Duration::ZERO, "nobody waits");
            lookups += 1;
        }
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(lookups, 12_000);
    let [hits, stale, misses, negative, failures] = stage.counts();
    assert_eq!((misses, negative, failures), (20, 0, 0));
    assert_eq!(hits + stale, lookups);
    assert!(stale > 11_000, "{stale}");
    // 2 s of silence and 5 s of pause: some 85 queries a name.
    let asked = stage.script.asked() - asked;
    assert!((20 * 60..20 * 100).contains(&asked), "{asked}");
    stage.script.always(Duration::ZERO, found(2, 30));
    tokio::time::sleep(8 * SECOND).await;
    for name in &names {
        assert_eq!(stage.octet(name).await, 2, "they are back");
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_is_not_served_past_its_limit() {
    let stage = scripted(Config {
        stale: 30 * SECOND,
        ..Config::default()
    });
    stage.script.then(Duration::ZERO, found(1, 60));
    stage.script.always(Duration::ZERO, failed());
    assert_eq!(stage.octet("a.example").await, 1);
    tokio::time::sleep(89 * SECOND).await;
    assert_eq!(stage.octet("a.example").await, 1);
    tokio::time::sleep(SECOND).await;
    let error = stage.resolver.lookup("a.example").await;
    assert!(matches!(error, Err(LookupError::Unavailable { .. })));
}

#[tokio::test(start_paused = true)]
async fn no_such_name_once_changes_nothing_and_twice_ends_it() {
    let stage = scripted(Config::default());
    stage.script.then(Duration::ZERO, found(1, 10));
    stage.script.always(Duration::ZERO, missing());
    assert_eq!(stage.octet("a.example").await, 1);
    // The first "no such name" comes at 7.5 s to 8.5 s, the second ten seconds later.
    tokio::time::sleep(17 * SECOND).await;
    assert_eq!(stage.octet("a.example").await, 1);
    assert_eq!(stage.counts(), [0, 1, 1, 0, 0], "counted as stale");
    assert!(stage.resolver.dump()[0].is_missing);
    tokio::time::sleep(2 * SECOND).await;
    let error = stage.resolver.lookup("a.example").await.expect_err("gone");
    assert!(matches!(error, LookupError::NotFound { .. }));
    assert_eq!(stage.script.asked(), 3);
    stage.script.always(Duration::ZERO, found(3, 10));
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(stage.octet("a.example").await, 3, "and back");
}

#[tokio::test(start_paused = true)]
async fn no_such_name_for_a_moment_is_not_noticed() {
    let stage = scripted(Config::default());
    stage.script.then(Duration::ZERO, found(1, 10));
    stage.script.then(Duration::ZERO, missing());
    stage.script.always(Duration::ZERO, found(2, 10));
    assert_eq!(stage.octet("a.example").await, 1);
    for _ in 0..100 {
        tokio::time::sleep(SECOND / 4).await;
        stage.octet("a.example").await;
    }
    assert_eq!(stage.octet("a.example").await, 2);
    assert_eq!(stage.counts()[3..], [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn many_at_once_share_one_query() {
    let stage = scripted(Config::default());
    stage.script.then(SECOND, found(1, 60));
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let resolver = stage.resolver.clone();
            tokio::spawn(async move { last_octet(resolver.lookup("a.example").await) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.expect("joined"), 1);
    }
    assert_eq!(stage.script.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_caller_may_leave_and_the_others_are_served() {
    let stage = scripted(Config::default());
    stage.script.then(SECOND, found(1, 60));
    let first = tokio::spawn({
        let resolver = stage.resolver.clone();
        async move { resolver.lookup("a.example").await }
    });
    tokio::task::yield_now().await;
    let second = stage.octet("a.example");
    first.abort();
    assert_eq!(second.await, 1);
    assert_eq!(stage.script.asked(), 1);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn a_runtime_that_ends_does_not_take_the_waiters_of_others_with_it() {
    let stage = scripted(Config::default());
    stage.script.then(3600 * SECOND, found(1, 60));
    stage.script.then(Duration::ZERO, found(2, 60));
    let (doomed, ours) = (runtime(), runtime());
    doomed.block_on(async {
        let lookup = stage.resolver.lookup("a.example");
        let impatient = tokio::time::timeout(Duration::from_millis(1), lookup);
        assert!(impatient.await.is_err());
    });
    let waiter = ours.spawn({
        let resolver = stage.resolver.clone();
        async move { last_octet(resolver.lookup("a.example").await) }
    });
    ours.block_on(tokio::task::yield_now());
    drop(doomed);
    assert_eq!(ours.block_on(waiter).expect("joined"), 2);
}

#[test]
fn renewals_go_on_when_the_runtime_that_renewed_ends() {
    let stage = scripted(Config {
        min_ttl: Duration::ZERO,
        ..Config::default()
    });
    stage.script.always(Duration::ZERO, found(1, 0));
    let (doomed, ours) = (runtime(), runtime());
    doomed.block_on(stage.octet("a.example"));
    drop(doomed);
    ours.block_on(async {
        // A lookup that finds the name due starts what was lost with the runtime.
        while stage.script.asked() < 2 {
            stage.octet("a.example").await;
            tokio::time::sleep(SECOND / 20).await;
        }
        while stage.script.asked() < 4 {
            tokio::time::sleep(SECOND / 20).await;
        }
    });
}

#[tokio::test(start_paused = true)]
async fn what_renews_ends_with_the_resolver() {
    let stage = scripted(Config::default());
    stage.script.always(Duration::ZERO, found(1, 10));
    stage.octet("a.example").await;
    let Stage {
        resolver, script, ..
    } = stage;
    drop(resolver);
    let metrics = tokio::runtime::Handle::current().metrics();
    while metrics.num_alive_tasks() > 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!(script.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_name_is_remembered_and_asked_again_later() {
    let stage = scripted(Config::default());
    stage.script.then(Duration::ZERO, missing());
    stage.script.then(Duration::ZERO, found(1, 60));
    for _ in 0..3 {
        let error = stage.resolver.lookup("a.example").await;
        let host = "a.example".into();
        assert_eq!(error, Err(LookupError::NotFound { host }));
    }
    assert_eq!(stage.script.asked(), 1);
    tokio::time::advance(5 * SECOND).await;
    assert_eq!(stage.octet("a.example").await, 1);
    assert_eq!(stage.counts(), [0, 0, 1, 3, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_unavailable_after_the_timeout_and_remembered() {
    let stage = scripted(Config::default());
    stage.script.then(3600 * SECOND, found(1, 60));
    let asked = Instant::now();
    let error = stage.resolver.lookup("a.example").await;
    assert!(
        matches!(error, Err(LookupError::Unavailable { .. })),
        "{error:?}"
    );
    assert_eq!(asked.elapsed().as_secs(), 2);
    let before = Instant::now();
    assert!(stage.resolver.lookup("a.example").await.is_err());
    assert!(before.elapsed() < SECOND / 10, "{:?}", before.elapsed());
    assert_eq!(
        stage.script.asked(),
        1,
        "a failure is remembered for a moment"
    );
    assert_eq!(stage.counts(), [0, 0, 0, 0, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_glance_waits_for_its_patience_and_then_never_for_a_name_that_failed() {
    let stage = scripted(Config::default());
    stage.script.always(3600 * SECOND, failed());
    let patience = Duration::from_millis(300);
    let asked = Instant::now();
    assert!(stage.resolver.glance("a.example", patience).await.is_err());
    assert_eq!(asked.elapsed().as_millis(), 300);
    tokio::time::sleep(10 * SECOND).await;
    let asked = Instant::now();
    assert!(stage.resolver.glance("a.example", patience).await.is_err());
    assert_eq!(asked.elapsed(), Duration::ZERO);
    tokio::time::sleep(SECOND / 10).await;
    assert_eq!(stage.script.asked(), 2, "but a query goes on behind it");
}

#[tokio::test(start_paused = true)]
async fn more_names_than_may_be_asked_for_at_once_wait_their_turn() {
    let stage = scripted(Config::default());
    stage.script.always(SECOND * 2 / 5, found(1, 60));
    let names = 3 * FLIGHTS_MAX + 1;
    let begun = Instant::now();
    let tasks: Vec<_> = (0..names)
        .map(|number| {
            let resolver = stage.resolver.clone();
            tokio::spawn(async move { resolver.lookup(&format!("n{number}.example")).await })
        })
        .collect();
    tokio::time::sleep(SECOND / 10).await;
    assert_eq!(stage.script.asked(), FLIGHTS_MAX, "no more at once");
    for task in tasks {
        assert_eq!(last_octet(task.await.expect("joined")), 1);
    }
    assert_eq!(stage.script.asked(), names);
    // Four turns fit into the time that a lookup has.
    assert!(begun.elapsed() <= 2 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_the_queue_waits_no_longer_than_the_timeout() {
    let stage = scripted(Config::default());
    stage.script.always(3600 * SECOND, failed());
    let begun = Instant::now();
    let tasks: Vec<_> = (0..2 * FLIGHTS_MAX)
        .map(|number| {
            let resolver = stage.resolver.clone();
            tokio::spawn(async move { resolver.lookup(&format!("n{number}.example")).await })
        })
        .collect();
    for task in tasks {
        assert!(task.await.expect("joined").is_err());
    }
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_one_knows_another_learns() {
    let (old, new) = (scripted(Config::default()), scripted(Config::default()));
    old.script.then(Duration::ZERO, found(1, 60));
    old.octet("a.example").await;
    tokio::time::advance(10 * SECOND).await;
    new.resolver.learn(old.resolver.known());
    assert_eq!(new.octet("a.example").await, 1);
    let listing = &new.resolver.dump()[0];
    assert_eq!(listing.source, Source::HandedOver);
    assert_eq!(listing.fresh.as_secs(), 50);
    assert_eq!(new.counts(), [1, 0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_flushed_is_asked_for_again() {
    let stage = scripted(Config::default());
    for octet in 1..=4 {
        stage.script.then(Duration::ZERO, found(octet, 60));
    }
    stage.octet("a.example").await;
    stage.octet("b.example").await;
    assert_eq!(stage.resolver.flush(Some("A.example.")), 1);
    assert_eq!(stage.resolver.flush(Some("c.example")), 0);
    assert_eq!(stage.octet("b.example").await, 2);
    assert_eq!(stage.octet("a.example").await, 3);
    assert_eq!(stage.resolver.flush(None), 2);
    assert!(stage.resolver.dump().is_empty());
    assert_eq!(stage.octet("b.example").await, 4);
}

#[tokio::test(start_paused = true)]
async fn what_is_flushed_while_the_servers_fail_serves_on() {
    let stage = scripted(Config::default());
    stage.script.then(Duration::ZERO, found(1, 60));
    stage.script.always(SECOND, failed());
    assert_eq!(stage.octet("a.example").await, 1);
    for queries in 2..4 {
        assert_eq!(stage.resolver.flush(Some("a.example")), 1);
        let (began, patience) = (Instant::now(), SECOND / 4);
        let glanced = stage.resolver.glance("a.example", patience).await;
        assert_eq!(last_octet(glanced), 1);
        assert!(began.elapsed().abs_diff(patience) < SECOND / 100);
        assert_eq!(stage.octet("a.example").await, 1);
        assert!(
            began.elapsed().abs_diff(SECOND) < SECOND / 100,
            "it waited for the query"
        );
        assert_eq!(stage.script.asked(), queries);
        assert_eq!(stage.octet("a.example").await, 1);
        assert!(began.elapsed().abs_diff(SECOND) < SECOND / 100, "at once");
    }
}
