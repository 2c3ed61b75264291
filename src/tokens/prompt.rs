//! The tokens of a whole request in OpenAI's shape: what its messages, tools and images will be
//! counted as, before it is sent.
//!
//! By the rules that OpenAI publishes, which it calls an estimate; the upstream's own usage is
//! what is billed where there is one. Text is counted as ordinary text: a client can't make it
//! cheaper by writing special tokens out. Images are counted by size, never as base64; sound and
//! files, whose rules aren't published, not at all. The body is untrusted: what is not of the
//! known shape is skipped, and what is not JSON is estimated. Called by the plan of a request,
//! off the serving threads above [`INLINE_BYTES_MAX`].

mod functions;
mod image;
mod messages;
mod shape;
mod written;

#[cfg(test)]
mod tests;

use std::fmt::Display;

use memchr::{memchr, memmem};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess};

use self::functions::{Format, Tools};
use self::image::Rule;
use self::messages::Messages;
use self::shape::{Read, Shape, each, key, skip, value};
use super::count::{self, Encoding};
use super::estimate::estimate;

/// The largest body whose tokens are worth waiting for on a serving thread: 0.3 ms of ordinary
/// text, 4 ms of the worst. Larger ones are estimated first and counted elsewhere.
pub const INLINE_BYTES_MAX: usize = 32 * 1024;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
}

/// The tokens of the prompt in the request `body` for `model`.
///
/// Whatever the body is, there is an answer: a body without any known field, or one that isn't
/// JSON (half a surrogate pair in a string, for one), gets that of [`estimate`] without its
/// images' data.
pub fn prompt_tokens(api: Api, model: &str, body: &[u8]) -> u64 {
    let mut request = Request {
        api,
        known: false,
        tally: Tally::of(model),
    };
    let image = request.tally.image;
    let read = Read(&mut request).deserialize(&mut serde_json::Deserializer::from_slice(body));
    match read {
        Ok(()) if request.known => request.tally.tokens,
        _ => estimate_of_text(body, image),
    }
}

fn estimate_of_text(body: &[u8], image: Rule) -> u64 {
    const DATA: &[u8] = b";base64,";
    let (mut tokens, mut rest) = (0, body);
    while let Some(at) = memmem::find(rest, DATA) {
        let data = &rest[at + DATA.len()..];
        tokens += estimate(&rest[..at]) + image.tokens(None, false);
        rest = memchr(b'"', data).map_or(&[], |end| &data[end..]);
    }
    tokens + estimate(rest)
}

// === the tally ===

/// The sum so far, and the rules that it is made by.
struct Tally {
    encoding: Encoding,
    image: Rule,
    /// For each message.
    message: u64,
    /// For a message with a name.
    name: i64,
    /// For each function that may be called.
    function: u64,
    tokens: u64,
}

/// The answer begins with so many tokens of its own.
const REPLY: u64 = 3;
/// Around all definitions of functions.
const FUNCTIONS: u64 = 12;

impl Tally {
    fn of(model: &str) -> Self {
        let encoding = count::family(model).encoding;
        // The oldest model lets a name stand for the role.
        let (message, name) = if count::bare(model) == "gpt-3.5-turbo-0301" {
            (4, -1)
        } else {
            (3, 1)
        };
        let function = if encoding == Encoding::Cl100k { 10 } else { 7 };
        Self {
            encoding,
            image: Rule::of(model),
            message,
            name,
            function,
            tokens: 0,
        }
    }

    fn add(&mut self, tokens: u64) {
        self.tokens += tokens;
    }

    fn add_text(&mut self, text: &str) {
        self.tokens += count::count(self.encoding, text);
    }
}

// === the request ===

struct Request {
    api: Api,
    /// Whether there was a field that is a prompt.
    known: bool,
    tally: Tally,
}

impl Shape for Request {
    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        let tally = &mut self.tally;
        let mut functions = false;
        while let Some(key) = key(&mut object)? {
            let prompt = match (self.api, &*key) {
                (Api::Chat, "messages") => {
                    value(&mut object, &mut Messages(tally))?;
                    tally.add(REPLY);
                    true
                }
                (Api::Completions, "prompt") | (Api::Embeddings, "input") => {
                    value(&mut object, &mut Input(tally))?;
                    true
                }
                (Api::Completions, "suffix") => {
                    value(&mut object, &mut Input(tally))?;
                    false
                }
                (Api::Chat, "tools" | "functions") => {
                    let mut tools = Tools { tally, any: false };
                    value(&mut object, &mut tools)?;
                    functions |= tools.any;
                    false
                }
                (Api::Chat, "response_format") => {
                    value(&mut object, &mut Format(tally))?;
                    false
                }
                _ => {
                    skip(&mut object)?;
                    false
                }
            };
            self.known |= prompt;
        }
        if functions {
            tally.add(FUNCTIONS);
        }
        Ok(())
    }
}

/// A text, texts, token numbers, or lists of token numbers.
struct Input<'t>(&'t mut Tally);

impl Shape for Input<'_> {
    fn text(&mut self, text: &str) {
        self.0.add_text(text);
    }

    fn number(&mut self, _: &dyn Display) {
        self.0.add(1);
    }

    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, self)
    }
}
