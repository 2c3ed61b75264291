//! `weir usage reconcile`: a provider's export beside the ledger.

use super::{By, File, Label, Query, aligned, csv, day_written, visible};
use crate::app::{self, Fault};
use chrono::{DateTime, NaiveDate};
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Compares with a provider's export, by day (UTC) and model.
///
/// Exports of OpenAI (usage of completions and embeddings) and Anthropic (usage by day) are recognised
/// by their columns; others are told with --columns. A date at the end of a model's name doesn't
/// count: gpt-4o-2024-08-06 is gpt-4o. Only days that are in the export are compared.
#[derive(Debug, Args)]
pub(super) struct Reconcile {
    /// The export, in CSV
    export: PathBuf,
    #[command(flatten)]
    file: File,
    /// Only what this provider answered
    #[arg(long, value_name = "PROVIDER")]
    provider: Option<String>,
    /// Columns of the export, such as day=date,model=name,input=in_fresh+in_cached,output=out;
    /// also cached and requests
    #[arg(long, value_name = "LIST", value_parser = Columns::told)]
    columns: Option<Columns>,
}

/// Which columns hold what; several are added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Columns {
    day: String,
    model: String,
    /// Of [`FIGURES`].
    figures: [Vec<String>; 4],
}

/// What is compared.
const FIGURES: [&str; 4] = ["requests", "input", "output", "cached"];

/// Figures of one day and model.
type Table = BTreeMap<(i64, String), [i64; 4]>;

impl Reconcile {
    /// Prints what differs.
    pub(super) fn run(&self) -> Result<(), Fault> {
        let fault = |what: String| Fault::Unusable(format!("{}: {what}", self.export.display()));
        let settings = self.file.source().load()?;
        let text =
            std::fs::read_to_string(&self.export).map_err(|error| fault(error.to_string()))?;
        let records = csv::read(&text).map_err(fault)?;
        let Some((head, records)) = records.split_first() else {
            return Err(fault("an empty file".into()));
        };
        let columns = match &self.columns {
            Some(columns) => columns.clone(),
            None => Columns::recognised(head).ok_or_else(|| {
                fault(
                    "columns of no export that is known; say --columns \
                     day=…,model=…,input=…,output=…"
                        .into(),
                )
            })?,
        };
        let theirs = columns.read(head, records).map_err(fault)?;
        let (Some(first), Some(last)) = (
            theirs.keys().map(|(day, _)| *day).min(),
            theirs.keys().map(|(day, _)| *day).max(),
        ) else {
            return Err(fault("no lines below its head".into()));
        };
        let query = Query {
            since_ms: first.saturating_mul(DAY_MS),
            until_ms: last.saturating_add(1).saturating_mul(DAY_MS),
            provider: self.provider.clone(),
            ..Query::all(vec![By::Day, By::UpstreamModel])
        };
        let mut ours = Table::new();
        for row in app::usage(&settings, &query)? {
            let (Label::Day(day), model) = (&row.by[0], &row.by[1]) else {
                continue;
            };
            let model = match model {
                Label::Text(model) => undated(model),
                _ => String::new(),
            };
            let sums = row.sums;
            let found = [sums.requests, sums.input, sums.output, sums.cached];
            add(ours.entry((*day, model)).or_default(), found);
        }
        let compared: Vec<usize> = (0..FIGURES.len())
            .filter(|index| !columns.figures[*index].is_empty())
            .collect();
        let all = theirs.keys().chain(ours.keys()).cloned();
        let all: std::collections::BTreeSet<_> = all.collect();
        let total = all.len();
        let mut lines = Vec::new();
        for key in all {
            let figures = |table: &Table| table.get(&key).copied().unwrap_or_default();
            let (ours, theirs) = (figures(&ours), figures(&theirs));
            for index in &compared {
                let (ours, theirs) = (ours[*index], theirs[*index]);
                if ours != theirs {
                    lines.push(vec![
                        day_written(key.0),
                        visible(&key.1),
                        FIGURES[*index].to_owned(),
                        ours.to_string(),
                        theirs.to_string(),
                        format!("{:+}", ours.saturating_sub(theirs)),
                    ]);
                }
            }
        }
        if lines.is_empty() {
            println!("no difference in {total} days and models");
            return Ok(());
        }
        let differing: std::collections::BTreeSet<_> =
            lines.iter().map(|line| line[..2].to_vec()).collect();
        let differing = differing.len();
        let head = ["day", "model", "figure", "weir", "export", "difference"];
        lines.insert(0, head.map(str::to_owned).to_vec());
        print!("{}", aligned(&lines, 3));
        Err(Fault::Unusable(format!(
            "{differing} of {total} days and models differ"
        )))
    }
}

