//! The file's text as a tree of values, with merge keys (`<<`) followed.
//!
//! Keys that stand twice don't end the reading: the first one counts, and [`Lines`] knows the
//! others. Aliases are followed by the parser, within its limits on depth and repetition. Called by
//! [`super::parse`].

use super::findings::Findings;
use super::lines::Lines;
use super::mistakes::{Mistake, Mistakes, What};
use super::path::{Path, Step, key_text};
use serde::de::{EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_yaml::value::{Tag, TaggedValue};
use serde_yaml::{Mapping, Value};
use std::fmt;

/// Reads YAML. What it finds later than the syntax goes into the findings that it returns.
pub(super) fn read(text: &str, origin: &str) -> Result<(Value, Findings), Mistakes> {
    let mut tree = match serde_yaml::from_str::<Lenient>(text) {
        Ok(Lenient(tree)) => tree,
        Err(_) if is_empty(text) => Value::Null,
        Err(error) => return Err(syntax(&error, text, origin)),
    };
    // A file that is just being written, or that was emptied by accident, is no wish to serve nothing.
    let has_keys = match &tree {
        Value::Null => false,
        Value::Mapping(entries) => !entries.is_empty(),
        _ => true,
    };
    if !has_keys {
        let found = if is_empty(text) {
            "an empty file"
        } else {
            "a file without any key"
        };
        return Err(Mistakes::of_file(origin, found, KEYS));
    }
    let lines = Lines::read(text);
    let twice = lines.twice.clone();
    let mut broken = Vec::new();
    merge(&mut tree, &Path::root(), &mut broken);
    let mut findings = Findings::new(origin, tree.clone(), lines);
    for (path, line, first) in twice {
        findings.twice(&path, line, first);
    }
    for (path, found) in broken {
        findings.wrong_because(&path, found, "a mapping or a list of mappings to merge");
    }
    plain(&mut tree, &Path::root(), &mut findings);
    Ok((tree, findings))
}

const KEYS: &str =
    "at least one key, such as `providers`, `model_routes` or `target_map`; see conf/weir.yaml";

/// Nothing but comments and document marks.
fn is_empty(text: &str) -> bool {
    text.lines()
        .map(|line| line.trim_start_matches('\u{feff}').trim())
        .all(|line| line.is_empty() || line.starts_with('#') || line == "---" || line == "...")
}

fn syntax(error: &serde_yaml::Error, text: &str, origin: &str) -> Mistakes {
    let last = text.lines().count().max(1);
    Mistakes(vec![Mistake {
        file: origin.to_owned(),
        // The end of the text is told as the line after it.
        line: Some(error.location().map_or(1, |place| place.line().min(last))),
        path: String::new(),
        what: What::Wrong {
            found: format!("text that isn't YAML ({error})"),
            allowed: "one YAML document".to_owned(),
            did_you_mean: None,
        },
    }])
}

/// Puts what `<<` names into the mapping around it; own keys win, then the first of a list.
fn merge(node: &mut Value, path: &Path, broken: &mut Vec<(Path, &'static str)>) {
    match node {
        Value::Mapping(entries) => {
            if let Some(source) = entries.shift_remove("<<") {
                let sources = match source {
                    Value::Sequence(items) => items,
                    other => vec![other],
                };
                for mut source in sources {
                    // What is merged may merge in its turn.
                    merge(&mut source, &path.key("<<"), broken);
                    match source {
                        Value::Mapping(more) => {
                            for (key, value) in more {
                                entries.entry(key).or_insert(value);
                            }
                        }
                        _ => broken.push((path.key("<<"), "something else")),
                    }
                }
            }
            for (key, value) in entries.iter_mut() {
                let name = key_text(key).unwrap_or_default();
                merge(value, &path.key(&name), broken);
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                merge(item, &path.index(index), broken);
            }
        }
        Value::Tagged(tagged) => merge(&mut tagged.value, path, broken),
        _ => {}
    }
}

/// Reports tags, empty list items and keys that aren't words, which no key of the file allows.
fn plain(node: &mut Value, path: &Path, findings: &mut Findings) {
    match node {
        Value::Tagged(_) => {
            findings.wrong(path, "a value without a tag");
            *node = Value::Null;
        }
        Value::Mapping(entries) => {
            let before = entries.len();
            entries.retain(|key, _| key_text(key).is_some());
            if entries.len() < before {
                findings.wrong_because(path, "a key that is no text", "text as a key");
            }
            *entries = std::mem::take(entries)
                .into_iter()
                .map(|(key, value)| (Value::String(key_text(&key).unwrap_or_default()), value))
                .collect();
            for (key, value) in entries.iter_mut() {
                let name = key_text(key).unwrap_or_default();
                plain(value, &path.key(&name), findings);
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                if item.is_null() {
                    findings.wrong(&path.index(index), "a value, or no `-` at all");
                }
                plain(item, &path.index(index), findings);
            }
        }
        _ => {}
    }
}

/// Takes out what stands at a path, so that the rest can be read: a list's item becomes null, which
/// keeps the places of its neighbours. Returns false when there is nothing to take out.
pub(super) fn take_out(tree: &mut Value, path: &Path) -> bool {
    let Some(around) = path.parent().and_then(|parent| parent.find_mut(tree)) else {
        return false;
    };
    match (around, path.last()) {
        (Value::Mapping(entries), Some(Step::Key(key))) => {
            entries.shift_remove(key.as_str()).is_some()
        }
        (Value::Sequence(items), Some(Step::Index(index))) => match items.get_mut(*index) {
            Some(item) if !item.is_null() => {
                *item = Value::Null;
                true
            }
            _ => false,
        },
        _ => false,
    }
}

/// A value in whose mappings a key may stand twice.
struct Lenient(Value);

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor).map(Self)
    }
}

struct LenientVisitor;

impl<'de> Visitor<'de> for LenientVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Lenient(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Mapping::new();
        while let Some((Lenient(key), Lenient(value))) = map.next_entry()? {
            entries.entry(key).or_insert(value);
        }
        Ok(Value::Mapping(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let (tag, value) = data.variant::<String>()?;
        if tag.is_empty() {
            return Err(A::Error::custom("a tag without a name"));
        }
        let Lenient(value) = value.newtype_variant()?;
        Ok(Value::Tagged(Box::new(TaggedValue {
            tag: Tag::new(tag),
            value,
        })))
    }
}
