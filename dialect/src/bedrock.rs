//! What Bedrock answers: Converse, and the models' own formats by InvokeModel.
//!
//! ```text
//! converse ─ output ─ message ─ content[] ─ text, toolUse ─ input, reasoningContent
//!          └ usage
//! event    ─ contentBlockIndex, delta ─ text, toolUse, reasoningContent; stopReason; usage
//! ```
//!
//! Of the models that are invoked these are read: Anthropic's, Amazon's (Titan and Nova), Meta's.

pub mod answer_in;
pub mod blocks;
pub mod request_out;
pub mod sign;

use crate::answer::Field;
use crate::answer::table::{Node, Place, Role, Table};
use crate::anthropic;
use crate::usage::{Count, Entry, Rank, Sheet};

/// `/model/{model}/converse` and `/converse-stream`.
pub static CONVERSE: Table = Table {
    cache_beside: true,
    ..Table::new(&BODY, &EVENT, &[], &USAGE)
};

/// `/model/{model}/invoke` and `/invoke-with-response-stream`.
pub static INVOKE: Table = Table {
    cache_beside: true,
    ..Table::new(&INVOKED, &INVOKED_EVENT, anthropic::TYPES, &INVOKED_USAGE)
};

static BODY: Node = Node::object(&[
    ("output", Role::Into(&OUTPUT)),
    ("usage", Role::Usage(&USAGE)),
]);
static OUTPUT: Node = Node::object(&[("message", Role::Into(&MESSAGE))]);
static MESSAGE: Node = Node::object(&[("content", Role::Into(&CONTENT))]);
static CONTENT: Node = Node::array(Role::Into(&BLOCK)).at(Place::Choices);
static BLOCK: Node = Node::object(&[
    ("text", Role::Text(Field::Content)),
    ("toolUse", Role::Into(&TOOL)),
    ("reasoningContent", Role::Into(&THOUGHT)),
])
.at(Place::Choice);
static TOOL: Node = Node::object(&[("input", Role::Json(Field::Arguments(0)))]);
static THOUGHT: Node = Node::object(&[
    ("text", Role::Text(Field::Reasoning)),
    ("reasoningText", Role::Into(&THOUGHT)),
]);

static EVENT: Node = Node::object(&[
    ("contentBlockIndex", Role::ChoiceIndex),
    ("delta", Role::Into(&DELTA)),
    ("stopReason", Role::Stopped),
    ("usage", Role::Usage(&USAGE)),
    ("p", Role::Padding),
])
.at(Place::Choice);
static DELTA: Node = Node::object(&[
    ("text", Role::Text(Field::Content)),
    ("toolUse", Role::Into(&TOOL)),
    ("reasoningContent", Role::Into(&THOUGHT)),
]);

static INVOKED: Node = Node::object(&[
    // Anthropic's; Nova's usage has the names of Converse.
    ("content", Role::Into(&BLOCKS)),
    ("usage", Role::Usage(&INVOKED_USAGE)),
    ("output", Role::Into(&OUTPUT)),
    // Titan's.
    ("results", Role::Into(&RESULTS)),
    ("inputTextTokenCount", Role::Count(Count::Input)),
    // Llama's.
    ("generation", Role::Text(Field::Text)),
    ("prompt_token_count", Role::Count(Count::Input)),
    ("generation_token_count", Role::Count(Count::Output)),
]);
static BLOCKS: Node = Node::array(Role::Into(&anthropic::BLOCK)).at(Place::Choices);
static RESULTS: Node = Node::array(Role::Into(&RESULT)).at(Place::Choices);
static RESULT: Node = Node::object(&[
    ("outputText", Role::Text(Field::Text)),
    ("tokenCount", Role::Count(Count::Output)),
])
.at(Place::Choice);

static INVOKED_EVENT: Node = Node::object(&[
    ("type", Role::Type),
    ("index", Role::ChoiceIndex),
    ("delta", Role::Into(&anthropic::DELTA)),
    ("content_block", Role::Into(&anthropic::BEGUN)),
    ("message", Role::Into(&anthropic::MESSAGE)),
    ("usage", Role::Usage(&INVOKED_USAGE)),
    // Titan's.
    ("outputText", Role::Text(Field::Text)),
    ("inputTextTokenCount", Role::Count(Count::Input)),
    ("totalOutputTextTokenCount", Role::Count(Count::Output)),
    ("completionReason", Role::Stopped),
    // Llama's.
    ("generation", Role::Text(Field::Text)),
    ("prompt_token_count", Role::Count(Count::Input)),
    ("generation_token_count", Role::Count(Count::Output)),
    ("stop_reason", Role::Stopped),
    // Nova's.
    ("contentBlockDelta", Role::Into(&NOVA_DELTA)),
    ("messageStop", Role::Into(&NOVA_STOP)),
    ("metadata", Role::Into(&NOVA_END)),
    (METRICS_KEY, Role::Usage(&METRICS)),
])
.at(Place::Choice);
static NOVA_DELTA: Node = Node::object(&[("delta", Role::Into(&DELTA))]);
static NOVA_STOP: Node = Node::object(&[("stopReason", Role::Stopped)]);
static NOVA_END: Node = Node::object(&[("usage", Role::Usage(&USAGE))]);

/// Where Bedrock adds its own counts to the last event.
pub const METRICS_KEY: &str = "amazon-bedrock-invocationMetrics";

/// Bedrock's own counts: they differ from those of a model that reports, which go before.
pub static METRICS: Sheet = Sheet {
    entries: &[
        ("inputTokenCount", Entry::Count(Count::Input)),
        ("outputTokenCount", Entry::Count(Count::Output)),
        ("cacheReadInputTokenCount", Entry::Count(Count::Cached)),
        ("cacheWriteInputTokenCount", Entry::Count(Count::CacheWrite)),
    ],
    sum: anthropic::sum,
    rank: Rank::Weak,
};

static USAGE: Sheet = Sheet {
    entries: ENTRIES,
    sum: anthropic::sum,
    rank: Rank::Firm,
};

const ENTRIES: &[(&str, Entry)] = &[
    ("inputTokens", Entry::Count(Count::Input)),
    ("outputTokens", Entry::Count(Count::Output)),
    ("cacheReadInputTokens", Entry::Count(Count::Cached)),
    ("cacheReadInputTokenCount", Entry::Count(Count::Cached)),
    ("cacheWriteInputTokens", Entry::Count(Count::CacheWrite)),
    ("cacheWriteInputTokenCount", Entry::Count(Count::CacheWrite)),
];

/// Anthropic's names, OpenAI's and Amazon's.
static INVOKED_USAGE: Sheet = Sheet {
    entries: &[
        ("input_tokens", Entry::Count(Count::Input)),
        ("output_tokens", Entry::Count(Count::Output)),
        ("cache_read_input_tokens", Entry::Count(Count::Cached)),
        (
            "cache_creation_input_tokens",
            Entry::Count(Count::CacheWrite),
        ),
        ("prompt_tokens", Entry::Count(Count::Input)),
        ("completion_tokens", Entry::Count(Count::Output)),
        ("inputTokens", Entry::Count(Count::Input)),
        ("outputTokens", Entry::Count(Count::Output)),
        ("cacheReadInputTokenCount", Entry::Count(Count::Cached)),
        ("cacheWriteInputTokenCount", Entry::Count(Count::CacheWrite)),
    ],
    sum: anthropic::sum,
    rank: Rank::Firm,
};
