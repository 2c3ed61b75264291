//! `weir usage`: what was used, by whom, and whether a provider says the same.

mod csv;
mod reconcile;

use super::File;
use crate::app::{self, Fault};
use crate::govern::ledger::Query;
use crate::govern::ledger::report::{By, Label, Row, Sums};
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Sums up what requests used.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Usage {
    #[command(flatten)]
    asked: Asked,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Args)]
struct Asked {
    #[command(flatten)]
    file: File,
    /// One line for each: team, key, model, upstream_model, provider, day; several with commas
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = by)]
    by: Vec<By>,
    #[command(flatten)]
    time: Time,
    /// Of this team alone
    #[arg(long, value_name = "TEAM")]
    team: Option<String>,
    /// Of this provider alone
    #[arg(long, value_name = "PROVIDER")]
    provider: Option<String>,
    /// Print CSV, with costs to the last digit
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Time {
    /// From this day (YYYY-MM-DD, in UTC) or moment (RFC 3339) on, or for so long: 7d, 24h
    #[arg(long, value_name = "WHEN", value_parser = |text: &str| when(text, Utc::now(), false))]
    since: Option<i64>,
    /// Up to the end of this day, or to this moment
    #[arg(long, value_name = "WHEN", value_parser = |text: &str| when(text, Utc::now(), true))]
    until: Option<i64>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Compare with a provider's export, by day and model; exit status 1 where they differ
    Reconcile(reconcile::Reconcile),
}

/// The columns of sums, as they are named everywhere.
const SUMS: [&str; 7] = [
    "requests",
    "input",
    "output",
    "cached",
    "cache_write",
    "reasoning",
    "cost_usd",
];

impl Usage {
    /// Asks the ledger and prints the answer.
    ///
    /// # Errors
    /// The configuration keeps no usage, or it can't be read; a provider's figures are others.
    pub fn run(&self) -> Result<(), Fault> {
        match &self.what {
            Some(What::Reconcile(reconcile)) => reconcile.run(),
            None => self.asked.run(),
        }
    }
}

impl Asked {
    fn run(&self) -> Result<(), Fault> {
        let settings = self.file.source().load()?;
        let query = Query {
            since_ms: self.time.since.unwrap_or(i64::MIN),
            until_ms: self.time.until.unwrap_or(i64::MAX),
            team: self.team.clone(),
            provider: self.provider.clone(),
            ..Query::all(self.by.clone())
        };
        let rows = app::usage(&settings, &query)?;
        let text = match (self.csv, self.json) {
            (true, _) => self.csv(&rows),
            (_, true) => self.json(&rows)?,
            _ => self.table(&rows),
        };
        print!("{text}");
        let unpriced: i64 = rows.iter().map(|row| row.sums.unpriced).sum();
        if unpriced > 0 && !self.csv && !self.json {
            println!("\n{unpriced} requests have no price: cost_usd is without them");
        }
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        let by = self.by.iter().map(|by| by.name());
        by.chain(SUMS).map(str::to_owned).collect()
    }

    fn table(&self, rows: &[Row]) -> String {
        let mut lines = vec![self.names()];
        for row in rows {
            let labels = row.by.iter().map(|label| visible(&written(label, "-")));
            let sums = figures(&row.sums).into_iter();
            lines.push(labels.chain(sums).collect());
        }
        if !self.by.is_empty() && rows.len() > 1 {
            let total = rows.iter().fold(Sums::default(), |sum, row| sum + row.sums);
            let labels = (0..self.by.len()).map(|index| if index == 0 { "total" } else { "" });
            let labels = labels.map(str::to_owned);
            lines.push(labels.chain(figures(&total)).collect());
        }
        aligned(&lines, self.by.len())
    }

    fn csv(&self, rows: &[Row]) -> String {
        let mut text = csv::line(&self.names());
        for row in rows {
            let labels = row.by.iter().map(|label| written(label, ""));
            let cells: Vec<String> = labels.chain(figures(&row.sums)).collect();
            text += &csv::line(&cells);
        }
        text
    }

