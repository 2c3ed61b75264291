//! One form between all dialects: what is asked of a model, and what it answers.
//!
//! A client's request is read into a [`Chat`], from which each upstream's request is written; an
//! upstream's answer, whole or streamed, is read as [`Event`]s, from which each client's answer is
//! written. Nothing is lost silently: a reader lists what it has no place for ([`Chat::rest`]), and a
//! writer says of each thing that its API can't express ([`Fit::lacks`]).

use std::borrow::Cow;

use serde_json::Value;

pub use crate::usage::Reported as Usage;

// === what is asked ===

/// A request for an answer of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chat {
    /// What was said so far, instructions first where the dialect has them apart.
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: Option<Said<ToolChoice>>,
    /// Whether several tools may be called at once.
    pub parallel_tools: Option<Said<bool>>,
    /// The form of the answer's text; `None` is free text.
    pub format: Option<Said<Format>>,
    pub reasoning: Option<Said<Reasoning>>,
    /// Tokens of the answer, reasoning included.
    pub max_tokens: Option<Said<u64>>,
    pub temperature: Option<Said<f64>>,
    pub top_p: Option<Said<f64>>,
    pub top_k: Option<Said<u64>>,
    pub frequency_penalty: Option<Said<f64>>,
    pub presence_penalty: Option<Said<f64>>,
    pub seed: Option<Said<i64>>,
    /// Texts that end the answer; not empty.
    pub stop: Option<Said<Vec<String>>>,
    /// How many answers, above 1.
    pub choices: Option<Said<u64>>,
    /// The logarithms of probabilities are wanted: of what was chosen, and of so many alternatives.
    pub logprobs: Option<Said<u64>>,
    /// Who the end user is, as an opaque id.
    pub user: Option<Said<String>>,
    /// What the answer may consist of, where that is more than text.
    pub output: Option<Said<Vec<Modality>>>,
    /// The answer is wanted piece by piece.
    pub stream: bool,
    /// The client's stream is to report usage (OpenAI's `include_usage`; others always do).
    pub stream_usage: bool,
    /// What was said beside, by the names that the client gave it: no other API has a place for it, but
    /// a writer that knows better may take it out.
    pub rest: Vec<Said<Value>>,
}

/// A value and where the client said it, as it would name the place: `seed`,
/// `generationConfig.seed`, `messages[2].content[0].cache_control`.
#[derive(Debug, Clone, PartialEq)]
pub struct Said<T> {
    pub value: T,
    pub at: Cow<'static, str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions of the operator (`system` and `developer`).
    System,
    User,
    Assistant,
}

/// One turn of a conversation. Results of tools are parts of a user's turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub role: Role,
    pub parts: Vec<Part>,
    /// The name of who speaks, where several do.
    pub name: Option<Said<String>>,
}

/// A piece of a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub what: What,
    /// The prompt up to and with this part is to be cached.
    pub cache: Option<Said<Cache>>,
    /// Where the client said it.
    pub at: Cow<'static, str>,
}

/// How long a cached prompt is kept: `5m`, `1h`; `None` as the provider does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    pub ttl: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    Text(String),
    /// `detail`: `low`, `high`, `auto`.
    Image {
        source: Source,
        detail: Option<String>,
    },
    /// Sound.
    Audio(Source),
    Video(Source),
    /// A document: PDF, text.
    Document {
        source: Source,
        name: Option<String>,
    },
    /// What the model thought, with the provider's seal on it.
    Reasoning {
        text: String,
        signature: Option<String>,
    },
    /// Thoughts that only the provider can read.
    Redacted(String),
    /// The model declined.
    Refusal(String),
    /// The model calls a tool.
    Call(Call),
    /// What a tool gave back.
    Result(ToolResult),
}

/// Where the bytes of a picture, sound or document are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Here, in base64 (RFC 4648, section 4), with their media type such as `image/png`.
    Data { media_type: String, base64: String },
    /// To be fetched by the provider.
    Url(String),
    /// Known to the provider by an id.
    File(String),
    /// Plain text (of a document).
    Text(String),
}

