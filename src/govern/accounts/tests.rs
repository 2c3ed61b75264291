use super::*;
use crate::govern::folder::Folder;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::fs::File;
use std::time::Duration;

/// What is kept of a budget in a test.
static MONEY: std::sync::LazyLock<Keep> =
    std::sync::LazyLock::new(|| Keep::Until(SystemTime::now() + Duration::from_secs(1_000_000)));

#[test]
fn what_is_held_counts_until_it_is_settled() {
    let account = Accounts::private().account("a", Keep::Weeks);
    let first = account.hold(6, 10).unwrap();
    assert_eq!(account.hold(5, 10).unwrap_err(), Full { total: 6 });
    let second = account.hold(4, 10).unwrap();
    first.settle(1);
    assert_eq!(account.total(), 5);
    drop(second);
    assert_eq!(account.total(), 1);
    let mut third = account.hold(2, 10).unwrap();
    third.set(20);
    assert_eq!((account.total(), third.amount()), (21, 20));
    drop(third);
    account.add(1);
    assert_eq!(account.total(), 2);
}

#[test]
fn no_amount_is_so_large_that_a_sum_is_forgotten() {
    for keep in [Keep::Weeks, *MONEY] {
        let account = Accounts::private().account("a", keep);
        account.add(5);
        for (amount, max) in [
            (i64::MAX, i64::MAX),
            (i64::MAX, 10),
            (-1, 10),
            (i64::MIN, 10),
        ] {
            assert_eq!(account.hold(amount, max).unwrap_err(), Full { total: 5 });
        }
        let held = account.hold(i64::MAX - 5, i64::MAX).unwrap();
        assert_eq!(
            account.hold(1, i64::MAX).unwrap_err(),
            Full { total: i64::MAX }
        );
        assert_eq!(account.settled(), 5);
        drop(held);
        assert_eq!(account.total(), 5);
        account.hold(1, 10).unwrap().settle(i64::MAX);
        account.add(i64::MAX);
        assert_eq!(account.total(), i64::MAX, "it is used up for good");
        assert!(account.hold(1, i64::MAX).is_err());
    }
}

#[test]
fn a_grant_bounds_what_a_limit_would_allow() {
    let account = Accounts::private().account("a", Keep::Weeks);
    account.grant(3);
    let held = account.hold(3, 10).unwrap();
    assert!(account.hold(1, 10).is_err());
    account.grant(i64::MAX);
    assert!(account.hold(1, 10).is_ok());
    drop(held);
}

#[test]
fn threads_never_hold_more_than_there_is() {
    let accounts = Accounts::private();
    let held: usize = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|_| {
                let account = accounts.account("a", Keep::Weeks);
                scope.spawn(move || {
                    let settled = (0..1000).filter_map(|_| account.hold(3, 1000).ok());
                    settled.map(|held| held.settle(3)).count()
                })
            })
            .collect();
        all.into_iter().map(|it| it.join().unwrap()).sum()
    });
    assert_eq!(held, 333);
}

#[test]
fn processes_share_a_folder_and_what_one_held_comes_back_when_it_is_gone() {
    let folder = Folder::new("accounts-shared");
    let one = Accounts::open(&folder.0).unwrap();
    let two = Accounts::open(&folder.0).unwrap();
    let (here, there) = (one.account("a", Keep::Weeks), two.account("a", Keep::Weeks));
    here.hold(3, 10).unwrap().settle(3);
    let held = there.hold(7, 10).unwrap();
    assert_eq!(here.hold(1, 10).unwrap_err(), Full { total: 10 });
    one.sweep();
    assert_eq!(here.total(), 10, "it lives");
    std::mem::forget(held);
    kill(&two);
    one.sweep();
    assert_eq!(here.total(), 3);
    let three = Accounts::open(&folder.0).unwrap();
    assert_eq!(three.account("a", Keep::Weeks).total(), 3);
    assert_eq!(three.account("b", Keep::Weeks).total(), 0);
}

/// As if the process were killed: nothing is dropped, but its file is closed.
fn kill(accounts: &Accounts) {
    use std::os::fd::AsRawFd;
    let Memory::Mapped(mapped) = &accounts.0.memory else {
        panic!("it is mapped");
    };
    let other = File::open("/dev/null").unwrap();
    // SAFETY: both are open, and the file is only locked and unlocked from here on.
    assert!(unsafe { libc::dup2(other.as_raw_fd(), mapped.file.as_raw_fd()) } >= 0);
}

