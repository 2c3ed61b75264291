//! `weir reload`, `weir upgrade`, `weir status`: one command to a running weir, and its answer. Other verbs
//! ask questions the same way.

use crate::app::question::Question;
use crate::supervise::control;
use crate::supervise::protocol::{Command, Generation, Outcome, Status};
use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Which weir is asked.
#[derive(Debug, Args)]
pub struct Ask {
    /// Control socket of the running weir [default: $WEIR_CONTROL, else /run/weir/control.sock]
    #[arg(long, value_name = "PATH", global = true)]
    control: Option<PathBuf>,
}

/// Tells of the generations.
#[derive(Debug, Args)]
pub struct AskStatus {
    #[command(flatten)]
    ask: Ask,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Ask {
    /// Makes live what is on disk; returns when it is done.
    ///
    /// # Errors
    /// Why it wasn't done, and who serves now.
    pub fn reload(&self) -> Result<(), String> {
        self.done(&Command::Reload)
    }

    /// Starts a new generation of the program on disk; returns when it serves.
    ///
    /// # Errors
    /// Why it wasn't done, and who serves now.
    pub fn upgrade(&self) -> Result<(), String> {
        self.done(&Command::Upgrade)
    }

    fn done(&self, command: &Command) -> Result<(), String> {
        let outcome = self.outcome(command)?;
        if !outcome.ok {
            return Err(outcome.message);
        }
        println!("{}", outcome.message);
        Ok(())
    }

    /// Somebody said which weir is asked.
    pub(super) fn is_named(&self) -> bool {
        control::named_path(self.control.clone()).is_some()
    }

    /// Something listens where weir would, be it for others only.
    pub(super) fn finds_somebody(&self) -> bool {
        let path = control::named_path(self.control.clone()).unwrap_or_else(control::default_path);
        match UnixStream::connect(path) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        }
    }

    /// Asks the generation that leads, or all with that one first.
    ///
    /// # Errors
    /// No weir answers, one doesn't know the question, or refuses what it asks for.
    pub(super) fn answers<A: DeserializeOwned>(
        &self,
        question: &Question,
        everyone: bool,
    ) -> Result<Vec<A>, String> {
        let question = serde_json::to_value(question).map_err(|error| error.to_string())?;
        let outcome = self.outcome(&Command::Question { question, everyone })?;
        if !outcome.ok {
            return Err(outcome.message);
        }
        outcome.answers.into_iter().map(read).collect()
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// No weir answers.
    pub(super) fn outcome(&self, command: &Command) -> Result<Outcome, String> {
        /// A supervisor that is just being replaced closes a connection on which nothing was said yet.
        const ATTEMPTS: usize = 3;
        let path = control::named_path(self.control.clone()).unwrap_or_else(control::default_path);
        let path = path.display();
        for _ in 0..ATTEMPTS {
            let stream = UnixStream::connect(path.to_string()).map_err(|error| {
                format!(
                    "no weir answers at {path}: {error} (`weir run --single` has no control \
                         socket)"
                )
            })?;
            let answer = answer(stream, command)
                .map_err(|error| format!("the weir at {path} doesn't answer: {error}"))?;
            if let Some(outcome) = answer {
                return Ok(outcome);
            }
        }
        Err(format!(
            "the weir at {path} gave no answer; only its own user and root may command it"
        ))
    }
}

/// An answer to a question.
///
/// # Errors
/// It says that what was asked for wasn't done, or can't be read.
pub(super) fn read<A: DeserializeOwned>(answer: Value) -> Result<A, String> {
    if let Some(refused) = answer["refused"].as_str() {
        return Err(refused.to_owned());
    }
    if let Some(error) = answer["error"].as_str() {
        return Err(format!("the running weir doesn't know this: {error}"));
    }
    serde_json::from_value(answer)
        .map_err(|error| format!("the running weir answers what this one can't read: {error}"))
}

impl AskStatus {
    /// Prints the generations.
    ///
    /// # Errors
    /// No weir answers.
    pub fn run(&self) -> Result<(), String> {
        let outcome = self.ask.outcome(&Command::Status)?;
        let Some(status) = outcome.status.filter(|_| outcome.ok) else {
            return Err(outcome.message);
        };
        if self.json {
            let json = serde_json::to_string_pretty(&status).map_err(|error| error.to_string())?;
            println!("{json}");
        } else {
            print!("{}", table(&status));
        }
        Ok(())
    }
}

/// The answer; `None` when the other end closed without one.
fn answer(mut stream: UnixStream, command: &Command) -> io::Result<Option<Outcome>> {
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    match stream.write_all(&line) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(None),
        done => done?,
    }
    let mut answer = String::new();
    match BufReader::new(stream).read_line(&mut answer) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error),
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(serde_json::from_str(&answer)?)),
    }
}

