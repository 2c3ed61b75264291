//! What chat, completions and embeddings answer, in the spellings of different servers.
//!
//! ```text
//! root ─ choices[] ─ choice ─ delta|message ─ content, reasoning, refusal, tool_calls[] ─ function
//!      ├ usage              └ text, index, finish_reason, usage (Moonshot)
//!      ├ response, x_groq ─ usage
//!      └ error, type
//! ```

pub mod answer_in;
pub mod answer_out;
pub mod request_in;
pub mod request_out;

use crate::answer::Field;
use crate::answer::table::{Node, Place, Role, Says, Table};
use crate::usage::{Count, Entry, Rank, Raw, Reported, Sheet};

/// Chat and completions.
pub static CHAT: Table = Table::new(&ROOT, &ROOT, TYPES, &USAGE);

/// Embeddings, and what else puts nothing out: some servers report one total only.
pub static EMBEDDINGS: Table = Table::new(&EMBEDDINGS_ROOT, &EMBEDDINGS_ROOT, TYPES, &TOTALS);

/// The `usage` of an answer.
pub static USAGE: Sheet = Sheet {
    entries: ENTRIES,
    sum,
    rank: Rank::Firm,
};

/// The `usage` where there is no output.
pub static TOTALS: Sheet = Sheet {
    entries: ENTRIES,
    sum: sum_or_total,
    rank: Rank::Firm,
};

static ROOT: Node = Node::object(&[
    ("choices", Role::Into(&CHOICES)),
    ("usage", Role::Usage(&USAGE)),
    ("error", Role::Error),
    ("type", Role::Type),
    ("obfuscation", Role::Padding),
    ("p", Role::Padding),
    // Responses put their usage there, Groq its own when nobody asked.
    ("response", Role::Into(&HOLDER)),
    ("x_groq", Role::Into(&HOLDER)),
]);
static HOLDER: Node = Node::object(&[("usage", Role::Usage(&USAGE))]);
static CHOICES: Node = Node::array(Role::Into(&CHOICE)).at(Place::Choices);
static CHOICE: Node = Node::object(&[
    ("delta", Role::Into(&DELTA)),
    ("message", Role::Into(&DELTA)),
    ("index", Role::ChoiceIndex),
    ("finish_reason", Role::Finish),
    ("text", Role::Text(Field::Text)),
    ("usage", Role::Usage(&USAGE)),
])
.at(Place::Choice);
static DELTA: Node = Node::object(&[
    ("content", Role::TextOr(Field::Content, &PARTS)),
    // Servers in transition send the same text under both names.
    (
        "reasoning_content",
        Role::TextOr(Field::Reasoning, &THOUGHTS),
    ),
    ("reasoning", Role::TextOr(Field::ReasoningTwin, &THOUGHTS)),
    ("refusal", Role::Text(Field::Refusal)),
    ("tool_calls", Role::Into(&CALLS)),
    ("function_call", Role::Into(&OLD_CALL)),
]);
static CALLS: Node = Node::array(Role::Into(&CALL)).at(Place::Calls);
static CALL: Node = Node::object(&[
    ("index", Role::CallIndex),
    ("function", Role::Into(&FUNCTION)),
    // A custom tool's call.
    ("custom", Role::Into(&FUNCTION)),
])
.at(Place::Call);
static FUNCTION: Node = Node::object(&[
    ("arguments", Role::Json(Field::Arguments(0))),
    ("input", Role::Json(Field::Arguments(0))),
]);
/// The function of old is a call without an index.
static OLD_CALL: Node =
    Node::object(&[("arguments", Role::Text(Field::Arguments(0)))]).at(Place::LoneCall);

// Mistral's models that reason send parts.
static PARTS: Node = Node::array(Role::Into(&PART));
static PART: Node = Node::object(&[
    ("text", Role::Text(Field::Content)),
    ("thinking", Role::TextOr(Field::Reasoning, &THOUGHTS)),
]);
static THOUGHTS: Node = Node::array(Role::Into(&THOUGHT));
static THOUGHT: Node = Node::object(&[("text", Role::Text(Field::Reasoning))]);

