//! One name's states, and the bound of their number. Time and chance are given.

use std::net::IpAddr;

use super::*;
use crate::entry::Family;

const SECOND: Duration = Duration::from_secs(1);

fn cache(names_max: usize) -> (Cache, Instant) {
    let config = Config {
        min_ttl: 5 * SECOND,
        max_ttl: 100 * SECOND,
        negative_ttl: 4 * SECOND,
        stale: 1000 * SECOND,
        ..Config::default()
    };
    let now = Instant::now();
    (Cache::new(&config, names_max, now), now)
}

fn found(last: u8, ttl: u32) -> Outcome {
    Outcome::Found {
        addresses: Arc::from([IpAddr::from([192, 0, 2, last])]),
        ttl: ttl * SECOND,
        source: Source::Dns,
        lost: None,
    }
}

fn gone(ttl: u64) -> Outcome {
    Outcome::NotFound {
        ttl: Some(Duration::from_secs(ttl)),
        sure: true,
    }
}

fn failed() -> Outcome {
    Outcome::Unavailable("refused".into())
}

impl Cache {
    /// Keeps it with the mean chance.
    fn put(&self, name: &str, outcome: Outcome, now: Instant) {
        self.keep(name, outcome, now, 0.5);
    }
}

/// `u`se, `U`se and ask; `s` and `S` for a stale answer; `a`sk, `e` ask with echo, `n`ot found,
/// `x` unavailable.
fn letter(cache: &Cache, name: &str, now: Instant) -> char {
    match cache.probe(name, now) {
        Verdict::Use { stale, due, .. } => match (stale, due) {
            (false, false) => 'u',
            (false, true) => 'U',
            (true, false) => 's',
            (true, true) => 'S',
        },
        Verdict::Unhappy(LookupError::NotFound { .. }) => 'n',
        Verdict::Unhappy(LookupError::Unavailable { .. }) => 'x',
        Verdict::Ask { echo: Some(_) } => 'e',
        Verdict::Ask { echo: None } => 'a',
    }
}

#[test]
fn an_answer_is_fresh_for_its_ttl_asked_again_at_four_fifths_and_serves_on_as_stale() {
    let (cache, start) = cache(8);
    cache.put("a", found(1, 50), start);
    let at = |seconds: u32| letter(&cache, "a", start + seconds * SECOND);
    assert_eq!(at(0), 'u');
    assert_eq!(at(39), 'u');
    assert_eq!(at(40), 'U', "due at 80 %");
    assert_eq!(at(49), 'U');
    assert_eq!(at(50), 'S', "nobody waits for what is known");
    assert_eq!(at(1049), 'S');
    assert_eq!(at(1050), 'a', "past stale");
}

#[test]
fn renewals_are_spread() {
    let (cache, start) = cache(8);
    for (name, chance, at) in [("early", 0.0, 75), ("late", 1.0, 85)] {
        let due = cache.keep(name, found(1, 100), start, chance);
        let due = due.expect("a renewal") - start;
        assert!(due.abs_diff(at * SECOND) < SECOND / 100, "{name}: {due:?}");
    }
}

#[test]
fn ttls_are_clamped_at_both_ends() {
    let (cache, start) = cache(8);
    cache.put("short", found(1, 0), start);
    cache.put("long", found(1, 86400), start);
    assert_eq!(letter(&cache, "short", start + 3 * SECOND), 'u');
    assert_eq!(letter(&cache, "short", start + 5 * SECOND), 'S');
    assert_eq!(letter(&cache, "long", start + 99 * SECOND), 'U');
    assert_eq!(letter(&cache, "long", start + 100 * SECOND), 'S');
}

#[test]
fn even_a_ttl_of_zero_that_is_let_through_does_not_ask_without_a_pause() {
    let config = Config {
        min_ttl: Duration::ZERO,
        ..Config::default()
    };
    let start = Instant::now();
    let cache = Cache::new(&config, 8, start);
    cache.put("a", found(1, 0), start);
    assert_eq!(letter(&cache, "a", start), 's');
    assert_eq!(letter(&cache, "a", start + SECOND / 2), 'S');
}

