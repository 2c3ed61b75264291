//! Sums that all processes of this weir share: what was spent, what is in flight, when a rate allows
//! the next one. They outlive a reload, an upgrade, a restart and a `kill -9`.
//!
//! The sums stand in a file that every generation maps, so that several which serve at once can't
//! allow together what one alone would refuse; no message and no lock stands on a request's way. What
//! a request holds is noted in a column of its process: when that process is gone, whoever looks next
//! gives it back. Without a folder for state the sums are this process's own.
//!
//! It knows neither keys nor money nor time: amounts are numbers. Called by the rest of `govern`.
//!
//! ```text
//!            id   until   total   granted │ held by process 0   1   2 …
//! account ─▶ ██     ██      17    i64::MAX│                 4   3   0      settled: 17 − 4 − 3 = 10
//! ```

mod file;
mod memory;
#[cfg(test)]
mod tests;

use super::rate::{Bucket, Cells};
use ahash::AHashMap;
use memory::{Memory, Row};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

/// All accounts. Clones share everything.
#[derive(Clone, Debug)]
pub struct Accounts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    memory: Memory,
    /// Those that somebody has at hand.
    known: Mutex<AHashMap<u64, Weak<Inner>>>,
    /// Those of them that found no row.
    homeless: AtomicUsize,
    /// In which second there was no room: it isn't looked for more often.
    full: AtomicU64,
    found: Mutex<Option<Found>>,
}

/// What the accounts stood at when this process came, alone, and nothing was in flight: what the books have
/// beyond that is missing here. Whatever is settled later changes nothing of it.
#[derive(Debug)]
pub struct Found {
    totals: AHashMap<u64, i64>,
    /// When that was. A request that came before is of a process that is gone.
    pub at: SystemTime,
}

/// How long an account is kept when nobody uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// For weeks after the last process has let go of it. Where there is no room, it is this process's own.
    Weeks,
    /// Until this moment at least: a budget's period and two days. It is money: where there is no room,
    /// nothing can be held of it, and what a process leaves undone counts as spent.
    Until(SystemTime),
}

/// One sum. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Account(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    accounts: Arc<Shared>,
    place: Place,
    keep: Keep,
}

/// Where an account's row is.
#[derive(Debug)]
enum Place {
    Shared(usize),
    /// There was no room.
    Own(Box<Row>),
}

/// What a request holds of an account until it is known what it used. Dropping it gives all back.
#[derive(Debug)]
pub struct Held {
    account: Account,
    amount: i64,
}

/// There isn't room for that much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// What the account stands at.
    pub total: i64,
}

// === impl Accounts ===

impl Accounts {
    /// Accounts of this process alone.
    pub fn private() -> Self {
        Self::of(Memory::private(), None)
    }

