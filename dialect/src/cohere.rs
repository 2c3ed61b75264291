//! What Cohere's API answers: chat (version 2 and 1), embeddings, rerank.
//!
//! ```text
//! body  ─ message ─ content[] ─ text, thinking; tool_plan; tool_calls[]
//!       └ usage, meta ─ tokens, billed_units
//! event ─ type, index, delta ─ message ─ content ─ text, thinking; tool_plan; tool_calls
//!                            └ usage
//! ```
//!
//! What the model saw and said (`tokens`) goes before what is billed of it (`billed_units`).

pub mod answer_in;
pub mod embed_out;
pub mod request_out;
#[cfg(test)]
mod tests;

use crate::answer::Field;
use crate::answer::table::{Node, Place, Role, Says, Table};
use crate::usage::{Count, Entry, Rank, Raw, Reported, Sheet};

/// `/v2/chat`, `/v1/chat`, `/v2/embed`.
pub static COHERE: Table = Table::new(&BODY, &EVENT, TYPES, &USAGE);

/// `usage`, and `meta` of the elder APIs.
pub static USAGE: Sheet = Sheet {
    entries: &[
        ("tokens", Entry::Details(TOKENS)),
        ("billed_units", Entry::Details(BILLED)),
        ("cached_tokens", Entry::Count(Count::Cached)),
    ],
    sum,
    rank: Rank::Firm,
};

static BODY: Node = Node::object(&[
    ("message", Role::Into(&MESSAGE)),
    ("text", Role::Text(Field::Text)),
    ("usage", Role::Usage(&USAGE)),
    ("meta", Role::Usage(&USAGE)),
]);
static MESSAGE: Node = Node::object(&[
    ("content", Role::Into(&PARTS)),
    ("tool_plan", Role::Text(Field::Reasoning)),
    ("tool_calls", Role::Into(&CALLS)),
]);
static PARTS: Node = Node::array(Role::Into(&PART));
static PART: Node = Node::object(&[
    ("text", Role::Text(Field::Content)),
    ("thinking", Role::Text(Field::Reasoning)),
]);
static CALLS: Node = Node::array(Role::Into(&CALL)).at(Place::Calls);
static CALL: Node = Node::object(&[("function", Role::Into(&FUNCTION))]).at(Place::Call);
static FUNCTION: Node = Node::object(&[("arguments", Role::Text(Field::Arguments(0)))]);

static EVENT: Node = Node::object(&[
    ("type", Role::Type),
    ("index", Role::ChoiceIndex),
    ("delta", Role::Into(&DELTA)),
    // Version 1.
    ("event_type", Role::Type),
    ("text", Role::Text(Field::Text)),
    ("response", Role::Into(&OLD_END)),
])
.at(Place::Choice);
static DELTA: Node = Node::object(&[
    ("message", Role::Into(&ADDED)),
    ("usage", Role::Usage(&USAGE)),
    ("error", Role::Error),
]);
static ADDED: Node = Node::object(&[
    ("content", Role::Into(&PART)),
    ("tool_plan", Role::Text(Field::Reasoning)),
    ("tool_calls", Role::Into(&ADDED_CALL)),
]);
static ADDED_CALL: Node = Node::object(&[("function", Role::Into(&FUNCTION))]);
static OLD_END: Node = Node::object(&[("meta", Role::Usage(&USAGE))]);

const TYPES: &[(&str, Says)] = &[
    ("message-end", Says::Complete),
    ("stream-end", Says::Complete),
];

const TOKENS: &[(&str, Entry)] = &[
    ("input_tokens", Entry::Count(Count::Input)),
    ("output_tokens", Entry::Count(Count::Output)),
];
const BILLED: &[(&str, Entry)] = &[
    ("input_tokens", Entry::Count(Count::InputBeside)),
    ("output_tokens", Entry::Count(Count::OutputBeside)),
];

fn sum(raw: &Raw) -> Option<Reported> {
    let input = raw.of(Count::Input).or(raw.of(Count::InputBeside));
    let output = raw.of(Count::Output).or(raw.of(Count::OutputBeside));
    (input.is_some() || output.is_some()).then(|| Reported {
        input,
        // Embeddings put nothing out and don't mention it.
        output: output.or(Some(0)),
        cached: raw.of(Count::Cached),
        ..Reported::default()
    })
}
