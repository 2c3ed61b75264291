//! An answer in OpenAI's chat dialect, whole or streamed, read as events.
//!
//! Source: OpenAI's API reference, "The chat completion chunk object". Servers differ in where they put
//! thoughts (`reasoning_content`, `reasoning`, parts of type `thinking`), usage (a last chunk without
//! choices, the chunk that finishes, the choice, `x_groq`), and some repeat the id of a call or leave out
//! its index.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::USAGE;
use crate::ir::{Event, Failure, FailureKind, Finish, Logprob, Usage};
use crate::text::Text;
use crate::translate::{Reads, unreadable};

/// See the module.
#[derive(Debug, Default)]
pub struct Reader {
    started: bool,
    usage: Option<Usage>,
    choices: Vec<Choice>,
}

/// What is known of one choice.
#[derive(Debug, Default)]
struct Choice {
    index: u32,
    /// Its calls: the server's index and id.
    calls: Vec<(Option<u32>, String)>,
    finished: bool,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    created: Option<f64>,
    #[serde(borrow)]
    choices: Option<Vec<Said<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    x_groq: Option<Groq<'a>>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Groq<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow, alias = "message")]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
    logprobs: Option<Logprobs>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Content<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<CallSaid<'a>>>,
    thinking_blocks: Option<Vec<Value>>,
    images: Option<Vec<Value>>,
    audio: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content<'a> {
    #[serde(borrow)]
    Text(Text<'a>),
    Parts(Vec<Value>),
}

#[derive(Deserialize)]
struct CallSaid<'a> {
    index: Option<u32>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Option<FunctionSaid<'a>>,
    extra_content: Option<Value>,
}

#[derive(Deserialize)]
struct FunctionSaid<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Value>>,
}

// === impl Reader ===

impl Reads for Reader {
    fn event(
        &mut self,
        _name: &[u8],
        data: &[u8],
        to: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Failure> {
        let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(|error| {
            unreadable(format!("an event of its stream can't be read: {error}"))
        })?;
        self.chunk(chunk, to)
    }

    fn whole(&mut self, body: &[u8], to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        let chunk: Chunk<'_> = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        if let Some(error) = &chunk.error {
            return Err(failure(0, error));
        }
        if chunk.choices.is_none() {
            return Err(unreadable("its answer has no `choices`"));
        }
        self.chunk(chunk, to)?;
        to(Event::End);
        Ok(())
    }

    fn end(&mut self, to: &mut dyn FnMut(Event<'_>)) {
        // Some end a stream without `[DONE]`.
        if !self.choices.is_empty() && self.choices.iter().all(|choice| choice.finished) {
            to(Event::End);
        }
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        match serde_json::from_slice::<Value>(body) {
            Ok(Value::Array(list)) => list
                .first()
                .map_or_else(|| plain(status, body), |it| failure(status, it)),
            Ok(said) => failure(status, &said),
            Err(_) => plain(status, body),
        }
    }
}

impl Reader {
    fn chunk(&mut self, chunk: Chunk<'_>, to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        if let Some(error) = chunk.error {
            to(Event::Failed(failure(0, &error)));
            return Ok(());
        }
        // Azure tells first of what its filters found, and names nothing yet.
        let nameless = chunk.id.as_ref().is_none_or(|id| id.0.is_empty())
            && chunk.choices.as_ref().is_some_and(Vec::is_empty);
        if !nameless && !std::mem::replace(&mut self.started, true) {
            to(Event::Start {
                id: chunk.id.map(|text| text.0).filter(|id| !id.is_empty()),
                model: chunk
                    .model
                    .map(|text| text.0)
                    .filter(|model| !model.is_empty()),
                created: chunk.created.map(|seconds| seconds as u64),
            });
        }
        let mut usage = chunk.usage.or(chunk.x_groq.and_then(|it| it.usage));
        for (place, said) in chunk.choices.into_iter().flatten().enumerate() {
            usage = usage.or(said.usage);
            self.said(place, said, to);
        }
        let reported = usage.and_then(|raw| USAGE.sum(&USAGE.read(raw.get().as_bytes())));
        if let Some(reported) = reported {
            let updated = self
                .usage
                .map_or(reported, |before| before.updated(reported));
            self.usage = Some(updated);
            to(Event::Usage(updated));
        }
        Ok(())
    }

