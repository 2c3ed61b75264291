use super::*;
use crate::observe::Breakers;
use crate::upstream::settings::{self, Breaker, Settings};
use crate::upstream::{Attempt, Choice, EndpointId, Outcome, Provider, Upstreams};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::Poll;
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

fn places(max: usize, endpoint_max: usize) -> Places {
    Places {
        max,
        endpoint_max,
        ..Places::default()
    }
}

/// One provider for each, with that many endpoints.
fn settings(providers: &[(usize, Places)]) -> Settings {
    let provider = |(number, (endpoints, places)): (usize, &(usize, Places))| settings::Provider {
        name: format!("p{number}"),
        urls: (0..*endpoints)
            .map(|it| format!("http://p{number}-{it}/").parse().expect("a URL"))
            .collect(),
        places: *places,
        ..settings::Provider::default()
    };
    Settings {
        providers: providers.iter().enumerate().map(provider).collect(),
        ..Settings::default()
    }
}

fn upstreams(providers: &[(usize, Places)]) -> Upstreams {
    Upstreams::new(&settings(providers), None, &Breakers::default())
}

fn choice(endpoint: usize) -> Choice {
    Choice {
        endpoint: EndpointId(endpoint),
        model: None,
    }
}

fn turn(team: &str, tokens: u64) -> Turn {
    Turn {
        tenant: Tenant::Team(team.into()),
        priority: Priority::Normal,
        tokens,
        until: None,
    }
}

/// One that is polled by hand.
type Waits<'u> = Pin<Box<dyn Future<Output = Result<(usize, Attempt), Unavailable>> + 'u>>;

fn wait<'u>(upstreams: &'u Upstreams, choices: &'u [Choice], team: &str) -> Waits<'u> {
    let turn = turn(team, 1_000);
    Box::pin(async move { upstreams.attempt(choices, &turn).await })
}

