//! What Anthropic's Messages API answers, and those who speak it (Bedrock and Vertex among them).
//!
//! ```text
//! body  ─ content[] ─ block ─ text, thinking, input
//!       └ usage
//! event ─ type, index, delta ─ text, thinking, partial_json
//!       ├ message ─ usage (of the beginning)
//!       └ usage (so far)
//! ```
//!
//! What caches gave and took isn't part of `input_tokens`. The iterations of an answer that server
//! tools, an adviser or a compaction took part in are listed inside `usage`; the sums beside them
//! are what counts here.

pub mod answer_in;
pub mod answer_out;
pub mod model;
pub mod request_in;
pub mod request_out;
mod thinking;

use serde_json::{Value, json};

use crate::answer::Field;
use crate::answer::table::{Node, Place, Role, Says, Table};
use crate::bedrock;
use crate::usage::{Count, Entry, Rank, Raw, Reported, Sheet};

/// The path of a method below a base URL's: servers that have more than this API have it below a path of
/// their own (`/anthropic`), and `/v1` below that.
pub fn path(base: &str, method: &str) -> String {
    let base = base.trim_end_matches('/');
    match base.ends_with("/v1") {
        true => format!("{base}{method}"),
        false => format!("{base}/v1{method}"),
    }
}

/// `POST /v1/messages`.
pub static MESSAGES: Table = Table {
    cache_beside: true,
    ..Table::new(&BODY, &EVENT, TYPES, &USAGE)
};

/// The `usage` of an answer.
pub static USAGE: Sheet = Sheet {
    entries: ENTRIES,
    sum,
    rank: Rank::Firm,
};

/// The `usage` of an answer that begins.
static EARLY_USAGE: Sheet = Sheet {
    entries: ENTRIES,
    sum,
    rank: Rank::Early,
};

static BODY: Node = Node::object(&[
    ("content", Role::Into(&CONTENT)),
    ("usage", Role::Usage(&USAGE)),
    ("error", Role::Error),
    // Counting tokens says only this.
    ("input_tokens", Role::Count(Count::Input)),
]);
static CONTENT: Node = Node::array(Role::Into(&BLOCK)).at(Place::Choices);
/// A block of a body, or as an event begins it.
pub static BLOCK: Node = Node::object(&[
    ("text", Role::Text(Field::Content)),
    ("thinking", Role::Text(Field::Reasoning)),
    ("input", Role::Json(Field::Arguments(0))),
])
.at(Place::Choice);

static EVENT: Node = Node::object(EVENT_MEMBERS).at(Place::Choice);
const EVENT_MEMBERS: &[(&str, Role)] = &[
    ("type", Role::Type),
    ("index", Role::ChoiceIndex),
    ("delta", Role::Into(&DELTA)),
    ("content_block", Role::Into(&BEGUN)),
    ("message", Role::Into(&MESSAGE)),
    ("usage", Role::Usage(&USAGE)),
    ("error", Role::Error),
    (bedrock::METRICS_KEY, Role::Usage(&bedrock::METRICS)),
];
/// What an event adds to a block.
pub static DELTA: Node = Node::object(&[
    ("text", Role::Text(Field::Content)),
    ("thinking", Role::Text(Field::Reasoning)),
    ("partial_json", Role::Text(Field::Arguments(0))),
]);
/// A block as it begins: its `input` is empty as yet.
pub static BEGUN: Node = Node::object(&[
    ("text", Role::Text(Field::Content)),
    ("thinking", Role::Text(Field::Reasoning)),
]);
/// The message as it begins.
pub static MESSAGE: Node = Node::object(&[("usage", Role::Usage(&EARLY_USAGE))]);

/// The types of events.
pub const TYPES: &[(&str, Says)] = &[("message_stop", Says::Complete), ("error", Says::Error)];

/// The answer to `count_tokens`.
pub fn count_out(tokens: u64) -> Vec<u8> {
    format!("{{\"input_tokens\":{tokens}}}").into_bytes()
}

/// Arguments of a call as the object that Anthropic wants, whatever a model wrote.
///
/// What is no object is wrapped as Anthropic's documentation ("Fine-grained tool streaming") advises.
fn input(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(Value::Object(map)) => Value::Object(map),
        _ if arguments.trim().is_empty() => json!({}),
        _ => json!({"INVALID_JSON": arguments}),
    }
}

/// The members of `usage`.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("input_tokens", Entry::Count(Count::Input)),
    ("output_tokens", Entry::Count(Count::Output)),
    ("cache_read_input_tokens", Entry::Count(Count::Cached)),
    (
        "cache_creation_input_tokens",
        Entry::Count(Count::CacheWrite),
    ),
    ("output_tokens_details", Entry::Details(DETAILS)),
];

const DETAILS: &[(&str, Entry)] = &[
    ("thinking_tokens", Entry::Count(Count::Reasoning)),
    ("reasoning_tokens", Entry::Count(Count::Reasoning)),
];

/// As it is written.
pub fn sum(raw: &Raw) -> Option<Reported> {
    let (input, output) = (raw.of(Count::Input), raw.of(Count::Output));
    (input.is_some() || output.is_some()).then(|| Reported {
        input,
        output,
        cached: raw.of(Count::Cached),
        cache_write: raw.of(Count::CacheWrite),
        reasoning: raw.of(Count::Reasoning),
        ..Reported::default()
    })
}

#[cfg(test)]
mod tests;
