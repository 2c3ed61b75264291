//! The form that a stream's events repeat: all but the text is the same, event after event.
//!
//! Most events of a stream differ in one string only (and some in a padding string). A shape
//! remembers an event that was read; bytes that are equal to it outside those strings say the same
//! about everything else, so they needn't be read, and their end needn't be looked for.

use std::ops::Range;

use crate::answer::{Field, Reader};

/// Longer events are always read in full.
pub const EVENT_BYTES_MAX: usize = 1024;

/// See the module. A new one fits nothing.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    event: Vec<u8>,
    /// The strings that may differ, in order; `holes[text]` is the text.
    holes: [(usize, usize); 2],
    count: usize,
    text: usize,
    said: Option<(u32, Field)>,
    usage_at: Option<(usize, usize)>,
}

/// How an event fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// The length of the event.
    pub len: usize,
    pub choice: u32,
    pub field: Field,
    /// The text, still escaped.
    pub text: Range<usize>,
    /// A `usage` member to cut out for a client that didn't ask.
    pub usage_at: Option<(usize, usize)>,
}

// === impl Shape ===

impl Shape {
    /// Remembers `event`, which `reader` has just read, if others may resemble it: one text, no
    /// usage, no end, no error.
    pub fn learn(&mut self, event: &[u8], reader: &Reader) {
        let facts = reader.facts();
        let [text] = facts.texts.as_slice() else {
            return;
        };
        // An end that depends on the byte after it is no part of a shape.
        let ends = event.ends_with(b"\n") || event.ends_with(b"\r\r");
        let silent = !facts.usage_given && !facts.reported;
        let plain = facts.closed && silent && facts.usage_at[1].is_none();
        if !(ends && plain) || facts.finish || facts.error || event.len() > EVENT_BYTES_MAX {
            return;
        }
        let text_at = (text.at.start, text.at.end);
        self.text = 0;
        self.count = 1;
        self.holes[0] = text_at;
        if let Some(padding) = facts.padding {
            self.text = usize::from(padding < text_at);
            self.holes = if self.text == 0 {
                [text_at, padding]
            } else {
                [padding, text_at]
            };
            self.count = 2;
        }
        self.said = Some((text.choice, text.field));
        self.usage_at = facts.usage_at[0];
        self.event.clear();
        self.event.extend_from_slice(event);
    }

    /// Whether `bytes` begin with a whole event of this shape.
    pub fn fit(&self, bytes: &[u8]) -> Option<Fit> {
        let (choice, field) = self.said?;
        let mut found = [0..0, 0..0];
        let (mut known, mut at) = (0, 0);
        for (hole, place) in self.holes[..self.count].iter().zip(&mut found) {
            at = same(bytes, at, &self.event[known..hole.0])?;
            let end = at + plain_end(&bytes[at..])?;
            *place = at..end;
            (known, at) = (hole.1, end);
        }
        let len = same(bytes, at, &self.event[known..])?;
        let usage_at = self.usage_at.map(|(start, end)| {
            let moved = |place: usize| {
                let holes = self.holes[..self.count].iter().zip(&found);
                holes
                    .filter(|(hole, _)| hole.1 <= place)
                    .fold(place, |place, (hole, found)| {
                        place + found.len() - (hole.1 - hole.0)
                    })
            };
            (moved(start), moved(end))
        });
        Some(Fit {
            len,
            choice,
            field,
            text: found[self.text].clone(),
            usage_at,
        })
    }
}

/// The offset after `known`, if `bytes` go on with it at `at`.
fn same(bytes: &[u8], at: usize, known: &[u8]) -> Option<usize> {
    let end = at + known.len();
    (bytes.get(at..end)? == known).then_some(end)
}

/// The length of a string's inside up to its quote; `None` without one or with a bare control
/// character, which would end a line or is no JSON.
fn plain_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => {
                if *bytes.get(at + 1)? < b' ' {
                    return None;
                }
                at += 2;
            }
            0..b' ' => return None,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::chat;

    fn shape(event: &str, json_at: usize) -> Shape {
        let mut reader = Reader::of_events(&chat::CHAT);
        reader.begin();
        reader.push(json_at, event.as_bytes()[json_at..].trim_ascii_end());
        let mut shape = Shape::default();
        shape.learn(event.as_bytes(), &reader);
        shape
    }

    const EVENT: &str = "data: {\"p\":\"ab\",\"choices\":[{\"index\":1,\"delta\":\
                         {\"content\":\"Hi\"}}],\"usage\":null}\n\n";

    #[test]
    fn an_event_that_differs_in_its_strings_fits() {
        let shape = shape(EVENT, 6);
        let other = EVENT.replace("Hi", "a\\\"\\ud83d").replace("ab", "");
        let fit = shape
            .fit(format!("{other}data: more").as_bytes())
            .expect("it fits");
        assert_eq!(fit.len, other.len());
        assert_eq!((fit.choice, fit.field), (1, Field::Content));
        assert_eq!(&other[fit.text], "a\\\"\\ud83d");
        let (start, end) = fit.usage_at.expect("a usage to cut");
        assert_eq!(&other[start..end], ",\"usage\":null");
    }

    #[test]
    fn whatever_else_differs_or_is_missing_does_not_fit() {
        let shape = shape(EVENT, 6);
        for other in [
            EVENT.replace("\"index\":1", "\"index\":2"),
            EVENT.replace("null", "{}"),
            EVENT.replace("Hi", "H\ni"),
            EVENT.replace("Hi", "H\\"),
            EVENT.replace("Hi\"", "Hi\",\"refusal\":\"no\""),
            EVENT.replace("\n\n", "\r\n\r\n"),
        ] {
            assert_eq!(shape.fit(other.as_bytes()), None, "{other}");
        }
        for end in 0..EVENT.len() {
            assert_eq!(shape.fit(&EVENT.as_bytes()[..end]), None, "cut at {end}");
        }
        assert_eq!(Shape::default().fit(EVENT.as_bytes()), None);
    }

    #[test]
    fn events_that_say_more_than_a_text_are_not_learnt() {
        for event in [
            EVENT.replace("null", "{\"prompt_tokens\":1}"),
            EVENT.replace("}}],", "},\"finish_reason\":\"stop\"}],"),
            EVENT.replace("\"Hi\"", "\"Hi\",\"refusal\":\"no\""),
            EVENT.replace("\"Hi\"", "null"),
            EVENT.replace("\"p\"", "\"error\""),
        ] {
            assert_eq!(shape(&event, 6).fit(event.as_bytes()), None, "{event}");
        }
    }
}
