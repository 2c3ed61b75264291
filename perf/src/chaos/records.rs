//! weir's access log, read while it is written.

use super::plan::Id;
use super::words::Usage;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What weir says of one request.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: Option<Id>,
    pub status: u16,
    pub end: String,
    pub provider: Option<String>,
    pub team: Option<String>,
    pub attempts: u64,
    pub usage: Usage,
    /// `upstream`, `counted` or `estimated`.
    pub source: Option<String>,
    pub cost_usd: f64,
    pub bytes_out: u64,
    pub stream: bool,
    pub latency_ms: f64,
}

impl Record {
    fn parse(line: &[u8]) -> Option<Record> {
        let line: Value = serde_json::from_slice(line).ok()?;
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        let number = |name: &str| line[name].as_u64().unwrap_or(0);
        Some(Record {
            id: line["request_id"].as_str().and_then(Id::parse),
            status: number("status") as u16,
            end: text("end")?,
            provider: text("provider"),
            team: text("team"),
            attempts: number("attempts"),
            usage: Usage {
                input: number("input_tokens"),
                output: number("output_tokens"),
            },
            source: text("token_source"),
            cost_usd: line["cost_usd"].as_f64().unwrap_or(0.0),
            bytes_out: number("bytes_out"),
            stream: line["stream"] == true,
            latency_ms: line["latency_ms"].as_f64().unwrap_or(0.0),
        })
    }
}

/// The log, from its beginning to where it was read.
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    partial: Vec<u8>,
    /// Lines that can't be read.
    pub broken: u64,
}

impl Log {
    pub fn new(path: PathBuf) -> Log {
        Log {
            path,
            file: None,
            partial: Vec::new(),
            broken: 0,
        }
    }

    /// All records that came since the last time, in order, also where the file was changed for another.
    pub fn read(&mut self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        loop {
            let file = match &mut self.file {
                Some(file) => file,
                none => match File::open(&self.path) {
                    Ok(file) => none.insert(file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(records),
                    Err(error) => return Err(error),
                },
            };
            let is_current = inode(&self.path) == Some(file.metadata()?.ino());
            file.read_to_end(&mut self.partial)?;
            let whole = self
                .partial
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            for line in self
                .partial
                .drain(..whole)
                .as_slice()
                .split(|byte| *byte == b'\n')
            {
                match Record::parse(line) {
                    Some(record) => records.push(record),
                    None if line.is_empty() => {}
                    None => self.broken += 1,
                }
            }
            if is_current {
                return Ok(records);
            }
            self.file = None;
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    Some(path.metadata().ok()?.ino())
}

/// Sums of records, to be compared with what else weir counts.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    pub records: u64,
    /// Those that a model server was tried for, and what they used.
    pub tried: u64,
    pub usage: Usage,
    /// By team: tokens and cost of those.
    pub teams: BTreeMap<String, (u64, Usage, f64)>,
    pub ends: BTreeMap<String, u64>,
}

impl Sums {
    pub fn add(&mut self, record: &Record) {
        self.records += 1;
        *self.ends.entry(record.end.clone()).or_default() += 1;
        if record.attempts == 0 {
            return;
        }
        self.tried += 1;
        self.usage.add(record.usage);
        let team = record.team.clone().unwrap_or_default();
        let (requests, usage, cost) = self.teams.entry(team).or_default();
        *requests += 1;
        usage.add(record.usage);
        *cost += record.cost_usd;
    }
}

impl Usage {
    pub fn add(&mut self, other: Usage) {
        self.input += other.input;
        self.output += other.output;
    }
}
