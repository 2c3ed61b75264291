//! Aliases among `model_routes`: each leads to a route.

use super::Check;
use crate::route::settings::Settings;
use std::collections::HashSet;

/// Notes aliases that lead nowhere or in a circle.
pub(super) fn report(settings: &Settings, check: &mut Check<'_>) {
    let map = check.key("model_routes");
    let next = |name: &str| {
        let alias = settings.aliases.iter().find(|(alias, _)| alias == name);
        alias.map(|(_, target)| target.as_str())
    };
    let is_route = |name: &str| is_route(settings, name);
    let names = settings.models.iter().map(|route| &route.pattern);
    let names = names.chain(settings.aliases.iter().map(|(alias, _)| alias));
    let names: Vec<&str> = names
        .map(String::as_str)
        .filter(|name| !is_glob(name))
        .collect();
    let mut circled: HashSet<&str> = HashSet::new();
    for (alias, target) in &settings.aliases {
        let path = map.key(alias);
        if next(target).is_none() && !is_route(target) && !check.findings.covers(&map.key(target)) {
            let others = names.iter().copied().filter(|name| name != alias);
            let allowed = "a URL with http:// or https://, or the name of another route";
            check.findings.wrong_word(&path, allowed, others);
        }
        let mut seen = vec![alias.as_str()];
        let mut at = target.as_str();
        while let Some(after) = next(at) {
            if let Some(start) = seen.iter().position(|name| *name == at) {
                // Told once, at the circle's first alias in the file.
                if start == 0 && !circled.contains(at) {
                    circled.extend(&seen);
                    let circle = [&seen[..], &[at]].concat().join(" → ");
                    let found = format!("an alias that leads back to itself ({circle})");
                    check
                        .findings
                        .wrong_because(&path, found, "the name of another route");
                }
                break;
            }
            seen.push(at);
            at = after;
        }
    }
}

/// Whether a route takes this name: by its pattern, or one that a glob takes.
pub(super) fn is_route(settings: &Settings, name: &str) -> bool {
    let mut patterns = settings.models.iter().map(|route| route.pattern.as_str());
    patterns.any(|pattern| pattern == name || is_glob(pattern) && matches(pattern, name))
}

/// A name with `*` or `?`, which `route` reads as a glob.
pub(super) fn is_glob(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// `*` stands for any text, `?` for one character.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut pos) = (0, 0);
    // The last star, and where in the name what follows it was tried.
    let mut star: Option<(usize, usize)> = None;
    while pos < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, pos));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[pos] => {
                at += 1;
                pos += 1;
            }
            _ => match star {
                Some((back, tried)) => {
                    star = Some((back, tried + 1));
                    at = back + 1;
                    pos = tried + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name, matching) in [
            ("qwen*", "qwen-72b", true),
            ("*", "", true),
            ("a*b*c", "a--b-b--c", true),
            ("a*b*c", "a--c-c", false),
            ("gpt-?", "gpt-4", true),
            ("gpt-?", "gpt-4o", false),
            ("gpt-4", "gpt-4", true),
        ] {
            assert_eq!(matches(pattern, name), matching, "{pattern} {name}");
        }
    }
}