#[test]
fn a_missing_name_is_remembered_for_as_long_as_its_zone_says_within_bounds() {
    let (cache, start) = cache(8);
    for (name, ttl, seconds) in [
        ("plain", None, 4),
        ("less", Some(2), 2),
        ("more", Some(3600), 4),
        ("none", Some(0), 1),
    ] {
        let ttl = ttl.map(Duration::from_secs);
        cache.put(name, Outcome::NotFound { ttl, sure: true }, start);
        let end = start + seconds * SECOND;
        assert_eq!(letter(&cache, name, end - SECOND / 100), 'n', "{name}");
        assert_eq!(letter(&cache, name, end), 'e', "{name}");
        assert_eq!(letter(&cache, name, end + 60 * SECOND), 'a', "{name}");
    }
}

#[test]
fn a_failing_resolver_leaves_the_old_answer_in_use() {
    let (cache, start) = cache(8);
    cache.put("a", found(1, 50), start);
    cache.put("a", failed(), start + 50 * SECOND);
    let at = |seconds: u32| letter(&cache, "a", start + seconds * SECOND);
    assert_eq!(at(50), 's', "no query within the pause");
    assert_eq!(at(51), 'S', "after the pause");
    assert_eq!(at(1049), 'S');
    assert_eq!(at(1050), 'a');
    cache.put("a", failed(), start + 1050 * SECOND);
    assert_eq!(at(1050), 'x');
}

#[test]
fn the_pause_after_failures_doubles_up_to_five_seconds() {
    let (cache, mut now) = cache(8);
    for pause in [1, 2, 4, 5, 5] {
        cache.put("a", failed(), now);
        assert_eq!(letter(&cache, "a", now + pause * SECOND - SECOND / 10), 'x');
        now += pause * SECOND;
        assert_eq!(letter(&cache, "a", now), 'e');
    }
}

#[test]
fn a_good_answer_ends_a_series_of_failures() {
    let (cache, start) = cache(8);
    for _ in 0..3 {
        cache.put("a", failed(), start);
    }
    cache.put("a", found(1, 50), start);
    cache.put("a", failed(), start + 50 * SECOND);
    assert_eq!(
        letter(&cache, "a", start + 51 * SECOND),
        'S',
        "a pause of 1 s"
    );
}

#[test]
fn no_such_name_ends_an_answer_only_when_it_is_said_again_ten_seconds_later() {
    let (cache, start) = cache(8);
    cache.put("a", found(1, 50), start);
    let at = |milliseconds| letter(&cache, "a", start + Duration::from_millis(milliseconds));
    cache.put("a", gone(4), start);
    assert_eq!(at(0), 's', "the old set serves, but not as fresh");
    assert_eq!(at(9_999), 's');
    assert_eq!(at(10_000), 'S', "the second question is due");
    cache.put("a", gone(4), start + Duration::from_millis(9_999));
    assert_eq!(at(9_999), 's', "too early to be a confirmation");
    cache.put("a", gone(4), start + 10 * SECOND);
    assert_eq!(at(10_000), 'n');
}

#[test]
fn no_such_name_of_a_server_that_may_know_less_counts_only_for_names_without_addresses() {
    let (cache, start) = cache(8);
    let unsure = || Outcome::NotFound {
        ttl: None,
        sure: false,
    };
    cache.put("a", found(1, 50), start);
    for seconds in [50, 60, 70, 1049] {
        let now = start + seconds * SECOND;
        cache.put("a", unsure(), now);
        assert_eq!(letter(&cache, "a", now), 's', "{seconds}");
    }
    let now = start + 1050 * SECOND;
    cache.put("a", unsure(), now);
    assert_eq!(letter(&cache, "a", now), 'n', "past stale");
    cache.put("b", unsure(), now);
    assert_eq!(letter(&cache, "b", now), 'n');
}

#[test]
fn a_failure_between_two_no_such_names_neither_confirms_nor_clears() {
    let (cache, start) = cache(8);
    cache.put("a", found(1, 50), start);
    cache.put("a", gone(4), start);
    cache.put("a", failed(), start + 10 * SECOND);
    assert_eq!(letter(&cache, "a", start + 10 * SECOND), 's');
    cache.put("a", gone(4), start + 11 * SECOND);
    assert_eq!(letter(&cache, "a", start + 11 * SECOND), 'n');
}

#[test]
fn an_answer_between_two_no_such_names_makes_the_second_the_first() {
    let (cache, start) = cache(8);
    cache.put("a", found(1, 50), start);
    cache.put("a", gone(4), start);
    cache.put("a", found(1, 50), start + 5 * SECOND);
    cache.put("a", gone(4), start + 20 * SECOND);
    assert_eq!(letter(&cache, "a", start + 20 * SECOND), 's');
}

