//! `${NAME}`, `${NAME:-default}` and `file:/path`: values that stand elsewhere.
//!
//! The file keeps the reference, so that mistakes can show it; the value goes into the settings as
//! a [`Secret`]. A reference that leads to nothing is a mistake, never an empty value. Called by
//! [`super::parse`] for the environment and by [`super::check`] for files.

use super::findings::Findings;
use super::path::Path;
use crate::types::Secret;
use serde_yaml::Value;
use std::io::Read;

/// Looks up a variable of the environment.
pub(super) type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Puts the environment into every text of a tree.
pub(super) fn fill_in(node: &mut Value, path: &Path, env: Env<'_>, findings: &mut Findings) {
    match node {
        Value::String(text) => match expand(text, env) {
            Ok(None) => {}
            Ok(Some(expanded)) => *text = expanded,
            Err((found, allowed)) => {
                findings.wrong_because(path, found, allowed);
                *node = Value::Null;
            }
        },
        Value::Mapping(entries) => {
            for (key, value) in entries.iter_mut() {
                if let Value::String(key) = key {
                    fill_in(value, &path.key(key), env, findings);
                }
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                fill_in(item, &path.index(index), env, findings);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Tagged(_) => {}
    }
}

/// Follows `${…}`; `$${` stands for `${`. `None` when there is nothing to follow; otherwise the
/// mistake: found, allowed.
fn expand(text: &str, env: Env<'_>) -> Result<Option<String>, (String, &'static str)> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let inside = &rest[at + 2..];
        if let Some(before) = rest[..at].strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = inside;
            continue;
        }
        expanded.push_str(&rest[..at]);
        let Some(end) = inside.find('}') else {
            return Err(("`${` without `}`".to_owned(), FORMS));
        };
        expanded.push_str(&variable(&inside[..end], env)?);
        rest = &inside[end + 1..];
    }
    expanded.push_str(rest);
    Ok(Some(expanded))
}

const FORMS: &str = "${NAME} or ${NAME:-default}, and $${ for a literal ${";

/// `NAME` or `NAME:-default`. As in a shell, an empty variable takes the default too; without a
/// default it counts as missing, because an empty key is never what was meant.
fn variable(reference: &str, env: Env<'_>) -> Result<String, (String, &'static str)> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(letters) {
        return Err(("`${…}` around something that is no name".to_owned(), FORMS));
    }
    match (env(name).filter(|value| !value.is_empty()), default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("${{{name}}}, which is not set"),
            "a variable of the environment that is set, or ${NAME:-default}",
        )),
    }
}

/// A secret as it stands in the file or in the file that `file:PATH` names (relative to `folder`; a
/// line break at its end isn't part of it). `Ok(None)` when it is empty in the file itself. The
/// error says what is wrong with the file that is named, without its name: `can't be read`.
pub(super) fn secret(
    text: &str,
    folder: &std::path::Path,
) -> Result<Option<Secret<String>>, String> {
    let Some(path) = text.strip_prefix("file:") else {
        return Ok((!text.is_empty()).then(|| Secret::new(text.to_owned())));
    };
    let mut content = String::new();
    std::fs::File::open(folder.join(path))
        .and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut content))
        .map_err(|error| format!("can't be read ({error})"))?;
    let value = content.trim_end_matches(['\r', '\n']);
    if value.is_empty() {
        return Err("is empty".to_owned());
    }
    if content.len() as u64 > SECRET_BYTES_MAX || value.contains(['\r', '\n']) {
        return Err("has more than one line of text".to_owned());
    }
    Ok(Some(Secret::new(value.to_owned())))
}

/// Larger than any key or token.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn references_are_followed() {
        for (text, expanded) in [
            ("x${A}y${A}", Some("xoney${A}".replace("${A}", "one"))),
            ("${B:-two}", Some("two".to_owned())),
            ("${EMPTY:-two}", Some("two".to_owned())),
            ("${B:-}", Some(String::new())),
            ("$${A}", Some("${A}".to_owned())),
            ("$A $", None),
        ] {
            assert_eq!(expand(text, &env), Ok(expanded), "{text}");
        }
    }

    #[test]
    fn a_reference_to_nothing_is_a_mistake() {
        for text in ["${B}", "${EMPTY}", "${A", "${}", "${A B}", "${A-x}"] {
            assert!(expand(text, &env).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_variable_brings_is_not_followed_again() {
        let env = |name: &str| (name == "A").then(|| "${B}".to_owned());
        assert_eq!(expand("${A}", &env), Ok(Some("${B}".to_owned())));
    }
}
