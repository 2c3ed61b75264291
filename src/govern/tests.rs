//! All limits together.

use super::accounts::Keep;
use super::grant::{Standing, Tier};
use super::scope::{self, Id, Measure, Whose};
use super::settings::{
    Allowance, Budget, Credential, Key, Period, RateLimit, Team, Unmetered, Unpriced,
};
use super::*;
use crate::types::Money;
use crate::types::{Priority, Tenant};
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

const CLIENT: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));

fn settings() -> Settings {
    Settings {
        rate_limit: None,
        in_flight_max: 0,
        in_flight_tokens_max: 0,
        per_address: Allowance::default(),
        cached_tokens_count: true,
        unpriced: Unpriced::Refuse,
        unmetered: Unmetered::Refuse,
        queue: settings::Queue {
            size: 10,
            timeout: Duration::from_secs(10),
        },
        drains_max: 0,
        body_bytes_max: 1,
        buffered_bytes_max: 1,
        teams: None,
        routes: Vec::new(),
    }
}

fn governor() -> Governor {
    Governor::new(settings(), Accounts::private())
}

fn caller(team: Allowance, key: Allowance) -> Caller {
    let key = Arc::new(Key {
        name: "ci".into(),
        credential: Credential::Sha256([0; 32]),
        expires: None,
        models: None,
        allowance: key,
        priority: None,
    });
    Caller {
        team: Arc::new(Team {
            name: "search".into(),
            models: None,
            allowance: team,
            priority: Priority::Normal,
            priority_header: settings::PriorityHeader::Lower,
            keys: vec![Arc::clone(&key)],
        }),
        key,
    }
}

fn requests(per_minute: u64) -> Allowance {
    Allowance {
        requests_per_minute: per_minute,
        ..Allowance::default()
    }
}

fn tokens(per_minute: u64) -> Allowance {
    Allowance {
        tokens_per_minute: per_minute,
        ..Allowance::default()
    }
}

fn usd(pico: i64) -> Money {
    Money::from_pico(pico)
}

fn budget(pico: i64, per: Period) -> Allowance {
    Allowance {
        budgets: vec![Budget {
            limit: usd(pico),
            per,
            warn_at: vec![0.5],
        }],
        ..Allowance::default()
    }
}

fn ask(tokens: u64, cost: i64) -> Ask {
    Ask {
        tokens,
        cost: Some(usd(cost)),
    }
}

fn try_one(
    governor: &Governor,
    caller: Option<&Caller>,
    ask: Ask,
    now: Moment,
) -> Result<Grant, Denied> {
    let mut grant = governor.enter(CLIENT, caller, now)?;
    governor.aim(&mut grant, None);
    governor.admit(&mut grant, &ask, now)?;
    Ok(grant)
}

#[test]
fn what_one_limit_refuses_no_other_has_lost() {
    let governor = governor();
    let caller = caller(requests(3), tokens(100));
    let now = Moment::now();
    let try_one = |tokens| try_one(&governor, Some(&caller), ask(tokens, 0), now);
    let first = try_one(90).unwrap();
    // The key refuses these; the team must not have lost its two others.
    for _ in 0..10 {
        let Err(Denied::Rate { whose, measure, .. }) = try_one(20) else {
            panic!("the key has 10 tokens");
        };
        assert_eq!((whose, measure), (Whose::Key, Measure::Tokens));
    }
    let all = [try_one(5), try_one(5)];
    assert!(all.iter().all(Result::is_ok));
    // And the other way round.
    let Err(Denied::Rate {
        whose,
        measure,
        per_minute,
        wait,
    }) = try_one(0)
    else {
        panic!("the team has nothing left");
    };
    assert_eq!((whose, measure), (Whose::Team, Measure::Requests));
    assert_eq!((per_minute, wait), (3, Duration::from_secs(20)));
    drop(first);
}

#[test]
fn a_request_waits_for_the_slowest_of_its_limits() {
    let governor = governor();
    let caller = caller(requests(60), tokens(60));
    let now = Moment::now();
    let try_at = |tokens, now| try_one(&governor, Some(&caller), ask(tokens, 0), now);
    let mut used = Vec::new();
    for _ in 0..60 {
        used.push(try_at(1, now).unwrap());
    }
    // A request is there in a second, thirty tokens in thirty.
    let Err(Denied::Rate { wait, measure, .. }) = try_at(30, now) else {
        panic!("nothing is left");
    };
    assert_eq!((wait, measure), (Duration::from_secs(30), Measure::Tokens));
    let early = now.plus(wait - Duration::from_nanos(1));
    assert!(try_at(30, early).is_err());
    assert!(try_at(30, now.plus(wait)).is_ok(), "as it was told");
}

