//! Waiting for a limit to let in, where a route says so. Among those that wait for the same scope teams
//! take fair turns (see [`Turns`]), and who came first goes first within a team. Bounded: so many wait, so
//! long at most; what can't be let in by then isn't kept waiting. Whoever stops waiting gives its place up
//! at once.

use super::Governor;
use super::grant::{Grant, Limited};
use super::limits::{Ask, Denied, latest};
use super::rate::Moment;
use super::scope::{Measure, Sums, Whose};
use crate::types::turns::{Ticket, Turns};
use crate::types::{Priority, Tenant};
use ahash::AHashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep_until, timeout_at};

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By the place of the scope in memory: who waits in a line holds its scope.
    lines: Mutex<AHashMap<usize, Arc<Line>>>,
    waiting: AtomicUsize,
}

/// Those that wait for one scope.
#[derive(Debug, Default)]
struct Line {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What whose turn it is asks for.
    first: Option<u64>,
    others: Turns<Tenant, (u64, Sender<First>)>,
}

/// It is somebody's turn. Dropping it makes it another's.
#[derive(Debug)]
struct First(Arc<Line>);

/// A place in a line. Dropping it gives it up.
struct Waiting<'q> {
    queue: &'q Queue,
    scope: usize,
    line: Arc<Line>,
    ticket: Option<Ticket<Tenant>>,
    turn: Receiver<First>,
    /// Requests and tokens of those before it.
    ahead: (u64, u64),
}

/// Whose turn is asked for.
#[derive(Clone, Debug)]
pub struct Whom {
    /// Whose requests share a turn.
    pub tenant: Tenant,
    /// How urgent it is.
    pub priority: Priority,
}

impl Governor {
    /// As [`Governor::admit`]; where a rate or what is in flight says no, it waits for its turn. Dropping
    /// the future takes nothing.
    ///
    /// # Errors
    /// What says no, when there is no place to wait, or when it couldn't be let in in time.
    pub async fn admit_in_turn(
        &self,
        grant: &mut Grant,
        ask: &Ask,
        whom: Whom,
    ) -> Result<(), Denied> {
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
        let Some(mut waiting) = self.queue.join(&scope, ask.tokens, whom, terms.size) else {
            let wait = denial(grant, &scope, ask, (0, 0))
                .wait()
                .unwrap_or_default();
            return Err(Denied::QueueFull { wait });
        };
        let expected = denial(grant, &scope, ask, waiting.ahead);
        if matches!(expected, Denied::Rate { wait, .. } if wait > terms.timeout) {
            return Err(expected);
        }
        let Ok(Ok(_turn)) = timeout_at(deadline, &mut waiting.turn).await else {
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
        /// What other processes and hosts give back is seen this late.
        const LOOK: Duration = Duration::from_millis(50);
        loop {
            // From here on it hears of what is given back.
            let freed = self.freed.notified();
            let Err(denied) = self.admit_drawing(grant, ask, Moment::now()).await else {
                return Ok(());
            };
            let now = Instant::now();
            let again = match denied {
                // A rate that other hosts share, of which nobody can say now when it lets in.
                Denied::Rate {
                    wait: Duration::ZERO,
                    per_minute: 1..,
                    ..
                } => now + LOOK,
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
    fn join(&self, scope: &Limited, tokens: u64, whom: Whom, max: usize) -> Option<Waiting<'_>> {
        let mut lines = self.lines.lock();
        if self.waiting.load(Ordering::Relaxed) >= max {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let scope = place(scope);
        let line = Arc::clone(lines.entry(scope).or_default());
        let (hand, turn) = channel();
        let (ticket, ahead) = line.join(tokens, whom, hand);
        Some(Waiting {
            queue: self,
            scope,
            line,
            ticket,
            turn,
            ahead,
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

// === impl Line ===

impl Line {
    /// Takes a place, and says how many requests and tokens are before it. Where nobody is, its turn has
    /// come, and it has no ticket.
    fn join(
        self: &Arc<Self>,
        tokens: u64,
        whom: Whom,
        hand: Sender<First>,
    ) -> (Option<Ticket<Tenant>>, (u64, u64)) {
        let mut state = self.state.lock();
        let Some(first) = state.first else {
            state.first = Some(tokens);
            // Its receiver is with the caller, so it can't be refused.
            drop(hand.send(First(Arc::clone(self))));
            return (None, (0, 0));
        };
        let Whom { tenant, priority } = whom;
        let ahead = state.others.ahead(&tenant, priority, tokens);
        let ahead = (
            1 + ahead.entries.round() as u64,
            first.saturating_add(ahead.tokens.round() as u64),
        );
        let ticket = state.others.push(tenant, priority, tokens, (tokens, hand));
        (Some(ticket), ahead)
    }

    /// Nobody is left in it.
    fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.first.is_none() && state.others.is_empty()
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let refused = {
            let mut state = self.0.state.lock();
            let next = state.others.pop(|_| true);
            state.first = next.as_ref().map(|(tokens, _)| *tokens);
            next.and_then(|(_, hand)| hand.send(Self(Arc::clone(&self.0))).err())
        };
        // Who left in this moment passes it on.
        drop(refused);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut lines = self.queue.lines.lock();
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
        let left = (self.ticket.as_ref()).and_then(|it| self.line.state.lock().others.remove(it));
        drop(left);
        // A turn that came and wasn't taken is passed on.
        self.turn.close();
        drop(self.turn.try_recv());
        if self.line.is_empty() {
            lines.remove(&self.scope);
        }
    }
}
