//! `weir run`: the supervisor, or one process alone.

use super::File;
use crate::app::{self, Fault};
use crate::supervise;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Serves until it is told to stop.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    file: File,
    /// One process without a supervisor, for containers and development: no upgrade, and nobody
    /// replaces it when it dies
    #[arg(long, conflicts_with = "control")]
    single: bool,
    /// Where `weir reload`, `upgrade` and `status` reach this weir [default: $WEIR_CONTROL, else
    /// /run/weir/control.sock]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

impl Run {
    /// Serves until it is told to stop.
    pub fn run(&self) -> Result<(), Fault> {
        if self.single {
            return app::run(&self.file.source(), |_| {});
        }
        app::log_of_the_supervisor();
        let arguments: Vec<OsString> = match &self.file.config {
            Some(path) => vec!["--config".into(), path.into()],
            None => Vec::new(),
        };
        supervise::run(arguments, self.control.clone()).map_err(Fault::Unusable)
    }
}
