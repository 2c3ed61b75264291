//! Waiting for a limit to let in, where a route says so. Who came first goes first, among those that
//! wait for the same scope. Bounded: so many wait, so long at most; what can't be let in by then isn't
//! kept waiting. Whoever stops waiting gives its place up at once.

use super::Governor;
use super::grant::{Grant, Limited};
use super::limits::{Ask, Denied, latest};
use super::rate::Moment;
use super::scope::{Measure, Sums, Whose};
use ahash::AHashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By the place of the scope in memory: who waits in a line holds its scope.
    lines: Mutex<AHashMap<usize, Arc<Line>>>,
    waiting: AtomicUsize,
}

/// Those that wait for one scope.
#[derive(Debug)]
struct Line {
    /// Whose turn it is; fair.
    turn: Semaphore,
    /// What they ask for together.
    requests: AtomicU64,
    tokens: AtomicU64,
}

/// A place in a line. Dropping it gives it up.
struct Waiting<'q> {
    queue: &'q Queue,
    scope: usize,
    line: Arc<Line>,
    tokens: u64,
    /// Requests and tokens of those before it.
    ahead: (u64, u64),
}

impl Governor {
    /// As [`Governor::admit`]; where a rate or what is in flight says no, it waits for its turn. Dropping
    /// the future takes nothing.
    ///
    /// # Errors
    /// What says no, when there is no place to wait, or when it couldn't be let in in time.
    pub async fn admit_in_turn(&self, grant: &mut Grant, ask: &Ask) -> Result<(), Denied> {
        let whose = match self.queue.line_before(grant) {
            Some(whose) => whose,
            None => match self.admit_drawing(grant, ask, Moment::now()).await {
                Err(Denied::Rate { whose, .. } | Denied::Full { whose, .. }) => whose,
                other => return other,
            },
        };
        let terms = self.settings.read().queue;
        let Some(scope) = grant.limited.iter().find(|it| it.whose == whose).cloned() else {
            return self.admit(grant, ask, Moment::now());
        };
        let deadline = Instant::now() + terms.timeout;
        let Some(waiting) = self.queue.join(&scope, ask.tokens, terms.size) else {
            let wait = denial(grant, &scope, ask, (0, 0))
                .wait()
                .unwrap_or_default();
            return Err(Denied::QueueFull { wait });
        };
        let expected = denial(grant, &scope, ask, waiting.ahead);
        if matches!(expected, Denied::Rate { wait, .. } if wait > terms.timeout) {
            return Err(expected);
        }
        let Ok(Ok(_turn)) = timeout_at(deadline, waiting.line.turn.acquire()).await else {
            return Err(denial(grant, &scope, ask, (0, 0)));
        };
        self.first_in_line(grant, ask, deadline).await
    }

    /// It is its turn: it asks whenever it may be let in.
    async fn first_in_line(
        &self,
        grant: &mut Grant,
        ask: &Ask,
        deadline: Instant,
    ) -> Result<(), Denied> {
        /// What other processes give back is seen this late.
        const LOOK: Duration = Duration::from_millis(50);
        loop {
            // From here on it hears of what is given back.
            let freed = self.freed.notified();
            let Err(denied) = self.admit_drawing(grant, ask, Moment::now()).await else {
                return Ok(());
            };
            let now = Instant::now();
            let again = match denied {
                Denied::Rate { wait, .. } => now + wait.max(Duration::from_millis(1)),
                Denied::Full { .. } => now + LOOK,
                _ => return Err(denied),
            };
            let late = matches!(denied, Denied::Rate { .. }) && again > deadline;
            if late || now >= deadline {
                return Err(denied);
            }
            tokio::select! {
                () = sleep_until(again.min(deadline)) => {}
                () = freed => {}
            }
        }
    }
}

/// What a request hears that waits behind others: when all of them and itself may have come.
fn denial(grant: &Grant, scope: &Limited, ask: &Ask, ahead: (u64, u64)) -> Denied {
    let denied = latest(&grant.limited, ask.tokens, Moment::now());
    let behind = |measure, amount| {
        let rate = scope.rate(measure)?;
        Some((rate.time(amount), measure, rate.count()))
    };
    let behind = [
        behind(Measure::Requests, ahead.0),
        behind(Measure::Tokens, ahead.1),
    ];
    let longest = behind.into_iter().flatten().max_by_key(|(time, ..)| *time);
    match (denied, longest) {
        // No rate says no: it is what is in flight.
        (Denied::Rate { per_minute: 0, .. }, None) => {
            let (measure, max) = match scope.bounds.in_flight {
                0 => (Measure::InFlightTokens, scope.bounds.in_flight_tokens),
                max => (Measure::InFlight, max),
            };
            Denied::Full {
                whose: scope.whose,
                measure,
                max,
            }
        }
        (
            Denied::Rate {
                wait,
                per_minute: 0,
                ..
            },
            Some((more, measure, per_minute)),
        ) => Denied::Rate {
            whose: scope.whose,
            measure,
            per_minute,
            wait: wait + more,
        },
        (
            Denied::Rate {
                whose,
                measure,
                per_minute,
                wait,
            },
            longest,
        ) => {
            let more = longest.map_or(Duration::ZERO, |(more, ..)| more);
            Denied::Rate {
                whose,
                measure,
                per_minute,
                wait: wait + more,
            }
        }
        (other, _) => other,
    }
}

// === impl Queue ===

impl Queue {
    /// Whose line a request must join, because others wait there already.
    fn line_before(&self, grant: &Grant) -> Option<Whose> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let lines = self.lines.lock();
        let mut limited = grant.limited.iter();
        limited
            .find(|it| lines.contains_key(&place(it)))
            .map(|it| it.whose)
    }

    /// Takes a place behind all others; `None` when `max` wait already.
    fn join(&self, scope: &Limited, tokens: u64, max: usize) -> Option<Waiting<'_>> {
        let mut lines = self.lines.lock();
        if self.waiting.load(Ordering::Relaxed) >= max {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let scope = place(scope);
        let line = lines.entry(scope).or_insert_with(|| {
            Arc::new(Line {
                turn: Semaphore::new(1),
                requests: AtomicU64::new(0),
                tokens: AtomicU64::new(0),
            })
        });
        Some(Waiting {
            queue: self,
            scope,
            tokens,
            ahead: (
                line.requests.fetch_add(1, Ordering::Relaxed),
                line.tokens.fetch_add(tokens, Ordering::Relaxed),
            ),
            line: Arc::clone(line),
        })
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

fn place(limited: &Limited) -> usize {
    match &limited.sums {
        Sums::Address(slot) => Arc::as_ptr(slot) as usize,
        Sums::Named(scope) => Arc::as_ptr(scope) as usize,
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut lines = self.queue.lines.lock();
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
        self.line.tokens.fetch_sub(self.tokens, Ordering::Relaxed);
        if self.line.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            lines.remove(&self.scope);
        }
    }
}
