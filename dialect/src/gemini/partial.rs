//! Arguments of a call that come as values at places (`partialArgs`), as Vertex streams them.
//!
//! Source: the SDK's `PartialArg`: a `jsonPath` such as `$.at[0].city`, with one of `stringValue`,
//! `numberValue`, `boolValue`, `nullValue`. A string may come in several pieces.

use serde_json::{Map, Value};

/// What has come so far.
#[derive(Debug)]
pub struct Partial(Value);

/// How deep a place may lie.
const DEPTH_MAX: usize = 64;
/// How many items of a list may be left out before one.
const GAP_ITEMS_MAX: usize = 16;

// === impl Partial ===

impl Partial {
    /// Of a call that begins with these arguments.
    pub fn new(begun: Option<&str>) -> Self {
        let begun = begun.and_then(|text| serde_json::from_str(text).ok());
        Self(begun.unwrap_or_else(|| Value::Object(Map::new())))
    }

    /// Takes a piece; one at a place that makes no sense is passed over.
    pub fn take(&mut self, piece: &Value) {
        let Some(path) = piece["jsonPath"].as_str() else {
            return;
        };
        let Some(place) = place(&mut self.0, path) else {
            return;
        };
        match (&piece["stringValue"], place) {
            (Value::String(more), Value::String(text)) => text.push_str(more),
            (Value::String(text), place) => *place = Value::String(text.clone()),
            (_, place) => {
                let values = ["numberValue", "boolValue"];
                let value = values.iter().find_map(|name| piece.get(name));
                *place = value.cloned().unwrap_or(Value::Null);
            }
        }
    }

    /// All of them.
    pub fn into_text(self) -> String {
        self.0.to_string()
    }
}

/// The place at `$.a.b[0]` or `$['a']`, made where there is none.
fn place<'a>(of: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut here = of;
    let mut rest = path.strip_prefix('$')?;
    let mut depth = 0;
    while !rest.is_empty() {
        depth += 1;
        if depth > DEPTH_MAX {
            return None;
        }
        if let Some(after) = rest.strip_prefix('[') {
            let (key, after) = after.split_once(']')?;
            here = match key.parse::<usize>() {
                Ok(index) => item(here, index)?,
                Err(_) => member(here, key.trim_matches(['\'', '"']))?,
            };
            rest = after;
        } else {
            let after = rest.strip_prefix('.')?;
            let end = after.find(['.', '[']).unwrap_or(after.len());
            here = member(here, &after[..end])?;
            rest = &after[end..];
        }
    }
    Some(here)
}

fn member<'a>(of: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    if of.is_null() {
        *of = Value::Object(Map::new());
    }
    Some(of.as_object_mut()?.entry(name).or_insert(Value::Null))
}

fn item(of: &mut Value, index: usize) -> Option<&mut Value> {
    if of.is_null() {
        *of = Value::Array(Vec::new());
    }
    let list = of.as_array_mut()?;
    if index > list.len() + GAP_ITEMS_MAX {
        return None;
    }
    if list.len() <= index {
        list.resize(index + 1, Value::Null);
    }
    list.get_mut(index)
}
