//! An answer of Bedrock's Converse, whole or streamed, read as events.
//!
//! Source: Amazon Bedrock API reference, "Converse", "ConverseStream", "ConverseStreamOutput" and "Common
//! errors". Blocks of text needn't begin with a `contentBlockStart`, and a model may come back to thoughts
//! after an empty text.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{CONVERSE, USAGE};
use crate::ir::{Event, Failure, FailureKind, Finish, Usage};
use crate::openai::chat::answer_in::plain;
use crate::text::Text;
use crate::translate::{Reads, unreadable};

/// See the module.
#[derive(Debug, Default)]
pub struct Reader {
    started: bool,
    finished: bool,
    /// The blocks that are calls, in their order.
    calls: Vec<u32>,
    /// The format of the picture that began last.
    image: String,
    /// As it is written: what caches gave stands beside the input.
    usage: Option<Usage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Whole<'a> {
    #[serde(borrow)]
    output: Option<Output<'a>>,
    #[serde(borrow)]
    stop_reason: Option<Text<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    additional_model_response_fields: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    message: Option<MessageSaid<'a>>,
}

#[derive(Deserialize)]
struct MessageSaid<'a> {
    #[serde(borrow)]
    content: Option<Vec<Block<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Block<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    tool_use: Option<ToolUse<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Thought<'a>>,
    #[serde(borrow)]
    citations_content: Option<Citations<'a>>,
    #[serde(borrow)]
    image: Option<Image<'a>>,
}

/// Text that the model has put together from documents.
#[derive(Deserialize)]
struct Citations<'a> {
    #[serde(borrow)]
    content: Option<Vec<Cited<'a>>>,
}

#[derive(Deserialize)]
struct Cited<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Image<'a> {
    #[serde(borrow)]
    format: Option<Text<'a>>,
    #[serde(borrow)]
    source: Option<ImageSource<'a>>,
}

#[derive(Deserialize)]
struct ImageSource<'a> {
    #[serde(borrow)]
    bytes: Option<Text<'a>>,
}

/// A call: of a body with its whole input, of an event with a piece of its text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolUse<'a> {
    #[serde(borrow)]
    tool_use_id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// A thought: of a body it is inside of `reasoningText`, of an event not.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Thought<'a> {
    #[serde(borrow)]
    reasoning_text: Option<ThoughtText<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    signature: Option<Text<'a>>,
    #[serde(borrow)]
    redacted_content: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct ThoughtText<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    signature: Option<Text<'a>>,
}

/// Any event: what it is says its name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Piece<'a> {
    content_block_index: Option<u32>,
    #[serde(borrow)]
    start: Option<Block<'a>>,
    #[serde(borrow)]
    delta: Option<Block<'a>>,
    #[serde(borrow)]
    stop_reason: Option<Text<'a>>,
    #[serde(borrow)]
    additional_model_response_fields: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

// === impl Reader ===