    /// Accounts in `state_dir`, shared with every process that opens the same folder.
    ///
    /// # Errors
    /// Why the file can't be made, mapped or joined. One that is damaged is none: it is moved aside.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let (memory, found) = Memory::open(state_dir)?;
        let found = found.map(|(at, totals)| Found { totals, at });
        Ok(Self::of(memory, found))
    }

    fn of(memory: Memory, found: Option<Found>) -> Self {
        Self(Arc::new(Shared {
            memory,
            known: Mutex::default(),
            homeless: AtomicUsize::new(0),
            full: AtomicU64::new(0),
            found: Mutex::new(found),
        }))
    }

    /// What was found when this process came, where it was alone; once.
    pub fn found(&self) -> Option<Found> {
        self.0.found.lock().take()
    }

    /// Takes away what was granted and isn't used, where no other process goes on with it; but for what this
    /// host took as nobody could be asked.
    pub fn take_back_grants(&self) {
        if self.0.found.lock().is_some() {
            self.0.memory.take_back_grants();
        }
    }

    /// The accounts that are in use and found no room.
    pub fn homeless(&self) -> usize {
        self.0.homeless.load(Ordering::Relaxed)
    }

    /// The account of that name; it begins with nothing. Where there is no room, see [`Keep`] and
    /// [`Account::is_homeless`]; that is said in the log.
    pub fn account(&self, name: &str, keep: Keep) -> Account {
        let id = memory::id(name);
        let mut known = self.0.known.lock();
        let now = SystemTime::now();
        let second = memory::unix(now);
        let is_full = self.0.full.load(Ordering::Relaxed) == second;
        if let Some(inner) = known.get(&id).and_then(Weak::upgrade) {
            let account = Account(inner);
            if is_full || !account.is_homeless() {
                return account;
            }
        }
        let find = || match is_full {
            true => self.0.memory.find(id),
            false => self.0.memory.row(id, keep.until(now), now),
        };
        let place = match find() {
            Some(row) => Place::Shared(row),
            None => {
                self.0.homeless.fetch_add(1, Ordering::Relaxed);
                if self.0.full.swap(second, Ordering::Relaxed) != second {
                    tracing::error!(
                        account = name,
                        "there is no room for more accounts: budgets that have none refuse requests, and \
                         limits that have none hold for this process alone"
                    );
                }
                Place::Own(Box::default())
            }
        };
        let inner = Arc::new(Inner {
            accounts: Arc::clone(&self.0),
            place,
            keep,
        });
        known.insert(id, Arc::downgrade(&inner));
        Account(inner)
    }

    /// What the account of that name stands at, settled and held together; `None` where there is no such
    /// account. Looking makes none, and keeps none.
    pub fn look(&self, name: &str) -> Option<i64> {
        let id = memory::id(name);
        let own = self.0.known.lock().get(&id).and_then(Weak::upgrade);
        if let Some(inner) = own {
            return Some(Account(inner).total());
        }
        let row = self.0.memory.find(id)?;
        Some(self.0.memory.at(row).total.load(Ordering::Relaxed))
    }

    /// As [`Accounts::look`], of a rate: a copy of its numbers.
    pub fn look_at_rate(&self, name: &str) -> Cells {
        let row = self.0.memory.find(memory::id(name));
        let row = row.map(|row| self.0.memory.at(row));
        row.map_or_else(Cells::default, |row| Cells {
            full_at: AtomicI64::new(row.total.load(Ordering::SeqCst)),
            owed: AtomicI64::new(row.owed.load(Ordering::SeqCst)),
            given: AtomicI64::new(0),
        })
    }

    /// What this host was granted of the account of that name and hasn't used, and what other hosts have
    /// used as far as is known here; nothing where there is no such account. As [`Accounts::look`].
    pub fn look_shared(&self, name: &str) -> (i64, i64) {
        let id = memory::id(name);
        let own = self.0.known.lock().get(&id).and_then(Weak::upgrade);
        let of = |row: &Row| {
            let total = row.total.load(Ordering::Relaxed);
            let granted = row.granted.load(Ordering::Relaxed);
            let elsewhere = row.elsewhere.load(Ordering::Relaxed);
            (granted.saturating_sub(total).max(0), elsewhere)
        };
        match (own, self.0.memory.find(id)) {
            (Some(inner), _) => of(inner.row()),
            (None, Some(row)) => of(self.0.memory.at(row)),
            (None, None) => (0, 0),
        }
    }

    /// Gives back what processes held that are gone, and says which accounts are still wanted. Called
    /// every second or so, by every process.
    pub fn sweep(&self) {
        self.0.memory.sweep();
        let now = SystemTime::now();
        let mut known = self.0.known.lock();
        known.retain(|_, account| {
            let Some(account) = account.upgrade() else {
                return false;
            };
            if account.keep == Keep::Weeks {
                account.row().keep_until(account.keep.until(now));
            }
            true
        });
    }
}

impl Keep {
    fn until(self, now: SystemTime) -> u64 {
        const WEEKS: u64 = 6 * 7 * 24 * 3600;
        match self {
            Self::Weeks => memory::unix(now) + WEEKS,
            Self::Until(until) => memory::unix(until),
        }
    }
}

// === impl Account ===

impl Account {
    /// Settled and held amounts of all processes together.
    pub fn total(&self) -> i64 {
        self.0.row().total.load(Ordering::Relaxed)
    }

    /// What is settled for good: the total without what is held. Looks at every process's column.
    pub fn settled(&self) -> i64 {
        let row = self.0.row();
        let total = row.total.load(Ordering::Relaxed);
        total.saturating_sub(row.held_by_all())
    }

    /// True for money that found no room: nothing can be held of it. Asked for once more, it may find some.
    pub fn is_homeless(&self) -> bool {
        self.0.is_money() && matches!(self.0.place, Place::Own(_))
    }

