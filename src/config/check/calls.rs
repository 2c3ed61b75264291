//! `hedge` and `batch` of `model_routes`: what weir does for a route by calls of its own.

use super::Check;
use crate::config::file::{self, File, Route, RouteForm};
use crate::config::path::Path;
use crate::config::units::{Scalar, duration};
use crate::upstream::settings::{After, Batch, Hedge};
use std::time::Duration;

/// Hedging of all routes that want it, by pattern.
pub(super) fn hedges(file: &File, check: &mut Check<'_>) -> Vec<(String, Hedge)> {
    of_routes(file, check, |form, path, check| {
        let hedge = form.hedge.as_ref()?;
        Some(self::hedge(hedge, &path.key("hedge"), check))
    })
}

/// Batching of all routes that want it, by pattern.
pub(super) fn batches(file: &File, check: &mut Check<'_>) -> Vec<(String, Batch)> {
    of_routes(file, check, |form, path, check| {
        let batch = form.batch.as_ref()?;
        Some(self::batch(batch, &path.key("batch"), check))
    })
}

/// What `one` finds in the routes that are mappings, by pattern.
fn of_routes<T>(
    file: &File,
    check: &mut Check<'_>,
    one: impl Fn(&RouteForm, &Path, &mut Check<'_>) -> Option<T>,
) -> Vec<(String, T)> {
    let routes = check.key("model_routes");
    let mut all = Vec::new();
    for (name, route) in file.model_routes.iter().flat_map(|map| &map.0) {
        if let Some(Route::Form(form)) = route
            && let Some(found) = one(form, &routes.key(name), check)
        {
            all.push((name.clone(), found));
        }
    }
    all
}

fn hedge(hedge: &file::Hedge, path: &Path, check: &mut Check<'_>) -> Hedge {
    const AFTER_DEFAULT: After = After::Percentile(95);
    const MAX_DEFAULT_MILLIONTHS: u32 = 50_000;
    let after = match hedge.after.as_ref().map(|text| after(&text.0)) {
        Some(Some(after)) => after,
        Some(None) => {
            let allowed = "p50 to p99, or a duration such as 200ms, from 1ms to 1h";
            check.findings.wrong(&path.key("after"), allowed);
            AFTER_DEFAULT
        }
        None => AFTER_DEFAULT,
    };
    let max_millionths = hedge.max.map_or(MAX_DEFAULT_MILLIONTHS, |part| part.0);
    if max_millionths == 0 {
        let allowed = "a share above 0 (without `hedge` there is no second call)";
        check.findings.wrong(&path.key("max"), allowed);
    }
    Hedge {
        after,
        max_millionths,
    }
}

fn batch(batch: &file::Batch, path: &Path, check: &mut Check<'_>) -> Batch {
    const WINDOW_MAX: Duration = Duration::from_secs(1);
    const SIZE_MAX: u64 = 2048;
    let window = batch.window.map_or(Duration::from_millis(3), |span| span.0);
    if window.is_zero() || window > WINDOW_MAX {
        let allowed = "a duration from 1ms to 1s";
        check.findings.wrong(&path.key("window"), allowed);
    }
    let size = batch.size.map_or(32, |size| size.0);
    if !(2..=SIZE_MAX).contains(&size) {
        let allowed = format!("a number from 2 to {SIZE_MAX}");
        check.findings.wrong(&path.key("size"), allowed);
    }
    let tokens = batch.tokens.map_or(8192, |tokens| tokens.0);
    if tokens == 0 {
        check
            .findings
            .wrong(&path.key("tokens"), "a number above 0");
    }
    Batch {
        window,
        size: usize::try_from(size).unwrap_or(usize::MAX),
        tokens,
    }
}

fn after(text: &str) -> Option<After> {
    const LEAST: Duration = Duration::from_millis(1);
    const MOST: Duration = Duration::from_secs(3600);
    if let Some(percent) = text.strip_prefix('p') {
        let percentile = percent.parse().ok()?;
        return (50..=99)
            .contains(&percentile)
            .then_some(After::Percentile(percentile));
    }
    let time = duration(&Scalar::Text(text))?;
    (LEAST..=MOST).contains(&time).then_some(After::Time(time))
}