    fn said(&mut self, place: usize, said: Said<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let index = said
            .index
            .unwrap_or(u32::try_from(place).unwrap_or(u32::MAX));
        let at = match self.choices.iter().position(|it| it.index == index) {
            Some(at) => at,
            None => {
                self.choices.push(Choice {
                    index,
                    ..Choice::default()
                });
                self.choices.len() - 1
            }
        };
        let choice = &mut self.choices[at];
        if let Some(delta) = said.delta {
            choice.delta(delta, to);
        }
        if let Some(tokens) = said.logprobs.and_then(|it| it.content) {
            let tokens: Vec<_> = tokens.iter().filter_map(logprob).collect();
            if !tokens.is_empty() {
                let choice = index;
                to(Event::Logprobs { choice, tokens });
            }
        }
        if let Some(reason) = said.finish_reason.filter(|it| !it.0.is_empty())
            && !std::mem::replace(&mut choice.finished, true)
        {
            let reason = match finish(&reason.0) {
                Finish::Stop if !choice.calls.is_empty() => Finish::Calls,
                reason => reason,
            };
            to(Event::Finish {
                choice: index,
                reason,
                stop: None,
            });
        }
    }
}

impl Choice {
    fn delta(&mut self, delta: Delta<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let choice = self.index;
        let thought = match (delta.reasoning_content, delta.reasoning) {
            (Some(text), _) if !text.0.is_empty() => Some(text.0),
            (_, Some(raw)) => serde_json::from_str::<Text<'_>>(raw.get())
                .ok()
                .map(|text| text.0),
            _ => None,
        };
        if let Some(text) = thought.filter(|text| !text.is_empty()) {
            to(Event::Reasoning { choice, text });
        }
        for block in delta.thinking_blocks.into_iter().flatten() {
            if let Some(data) = block["data"].as_str() {
                let data = Cow::Borrowed(data);
                to(Event::Redacted { choice, data });
            }
            if let Some(signature) = block["signature"].as_str().filter(|it| !it.is_empty()) {
                let signature = Cow::Borrowed(signature);
                to(Event::Signature { choice, signature });
            }
        }
        match delta.content {
            Some(Content::Text(text)) if !text.0.is_empty() => to(Event::Text {
                choice,
                text: text.0,
            }),
            Some(Content::Parts(parts)) => parts.iter().for_each(|part| self.part(part, to)),
            _ => {}
        }
        if let Some(text) = delta.refusal.filter(|text| !text.0.is_empty()) {
            to(Event::Refusal {
                choice,
                text: text.0,
            });
        }
        for image in delta.images.into_iter().flatten() {
            let url = image["image_url"]["url"].as_str().unwrap_or_default();
            let data = url
                .strip_prefix("data:")
                .and_then(|it| it.split_once(";base64,"));
            if let Some((media_type, base64)) = data {
                to(Event::Media {
                    choice,
                    media_type: media_type.into(),
                    base64: base64.into(),
                });
            }
        }
        if let Some(audio) = delta.audio {
            if let Some(text) = audio["transcript"].as_str().filter(|it| !it.is_empty()) {
                let text = text.into();
                to(Event::Text { choice, text });
            }
            if let Some(data) = audio["data"].as_str().filter(|it| !it.is_empty()) {
                to(Event::Media {
                    choice,
                    media_type: "audio/wav".into(),
                    base64: data.into(),
                });
            }
        }
        for (place, call) in delta.tool_calls.into_iter().flatten().enumerate() {
            self.call(place, call, to);
        }
    }

