//! The tokens of a whole request, in any dialect: what its messages, tools and images will be
//! counted as, before it is sent.
//!
//! For OpenAI's models by the rules that OpenAI publishes, which it calls an estimate; for others by
//! the nearest vocabulary, to be corrected by what is learned of them. The upstream's own usage is
//! what is billed where there is one. Text is counted as ordinary text: a client can't make it
//! cheaper by writing special tokens out. Images are counted by size, never as base64. The body is
//! untrusted: what is not of the known shape is skipped, and what is not JSON is estimated. Called
//! when a request is settled that no usage came for, and by [`admission`](super::estimate::admission).
//!
//! One reader serves all dialects: `request` knows which field of which dialect holds what,
//! `messages` what is in messages, `functions` what is in tools, `media` what isn't text.

mod functions;
pub(in crate::tokens) mod image;
pub mod length;
mod media;
mod messages;
mod request;
mod shape;
mod written;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use memchr::memmem;
use serde::de::DeserializeSeed;

use self::request::Request;
use self::shape::Read;
use super::estimate::linear::estimate;
use super::estimate::weigh::{Care, SAMPLES_MAX, Scale};
use super::family::{Family, family};
use super::meter::Surface;

/// Which interface a request is for: where in its body the prompt lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// OpenAI's `/v1/chat/completions`
    Chat,
    /// OpenAI's `/v1/completions`
    Completions,
    /// OpenAI's `/v1/embeddings`, Ollama's `/api/embed`
    Embeddings,
    /// OpenAI's `/v1/responses`
    Responses,
    /// Anthropic's `/v1/messages`
    Messages,
    /// Google's `…:generateContent`, `…:embedContent` and the like
    Gemini,
    /// Ollama's `/api/chat` and `/api/generate`
    Ollama,
    /// Alibaba's own `/api/v1/services/…`
    DashScope,
    /// Cohere's `/v2/chat`, `/v2/embed`, `/v2/rerank`, and what servers make like the last
    Cohere,
    /// Amazon Bedrock's `/model/…/converse`
    Converse,
}

impl Api {
    /// The interface that an answer is metered for; `None` where its requests have no prompt that is
    /// known.
    pub fn of(surface: Surface) -> Option<Self> {
        Some(match surface {
            Surface::Chat => Self::Chat,
            Surface::Completions => Self::Completions,
            Surface::Embeddings | Surface::OllamaEmbed => Self::Embeddings,
            Surface::Responses => Self::Responses,
            Surface::Messages | Surface::MessagesCount => Self::Messages,
            Surface::Gemini | Surface::GeminiCount | Surface::GeminiEmbed => Self::Gemini,
            Surface::Ollama => Self::Ollama,
            Surface::DashScope => Self::DashScope,
            Surface::Cohere | Surface::CohereEmbed | Surface::Rerank => Self::Cohere,
            Surface::Converse => Self::Converse,
            Surface::Audio | Surface::Speech | Surface::Images => return None,
            Surface::Invoke | Surface::Other => return None,
        })
    }
}

/// What a prompt holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Tokens of its text, by the nearest vocabulary.
    pub text: u64,
    /// Tokens that are nobody's text: around messages and tools, of images.
    pub fixed: u64,
    /// Bytes of its text.
    pub bytes: u64,
    /// Those of them that aren't ASCII.
    pub wide_bytes: u64,
    /// Whether it has images, documents or sound.
    pub media: bool,
    /// Whether more belongs to it than text in messages: media and tools, which are reckoned by rules of
    /// thumb, or what only the server has (an earlier conversation, a stored prompt).
    pub guessed: bool,
    /// Whether all text was counted. Else it is partly estimated: it was too long, or wasn't JSON.
    pub counted: bool,
}

impl Prompt {
    /// All tokens, as the nearest vocabulary has them.
    pub fn tokens(&self) -> u64 {
        self.text + self.fixed
    }

    /// Whether more than a fifth of its text is of other scripts than Latin.
    pub fn is_wide(&self) -> bool {
        self.wide_bytes > self.bytes / 5
    }
}

/// The longest text that is counted to its end; of longer ones the rest is estimated. A second of a
/// thread's time, at the worst.
pub const COUNTED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The tokens of the prompt in the request `body` for `model`.
///
/// Whatever the body is, there is an answer: a body without any known field, or one that isn't JSON to
/// anybody, is estimated without its images' data.
pub fn prompt_tokens(api: Api, model: &str, body: &[u8]) -> u64 {
    prompt(api, model, body).tokens()
}

/// As [`prompt_tokens`], with what calibration needs to know of the prompt.
pub fn prompt(api: Api, model: &str, body: &[u8]) -> Prompt {
    let care = Care {
        exact_bytes_max: COUNTED_BYTES_MAX,
        samples_max: SAMPLES_MAX,
        bytes: body.len(),
        seed: rand::random(),
    };
    read(api, family(model), body, care).0
}

