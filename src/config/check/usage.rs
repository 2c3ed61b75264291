//! `usage`: what is kept of each request, and where.

use super::{Check, bounds};
use crate::config::file::{self, File, Fsync};
use crate::config::path::Path as Place;
use crate::config::units::Span;
use crate::govern::ledger::settings::{Settings, Store};
use std::path::Path;
use std::time::Duration;

/// Reads `usage`; `None` when nothing is kept.
pub(super) fn usage(file: &File, state_dir: &Path, check: &mut Check<'_>) -> Option<Settings> {
    let nothing = file::Ledger::default();
    let given = match &file.usage {
        Some(file::Usage::Off) => return None,
        Some(file::Usage::On(ledger)) => ledger,
        // Whoever pays for teams wants to know.
        None if file.teams.as_ref().is_some_and(|teams| !teams.0.is_empty()) => &nothing,
        None => return None,
    };
    let path = check.key("usage");
    let days = |span: Option<Span>, key: &str, check: &mut Check<'_>| {
        let span = bounds::positive(span, &path.key(key), check)?;
        if span.as_secs() % 86_400 != 0 || span.subsec_nanos() > 0 || span > CENTURY {
            let place = path.key(key);
            check
                .findings
                .wrong(&place, "whole days, such as 90d, up to 36500d");
        }
        Some(span)
    };
    Some(Settings {
        state_dir: state_dir.to_owned(),
        store: store(given, &path.key("store"), check),
        retain: days(given.retain, "retain", check).unwrap_or(Duration::from_secs(90 * 86_400)),
        fsync: match given.fsync {
            Some(Fsync::Never) => None,
            Some(Fsync::Every(span)) => bounds::positive(Some(span), &path.key("fsync"), check),
            None => Some(Duration::from_secs(1)),
        },
        segment_bytes_max: bounds::size(
            given.segment_size,
            &path.key("segment_size"),
            4 << 10..=1 << 30,
            check,
        )
        .map_or(16 << 20, |bytes| bytes as u64),
        segment_age_max: bounds::positive(given.segment_age, &path.key("segment_age"), check)
            .unwrap_or(Duration::from_secs(3600)),
    })
}

const CENTURY: Duration = Duration::from_secs(36_500 * 86_400);

fn store(given: &file::Ledger, path: &Place, check: &mut Check<'_>) -> Store {
    let Some(url) = check.secret(given.store.as_ref(), path) else {
        return Store::Sqlite;
    };
    url.expose().parse().unwrap_or_else(|allowed: &str| {
        check.findings.wrong(path, allowed);
        Store::Sqlite
    })
}
