//! Exact token counts of text, by the two public vocabularies of OpenAI.
//!
//! Counts what the reference tokenizer counts, for any text, at a bounded price per byte: no
//! regular expression runs, nothing is locked, nothing panics on hostile text, and special tokens
//! written out in a text (`<|endoftext|>`) are ordinary text. A piece of more than
//! [`PIECE_BYTES_MAX`] bytes without a place to split (natural text has none of a thirtieth of
//! that) is cut there; only then may a count be off, by less than 0.1 %.
//!
//! The meter counts responses with a [`Running`], `prompt` counts requests; `app` calls [`load`] on
//! a thread of its own at start.

mod classes;
mod merge;
mod running;
mod scan;
mod vocabulary;
mod work;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::{LazyLock, OnceLock};

use tiktoken_rs::tokenizer::{Tokenizer, get_tokenizer};

pub use self::running::{BUFFER_BYTES, Running};

use self::classes::Classes;
use self::scan::{Piece, Scan};
use self::vocabulary::Vocabulary;

/// Pieces are never longer; longer ones are cut (at a character's start).
pub const PIECE_BYTES_MAX: usize = 16 * 1024;

/// A public vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// GPT-4o and everything after it. The harmony encoding of gpt-oss counts text alike.
    O200k,
    /// GPT-4, GPT-3.5 and the embedding models.
    Cl100k,
}

/// How a model's tokens are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The vocabulary that is nearest.
    pub encoding: Encoding,
    /// Whether it is the model's own. Where it isn't, a count is an estimate and is to be recorded
    /// as one.
    pub exact: bool,
}

/// The family of a model by the name that a client or upstream calls it by: with or without the
/// name of a provider before it (`openai/gpt-4o`) or a variant behind it (`gpt-4o:extended`), in
/// any case. Names are what clients write: any text is answered, at once.
pub fn family(model: &str) -> Family {
    const UNKNOWN: Family = Family {
        encoding: Encoding::O200k,
        exact: false,
    };
    let name = bare(model);
    let exact = |encoding| Family {
        encoding,
        exact: true,
    };
    match get_tokenizer(&name) {
        Some(Tokenizer::O200kBase | Tokenizer::O200kHarmony) => exact(Encoding::O200k),
        Some(Tokenizer::Cl100kBase) => exact(Encoding::Cl100k),
        Some(_) => UNKNOWN,
        None => kin(&name).map_or(UNKNOWN, exact),
    }
}

/// A model's name in lower case without provider, fine-tuning or variant; empty if it is too long
/// to be one.
pub(super) fn bare(model: &str) -> Cow<'_, str> {
    if model.len() > MODEL_BYTES_MAX {
        return Cow::Borrowed("");
    }
    if model.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(bare(&model.to_ascii_lowercase()).into_owned());
    }
    let name = model.trim().rsplit('/').next().unwrap_or_default();
    let name = name.strip_prefix("openai.").unwrap_or(name);
    let name = name.strip_prefix("ft:").unwrap_or(name);
    Cow::Borrowed(name.split([':', '@']).next().unwrap_or_default())
}

/// No model's name is longer.
const MODEL_BYTES_MAX: usize = 256;

/// OpenAI's models that the reference's list doesn't name, by the look of them.
fn kin(name: &str) -> Option<Encoding> {
    const CL100K: [&str; 3] = ["gpt-3", "text-embedding-3", "text-embedding-ada"];
    const O200K: [&str; 7] = [
        "gpt-oss",
        "gpt-realtime",
        "gpt-audio",
        "gpt-image",
        "chatgpt",
        "codex",
        "computer-use-preview",
    ];
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    // `o4-pro` or `gpt-6`, but not `olmo` or `gpt-neox`.
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    if starts(&CL100K) {
        Some(Encoding::Cl100k)
    } else if starts(&O200K) || numbered("gpt-") || numbered("o") {
        Some(Encoding::O200k)
    } else {
        None
    }
}

static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::new);
static O200K: OnceLock<Vocabulary> = OnceLock::new();
static CL100K: OnceLock<Vocabulary> = OnceLock::new();

/// Fills both vocabularies, which takes about 0.4 s of one CPU, once. Until then a count waits for
/// its vocabulary: call this at start, off the threads that serve.
pub fn load() {
    vocabulary(Encoding::O200k);
    vocabulary(Encoding::Cl100k);
}

/// Whether a count in this encoding would begin at once.
pub fn loaded(encoding: Encoding) -> bool {
    cell(encoding).get().is_some()
}

fn vocabulary(encoding: Encoding) -> &'static Vocabulary {
    cell(encoding).get_or_init(|| {
        let core = match encoding {
            Encoding::O200k => tiktoken_rs::o200k_base(),
            Encoding::Cl100k => tiktoken_rs::cl100k_base(),
        };
        Vocabulary::new(
            &core.expect("the vocabulary is part of the binary"),
            &CLASSES,
        )
    })
}

fn cell(encoding: Encoding) -> &'static OnceLock<Vocabulary> {
    match encoding {
        Encoding::O200k => &O200K,
        Encoding::Cl100k => &CL100K,
    }
}

/// The tokens of `text`. Linear: about 10 ns per byte of ordinary text, some 100 ns of the worst.
pub fn count(encoding: Encoding, text: &str) -> u64 {
    walk(encoding, text, End::Text).0
}

/// The tokens of those pieces at the start of `text` that no text behind it can change, and where
/// they end. What is left is shorter than [`PIECE_BYTES_MAX`].
fn settled(encoding: Encoding, text: &str) -> (u64, usize) {
    walk(encoding, text, End::Unknown)
}

/// What comes behind the text that is walked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing.
    Text,
    /// Perhaps more: pieces that depend on it are left.
    Unknown,
}

/// Each piece is looked for in a window of at most [`PIECE_BYTES_MAX`] from its start, as if the
/// text ended there. So the work is linear, and where a piece ends never depends on how much of
/// the text beyond the window has arrived: a text in parts counts as the whole.
fn walk(encoding: Encoding, text: &str, end: End) -> (u64, usize) {
    if text.is_empty() {
        return (0, 0);
    }
    let vocabulary = vocabulary(encoding);
    let bytes = text.as_bytes();
    let (mut tokens, mut start) = (0, 0);
    while start < bytes.len() {
        let full = bytes.len() - start >= PIECE_BYTES_MAX;
        let mut limit = bytes.len().min(start + PIECE_BYTES_MAX);
        while !text.is_char_boundary(limit) {
            limit -= 1;
        }
        let scan = Scan::new(vocabulary.classes, &bytes[..limit]);
        let piece: Piece = match encoding {
            Encoding::O200k => scan.o200k(start),
            Encoding::Cl100k => scan.cl100k(start),
        };
        if end == End::Unknown && !full && piece.reach >= limit {
            break;
        }
        tokens += match vocabulary.is_token(bytes, start, piece.end) {
            true => 1,
            false => merge::merge(vocabulary, bytes, start, piece.end),
        };
        start = piece.end;
    }
    (tokens, start)
}
