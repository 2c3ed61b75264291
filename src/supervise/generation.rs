//! What the supervisor knows of one generation. Holds facts; decides nothing.
//!
//! ```text
//!   starting ──ready──→ probation ──proved──→ serving ──another leads──→ draining ──→ (gone)
//!      └── fails ──→ (gone) ←── fails ──┘        ↑      ←─the leader died─┘   │
//!                                                any of them ──weir stops──→ stopping
//! ```

use super::link::Link;
use super::program::Stamp;
use super::protocol::{self, Order, Reloaded, Report, Summary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// Where a generation is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Starting,
    Probation,
    Serving,
    Draining,
    Stopping,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Probation => "probation",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// A socket that a generation holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Held {
    /// As in the table; empty where another supervisor gave it.
    pub(super) name: String,
    pub(super) address: String,
}

/// A living generation.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) pid: i32,
    /// Else it was adopted: it ends when its stream does.
    pub(super) is_child: bool,
    pub(super) version: String,
    pub(super) state: State,
    pub(super) started: Instant,
    /// The file that it was started from.
    pub(super) stamp: Option<Stamp>,
    pub(super) sockets: Vec<Held>,
    /// What it may have when it drains.
    pub(super) drain: Duration,
    pub(super) link: Rc<Link>,
    pub(super) summary: Summary,
    pub(super) report: Option<Report>,
    /// How many reports came.
    pub(super) reports: u64,
    /// When it last said anything.
    pub(super) heard: Instant,
    pub(super) is_ready: bool,
    /// It alone was told to end: it won't do as a successor, and one who leads is replaced.
    pub(super) is_leaving: bool,
    pub(super) failed: Option<String>,
    pub(super) reloaded: Option<Reloaded>,
    /// What it was last told of the others.
    pub(super) elsewhere: Summary,
    /// When what it still has is ended.
    pub(super) end_at: Option<Instant>,
    /// When it is killed.
    pub(super) kill_at: Option<Instant>,
    /// How its process ended; it is gone when its stream has ended too.
    pub(super) ending: Option<String>,
    pub(super) is_closed: bool,
}

impl Generation {
    pub(super) fn new(number: u64, pid: i32, link: Rc<Link>) -> Self {
        let now = Instant::now();
        Self {
            number,
            pid,
            is_child: true,
            version: String::new(),
            state: State::Starting,
            started: now,
            stamp: None,
            sockets: Vec::new(),
            drain: Duration::ZERO,
            link,
            summary: Summary::default(),
            report: None,
            reports: 0,
            heard: now,
            is_ready: false,
            is_leaving: false,
            failed: None,
            reloaded: None,
            elsewhere: Summary::default(),
            end_at: None,
            kill_at: None,
            ending: None,
            is_closed: false,
        }
    }

    pub(super) fn send(&self, order: &Order) {
        self.link.send(order);
    }

    pub(super) fn enter(&mut self, state: State) {
        if self.state != state {
            let (before, now) = (self.state.name(), state.name());
            tracing::info!(generation = self.number, before, now, "generation");
            self.state = state;
        }
    }

    /// Others lead: it finishes what it has.
    pub(super) fn drain(&mut self, close: Vec<usize>) {
        /// What it has to end streams in good order, past its own deadline.
        const GRACE: Duration = Duration::from_secs(10);
        let seconds = self.drain.as_secs();
        self.send(&Order::Drain { seconds, close });
        self.end_at = Instant::now().checked_add(self.drain + GRACE);
        self.enter(State::Draining);
    }

    /// What is open ends now; killed when it isn't gone by then.
    pub(super) fn end_within(&mut self, limit: Duration) {
        self.send(&Order::End);
        self.end_at = None;
        let at = Instant::now() + limit;
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Ends the process at once.
    pub(super) fn kill(&mut self) {
        self.kill_at = None;
        // A process that is reaped, or whose stream is closed and isn't ours, may be another's now.
        let is_its_own = if self.is_child {
            self.ending.is_none()
        } else {
            !self.is_closed
        };
        if is_its_own {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Nothing more is to come of it.
    pub(super) fn is_gone(&self) -> bool {
        self.is_closed && (!self.is_child || self.ending.is_some())
    }

    /// How it ended, with its own words.
    pub(super) fn epitaph(&self) -> String {
        let how = self.ending.as_deref().unwrap_or("ended");
        match &self.failed {
            Some(reason) => format!("{how}: {reason}"),
            None => how.to_owned(),
        }
    }

    pub(super) fn told(&self) -> protocol::Generation {
        protocol::Generation {
            number: self.number,
            pid: self.pid,
            version: self.version.clone(),
            state: self.state.name().to_owned(),
            age_seconds: self.started.elapsed().as_secs(),
            summary: self.summary.clone(),
        }
    }
}
