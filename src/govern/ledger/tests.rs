use super::entry::{Instance, tests::entry};
use super::report::{By, Label, Row, Sums, report, spent};
use super::segment::Name;
use super::settings::Store as Kind;
use super::store::Store;
use super::*;
use crate::govern::folder::Folder;
use std::time::{Duration, SystemTime};

impl Folder {
    fn settings(&self) -> Settings {
        Settings {
            state_dir: self.0.clone(),
            store: Kind::Sqlite,
            // Entries of tests have a fixed time.
            retain: Duration::from_secs(36_500 * 86_400),
            fsync: None,
            segment_bytes_max: 1 << 20,
            segment_age_max: Duration::from_secs(3600),
        }
    }

    fn segments(&self) -> usize {
        Name::all(&self.settings().journal()).unwrap().len()
    }
}

fn provisional(number: u64) -> Entry<'static> {
    Entry {
        revision: 0,
        output: 1000,
        source: Some("estimated".into()),
        ..entry(number)
    }
}

fn total(settings: &Settings) -> Sums {
    let rows = report(settings, &Query::all(Vec::new())).unwrap();
    assert_eq!(rows.len(), 1);
    rows[0].sums
}

#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_was_appended_is_reported_before_it_is_carried_and_after() {
    let folder = Folder::new("ledger-both");
    let settings = folder.settings();
    assert_eq!(total(&settings), Sums::default());
    let books = Books::default();
    let ledger = Ledger::open(&settings, books.clone()).unwrap();
    for number in 1..=10 {
        ledger.append(&entry(number));
    }
    let sums = total(&settings);
    assert_eq!((sums.requests, sums.input, sums.output), (10, 70, 110));
    assert_eq!(sums.cost_pico, 12_345_670);
    ledger.lead(true);
    eventually("ten lines are carried", || books.carried.get() == 10);
    assert_eq!(total(&settings), sums);
    // Its segment is carried whole, and goes with the next carrier.
    drop(ledger);
    let next = Ledger::open(&settings, Books::default()).unwrap();
    next.lead(true);
    eventually("only the new segment is left", || folder.segments() == 1);
    assert_eq!(total(&settings), sums);
}

#[test]
fn the_last_word_on_a_request_counts_whichever_is_carried() {
    let folder = Folder::new("ledger-provisional");
    let settings = folder.settings();
    let books = Books::default();
    let ledger = Ledger::open(&settings, books.clone()).unwrap();
    ledger.append(&provisional(1));
    assert_eq!(total(&settings).output, 1000);
    ledger.lead(true);
    eventually("the provisional line is carried", || {
        books.carried.get() == 1
    });
    assert_eq!(total(&settings).output, 1000);
    // Another process of the host holds the store's lock now: what follows stays in the journal.
    ledger.lead(false);
    ledger.append(&entry(1));
    let sums = total(&settings);
    assert_eq!((sums.requests, sums.output), (1, 11));
    ledger.lead(true);
    eventually("the final line is carried", || books.carried.get() == 2);
    assert_eq!(total(&settings), sums);
}

#[test]
fn of_two_processes_one_carries_what_both_wrote() {
    let folder = Folder::new("ledger-two");
    let settings = folder.settings();
    let (first, second) = (Books::default(), Books::default());
    let one = Ledger::open(&settings, first.clone()).unwrap();
    let other = Ledger::open(&settings, second.clone()).unwrap();
    one.append(&entry(1));
    other.append(&entry(1));
    one.lead(true);
    eventually("one carries both", || first.carried.get() == 2);
    other.lead(true);
    other.append(&entry(2));
    eventually("it goes on", || first.carried.get() == 3);
    one.lead(false);
    other.append(&entry(3));
    eventually("the other goes on", || second.carried.get() == 1);
    let sums = total(&settings);
    assert_eq!((sums.requests, sums.input), (4, 28));
}

