//! An answer of the Messages API, whole or streamed, read as events.
//!
//! Source: Anthropic's API reference, "Create a Message", "Streaming Messages" and "Errors".

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::USAGE;
use crate::ir::{Event, Failure, FailureKind, Finish, Usage};
use crate::text::Text;
use crate::translate::{Reads, unreadable};

/// See the module.
#[derive(Debug, Default)]
pub struct Reader {
    /// As it is reported: caches beside the input.
    usage: Option<Usage>,
    /// The indices of the calls' blocks.
    calls: Vec<u32>,
    finished: bool,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    index: Option<u32>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    content_block: Option<Block<'a>>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    content: Option<Vec<Block<'a>>>,
    #[serde(borrow)]
    stop_reason: Option<Text<'a>>,
    #[serde(borrow)]
    stop_sequence: Option<Text<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    signature: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    signature: Option<Text<'a>>,
    #[serde(borrow)]
    partial_json: Option<Text<'a>>,
    #[serde(borrow)]
    stop_reason: Option<Text<'a>>,
    #[serde(borrow)]
    stop_sequence: Option<Text<'a>>,
}

// === impl Reader ===

impl Reads for Reader {
    fn event(
        &mut self,
        name: &[u8],
        data: &[u8],
        to: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Failure> {
        let said: Said<'_> = serde_json::from_slice(data).map_err(|error| {
            unreadable(format!("an event of its stream can't be read: {error}"))
        })?;
        let kind = match &said.kind {
            Some(kind) => kind.0.as_bytes(),
            None => name,
        };
        match kind {
            b"message_start" => {
                if let Some(message) = said.message {
                    start(&message, to);
                    self.used(message.usage, true, to);
                }
            }
            b"content_block_start" => {
                if let Some(block) = said.content_block {
                    self.block(said.index.unwrap_or(0), block, to);
                }
            }
            b"content_block_delta" => {
                if let Some(delta) = said.delta {
                    self.delta(said.index.unwrap_or(0), delta, to);
                }
            }
            b"message_delta" => {
                if let Some(delta) = said.delta {
                    self.finish(delta.stop_reason, delta.stop_sequence, to);
                }
                self.used(said.usage, false, to);
            }
            b"message_stop" => to(Event::End),
            b"error" => {
                let error = said.error.unwrap_or_default();
                to(Event::Failed(failure(0, &error)));
            }
            // `ping`, `content_block_stop`, and what there may be in future.
            _ => {}
        }
        Ok(())
    }

    fn whole(&mut self, body: &[u8], to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        let message: Message<'_> = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        if let Some(error) = &message.error {
            return Err(failure(0, error));
        }
        if message.content.is_none() {
            let kind = message.kind.map(|it| it.0).unwrap_or_default();
            let message = format!("its answer (of type `{kind}`) has no `content`");
            return Err(unreadable(message));
        }
        start(&message, to);
        for (index, block) in (0..).zip(message.content.into_iter().flatten()) {
            self.block(index, block, to);
        }
        self.finish(message.stop_reason, message.stop_sequence, to);
        self.used(message.usage, false, to);
        to(Event::End);
        Ok(())
    }

    fn end(&mut self, to: &mut dyn FnMut(Event<'_>)) {
        // Some who speak it end without `message_stop`.
        if self.finished {
            to(Event::End);
        }
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        match serde_json::from_slice::<Value>(body) {
            Ok(said) if said["error"].is_object() => failure(status, &said["error"]),
            // Not Anthropic's own words: a gateway's before it.
            Ok(said) => crate::openai::chat::answer_in::failure(status, &said),
            Err(_) => crate::openai::chat::answer_in::plain(status, body),
        }
    }
}

fn start(message: &Message<'_>, to: &mut dyn FnMut(Event<'_>)) {
    let text = |text: &Option<Text<'_>>| {
        let text = text.as_ref().map(|it| it.0.clone().into_owned());
        text.filter(|it| !it.is_empty()).map(Into::into)
    };
    to(Event::Start {
        id: text(&message.id),
        model: text(&message.model),
        created: None,
    });
}

