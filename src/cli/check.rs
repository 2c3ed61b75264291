//! `weir check`

use crate::app::{Fault, Source};

/// Reads and checks the configuration; says what it found.
pub fn check(source: &Source) -> Result<(), Fault> {
    let settings = source.load()?;
    println!(
        "ok: {} listeners, {} providers, {} model routes, {} paths",
        settings.listen.listeners.len(),
        settings.upstream.providers.len(),
        settings.route.models.len(),
        settings.route.target_map.len(),
    );
    Ok(())
}
