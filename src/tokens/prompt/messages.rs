//! The messages of a chat, in any dialect: their text, their images, and the calls of functions in
//! them.
//!
//! All dialects have the same few things under different names, and no two mean different things by
//! one name: a part is told by the field that holds it, whatever the dialect.

use serde::de::{MapAccess, SeqAccess};

use super::Tally;
use super::media::{Image, Kind, Source};
use super::shape::{Shape, each, key, skip, value};
use super::written::Written;

/// For each call of a function in a message.
const CALL: u64 = 1;

/// A list of messages, or a single one, or its text.
pub(super) struct Messages<'t>(pub &'t mut Tally);

impl Shape for Messages<'_> {
    /// Said by the user.
    fn text(&mut self, text: &str) {
        self.0.add_message();
        self.0.add(1);
        self.0.add_text(text);
    }

    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, &mut Message(self.0))
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, object: O) -> Result<(), O::Error> {
        Message(self.0).object(object)
    }
}

/// A message; of OpenAI's Responses also an item that is none, such as a call or its result.
struct Message<'t>(&'t mut Tally);

impl Shape for Message<'_> {
    /// An item of Anthropic's or Cohere's lists may be a bare text.
    fn text(&mut self, text: &str) {
        self.0.add_text(text);
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        let tally = &mut *self.0;
        tally.add_message();
        while let Some(key) = key(&mut object)? {
            match &*key {
                "role" if tally.family.overhead.message == 0 => skip(&mut object)?,
                "role" => value(&mut object, &mut Plain(tally))?,
                "name" => {
                    tally.add_name();
                    value(&mut object, &mut Plain(tally))?;
                }
                "tool_calls" => value(&mut object, &mut Calls(tally))?,
                "function_call" => value(&mut object, &mut Call(tally))?,
                key => part(key, &mut object, tally)?,
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

/// A text or a list of parts, or one part.
pub(super) struct Content<'t>(pub &'t mut Tally);

impl Shape for Content<'_> {
    fn text(&mut self, text: &str) {
        self.0.add_text(text);
    }

    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, &mut Part(self.0))
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, object: O) -> Result<(), O::Error> {
        Part(self.0).object(object)
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
                // A call or its result, of Anthropic's or Gemini's.
                "name" => {
                    self.0.add(CALL);
                    value(&mut object, &mut Plain(self.0))?;
                }
                key => part(key, &mut object, self.0)?,
            }
        }
        Ok(())
    }
}

/// The value of a field of a message or part.
fn part<'de, O: MapAccess<'de>>(
    key: &str,
    object: &mut O,
    tally: &mut Tally,
) -> Result<(), O::Error> {
    match key {
        "text" | "refusal" | "thinking" | "tool_plan" => value(object, &mut Plain(tally)),
        // Lists of parts, or text. Gemini has `parts`; a summary is that of OpenAI's reasoning; the
        // output of a function is text or parts.
        "content" | "parts" | "summary" | "output" => value(object, &mut Content(tally)),
        // Parts within parts: Gemini's calls and results, Bedrock's, Cohere's documents.
        "functionCall" | "functionResponse" | "function_response" | "toolUse" | "toolResult"
        | "document" => value(object, &mut Document(tally)),
        // What a function is called with, or gave: JSON, or JSON in a string.
        "arguments" | "input" | "args" | "response" | "json" => value(object, &mut Written(tally)),
        "image_url" | "image" => Image::add(object, tally),
        "images" => value(object, &mut Images(tally)),
        "source" | "inlineData" | "inline_data" | "fileData" | "file_data" | "file" => {
            Source::add(object, tally, Kind::Document)
        }
        "input_audio" => {
            tally.guess();
            Source::add(object, tally, Kind::Sound)
        }
        // What the server keeps or fetches.
        "file_id" | "file_url" | "video_url" | "video" => {
            tally.guess();
            skip(object)
        }
        "type" => value(object, &mut Kept(tally)),
        _ => skip(object),
    }
}

/// The type of an item, which may be one that only the server has.
struct Kept<'t>(&'t mut Tally);

impl Shape for Kept<'_> {
    fn text(&mut self, kind: &str) {
        if kind == "item_reference" {
            self.0.guess();
        }
    }
}

/// A part within a part, or a document beside the messages.
pub(super) struct Document<'t>(pub &'t mut Tally);

impl Shape for Document<'_> {
    fn text(&mut self, text: &str) {
        self.0.add_text(text);
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        while let Some(key) = key(&mut object)? {
            match &*key {
                "name" => {
                    self.0.add(CALL);
                    value(&mut object, &mut Plain(self.0))?;
                }
                // Cohere's: an object or a text.
                "data" => value(&mut object, &mut Written(self.0))?,
                key => part(key, &mut object, self.0)?,
            }
        }
        Ok(())
    }
}

/// Images by their data alone, as Ollama has them.
pub(super) struct Images<'t>(pub &'t mut Tally);

impl Shape for Images<'_> {
    fn text(&mut self, data: &str) {
        let tokens = Image::tokens_of(data, self.0);
        self.0.add_media(tokens);
    }

    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, self)
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
                    self.0.guess();
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
