//! `hedge` of `model_routes`: what weir does for a route by calls of its own.

use super::Check;
use crate::config::file::{self, File, Route, RouteForm};
use crate::config::path::Path;
use crate::config::units::{Scalar, duration};
use crate::upstream::settings::{After, Hedge};
use std::time::Duration;

/// Hedging of all routes that want it, by pattern.
pub(super) fn hedges(file: &File, check: &mut Check<'_>) -> Vec<(String, Hedge)> {
    of_routes(file, check, |form, path, check| {
        let hedge = form.hedge.as_ref()?;
        Some(self::hedge(hedge, &path.key("hedge"), check))
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
