//! The store: single requests, sums of days, and how far each segment of the journal was carried.
//!
//! Two databases speak one SQL here, but for the names of parameters and how rows are handed over in
//! bulk. Every call waits for the database; only threads that serve nobody make one.

mod postgres;
mod sql;
mod sqlite;
mod tls;

use super::entry::{Entry, Instance};
use super::report::{Query, Row};
use super::segment::Name;
use super::settings::{Settings, Store as Kind};
use std::collections::HashMap;
use std::fmt;

/// An open store.
pub(super) enum Store {
    Sqlite(Box<sqlite::Sqlite>),
    Postgres(Box<postgres::Postgres>),
}

/// What a database says, without secrets.
#[derive(Debug)]
pub(super) struct Away(String);

/// An entry and the process that it is of.
pub(super) type Posted = (Instance, Entry<'static>);

/// One call for both kinds.
macro_rules! both {
    ($store:expr, $it:ident => $call:expr) => {
        match $store {
            Store::Sqlite($it) => $call.map_err(Away::from),
            Store::Postgres($it) => $call.map_err(Away::from),
        }
    };
}

impl Store {
    /// Opens the store and brings its tables up to date.
    pub(super) fn open(settings: &Settings) -> Result<Self, Away> {
        Ok(match &settings.store {
            Kind::Sqlite => Self::Sqlite(Box::new(sqlite::Sqlite::open(&settings.sqlite())?)),
            Kind::Postgres(at) => Self::Postgres(Box::new(postgres::Postgres::connect(at, true)?)),
        })
    }

    /// Opens it to read from; `None` where there is none yet.
    pub(super) fn open_to_read(settings: &Settings) -> Result<Option<Self>, Away> {
        match &settings.store {
            Kind::Sqlite => {
                let sqlite = sqlite::Sqlite::open_to_read(&settings.sqlite())?;
                Ok(sqlite.map(|it| Self::Sqlite(Box::new(it))))
            }
            Kind::Postgres(at) => {
                let mut postgres = postgres::Postgres::connect(at, false)?;
                let known = postgres.has_tables()?;
                Ok(known.then(|| Self::Postgres(Box::new(postgres))))
            }
        }
    }

    /// One with nothing in it, for as long as it is asked.
    pub(super) fn empty() -> Result<Self, Away> {
        Ok(Self::Sqlite(Box::new(sqlite::Sqlite::empty()?)))
    }

    /// How far each segment was carried.
    pub(super) fn carried(&mut self) -> Result<HashMap<Name, u64>, Away> {
        both!(self, it => it.carried())
    }

    /// Carries entries, and notes that the segment was carried up to `end`: both or nothing. An entry
    /// that is there already stays, unless it was provisional.
    pub(super) fn carry(
        &mut self,
        segment: Name,
        end: u64,
        entries: Vec<Entry<'static>>,
        now_ms: i64,
    ) -> Result<(), Away> {
        let entries = newest(entries);
        both!(self, it => it.carry(segment, end, &entries, now_ms))
    }

    /// Sums up whole days before `day` (since 1970) and forgets their single requests, and segments that
    /// were carried long ago.
    pub(super) fn retire(&mut self, day: i64, segments_before_ms: i64) -> Result<(), Away> {
        both!(self, it => it.retire(day, segments_before_ms))
    }

    /// Sums of what is in the store and of what `pending` adds to it, given how far each segment was
    /// carried: all at one moment.
    pub(super) fn report(
        &mut self,
        query: &Query,
        pending: impl FnOnce(&HashMap<Name, u64>) -> std::io::Result<Vec<Posted>>,
    ) -> Result<Vec<Row>, Away> {
        both!(self, it => it.report(query, pending))
    }
}

/// Of each number the last word.
fn newest(entries: Vec<Entry<'static>>) -> Vec<Entry<'static>> {
    let mut at: HashMap<u64, usize> = HashMap::with_capacity(entries.len());
    let mut kept: Vec<Entry<'static>> = Vec::with_capacity(entries.len());
    for entry in entries {
        match at.get(&entry.number) {
            Some(place) if kept[*place].revision >= entry.revision => {}
            Some(place) => kept[*place] = entry,
            None => {
                at.insert(entry.number, kept.len());
                kept.push(entry);
            }
        }
    }
    kept
}

// === impl Away ===

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<rusqlite::Error> for Away {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for Away {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<tokio_postgres::Error> for Away {
    fn from(error: tokio_postgres::Error) -> Self {
        use std::error::Error;
        // Alone it says what failed and not why.
        match error.source() {
            Some(source) => Self(format!("{error}: {source}")),
            None => Self(error.to_string()),
        }
    }
}