#[test]
fn what_can_never_be_let_in_is_told_so() {
    let governor = governor();
    let now = Moment::now();
    let limited = caller(requests(60), tokens(100));
    assert!(try_one(&governor, Some(&limited), ask(100, 0), now).is_ok());
    let denied = try_one(&governor, Some(&limited), ask(101, 0), now).unwrap_err();
    let large = Denied::TooLarge {
        whose: Whose::Key,
        measure: Measure::Tokens,
        max: 100,
        tokens: 101,
    };
    assert_eq!((denied, denied.wait()), (large, None));
    let at_once = Allowance {
        in_flight_tokens: 100,
        ..Allowance::default()
    };
    let limited = caller(at_once, Allowance::default());
    let denied = try_one(&governor, Some(&limited), ask(101, 0), now).unwrap_err();
    assert_eq!(denied.wait(), None);
    let poor = caller(budget(100, Period::Day), Allowance::default());
    let denied = try_one(&governor, Some(&poor), ask(1, 101), now).unwrap_err();
    assert!(matches!(denied, Denied::Budget { .. }));
    assert_eq!(denied.wait(), None, "no day is long enough");
}

#[test]
fn tokens_are_settled_with_what_was_used_and_cached_ones_as_the_setting_says() {
    for (count, left) in [(true, 50), (false, 90)] {
        let governor = Governor::new(
            Settings {
                cached_tokens_count: count,
                ..settings()
            },
            Accounts::private(),
        );
        let caller = caller(tokens(100), Allowance::default());
        let now = Moment::now();
        let remaining = |grant: &Grant| grant.standing(now).tokens.unwrap().remaining;
        let mut grant = try_one(&governor, Some(&caller), ask(80, 0), now).unwrap();
        assert_eq!(remaining(&grant), 20);
        let spent = Spent::Used {
            tokens: 50,
            cached: 40,
            cost: None,
        };
        grant.stake().settle(spent, now);
        assert_eq!(remaining(&grant), left);
        grant.stake().settle(Spent::Nothing, now);
        assert_eq!(remaining(&grant), left, "once");
        drop(grant);
        let grant = try_one(&governor, Some(&caller), ask(5, 0), now).unwrap();
        drop(grant);
        let mut grant = try_one(&governor, Some(&caller), ask(5, 0), now).unwrap();
        assert_eq!(
            remaining(&grant),
            left - 5,
            "what was dropped is given back"
        );
        grant.stake().settle(Spent::AsThought, now);
        assert_eq!(remaining(&grant), left - 5);
    }
}

#[test]
fn places_are_held_until_the_request_is_over() {
    let governor = governor();
    let both = Allowance {
        in_flight: 2,
        in_flight_tokens: 100,
        ..Allowance::default()
    };
    let caller = caller(both, Allowance::default());
    let now = Moment::now();
    let try_one = |tokens| try_one(&governor, Some(&caller), ask(tokens, 0), now);
    let first = try_one(60).unwrap();
    let full = |measure, max| Denied::Full {
        whose: Whose::Team,
        measure,
        max,
    };
    assert_eq!(try_one(41).unwrap_err(), full(Measure::InFlightTokens, 100));
    let second = try_one(40).unwrap();
    assert_eq!(try_one(0).unwrap_err(), full(Measure::InFlight, 2));
    assert_eq!(governor.in_flight(), 2);
    let (seat, stake) = first.parts();
    drop(seat);
    assert!(try_one(60).is_ok(), "its stake may be settled later");
    drop((stake, second));
    assert_eq!(governor.in_flight(), 0);
}

