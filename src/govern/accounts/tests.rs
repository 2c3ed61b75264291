use super::*;
use crate::govern::folder::Folder;
use std::fs::File;
use std::time::Duration;

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
    account.raise_settled_to(7);
    account.raise_settled_to(3);
    account.add(1);
    assert_eq!(account.total(), 8);
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
    // As if the process were killed: nothing is dropped, but its file is closed.
    std::mem::forget(held);
    let Memory::Mapped(mapped) = &two.0.memory else {
        panic!("it is mapped");
    };
    let closed = std::os::fd::AsRawFd::as_raw_fd(&mapped.file);
    let other = File::open("/dev/null").unwrap();
    // SAFETY: both are open, and the file is only locked and unlocked from here on.
    assert!(unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&other), closed) } >= 0);
    one.sweep();
    assert_eq!(here.total(), 3);
    let three = Accounts::open(&folder.0).unwrap();
    assert_eq!(three.account("a", Keep::Weeks).total(), 3);
    assert_eq!(three.account("b", Keep::Weeks).total(), 0);
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
fn past_the_last_row_an_account_is_the_processs_own() {
    let accounts = Accounts::private();
    let all: Vec<_> = (0..2000)
        .map(|number| accounts.account(&number.to_string(), Keep::Weeks))
        .collect();
    for account in &all {
        assert!(account.hold(1, 1).is_ok());
    }
    assert!(all.iter().any(|it| matches!(it.0.place, Place::Own(_))));
}

#[test]
fn what_isnt_a_table_is_left_alone() {
    let folder = Folder::new("accounts-junk");
    std::fs::write(folder.0.join("accounts.v1"), "not a table at all").unwrap();
    assert!(Accounts::open(&folder.0).is_err());
}
