//! What Ollama's own API answers: one object, or one on each line of a stream.
//!
//! ```text
//! root ─ message ─ content, thinking, tool_calls[] ─ function ─ arguments
//!      ├ response, thinking
//!      ├ done, prompt_eval_count, eval_count
//!      └ error
//! ```

pub mod answer_in;
pub mod answer_out;
pub mod embed_out;
mod lists;
pub mod request_in;
pub mod request_out;
#[cfg(test)]
mod tests;
mod time;

pub use lists::{running, tags, version};

use crate::answer::Field;
use crate::answer::table::{Node, Place, Role, Table};
use crate::usage::{Count, Rank, Raw, Reported, Sheet};

/// `/api/chat`, `/api/generate`, `/api/embed`.
pub static OLLAMA: Table = Table::new(&ROOT, &ROOT, &[], &COUNTS);

static ROOT: Node = Node::object(&[
    ("message", Role::Into(&MESSAGE)),
    ("response", Role::Text(Field::Text)),
    ("thinking", Role::Text(Field::Reasoning)),
    ("done", Role::Complete),
    ("prompt_eval_count", Role::Count(Count::Input)),
    ("eval_count", Role::Count(Count::Output)),
    ("error", Role::Error),
]);
static MESSAGE: Node = Node::object(&[
    ("content", Role::Text(Field::Content)),
    ("thinking", Role::Text(Field::Reasoning)),
    ("tool_calls", Role::Into(&CALLS)),
]);
static CALLS: Node = Node::array(Role::Into(&CALL)).at(Place::Calls);
static CALL: Node = Node::object(&[("function", Role::Into(&FUNCTION))]).at(Place::Call);
static FUNCTION: Node = Node::object(&[("arguments", Role::Json(Field::Arguments(0)))]);

static COUNTS: Sheet = Sheet {
    entries: &[],
    sum,
    rank: Rank::Firm,
};

/// A prompt that was in the cache, and the output of embeddings, aren't mentioned.
fn sum(raw: &Raw) -> Option<Reported> {
    let (input, output) = (raw.of(Count::Input), raw.of(Count::Output));
    (input.is_some() || output.is_some()).then(|| Reported {
        input: input.or(Some(0)),
        output: output.or(Some(0)),
        ..Reported::default()
    })
}