#[test]
fn each_address_has_limits_of_its_own_and_the_host_one_of_all() {
    let governor = Governor::new(
        Settings {
            rate_limit: Some(RateLimit {
                per_second: 1.0,
                burst: 4,
            }),
            per_address: Allowance {
                requests_per_minute: 3,
                in_flight: 2,
                ..Allowance::default()
            },
            in_flight_tokens_max: 100,
            ..settings()
        },
        Accounts::private(),
    );
    let now = Moment::now();
    let try_of = |last, tokens| {
        let client = Some(Ipv4Addr::new(192, 0, 2, last).into());
        let mut grant = governor.enter(client, None, now)?;
        governor.aim(&mut grant, None);
        governor.admit(&mut grant, &ask(tokens, 0), now)?;
        Ok::<_, Denied>(grant)
    };
    let first = try_of(1, 40).unwrap();
    let second = try_of(1, 40).unwrap();
    let full = |whose, measure, max| Denied::Full {
        whose,
        measure,
        max,
    };
    assert_eq!(
        try_of(1, 1).unwrap_err(),
        full(Whose::Address, Measure::InFlight, 2)
    );
    let host = full(Whose::Host, Measure::InFlightTokens, 100);
    assert_eq!(try_of(2, 21).unwrap_err(), host);
    assert!(try_of(2, 20).is_ok());
    drop((first, second));
    let third = try_of(1, 1).unwrap();
    let denied = try_of(1, 1).unwrap_err();
    assert_eq!(denied, Denied::RateLimited(Duration::from_secs(1)));
    drop(third);
}

#[test]
fn a_budget_is_spent_exactly_and_its_end_is_told() {
    let governor = governor();
    let caller = caller(budget(100, Period::Month), budget(70, Period::Total));
    let now = Moment::now();
    let try_one = |cost| try_one(&governor, Some(&caller), ask(1, cost), now);
    let mut first = try_one(60).unwrap();
    let denied = try_one(11).unwrap_err();
    assert_eq!(
        denied,
        Denied::Budget {
            whose: Whose::Key,
            per: Period::Total,
            wait: None
        }
    );
    let warnings = first.stake().settle(
        Spent::Used {
            tokens: 1,
            cached: 0,
            cost: Some(usd(40)),
        },
        now,
    );
    let [warning] = &warnings[..] else {
        panic!("half of the key's budget is gone, of the team's not: {warnings:?}");
    };
    assert_eq!(
        (warning.whose, warning.key.as_deref()),
        (Whose::Key, Some("ci"))
    );
    let second = try_one(30).unwrap();
    let nearly: Vec<_> = second.nearly_spent().map(|(whose, ..)| whose).collect();
    assert_eq!(nearly, [Whose::Key]);
    drop(second);
    let other = Caller {
        key: Arc::new(Key {
            name: "other".into(),
            allowance: Allowance::default(),
            ..(*caller.key).clone()
        }),
        team: Arc::clone(&caller.team),
    };
    let try_other = |cost| super::tests::try_one(&governor, Some(&other), ask(1, cost), now);
    let held = try_other(60).unwrap();
    let Denied::Budget { whose, per, wait } = try_other(1).unwrap_err() else {
        panic!("the team's budget is spent");
    };
    assert_eq!((whose, per), (Whose::Team, Period::Month));
    let wait = wait.unwrap();
    let ends = budget::Span::of(Period::Month, SystemTime::now() + wait).begins();
    assert!(ends.is_some_and(|it| it <= SystemTime::now() + wait + Duration::from_secs(1)));
    drop(held);
    assert!(try_other(60).is_ok());
}

#[test]
fn what_has_no_price_is_refused_under_a_budget_unless_the_setting_allows_it() {
    let unpriced = Ask {
        tokens: 1,
        cost: None,
    };
    let governor = governor();
    let rich = caller(budget(100, Period::Day), Allowance::default());
    let free = caller(requests(10), Allowance::default());
    let now = Moment::now();
    let denied = try_one(&governor, Some(&rich), unpriced, now).unwrap_err();
    assert_eq!(denied, Denied::Unpriced);
    assert!(try_one(&governor, Some(&free), unpriced, now).is_ok());
    governor.apply(Settings {
        unpriced: Unpriced::Allow,
        ..settings()
    });
    assert!(try_one(&governor, Some(&rich), unpriced, now).is_ok());
}