#[test]
fn what_is_flushed_is_asked_for_and_serves_on_only_where_nobody_answers() {
    let (cache, start) = cache(8);
    for (name, outcome, expected) in [
        ("found", found(2, 50), 'u'),
        ("failed", failed(), 's'),
        ("gone", gone(4), 'n'),
    ] {
        cache.put(name, found(1, 50), start);
        assert!(cache.flush(name, start) && !cache.flush(name, start));
        assert_eq!(letter(&cache, name, start), 'a', "{name}");
        assert!(cache.list(start).is_empty() && cache.known(start).is_empty());
        cache.postpone(name, start + SECOND);
        assert_eq!(letter(&cache, name, start), 'a', "{name}: join the query");
        cache.put(name, outcome, start);
        assert_eq!(letter(&cache, name, start), expected, "{name}");
        assert!(cache.forget(name));
    }
    cache.put("a", gone(4), start);
    assert!(cache.flush("a", start));
    assert_eq!(letter(&cache, "a", start), 'a', "nothing is worth keeping");
}

/// What is held at that time: the last octets of IPv4 addresses, and 6 for the IPv6 one.
fn octets(cache: &Cache, name: &str, now: Instant) -> Vec<u8> {
    let held = match cache.probe(name, now) {
        Verdict::Use { addresses, .. } => addresses,
        other => panic!("{other:?}"),
    };
    let octet = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => 6,
    };
    held.iter().map(octet).collect()
}

/// The IPv4 addresses of these last octets and the IPv6 one, or without those that were `lost`.
fn dual(fours: &[u8], lost: Option<Family>) -> Outcome {
    let four = |last: &u8| IpAddr::from([192, 0, 2, *last]);
    let six = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 6]);
    Outcome::Found {
        addresses: (fours.iter().map(four))
            .filter(|_| lost != Some(Family::V4))
            .chain(Some(six).filter(|_| lost != Some(Family::V6)))
            .collect(),
        ttl: 5 * SECOND,
        source: Source::Dns,
        lost,
    }
}

#[test]
fn a_family_that_cannot_be_had_is_kept_from_before_until_that_is_past_stale() {
    let (cache, start) = cache(8);
    let at = |seconds: u32| start + seconds * SECOND;
    cache.put("a", dual(&[1, 2], None), start);
    cache.put("b", dual(&[1], None), start);
    for seconds in [5, 500, 1004] {
        cache.put("a", dual(&[], Some(Family::V4)), at(seconds));
        cache.put("b", dual(&[3], Some(Family::V6)), at(seconds));
        assert_eq!(octets(&cache, "a", at(seconds)), [1, 2, 6], "{seconds}");
        assert_eq!(octets(&cache, "b", at(seconds)), [3, 6], "{seconds}");
        assert_eq!(letter(&cache, "a", at(seconds)), 'u', "half of it is fresh");
        assert!(!cache.lacks_ipv4("a", at(seconds)));
    }
    cache.put("b", failed(), at(1005));
    assert_eq!(octets(&cache, "b", at(1005)), [3], "the rest stands in");
    cache.put("a", dual(&[], Some(Family::V4)), at(1005));
    assert_eq!(octets(&cache, "a", at(1005)), [6], "past stale");
    assert!(cache.lacks_ipv4("a", at(1005)) && !cache.lacks_ipv4("b", at(1005)));
    cache.put("a", dual(&[4], None), at(1010));
    assert_eq!(octets(&cache, "a", at(1010)), [4, 6]);
    assert!(!cache.lacks_ipv4("a", at(1010)));
}

#[test]
fn one_family_after_the_other_may_be_lost() {
    let (cache, start) = cache(8);
    let at = |seconds: u32| start + seconds * SECOND;
    cache.put("a", dual(&[1], None), start);
    cache.put("a", dual(&[], Some(Family::V4)), at(600));
    cache.put("a", dual(&[2], Some(Family::V6)), at(1200));
    assert_eq!(
        octets(&cache, "a", at(1200)),
        [2, 6],
        "it was said at 600 s"
    );
}

