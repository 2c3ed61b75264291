//! The messages of a chat: their text, their images, and the calls of functions in them.

use serde::de::{MapAccess, SeqAccess};

use super::Tally;
use super::image::Size;
use super::shape::{Shape, each, key, skip, value};
use super::written::{Words, Written};

/// For each call of a function in a message.
const CALL: u64 = 1;

/// A list of messages.
pub(super) struct Messages<'t>(pub &'t mut Tally);

impl Shape for Messages<'_> {
    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, &mut Message(self.0))
    }
}

struct Message<'t>(&'t mut Tally);

impl Shape for Message<'_> {
    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        let tally = &mut *self.0;
        tally.add(tally.message);
        while let Some(key) = key(&mut object)? {
            match &*key {
                "role" | "refusal" => value(&mut object, &mut Plain(tally))?,
                "content" => value(&mut object, &mut Content(tally))?,
                "name" => {
                    tally.tokens = tally.tokens.saturating_add_signed(tally.name);
                    value(&mut object, &mut Plain(tally))?;
                }
                "tool_calls" => value(&mut object, &mut Calls(tally))?,
                "function_call" => value(&mut object, &mut Call(tally))?,
                _ => skip(&mut object)?,
            }
        }
        Ok(())
    }
}

/// A text and nothing else.
pub(super) struct Plain<'t>(pub &'t mut Tally);

impl Shape for Plain<'_> {
    fn text(&mut self, text: &str) {
        self.0.add_text(text);
    }
}

/// A text or a list of parts.
pub(super) struct Content<'t>(pub &'t mut Tally);

impl Shape for Content<'_> {
    fn text(&mut self, text: &str) {
        self.0.add_text(text);
    }

    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, &mut Part(self.0))
    }
}

/// A part of a content, told by the field that holds it.
struct Part<'t>(&'t mut Tally);

impl Shape for Part<'_> {
    fn text(&mut self, text: &str) {
        self.0.add_text(text);
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        while let Some(key) = key(&mut object)? {
            match &*key {
                "text" | "refusal" => value(&mut object, &mut Plain(self.0))?,
                "image_url" => {
                    let mut image = Image {
                        size: None,
                        low: false,
                    };
                    value(&mut object, &mut image)?;
                    self.0.add(self.0.image.tokens(image.size, image.low));
                }
                _ => skip(&mut object)?,
            }
        }
        Ok(())
    }
}

struct Image {
    size: Option<Size>,
    low: bool,
}

impl Shape for Image {
    fn text(&mut self, url: &str) {
        self.size = Size::of_url(url);
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        while let Some(key) = key(&mut object)? {
            match &*key {
                "url" => value(&mut object, self)?,
                "detail" => {
                    let mut detail = Words::default();
                    value(&mut object, &mut detail)?;
                    self.low = detail.0 == "low";
                }
                _ => skip(&mut object)?,
            }
        }
        Ok(())
    }
}

struct Calls<'t>(&'t mut Tally);

impl Shape for Calls<'_> {
    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, &mut Call(self.0))
    }
}

/// `{"function": {"name", "arguments"}}`, or the inner object by itself.
struct Call<'t>(&'t mut Tally);

impl Shape for Call<'_> {
    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        while let Some(key) = key(&mut object)? {
            match &*key {
                "function" => value(&mut object, self)?,
                "name" => {
                    self.0.add(CALL);
                    value(&mut object, &mut Plain(self.0))?;
                }
                "arguments" => value(&mut object, &mut Written(self.0))?,
                _ => skip(&mut object)?,
            }
        }
        Ok(())
    }
}
