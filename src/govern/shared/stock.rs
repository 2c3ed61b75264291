//! One shared allowance as requests see it: memory to take from, and a bounded wait where it is empty.

use super::draw::{Answer, Kind};
use super::lease::Seen;
use super::{Inner as Sharing, State};
use crate::govern::accounts::{Account, Full, Held, Keep};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// This host's part of an allowance. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Stock(pub(super) Arc<Inner>);

/// The host lacks that much of an allowance of which it may have more.
#[derive(Clone, Debug)]
pub struct Short {
    stock: Stock,
    amount: i64,
}

/// How an allowance stands on all hosts together, as far as is known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What could still be used: here, or of what nobody has.
    pub left: i64,
    /// Used by other hosts; of a rate always 0.
    pub elsewhere: i64,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) name: String,
    pub(super) account: Account,
    keep: Keep,
    terms: Mutex<(Kind, i64)>,
    waiting: AtomicI64,
    kept: AtomicBool,
    told: Mutex<Told>,
    /// Somebody has heard of it, or nobody will.
    news: Notify,
    sharing: Arc<Sharing>,
}

#[derive(Debug, Default)]
struct Told {
    answer: Option<Answer>,
    at: Option<Instant>,
    count: u64,
}

/// What waits; dropping it waits no more.
struct Waiting<'s>(&'s Inner, i64);

// === impl Short ===

impl Short {
    /// Where it wasn't the limit itself that said no: `full` is what a hold of the stock said.
    pub fn of(stock: &Stock, amount: i64, max: i64, full: Full) -> Option<Self> {
        let is_granted = full.total.saturating_add(amount) > max;
        (!is_granted).then(|| Self {
            stock: stock.clone(),
            amount,
        })
    }

    /// As [`Stock::wait`].
    pub async fn wait(&self, until: Instant) -> bool {
        self.stock.wait(self.amount, until).await
    }

    /// Of a sum: false where it was heard last that all hosts together don't have that much. What is unheard
    /// of may be there.
    pub fn may_be_met(&self) -> bool {
        let inner = &self.stock.0;
        let Some(answer) = inner.told.lock().answer else {
            return true;
        };
        let elsewhere = answer.left.max(0).saturating_add(answer.idle.max(0));
        inner.seen().stock().saturating_add(elsewhere) >= self.amount
    }
}

// === impl Stock ===

impl Stock {
    /// Holds that much of what this host was granted, where the total stays within `max` too.
    ///
    /// # Errors
    /// What the total is. Where [`Stock::is_short`] of the amount, [`Stock::wait`] may help.
    pub fn hold(&self, amount: i64, max: i64) -> Result<Held, Full> {
        self.0.wants_keeping();
        self.0.account.hold(amount, max)
    }

    /// Whether the host lacks that much, so that another part of the allowance could help.
    pub fn is_short(&self, amount: i64) -> bool {
        self.0.seen().stock() < amount
    }

    /// Waits until the host was granted that much; false when that won't be: nothing is left on any
    /// host, nobody can be asked, or it is `until`. Dropping the future waits no more.
    pub async fn wait(&self, amount: i64, until: Instant) -> bool {
        let inner = &self.0;
        let since = inner.told.lock().count;
        let waiting = Waiting::new(inner, amount);
        loop {
            let news = inner.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if !self.is_short(amount) {
                return true;
            }
            if inner.is_hopeless(amount, since, until) {
                return false;
            }
            inner.wants_keeping();
            inner.sharing.wake.notify_one();
            if timeout_at(until, news).await.is_err() {
                drop(waiting);
                return !self.is_short(amount);
            }
        }
    }

    /// It is shared by these terms now.
    pub fn set_terms(&self, kind: Kind, limit: i64) {
        self.0.set_terms(kind, limit);
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let stock = self.0.seen().stock().max(0);
        let answer = self.0.told.lock().answer.unwrap_or_default();
        let is_rate = matches!(self.0.terms().0, Kind::Rate { .. });
        Standing {
            left: stock.saturating_add(answer.left.max(0)),
            elsewhere: if is_rate {
                0
            } else {
                self.0.account.elsewhere()
            },
        }
    }

    /// Of a rate: how long until that much is there, unless another host takes it.
    pub fn wait_for(&self, amount: i64) -> Duration {
        self.0.wait_for(amount)
    }