#[test]
fn that_a_name_has_no_address_of_a_family_is_known_as_well() {
    let (cache, start) = cache(8);
    let only_six = |lost| match dual(&[], Some(Family::V4)) {
        Outcome::Found {
            addresses,
            ttl,
            source,
            ..
        } => Outcome::Found {
            addresses,
            ttl,
            source,
            lost,
        },
        other => panic!("{other:?}"),
    };
    cache.put("known", only_six(None), start);
    for name in ["known", "new"] {
        cache.put(name, only_six(Some(Family::V4)), start + SECOND);
    }
    assert!(!cache.lacks_ipv4("known", start + SECOND));
    assert!(cache.lacks_ipv4("new", start + SECOND));
}

#[test]
fn that_a_family_is_not_handed_over_does_not_say_that_there_is_none() {
    let (old, start) = cache(8);
    old.put("half", dual(&[], Some(Family::V4)), start);
    old.put("whole", dual(&[1], None), start);
    let (new, _) = cache(8);
    for known in old.known(start) {
        new.learn(&known, start, 0.5);
    }
    for name in ["half", "whole"] {
        new.put(name, dual(&[], Some(Family::V4)), start + SECOND);
    }
    assert!(new.lacks_ipv4("half", start + SECOND));
    assert!(!new.lacks_ipv4("whole", start + SECOND));
    assert_eq!(octets(&new, "whole", start + SECOND), [1, 6]);
}

#[test]
fn what_the_hosts_file_lost_is_not_kept() {
    let (cache, start) = cache(8);
    let outcome = Outcome::Found {
        addresses: Arc::from([IpAddr::from([10, 0, 0, 1])]),
        ttl: 5 * SECOND,
        source: Source::Hosts,
        lost: None,
    };
    cache.put("a", outcome, start);
    cache.put("a", gone(4), start + 4 * SECOND);
    assert_eq!(letter(&cache, "a", start + 4 * SECOND), 'n');
}

#[test]
fn an_unconfirmed_no_such_name_is_handed_over() {
    let (old, start) = cache(8);
    old.put("a", found(1, 50), start);
    old.put("a", gone(4), start);
    let handed = old.known(start + 6 * SECOND);
    assert_eq!(handed[0].missing_for, Some(6 * SECOND));
    assert_eq!(handed[0].fresh, Duration::ZERO);
    // The clock of the successor has been going for long enough to tell.
    let later = Instant::now() + 3600 * SECOND;
    let (new, _) = cache(8);
    new.learn(&handed[0], later, 0.5);
    assert_eq!(letter(&new, "a", later), 'S');
    new.put("a", gone(4), later + 4 * SECOND);
    assert_eq!(letter(&new, "a", later + 4 * SECOND), 'n');
}

#[test]
fn what_is_handed_over_is_kept_within_bounds_and_never_displaces() {
    let (cache, start) = cache(2);
    let known = |name: &str, fresh: u32, stale: u32| Known {
        name: name.into(),
        addresses: vec![IpAddr::from([192, 0, 2, 9])],
        fresh: fresh * SECOND,
        stale: stale * SECOND,
        missing_for: None,
    };
    cache.put("a", found(1, 50), start);
    assert_eq!(cache.learn(&known("a", 90, 90), start, 0.5), None);
    assert!(cache.learn(&known("b", 9000, 90_000), start, 0.5).is_some());
    assert_eq!(letter(&cache, "b", start + 99 * SECOND), 'U');
    assert_eq!(letter(&cache, "b", start + 1099 * SECOND), 'S');
    assert_eq!(letter(&cache, "b", start + 1100 * SECOND), 'a');
    assert_eq!(cache.learn(&known("c", 90, 90), start, 0.5), None, "full");
    let nothing = Known {
        addresses: Vec::new(),
        ..known("d", 1, 1)
    };
    assert_eq!(cache.learn(&nothing, start, 0.5), None);
}

#[test]
fn the_number_of_names_is_bounded_and_the_one_used_longest_ago_leaves() {
    let (cache, start) = cache(2);
    cache.put("a", found(1, 50), start);
    cache.put("b", found(2, 50), start + SECOND);
    assert_eq!(letter(&cache, "a", start + 2 * SECOND), 'u');
    cache.put("c", found(3, 50), start + 3 * SECOND);
    let now = start + 3 * SECOND;
    assert_eq!(letter(&cache, "b", now), 'a', "the oldest");
    assert_eq!(letter(&cache, "a", now), 'u');
    assert_eq!(letter(&cache, "c", now), 'u');
    assert_eq!(cache.list(now).len(), 2);
}