static EMBEDDINGS_ROOT: Node = Node::object(&[
    ("usage", Role::Usage(&TOTALS)),
    ("error", Role::Error),
    // Cohere's rerank, which others offer under the same path.
    ("meta", Role::Usage(&crate::cohere::USAGE)),
]);

const TYPES: &[(&str, Says)] = &[
    ("error", Says::Error),
    ("response.failed", Says::Error),
    ("response.completed", Says::Complete),
    ("response.incomplete", Says::Complete),
    ("message_stop", Says::Complete),
];

const ENTRIES: &[(&str, Entry)] = &[
    ("prompt_tokens", Entry::Count(Count::Input)),
    ("completion_tokens", Entry::Count(Count::Output)),
    ("total_tokens", Entry::Count(Count::Total)),
    ("prompt_tokens_details", Entry::Details(PROMPT)),
    ("completion_tokens_details", Entry::Details(ANSWER)),
    ("input_tokens", Entry::Count(Count::Input)),
    ("output_tokens", Entry::Count(Count::Output)),
    ("input_tokens_details", Entry::Details(PROMPT)),
    ("output_tokens_details", Entry::Details(ANSWER)),
    // The spelling of transcriptions.
    ("input_token_details", Entry::Details(PROMPT)),
    ("output_token_details", Entry::Details(ANSWER)),
    // Instead of tokens, where sound is paid by the time.
    ("seconds", Entry::Count(Count::Seconds)),
    // DeepSeek's and Moonshot's names, beside or instead of the details.
    ("prompt_cache_hit_tokens", Entry::Count(Count::CachedBeside)),
    ("cached_tokens", Entry::Count(Count::CachedBeside)),
    // Perplexity's.
    ("reasoning_tokens", Entry::Count(Count::Reasoning)),
];

const PROMPT: &[(&str, Entry)] = &[
    ("cached_tokens", Entry::Count(Count::Cached)),
    ("cache_write_tokens", Entry::Count(Count::CacheWrite)),
    // Qwen's name and LiteLLM's. What `cache_creation` lists beside it are parts of it.
    (
        "cache_creation_input_tokens",
        Entry::Count(Count::CacheWrite),
    ),
    ("cache_creation_tokens", Entry::Count(Count::CacheWrite)),
    ("reasoning_tokens", Entry::Count(Count::Reasoning)),
    ("audio_tokens", Entry::Count(Count::AudioInput)),
    ("image_tokens", Entry::Count(Count::ImageInput)),
];

const ANSWER: &[(&str, Entry)] = &[
    ("cached_tokens", Entry::Count(Count::Cached)),
    ("cache_write_tokens", Entry::Count(Count::CacheWrite)),
    ("reasoning_tokens", Entry::Count(Count::Reasoning)),
    ("audio_tokens", Entry::Count(Count::AudioOutput)),
];

fn sum(raw: &Raw) -> Option<Reported> {
    let (input, output) = (raw.of(Count::Input), raw.of(Count::Output));
    let media = raw.media();
    if input.is_none() && output.is_none() {
        return (media.seconds > 0 || media.images > 0).then(|| Reported {
            media,
            ..Reported::default()
        });
    }
    let reasoning = raw.of(Count::Reasoning);
    let total = raw.of(Count::Total);
    let prompt = input.unwrap_or(0);
    let output = match (output, reasoning) {
        // xAI counts reasoning outside completion_tokens; the total shows it.
        (Some(output), Some(reasoning))
            if reasoning > 0
                && prompt.saturating_add(output).saturating_add(reasoning)
                    == total.unwrap_or(0) =>
        {
            Some(output.saturating_add(reasoning))
        }
        (None, _) => total.map(|total| total.saturating_sub(prompt)),
        (output, _) => output,
    };
    Some(Reported {
        input,
        output,
        cached: raw.either(Count::Cached, Count::CachedBeside),
        cache_write: raw.of(Count::CacheWrite),
        reasoning,
        media,
    })
}

/// As [`sum`]; a total alone is the prompt.
fn sum_or_total(raw: &Raw) -> Option<Reported> {
    sum(raw).or_else(|| {
        Some(Reported {
            input: Some(raw.of(Count::Total)?),
            output: Some(0),
            ..Reported::default()
        })
    })
}
