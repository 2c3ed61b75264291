//! A place in the file: the keys and indexes that lead to it. Made by whoever walks the file,
//! printed in mistakes.

use serde_path_to_error::Segment;
use serde_yaml::Value;
use std::fmt;

/// Keys and indexes from the file's root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path(Vec<Step>);

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list, from 0.
    Index(usize),
}

impl Path {
    /// The file itself.
    pub(super) const fn root() -> Self {
        Self(Vec::new())
    }

    /// The place of a key below this place.
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// The place of a list's item below this place.
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// All steps from the root.
    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The keys among the steps.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
    }

    /// The last step; `None` for the root.
    pub(super) fn last(&self) -> Option<&Step> {
        self.0.last()
    }

    /// The place around this one; `None` for the root.
    pub(super) fn parent(&self) -> Option<Self> {
        let (_, front) = self.0.split_last()?;
        Some(Self(front.to_vec()))
    }

    /// Whether this place is `other` or lies within it.
    pub(super) fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// What stands there.
    pub(super) fn find<'v>(&self, tree: &'v Value) -> Option<&'v Value> {
        self.0
            .iter()
            .try_fold(tree, |node, step| match (step, node) {
                (Step::Key(key), Value::Mapping(entries)) => entries
                    .iter()
                    .find(|(name, _)| is_key(name, key))
                    .map(|(_, value)| value),
                (Step::Index(index), Value::Sequence(items)) => items.get(*index),
                _ => None,
            })
    }

    /// What stands there, to be replaced.
    pub(super) fn find_mut<'v>(&self, tree: &'v mut Value) -> Option<&'v mut Value> {
        self.0
            .iter()
            .try_fold(tree, |node, step| match (step, node) {
                (Step::Key(key), Value::Mapping(entries)) => entries
                    .iter_mut()
                    .find(|(name, _)| is_key(name, key))
                    .map(|(_, value)| value),
                (Step::Index(index), Value::Sequence(items)) => items.get_mut(*index),
                _ => None,
            })
    }
}

impl From<&serde_path_to_error::Path> for Path {
    fn from(path: &serde_path_to_error::Path) -> Self {
        let step = |segment: &Segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        Self(path.iter().map_while(step).collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if at > 0 {
                        f.write_str(".")?;
                    }
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
                    if !key.is_empty() && key.bytes().all(plain) {
                        f.write_str(key)?;
                    } else {
                        write!(f, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The text of a mapping's key; `None` for a list or a mapping as a key.
pub(super) fn key_text(key: &Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null => Some("null".to_owned()),
        Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

fn is_key(key: &Value, text: &str) -> bool {
    match key {
        Value::String(key) => key == text,
        _ => key_text(key).is_some_and(|key| key == text),
    }
}