#[test]
fn what_a_host_had_drawn_before_it_was_silent_for_too_long_is_gone() {
    const LEASE: Duration = Duration::from_secs(3);
    let folder = folder::Folder::new("accounts-silent");
    let share = |accounts: &Accounts| {
        let sharing = shared::Sharing::open(&folder.0).unwrap();
        Governor::new(settings(), accounts.clone()).sharing(sharing, LEASE)
    };
    let granted = |accounts: &Accounts, name| accounts.account(name, Keep::Weeks).granted();
    let first = Accounts::open(&folder.0).unwrap();
    for name in ["drawn", "owed", "alone"] {
        let account = first.account(name, Keep::Weeks);
        account.add(5);
        account.grant(if name == "owed" { 3 } else { 12 });
        account
            .alone()
            .store((name == "alone").into(), Ordering::Relaxed);
    }
    first.account("own", Keep::Weeks).add(5);
    // Whoever comes beside it changes nothing.
    let beside = Accounts::open(&folder.0).unwrap();
    share(&beside);
    assert_eq!(granted(&first, "drawn"), 12);
    drop((first, beside));
    // Nobody has ever heard it.
    let again = Accounts::open(&folder.0).unwrap();
    share(&again);
    assert_eq!(granted(&again, "drawn"), 5);
    assert_eq!(granted(&again, "owed"), 3, "a debt stays one");
    assert_eq!(granted(&again, "alone"), 12, "nobody was asked for it");
    assert_eq!(granted(&again, "own"), i64::MAX);
}

#[test]
fn no_report_makes_a_host_owe_more_of_a_shared_rate_than_comes_in_a_day() {
    let folder = folder::Folder::new("accounts-absurd");
    let accounts = Accounts::open(&folder.0).unwrap();
    let sharing = shared::Sharing::open(&folder.0).unwrap();
    let governor = Governor::new(settings(), accounts.clone());
    let governor = governor.sharing(sharing, Duration::from_secs(3));
    let caller = caller(tokens(100), Allowance::default());
    let name = scope::sum_name(Id::of(&caller.team.name, None), Measure::Tokens);
    let drawn = accounts.account(&scope::drawn_name(&name), Keep::Weeks);
    drawn.grant(100);
    let now = Moment::now();
    let mut grant = try_one(&governor, Some(&caller), ask(10, 0), now).unwrap();
    let absurd = Spent::Used {
        tokens: u64::MAX,
        cached: 0,
        cost: None,
    };
    grant.stake().settle(absurd, now);
    assert_eq!(drawn.total(), 10 + 100 * 60 * 24);
}

#[test]
fn the_books_know_better_what_was_spent_and_what_is_settled_meanwhile_counts_once() {
    let folder = folder::Folder::new("accounts-books");
    let accounts = Accounts::open(&folder.0).unwrap();
    let found = accounts.found().expect("it is alone");
    let governor = Governor::new(settings(), accounts.clone());
    let caller = caller(budget(100, Period::Day), Allowance::default());
    let now = Moment::now();
    let mut open = try_one(&governor, Some(&caller), ask(1, 10), now).unwrap();
    let mut over = try_one(&governor, Some(&caller), ask(1, 10), now).unwrap();
    over.stake().settle(Spent::AsThought, now);
    let team = &caller.team.name;
    let tell = |spent| governor.restore_spent(&found, team, None, Period::Day, usd(spent));
    assert!(tell(70), "all of it is missing");
    let stands = || governor.budget(team, None, &caller.team.allowance.budgets[0]);
    assert_eq!((stands().spent, stands().reserved), (usd(80), usd(10)));
    open.stake().settle(Spent::AsThought, now);
    assert_eq!(stands().spent, usd(90));
    assert!(try_one(&governor, Some(&caller), ask(1, 11), now).is_err());
    assert!(try_one(&governor, Some(&caller), ask(1, 10), now).is_ok());
    // Who comes beside it has what it has, and is told nothing.
    assert!(Accounts::open(&folder.0).unwrap().found().is_none());
    drop((governor, accounts));
    let accounts = Accounts::open(&folder.0).unwrap();
    let found = accounts.found().expect("it is alone again");
    let governor = Governor::new(settings(), accounts);
    assert!(!governor.restore_spent(&found, team, None, Period::Day, usd(90)));
    assert_eq!(
        governor
            .budget(team, None, &caller.team.allowance.budgets[0])
            .spent,
        usd(90)
    );
}

