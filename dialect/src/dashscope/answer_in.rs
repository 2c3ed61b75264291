//! An answer of DashScope's own API, whole or streamed in increments, read as events.
//!
//! Source: Alibaba Cloud Model Studio, "DashScope API reference" of Qwen. Each event has the usage so far;
//! the last one of a choice has a `finish_reason` that isn't the text `null`; a stream has no last word.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::ir::{Event, Failure, FailureKind, Finish, Usage};
use crate::openai::chat::TOTALS;
use crate::openai::chat::answer_in::{failure, finish, logprob, plain};
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
    /// The server's numbers of its calls, in order.
    calls: Vec<u32>,
    finished: bool,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    output: Option<Output<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    request_id: Option<Text<'a>>,
    /// Of an error.
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    choices: Option<Vec<ChoiceSaid<'a>>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct ChoiceSaid<'a> {
    index: Option<u32>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<Content<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<CallSaid<'a>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content<'a> {
    #[serde(borrow)]
    Text(Text<'a>),
    #[serde(borrow)]
    Parts(Vec<Part<'a>>),
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct CallSaid<'a> {
    index: Option<u32>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    arguments: Option<Text<'a>>,
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
        if name == b"error" || is_error(&said) {
            to(Event::Failed(read_failure(0, data)));
            return Ok(());
        }
        self.said(said, to);
        Ok(())
    }

    fn whole(&mut self, body: &[u8], to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        let said: Said<'_> = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        if is_error(&said) {
            return Err(read_failure(0, body));
        }
        if said.output.is_none() {
            return Err(unreadable("its answer has no `output`"));
        }
        self.said(said, to);
        to(Event::End);
        Ok(())
    }

    fn end(&mut self, to: &mut dyn FnMut(Event<'_>)) {
        if !self.choices.is_empty() && self.choices.iter().all(|choice| choice.finished) {
            to(Event::End);
        }
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        read_failure(status, body)
    }
}

/// An error has a code, and nothing put out.
fn is_error(said: &Said<'_>) -> bool {
    let code = said.code.map(RawValue::get);
    let coded = code.is_some_and(|code| !matches!(code, "null" | "\"\"" | "200"));
    said.output.is_none() && (coded || said.message.is_some())
}

/// `{"code": "Throttling.RateQuota", "message": "…", "request_id": "…"}`
pub fn read_failure(status: u16, body: &[u8]) -> Failure {
    let Ok(said) = serde_json::from_slice::<Value>(body) else {
        return plain(status, body);
    };
    let mut failure = failure(status, &said);
    let code = failure.code.as_deref().unwrap_or_default();
    let kind = match code.split('.').next().unwrap_or_default() {
        "Arrearage" => Some(FailureKind::Quota),
        "Throttling" | "LimitRequests" if code.ends_with("AllocationQuota") => None,
        "Throttling" | "LimitRequests" => Some(FailureKind::RateLimited),
        "InvalidApiKey" => Some(FailureKind::Unauthenticated),
        "AccessDenied" => Some(FailureKind::Forbidden),
        "ModelNotFound" => Some(FailureKind::NotFound),
        "InvalidParameter" | "BadRequest" | "DataInspectionFailed" => Some(FailureKind::Invalid),
        "RequestTimeOut" => Some(FailureKind::Timeout),
        "InternalError" | "SystemError" => Some(FailureKind::Server),
        _ => None,
    };
    // The status goes before, but for money: it comes as a bad request.
    match kind {
        Some(FailureKind::Quota) => failure.kind = FailureKind::Quota,
        Some(kind) if status == 0 => failure.kind = kind,
        _ => {}
    }
    failure
}

impl Reader {
    fn said(&mut self, said: Said<'_>, to: &mut dyn FnMut(Event<'_>)) {
        if !std::mem::replace(&mut self.started, true) {
            to(Event::Start {
                id: said
                    .request_id
                    .map(|text| text.0)
                    .filter(|id| !id.is_empty()),
                model: None,
                created: None,
            });
        }
        if let Some(output) = said.output {
            self.output(output, to);
        }
        let reported = said
            .usage
            .and_then(|raw| TOTALS.sum(&TOTALS.read(raw.get().as_bytes())));
        if let Some(reported) = reported {
            let updated = self
                .usage
                .map_or(reported, |before| before.updated(reported));
            self.usage = Some(updated);
            to(Event::Usage(updated));
        }
    }

    fn output(&mut self, output: Output<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let Output {
            choices,
            text,
            finish_reason,
        } = output;
        match choices {
            Some(choices) => {
                for (place, said) in (0..).zip(choices) {
                    let index = said.index.unwrap_or(place);
                    self.choice(index).said(said, to);
                }
            }
            // The elder form.
            None if text.is_some() || finish_reason.is_some() => {
                let message = Message {
                    content: text.map(Content::Text),
                    reasoning_content: None,
                    tool_calls: None,
                };
                let said = ChoiceSaid {
                    index: None,
                    message: Some(message),
                    finish_reason,
                    logprobs: None,
                };
                self.choice(0).said(said, to);
            }
            None => {}
        }
    }

    fn choice(&mut self, index: u32) -> &mut Choice {
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
        &mut self.choices[at]
    }
}

impl Choice {
    fn said(&mut self, said: ChoiceSaid<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let choice = self.index;
        if let Some(message) = said.message {
            let thoughts = message.reasoning_content;
            if let Some(Text(text)) = thoughts.filter(|text| !text.0.is_empty()) {
                to(Event::Reasoning { choice, text });
            }
            let mut text = |text: Text<'_>| {
                if !text.0.is_empty() {
                    let text = text.0;
                    to(Event::Text { choice, text });
                }
            };
            match message.content {
                None => {}
                Some(Content::Text(one)) => text(one),
                Some(Content::Parts(parts)) => {
                    parts.into_iter().filter_map(|it| it.text).for_each(text);
                }
            }
            for (place, call) in (0..).zip(message.tool_calls.into_iter().flatten()) {
                self.call(place, call, to);
            }
        }
        if let Some(tokens) = said.logprobs.and_then(|it| it.content) {
            let tokens: Vec<_> = tokens.iter().filter_map(logprob).collect();
            if !tokens.is_empty() {
                to(Event::Logprobs { choice, tokens });
            }
        }
        let word = said.finish_reason.as_ref().map(|text| &*text.0);
        let Some(word) = word.filter(|word| !matches!(*word, "" | "null")) else {
            return;
        };
        if !std::mem::replace(&mut self.finished, true) {
            let reason = match finish(word) {
                Finish::Stop if !self.calls.is_empty() => Finish::Calls,
                reason => reason,
            };
            let stop = None;
            to(Event::Finish {
                choice,
                reason,
                stop,
            });
        }
    }

    fn call(&mut self, place: u32, said: CallSaid<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let choice = self.index;
        let index = said.index.unwrap_or(place);
        let (name, arguments) = match said.function {
            Some(function) => (function.name, function.arguments),
            None => (None, None),
        };
        let call = match self.calls.iter().position(|it| *it == index) {
            Some(call) => call as u32,
            None => {
                self.calls.push(index);
                let call = (self.calls.len() - 1) as u32;
                to(Event::Call {
                    choice,
                    call,
                    id: said.id.map(|text| text.0).unwrap_or_default(),
                    name: name.map(|text| text.0).unwrap_or_default(),
                    signature: None,
                });
                call
            }
        };
        if let Some(Text(text)) = arguments.filter(|text| !text.0.is_empty()) {
            to(Event::Arguments { choice, call, text });
        }
    }
}
