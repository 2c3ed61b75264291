//! Both spellings of a member's name: JSON of Protocol Buffers takes `mimeType` and `mime_type`.

use std::borrow::Cow;

use serde_json::Value;

use crate::fields::{Fields, invalid};
use crate::ir::Unfit;

/// The name by which a member was said, given in camel case.
pub fn spelled(fields: &Fields, name: &'static str) -> Cow<'static, str> {
    if fields.look(name).is_some() || !name.contains(|it: char| it.is_ascii_uppercase()) {
        return Cow::Borrowed(name);
    }
    let mut snake = String::with_capacity(name.len() + 4);
    for it in name.chars() {
        if it.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(it.to_ascii_lowercase());
    }
    match fields.look(&snake) {
        Some(_) => Cow::Owned(snake),
        None => Cow::Borrowed(name),
    }
}

/// Takes the objects of a list; one alone may stand without it.
///
/// # Errors
/// When it is something else.
pub fn objects(fields: &mut Fields, name: &'static str) -> Result<Vec<Fields>, Unfit> {
    let name = spelled(fields, name);
    match fields.look(&name) {
        Some(Value::Object(_)) => Ok(fields.object(&name)?.into_iter().collect()),
        _ => fields.objects(&name),
    }
}

/// Takes a word of an enumeration; one that ends in `_UNSPECIFIED` is as good as none.
///
/// # Errors
/// When it is no string.
pub fn word(fields: &mut Fields, name: &'static str) -> Result<Option<String>, Unfit> {
    let said = fields.text(&spelled(fields, name))?;
    Ok(said
        .map(|word| word.to_ascii_uppercase())
        .filter(|word| !word.ends_with("_UNSPECIFIED")))
}

/// Takes a string that must be there.
///
/// # Errors
/// When it isn't.
pub fn needed(fields: &mut Fields, name: &'static str) -> Result<String, Unfit> {
    let name = spelled(fields, name);
    fields.needed_text(&name)
}

/// A member that must be an object.
///
/// # Errors
/// When it isn't.
pub fn inside(fields: &mut Fields, name: &'static str) -> Result<Option<Fields>, Unfit> {
    let name = spelled(fields, name);
    match fields.look(&name) {
        None | Some(Value::Object(_)) => fields.object(&name),
        Some(_) => Err(invalid(&fields.at(&name), "must be an object")),
    }
}