const DAY_MS: i64 = 86_400_000;

fn add(sums: &mut [i64; 4], more: [i64; 4]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = sum.saturating_add(more);
    }
}

/// Names of columns, by exports that are known: day, model, requests, input, output, cached.
const KNOWN: &[(&str, &str, [&str; 4])] = &[
    // Anthropic's console.
    (
        "usage_date_utc",
        "model_version",
        [
            "",
            "usage_input_tokens_no_cache+usage_input_tokens_cache_write_5m\
             +usage_input_tokens_cache_write_1h+usage_input_tokens_cache_read",
            "usage_output_tokens",
            "usage_input_tokens_cache_read",
        ],
    ),
    // Anthropic's usage API.
    (
        "starting_at",
        "model",
        [
            "",
            "uncached_input_tokens+cache_creation_5m_input_tokens\
             +cache_creation_1h_input_tokens+cache_read_input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
        ],
    ),
    // OpenAI, usage of completions; of embeddings without the last two.
    (
        "start_time_iso",
        "model",
        [
            "num_model_requests",
            "input_tokens",
            "output_tokens",
            "input_cached_tokens",
        ],
    ),
    (
        "start_time",
        "model",
        [
            "num_model_requests",
            "input_tokens",
            "output_tokens",
            "input_cached_tokens",
        ],
    ),
    // OpenAI, the older export.
    (
        "timestamp",
        "model",
        [
            "n_requests",
            "n_context_tokens_total",
            "n_generated_tokens_total",
            "n_cached_context_tokens_total",
        ],
    ),
];

impl Columns {
    fn recognised(head: &[String]) -> Option<Self> {
        KNOWN.iter().find_map(|(day, model, figures)| {
            let has = |name: &str| head.iter().any(|it| it.trim() == name);
            let present = |sum: &str| -> Vec<String> {
                let names = sum.split('+').filter(|name| has(name));
                names.map(str::to_owned).collect()
            };
            let columns = Self {
                day: (*day).to_owned(),
                model: (*model).to_owned(),
                figures: figures.map(present),
            };
            (has(day) && has(model) && !columns.figures[1].is_empty()).then_some(columns)
        })
    }

    /// `day=…,model=…,input=a+b`.
    fn told(text: &str) -> Result<Self, String> {
        let mut columns = Self::default();
        for part in text.split(',') {
            let (what, names) = part.split_once('=').unwrap_or((part, ""));
            let list = names.split('+').filter(|name| !name.is_empty());
            let place = FIGURES.iter().position(|figure| *figure == what.trim());
            match (what.trim(), place) {
                ("day", _) => columns.day = names.to_owned(),
                ("model", _) => columns.model = names.to_owned(),
                (_, Some(place)) => columns.figures[place] = list.map(str::to_owned).collect(),
                (other, None) => {
                    return Err(format!(
                        "day, model, requests, input, output or cached, not {other}"
                    ));
                }
            }
        }
        let figures = columns.figures.iter().any(|names| !names.is_empty());
        if columns.day.is_empty() || columns.model.is_empty() || !figures {
            return Err("day=…, model=… and at least one figure, such as input=…".into());
        }
        Ok(columns)
    }

    fn read(&self, head: &[String], records: &[Vec<String>]) -> Result<Table, String> {
        let place = |name: &str| {
            head.iter()
                .position(|it| it.trim() == name)
                .ok_or_else(|| format!("there is no column {name}"))
        };
        let (day, model) = (place(&self.day)?, place(&self.model)?);
        let mut figures: [Vec<usize>; 4] = Default::default();
        for (places, names) in figures.iter_mut().zip(&self.figures) {
            for name in names {
                places.push(place(name)?);
            }
        }
        let mut table = Table::new();
        for (index, record) in records.iter().enumerate() {
            // The head is line 1.
            let line = index + 2;
            let cell = |place: usize| record.get(place).map_or("", |cell| cell.trim());
            let on = day_of(cell(day))
                .ok_or_else(|| format!("record {line}: {} is no day", self.day))?;
            let mut found = [0; 4];
            for (sum, places) in found.iter_mut().zip(&figures) {
                for place in places {
                    let cell = cell(*place);
                    let number = match cell {
                        "" => Some(0),
                        _ => cell.parse::<i64>().ok().or_else(|| whole(cell)),
                    };
                    *sum += number.ok_or_else(|| {
                        format!("record {line}: {} is no number", head[*place].trim())
                    })?;
                }
            }
            add(table.entry((on, undated(cell(model)))).or_default(), found);
        }
        Ok(table)
    }
}