#[test]
fn names_that_are_past_use_leave_first() {
    let (cache, start) = cache(2);
    cache.put("a", found(1, 50), start);
    cache.put("b", gone(4), start + 9 * SECOND);
    let now = start + 100 * SECOND;
    cache.put("c", found(3, 50), now);
    assert_eq!(letter(&cache, "a", now), 'S');
    assert_eq!(letter(&cache, "b", now), 'a');
}

#[test]
fn ten_times_too_many_names_do_not_grow_it() {
    let names_max = 1024;
    let (cache, start) = cache(names_max);
    for number in 0..10 * names_max {
        cache.put(&format!("n{number}.example"), found(1, 50), start);
    }
    let kept = cache.list(start).len();
    assert!(kept <= names_max + cache.shards.len(), "{kept}");
    assert!(kept > names_max / 2, "{kept}");
    assert_eq!(cache.names.load(Ordering::Relaxed), kept);
    assert_eq!(cache.flush_all(start), kept);
    assert!(cache.list(start).is_empty());
}

#[test]
fn an_answer_that_says_the_same_keeps_its_allocation() {
    let (cache, start) = cache(8);
    let addresses = |last| {
        cache.put("a", found(last, 50), start);
        match cache.probe("a", start) {
            Verdict::Use { addresses, .. } => addresses,
            other => panic!("{other:?}"),
        }
    };
    let (one, same, other) = (addresses(1), addresses(1), addresses(2));
    assert!(Arc::ptr_eq(&one, &same));
    assert_eq!(other[0], IpAddr::from([192, 0, 2, 2]));
}

#[test]
fn a_name_is_due_only_while_it_is_in_use() {
    let (cache, start) = cache(8);
    cache.put("a", found(1, 50), start);
    let due = |seconds: u32| cache.is_due("a", 60 * SECOND, start + seconds * SECOND);
    assert!(!due(39), "not yet");
    assert!(due(40) && due(60));
    assert!(!due(61), "nobody wants it any more");
    cache.probe("a", start + 61 * SECOND);
    assert!(due(61));
    assert!(!cache.is_due("b", 60 * SECOND, start));
}

#[test]
fn a_change_of_servers_makes_answers_due_and_forgets_the_unhappy() {
    let (cache, start) = cache(8);
    cache.put("a", found(1, 50), start);
    cache.put("b", gone(4), start);
    cache.put("c", failed(), start);
    let mut due = Vec::new();
    cache.doubt_all(start, |name| due.push(name.to_owned()));
    assert_eq!(due, ["a"]);
    assert_eq!(letter(&cache, "a", start), 'U');
    assert_eq!(letter(&cache, "b", start), 'a');
    assert_eq!(letter(&cache, "c", start), 'a');
}

#[test]
fn while_a_query_is_under_way_no_other_is_due() {
    let (cache, start) = cache(8);
    cache.put("a", found(1, 50), start);
    let at = |seconds: u32| letter(&cache, "a", start + seconds * SECOND);
    cache.postpone("a", start + 52 * SECOND);
    assert_eq!((at(45), at(51)), ('u', 's'));
    assert_eq!(at(52), 'S', "it was lost");
    cache.postpone("b", start);
    assert_eq!(letter(&cache, "b", start), 'a', "nothing came of nothing");
}

#[test]
fn the_listing_says_what_is_known_of_each_name() {
    let (cache, start) = cache(8);
    cache.put("b", found(1, 50), start);
    cache.put("b", failed(), start + 10 * SECOND);
    cache.put("a", gone(4), start + 10 * SECOND);
    let list = cache.list(start + 10 * SECOND);
    let names: Vec<&str> = list.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(list[0].is_missing && list[0].addresses.is_empty());
    let b = &list[1];
    assert_eq!(b.addresses, [IpAddr::from([192, 0, 2, 1])]);
    assert_eq!((b.source, b.failures), (Source::Dns, 1));
    assert_eq!((b.fresh, b.stale), (40 * SECOND, 1040 * SECOND));
    assert_eq!((b.age, b.idle), (10 * SECOND, 10 * SECOND));
    assert_eq!(b.last_error.as_deref(), Some("refused"));
    assert!(cache.forget("a") && !cache.forget("a"));
}