fn full(text: Option<Text<'_>>) -> Option<Text<'_>> {
    text.filter(|it| !it.0.is_empty())
}

impl Reader {
    /// A block as it begins, or a whole one.
    fn block(&mut self, index: u32, block: Block<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let choice = 0;
        match block.kind.as_ref().map_or("", |it| &it.0) {
            "text" => {
                if let Some(Text(text)) = full(block.text) {
                    to(Event::Text { choice, text });
                }
            }
            "thinking" => {
                if let Some(Text(text)) = full(block.thinking) {
                    to(Event::Reasoning { choice, text });
                }
                if let Some(Text(signature)) = full(block.signature) {
                    to(Event::Signature { choice, signature });
                }
            }
            "redacted_thinking" => {
                if let Some(Text(data)) = full(block.data) {
                    to(Event::Redacted { choice, data });
                }
            }
            "tool_use" => {
                let call = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
                self.calls.push(index);
                to(Event::Call {
                    choice,
                    call,
                    id: block.id.unwrap_or_default().0,
                    name: block.name.unwrap_or_default().0,
                    signature: None,
                });
                // In a stream it is empty as yet.
                let input = block.input.map_or("", |raw| raw.get());
                let is_empty =
                    input == "null" || input.bytes().all(|it| b"{} \t\r\n".contains(&it));
                if !is_empty {
                    let text = input.into();
                    to(Event::Arguments { choice, call, text });
                }
            }
            // What tools of Anthropic's own did: nobody else has a word for it.
            _ => {}
        }
    }

    fn delta(&mut self, index: u32, delta: Delta<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let choice = 0;
        if let Some(Text(text)) = full(delta.text) {
            to(Event::Text { choice, text });
        }
        if let Some(Text(text)) = full(delta.thinking) {
            to(Event::Reasoning { choice, text });
        }
        if let Some(Text(signature)) = full(delta.signature) {
            to(Event::Signature { choice, signature });
        }
        // The arguments of a server's own tool have no call.
        let call = self.calls.iter().rposition(|it| *it == index);
        if let (Some(Text(text)), Some(call)) = (full(delta.partial_json), call) {
            let call = u32::try_from(call).unwrap_or(u32::MAX);
            to(Event::Arguments { choice, call, text });
        }
    }

    fn finish(
        &mut self,
        reason: Option<Text<'_>>,
        stop: Option<Text<'_>>,
        to: &mut dyn FnMut(Event<'_>),
    ) {
        let Some(Text(reason)) = reason else { return };
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        to(Event::Finish {
            choice: 0,
            reason: finish(&reason),
            stop: stop.map(|it| it.0),
        });
    }

    /// `early` is what is known as an answer begins: its output is none yet.
    fn used(&mut self, raw: Option<&RawValue>, early: bool, to: &mut dyn FnMut(Event<'_>)) {
        let reported = raw.and_then(|raw| USAGE.sum(&USAGE.read(raw.get().as_bytes())));
        let Some(mut reported) = reported else { return };
        if early {
            reported.output = None;
        }
        let updated = match self.usage {
            Some(before) => before.updated_beside(reported),
            None => reported,
        };
        self.usage = Some(updated);
        to(Event::Usage(with_caches(updated)));
    }
}

/// Anthropic's input is without what caches gave and took.
pub fn with_caches(usage: Usage) -> Usage {
    let caches = usage.cached.unwrap_or(0) + usage.cache_write.unwrap_or(0);
    Usage {
        input: usage.input.map(|input| input.saturating_add(caches)),
        ..usage
    }
}

/// Anthropic's words for why an answer ended.
pub fn finish(word: &str) -> Finish {
    match word {
        "end_turn" => Finish::Stop,
        "stop_sequence" => Finish::StopText,
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "tool_use" => Finish::Calls,
        "pause_turn" => Finish::Pause,
        "refusal" => Finish::Refusal,
        _ => Finish::Other,
    }
}

/// An error in Anthropic's words: the inside of `error`. `status` is 0 in a stream.
fn failure(status: u16, error: &Value) -> Failure {
    let message = match error["message"].as_str() {
        Some(message) if !message.is_empty() => message.to_owned(),
        _ => error.to_string(),
    };
    let kind = match error["type"].as_str().unwrap_or_default() {
        // Said with status 400.
        "invalid_request_error" if message.contains("credit balance is too low") => {
            FailureKind::Quota
        }
        "invalid_request_error" => FailureKind::Invalid,
        "authentication_error" => FailureKind::Unauthenticated,
        "billing_error" => FailureKind::Quota,
        "permission_error" => FailureKind::Forbidden,
        "not_found_error" => FailureKind::NotFound,
        "request_too_large" => FailureKind::TooLarge,
        "rate_limit_error" => FailureKind::RateLimited,
        "timeout_error" => FailureKind::Timeout,
        "overloaded_error" => FailureKind::Overloaded,
        _ if status == 0 => FailureKind::Server,
        _ => FailureKind::of_status(status),
    };
    // Clients of OpenAI's shorten their prompt by this code.
    let too_long = kind == FailureKind::Invalid && message.starts_with("prompt is too long");
    Failure {
        status,
        kind,
        message,
        code: too_long.then(|| "context_length_exceeded".to_owned()),
        param: None,
    }
}
