//! What the supervisor and its generations say to each other: one JSON value a line, over a pair of
//! Unix stream sockets that the generation inherits. Whoever gets a line with an unknown `kind` skips
//! it: the two ends may be of different versions.
//!
//! State goes from generation to generation by message, not by shared memory (but for the sums that may
//! not be a second old: `govern::accounts`): the supervisor keeps
//! each generation's last [`Report`], hands those of the others to whoever asks, and gives those of
//! the dead to the one that leads, which adds their totals to its own. A message needs no layout that
//! two versions must share to the byte, no unsafe code, and can't be torn by a crash; what it costs is
//! that a count of another generation can be a second old. The supervisor never looks inside `state`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The variable of the environment that tells a generation what it inherits: a [`Inheritance`] in
/// JSON.
pub const INHERITANCE: &str = "WEIR_GENERATION";

/// What a generation finds among its descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inheritance {
    /// Its number; each is higher than all before.
    pub number: u64,
    /// The descriptor of its end of the conversation.
    pub channel: i32,
    /// The descriptors of [`super::settings::Plan::sockets`], in the same order.
    pub sockets: Vec<i32>,
    /// The one that systemd, or whoever else restarts a supervisor, keeps the sockets for: when the
    /// supervisor vanishes, this generation goes on and looks for the new one at this control socket.
    /// `None`: it drains.
    pub control: Option<std::path::PathBuf>,
}

/// From the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Order {
    /// The first line: what is known from others, before anything is accepted. `totals` are the
    /// reports of generations that ended and that no living one has added to its own.
    Begin {
        /// State of the generation that leads, or that led last.
        state: Option<Value>,
        /// Reports of the dead.
        totals: Vec<Report>,
        /// Nobody serves: be ready at once, warm or not.
        #[serde(default)]
        urgent: bool,
    },
    /// This one alone accepts from now on: watch files, renew certificates.
    Lead,
    /// A generation ended: add its totals (see [`Report::absorbed`]).
    Absorb {
        /// Its last report.
        report: Box<Report>,
    },
    /// Another one leads: accept no more, finish what is open within `seconds`, then exit. The
    /// descriptors of the sockets stay open, but for those at the places of `close` in
    /// [`Inheritance::sockets`]: what waits there is accepted before they are closed.
    Drain {
        /// From now; then open streams end with an error event.
        seconds: u64,
        /// Sockets that the new configuration has no more.
        close: Vec<usize>,
    },
    /// The one that led is gone: accept again until told to drain once more.
    Resume,
    /// weir stops: as `Drain`, but every socket is closed at once.
    Stop {
        /// From now.
        seconds: u64,
    },
    /// What is still open ends now, with an error event.
    End,
    /// Load the configuration and swap, see [`Told::Reloaded`].
    Reload,
    /// Open the log files anew.
    Reopen,
    /// Answer with [`Told::Report`].
    Report,
    /// Answer with [`Told::Answer`].
    Question {
        /// Comes back with the answer.
        id: u64,
        /// What is asked; the supervisor never looks inside.
        question: Value,
    },
    /// The answer to [`Told::Ask`].
    Others {
        /// As in the question.
        id: u64,
        /// Of all other living generations: fresh where one answered in time, else its last.
        reports: Vec<Report>,
        /// Of the dead whose totals nobody has added yet.
        #[serde(default)]
        dead: Vec<Report>,
    },
    /// What all other living generations carry together, by their last beats: the caps of the host
    /// are shared. Sent when it has changed, at most once a second.
    Elsewhere {
        /// Sums.
        summary: Summary,
    },
}

