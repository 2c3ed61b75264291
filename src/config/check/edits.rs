//! `headers`: what is set and removed, of all requests and of a provider's.

use super::Check;
use crate::config::file::{File, HeaderEdits};
use crate::config::path::Path;
use crate::config::units::Text;
use crate::types::{self, Piece, Template};
use http::{HeaderName, HeaderValue};

/// Edits of every request and of every answer.
pub(super) fn general(
    file: &File,
    check: &mut Check<'_>,
) -> (types::HeaderEdits, types::HeaderEdits) {
    let path = check.key("headers");
    let headers = file.headers.as_ref();
    let request = headers.and_then(|headers| headers.request.as_ref());
    let response = headers.and_then(|headers| headers.response.as_ref());
    (
        edits(request, &path.key("request"), check),
        edits(response, &path.key("response"), check),
    )
}

/// One pair of `set` and `remove`.
pub(super) fn edits(
    edits: Option<&HeaderEdits>,
    path: &Path,
    check: &mut Check<'_>,
) -> types::HeaderEdits {
    let mut result = types::HeaderEdits::default();
    let Some(edits) = edits else { return result };
    let set = path.key("set");
    for (name, value) in edits.set.iter().flat_map(|map| &map.0) {
        let path = set.key(name);
        let name = match header(name) {
            Ok(name) => Some(name),
            Err(allowed) => {
                let found = format!("the header {name:?}");
                check.findings.wrong_because(&path, found, allowed);
                None
            }
        };
        let Some(value) = value else {
            check.missing(&path, VALUE);
            continue;
        };
        if name
            .as_ref()
            .is_some_and(|name| result.set.iter().any(|(other, _)| other == name))
        {
            check
                .findings
                .wrong_because(&path, "the same header again", "each header once");
        }
        if let (Some(name), Some(value)) = (name, template(value, &path, check)) {
            result.set.push((name, value));
        }
    }
    let remove = path.key("remove");
    for (index, name) in edits.remove.iter().flat_map(|list| list.items()) {
        match header(&name.0) {
            Ok(name) => result.remove.push(name),
            Err(allowed) => check.findings.wrong(&remove.index(index), allowed),
        }
    }
    result
}

/// Headers that say how a message is framed or how a connection is used.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A header that may be edited, or what is allowed instead.
fn header(name: &str) -> Result<HeaderName, &'static str> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Err(_) => Err("a header's name: letters, digits and `-`"),
        Ok(name) if FRAMING.contains(&name.as_str()) => {
            Err("a header that doesn't belong to the connection")
        }
        Ok(name) => Ok(name),
    }
}

const VALUE: &str = "a header's value: one line of text, with {request_id}, {client_ip}, {client_cert}, {team}, {key}, \
                     {model}, and {{ for a brace";

fn template(value: &Text, path: &Path, check: &mut Check<'_>) -> Option<Template> {
    let template = match value.0.strip_prefix("file:") {
        // What a file holds is taken as it stands.
        Some(_) => {
            let secret = check.secret(Some(value), path)?;
            HeaderValue::from_str(secret.expose())
                .ok()
                .map(|_| Template {
                    pieces: vec![Piece::Text(secret.expose().clone())],
                })
        }
        None => value.0.parse().ok(),
    };
    if template.is_none() {
        let written = check.findings.written(path);
        let written = written.and_then(serde_yaml::Value::as_str);
        match written.and_then(unknown_placeholder) {
            Some(name) => {
                let found = format!("the placeholder {{{name}}}");
                check.findings.wrong_because(path, found, VALUE);
            }
            None => check.findings.wrong(path, VALUE),
        }
    }
    template
}

/// The first placeholder that isn't known, if it looks like a placeholder's name: anything else
/// between braces may be a part of a secret.
fn unknown_placeholder(written: &str) -> Option<&str> {
    const NAME_BYTES_MAX: usize = 20;
    const KNOWN: [&str; 6] = [
        "request_id",
        "client_ip",
        "client_cert",
        "team",
        "key",
        "model",
    ];
    let mut rest = written;
    while let Some(at) = rest.find('{') {
        let inside = &rest[at + 1..];
        if let Some(after) = inside.strip_prefix('{') {
            rest = after;
            continue;
        }
        let name = &inside[..inside.find('}')?];
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        if !rest[..at].ends_with('$') && !KNOWN.contains(&name) {
            let plain = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(letters);
            return plain.then_some(name);
        }
        rest = &inside[name.len()..];
    }
    None
}
