//! The program's own log: what changed, what went wrong. Always on standard error, so that it never
//! mixes with an access log on standard output.

use std::io::IsTerminal;

use super::settings::{Format, Level, Settings};
use tracing_subscriber::EnvFilter;

/// Starts the program's log; a second call changes nothing.
///
/// `RUST_LOG`, where it is set, wins over the configured level. Pingora's own lines repeat what weir
/// says in its own words, so only its errors are let through.
pub fn init(settings: &Settings) {
    let level = match settings.level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let libraries = match settings.level {
        Level::Debug | Level::Trace => level,
        _ => "off",
    };
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{libraries},weir={level},weir_dns={level}")));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match settings.format {
        Format::Json => log.json().flatten_event(true).try_init(),
        Format::Text => log.try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "the program's log was started before");
    }
}
