//! Reads the command line and calls one verb.

use clap::Parser;
use std::process::ExitCode;

// Chosen by measurement: least CPU per request and least memory per open stream; see perf/README.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    weir::cli::Cli::parse().run()
}
