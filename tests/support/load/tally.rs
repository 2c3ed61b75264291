//! What a load has counted: what was done and what failed, by kind of client.

use super::super::gate::Board;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// Kinds of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A connection for each request.
    NewConnection,
    /// Connections that are kept for further requests.
    KeepAlive,
    /// HTTP/2 without TLS, several requests at once.
    Http2,
    /// TLS 1.3, a connection for each request, resumed.
    Tls,
    /// Open streams of events.
    Stream,
    /// An upgraded connection.
    WebSocket,
    /// The admin listener.
    Admin,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listened.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection ended before the answer did.
    Eof,
    /// Another answer than was expected.
    WrongBytes,
    /// Another status than was expected.
    Status(u16),
    /// Nothing came in time.
    Timeout,
    /// Something else.
    Other,
}

/// A failure and what is known of it.
#[derive(Debug)]
pub struct Failed {
    /// Which.
    pub failure: Failure,
    /// For people.
    pub detail: String,
}

/// Counts, for many to count in and one to wait for.
pub struct Tally {
    began: Instant,
    counts: Board<Counts>,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    done: BTreeMap<(Kind, &'static str), u64>,
    failed: BTreeMap<(Kind, Failure), u64>,
    /// The first ones in words.
    details: Vec<String>,
}

/// The count of requests that were answered as expected; of streams, those that came to their end.
pub const DONE: &str = "done";

// === impl Failed ===

impl Failed {
    /// With a detail.
    pub fn new(failure: Failure, detail: impl Into<String>) -> Self {
        Self {
            failure,
            detail: detail.into(),
        }
    }

    /// Says what was going on.
    pub fn during(mut self, what: &str) -> Self {
        self.detail = format!("{what}: {}", self.detail);
        self
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Is;
        let failure = match error.kind() {
            Is::ConnectionRefused => Failure::Refused,
            Is::ConnectionReset | Is::ConnectionAborted | Is::BrokenPipe => Failure::Reset,
            Is::UnexpectedEof | Is::NotConnected => Failure::Eof,
            Is::TimedOut => Failure::Timeout,
            _ => Failure::Other,
        };
        Self::new(failure, error.to_string())
    }
}

// === impl Tally ===

impl Tally {
    /// Nothing is counted yet.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            counts: Board::default(),
        }
    }

    /// Counts something that is no failure.
    pub fn count(&self, kind: Kind, what: &'static str) {
        self.counts
            .change(|counts| *counts.done.entry((kind, what)).or_default() += 1);
    }

    /// Counts a failure.
    pub fn fail(&self, kind: Kind, failed: &Failed) {
        /// Told in words, of each kind and failure.
        const DETAILS: u64 = 5;
        let at = self.began.elapsed();
        self.counts.change(|counts| {
            let Failed { failure, detail } = failed;
            let count = counts.failed.entry((kind, *failure)).or_default();
            *count += 1;
            if *count <= DETAILS {
                let detail = format!("{at:.3?} {kind:?} {failure:?}: {detail}");
                counts.details.push(detail);
            }
        });
    }

    /// The counts so far.
    pub fn now(&self) -> Counts {
        self.counts.lock().clone()
    }

    /// Waits until the counts are as wanted.
    #[track_caller]
    pub fn wait(&self, what: &str, within: Duration, fits: impl Fn(&Counts) -> bool) {
        let found = self
            .counts
            .wait_within(within, |counts| fits(counts).then_some(()));
        found.unwrap_or_else(|| panic!("waited {within:?} in vain for {what}:\n{}", self.now()));
    }
}

// === impl Counts ===

impl Counts {
    /// How often this was counted.
    pub fn of(&self, kind: Kind, what: &'static str) -> u64 {
        self.done.get(&(kind, what)).copied().unwrap_or_default()
    }

    /// Failures of a kind.
    pub fn failures(&self, kind: Kind) -> u64 {
        let failed = self.failed.iter().filter(|((of, _), _)| *of == kind);
        failed.map(|(_, count)| count).sum()
    }

    /// All failures.
    pub fn all_failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((kind, what), count) in &self.done {
            writeln!(f, "{:14} {what:24} {count:>8}", format!("{kind:?}"))?;
        }
        if self.failed.is_empty() {
            return writeln!(f, "no failures");
        }
        for ((kind, failure), count) in &self.failed {
            let failure = format!("FAILED {failure:?}");
            writeln!(f, "{:14} {failure:24} {count:>8}", format!("{kind:?}"))?;
        }
        self.details.iter().try_for_each(|it| writeln!(f, "  {it}"))
    }
}