impl Reads for Reader {
    fn event(
        &mut self,
        name: &[u8],
        data: &[u8],
        to: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Failure> {
        if name.ends_with(b"xception") {
            to(Event::Failed(exception(name, data)));
            return Ok(());
        }
        let piece: Piece<'_> = serde_json::from_slice(data).map_err(|error| {
            unreadable(format!("an event of its stream can't be read: {error}"))
        })?;
        self.start(to);
        let index = piece.content_block_index.unwrap_or(0);
        match name {
            b"contentBlockStart" => {
                if let Some(block) = piece.start {
                    self.block(index, block, to);
                }
            }
            b"contentBlockDelta" => {
                if let Some(block) = piece.delta {
                    self.block(index, block, to);
                }
            }
            b"messageStop" => {
                let reason = piece.stop_reason.unwrap_or_default();
                self.finish(&reason.0, piece.additional_model_response_fields, to);
            }
            b"metadata" => {
                self.usage(piece.usage, to);
                if self.finished {
                    to(Event::End);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn whole(&mut self, body: &[u8], to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        let whole: Whole<'_> = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        let Some(message) = whole.output.and_then(|output| output.message) else {
            return Err(unreadable("its answer has no `output.message`"));
        };
        self.start(to);
        for (index, block) in message.content.into_iter().flatten().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            self.block(index, block, to);
        }
        let reason = whole.stop_reason.unwrap_or_default();
        self.finish(&reason.0, whole.additional_model_response_fields, to);
        self.usage(whole.usage, to);
        to(Event::End);
        Ok(())
    }

    fn end(&mut self, to: &mut dyn FnMut(Event<'_>)) {
        if self.finished {
            to(Event::End);
        }
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        match serde_json::from_slice::<Value>(body) {
            Ok(said) => failure(status, None, &said).unwrap_or_else(|| plain(status, body)),
            Err(_) => plain(status, body),
        }
    }
}

impl Reader {
    fn start(&mut self, to: &mut dyn FnMut(Event<'_>)) {
        if !std::mem::replace(&mut self.started, true) {
            let (id, model, created) = (None, None, None);
            to(Event::Start { id, model, created });
        }
    }

    /// A block of a body, the beginning of one, or what is added to one.
    fn block(&mut self, index: u32, block: Block<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let choice = 0;
        if let Some(text) = filled(block.text) {
            to(Event::Text { choice, text });
        }
        for cited in (block.citations_content.into_iter()).flat_map(|it| it.content) {
            for text in cited.into_iter().filter_map(|it| filled(it.text)) {
                to(Event::Text { choice, text });
            }
        }
        if let Some(thought) = block.reasoning_content {
            let inside = thought.reasoning_text;
            let (text, signature) = match inside {
                Some(inside) => (inside.text, inside.signature),
                None => (thought.text, thought.signature),
            };
            if let Some(text) = filled(text) {
                to(Event::Reasoning { choice, text });
            }
            if let Some(signature) = filled(signature) {
                to(Event::Signature { choice, signature });
            }
            if let Some(data) = filled(thought.redacted_content) {
                to(Event::Redacted { choice, data });
            }
        }
        if let Some(call) = block.tool_use {
            self.call(index, call, to);
        }
        if let Some(image) = block.image {
            if let Some(format) = filled(image.format) {
                self.image = format.into_owned();
            }
            if let Some(base64) = filled(image.source.and_then(|it| it.bytes)) {
                let media_type = Cow::Owned(format!("image/{}", self.image));
                to(Event::Media {
                    choice,
                    media_type,
                    base64,
                });
            }
        }
    }

    fn call(&mut self, index: u32, said: ToolUse<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let choice = 0;
        let known = self.calls.iter().position(|block| *block == index);
        let place = known.unwrap_or_else(|| {
            self.calls.push(index);
            self.calls.len() - 1
        });
        let call = u32::try_from(place).unwrap_or(u32::MAX);
        if known.is_none() {
            to(Event::Call {
                choice,
                call,
                id: said.tool_use_id.unwrap_or_default().0,
                name: said.name.unwrap_or_default().0,
                signature: None,
            });
        }
        let Some(input) = said.input else { return };
        let text = match serde_json::from_str::<Text<'_>>(input.get()) {
            Ok(text) => text.0,
            Err(_) => Cow::Borrowed(input.get()),
        };
        if !text.is_empty() {
            to(Event::Arguments { choice, call, text });
        }
    }

    fn finish(&mut self, word: &str, more: Option<&RawValue>, to: &mut dyn FnMut(Event<'_>)) {
        self.finished = true;
        let more = more.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
        let stop = more.as_ref().and_then(|it| it["stop_sequence"].as_str());
        to(Event::Finish {
            choice: 0,
            reason: finish(word),
            stop: stop.map(Cow::Borrowed),
        });
    }

    fn usage(&mut self, raw: Option<&RawValue>, to: &mut dyn FnMut(Event<'_>)) {
        let reported = raw.and_then(|raw| USAGE.sum(&USAGE.read(raw.get().as_bytes())));
        if let Some(reported) = reported {
            let updated = (self.usage).map_or(reported, |before| before.updated(reported));
            self.usage = Some(updated);
            to(Event::Usage(CONVERSE.whole(updated)));
        }
    }
}

fn filled(text: Option<Text<'_>>) -> Option<Cow<'_, str>> {
    text.map(|text| text.0).filter(|text| !text.is_empty())
}

/// Converse's words for why an answer ended.
fn finish(word: &str) -> Finish {
    match word {
        "end_turn" => Finish::Stop,
        "stop_sequence" => Finish::StopText,
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "tool_use" => Finish::Calls,
        "guardrail_intervened" | "content_filtered" => Finish::Filter,
        _ => Finish::Other,
    }
}

/// An exception in the middle of a stream.
fn exception(name: &[u8], data: &[u8]) -> Failure {
    let name = String::from_utf8_lossy(name);
    let said = serde_json::from_slice::<Value>(data).unwrap_or_default();
    failure(0, Some(&name), &said).unwrap_or_else(|| Failure {
        message: format!("The model server ended its stream with {name}."),
        ..kind_of(0, Some(&name))
    })
}

/// An error, which is named by `__type`, or from outside; `None` where it has no words.
fn failure(status: u16, name: Option<&str>, said: &Value) -> Option<Failure> {
    let text = ["message", "Message", "originalMessage"];
    let mut words = text.iter().filter_map(|name| said[name].as_str());
    let message = words.find(|text| !text.is_empty());
    let code = name
        .or(said["__type"].as_str())
        .or(said["code"].as_str())
        // `com.amazon.coral.service#ThrottlingException`
        .map(|it| it.rsplit('#').next().unwrap_or(it));
    let message = match (message, code) {
        (Some(message), _) => message.to_owned(),
        (None, Some(code)) => format!("The model server answered with {code}."),
        (None, None) => return None,
    };
    Some(Failure {
        message,
        ..kind_of(status, code)
    })
}

fn kind_of(status: u16, code: Option<&str>) -> Failure {
    use FailureKind as Kind;
    // In streams the names begin with a small letter.
    let word = code.unwrap_or_default();
    let is = |name: &str| word.eq_ignore_ascii_case(name);
    // What its name says goes before the status that it came with.
    let (status, kind) = match () {
        () if is("ThrottlingException") || is("TooManyRequestsException") => {
            (429, Kind::RateLimited)
        }
        () if is("ServiceQuotaExceededException") => (429, Kind::Quota),
        () if is("ValidationException") => (400, Kind::Invalid),
        () if is("AccessDeniedException") => (403, Kind::Forbidden),
        () if is("UnrecognizedClientException")
            || is("InvalidSignatureException")
            || is("ExpiredTokenException")
            || is("MissingAuthenticationTokenException") =>
        {
            // The client's SDK knows by it that the key is to blame.
            (401, Kind::Unauthenticated)
        }
        () if is("ResourceNotFoundException") => (404, Kind::NotFound),
        () if is("ServiceUnavailableException") || is("ModelNotReadyException") => {
            (503, Kind::Overloaded)
        }
        () if is("ModelTimeoutException") => (408, Kind::Timeout),
        () if is("InternalServerException") => (500, Kind::Server),
        // 424: the model failed, whatever the client asked.
        () if is("ModelErrorException") || is("ModelStreamErrorException") || status == 424 => {
            (502, Kind::Server)
        }
        () => (status, Kind::of_status(status)),
    };
    Failure {
        status,
        kind,
        message: String::new(),
        code: code.filter(|it| !it.is_empty()).map(str::to_owned),
        param: None,
    }
}