    /// This host's account.
    pub fn account(&self) -> &Account {
        &self.0.account
    }
}

// === impl Inner ===

impl Inner {
    pub(super) fn new(
        name: &str,
        kind: Kind,
        limit: i64,
        account: Account,
        keep: Keep,
        sharing: &Arc<Sharing>,
    ) -> Arc<Self> {
        account.bind();
        Arc::new(Self {
            name: name.to_owned(),
            account,
            keep,
            terms: Mutex::new((kind, limit)),
            waiting: AtomicI64::new(0),
            kept: AtomicBool::new(false),
            told: Mutex::default(),
            news: Notify::new(),
            sharing: Arc::clone(sharing),
        })
    }

    pub(super) fn set_terms(&self, kind: Kind, limit: i64) {
        *self.terms.lock() = (kind, limit);
    }

    pub(super) fn terms(&self) -> (Kind, i64) {
        *self.terms.lock()
    }

    pub(super) fn seen(&self) -> Seen {
        // What is granted first: a total that is looked at later is never too small for it.
        let granted = self.account.granted();
        Seen {
            total: self.account.total(),
            granted,
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    /// How long the server has to remember it; 0 = for good.
    pub(super) fn ttl_ms(&self, now: SystemTime) -> i64 {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let ttl = match (self.keep, self.terms().0) {
            (Keep::Until(until), _) => until.duration_since(now).unwrap_or_default() + DAY,
            (Keep::Weeks, Kind::Budget) => return 0,
            (Keep::Weeks, _) => DAY,
        };
        i64::try_from(ttl.as_millis()).unwrap_or(0)
    }

    /// The keeper looks after it from now on.
    pub(super) fn wants_keeping(self: &Arc<Self>) {
        if !self.kept.load(Ordering::Relaxed) && !self.kept.swap(true, Ordering::AcqRel) {
            self.sharing.fresh.lock().push(Arc::clone(self));
        }
    }

    /// The keeper has nothing to look after any more.
    pub(super) fn is_let_go(&self) {
        self.kept.store(false, Ordering::Release);
    }

    pub(super) fn tell(&self, answer: Answer) {
        let mut told = self.told.lock();
        told.answer = Some(answer);
        told.at = Some(Instant::now());
        told.count += 1;
        drop(told);
        self.news.notify_waiters();
    }

    /// Nothing will be told soon: those who wait look for themselves.
    pub(super) fn wake(&self) {
        self.news.notify_waiters();
    }

    fn wait_for(&self, amount: i64) -> Duration {
        let (Kind::Rate { .. }, limit) = self.terms() else {
            return Duration::ZERO;
        };
        let told = self.told.lock();
        let (Some(answer), Some(at)) = (told.answer, told.at) else {
            return Duration::ZERO;
        };
        let missing = amount.saturating_sub(self.seen().stock());
        if missing <= answer.left.max(0) {
            return Duration::ZERO;
        }
        // The answer has the time until one more than what was left is there.
        let more = missing.saturating_sub(answer.left.max(0) + 1).max(0) as f64;
        let each = 60.0 / limit.max(1) as f64;
        let first = Duration::from_micros(u64::try_from(answer.idle).unwrap_or_default());
        let rest = Duration::try_from_secs_f64(more * each).unwrap_or(Duration::MAX);
        (first.saturating_add(rest)).saturating_sub(at.elapsed())
    }

    fn is_hopeless(&self, amount: i64, since: u64, until: Instant) -> bool {
        if Instant::now() >= until {
            return true;
        }
        if self.sharing.state() == State::Down {
            // What this host may do alone, it may know in a moment.
            let settled = self.account.alone().load(Ordering::Relaxed) != 0;
            return settled || !self.sharing.is_local();
        }
        let told = self.told.lock();
        let Some(answer) = told.answer.filter(|_| told.count > since) else {
            return false;
        };
        match self.terms().0 {
            Kind::Rate { .. } => {
                drop(told);
                Instant::now() + self.wait_for(amount) > until
            }
            Kind::Budget | Kind::Slots => answer.left <= 0 && answer.idle <= 0,
        }
    }
}

impl<'s> Waiting<'s> {
    fn new(stock: &'s Inner, amount: i64) -> Self {
        stock.waiting.fetch_add(amount, Ordering::Relaxed);
        Self(stock, amount)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(self.1, Ordering::Relaxed);
    }
}
