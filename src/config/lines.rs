//! Which line of the file each place is on.
//!
//! The values come from `serde_yaml`, which doesn't keep lines; the events of a second parser do.
//! Where the two disagree about a file, the line of the nearest place around it is told. Built by
//! [`super::tree`].

use super::path::{Path, Step};
use saphyr_parser::{Event, Parser};
use std::collections::HashMap;
use std::rc::Rc;

/// The lines of a file's places, and the keys that stand twice in a mapping.
#[derive(Debug)]
pub(super) struct Lines {
    root: Rc<Node>,
    /// Keys written again: place, line, line of the first one.
    pub(super) twice: Vec<(Path, usize, usize)>,
}

#[derive(Debug)]
enum Node {
    Leaf,
    /// Key, its line, what it stands for.
    Map(Vec<(String, usize, Rc<Node>)>),
    /// Line of the item, the item.
    Seq(Vec<(usize, Rc<Node>)>),
}

impl Lines {
    /// Reads as far as the text is YAML.
    pub(super) fn read(text: &str) -> Self {
        let mut builder = Builder::default();
        let mut parser = Parser::new_from_str(text);
        while let Some(Ok((event, span))) = parser.next_event() {
            if matches!(event, Event::DocumentEnd | Event::StreamEnd) {
                break;
            }
            builder.take(event, span.start.line());
        }
        builder.finish()
    }

    /// The line of a place, from 1; of the nearest place around it where it isn't in the file.
    pub(super) fn line(&self, path: &Path) -> usize {
        let mut line = 1;
        let mut node = &self.root;
        for step in path.steps() {
            match node.child(step) {
                Some((at, child)) => (line, node) = (at, child),
                None => break,
            }
        }
        line
    }
}

impl Node {
    fn child(&self, step: &Step) -> Option<(usize, &Rc<Self>)> {
        match (self, step) {
            (Self::Map(entries), Step::Key(key)) => {
                let own = entries.iter().find(|(name, ..)| name == key);
                if let Some((_, line, node)) = own {
                    return Some((*line, node));
                }
                let merged = entries.iter().find(|(name, ..)| name == "<<")?;
                match &*merged.2 {
                    Self::Seq(items) => items.iter().find_map(|(_, item)| item.child(step)),
                    _ => merged.2.child(step),
                }
            }
            (Self::Seq(items), Step::Index(index)) => {
                items.get(*index).map(|(line, node)| (*line, node))
            }
            _ => None,
        }
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    twice: Vec<(Path, usize, usize)>,
}

/// A mapping or list whose end wasn't seen yet.
struct Open {
    anchor: usize,
    line: usize,
    inside: Inside,
}

enum Inside {
    Map {
        entries: Vec<(String, usize, Rc<Node>)>,
        /// Lines of the keys so far.
        seen: HashMap<String, usize>,
        /// The key whose value comes next.
        key: Option<(String, usize)>,
    },
    Seq(Vec<(usize, Rc<Node>)>),
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) {
        match event {
            Event::MappingStart(anchor, _) => self.open.push(Open {
                anchor,
                line,
                inside: Inside::Map {
                    entries: Vec::new(),
                    seen: HashMap::new(),
                    key: None,
                },
            }),
            Event::SequenceStart(anchor, _) => self.open.push(Open {
                anchor,
                line,
                inside: Inside::Seq(Vec::new()),
            }),
            Event::MappingEnd | Event::SequenceEnd => {
                let Some(open) = self.open.pop() else { return };
                let node = Rc::new(match open.inside {
                    Inside::Map { entries, .. } => Node::Map(entries),
                    Inside::Seq(items) => Node::Seq(items),
                });
                self.remember(open.anchor, &node);
                self.place(open.line, None, node);
            }
            Event::Scalar(text, _, anchor, _) => {
                let node = Rc::new(Node::Leaf);
                self.remember(anchor, &node);
                self.place(line, Some(&text), node);
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                self.place(line, None, node.unwrap_or_else(|| Rc::new(Node::Leaf)));
            }
            _ => {}
        }
    }

