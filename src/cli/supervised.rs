//! `weir run` as systemd sees it: the supervisor.

use crate::supervise;
use std::ffi::OsString;
use std::path::PathBuf;

/// Supervises generations until weir is told to stop. `arguments` name the configuration, as `weir
/// serve` takes them.
///
/// # Errors
/// Why the first generation couldn't start.
pub fn run(arguments: Vec<OsString>, control: Option<PathBuf>) -> Result<(), String> {
    supervise::run(arguments, control)
}
