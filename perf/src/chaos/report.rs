//! What a run tells: a table for people, JSON for whoever compares.

use super::court::Latencies;
use super::run::{Options, Outcome};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// The whole outcome as JSON.
pub fn json(options: &Options, outcome: &Outcome) -> Value {
    let [calm, peak, end] = outcome.memory_kib;
    json!({
        "seed": options.seed,
        "seconds": options.chaos.as_secs(),
        "acts_per_second": options.rate,
        "requests": outcome.requests,
        "faults": outcome.faults,
        "weather": outcome.weather,
        "reloads": outcome.reloads,
        "acts": outcome.ways,
        "answers": outcome.statuses,
        "ends": outcome.ends,
        "peaks": outcome.peaks,
        "measures": outcome.measures,
        "told_to_wait": outcome.told_to_wait,
        "memory_kib": {"calm": calm, "peak": peak, "end": end},
        "steady": {"calm": latencies(&outcome.calm), "chaos": latencies(&outcome.chaos)},
        "violations": outcome.violations,
        "more_violations": outcome.more_violations,
    })
}

fn latencies(of: &Latencies) -> Value {
    let told = |times: &[Duration]| json!({"p50_ms": quantile(times, 0.5), "p99_ms": quantile(times, 0.99)});
    json!({"requests": of.whole.len(), "first_byte": told(&of.first), "whole": told(&of.whole)})
}

/// Milliseconds below which this share of times is.
fn quantile(times: &[Duration], share: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    let at = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
    times
        .get(at)
        .map_or(0.0, |time| (time.as_secs_f64() * 1e5).round() / 100.0)
}

/// The table.
pub fn table(options: &Options, outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name:<22} {value}");
    };
    row("seed", options.seed.to_string());
    row("requests", outcome.requests.to_string());
    row("faults", counted(&outcome.faults));
    row("weather", counted(&outcome.weather));
    row("reloads", outcome.reloads.to_string());
    row("acts", counted(&outcome.ways));
    row("answers", counted(&outcome.statuses));
    row("ends", counted(&outcome.ends));
    let [calm, peak, end] = outcome
        .memory_kib
        .map(|kib| format!("{:.1}", kib as f64 / 1024.0));
    row(
        "memory, MiB",
        format!("calm {calm}, peak {peak}, end {end}"),
    );
    let peaks = outcome
        .peaks
        .iter()
        .map(|(name, most)| format!("{name} {most}"));
    row("peaks", peaks.collect::<Vec<_>>().join(", "));
    for (name, of) in [
        ("first byte", (&outcome.calm.first, &outcome.chaos.first)),
        ("whole answer", (&outcome.calm.whole, &outcome.chaos.whole)),
    ] {
        for (quantile_name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let (calm, chaos) = (quantile(of.0, share), quantile(of.1, share));
            let ratio = chaos / calm.max(0.01);
            row(
                &format!("steady {name} {quantile_name}"),
                format!("calm {calm} ms, chaos {chaos} ms, ratio {ratio:.2}"),
            );
        }
    }
    let (calm, chaos) = (outcome.calm.whole.len(), outcome.chaos.whole.len());
    row(
        "steady served",
        format!(
            "calm {calm}, chaos {chaos}; {} times told to come again",
            outcome.told_to_wait.values().sum::<u64>()
        ),
    );
    for (why, times) in &outcome.told_to_wait {
        row("told to come again", format!("{times} times: {why}"));
    }
    row("measures", counted(&outcome.measures));
    let violations = outcome.violations.len() as u64 + outcome.more_violations;
    row("violations", violations.to_string());
    for violation in &outcome.violations {
        let _ = writeln!(text, "- {violation}");
    }
    text
}

/// A sum, and what it is made of.
fn counted<K: AsRef<str>>(all: &BTreeMap<K, u64>) -> String {
    let sum: u64 = all.values().sum();
    let parts: Vec<String> = all
        .iter()
        .map(|(kind, count)| format!("{} {count}", kind.as_ref()))
        .collect();
    format!("{sum}: {}", parts.join(", "))
}
