//! `weir serve`: one generation, started by the supervisor; and the plan that it asks for first.

use super::File;
use crate::app::{self, Fault};
use clap::Args;

/// One generation of a supervised weir.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    file: File,
    /// Check everything and print what the supervisor must know, as JSON on one line
    #[arg(long)]
    plan: bool,
    /// Which generation this is; only for people who look at the list of processes
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
}

impl Serve {
    /// Serves until the supervisor has another one.
    pub fn run(&self) -> Result<(), Fault> {
        let source = self.file.source();
        if !self.plan {
            return app::serve(&source);
        }
        let plan = app::plan(&source)?;
        let line =
            serde_json::to_string(&plan).map_err(|error| Fault::Unusable(error.to_string()))?;
        println!("{line}");
        Ok(())
    }
}