    fn remember(&mut self, anchor: usize, node: &Rc<Node>) {
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(node));
        }
    }

    /// A node is complete: as the document, an item, a key or a key's value.
    fn place(&mut self, line: usize, text: Option<&str>, node: Rc<Node>) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.inside {
            Inside::Seq(items) => items.push((line, node)),
            Inside::Map { entries, seen, key } => match key.take() {
                Some((name, line)) => entries.push((name, line, node)),
                None => {
                    // A list or a mapping as a key has no name; no place is ever asked for in it.
                    let name = text.unwrap_or("?").to_owned();
                    *key = Some((name.clone(), line));
                    match seen.get(&name).copied() {
                        None => drop(seen.insert(name, line)),
                        Some(first) if text.is_some() => {
                            let path = self.path().key(&name);
                            self.twice.push((path, line, first));
                        }
                        Some(_) => {}
                    }
                }
            },
        }
    }

    /// Where the innermost open mapping or list is.
    fn path(&self) -> Path {
        let around = &self.open[..self.open.len().saturating_sub(1)];
        around
            .iter()
            .fold(Path::root(), |path, open| match &open.inside {
                Inside::Map { key, .. } => path.key(key.as_ref().map_or("?", |(name, _)| name)),
                Inside::Seq(items) => path.index(items.len()),
            })
    }

    /// What was complete when the text ended, with what was open closed around it.
    fn finish(mut self) -> Lines {
        while !self.open.is_empty() {
            let event = match self.open.last().map(|open| &open.inside) {
                Some(Inside::Map { key: Some(_), .. }) => {
                    self.place(0, None, Rc::new(Node::Leaf));
                    Event::MappingEnd
                }
                Some(Inside::Map { .. }) => Event::MappingEnd,
                _ => Event::SequenceEnd,
            };
            self.take(event, 0);
        }
        Lines {
            root: self.root.unwrap_or_else(|| Rc::new(Node::Leaf)),
            twice: self.twice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(keys: &[&str]) -> Path {
        keys.iter()
            .fold(Path::root(), |path, key| match key.parse() {
                Ok(index) => path.index(index),
                Err(_) => path.key(key),
            })
    }

    #[test]
    fn every_place_has_its_line() {
        let text = "# comment\nport: 1\nlimits:\n  queue: {size: 1,\n    timeout: 2s}\nlist:\n  - a\n  - b: 1\n    c: 2\n";
        let lines = Lines::read(text);
        for (path, line) in [
            (at(&["port"]), 2),
            (at(&["limits"]), 3),
            (at(&["limits", "queue", "size"]), 4),
            (at(&["limits", "queue", "timeout"]), 5),
            (at(&["limits", "queue", "absent"]), 4),
            (at(&["list", "0"]), 7),
            (at(&["list", "1", "c"]), 9),
            (at(&["absent"]), 1),
        ] {
            assert_eq!(lines.line(&path), line, "{path}");
        }
    }

    #[test]
    fn what_an_alias_or_a_merge_brings_is_told_where_it_is_written() {
        let text = "a: &x\n  one: 1\nb: *x\nc:\n  <<: *x\n  two: 2\nd:\n  <<: [*x]\n";
        let lines = Lines::read(text);
        assert_eq!(lines.line(&at(&["b"])), 3);
        for key in ["a", "b", "c", "d"] {
            assert_eq!(lines.line(&at(&[key, "one"])), 2, "{key}");
        }
        assert_eq!(lines.line(&at(&["c", "two"])), 6);
    }

    #[test]
    fn keys_that_stand_twice_are_found_also_on_one_line() {
        let text = "a: 1\nb:\n  - {c: 1, c: 2}\na: 3\n";
        let twice = Lines::read(text).twice;
        assert_eq!(twice, [(at(&["b", "0", "c"]), 3, 3), (at(&["a"]), 4, 1)]);
    }
}