/// A number that a spreadsheet wrote: `1200.0`.
fn whole(cell: &str) -> Option<i64> {
    let number: f64 = cell.parse().ok()?;
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

/// Days since 1970 of a date, a moment, or seconds since 1970.
fn day_of(text: &str) -> Option<i64> {
    let seconds = text
        .parse::<i64>()
        .ok()
        .or_else(|| Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp()));
    if let Some(seconds) = seconds {
        return Some(seconds.div_euclid(86_400));
    }
    let date: NaiveDate = text.get(..10)?.parse().ok()?;
    Some(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp() / 86_400)
}

/// Without a date at its end: `-2024-08-06`, `-20240620`.
fn undated(model: &str) -> String {
    let digits = |text: &str, count: usize| {
        text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parts: Vec<&str> = model.split('-').collect();
    let undated = match &parts[..] {
        [name @ .., year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2) => {
            name
        }
        [name @ .., date] if digits(date, 8) => name,
        all => all,
    };
    if undated.is_empty() {
        return model.to_owned();
    }
    undated.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, columns: Option<&str>) -> Result<Table, String> {
        let records = csv::read(text)?;
        let columns = match columns {
            Some(columns) => Columns::told(columns)?,
            None => Columns::recognised(&records[0]).ok_or("unknown")?,
        };
        columns.read(&records[0], &records[1..])
    }

    #[test]
    fn exports_of_openai_are_read() {
        let text = "start_time,end_time,start_time_iso,end_time_iso,num_model_requests,model,\
                    input_tokens,output_tokens,input_cached_tokens\n\
                    1767225600,1767312000,2026-01-01T00:00:00+00:00,2026-01-02T00:00:00+00:00,2,\
                    gpt-4o-2024-08-06,100,20,64\n\
                    1767225600,1767312000,2026-01-01T00:00:00+00:00,2026-01-02T00:00:00+00:00,1,\
                    gpt-4o,10,2,\n";
        let table = read(text, None).unwrap();
        let only = table.into_iter().next().unwrap();
        assert_eq!(only, ((20_454, "gpt-4o".into()), [3, 110, 22, 64]));
    }

    #[test]
    fn exports_of_anthropic_are_read() {
        let text = "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,\
                    usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,\
                    usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,\
                    usage_output_tokens,web_search_count\n\
                    2026-01-01,claude-sonnet-4-20250514,k,w,standard,\"<= 200k\",10,20,30,40,5,0\n";
        let table = read(text, None).unwrap();
        let only = table.into_iter().next().unwrap();
        assert_eq!(only, ((20_454, "claude-sonnet-4".into()), [0, 100, 5, 40]));
    }

    #[test]
    fn other_exports_are_told_by_their_columns() {
        let text = "when,what,a,b\n2026-01-01 10:00,m,1,2.0\n";
        let table = read(text, Some("day=when,model=what,input=a+b")).unwrap();
        assert_eq!(table[&(20_454, "m".into())], [0, 3, 0, 0]);
        assert!(read(text, None).is_err());
        let told = read(text, Some("day=when,model=what,input=c")).unwrap_err();
        assert_eq!(told, "there is no column c");
        assert!(read("d,m,i\nsoon,m,1\n", Some("day=d,model=m,input=i")).is_err());
        assert!(read("d,m,i\n2026-01-01,m,x\n", Some("day=d,model=m,input=i")).is_err());
        assert!(Columns::told("day=d,model=m").is_err());
    }

    #[test]
    fn a_date_is_no_part_of_a_models_name() {
        for (dated, name) in [
            ("gpt-4o-2024-08-06", "gpt-4o"),
            ("claude-3-5-sonnet-20240620", "claude-3-5-sonnet"),
            ("gpt-4-0613", "gpt-4-0613"),
            ("20240620", "20240620"),
        ] {
            assert_eq!(undated(dated), name);
        }
    }
}