    /// Holds `amount`, 0 or more, where the total stays within `max` and within what was
    /// [granted](Self::grant).
    ///
    /// # Errors
    /// What the total is, where that is too much. Nothing is held then.
    pub fn hold(&self, amount: i64, max: i64) -> Result<Held, Full> {
        if self.is_homeless() {
            return Err(Full { total: i64::MAX });
        }
        let row = self.0.row();
        let max = max.min(row.granted.load(Ordering::SeqCst));
        let fits = |total: i64| {
            let next = total.checked_add(amount);
            next.filter(|next| amount >= 0 && *next <= max)
        };
        // What can't be is touched by nothing: no column ever has more than there is.
        let total = row.total.load(Ordering::SeqCst);
        if fits(total).is_none() {
            return Err(Full { total });
        }
        // A process that dies between the two leaves money that counts as spent, but no place that is
        // taken for good.
        let column = &row.held[self.column()];
        let is_money = self.0.is_money();
        if !is_money {
            column.fetch_add(amount, Ordering::SeqCst);
        }
        let total = match (row.total).fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits) {
            // Looked at once more: whoever lowered it meanwhile either sees this amount in the total,
            // or is seen here.
            Ok(total) if total.saturating_add(amount) <= row.granted.load(Ordering::SeqCst) => {
                if is_money {
                    column.fetch_add(amount, Ordering::SeqCst);
                }
                return Ok(Held {
                    account: self.clone(),
                    amount,
                });
            }
            Ok(total) => {
                row.change(-i128::from(amount));
                total
            }
            Err(total) => total,
        };
        if !is_money {
            column.fetch_sub(amount, Ordering::SeqCst);
        }
        Err(Full { total })
    }

    /// Adds to the settled amount, whatever the total is.
    pub fn add(&self, amount: i64) {
        self.0.row().change(amount.into());
    }

    /// What no total may pass here, whatever the limit: a part of an allowance that other hosts share.
    /// `i64::MAX`, as in the beginning, where there is no such bound. Returns the total: whatever is
    /// held after that was held within the new bound.
    pub fn grant(&self, granted: i64) -> i64 {
        let row = self.0.row();
        row.granted.store(granted, Ordering::SeqCst);
        row.total.load(Ordering::SeqCst)
    }

    /// See [`Account::grant`].
    pub fn granted(&self) -> i64 {
        self.0.row().granted.load(Ordering::SeqCst)
    }

    /// Bounds an account that isn't bound yet by its total: nothing more is held until something is
    /// granted.
    pub fn bind(&self) {
        let row = self.0.row();
        let total = row.total.load(Ordering::SeqCst);
        let _ = (row.granted).compare_exchange(i64::MAX, total, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// What other hosts have used of the same allowance, as far as is known here.
    pub fn elsewhere(&self) -> i64 {
        self.0.row().elsewhere.load(Ordering::Relaxed)
    }

    /// See [`Account::elsewhere`].
    pub fn set_elsewhere(&self, used: i64) {
        self.0.row().elsewhere.store(used, Ordering::Relaxed);
    }

    /// The part of what is granted that nobody was asked for; 0 = none was taken.
    pub(super) fn alone(&self) -> &AtomicI64 {
        &self.0.row().alone
    }

    /// The numbers themselves, for a rate: the total is its moment.
    pub fn bucket(&self) -> Bucket<'_> {
        self.0.row().bucket()
    }

    fn column(&self) -> usize {
        self.0.accounts.memory.column()
    }
}

impl Found {
    /// What the account of that name stood at.
    pub fn total(&self, name: &str) -> i64 {
        let total = self.totals.get(&memory::id(name));
        total.copied().unwrap_or_default()
    }
}

impl Inner {
    fn is_money(&self) -> bool {
        matches!(self.keep, Keep::Until(_))
    }

    fn row(&self) -> &Row {
        match &self.place {
            Place::Shared(row) => self.accounts.memory.at(*row),
            Place::Own(row) => row,
        }
    }
}

// === impl Held ===

impl Held {
    /// How much.
    pub fn amount(&self) -> i64 {
        self.amount
    }

    /// It is known what was used: that is settled instead of what was held.
    pub fn settle(mut self, used: i64) {
        self.change_to(0, used);
    }

    /// Holds another amount, whatever the total is then.
    pub fn set(&mut self, amount: i64) {
        self.change_to(amount, 0);
    }

    fn change_to(&mut self, held: i64, settled: i64) {
        let account = &self.account.0;
        let (row, less) = (account.row(), self.amount.saturating_sub(held));
        let column = &row.held[self.account.column()];
        let by = i128::from(settled) - i128::from(less);
        // See `hold`.
        if account.is_money() {
            column.fetch_sub(less, Ordering::SeqCst);
            row.change(by);
        } else {
            row.change(by);
            column.fetch_sub(less, Ordering::SeqCst);
        }
        self.amount = held;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if matches!(self.place, Place::Own(_)) {
            self.accounts.homeless.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.amount != 0 {
            self.change_to(0, 0);
        }
    }
}
