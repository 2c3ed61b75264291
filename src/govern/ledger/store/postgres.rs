//! The store in a database that several hosts share.

use super::super::entry::{Entry, Instance};
use super::super::report::{Label, Query, Row, Sums};
use super::super::segment::Name;
use super::super::settings::{Postgres as Settings, Tls};
use super::sql::{self, Kind, Value};
use super::tls::Connector;
use super::{Away, Posted};
use std::collections::HashMap;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, IsolationLevel, NoTls, Transaction};

/// An open connection; it is looked after while a call waits for it.
pub(in super::super) struct Postgres {
    runtime: Runtime,
    client: Client,
}

/// Longer than anything takes that goes well.
const PATIENCE: Duration = Duration::from_secs(60);
/// From nothing to a connection, on each address.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Rows in one statement.
const ROWS_MAX: usize = 1000;
/// Two weirs don't migrate at once.
const LOCK: i64 = 0x7765_6972;

impl Postgres {
    /// Connects; who comes `to_write` brings the tables up to date, who reads needs no right to.
    pub(super) fn connect(settings: &Settings, to_write: bool) -> Result<Self, Away> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut config = settings.config.clone();
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_PATIENCE);
        }
        let mut client = within(&runtime, open(config, settings))?;
        if to_write {
            within(&runtime, migrate(&mut client))?;
        }
        Ok(Self { runtime, client })
    }

    /// Whether somebody has made the tables.
    pub(super) fn has_tables(&mut self) -> Result<bool, Away> {
        let client = &self.client;
        within(&self.runtime, async {
            let look = "SELECT to_regclass('weir_schema') IS NOT NULL";
            Ok(client.query_one(look, &[]).await?.try_get(0)?)
        })
    }

    pub(super) fn carried(&mut self) -> Result<HashMap<Name, u64>, Away> {
        let client = &mut self.client;
        within(&self.runtime, async {
            let look = client.transaction().await?;
            segments(&look).await
        })
    }

    pub(super) fn carry(
        &mut self,
        segment: Name,
        end: u64,
        entries: &[Entry<'static>],
        now_ms: i64,
    ) -> Result<(), Away> {
        let client = &mut self.client;
        within(&self.runtime, async {
            let change = client.transaction().await?;
            let rows: Vec<_> = entries
                .iter()
                .map(|entry| sql::values(segment.instance, entry))
                .collect();
            insert(&change, &sql::upsert(&unnested()), &rows).await?;
            let carried = i64::try_from(end).unwrap_or(i64::MAX);
            let part = i64::from(segment.part);
            change
                .execute(
                    sql::NOTE_SEGMENT,
                    &[&segment.instance.number(), &part, &carried, &now_ms],
                )
                .await?;
            Ok(change.commit().await?)
        })
    }

    pub(super) fn retire(&mut self, day: i64, segments_before_ms: i64) -> Result<(), Away> {
        let client = &mut self.client;
        within(&self.runtime, async {
            let change = client.transaction().await?;
            // Every host of a fleet does this: each row may be summed up once.
            change
                .execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
                .await?;
            let before = day.saturating_mul(86_400_000);
            let moved = format!(
                "WITH gone AS ({} RETURNING *) {}",
                sql::FORGET_REQUESTS,
                sql::SUM_UP.replace("FROM weir_requests WHERE time_ms < $1", "FROM gone")
            );
            change.execute(&moved, &[&before]).await?;
            change
                .execute(sql::FORGET_SEGMENTS, &[&segments_before_ms])
                .await?;
            Ok(change.commit().await?)
        })
    }

    pub(super) fn report(
        &mut self,
        query: &Query,
        pending: impl FnOnce(&HashMap<Name, u64>) -> std::io::Result<Vec<Posted>>,
    ) -> Result<Vec<Row>, Away> {
        let client = &mut self.client;
        within(&self.runtime, async {
            let look = client
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .start()
                .await?;
            let carried = segments(&look).await?;
            let pending = pending(&carried)?;
            look.batch_execute(sql::PENDING).await?;
            let into = format!("INSERT INTO weir_pending ({}) {}", sql::names(), unnested());
            let rows: Vec<_> = pending
                .iter()
                .map(|(instance, entry)| sql::values(*instance, entry))
                .collect();
            insert(&look, &into, &rows).await?;
            let found = look
                .query(
                    &sql::report(query),
                    &[
                        &query.since_ms,
                        &query.until_ms,
                        &query.team,
                        &query.provider,
                    ],
                )
                .await?;
            // The table of what is pending goes with the rollback.
            found.iter().map(|row| read(row, query)).collect()
        })
    }
}