#[test]
fn sums_of_processes_whose_threads_hold_settle_and_die_are_right_in_the_end() {
    const MAX: i64 = 50_000;
    let folder = Folder::new("accounts-many");
    let all: Vec<_> = (0..3).map(|_| Accounts::open(&folder.0).unwrap()).collect();
    for keep in [Keep::Weeks, *MONEY] {
        let name = format!("{keep:?}");
        let settled = AtomicI64::new(0);
        std::thread::scope(|scope| {
            for number in 0..64 {
                let (accounts, settled, name) = (&all[number % 2], &settled, &name);
                scope.spawn(move || {
                    let mut chance = SmallRng::seed_from_u64(number as u64);
                    let account = accounts.account(name, keep);
                    for _ in 0..500 {
                        let amount = chance.random_range(0..900);
                        let Ok(mut held) = account.hold(amount, MAX) else {
                            continue;
                        };
                        match chance.random_range(0..4) {
                            0 => drop(held),
                            1 => held.set(amount / 2),
                            _ => {
                                let used = chance.random_range(0..=amount);
                                settled.fetch_add(used, Ordering::Relaxed);
                                held.settle(used);
                            }
                        }
                        let total = account.total();
                        assert!((0..=MAX).contains(&total), "{total}");
                    }
                });
            }
            // One that holds, and is killed in the middle of it.
            let account = all[2].account(&name, keep);
            for _ in 0..1000 {
                account.hold(7, MAX).into_iter().for_each(std::mem::forget);
            }
        });
        let account = all[0].account(&name, keep);
        assert!(account.total() >= settled.load(Ordering::Relaxed));
        assert_eq!(account.settled(), settled.load(Ordering::Relaxed));
    }
    kill(&all[2]);
    all[1].sweep();
    for keep in [Keep::Weeks, *MONEY] {
        let account = all[0].account(&format!("{keep:?}"), keep);
        assert_eq!(account.total(), account.settled());
        assert!(account.hold(1, i64::MAX).is_ok());
    }
}

/// A program that knows one table alone, as it was before there could be more: the words of the row of
/// that name.
fn as_before<'m>(map: &'m memmap2::MmapRaw, name: &str) -> Option<&'m [AtomicI64; 72]> {
    let id = i64::from_ne_bytes(memory::id(name).to_ne_bytes());
    let first = memory::id(name) % 32_768;
    let rows = (0..128).map(|step| (first + step) % 32_768);
    rows.map(|row| {
        // SAFETY: the map has that many rows of 576 bytes after 4096, all words of which are atomics.
        unsafe {
            let bytes = map.as_ptr().add(4096 + row as usize * 576);
            &*bytes.cast::<[AtomicI64; 72]>()
        }
    })
    .find(|words| words[0].load(Ordering::SeqCst) == id)
}

#[test]
fn a_generation_that_knows_one_table_and_one_that_knows_more_agree() {
    let folder = Folder::new("accounts-before");
    let accounts = Accounts::open(&folder.0).unwrap();
    let account = accounts.account("a", *MONEY);
    account.add(3);
    let path = folder.0.join("accounts.v1");
    let mut how = File::options();
    let map = memmap2::MmapRaw::map_raw(&how.read(true).write(true).open(path).unwrap()).unwrap();
    let words = as_before(&map, "a").expect("it is where it was looked for");
    let (total, column) = (&words[2], &words[4 + 63]);
    // The other one holds four, and settles two of them.
    column.fetch_add(4, Ordering::SeqCst);
    total.fetch_add(4, Ordering::SeqCst);
    assert_eq!((account.total(), account.settled()), (7, 3));
    assert!(account.hold(4, 10).is_err());
    let held = account.hold(3, 10).unwrap();
    assert_eq!(total.load(Ordering::SeqCst), 10);
    column.fetch_sub(4, Ordering::SeqCst);
    total.fetch_sub(2, Ordering::SeqCst);
    held.settle(1);
    assert_eq!((total.load(Ordering::SeqCst), account.settled()), (6, 6));
    // More than one table has room for: the first one is as it was.
    let all: Vec<_> = (0..40_000)
        .map(|number| accounts.account(&number.to_string(), *MONEY))
        .collect();
    assert!(all.iter().all(|it| !it.is_homeless()));
    let known = (0..40_000).filter(|it| as_before(&map, &it.to_string()).is_some());
    assert!(known.count() > 25_000);
    assert_eq!(
        as_before(&map, "a").map(|words| words[2].load(Ordering::SeqCst)),
        Some(6)
    );
}