#[test]
fn sums_are_by_what_was_asked_and_of_whom() {
    let folder = Folder::new("ledger-by");
    let settings = folder.settings();
    let ledger = Ledger::open(&settings, Books::default()).unwrap();
    for (number, team, key) in [(1, "a", None), (2, "a", Some("ci")), (3, "b", Some("ci"))] {
        ledger.append(&Entry {
            team: Some(team.into()),
            key: key.map(Into::into),
            cost: None,
            ..entry(number)
        });
    }
    ledger.append(&Entry {
        time_ms: 0,
        ..entry(4)
    });
    let query = Query {
        since_ms: 1,
        ..Query::all(vec![By::Team, By::Key])
    };
    let labels = |rows: &[Row]| -> Vec<(Vec<Label>, i64)> {
        let rows = rows.iter();
        rows.map(|row| (row.by.clone(), row.sums.requests))
            .collect()
    };
    let text = |text: &str| Label::Text(text.to_owned());
    let rows = report(&settings, &query).unwrap();
    assert_eq!(
        labels(&rows),
        [
            (vec![text("a"), text("ci")], 1),
            (vec![text("a"), Label::None], 1),
            (vec![text("b"), text("ci")], 1),
        ]
    );
    assert_eq!(rows[0].sums.unpriced, 1);
    let of_team = Query {
        team: Some("a".into()),
        by: vec![By::Day, By::Model],
        ..query
    };
    let rows = report(&settings, &of_team).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].by[0], Label::Day(20_454));
    assert_eq!(rows[0].sums.requests, 2);
    let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(1);
    let never = SystemTime::UNIX_EPOCH + Duration::from_secs(9_999_999_999);
    let before = spent(&settings, SystemTime::UNIX_EPOCH, moment).unwrap();
    assert_eq!(before.len(), 1, "one came before that moment");
    let spent = spent(&settings, moment, never).unwrap();
    assert_eq!(spent.len(), 3);
    assert_eq!(
        (spent[2].team.as_str(), spent[2].key.as_deref()),
        ("b", Some("ci"))
    );
}

#[test]
fn old_requests_become_sums_of_days_and_nothing_is_lost() {
    let folder = Folder::new("ledger-retire");
    let settings = folder.settings();
    let name = Name {
        instance: Instance::new(SystemTime::now()),
        part: 1,
    };
    let mut store = Store::open(&settings).unwrap();
    let day = |number: u64, day: i64| Entry {
        time_ms: day * 86_400_000 + 5,
        ..entry(number)
    };
    let entries = vec![day(1, 10), day(2, 10), day(3, 11), day(4, 12)];
    store.carry(name, 100, entries, 5).unwrap();
    let before = total(&settings);
    for _ in 0..2 {
        store.retire(12, 0).unwrap();
        assert_eq!(total(&settings), before);
    }
    let rows = report(&settings, &Query::all(vec![By::Day])).unwrap();
    let days: Vec<_> = rows
        .iter()
        .map(|row| (row.by[0].clone(), row.sums.requests))
        .collect();
    let expected = [(10, 2), (11, 1), (12, 1)].map(|(day, count)| (Label::Day(day), count));
    assert_eq!(days, expected);
    // How far the segment was carried is known until it is old too.
    assert_eq!(store.carried().unwrap().len(), 1);
    store.retire(12, 6).unwrap();
    assert!(store.carried().unwrap().is_empty());
}

#[test]
fn a_line_that_is_carried_twice_counts_once() {
    let folder = Folder::new("ledger-twice");
    let settings = folder.settings();
    let name = Name {
        instance: Instance::new(SystemTime::now()),
        part: 1,
    };
    let mut store = Store::open(&settings).unwrap();
    for _ in 0..2 {
        let entries = vec![provisional(1), entry(1), entry(2), provisional(2)];
        store.carry(name, 100, entries, 5).unwrap();
    }
    let sums = total(&settings);
    assert_eq!((sums.requests, sums.output), (2, 22));
}

#[test]
fn tables_of_a_newer_weir_are_left_alone() {
    let folder = Folder::new("ledger-newer");
    let settings = folder.settings();
    drop(Store::open(&settings).unwrap());
    let db = rusqlite::Connection::open(settings.sqlite()).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    let Err(away) = Store::open(&settings) else {
        panic!("it was opened");
    };
    assert!(away.to_string().contains("newer weir"), "{away}");
}
