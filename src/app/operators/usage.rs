//! Sums of the ledger, as the admin API tells them.

use crate::admin::api::Trouble;
use crate::admin::api::nouns::{By, Usage, UsageQuery, UsageRow};
use crate::govern::ledger::report::{By as LedgerBy, Label, Row, Sums, report};
use crate::govern::ledger::{Query, Settings};
use chrono::DateTime;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// Rows of one answer.
const ROWS_MAX: usize = 10_000;

/// Asks the ledger; waits for its store.
pub(super) fn usage(settings: &Settings, asked: &UsageQuery) -> Result<Usage, Trouble> {
    let query = query(asked, SystemTime::now())?;
    let rows = report(settings, &query).map_err(|fault| Trouble::Failed(fault.to_string()))?;
    Ok(told(asked, &query.by, rows))
}

/// The ledger's question: what the rows are picked by, which it can't do itself, is one of its labels.
fn query(asked: &UsageQuery, now: SystemTime) -> Result<Query, Trouble> {
    let ms = |moment: SystemTime| match moment.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    };
    let outside = || Trouble::Wrong("since or until is outside of all time".into());
    let mut by: Vec<LedgerBy> = asked.by.0.iter().map(|by| ledger_by(*by)).collect();
    for (picked, label) in [(&asked.key, LedgerBy::Key), (&asked.model, LedgerBy::Model)] {
        if picked.is_some() && !by.contains(&label) {
            by.push(label);
        }
    }
    let since = asked.since.map(|it| it.since(now).ok_or_else(outside));
    let until = asked.until.map(|it| it.until(now).ok_or_else(outside));
    Ok(Query {
        since_ms: since.transpose()?.map_or(i64::MIN, ms),
        until_ms: until.transpose()?.map_or(i64::MAX, ms),
        team: asked.team.clone(),
        provider: asked.provider.clone(),
        ..Query::all(by)
    })
}

fn ledger_by(by: By) -> LedgerBy {
    match by {
        By::Team => LedgerBy::Team,
        By::Key => LedgerBy::Key,
        By::Model => LedgerBy::Model,
        By::UpstreamModel => LedgerBy::UpstreamModel,
        By::Provider => LedgerBy::Provider,
        By::Day => LedgerBy::Day,
    }
}

/// Rows as they were asked for: picked, and summed over the labels that they were only picked by.
fn told(asked: &UsageQuery, by: &[LedgerBy], rows: Vec<Row>) -> Usage {
    let place = |label| by.iter().position(|it| *it == label);
    let picks = [
        (place(LedgerBy::Key), &asked.key),
        (place(LedgerBy::Model), &asked.model),
    ];
    let fits = |row: &Row| {
        picks.iter().all(|(place, wanted)| match (place, wanted) {
            (Some(place), Some(wanted)) => {
                matches!(row.by.get(*place), Some(Label::Text(text)) if text == wanted)
            }
            _ => true,
        })
    };
    let mut sums: BTreeMap<Vec<Label>, Sums> = BTreeMap::new();
    for mut row in rows.into_iter().filter(fits) {
        row.by.truncate(asked.by.0.len());
        let sum = sums.entry(row.by).or_default();
        *sum = *sum + row.sums;
    }
    if sums.is_empty() && asked.by.0.is_empty() {
        sums.insert(Vec::new(), Sums::default());
    }
    let truncated = sums.len() > ROWS_MAX;
    let rows = sums.into_iter().take(ROWS_MAX);
    Usage {
        rows: rows
            .map(|(labels, sums)| row(&asked.by.0, labels, &sums))
            .collect(),
        truncated,
    }
}

fn row(by: &[By], labels: Vec<Label>, sums: &Sums) -> UsageRow {
    let whole = |sum: i64| u64::try_from(sum).unwrap_or_default();
    let mut row = UsageRow {
        requests: whole(sums.requests),
        input: whole(sums.input),
        output: whole(sums.output),
        cached: whole(sums.cached),
        cache_write: whole(sums.cache_write),
        reasoning: whole(sums.reasoning),
        unpriced: whole(sums.unpriced),
        cost_usd: sums.cost_pico as f64 / 1e12,
        ..UsageRow::default()
    };
    for (by, label) in by.iter().zip(labels) {
        let place = match by {
            By::Team => &mut row.team,
            By::Key => &mut row.key,
            By::Model => &mut row.model,
            By::UpstreamModel => &mut row.upstream_model,
            By::Provider => &mut row.provider,
            By::Day => &mut row.day,
        };
        *place = match label {
            Label::Day(day) => DateTime::from_timestamp(day.saturating_mul(86_400), 0)
                .map(|midnight| midnight.date_naive().to_string()),
            Label::Text(text) => Some(text),
            Label::None => None,
        };
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::ask::List;

    fn line(team: &str, key: &str, requests: i64) -> Row {
        let label = |text: &str| Label::Text(text.to_owned());
        let sums = Sums {
            requests,
            cost_pico: 500_000_000_000,
            ..Sums::default()
        };
        Row {
            by: vec![label(team), label(key)],
            sums,
        }
    }

    #[test]
    fn rows_are_picked_by_labels_that_nobody_sees() {
        let asked = UsageQuery {
            by: List(vec![By::Team]),
            key: Some("ci".into()),
            ..UsageQuery::default()
        };
        let query = query(&asked, SystemTime::now()).unwrap();
        assert_eq!(query.by, [LedgerBy::Team, LedgerBy::Key]);
        let rows = vec![line("a", "ci", 1), line("a", "cd", 2), line("b", "ci", 4)];
        let usage = told(&asked, &query.by, rows);
        let rows: Vec<_> = (usage.rows.iter())
            .map(|row| {
                (
                    row.team.as_deref(),
                    row.key.as_deref(),
                    row.requests,
                    row.cost_usd,
                )
            })
            .collect();
        assert_eq!(rows, [(Some("a"), None, 1, 0.5), (Some("b"), None, 4, 0.5)]);
        let all = UsageQuery {
            by: List::default(),
            ..asked
        };
        let rows = vec![line("ci", "a", 1)];
        let usage = told(&all, &[LedgerBy::Key, LedgerBy::Model], rows);
        assert_eq!((usage.rows.len(), usage.rows[0].requests), (1, 1));
        let usage = told(&all, &[LedgerBy::Key], Vec::new());
        assert_eq!(
            (usage.rows.len(), usage.rows[0].requests),
            (1, 0),
            "a sum of nothing"
        );
    }
}