/// The prompt of a request, and how many prompts it is that will be answered with text.
pub(super) fn read(api: Api, family: Family, body: &[u8], care: Care) -> (Prompt, u64) {
    let parsed = |body: &[u8]| {
        let mut request = Request::new(api, Tally::new(family, care));
        let mut json = serde_json::Deserializer::from_slice(body);
        Read(&mut request).deserialize(&mut json).ok()?;
        Some(request)
    };
    let request = parsed(body).or_else(|| parsed(&mended(body)?));
    let prompts = request.as_ref().map_or(1, Request::prompts);
    match request.filter(Request::is_known) {
        Some(request) => (request.into_tally().prompt(), prompts),
        None => (estimated(body, family), prompts),
    }
}

/// What lenient servers read, as everybody reads it: half a surrogate pair and what isn't UTF-8 is U+FFFD, a
/// control character a space. `None` where there is nothing of it.
fn mended(body: &[u8]) -> Option<Vec<u8>> {
    let unit = |at: usize| {
        let digits = body.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let hex = digits.iter().all(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| hex)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut mended, mut changed, mut at) = (Vec::with_capacity(body.len()), false, 0);
    while let Some(byte) = body.get(at) {
        let (kept, instead): (usize, Option<&[u8]>) = match (byte, unit(at)) {
            (b'\\', Some(0xd800..0xdc00)) if matches!(unit(at + 6), Some(0xdc00..0xe000)) => {
                (12, None)
            }
            (b'\\', Some(0xd800..0xe000)) => (6, Some(b"\\ufffd")),
            (b'\\', _) => (2, None),
            (0..b' ', _) => (1, Some(b" ")),
            _ => (1, None),
        };
        let end = (at + kept).min(body.len());
        changed |= instead.is_some_and(|instead| instead != &body[at..end]);
        mended.extend_from_slice(instead.unwrap_or(&body[at..end]));
        at = end;
    }
    match String::from_utf8_lossy(&mended) {
        Cow::Owned(text) => Some(text.into_bytes()),
        Cow::Borrowed(_) => changed.then_some(mended),
    }
}

fn estimated(body: &[u8], family: Family) -> Prompt {
    const DATA: &[u8] = b";base64,";
    let (mut text, mut images, mut rest, mut from) = (0, 0, body, 0);
    while let Some(at) = memmem::find(&rest[from..], DATA) {
        let begin = from + at + DATA.len();
        let length = rest[begin..].iter().position(|byte| !is_base64(*byte));
        let end = length.map_or(rest.len(), |length| begin + length);
        if rest.get(end).is_some_and(|byte| *byte != b'"') {
            // A text that only looks like it.
            from = end;
            continue;
        }
        text += estimate(&rest[..begin]);
        images += 1;
        (rest, from) = (&rest[end..], 0);
    }
    let wide = body.iter().filter(|byte| !byte.is_ascii()).count();
    Prompt {
        text: text + estimate(rest),
        fixed: images * family.image.tokens(None, false),
        bytes: body.len() as u64,
        wide_bytes: wide as u64,
        media: images > 0,
        guessed: true,
        counted: false,
    }
}

/// A digit of base64, of either alphabet; its `/` may be written with a backslash.
fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=-_\\".contains(&byte)
}

// === the tally ===

/// The sum so far, and the rules that it is made by.
struct Tally {
    family: Family,
    text: Scale,
    fixed: u64,
    media: bool,
    guessed: bool,
}

impl Tally {
    fn new(family: Family, care: Care) -> Self {
        Self {
            family,
            text: Scale::new(family.encoding, care),
            fixed: 0,
            media: false,
            guessed: false,
        }
    }

    /// Something belongs to the prompt whose tokens nobody here can count.
    fn guess(&mut self) {
        self.guessed = true;
    }

    fn add(&mut self, tokens: u64) {
        self.fixed += tokens;
    }

    fn add_text(&mut self, text: &str) {
        self.text.add(text);
    }

    fn add_message(&mut self) {
        self.add(self.family.overhead.message.into());
    }

    /// A message has a name.
    fn add_name(&mut self) {
        self.fixed = (self.fixed).saturating_add_signed(self.family.overhead.name.into());
    }

    fn add_media(&mut self, tokens: u64) {
        self.media = true;
        self.fixed += tokens;
    }

    fn prompt(&self) -> Prompt {
        let (bytes, wide_bytes) = self.text.bytes();
        Prompt {
            text: self.text.tokens(),
            fixed: self.fixed,
            bytes,
            wide_bytes,
            media: self.media,
            guessed: self.guessed || self.media,
            counted: self.text.is_counted(),
        }
    }
}
