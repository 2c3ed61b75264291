//! Strings in JSON that are read where they lie, and written without a detour.

use std::borrow::Cow;

use serde::Deserialize;

/// A string that borrows from what it was read from, where it has no escapes. (`Option<Cow<str>>`
/// would own it always.)
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Writes a JSON string.
pub fn string(out: &mut Vec<u8>, text: &str) {
    // Writing to memory doesn't fail, and a string is always JSON.
    let _ = serde_json::to_writer(out, text);
}

/// Writes a whole number.
pub fn number(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    use std::io::Write as _;
    // Writing to memory doesn't fail.
    let _ = write!(out, "{number}");
}