/// The model's call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Empty where the dialect has none; a writer that needs one makes it by [`call_id`].
    pub id: String,
    pub name: String,
    /// JSON as text; may be broken where a model wrote it so. Empty means no arguments.
    pub arguments: String,
    /// The provider's seal on the thought that led to it (Gemini's `thoughtSignature`).
    pub signature: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    /// The id of the call.
    pub id: String,
    /// The tool's name, where it is known.
    pub name: Option<String>,
    /// Texts, images, documents.
    pub parts: Vec<Part>,
    /// The tool failed.
    pub error: bool,
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of its arguments.
    pub schema: Option<Value>,
    /// Arguments are to follow the schema exactly.
    pub strict: Option<Said<bool>>,
    pub cache: Option<Said<Cache>>,
    pub at: Cow<'static, str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    Auto,
    None,
    /// Some tool.
    Required,
    /// This tool.
    Tool(String),
    /// Some of these, or (unless `required`) none.
    Among {
        names: Vec<String>,
        required: bool,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// Any JSON object.
    Json,
    /// JSON of this schema.
    Schema {
        name: Option<String>,
        description: Option<String>,
        schema: Value,
        strict: Option<bool>,
    },
}

/// How much a model is to think.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reasoning {
    pub amount: Amount,
    /// Whether the thoughts, or a summary of them, are to be told; `None` as the provider does.
    pub told: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Amount {
    /// As the provider does.
    #[default]
    Default,
    Off,
    /// As much as the model sees fit (Anthropic's `adaptive`, Gemini's `-1`).
    Adaptive,
    Effort(Effort),
    /// At most so many tokens.
    Tokens(u64),
}

/// In the order of how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    Minimal,
    Low,
    Medium,
    High,
    /// `xhigh`, `max`
    Max,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modality {
    Text,
    Image,
    Audio,
}

// === what is answered ===

/// A piece of an answer. A whole answer is all of its events; texts come in any pieces.
///
/// For each choice: texts, calls (each begun before its arguments; arguments of different calls may
/// be mixed), then [`Event::Finish`]. [`Event::Usage`] may come several times, the last one with all
/// that is known. [`Event::End`] is the last.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// The first of an answer.
    Start {
        id: Option<Cow<'a, str>>,
        /// As the upstream names it.
        model: Option<Cow<'a, str>>,
        /// Seconds since 1970.
        created: Option<u64>,
    },
    Text {
        choice: u32,
        text: Cow<'a, str>,
    },
    /// What the model thinks.
    Reasoning {
        choice: u32,
        text: Cow<'a, str>,
    },
    /// The seal of the thoughts before it; ends a block of thoughts.
    Signature {
        choice: u32,
        signature: Cow<'a, str>,
    },
    /// A block of thoughts that only the provider can read.
    Redacted {
        choice: u32,
        data: Cow<'a, str>,
    },
    Refusal {
        choice: u32,
        text: Cow<'a, str>,
    },
    /// A call begins. `call` counts the choice's calls from 0.
    Call {
        choice: u32,
        call: u32,
        /// Empty where the dialect has none.
        id: Cow<'a, str>,
        name: Cow<'a, str>,
        signature: Option<Cow<'a, str>>,
    },
    /// A piece of a call's arguments: JSON as text.
    Arguments {
        choice: u32,
        call: u32,
        text: Cow<'a, str>,
    },
    /// A picture or sound that the model made.
    Media {
        choice: u32,
        media_type: Cow<'a, str>,
        base64: Cow<'a, str>,
    },
    /// Of the text that came with it or before it.
    Logprobs {
        choice: u32,
        tokens: Vec<Logprob>,
    },
    Finish {
        choice: u32,
        reason: Finish,
        /// The stop text that ended it.
        stop: Option<Cow<'a, str>>,
    },
    /// What was used so far, in all.
    Usage(Usage),
    /// The upstream failed in the middle of its answer.
    Failed(Failure),
    /// The upstream has said its last word.
    End,
}

