//! Reads the command line and calls one verb.

use clap::Parser;
use std::process::ExitCode;

/// Chosen by measurement: least memory per open stream of jemalloc, mimalloc and glibc, and a tenth
/// less CPU per request than glibc; see `perf/README.md`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Each answer is read into a buffer of 64 KiB, which jemalloc would fetch from its slow path: its
/// threads' caches end at 32 KiB unless told otherwise. `_RJEM_MALLOC_CONF` in the environment adds.
// SAFETY: jemalloc reads this symbol once, as a C string; it is one, and it never changes.
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 18] = b"lg_tcache_max:17\0\0";

fn main() -> ExitCode {
    weir::cli::Cli::parse().run()
}
