//! What DashScope's own API answers.
//!
//! ```text
//! root ─ output ─ choices[] ─ finish_reason, message ─ content, reasoning_content, tool_calls[]
//!      │        └ text, finish_reason
//!      └ usage
//! ```
//!
//! Each event has the usage so far, and unless the client asks for increments the whole text so far.

pub mod answer_in;
pub mod embed_out;
pub mod request_out;
#[cfg(test)]
mod tests;

use crate::answer::Field;
use crate::answer::table::{Node, Place, Role, Table};
use crate::openai::chat;

/// `/api/v1/services/…`.
pub static DASHSCOPE: Table = Table {
    repeats: true,
    ..Table::new(&ROOT, &ROOT, &[], &chat::TOTALS)
};

static ROOT: Node = Node::object(&[
    ("output", Role::Into(&OUTPUT)),
    ("usage", Role::Usage(&chat::TOTALS)),
]);
static OUTPUT: Node = Node::object(&[
    ("choices", Role::Into(&CHOICES)),
    ("text", Role::Text(Field::Text)),
    ("finish_reason", Role::Finish),
])
.at(Place::Choice);
static CHOICES: Node = Node::array(Role::Into(&CHOICE)).at(Place::Choices);
static CHOICE: Node = Node::object(&[
    ("message", Role::Into(&MESSAGE)),
    ("finish_reason", Role::Finish),
])
.at(Place::Choice);
static MESSAGE: Node = Node::object(&[
    ("content", Role::TextOr(Field::Content, &PARTS)),
    ("reasoning_content", Role::Text(Field::Reasoning)),
    ("tool_calls", Role::Into(&CALLS)),
]);
static PARTS: Node = Node::array(Role::Into(&PART));
static PART: Node = Node::object(&[("text", Role::Text(Field::Content))]);
static CALLS: Node = Node::array(Role::Into(&CALL)).at(Place::Calls);
static CALL: Node = Node::object(&[
    ("index", Role::CallIndex),
    ("function", Role::Into(&FUNCTION)),
])
.at(Place::Call);
static FUNCTION: Node = Node::object(&[("arguments", Role::Json(Field::Arguments(0)))]);