/// What became of one token.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprob {
    pub token: String,
    pub logprob: f64,
    pub bytes: Option<Vec<u8>>,
    /// The alternatives, with their own values; their `top` is empty.
    pub top: Vec<Logprob>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It was complete.
    Stop,
    /// A stop text came.
    StopText,
    /// It had its most tokens.
    Length,
    /// Tools are to be called.
    Calls,
    /// A filter cut it.
    Filter,
    /// The model declined.
    Refusal,
    /// The provider pauses a long turn; the client sends it back to go on.
    Pause,
    /// Something that no dialect has a word for.
    Other,
}

/// What went wrong at an upstream, for the client's dialect to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// HTTP's; 0 inside of a stream that doesn't say.
    pub status: u16,
    pub kind: FailureKind,
    /// The upstream's own words; never empty.
    pub message: String,
    /// The upstream's code, where it has one.
    pub code: Option<String>,
    /// The field that is to blame.
    pub param: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    Invalid,
    Unauthenticated,
    Forbidden,
    NotFound,
    TooLarge,
    RateLimited,
    /// Money or quota is used up.
    Quota,
    Overloaded,
    Timeout,
    Server,
}

// === embeddings ===

/// A request for embeddings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embed {
    /// Not empty.
    pub inputs: Vec<EmbedInput>,
    pub dimensions: Option<Said<u64>>,
    /// The client wants base64 of little-endian 32-bit floats instead of numbers.
    pub base64: bool,
    pub user: Option<Said<String>>,
    /// What they are for, in Cohere's words: `search_document`, `search_query`, `classification`, `clustering`.
    pub purpose: Option<Said<String>>,
    pub rest: Vec<Said<Value>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbedInput {
    Text(String),
    Tokens(Vec<u64>),
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embedded {
    pub model: Option<String>,
    /// One for each input, in order.
    pub vectors: Vec<Vec<f64>>,
    pub usage: Option<Usage>,
}

// === what doesn't fit ===

/// Keeps the account of what a target can't express.
#[derive(Debug)]
pub struct Fit {
    target: &'static str,
    lenient: bool,
    dropped: Vec<String>,
}

/// A request that can't be translated; the text is for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// The client's own request is wrong: the field, and what is wrong with it (a clause such as
    /// `is no list`).
    Invalid { at: String, what: String },
    /// `at` can't be expressed in the dialect `target`.
    Inexpressible { at: String, target: &'static str },
    /// The API that the client uses has no counterpart in the dialect `target`.
    NoSuchApi { target: &'static str },
}

impl<T> Said<T> {
    pub fn new(at: impl Into<Cow<'static, str>>, value: T) -> Self {
        Self {
            value,
            at: at.into(),
        }
    }
}

impl Part {
    /// A part without marks.
    pub fn new(at: impl Into<Cow<'static, str>>, what: What) -> Self {
        Self {
            what,
            cache: None,
            at: at.into(),
        }
    }
}

impl Event<'_> {
    /// The length of its texts.
    pub fn text_len(&self) -> usize {
        match self {
            Event::Text { text, .. }
            | Event::Reasoning { text, .. }
            | Event::Refusal { text, .. }
            | Event::Arguments { text, .. } => text.len(),
            Event::Signature {
                signature: text, ..
            }
            | Event::Redacted { data: text, .. } => text.len(),
            Event::Media { base64, .. } => base64.len(),
            Event::Call { id, name, .. } => id.len() + name.len(),
            // Each with what surrounds it.
            Event::Logprobs { tokens, .. } => {
                tokens.iter().map(|it| 128 * (1 + it.top.len())).sum()
            }
            _ => 0,
        }
    }

    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Event<'static> {
        fn own(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        match self {
            Event::Start { id, model, created } => Event::Start {
                id: id.map(own),
                model: model.map(own),
                created,
            },
            Event::Text { choice, text } => Event::Text {
                choice,
                text: own(text),
            },
            Event::Reasoning { choice, text } => Event::Reasoning {
                choice,
                text: own(text),
            },
            Event::Signature { choice, signature } => Event::Signature {
                choice,
                signature: own(signature),
            },
            Event::Redacted { choice, data } => Event::Redacted {
                choice,
                data: own(data),
            },
            Event::Refusal { choice, text } => Event::Refusal {
                choice,
                text: own(text),
            },
            Event::Call {
                choice,
                call,
                id,
                name,
                signature,
            } => Event::Call {
                choice,
                call,
                id: own(id),
                name: own(name),
                signature: signature.map(own),
            },
            Event::Arguments { choice, call, text } => Event::Arguments {
                choice,
                call,
                text: own(text),
            },
            Event::Media {
                choice,
                media_type,
                base64,
            } => Event::Media {
                choice,
                media_type: own(media_type),
                base64: own(base64),
            },
            Event::Logprobs { choice, tokens } => Event::Logprobs { choice, tokens },
            Event::Finish {
                choice,
                reason,
                stop,
            } => Event::Finish {
                choice,
                reason,
                stop: stop.map(own),
            },
            Event::Usage(usage) => Event::Usage(usage),
            Event::Failed(failure) => Event::Failed(failure),
            Event::End => Event::End,
        }
    }
}

impl Failure {
    /// What the gateway itself says of an upstream that broke.
    pub fn of_gateway(code: &str, message: &str) -> Self {
        Self {
            status: 502,
            kind: FailureKind::Server,
            message: message.to_owned(),
            code: Some(code.to_owned()),
            param: None,
        }
    }
}

impl FailureKind {
    /// What a status says by itself.
    pub fn of_status(status: u16) -> Self {
        match status {
            401 => Self::Unauthenticated,
            402 => Self::Quota,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            413 => Self::TooLarge,
            429 => Self::RateLimited,
            408 | 504 => Self::Timeout,
            503 | 529 => Self::Overloaded,
            400..=499 => Self::Invalid,
            _ => Self::Server,
        }
    }
}

impl Fit {
    /// For a request to a target in the dialect of that name.
    pub fn new(target: &'static str, lenient: bool) -> Self {
        Self {
            target,
            lenient,
            dropped: Vec::new(),
        }
    }

    /// What the client said there can't be expressed: an error, or dropped and listed where the route is
    /// lenient.
    ///
    /// # Errors
    /// Where it isn't.
    pub fn lacks(&mut self, at: impl Into<String>) -> Result<(), Unfit> {
        let at = at.into();
        if !self.lenient {
            return Err(Unfit::Inexpressible {
                at,
                target: self.target,
            });
        }
        self.hints(at);
        Ok(())
    }

    /// The same for something that may not have been said.
    ///
    /// # Errors
    /// As [`Fit::lacks`].
    pub fn lacks_any<T>(&mut self, said: Option<Said<T>>) -> Result<(), Unfit> {
        match said {
            Some(said) => self.lacks(said.at),
            None => Ok(()),
        }
    }

    /// A hint that changes no answer, such as where to cache a prompt or for whom it is asked: where it can't be
    /// expressed, it is dropped and listed, and the request is served on any route.
    pub fn hints(&mut self, at: impl Into<String>) {
        let at = at.into();
        if !self.dropped.contains(&at) {
            self.dropped.push(at);
        }
    }

    /// The same for one that may not have been given.
    pub fn hints_any<T>(&mut self, said: Option<Said<T>>) {
        if let Some(said) = said {
            self.hints(said.at);
        }
    }

    /// The client's API has no counterpart at the target.
    pub fn no_such_api(&self) -> Unfit {
        Unfit::NoSuchApi {
            target: self.target,
        }
    }

    /// What was dropped, in the client's words.
    pub fn dropped(self) -> Vec<String> {
        self.dropped
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unfit::Invalid { at, what } => write!(f, "`{at}` {what}"),
            Unfit::Inexpressible { at, target } => write!(
                f,
                "`{at}` can't be expressed for this model's provider (its dialect is {target}); leave it out, or \
                 have the route be `lenient`"
            ),
            Unfit::NoSuchApi { target } => write!(
                f,
                "this API has no counterpart at this model's provider (its dialect is {target})"
            ),
        }
    }
}

impl std::error::Error for Unfit {}

/// An id for a call of a dialect that has none; equal for the same answer and place. OpenAI takes 40
/// characters at most.
pub fn call_id(answer: &str, choice: u32, call: u32) -> String {
    // FNV-1a: it must only differ from answer to answer.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = answer.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    match choice {
        0 => format!("call_{hash:016x}_{call}"),
        choice => format!("call_{hash:016x}_{choice}_{call}"),
    }
}