    fn json(&self, rows: &[Row]) -> Result<String, Fault> {
        let objects: Vec<Value> = rows
            .iter()
            .map(|row| {
                let mut object = json!({
                    "requests": row.sums.requests,
                    "input": row.sums.input,
                    "output": row.sums.output,
                    "cached": row.sums.cached,
                    "cache_write": row.sums.cache_write,
                    "reasoning": row.sums.reasoning,
                    "unpriced": row.sums.unpriced,
                    "cost_usd": dollars(row.sums.cost_pico).parse::<f64>().unwrap_or_default(),
                });
                for (by, label) in self.by.iter().zip(&row.by) {
                    object[by.name()] = match label {
                        Label::None => Value::Null,
                        label => written(label, "").into(),
                    };
                }
                object
            })
            .collect();
        let text = serde_json::to_string_pretty(&objects);
        let text = text.map_err(|error| Fault::Unusable(error.to_string()))?;
        Ok(text + "\n")
    }
}

/// The sums in the order of [`SUMS`].
fn figures(sums: &Sums) -> [String; 7] {
    [
        sums.requests.to_string(),
        sums.input.to_string(),
        sums.output.to_string(),
        sums.cached.to_string(),
        sums.cache_write.to_string(),
        sums.reasoning.to_string(),
        dollars(sums.cost_pico),
    ]
}

/// Exact, with cents at least.
fn dollars(pico: i128) -> String {
    const DOLLAR: u128 = 1_000_000_000_000;
    let (whole, part) = (pico.unsigned_abs() / DOLLAR, pico.unsigned_abs() % DOLLAR);
    let part = format!("{part:012}");
    let digits = part.trim_end_matches('0').len().max(2);
    let sign = if pico < 0 { "-" } else { "" };
    format!("{sign}{whole}.{}", &part[..digits])
}

fn written(label: &Label, none: &str) -> String {
    match label {
        Label::Day(day) => day_written(*day),
        Label::Text(text) => text.clone(),
        Label::None => none.to_owned(),
    }
}

fn day_written(day: i64) -> String {
    let date = DateTime::from_timestamp(day.saturating_mul(86_400), 0);
    date.map_or_else(|| day.to_string(), |date| date.date_naive().to_string())
}

/// Clients choose models' names: a terminal must not obey them.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Lines whose first cells are names, and the others numbers.
fn aligned(lines: &[Vec<String>], names: usize) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate();
        let cells: Vec<String> = cells
            .map(|(index, (cell, width))| match index < names {
                true => format!("{cell:width$}"),
                false => format!("{cell:>width$}"),
            })
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn by(text: &str) -> Result<By, String> {
    let named = |by: &By| by.name() == text.trim();
    (By::ALL.into_iter().find(named))
        .ok_or_else(|| "team, key, model, upstream_model, provider or day".into())
}

/// A moment in milliseconds since 1970.
fn when(text: &str, now: DateTime<Utc>, end: bool) -> Result<i64, String> {
    if let Ok(date) = text.parse::<NaiveDate>() {
        let day = date.and_time(NaiveTime::MIN).and_utc().timestamp_millis();
        return Ok(day + if end { 86_400_000 } else { 0 });
    }
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.timestamp_millis());
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let ago = digits.parse::<i64>().ok().filter(|count| *count >= 0);
    let ago = ago.and_then(|count| match &text[digits.len()..] {
        "d" => TimeDelta::try_days(count),
        "h" => TimeDelta::try_hours(count),
        "m" => TimeDelta::try_minutes(count),
        _ => None,
    });
    let moment = ago.and_then(|ago| now.checked_sub_signed(ago));
    moment
        .map(|moment| moment.timestamp_millis())
        .ok_or_else(|| "a day such as 2026-01-31, a moment, or a time such as 7d or 24h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_days_or_ago() {
        let now: DateTime<Utc> = "2026-03-02T12:00:00Z".parse().unwrap();
        let day = when("2026-03-01", now, false).unwrap();
        assert_eq!(when("2026-03-01", now, true).unwrap(), day + 86_400_000);
        assert_eq!(when("36h", now, false).unwrap(), day);
        assert_eq!(when("2026-03-01T00:00:00Z", now, true).unwrap(), day);
        for bad in ["", "yesterday", "7", "-1d", "2026-02-30", "9999999999999d"] {
            assert!(when(bad, now, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_are_exact() {
        assert_eq!(dollars(12_500_000_000_000), "12.50");
        assert_eq!(dollars(1), "0.000000000001");
        assert_eq!(dollars(-250_000_000_000), "-0.25");
    }

    #[test]
    fn a_name_cannot_command_a_terminal() {
        assert_eq!(visible("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
    }
}