#[test]
fn a_budget_without_room_for_its_account_refuses_rather_than_forget() {
    let accounts = Accounts::private();
    let keep = accounts::Keep::Until(SystemTime::now() + Duration::from_secs(999));
    let others: Vec<_> = (0..2000)
        .map(|number| accounts.account(&number.to_string(), keep))
        .collect();
    let governor = Governor::new(settings(), accounts);
    let caller = caller(budget(100, Period::Day), Allowance::default());
    let now = Moment::now();
    let denied = try_one(&governor, Some(&caller), ask(1, 1), now).unwrap_err();
    let whose = Whose::Team;
    assert_eq!(denied, Denied::NoAccount { whose });
    assert_eq!(denied.wait(), Some(Duration::from_secs(1)));
    assert_eq!(governor.in_flight(), 0);
    drop(others);
    let free = Governor::new(settings(), Accounts::private());
    assert!(try_one(&free, Some(&caller), ask(1, 1), now).is_ok());
}

#[test]
fn an_answer_tells_of_the_limit_that_is_nearest() {
    let governor = governor();
    let caller = caller(requests(100), requests(3));
    let now = Moment::now();
    let grant = try_one(&governor, Some(&caller), ask(1, 0), now).unwrap();
    let standing = grant.standing(now);
    assert_eq!(
        standing,
        Standing {
            requests: Some(Tier {
                limit: 3,
                remaining: 2,
                reset: Duration::from_secs(20)
            }),
            tokens: None
        }
    );
}

// === waiting ===

async fn waits(governor: &Governor, caller: &Caller, tokens: u64) -> Result<Grant, Denied> {
    let mut grant = governor.enter(CLIENT, Some(caller), Moment::now())?;
    governor.aim(&mut grant, None);
    let whom = Whom {
        tenant: Tenant::Team(Arc::clone(&caller.team.name)),
        priority: caller.team.priority,
    };
    governor
        .admit_in_turn(&mut grant, &ask(tokens, 0), whom)
        .await?;
    Ok(grant)
}

#[tokio::test(start_paused = true)]
async fn teams_that_wait_for_the_same_limit_take_turns_by_tokens_and_urgency() {
    let governor = Arc::new(governor());
    let one = Allowance {
        in_flight: 1,
        ..Allowance::default()
    };
    let route: Arc<str> = "m".into();
    let enter = |team: &str, tokens, priority| {
        let (governor, one, route) = (Arc::clone(&governor), one.clone(), Arc::clone(&route));
        let tenant = Tenant::Team(team.into());
        async move {
            let mut grant = governor.enter(CLIENT, None, Moment::now()).unwrap();
            governor.aim(&mut grant, Some((&route, &one)));
            let whom = Whom { tenant, priority };
            let ask = ask(tokens, 0);
            let asked = governor.admit_in_turn(&mut grant, &ask, whom);
            asked.await.map(|()| grant)
        }
    };
    let first = enter("greedy", 1, Priority::Normal).await.unwrap();
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut all = Vec::new();
    // The first of them is at the head of the line when the others come.
    let greedy = [("greedy", 50_000, Priority::Normal); 4];
    let modest = [("modest", 1_000, Priority::Normal); 3];
    let urgent = [("urgent", 1_000, Priority::High); 3];
    for it in greedy.into_iter().chain(modest).chain(urgent) {
        let (order, waits) = (Arc::clone(&order), enter(it.0, it.1, it.2));
        all.push(tokio::spawn(async move {
            let grant = waits.await.unwrap();
            order.lock().push(it.0);
            drop(grant);
        }));
        while governor.waiting() < all.len() {
            tokio::task::yield_now().await;
        }
    }
    drop(first);
    for it in all {
        it.await.unwrap();
    }
    let order = order.lock().join(" ");
    assert_eq!(
        order,
        "greedy urgent urgent urgent modest modest modest greedy greedy greedy"
    );
    assert_eq!((governor.waiting(), governor.in_flight()), (0, 0));
}

fn one_at_once() -> Caller {
    let one = Allowance {
        in_flight: 1,
        ..Allowance::default()
    };
    caller(one, Allowance::default())
}

