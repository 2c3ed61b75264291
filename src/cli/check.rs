//! `weir check`

use crate::app::{self, Fault, Source};

/// Reads and checks the configuration; says what it found.
pub fn check(source: &Source) -> Result<(), Fault> {
    let settings = source.load()?;
    // Certificates and proxies are read as they would be at the start.
    app::offline(&settings)?;
    println!(
        "ok: {} listeners, {} providers, {} model routes, {} paths",
        settings.listen.listeners.len(),
        settings.upstream.providers.len(),
        settings.route.models.len(),
        settings.route.target_map.len(),
    );
    Ok(())
}
