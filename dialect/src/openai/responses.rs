//! What the Responses API answers.
//!
//! ```text
//! body  ─ output[] ─ item ─ content[] ─ text, refusal; summary[] ─ text; arguments, input
//!       └ usage
//! event ─ type, output_index, delta (what it is says the type)
//!       └ response ─ usage
//! ```

pub mod answer_out;
pub mod items;
pub mod request_in;

use super::chat::USAGE;
use crate::answer::Field;
use crate::answer::table::{Node, Place, Role, Says, Table};

/// `POST /v1/responses`.
pub static RESPONSES: Table = Table::new(&BODY, &EVENT, TYPES, &USAGE);

static EVENT: Node = Node::object(&[
    ("type", Role::Type),
    ("delta", Role::Text(Field::Content)),
    ("output_index", Role::ChoiceIndex),
    ("obfuscation", Role::Padding),
    ("response", Role::Into(&RESPONSE)),
    ("error", Role::Error),
])
.at(Place::Choice);
static RESPONSE: Node = Node::object(&[("usage", Role::Usage(&USAGE))]);

const TYPES: &[(&str, Says)] = &[
    ("response.output_text.delta", Says::Text(Field::Content)),
    ("response.function_call_arguments.delta", ARGUMENTS),
    ("response.custom_tool_call_input.delta", ARGUMENTS),
    ("response.mcp_call_arguments.delta", ARGUMENTS),
    ("response.code_interpreter_call_code.delta", ARGUMENTS),
    ("response.reasoning_text.delta", REASONING),
    ("response.reasoning_summary_text.delta", REASONING),
    ("response.reasoning.delta", REASONING),
    ("response.refusal.delta", Says::Text(Field::Refusal)),
    ("response.audio.delta", Says::Silent),
    ("response.completed", Says::Complete),
    ("response.incomplete", Says::Complete),
    ("response.cancelled", Says::Complete),
    ("response.failed", Says::Error),
    ("error", Says::Error),
];
const ARGUMENTS: Says = Says::Text(Field::Arguments(0));
const REASONING: Says = Says::Text(Field::Reasoning);

static BODY: Node = Node::object(&[
    ("output", Role::Into(&OUTPUT)),
    ("usage", Role::Usage(&USAGE)),
    ("error", Role::Error),
]);
static OUTPUT: Node = Node::array(Role::Into(&ITEM)).at(Place::Choices);
static ITEM: Node = Node::object(&[
    ("content", Role::Into(&PARTS)),
    ("summary", Role::Into(&SUMMARY)),
    ("arguments", Role::Text(Field::Arguments(0))),
    // A custom tool's call, and code that is run.
    ("input", Role::Text(Field::Arguments(0))),
    ("code", Role::Text(Field::Arguments(0))),
])
.at(Place::Choice);
static PARTS: Node = Node::array(Role::Into(&PART));
static PART: Node = Node::object(&[
    ("text", Role::Text(Field::Content)),
    ("refusal", Role::Text(Field::Refusal)),
]);
static SUMMARY: Node = Node::array(Role::Into(&THOUGHT));
static THOUGHT: Node = Node::object(&[("text", Role::Text(Field::Reasoning))]);
