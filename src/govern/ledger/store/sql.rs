//! The tables, and what is asked of them, in the SQL that SQLite and PostgreSQL share. Parameters are
//! written `$1`; SQLite wants `?1`.

use super::super::entry::{Entry, Instance};
use super::super::report::Query;
use crate::types::Money;
use std::borrow::Cow;
use std::fmt::Write;

/// What each version of the tables adds to the one before.
pub(super) const MIGRATIONS: &[&str] = &["
    CREATE TABLE weir_requests (
        instance BIGINT NOT NULL,
        number BIGINT NOT NULL,
        revision BIGINT NOT NULL,
        time_ms BIGINT NOT NULL,
        request_id TEXT NOT NULL,
        team TEXT,
        key TEXT,
        model TEXT,
        upstream_model TEXT,
        provider TEXT,
        endpoint TEXT,
        input BIGINT NOT NULL,
        output BIGINT NOT NULL,
        cached BIGINT NOT NULL,
        cache_write BIGINT NOT NULL,
        reasoning BIGINT NOT NULL,
        source TEXT,
        cost_pico BIGINT,
        status BIGINT NOT NULL,
        ending TEXT NOT NULL,
        stream BIGINT NOT NULL,
        latency_ms BIGINT NOT NULL,
        ttft_ms BIGINT,
        PRIMARY KEY (instance, number)
    );
    CREATE INDEX weir_requests_time ON weir_requests (time_ms);
    CREATE TABLE weir_days (
        day BIGINT NOT NULL,
        team TEXT,
        key TEXT,
        model TEXT,
        upstream_model TEXT,
        provider TEXT,
        requests BIGINT NOT NULL,
        input BIGINT NOT NULL,
        output BIGINT NOT NULL,
        cached BIGINT NOT NULL,
        cache_write BIGINT NOT NULL,
        reasoning BIGINT NOT NULL,
        cost_micro BIGINT NOT NULL,
        cost_rest BIGINT NOT NULL,
        unpriced BIGINT NOT NULL
    );
    CREATE INDEX weir_days_day ON weir_days (day);
    CREATE TABLE weir_segments (
        instance BIGINT NOT NULL,
        part BIGINT NOT NULL,
        carried BIGINT NOT NULL,
        time_ms BIGINT NOT NULL,
        PRIMARY KEY (instance, part)
    );
"];

/// Columns of a request, in order.
pub(super) const COLUMNS: &[(&str, Kind)] = &[
    ("instance", Kind::Number),
    ("number", Kind::Number),
    ("revision", Kind::Number),
    ("time_ms", Kind::Number),
    ("request_id", Kind::Text),
    ("team", Kind::Text),
    ("key", Kind::Text),
    ("model", Kind::Text),
    ("upstream_model", Kind::Text),
    ("provider", Kind::Text),
    ("endpoint", Kind::Text),
    ("input", Kind::Number),
    ("output", Kind::Number),
    ("cached", Kind::Number),
    ("cache_write", Kind::Number),
    ("reasoning", Kind::Number),
    ("source", Kind::Text),
    ("cost_pico", Kind::Number),
    ("status", Kind::Number),
    ("ending", Kind::Text),
    ("stream", Kind::Number),
    ("latency_ms", Kind::Number),
    ("ttft_ms", Kind::Number),
];

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Text,
}

/// What stands in a column.
pub(super) enum Value<'e> {
    Number(Option<i64>),
    Text(Option<Cow<'e, str>>),
}

/// The values of [`COLUMNS`].
pub(super) fn values<'e>(instance: Instance, entry: &'e Entry<'_>) -> [Value<'e>; 23] {
    /// So that sums of many fit: an upstream may say what it likes.
    const NUMBER_MAX: u64 = 1_000_000_000_000;
    let number = |number: u64| {
        Value::Number(Some(
            i64::try_from(number.min(NUMBER_MAX)).unwrap_or(i64::MAX),
        ))
    };
    let text = |text: &'e Option<Cow<'_, str>>| Value::Text(text.as_deref().map(clean));
    [
        Value::Number(Some(instance.number())),
        Value::Number(i64::try_from(entry.number).ok()),
        number(entry.revision.into()),
        Value::Number(Some(entry.time_ms)),
        Value::Text(Some(clean(&entry.request_id))),
        text(&entry.team),
        text(&entry.key),
        text(&entry.model),
        text(&entry.upstream_model),
        text(&entry.provider),
        text(&entry.endpoint),
        number(entry.input),
        number(entry.output),
        number(entry.cached),
        number(entry.cache_write),
        number(entry.reasoning),
        text(&entry.source),
        Value::Number(entry.cost.map(Money::pico)),
        number(entry.status.into()),
        Value::Text(Some(clean(&entry.end))),
        number(entry.stream.into()),
        number(entry.latency_ms),
        entry.ttft_ms.map_or(Value::Number(None), number),
    ]
}

/// PostgreSQL's texts hold no NUL.
fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