    /// A part of a list of content, as Mistral's thinking models send them.
    fn part(&self, part: &Value, to: &mut dyn FnMut(Event<'_>)) {
        let choice = self.index;
        match part["type"].as_str() {
            Some("thinking") => match &part["thinking"] {
                Value::String(text) => to(Event::Reasoning {
                    choice,
                    text: text.as_str().into(),
                }),
                list => {
                    let texts = list.as_array().into_iter().flatten();
                    for text in texts.filter_map(|it| it["text"].as_str()) {
                        let text = text.into();
                        to(Event::Reasoning { choice, text });
                    }
                }
            },
            _ => {
                if let Some(text) = part["text"].as_str() {
                    let text = text.into();
                    to(Event::Text { choice, text });
                }
            }
        }
    }

    fn call(&mut self, place: usize, said: CallSaid<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let choice = self.index;
        let id = said.id.map(|text| text.0).unwrap_or_default();
        let (name, arguments) = match said.function {
            Some(function) => (function.name.map(|text| text.0), function.arguments),
            None => (None, None),
        };
        let name = name.unwrap_or_default();
        let index = said
            .index
            .or(u32::try_from(place).ok().filter(|_| id.is_empty()));
        let same = |(known, known_id): &(Option<u32>, String)| match (index, known) {
            // Another id at the same index is another call, if it has a name.
            (Some(index), Some(known)) if index == *known => {
                id.is_empty() || name.is_empty() || *known_id == id
            }
            (Some(_), Some(_)) => false,
            _ => *known_id == id,
        };
        let call = match self.calls.iter().rposition(same) {
            Some(call) => call,
            None => {
                self.calls.push((said.index, id.clone().into_owned()));
                let call = self.calls.len() - 1;
                let signature = said.extra_content.as_ref();
                let signature = signature.and_then(|it| it["google"]["thought_signature"].as_str());
                to(Event::Call {
                    choice,
                    call: call as u32,
                    id,
                    name,
                    signature: signature.map(Cow::Borrowed),
                });
                call
            }
        };
        let Some(arguments) = arguments else { return };
        // Some write the object itself instead of its text.
        let text = match serde_json::from_str::<Text<'_>>(arguments.get()) {
            Ok(text) => text.0,
            Err(_) if arguments.get() == "null" => return,
            Err(_) => Cow::Borrowed(arguments.get()),
        };
        if !text.is_empty() {
            let call = call as u32;
            to(Event::Arguments { choice, call, text });
        }
    }
}

/// OpenAI's words for why an answer ended, and those of others.
pub fn finish(word: &str) -> Finish {
    match word {
        "stop" | "eos" | "end_turn" | "stop_sequence" => Finish::Stop,
        "length" | "max_tokens" | "model_length" => Finish::Length,
        "tool_calls" | "function_call" => Finish::Calls,
        "content_filter" | "sensitive" => Finish::Filter,
        _ => Finish::Other,
    }
}

/// One token's, as OpenAI and others after it write it.
pub fn logprob(said: &Value) -> Option<Logprob> {
    let bytes = said["bytes"].as_array();
    Some(Logprob {
        token: said["token"].as_str()?.to_owned(),
        logprob: said["logprob"].as_f64()?,
        bytes: bytes.map(|list| {
            list.iter()
                .filter_map(|it| it.as_u64()?.try_into().ok())
                .collect()
        }),
        top: (said["top_logprobs"].as_array().into_iter().flatten())
            .filter_map(logprob)
            .collect(),
    })
}

/// An error as OpenAI and those who resemble it write it: `{"error": {…}}`, or its inside, or a text.
pub fn failure(status: u16, said: &Value) -> Failure {
    let error = match &said["error"] {
        Value::Null => said,
        inside => inside,
    };
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let message = text(error)
        .or_else(|| text(&error["message"]))
        .or_else(|| text(&said["message"]))
        .or_else(|| text(&said["detail"]))
        .or_else(|| text(&error["detail"]))
        .unwrap_or_else(|| said.to_string());
    let status = match (status, error["code"].as_u64()) {
        (0, Some(code @ 400..=599)) => code as u16,
        (status, _) => status,
    };
    let code = text(&error["code"]);
    let kind = text(&error["type"]);
    let word = |wanted: &str| {
        [&code, &kind]
            .iter()
            .any(|it| it.as_deref() == Some(wanted))
    };
    let kind = match () {
        () if word("insufficient_quota") => FailureKind::Quota,
        () if status == 0 && (word("rate_limit_error") || word("rate_limit_exceeded")) => {
            FailureKind::RateLimited
        }
        () if status == 0 && word("invalid_request_error") => FailureKind::Invalid,
        () if status == 0 && (word("overloaded_error") || word("overloaded")) => {
            FailureKind::Overloaded
        }
        () => FailureKind::of_status(status),
    };
    Failure {
        status,
        kind,
        message,
        code,
        param: text(&error["param"]),
    }
}

/// An error that isn't JSON.
pub fn plain(status: u16, body: &[u8]) -> Failure {
    const SHOWN: usize = 1000;
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
    let message = match text.trim() {
        "" => format!("The model server answered {status} without a word."),
        text => text.to_owned(),
    };
    Failure {
        status,
        kind: FailureKind::of_status(status),
        message,
        code: None,
        param: None,
    }
}