/// Connects as the mode says: the first way that leads there.
async fn open(mut config: Config, settings: &Settings) -> Result<Client, Away> {
    let is_unix = |host: &Host| matches!(host, Host::Unix(_));
    let ways: &[SslMode] = match settings.tls {
        _ if config.get_hosts().iter().all(is_unix) => &[SslMode::Disable],
        Tls::Disable => &[SslMode::Disable],
        Tls::Allow => &[SslMode::Disable, SslMode::Require],
        Tls::Prefer => &[SslMode::Prefer, SslMode::Disable],
        Tls::Require | Tls::VerifyCa | Tls::VerifyFull => &[SslMode::Require],
    };
    let mut failures = Vec::new();
    for way in ways {
        config.ssl_mode(*way);
        match open_by(&config, settings).await {
            Ok(client) => return Ok(client),
            Err(Away(failure)) if failures.contains(&failure) => {}
            Err(Away(failure)) => failures.push(failure),
        }
    }
    Err(Away(failures.join("; the other way: ")))
}

async fn open_by(config: &Config, settings: &Settings) -> Result<Client, Away> {
    // The connection is a task: it is done when the client is gone.
    if config.get_ssl_mode() == SslMode::Disable {
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        return Ok(client);
    }
    let tls = Connector::new(settings.tls, settings.roots.as_deref()).map_err(Away)?;
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn read(row: &tokio_postgres::Row, query: &Query) -> Result<Row, Away> {
    let width = query.by.len();
    let mut by = Vec::with_capacity(width);
    for (index, one) in query.by.iter().enumerate() {
        by.push(match one {
            super::super::report::By::Day => Label::Day(row.try_get(index)?),
            _ => {
                let text: Option<String> = row.try_get(index)?;
                text.map_or(Label::None, Label::Text)
            }
        });
    }
    let mut sums = [0; Sums::COUNT];
    for (index, sum) in sums.iter_mut().enumerate() {
        *sum = row.try_get(width + index)?;
    }
    Ok(Row {
        by,
        sums: Sums::of(sums),
    })
}

/// Waits for the database, but not for ever.
fn within<T>(runtime: &Runtime, work: impl Future<Output = Result<T, Away>>) -> Result<T, Away> {
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, work).await })
        .unwrap_or_else(|_| Err(Away(format!("it doesn't answer within {PATIENCE:?}"))))
}

async fn migrate(client: &mut Client) -> Result<(), Away> {
    let change = client.transaction().await?;
    change
        .execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
        .await?;
    change
        .batch_execute("CREATE TABLE IF NOT EXISTS weir_schema (version BIGINT NOT NULL)")
        .await?;
    let version: i64 = change
        .query_one("SELECT COALESCE(MAX(version), 0) FROM weir_schema", &[])
        .await?
        .try_get(0)?;
    let known = usize::try_from(version).unwrap_or_default();
    if known > sql::MIGRATIONS.len() {
        return Err(super::sqlite::newer(known));
    }
    for (number, migration) in sql::MIGRATIONS.iter().enumerate().skip(known) {
        change.batch_execute(migration).await?;
        let version = i64::try_from(number + 1).unwrap_or(i64::MAX);
        change
            .execute("INSERT INTO weir_schema (version) VALUES ($1)", &[&version])
            .await?;
    }
    Ok(change.commit().await?)
}

async fn segments(look: &Transaction<'_>) -> Result<HashMap<Name, u64>, Away> {
    let mut all = HashMap::new();
    for row in look.query(sql::SEGMENTS, &[]).await? {
        let (part, carried): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
        let name = Name {
            instance: Instance::of(row.try_get(0)?),
            part: u32::try_from(part).unwrap_or_default(),
        };
        all.insert(name, u64::try_from(carried).unwrap_or_default());
    }
    Ok(all)
}

/// Rows as arrays, one for each column.
fn unnested() -> String {
    let arrays: Vec<_> = sql::COLUMNS
        .iter()
        .enumerate()
        .map(|(index, (_, kind))| match kind {
            Kind::Number => format!("${}::BIGINT[]", index + 1),
            Kind::Text => format!("${}::TEXT[]", index + 1),
        })
        .collect();
    format!("SELECT * FROM UNNEST({})", arrays.join(", "))
}

async fn insert(
    change: &Transaction<'_>,
    into: &str,
    rows: &[[Value<'_>; 23]],
) -> Result<(), Away> {
    if rows.is_empty() {
        return Ok(());
    }
    let insert = change.prepare(into).await?;
    for rows in rows.chunks(ROWS_MAX) {
        let mut columns: Vec<Box<dyn ToSql + Sync>> = Vec::with_capacity(sql::COLUMNS.len());
        for (index, (_, kind)) in sql::COLUMNS.iter().enumerate() {
            columns.push(match kind {
                Kind::Number => Box::new(
                    rows.iter()
                        .map(|row| match &row[index] {
                            Value::Number(number) => *number,
                            Value::Text(_) => None,
                        })
                        .collect::<Vec<Option<i64>>>(),
                ),
                Kind::Text => Box::new(
                    rows.iter()
                        .map(|row| match &row[index] {
                            Value::Text(text) => text.as_ref().map(|text| text.to_string()),
                            Value::Number(_) => None,
                        })
                        .collect::<Vec<Option<String>>>(),
                ),
            });
        }
        let parameters: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| &**column).collect();
        change.execute(&insert, &parameters).await?;
    }
    Ok(())
}