const HEADS: [&str; 9] = [
    "GENERATION",
    "PID",
    "VERSION",
    "STATE",
    "AGE",
    "CONFIG",
    "CONNECTIONS",
    "STREAMS",
    "OLDEST STREAM",
];

fn table(status: &Status) -> String {
    let mut rows = vec![HEADS.map(str::to_owned)];
    rows.extend(status.generations.iter().map(row));
    let mut text = format!(
        "weir {} (pid {})\n\n{}",
        status.version,
        status.pid,
        aligned(&rows)
    );
    // The youngest one knows best: older ones only finish what they carry.
    let unwell = status.generations.iter().max_by_key(|it| it.number);
    for line in unwell.iter().flat_map(|it| &it.summary.unwell) {
        text += &format!("\nnot well: {line}");
    }
    if text.ends_with(|last| last != '\n') {
        text.push('\n');
    }
    if let Some(last) = &status.last {
        let how = if last.ok { "done" } else { "failed" };
        text += &format!(
            "\nlast {}, {}, {how}: {}\n",
            last.what, last.at, last.message
        );
    }
    text
}

/// Rows as lines, each column as wide as its widest cell.
pub(super) fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let widths: Vec<usize> = (0..COLUMNS)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn row(generation: &Generation) -> [String; 9] {
    let summary = &generation.summary;
    let oldest = summary.oldest_stream_seconds.map(age);
    [
        generation.number.to_string(),
        generation.pid.to_string(),
        generation.version.clone(),
        generation.state.clone(),
        age(generation.age_seconds),
        summary.config_hash.clone(),
        summary.connections.to_string(),
        summary.streams.to_string(),
        oldest.unwrap_or_else(|| "-".to_owned()),
    ]
}

/// A time in its two largest units.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::protocol::{Last, Summary};

    #[test]
    fn a_status_is_a_table_that_people_can_read() {
        let status = Status {
            pid: 7,
            version: "0.1.0".into(),
            last: Some(Last {
                what: "reload".into(),
                at: "2026-01-02T03:04:05Z".into(),
                ok: false,
                message: "no".into(),
            }),
            generations: vec![Generation {
                number: 3,
                pid: 12,
                version: "0.1.0".into(),
                state: "draining".into(),
                age_seconds: 3720,
                summary: Summary {
                    config_hash: "abcd".into(),
                    connections: 5,
                    streams: 2,
                    oldest_stream_seconds: Some(61),
                    unwell: vec!["p http://a/v1: paused for 12 s".into()],
                    ..Summary::default()
                },
            }],
        };
        let expected = "\
weir 0.1.0 (pid 7)

GENERATION  PID  VERSION  STATE     AGE    CONFIG  CONNECTIONS  STREAMS  OLDEST STREAM
3           12   0.1.0    draining  1h 2m  abcd    5            2        1m 1s

not well: p http://a/v1: paused for 12 s

last reload, 2026-01-02T03:04:05Z, failed: no
";
        assert_eq!(table(&status), expected);
    }
}
