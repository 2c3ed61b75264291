//! What every request has used, kept for whoever pays.
//!
//! Each settled request is a line of a journal, written before the answer's last byte goes
//! to the client: a weir that is killed loses none that was answered. A carrier brings the
//! lines into a store, SQLite or PostgreSQL, in its own time and as often as it takes; rows are
//! known by process and number, so that none counts twice. [`report()`] reads both.
//!
//! ```text
//! append ─▶ usage/INSTANCE.PART.ndjson ─ carrier (one a host) ─▶ usage.sqlite │ postgres
//!   │ disk full                │                                    │ older than `retain`
//!   ▼                          │ what isn't carried yet             ▼
//! memory, bounded              └──────────▶ report ◀────────── sums of days
//! ```
//!
//! It never decides whether a request may go on, and nothing here waits on a request's way but one
//! `write`. Called by `proxy::settle`; reports by `cli` and `admin`.

mod carrier;
pub mod entry;
mod journal;
pub mod report;
mod segment;
pub mod settings;
mod store;
#[cfg(test)]
mod tests;

pub use entry::Entry;
pub use report::{Query, Row, report};
pub use settings::Settings;

use crate::observe::Books;
use carrier::Carrier;
use journal::Journal;
use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The ledger of this process. Its threads end with [`Ledger::finish`], or with it.
#[derive(Debug)]
pub struct Ledger {
    journal: Arc<Journal>,
    carrier: Carrier,
}

/// Why the ledger can't be kept or read.
#[derive(Debug)]
pub struct Fault(String);

// === impl Ledger ===

impl Ledger {
    /// Opens the journal and starts the threads; nothing is carried before [`Ledger::lead`].
    ///
    /// # Errors
    /// Why the folder or a file in it can't be made. A store that is away is none: it is tried again.
    pub fn open(settings: &Settings, books: Books) -> Result<Self, Fault> {
        let journal = Journal::open(settings, books.clone())?;
        let carrier = Carrier::start(settings, books).map_err(|error| Fault(error.to_string()))?;
        Ok(Self { journal, carrier })
    }

    /// Writes one settled request down: one `write`, unless the disk takes none; then it waits in
    /// memory. An entry of a number that was there before replaces that one, unless it is provisional.
    pub fn append(&self, entry: &Entry<'_>) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            entry.write(line);
            self.journal.append(line);
        });
    }

    /// Says whether this process carries into the store. Of several that are told so, one does.
    pub fn lead(&self, leads: bool) {
        self.carrier.lead(leads);
    }

    /// Writes what waits, if the disk takes it by now, makes all of it durable, and ends the threads.
    pub fn finish(&self) {
        self.carrier.stop();
        self.journal.finish();
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.finish();
    }
}

// === impl Fault ===

impl Fault {
    fn of(what: &str, path: &Path, error: impl fmt::Display) -> Self {
        Self(format!("{what} {}: {error}", path.display()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}