pub(super) fn names() -> String {
    let names: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// Puts rows that `source` names into the table; what is there already stays unless it was provisional.
pub(super) fn upsert(source: &str) -> String {
    let replaced: Vec<_> = COLUMNS
        .iter()
        .map(|(name, _)| format!("{name} = excluded.{name}"))
        .collect();
    format!(
        "INSERT INTO weir_requests ({}) {source} ON CONFLICT (instance, number) DO UPDATE SET {} \
         WHERE excluded.revision > weir_requests.revision",
        names(),
        replaced.join(", ")
    )
}

/// `$1` instance, `$2` part, `$3` carried, `$4` time.
pub(super) const NOTE_SEGMENT: &str = "INSERT INTO weir_segments (instance, part, carried, time_ms) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (instance, part) DO UPDATE SET \
     carried = excluded.carried, time_ms = excluded.time_ms";

pub(super) const SEGMENTS: &str = "SELECT instance, part, carried FROM weir_segments";

/// `$1`: the first moment, in milliseconds, that isn't summed up.
pub(super) const SUM_UP: &str = "INSERT INTO weir_days (day, team, key, model, upstream_model, provider, \
     requests, input, output, cached, cache_write, reasoning, cost_micro, cost_rest, unpriced) \
     SELECT time_ms / 86400000, team, key, model, upstream_model, provider, COUNT(*), \
     CAST(SUM(input) AS BIGINT), CAST(SUM(output) AS BIGINT), CAST(SUM(cached) AS BIGINT), \
     CAST(SUM(cache_write) AS BIGINT), CAST(SUM(reasoning) AS BIGINT), \
     CAST(SUM(COALESCE(cost_pico, 0) / 1000000) AS BIGINT), \
     CAST(SUM(COALESCE(cost_pico, 0) % 1000000) AS BIGINT), \
     CAST(SUM(CASE WHEN cost_pico IS NULL THEN 1 ELSE 0 END) AS BIGINT) \
     FROM weir_requests WHERE time_ms < $1 \
     GROUP BY time_ms / 86400000, team, key, model, upstream_model, provider";

/// `$1` as in [`SUM_UP`].
pub(super) const FORGET_REQUESTS: &str = "DELETE FROM weir_requests WHERE time_ms < $1";

/// `$1`: milliseconds.
pub(super) const FORGET_SEGMENTS: &str = "DELETE FROM weir_segments WHERE time_ms < $1";

/// A table of this connection alone, for what isn't carried yet.
pub(super) const PENDING: &str =
    "CREATE TEMP TABLE weir_pending AS SELECT * FROM weir_requests LIMIT 0";

/// Sums: `$1` since and `$2` until, in milliseconds, `$3` team, `$4` provider. Columns: those of
/// [`Query::by`], and then nine sums.
pub(super) fn report(query: &Query) -> String {
    const EACH: &str = "time_ms / 86400000 AS day, team, key, model, \
         COALESCE(upstream_model, model) AS upstream_model, provider, 1 AS requests, input, output, \
         cached, cache_write, reasoning, COALESCE(cost_pico, 0) / 1000000 AS cost_micro, \
         COALESCE(cost_pico, 0) % 1000000 AS cost_rest, \
         CASE WHEN cost_pico IS NULL THEN 1 ELSE 0 END AS unpriced";
    let by: Vec<_> = query.by.iter().map(|by| by.name()).collect();
    let mut sql = "SELECT ".to_owned();
    for name in &by {
        let _ = write!(sql, "{name}, ");
    }
    for (index, sum) in [
        "requests",
        "input",
        "output",
        "cached",
        "cache_write",
        "reasoning",
        "cost_micro",
        "cost_rest",
        "unpriced",
    ]
    .iter()
    .enumerate()
    {
        let comma = if index > 0 { ", " } else { "" };
        let _ = write!(sql, "{comma}CAST(COALESCE(SUM({sum}), 0) AS BIGINT)");
    }
    let _ = write!(
        sql,
        " FROM (SELECT {EACH} FROM weir_requests r WHERE time_ms >= $1 AND time_ms < $2 \
         AND NOT EXISTS (SELECT 1 FROM weir_pending p WHERE p.instance = r.instance \
         AND p.number = r.number AND p.revision > r.revision) \
         UNION ALL SELECT {EACH} FROM weir_pending p WHERE time_ms >= $1 AND time_ms < $2 \
         AND NOT EXISTS (SELECT 1 FROM weir_requests r WHERE p.instance = r.instance \
         AND p.number = r.number AND p.revision <= r.revision) \
         UNION ALL SELECT day, team, key, model, COALESCE(upstream_model, model), provider, requests, \
         input, output, cached, cache_write, reasoning, cost_micro, cost_rest, unpriced \
         FROM weir_days WHERE day * 86400000 >= $1 AND day * 86400000 < $2) AS used \
         WHERE (CAST($3 AS TEXT) IS NULL OR team = CAST($3 AS TEXT)) \
         AND (CAST($4 AS TEXT) IS NULL OR provider = CAST($4 AS TEXT))"
    );
    if !by.is_empty() {
        let by = by.join(", ");
        let _ = write!(sql, " GROUP BY {by}");
    }
    sql
}
