//! `weir completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Prints a completion script.
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// Writes the script to standard output.
    pub fn print(&self) {
        let mut command = super::Cli::command();
        clap_complete::generate(self.shell, &mut command, "weir", &mut std::io::stdout());
    }
}