#[tokio::test(start_paused = true)]
async fn who_came_first_is_let_in_first_and_who_leaves_gives_up_its_place() {
    let governor = Arc::new(governor());
    let caller = one_at_once();
    let first = waits(&governor, &caller, 1).await.unwrap();
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut all = Vec::new();
    for number in 0..4 {
        let waiter = tokio::spawn({
            let (governor, caller) = (Arc::clone(&governor), caller.clone());
            let order = Arc::clone(&order);
            async move {
                let grant = waits(&governor, &caller, 1).await.unwrap();
                order.lock().push(number);
                drop(grant);
            }
        });
        while governor.waiting() <= number {
            tokio::task::yield_now().await;
        }
        all.push(waiter);
    }
    // The second leaves.
    all.remove(1).abort();
    while governor.waiting() > 3 {
        tokio::task::yield_now().await;
    }
    drop(first);
    for waiter in all {
        waiter.await.unwrap();
    }
    assert_eq!(*order.lock(), [0, 2, 3]);
    assert_eq!((governor.waiting(), governor.in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn as_many_wait_as_may_and_no_longer_than_they_may() {
    let governor = Arc::new(Governor::new(
        Settings {
            queue: settings::Queue {
                size: 1,
                timeout: Duration::from_secs(5),
            },
            ..settings()
        },
        Accounts::private(),
    ));
    let caller = one_at_once();
    let first = waits(&governor, &caller, 1).await.unwrap();
    let began = tokio::time::Instant::now();
    let waiter = tokio::spawn({
        let (governor, caller) = (Arc::clone(&governor), caller.clone());
        async move { waits(&governor, &caller, 1).await.map(drop) }
    });
    while governor.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let denied = waits(&governor, &caller, 1).await.unwrap_err();
    assert!(matches!(denied, Denied::QueueFull { .. }));
    let denied = waiter.await.unwrap().unwrap_err();
    assert!(matches!(denied, Denied::Full { .. }), "{denied:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    drop(first);
    assert_eq!(governor.waiting(), 0);
    assert!(waits(&governor, &caller, 1).await.is_ok());
}

#[tokio::test]
async fn what_cant_be_let_in_in_time_doesnt_wait() {
    let governor = governor();
    let caller = caller(tokens(60), Allowance::default());
    let mut first = waits(&governor, &caller, 60).await.unwrap();
    let late = waits(&governor, &caller, 20).await.unwrap_err();
    let Denied::Rate { wait, .. } = late else {
        panic!("20 tokens take 20 seconds, and 10 may be waited");
    };
    assert!(
        wait > Duration::from_secs(19) && wait <= Duration::from_secs(20),
        "{wait:?}"
    );
    first.stake().settle(Spent::AsThought, Moment::now());
}

// === looking ===

#[test]
fn whoever_looks_sees_how_limits_stand_and_takes_nothing() {
    use super::look::{Fill, Of, Taken};
    use super::shared::Fleet;
    let team = Allowance {
        requests_per_minute: 10,
        in_flight: 5,
        in_flight_tokens: 1000,
        budgets: vec![Budget {
            limit: Money::from_pico(100),
            per: Period::Month,
            warn_at: Vec::new(),
        }],
        ..Allowance::default()
    };
    let governor = governor();
    let now = SystemTime::now();
    let look = || governor.look(Of::Team("search"), &team, &Fleet::default(), now);
    let fill = |remaining, seconds| {
        Some(Fill {
            per_minute: 10,
            remaining,
            full_in: Duration::from_secs(seconds),
            part: None,
        })
    };
    let before = look();
    assert_eq!(before.requests, fill(10, 0));
    assert_eq!(before.tokens, None);
    assert_eq!(
        before.in_flight,
        Some(Taken {
            max: 5,
            taken: 0,
            part: None
        })
    );
    assert_eq!(before.budgets[0].used, Money::ZERO);
    assert!(before.budgets[0].ends.is_some_and(|ends| ends > now));
    assert_eq!(look(), before, "looking changes nothing");

    let caller = caller(team.clone(), Allowance::default());
    let mut grant = governor.enter(CLIENT, Some(&caller), now.into()).unwrap();
    let ask = Ask {
        tokens: 40,
        cost: Some(Money::from_pico(30)),
    };
    governor.admit(&mut grant, &ask, now.into()).unwrap();
    let during = look();
    assert_eq!(during.requests, fill(9, 6));
    assert_eq!(
        during.in_flight,
        Some(Taken {
            max: 5,
            taken: 1,
            part: None
        })
    );
    let tokens = Taken {
        max: 1000,
        taken: 40,
        part: None,
    };
    assert_eq!(during.in_flight_tokens, Some(tokens));
    assert_eq!(during.budgets[0].used, Money::from_pico(30));
    let host = governor.look_at_host();
    assert_eq!(
        host.in_flight,
        Some(Taken {
            max: 0,
            taken: 1,
            part: None
        })
    );
    drop(grant);
    assert_eq!(look().in_flight, before.in_flight);
}
