//! `weir check`

use crate::app::question::told;
use crate::app::{self, Allowance, Fault, Source};

/// Reads and checks the configuration; says what it found.
pub fn check(source: &Source) -> Result<(), Fault> {
    let settings = source.load()?;
    // Certificates and proxies are read as they would be at the start.
    for warning in app::check(&settings)? {
        eprintln!("warning: {warning}");
    }
    let route = &settings.route;
    println!(
        "ok: {}, {}, {}, {}",
        counted(settings.listen.listeners.len(), "listener"),
        counted(settings.upstream.providers.len(), "provider"),
        counted(route.models.len(), "model route"),
        counted(route.target_map.len(), "path"),
    );
    if let Some(teams) = &settings.govern.teams {
        let keys = teams.iter().map(|team| team.keys.len()).sum();
        println!(
            "    {}, {}",
            counted(teams.len(), "team"),
            counted(keys, "key")
        );
        for team in teams {
            println!("    team {}: {}", team.name, told(&team.allowance));
            for key in team
                .keys
                .iter()
                .filter(|key| key.allowance != Allowance::default())
            {
                println!("        key {}: {}", key.name, told(&key.allowance));
            }
        }
    }
    if route.models.is_empty() && route.target_map.is_empty() && route.default_provider.is_none() {
        eprintln!("warning: nothing is routed: every request will be answered with 404");
    }
    Ok(())
}

/// `1 path`, `2 paths`.
fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
