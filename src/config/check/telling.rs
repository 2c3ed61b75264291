//! `logging`, `tracing`, `state_dir`: what is told, and where it is kept.

use super::{Check, bounds};
use crate::config::file::{File, Format, Level, LogFile, Logging};
use crate::observe::settings::{self, Settings};
use std::path::PathBuf;

/// Reads `logging`, and checks `tracing`.
pub(super) fn logging(file: &File, check: &mut Check<'_>) -> Settings {
    let no_logging = Logging::default();
    let logging = file.logging.as_ref().unwrap_or(&no_logging);
    let sample = file.tracing.as_ref().and_then(|tracing| tracing.sample);
    if sample.is_some_and(|sample| sample.0 > 1.0) {
        let path = check.key("tracing").key("sample");
        check.findings.wrong(&path, "a number from 0 to 1");
    }
    Settings {
        level: match logging.level {
            Some(Level::Error) => settings::Level::Error,
            Some(Level::Warn) => settings::Level::Warn,
            Some(Level::Info) | None => settings::Level::Info,
            Some(Level::Debug) => settings::Level::Debug,
            Some(Level::Trace) => settings::Level::Trace,
        },
        format: match logging.format {
            Some(Format::Json) | None => settings::Format::Json,
            Some(Format::Text) => settings::Format::Text,
        },
        file: logging.file.as_ref().and_then(|file| log_file(file, check)),
    }
}

/// `logging.estimates`.
pub(super) fn estimates(file: &File) -> bool {
    let logging = file.logging.as_ref();
    let estimates = logging.and_then(|logging| logging.estimates);
    estimates.is_some_and(|estimates| estimates.0)
}

fn log_file(file: &LogFile, check: &mut Check<'_>) -> Option<settings::LogFile> {
    let path = check.key("logging").key("file");
    let size = bounds::size(
        file.max_size,
        &path.key("max_size"),
        1 << 10..=1 << 40,
        check,
    );
    let keep = file.keep.map_or(20, |keep| keep.0);
    if keep > 10_000 {
        check
            .findings
            .wrong(&path.key("keep"), "a number from 0 to 10000");
    }
    let Some(log) = file.path.as_ref().filter(|path| !path.0.is_empty()) else {
        check.missing(&path.key("path"), "the path of a file");
        return None;
    };
    Some(settings::LogFile {
        path: PathBuf::from(&log.0),
        size_bytes_max: size.unwrap_or(100_000_000),
        keep: usize::try_from(keep).unwrap_or(usize::MAX),
        compress: file.compress.is_none_or(|compress| compress.0),
    })
}

/// `state_dir`.
pub(super) fn state_dir(file: &File, check: &mut Check<'_>) -> PathBuf {
    match &file.state_dir {
        None => PathBuf::from("/var/lib/weir"),
        Some(folder) => {
            if folder.0.is_empty() {
                let path = check.key("state_dir");
                check.findings.wrong(&path, "the path of a folder");
            }
            PathBuf::from(&folder.0)
        }
    }
}