/// From a generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Told {
    /// It accepts.
    Ready {
        /// Version of its program.
        version: String,
    },
    /// It can't start, and exits.
    Failed {
        /// A sentence.
        reason: String,
    },
    /// The answer to [`Order::Reload`].
    Reloaded {
        /// What came of it.
        outcome: Reloaded,
    },
    /// The file was changed (`watch: true`), and this came of it. Never [`Reloaded::NeedsGeneration`], for
    /// which there is [`Told::WantGeneration`].
    Watched {
        /// What came of it.
        outcome: Reloaded,
    },
    /// The file was changed (`watch: true`) in a way that only a new generation can follow.
    WantGeneration {
        /// Which keys.
        keys: Vec<String>,
    },
    /// It alone was told to end (SIGTERM): another one is wanted at once. It goes on accepting until it is
    /// told to drain.
    Leaving,
    /// At least once a second: it lives.
    Beat {
        /// For `weir status`, and for the caps that generations share.
        summary: Summary,
    },
    /// Every few seconds, when asked, and last of all before it exits.
    Report {
        /// All that it knows.
        report: Box<Report>,
    },
    /// The others' reports are wanted; see [`Order::Others`].
    Ask {
        /// Comes back with the answer.
        id: u64,
    },
    /// The answer to [`Order::Question`].
    Answer {
        /// As in the question.
        id: u64,
        /// What the generation knows, or did.
        answer: Value,
    },
}

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Reloaded {
    /// The new configuration serves.
    Applied {
        /// See [`Summary::config_hash`].
        config_hash: String,
    },
    /// It has mistakes; the old one serves.
    Refused {
        /// All of them.
        reason: String,
    },
    /// Nothing was swapped: these keys need a new generation.
    NeedsGeneration {
        /// Which.
        keys: Vec<String>,
    },
}

/// A generation in a few numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Tells one configuration from another; for people.
    pub config_hash: String,
    /// Open client connections.
    pub connections: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Bytes held in request buffers.
    pub buffered_bytes: u64,
    /// Requests in flight whose answer has begun and is a stream of events.
    pub streams: u64,
    /// Age of the oldest of them, seconds.
    pub oldest_stream_seconds: Option<u64>,
    /// Model servers that are not tried now, or after others, each with the reason; for people.
    pub unwell: Vec<String>,
}

/// All that one generation knows and others need.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Which generation.
    pub generation: u64,
    /// Numbers of the ended generations whose totals are in this report.
    pub absorbed: Vec<u64>,
    /// It has been told to drain, and has stopped doing what only the one that leads does.
    pub drains: bool,
    /// As in its last beat.
    pub summary: Summary,
    /// Its metrics in Prometheus' text format.
    pub metrics: String,
    /// What a successor begins with: ticket keys, limits, names that were resolved.
    pub state: Value,
}

/// A line on the control socket (`weir reload`, `weir upgrade`, `weir status`, …).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Make live what is on disk: the configuration; the program too where it was replaced.
    Reload,
    /// A new generation of the program on disk, replaced or not.
    Upgrade,
    /// Open the log files anew.
    Reopen,
    /// Tell of the generations.
    Status,
    /// Ask the generation that leads something that the supervisor itself doesn't know.
    Question {
        /// What is asked.
        question: Value,
        /// Ask all living generations, the one that leads first.
        #[serde(default)]
        everyone: bool,
    },
    /// A generation whose supervisor vanished offers itself; from here on the line speaks
    /// [`Told`] and [`Order`].
    Adopt {
        /// Its number.
        number: u64,
        /// Its process.
        pid: i32,
        /// Where its listening sockets are bound, in the order of [`Inheritance::sockets`].
        #[serde(default)]
        sockets: Vec<String>,
    },
}

/// The one answer to a [`Command`], when all is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// It was done.
    pub ok: bool,
    /// A sentence that says what was done, or why not and who serves now.
    pub message: String,
    /// For [`Command::Status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// For [`Command::Question`]: one answer a generation, the leader's first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Value>,
}

impl Outcome {
    /// It was done.
    pub fn done(message: impl Into<String>) -> Self {
        Self {
            ok: true,
            message: message.into(),
            status: None,
            answers: Vec::new(),
        }
    }

    /// It wasn't done.
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            ok: false,
            ..Self::done(message)
        }
    }
}

/// What `weir status` tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The supervisor's process.
    pub pid: i32,
    /// Its version.
    pub version: String,
    /// How the last reload or upgrade ended, and when (RFC 3339).
    pub last: Option<Last>,
    /// The newest last.
    pub generations: Vec<Generation>,
}

/// A reload or upgrade that is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Last {
    /// `reload` or `upgrade`.
    pub what: String,
    /// When it ended (RFC 3339).
    pub at: String,
    /// As in [`Outcome`].
    pub ok: bool,
    /// As in [`Outcome`].
    pub message: String,
}

/// A living generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// Its process.
    pub pid: i32,
    /// Version of its program.
    pub version: String,
    /// `starting`, `probation`, `serving`, `draining` or `stopping`.
    pub state: String,
    /// Since it was started.
    pub age_seconds: u64,
    /// Its last beat.
    pub summary: Summary,
}