/// Polls once.
async fn now<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match Pin::new(&mut *future).poll(cx) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_place_goes_to_who_waits_and_not_to_who_comes_new() {
    let all = upstreams(&[(1, places(1, 0))]);
    let here = [choice(0)];
    let first = now(&mut wait(&all, &here, "a")).await.expect("free");
    let (mut second, mut third) = (wait(&all, &here, "a"), wait(&all, &here, "a"));
    assert!(now(&mut second).await.is_none());
    assert!(now(&mut third).await.is_none());
    drop(first);
    assert!(now(&mut wait(&all, &here, "b")).await.is_none(), "barging");
    let (_, attempt) = now(&mut second).await.expect("its turn").expect("a place");
    assert_eq!(attempt.waited(), Some(Duration::ZERO), "no time has passed");
    assert!(now(&mut third).await.is_none());
    assert_eq!(all.endpoint(EndpointId(0)).in_flight(), 1);
    drop((attempt, third));
    assert_eq!(all.providers()[0].waiting(), 0);
    assert_eq!(all.endpoint(EndpointId(0)).in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_with_a_place_in_hand_hands_it_on() {
    let all = upstreams(&[(1, places(1, 0))]);
    let here = [choice(0)];
    let first = now(&mut wait(&all, &here, "a")).await;
    let (mut second, mut third) = (wait(&all, &here, "a"), wait(&all, &here, "a"));
    assert!(now(&mut second).await.is_none());
    assert!(now(&mut third).await.is_none());
    drop(first);
    // The place is on its way to the second one, which doesn't live to see it.
    drop(second);
    assert!(now(&mut third).await.is_some(), "a lost wake-up");
}

#[tokio::test(start_paused = true)]
async fn endpoint_and_provider_have_caps_of_their_own() {
    let all = upstreams(&[(2, places(3, 2))]);
    let both = [choice(0), choice(1)];
    let mut held = Vec::new();
    for expected in [0, 0, 1] {
        let (number, attempt) = now(&mut wait(&all, &both, "a")).await.unwrap().unwrap();
        assert_eq!(number, expected);
        held.push(attempt);
    }
    let mut fourth = wait(&all, &both, "a");
    assert!(now(&mut fourth).await.is_none(), "the provider is full");
    // An endpoint becomes free, and its provider with it.
    held.remove(0);
    let (number, _attempt) = now(&mut fourth).await.unwrap().unwrap();
    assert_eq!(number, 0);
    assert!(now(&mut wait(&all, &[choice(0)], "a")).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_request_stands_in_the_lines_of_all_who_could_serve_it_and_gets_one_place() {
    let all = upstreams(&[(1, places(1, 0)), (1, places(1, 0))]);
    let (one, other, both) = ([choice(0)], [choice(1)], [choice(0), choice(1)]);
    let first = now(&mut wait(&all, &one, "a")).await.unwrap().unwrap();
    let second = now(&mut wait(&all, &other, "a")).await.unwrap().unwrap();
    let mut either = wait(&all, &both, "a");
    assert!(now(&mut either).await.is_none());
    assert_eq!(
        (all.providers()[0].waiting(), all.providers()[1].waiting()),
        (1, 1)
    );
    drop(second);
    drop(first);
    let (number, attempt) = now(&mut either).await.unwrap().unwrap();
    assert_eq!(number, 1);
    assert_eq!(
        (all.providers()[0].waiting(), all.providers()[1].waiting()),
        (0, 0)
    );
    assert!(
        now(&mut wait(&all, &one, "a")).await.is_some(),
        "the other one is free"
    );
    drop(attempt);
    assert_eq!(all.endpoint(EndpointId(1)).in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_line_is_bounded_in_length_and_time() {
    let bounds = Places {
        queue_max: 1,
        queue_timeout: Duration::from_secs(3),
        ..places(1, 0)
    };
    let all = upstreams(&[(1, bounds)]);
    let here = [choice(0)];
    let began = Instant::now();
    let _held = all.attempt(&here, &turn("a", 1)).await.expect("free");
    let mut second = wait(&all, &here, "a");
    assert!(now(&mut second).await.is_none());
    let third = all.attempt(&here, &turn("a", 1)).await;
    assert!(matches!(third, Err(Unavailable::QueueFull { wait }) if wait >= WAIT_MIN));
    let second = second.await;
    assert!(matches!(second, Err(Unavailable::NotInTime { wait }) if wait >= WAIT_MIN));
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    // Who must be done by then doesn't wait longer.
    let hurried = Turn {
        until: Some((Instant::now() + Duration::from_secs(1)).into_std()),
        ..turn("a", 1)
    };
    assert!(all.attempt(&here, &hurried).await.is_err());
    assert_eq!(began.elapsed(), Duration::from_secs(4));
    assert_eq!(all.providers()[0].waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_come_in_time_is_refused_at_once_and_told_when() {
    let all = upstreams(&[(1, places(2, 0))]);
    let here = [choice(0)];
    // Each place is taken for 8 s: one becomes free every 4 s.
    for _ in 0..5 {
        let one = all.attempt(&here, &turn("a", 1_000)).await.expect("free");
        let two = all.attempt(&here, &turn("a", 1_000)).await.expect("free");
        sleep(Duration::from_secs(8)).await;
        drop((one, two));
    }
    let _held = (
        all.attempt(&here, &turn("a", 1_000)).await.expect("free"),
        all.attempt(&here, &turn("a", 1_000)).await.expect("free"),
    );
    let mut line: Vec<_> = (0..2).map(|_| wait(&all, &here, "a")).collect();
    for it in &mut line {
        assert!(now(it).await.is_none(), "4 and 8 s are within 10");
    }
    let began = Instant::now();
    let refused = all.attempt(&here, &turn("a", 1_000)).await.map(|_| ());
    let wait = Duration::from_secs(12);
    assert_eq!(refused, Err(Unavailable::NotInTime { wait }));
    assert_eq!(began.elapsed(), Duration::ZERO);
    // Another team's turn comes earlier.
    let mut other = self::wait(&all, &here, "b");
    assert!(now(&mut other).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_raises_a_cap_lets_in_and_one_that_lowers_it_drains() {
    let old = upstreams(&[(1, places(2, 0))]);
    let here = [choice(0)];
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(old.attempt(&here, &turn("a", 1)).await.expect("free"));
    }
    let mut waiting: Vec<_> = (0..4).map(|_| wait(&old, &here, "a")).collect();
    for it in &mut waiting {
        assert!(now(it).await.is_none());
    }
    let new = Upstreams::new(
        &settings(&[(1, places(4, 0))]),
        Some(&old),
        &Breakers::default(),
    );
    assert!(now(&mut waiting[0]).await.is_none(), "it isn't live yet");
    new.go_live();
    for it in waiting.drain(..2) {
        held.push(it.await.expect("let in"));
    }
    let lower = Upstreams::new(
        &settings(&[(1, places(1, 0))]),
        Some(&new),
        &Breakers::default(),
    );
    lower.go_live();
    for left in [3, 2, 1] {
        held.pop();
        assert_eq!(lower.endpoint(EndpointId(0)).in_flight(), left);
        assert!(now(&mut waiting[0]).await.is_none(), "{left} are left");
    }
    held.pop();
    assert!(now(&mut waiting[0]).await.is_some(), "one at a time");
    let open = Upstreams::new(
        &settings(&[(1, places(0, 0))]),
        Some(&lower),
        &Breakers::default(),
    );
    open.go_live();
    assert!(now(&mut waiting[1]).await.is_some(), "no cap");
}

/// Two providers with a place each, of which the first is paused when it fails once.
fn brittle() -> Upstreams {
    let mut settings = settings(&[(1, places(1, 0)), (1, places(1, 0))]);
    settings.providers[0].breaker = Some(Breaker {
        failures: 1,
        ..Breaker::default()
    });
    Upstreams::new(&settings, None, &Breakers::default())
}

async fn taken(upstreams: &Upstreams, choice: &Choice) -> Attempt {
    let here = std::slice::from_ref(choice);
    let attempt = now(&mut wait(upstreams, here, "a")).await;
    attempt.expect("free").expect("a place").1
}

fn fails(mut attempt: Attempt) {
    attempt.ended(Outcome::Failed);
}

#[tokio::test(start_paused = true)]
async fn whose_place_is_at_one_that_failed_meanwhile_goes_elsewhere_and_gives_it_back() {
    let all = brittle();
    let both = [choice(0), choice(1)];
    let failing = taken(&all, &both[0]).await;
    let other = taken(&all, &both[1]).await;
    let mut waiting = wait(&all, &both, "a");
    assert!(now(&mut waiting).await.is_none());
    sleep(Duration::from_secs(4)).await;
    fails(failing);
    assert!(now(&mut waiting).await.is_none(), "it isn't asked");
    let first = all.endpoint(EndpointId(0));
    assert_eq!(first.in_flight(), 0, "its place is given back");
    let waiting_at: Vec<usize> = all.providers().iter().map(Provider::waiting).collect();
    assert_eq!(waiting_at, [0, 1]);
    sleep(Duration::from_secs(3)).await;
    drop(other);
    let served = now(&mut waiting).await.expect("free");
    let (number, attempt) = served.expect("a place");
    assert_eq!(number, 1);
    let waited = attempt.waited();
    assert_eq!(waited, Some(Duration::from_secs(7)), "all of it");
    drop(attempt);
    assert_eq!(all.endpoint(EndpointId(1)).in_flight(), 0);
    assert_eq!(first.failures(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_elsewhere_waits_no_longer_for_that() {
    let all = brittle();
    let both = [choice(0), choice(1)];
    let failing = taken(&all, &both[0]).await;
    let _other = taken(&all, &both[1]).await;
    let mut waiting = wait(&all, &both, "a");
    assert!(now(&mut waiting).await.is_none());
    sleep(Duration::from_secs(4)).await;
    fails(failing);
    assert!(now(&mut waiting).await.is_none());
    let began = Instant::now();
    let refused = waiting.await.map(|(number, _)| number);
    assert!(
        matches!(refused, Err(Unavailable::NotInTime { .. })),
        "{refused:?}"
    );
    assert_eq!(began.elapsed(), Duration::from_secs(6), "10 s in all");
}

#[tokio::test(start_paused = true)]
async fn a_place_that_nobody_used_says_nothing_of_how_long_one_is_taken() {
    let all = brittle();
    let here = [choice(0)];
    let failing = taken(&all, &here[0]).await;
    let mut waiting: Vec<_> = (0..5).map(|_| wait(&all, &here, "a")).collect();
    for it in &mut waiting {
        assert!(now(it).await.is_none());
    }
    sleep(Duration::from_secs(8)).await;
    fails(failing);
    for it in waiting {
        let refused = it.await.map(|(number, _)| number);
        assert!(
            matches!(refused, Err(Unavailable::Paused { .. })),
            "{refused:?}"
        );
    }
    let service = all.providers()[0].bulkhead.state.lock().service;
    assert_eq!(service, Some(Duration::from_secs(8)));
}

#[test]
fn a_provider_keeps_its_places_when_its_urls_change() {
    let old = upstreams(&[(2, places(1, 0))]);
    let new = Upstreams::new(
        &settings(&[(1, places(1, 0)), (1, places(1, 0))]),
        Some(&old),
        &Breakers::default(),
    );
    assert!(Arc::ptr_eq(
        &old.providers()[0].bulkhead,
        &new.providers()[0].bulkhead
    ));
    assert!(!Arc::ptr_eq(
        &old.providers()[0].bulkhead,
        &new.providers()[1].bulkhead
    ));
}

/// Clients come, are served, leave early; caps are changed meanwhile. In virtual time: each seed is a
/// story that always goes the same way.
#[tokio::test(start_paused = true)]
async fn a_day_at_the_weir() {
    for seed in 0..40 {
        story(seed).await;
    }
}

async fn story(seed: u64) {
    const TEAMS: usize = 4;
    const CLIENTS: usize = 300;
    let mut chance = SmallRng::seed_from_u64(seed);
    let bounds = |chance: &mut SmallRng| Places {
        max: chance.random_range(0..6),
        endpoint_max: chance.random_range(0..4),
        queue_max: 40,
        queue_timeout: Duration::from_secs(30),
    };
    let shape: Vec<(usize, Places)> = (0..2).map(|_| (2, bounds(&mut chance))).collect();
    let mut live = Arc::new(upstreams(&shape));
    let mut old = Vec::new();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (all, seed) = (Arc::clone(&live), chance.random());
        clients.spawn(async move {
            let mut chance = SmallRng::seed_from_u64(seed);
            let team = format!("t{}", chance.random_range(0..TEAMS));
            let turn = Turn {
                priority: Priority::ALL[chance.random_range(0..3)],
                ..turn(&team, chance.random_range(1..20_000))
            };
            let mut choices: Vec<Choice> = (0..4).map(choice).collect();
            choices.rotate_left(chance.random_range(0..4));
            choices.truncate(chance.random_range(1..=4));
            let patience = Duration::from_millis(chance.random_range(0..20_000));
            let attempt = tokio::time::timeout(patience, all.attempt(&choices, &turn)).await;
            if let Ok(Ok(attempt)) = attempt {
                sleep(Duration::from_millis(chance.random_range(0..3_000))).await;
                drop(attempt);
            }
        });
        if chance.random_bool(0.05) {
            // Caps rise and fall; one that was lowered may be passed by what came before.
            let shape: Vec<_> = (0..2).map(|_| (2, bounds(&mut chance))).collect();
            let next = Upstreams::new(&settings(&shape), Some(&live), &Breakers::default());
            next.go_live();
            old.push(std::mem::replace(&mut live, Arc::new(next)));
        }
        sleep(Duration::from_millis(chance.random_range(0..200))).await;
        for (number, provider) in live.providers().iter().enumerate() {
            let lines = provider.waiting();
            assert!(lines <= 40, "seed {seed}: {lines} wait at {number}");
            assert!(!somebody_waits_for_a_free_place(provider), "seed {seed}");
        }
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("no panic");
    }
    for endpoint in live.endpoints() {
        assert_eq!(endpoint.in_flight(), 0, "seed {seed}: a place leaked");
    }
    for provider in live.providers() {
        assert_eq!(provider.waiting(), 0, "seed {seed}");
        assert_eq!(
            provider.bulkhead.taken.load(Ordering::SeqCst),
            0,
            "seed {seed}"
        );
    }
}

fn somebody_waits_for_a_free_place(provider: &crate::upstream::Provider) -> bool {
    let bulkhead = &provider.bulkhead;
    let mut state = bulkhead.state.lock();
    let State { places, line, .. } = &mut *state;
    let fits = |it: &Waiter| {
        it.wish.is_open() && it.way(|load| bulkhead.has_place(places, load)).is_some()
    };
    line.pop(fits).is_some()
}

/// A team that sends fifty times what the others do: what each gets while all wait.
#[tokio::test(start_paused = true)]
async fn teams_share_the_places_by_tokens() {
    let bounds = Places {
        queue_max: 10_000,
        queue_timeout: Duration::from_secs(100_000),
        ..places(8, 0)
    };
    let all = Arc::new(upstreams(&[(1, bounds)]));
    let served = Arc::new(Mutex::new(BTreeMap::<&str, u64>::new()));
    let mut clients = JoinSet::new();
    let mut chance = SmallRng::seed_from_u64(7);
    for (team, requests, tokens) in [("greedy", 2_000, 5_000), ("a", 400, 500), ("b", 400, 500)] {
        for _ in 0..requests {
            let (all, served) = (Arc::clone(&all), Arc::clone(&served));
            // A token takes a millisecond.
            let tokens = chance.random_range(1..2 * tokens);
            clients.spawn(async move {
                let here = [choice(0)];
                let attempt = all
                    .attempt(&here, &turn(team, tokens))
                    .await
                    .expect("its turn");
                *served.lock().entry(team).or_default() += tokens;
                sleep(Duration::from_millis(tokens)).await;
                drop(attempt);
            });
        }
    }
    yield_now().await;
    // 8 places give 8000 tokens a second: as long as all wait, each has a third.
    sleep(Duration::from_secs(60)).await;
    let served = served.lock().clone();
    let total: u64 = served.values().sum();
    for (team, served) in &served {
        let share = *served as f64 / total as f64;
        assert!(
            (0.28..0.39).contains(&share),
            "{team} has {share:.3} of {total}"
        );
    }
    clients.abort_all();
}

/// Threads that come, leave and give back at once, for as long as it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_place_is_lost_or_given_twice_between_threads() {
    const CAP: usize = 3;
    let all = Arc::new(upstreams(&[(2, places(CAP, 2)), (1, places(CAP, 0))]));
    let carried = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let mut clients = JoinSet::new();
    for seed in 0..64 {
        let (all, carried) = (Arc::clone(&all), Arc::clone(&carried));
        clients.spawn(async move {
            let mut chance = SmallRng::seed_from_u64(seed);
            for _ in 0..300 {
                let mut choices: Vec<Choice> = (0..3).map(choice).collect();
                choices.rotate_left(chance.random_range(0..3));
                choices.truncate(chance.random_range(1..=3));
                let turn = turn(&format!("t{}", seed % 5), chance.random_range(1..9_000));
                let attempt = all.attempt(&choices, &turn);
                let leaves = chance.random_bool(0.3);
                let patience = Duration::from_micros(chance.random_range(0..300));
                let attempt = match leaves {
                    true => tokio::time::timeout(patience, attempt).await,
                    false => Ok(attempt.await),
                };
                if let Ok(attempt) = attempt {
                    let (number, attempt) = attempt.expect("nobody waits that long");
                    let endpoint = choices[number].endpoint.0;
                    let now = carried[endpoint].fetch_add(1, Ordering::SeqCst);
                    assert!(now < [2, 2, CAP][endpoint], "{now} at {endpoint}");
                    yield_now().await;
                    carried[endpoint].fetch_sub(1, Ordering::SeqCst);
                    drop(attempt);
                }
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("no panic");
    }
    assert!(all.endpoints().iter().all(|it| it.in_flight() == 0));
    assert!(all.providers().iter().all(|it| it.waiting() == 0));
}
