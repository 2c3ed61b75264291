//! Where weir tells what it does. Filled by `config::check`.

use std::path::PathBuf;

/// `logging:` of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Least severity of the program's own log (not the access log).
    pub level: Level,
    /// Shape of both logs.
    pub format: Format,
    /// The access log's file; `None` = standard output.
    pub file: Option<LogFile>,
}

/// Severity, most silent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Level {
    /// Only what needs a person.
    Error,
    /// And what went wrong but was handled.
    Warn,
    /// And what changed.
    #[default]
    Info,
    /// And why.
    Debug,
    /// And every step.
    Trace,
}

/// Shape of log records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// `key=value` pairs, for eyes.
    Text,
}

/// A log file that is rotated by size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Where it is; its folder must exist or be creatable.
    pub path: PathBuf,
    /// Rotated when it grows past this.
    pub size_bytes_max: usize,
    /// Rotated files that are kept.
    pub keep: usize,
    /// Rotated files are gzipped.
    pub compress: bool,
}
