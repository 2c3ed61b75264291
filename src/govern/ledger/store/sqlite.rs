//! The store in a file. Readers and the one writer don't wait for each other (WAL).

use super::super::entry::Entry;
use super::super::report::{Query, Row, Sums};
use super::super::segment::Name;
use super::sql::{self, Value};
use super::{Away, Posted};
use crate::govern::ledger::entry::Instance;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql, Transaction, params, params_from_iter};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// An open file.
pub(in super::super) struct Sqlite(Connection);

/// Another process's write takes no longer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self, Away> {
        // SQLite would let everybody read it.
        let mut how = OpenOptions::new();
        how.append(true).create(true).mode(0o600).open(path)?;
        let mut db = Connection::open(path)?;
        db.busy_timeout(PATIENCE)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // What was carried goes from the journal: it must be durable here first.
        db.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut db)?;
        Ok(Self(db))
    }

    pub(super) fn empty() -> Result<Self, Away> {
        let mut db = Connection::open_in_memory()?;
        migrate(&mut db)?;
        Ok(Self(db))
    }

    pub(super) fn open_to_read(path: &Path) -> Result<Option<Self>, Away> {
        if !path.exists() {
            return Ok(None);
        }
        // Where it can't be written, what is in its WAL needs somebody who has it open.
        let open = |flags| Connection::open_with_flags(path, flags);
        let db = open(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .or_else(|_| {
                open(OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            })?;
        db.busy_timeout(PATIENCE)?;
        Ok((version(&db)? > 0).then_some(Self(db)))
    }

    pub(super) fn carried(&mut self) -> Result<HashMap<Name, u64>, Away> {
        segments(&self.0)
    }

    pub(super) fn carry(
        &mut self,
        segment: Name,
        end: u64,
        entries: &[Entry<'static>],
        now_ms: i64,
    ) -> Result<(), Away> {
        let change = self.0.transaction()?;
        {
            let mut insert =
                change.prepare(&own(&sql::upsert(&format!("VALUES ({})", marks()))))?;
            for entry in entries {
                insert.execute(params_from_iter(sql::values(segment.instance, entry)))?;
            }
            let carried = i64::try_from(end).unwrap_or(i64::MAX);
            change.prepare(&own(sql::NOTE_SEGMENT))?.execute(params![
                segment.instance.number(),
                i64::from(segment.part),
                carried,
                now_ms
            ])?;
        }
        Ok(change.commit()?)
    }

    pub(super) fn retire(&mut self, day: i64, segments_before_ms: i64) -> Result<(), Away> {
        let change = self.0.transaction()?;
        let before = day.saturating_mul(86_400_000);
        change.execute(&own(sql::SUM_UP), [before])?;
        change.execute(&own(sql::FORGET_REQUESTS), [before])?;
        change.execute(&own(sql::FORGET_SEGMENTS), [segments_before_ms])?;
        Ok(change.commit()?)
    }

    pub(super) fn report(
        &mut self,
        query: &Query,
        pending: impl FnOnce(&HashMap<Name, u64>) -> std::io::Result<Vec<Posted>>,
    ) -> Result<Vec<Row>, Away> {
        let look = self.0.transaction()?;
        let carried = segments(&look)?;
        let pending = pending(&carried)?;
        look.execute_batch(sql::PENDING)?;
        fill(&look, &pending)?;
        let mut select = look.prepare(&own(&sql::report(query)))?;
        let found = select.query_map(
            params![query.since_ms, query.until_ms, query.team, query.provider],
            |row| {
                let width = query.by.len();
                let mut by = Vec::with_capacity(width);
                for index in 0..width {
                    by.push(match row.get_ref(index)? {
                        ValueRef::Integer(day) => super::super::report::Label::Day(day),
                        ValueRef::Null => super::super::report::Label::None,
                        other => super::super::report::Label::Text(other.as_str()?.to_owned()),
                    });
                }
                let mut sums = [0; Sums::COUNT];
                for (index, sum) in sums.iter_mut().enumerate() {
                    *sum = row.get(width + index)?;
                }
                Ok(Row {
                    by,
                    sums: Sums::of(sums),
                })
            },
        )?;
        // The table of what is pending goes with the rollback.
        Ok(found.collect::<Result<_, _>>()?)
    }
}

fn migrate(db: &mut Connection) -> Result<(), Away> {
    let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let known = version(&change)?;
    if known > sql::MIGRATIONS.len() {
        return Err(newer(known));
    }
    for migration in &sql::MIGRATIONS[known..] {
        change.execute_batch(migration)?;
    }
    change.pragma_update(None, "user_version", sql::MIGRATIONS.len() as i64)?;
    Ok(change.commit()?)
}

/// The tables are of a weir that this one doesn't know.
pub(super) fn newer(version: usize) -> Away {
    Away(format!(
        "its tables have version {version}, from a newer weir; this one knows {}",
        sql::MIGRATIONS.len()
    ))
}

fn version(db: &Connection) -> Result<usize, Away> {
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(usize::try_from(version).unwrap_or_default())
}

fn segments(db: &Connection) -> Result<HashMap<Name, u64>, Away> {
    let mut select = db.prepare(sql::SEGMENTS)?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let mut all = HashMap::new();
    for row in rows {
        let (instance, part, carried): (i64, u32, i64) = row?;
        let instance = Instance::of(instance);
        all.insert(
            Name { instance, part },
            u64::try_from(carried).unwrap_or_default(),
        );
    }
    Ok(all)
}

fn fill(look: &Transaction<'_>, pending: &[Posted]) -> Result<(), Away> {
    let mut insert = look.prepare(&own(&format!(
        "INSERT INTO weir_pending ({}) VALUES ({})",
        sql::names(),
        marks()
    )))?;
    for (instance, entry) in pending {
        insert.execute(params_from_iter(sql::values(*instance, entry)))?;
    }
    Ok(())
}

/// `$1` as SQLite has it.
fn own(sql: &str) -> String {
    sql.replace('$', "?")
}

fn marks() -> String {
    vec!["?"; sql::COLUMNS.len()].join(", ")
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Number(number) => number.to_sql(),
            Self::Text(Some(text)) => Ok(ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes()))),
            Self::Text(None) => Ok(ToSqlOutput::Borrowed(ValueRef::Null)),
        }
    }
}
