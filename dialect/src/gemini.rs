//! What Gemini's API answers, at Google AI and on Vertex.
//!
//! ```text
//! root ─ candidates[] ─ index, finishReason, content ─ parts[] ─ text, functionCall ─ args
//!      ├ usageMetadata
//!      ├ promptFeedback ─ blockReason
//!      └ error
//! ```
//!
//! A stream is made of events (`alt=sse`), or is one array of such objects. Thoughts are reported
//! beside the candidates, and the prompts of server tools beside the prompt.

pub mod answer_in;
pub mod answer_out;
mod contents;
mod contents_out;
mod embed_in;
pub mod embed_out;
mod error;
mod partial;
pub mod request_in;
pub mod request_out;
mod schema;
mod seal;
mod spelling;
#[cfg(test)]
mod tests;
mod thinking;
pub mod vertex_token;

pub use request_out::path;

use crate::answer::Field;
use crate::answer::table::{Node, Place, Role, Table};
use crate::usage::{Count, Entry, Rank, Raw, Reported, Sheet};

/// `:generateContent`, `:streamGenerateContent`, `:countTokens`, `:embedContent` and the like.
pub static GEMINI: Table = Table {
    listed: true,
    ..Table::new(&ROOT, &ROOT, &[], &COUNTED)
};

static ROOT: Node = Node::object(&[
    ("candidates", Role::Into(&CANDIDATES)),
    ("usageMetadata", Role::Usage(&USAGE)),
    ("promptFeedback", Role::Into(&FEEDBACK)),
    ("error", Role::Error),
    // Counting tokens says these.
    ("totalTokens", Role::Count(Count::Input)),
    ("cachedContentTokenCount", Role::Count(Count::Cached)),
    // Vertex' embeddings of old.
    ("predictions", Role::Into(&PREDICTIONS)),
]);
static CANDIDATES: Node = Node::array(Role::Into(&CANDIDATE)).at(Place::Choices);
static CANDIDATE: Node = Node::object(&[
    ("content", Role::Into(&CONTENT)),
    ("index", Role::ChoiceIndex),
    ("finishReason", Role::Finish),
])
.at(Place::Choice);
static CONTENT: Node = Node::object(&[("parts", Role::Into(&PARTS))]);
static PARTS: Node = Node::array(Role::Into(&PART));
static PART: Node = Node::object(&[
    ("text", Role::Text(Field::Content)),
    ("functionCall", Role::Into(&CALL)),
    ("executableCode", Role::Into(&CODE)),
]);
static CALL: Node = Node::object(&[("args", Role::Json(Field::Arguments(0)))]);
static CODE: Node = Node::object(&[("code", Role::Text(Field::Text))]);
static FEEDBACK: Node = Node::object(&[("blockReason", Role::Stopped)]);

static PREDICTIONS: Node = Node::array(Role::Into(&PREDICTION));
static PREDICTION: Node = Node::object(&[("embeddings", Role::Into(&EMBEDDED))]);
static EMBEDDED: Node = Node::object(&[("statistics", Role::Into(&STATISTICS))]);
static STATISTICS: Node = Node::object(&[("token_count", Role::Count(Count::InputBeside))]);

static USAGE: Sheet = Sheet {
    entries: &[
        ("promptTokenCount", Entry::Count(Count::Input)),
        ("toolUsePromptTokenCount", Entry::Count(Count::InputBeside)),
        ("candidatesTokenCount", Entry::Count(Count::Output)),
        ("responseTokenCount", Entry::Count(Count::Output)),
        ("thoughtsTokenCount", Entry::Count(Count::Reasoning)),
        ("cachedContentTokenCount", Entry::Count(Count::Cached)),
        ("totalTokenCount", Entry::Count(Count::Total)),
        ("promptTokensDetails", Entry::Modalities(PROMPT)),
        ("toolUsePromptTokensDetails", Entry::Modalities(PROMPT)),
        ("candidatesTokensDetails", Entry::Modalities(ANSWER)),
        ("responseTokensDetails", Entry::Modalities(ANSWER)),
    ],
    sum,
    rank: Rank::Firm,
};

const PROMPT: &[(&str, Count)] = &[("AUDIO", Count::AudioInput), ("IMAGE", Count::ImageInput)];

const ANSWER: &[(&str, Count)] = &[("AUDIO", Count::AudioOutput)];

static COUNTED: Sheet = Sheet {
    entries: &[],
    sum: counted,
    rank: Rank::Firm,
};

fn sum(raw: &Raw) -> Option<Reported> {
    let prompt = raw.of(Count::Input);
    let beside = raw.of(Count::InputBeside).unwrap_or(0);
    let input = prompt.map(|prompt| prompt.saturating_add(beside));
    let thoughts = raw.of(Count::Reasoning);
    let output = match (raw.of(Count::Output), thoughts) {
        (None, None) => raw
            .of(Count::Total)
            .map(|total| total.saturating_sub(input.unwrap_or(0))),
        (said, thought) => Some(said.unwrap_or(0).saturating_add(thought.unwrap_or(0))),
    };
    (input.is_some() || output.is_some()).then(|| Reported {
        input,
        output,
        cached: raw.of(Count::Cached),
        cache_write: None,
        reasoning: thoughts,
        media: raw.media(),
    })
}

fn counted(raw: &Raw) -> Option<Reported> {
    let embedded = raw.of(Count::InputBeside);
    Some(Reported {
        input: Some(raw.of(Count::Input).or(embedded)?),
        output: embedded.map(|_| 0),
        cached: raw.of(Count::Cached),
        ..Reported::default()
    })
}
