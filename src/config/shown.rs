//! What was found, in words that hold no secret.
//!
//! Shows the text as it was written, before `${NAME}` and `file:` were followed, and without the
//! parts that may hold a password. Called by [`super::findings`].

use super::path::Path;
use serde_yaml::Value;

/// The value at `path` in words.
pub(super) fn shown(value: &Value, path: &Path) -> String {
    let refers = matches!(value, Value::String(text) if text.starts_with("file:"));
    let hidden = is_secret(path) && !refers;
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Tagged(_) => "a value with a `!tag`".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) if hidden => {
            "a value that isn't shown".to_owned()
        }
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => {
            let text = if is_proxy(path) {
                without_authority(text)
            } else {
                without_secrets(text)
            };
            // Of a key that was pasted into the file only the first line is shown.
            let text = text.lines().next().unwrap_or_default();
            let short: String = text.chars().take(SHOWN_CHARS_MAX).collect();
            let dots = if short.len() < text.len() { "…" } else { "" };
            format!("{short:?}{dots}")
        }
    }
}

const SHOWN_CHARS_MAX: usize = 80;

/// Values below these keys are never shown.
fn is_secret(path: &Path) -> bool {
    let keys: Vec<&str> = path.keys().collect();
    // These name a file.
    let names_a_file = matches!(keys[..], [.., "client_key"] | [.., "certificates", "key"]);
    let named = keys.last().is_some_and(|key| {
        let key = key.to_lowercase();
        // Unknown keys are meant too: `apikey`, `auth_token`, …
        !names_a_file
            && [
                "key",
                "token",
                "secret",
                "password",
                "sha256",
                "authorization",
            ]
            .iter()
            .any(|word| key.contains(word))
    });
    named
        || keys
            .windows(2)
            .any(|pair| pair[1] == "set" && matches!(pair[0], "headers" | "request" | "response"))
}

/// Values that may be the URL of a proxy, of a database or of the shared state, which may hold a password in any malformed way.
fn is_proxy(path: &Path) -> bool {
    // Either may be a list.
    let keys: Vec<&str> = path.keys().collect();
    matches!(
        keys[..],
        [.., "proxy_url" | "egress"]
            | ["usage", "store"]
            | ["shared_state"]
            | ["shared_state", "url"]
    )
}

/// What stands before the first `:`.
fn without_authority(text: &str) -> String {
    match text.split_once(':') {
        Some((scheme, _)) if scheme.contains("${") => "${…}".to_owned(),
        Some((scheme, rest)) if rest.starts_with("//") => format!("{scheme}://***"),
        Some(_) => "***".to_owned(),
        None if text.contains('@') => "***".to_owned(),
        None => text.to_owned(),
    }
}

/// A text without the user of a URL, without its query, and without the defaults of `${NAME:-…}`.
fn without_secrets(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(":-") {
        plain.push_str(&rest[..at]);
        if !plain.contains("${") {
            plain.push_str(":-");
            rest = &rest[at + 2..];
            continue;
        }
        plain.push_str(":-…");
        rest = rest[at..].find('}').map_or("", |end| &rest[at + end..]);
    }
    plain.push_str(rest);
    let masked = match plain.rsplit_once('@') {
        Some((front, host)) => match front.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://***@{host}"),
            None => format!("***@{host}"),
        },
        None => plain,
    };
    match masked.split_once('?') {
        Some((front, _)) if front.contains("://") => format!("{front}?***"),
        _ => masked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let at = |keys: &[&str]| keys.iter().fold(Path::root(), |path, key| path.key(key));
        for (path, text, expected) in [
            (at(&["api_key"]), "sk-1", "a value that isn't shown"),
            (at(&["api_key"]), "file:/key", "\"file:/key\""),
            (at(&["client_key"]), "--BEGIN--\nsecret", "\"--BEGIN--\""),
            (
                at(&["listen", "tls", "certificates", "key"]),
                "/tls/a.key",
                "\"/tls/a.key\"",
            ),
            (at(&["keys", "key"]), "sk-1", "a value that isn't shown"),
            (at(&["x", "apikey"]), "sk-1", "a value that isn't shown"),
            (
                at(&["headers", "request", "set", "X-Any"]),
                "sk-1",
                "a value that isn't shown",
            ),
            (at(&["proxy_url"]), "http://user:pw", "\"http://***\""),
            (at(&["proxy_url"]), "user:pw@host", "\"***\""),
            (at(&["proxy_url"]), "user@host", "\"***\""),
            (at(&["egress"]), "diret", "\"diret\""),
            (
                at(&["egress"]).index(1),
                "http://user:pw@host",
                "\"http://***\"",
            ),
            (
                at(&["url"]),
                "https://u:pw@host/x",
                "\"https://***@host/x\"",
            ),
            (
                at(&["url"]),
                "https://host/x?key=1",
                "\"https://host/x?***\"",
            ),
            (at(&["url"]), "${A:-sk-1}", "\"${A:-…}\""),
            (at(&["url"]), "a:-b", "\"a:-b\""),
        ] {
            let value = Value::String(text.to_owned());
            assert_eq!(shown(&value, &path), expected, "{path}");
        }
    }
}
