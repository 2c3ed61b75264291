//! `weir run`

use crate::app::{self, Fault, Source};

/// Serves until it is told to stop.
pub fn run(source: &Source) -> Result<(), Fault> {
    app::run(source, |_| {})
}