#[test]
fn more_accounts_than_a_table_has_rows_are_found_by_all_and_none_is_forgotten() {
    let folder = Folder::new("accounts-large");
    let one = Accounts::open(&folder.0).unwrap();
    let names =
        || (0..2_500_i64).flat_map(|key| (0..16).map(move |it| (key, format!("{key}|{it}"))));
    // Nobody keeps an account at hand: keys rest.
    for (key, name) in names() {
        one.account(&name, *MONEY).add(key + 1);
    }
    assert_eq!(one.homeless(), 0);
    let two = Accounts::open(&folder.0).unwrap();
    for (key, name) in names() {
        assert_eq!(two.look(&name), Some(key + 1), "{name}");
    }
    // What a dead one held is given back in every table.
    let held: Vec<_> = (0..500)
        .map(|key| {
            two.account(&format!("{key}|7"), *MONEY)
                .hold(9, i64::MAX)
                .unwrap()
        })
        .collect();
    held.into_iter().for_each(std::mem::forget);
    kill(&two);
    one.sweep();
    for key in 0..500 {
        assert_eq!(one.look(&format!("{key}|7")), Some(key + 1));
    }
}

#[test]
fn an_account_whose_time_is_over_makes_room_when_room_is_short() {
    let accounts = Accounts::private();
    let past = Keep::Until(SystemTime::now() - Duration::from_secs(9));
    for number in 0..100_000 {
        let account = accounts.account(&number.to_string(), past);
        assert!(matches!(account.0.place, Place::Shared(_)), "{number}");
        assert_eq!(account.total(), 0);
        account.add(1);
    }
}

#[test]
fn past_the_last_row_a_limit_is_the_processs_own_and_money_cant_be_held_until_there_is_room() {
    let accounts = Accounts::private();
    let limits: Vec<_> = (0..2000)
        .map(|number| accounts.account(&number.to_string(), Keep::Weeks))
        .collect();
    for account in &limits {
        assert!(account.hold(1, 1).is_ok());
    }
    let homeless = accounts.homeless();
    assert!(homeless > 900, "{homeless}");
    let money = accounts.account("money", *MONEY);
    assert!(money.is_homeless());
    assert_eq!(money.hold(1, 1).unwrap_err(), Full { total: i64::MAX });
    assert_eq!(accounts.homeless(), homeless + 1);
    assert!(
        accounts.account("money", *MONEY).is_homeless(),
        "nothing has changed"
    );
    drop((limits, money));
    assert_eq!(accounts.homeless(), 0);
}

#[test]
fn money_that_found_no_room_finds_it_when_the_time_of_others_is_over() {
    let accounts = Accounts::private();
    let soon = Keep::Until(SystemTime::now() + Duration::from_secs(1));
    let others: Vec<_> = (0..2000)
        .map(|number| accounts.account(&number.to_string(), soon))
        .collect();
    let money = accounts.account("money", *MONEY);
    assert!(money.is_homeless());
    drop(others);
    let begun = std::time::Instant::now();
    while accounts.account("money", *MONEY).is_homeless() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(accounts.account("money", *MONEY).hold(1, 1).is_ok());
}

#[test]
fn what_isnt_a_table_is_moved_aside() {
    let folder = Folder::new("accounts-junk");
    for junk in [&b"not a table at all"[..], &[0; 5000]] {
        std::fs::write(folder.0.join("accounts.v1"), junk).unwrap();
        let accounts = Accounts::open(&folder.0).unwrap();
        assert!(accounts.found().is_some());
        assert!(accounts.account("a", *MONEY).hold(1, 1).is_ok());
        let aside = std::fs::read(folder.0.join("accounts.v1.damaged")).unwrap();
        assert_eq!(aside, junk);
    }
}

#[test]
fn a_file_that_was_cut_is_made_whole_and_what_it_still_has_is_kept() {
    let folder = Folder::new("accounts-cut");
    let accounts = Accounts::open(&folder.0).unwrap();
    for number in 0..100 {
        accounts.account(&number.to_string(), *MONEY).add(1);
    }
    drop(accounts);
    let file = File::options()
        .write(true)
        .open(folder.0.join("accounts.v1"))
        .unwrap();
    file.set_len(9_000_000).unwrap();
    let accounts = Accounts::open(&folder.0).unwrap();
    let left = (0..100).filter(|it| accounts.look(&it.to_string()) == Some(1));
    assert!((1..100).contains(&left.count()));
    for number in 0..100 {
        assert!(
            accounts
                .account(&number.to_string(), *MONEY)
                .hold(1, 2)
                .is_ok()
        );
    }
}
