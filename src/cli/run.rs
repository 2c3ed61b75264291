//! `weir run`: the supervisor, or one process alone.

use super::File;
use crate::app::{self, Fault};
use clap::Args;

/// Serves until it is told to stop.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    file: File,
    /// One process without a supervisor, for containers and development: no upgrade, and nobody
    /// replaces it when it dies
    #[arg(long)]
    single: bool,
}

impl Run {
    /// Serves until it is told to stop.
    pub fn run(&self) -> Result<(), Fault> {
        app::run(&self.file.source(), |_| {})
    }
}
