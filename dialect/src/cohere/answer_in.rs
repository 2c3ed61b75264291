//! An answer of Cohere's API, version 2, whole or streamed, read as events.
//!
//! Source: Cohere's API reference, "Chat" and "Chat with Streaming". The plan of a model that is to call
//! tools is what it thinks.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::USAGE;
use crate::ir::{Event, Failure, FailureKind, Finish};
use crate::openai::chat::answer_in::{failure, plain};
use crate::text::Text;
use crate::translate::{Reads, unreadable};

/// See the module.
#[derive(Debug, Default)]
pub struct Reader {
    /// The upstream's numbers of the calls, in order.
    calls: Vec<u32>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    index: Option<u32>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    message: Option<Added<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Added<'a> {
    /// An empty list in the first event, then one part.
    #[serde(borrow)]
    content: Option<OneOrList<Part<'a>>>,
    #[serde(borrow)]
    tool_plan: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<OneOrList<CallSaid<'a>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrList<T> {
    List(Vec<T>),
    One(T),
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct CallSaid<'a> {
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

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    message: Added<'a>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

const CHOICE: u32 = 0;

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
        let message = said.delta;
        match kind {
            b"message-start" => to(Event::Start {
                id: said.id.map(|text| text.0).filter(|id| !id.is_empty()),
                model: None,
                created: None,
            }),
            b"message-end" => end(message, to),
            b"content-start" | b"content-delta" | b"tool-plan-delta" => {
                if let Some(added) = message.and_then(|it| it.message) {
                    texts(added.tool_plan, added.content, to);
                }
            }
            b"tool-call-start" | b"tool-call-delta" => {
                if let Some(added) = message.and_then(|it| it.message) {
                    let begins = kind == b"tool-call-start";
                    for call in each(added.tool_calls) {
                        self.call(said.index.unwrap_or(0), begins, call, to);
                    }
                }
            }
            // Citations, and what is to come.
            _ => {}
        }
        Ok(())
    }

    fn whole(&mut self, body: &[u8], to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        let said: Body<'_> = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        to(Event::Start {
            id: said.id.map(|text| text.0).filter(|id| !id.is_empty()),
            model: None,
            created: None,
        });
        texts(said.message.tool_plan, said.message.content, to);
        for (index, call) in (0..).zip(each(said.message.tool_calls)) {
            self.call(index, true, call, to);
        }
        let delta = Delta {
            message: None,
            finish_reason: said.finish_reason,
            usage: said.usage,
            error: None,
        };
        let mut failed = None;
        end(Some(delta), &mut |event| match event {
            Event::Failed(failure) => failed = Some(failure),
            event => to(event),
        });
        failed.map_or(Ok(()), Err)
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        read_failure(status, body)
    }
}

/// `{"message": "…"}`
pub fn read_failure(status: u16, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Value>(body) {
        Ok(said) => failure(status, &said),
        Err(_) => plain(status, body),
    }
}

impl Reader {
    fn call(
        &mut self,
        index: u32,
        begins: bool,
        said: CallSaid<'_>,
        to: &mut dyn FnMut(Event<'_>),
    ) {
        let (name, arguments) = match said.function {
            Some(function) => (function.name, function.arguments),
            None => (None, None),
        };
        let known = self.calls.iter().rposition(|it| *it == index);
        let call = match known.filter(|_| !begins) {
            Some(call) => call as u32,
            None => {
                self.calls.push(index);
                let call = (self.calls.len() - 1) as u32;
                to(Event::Call {
                    choice: CHOICE,
                    call,
                    id: said.id.map(|text| text.0).unwrap_or_default(),
                    name: name.map(|text| text.0).unwrap_or_default(),
                    signature: None,
                });
                call
            }
        };
        if let Some(Text(text)) = arguments.filter(|text| !text.0.is_empty()) {
            to(Event::Arguments {
                choice: CHOICE,
                call,
                text,
            });
        }
    }
}

fn each<T>(said: Option<OneOrList<T>>) -> Vec<T> {
    match said {
        None => Vec::new(),
        Some(OneOrList::One(one)) => vec![one],
        Some(OneOrList::List(list)) => list,
    }
}

/// The plan, thoughts and texts.
fn texts(
    plan: Option<Text<'_>>,
    content: Option<OneOrList<Part<'_>>>,
    to: &mut dyn FnMut(Event<'_>),
) {
    let choice = CHOICE;
    if let Some(Text(text)) = plan.filter(|text| !text.0.is_empty()) {
        to(Event::Reasoning { choice, text });
    }
    let mut part = |part: Part<'_>| {
        if let Some(Text(text)) = part.thinking.filter(|text| !text.0.is_empty()) {
            to(Event::Reasoning { choice, text });
        }
        if let Some(Text(text)) = part.text.filter(|text| !text.0.is_empty()) {
            to(Event::Text { choice, text });
        }
    };
    match content {
        None => {}
        Some(OneOrList::One(one)) => part(one),
        Some(OneOrList::List(list)) => list.into_iter().for_each(part),
    }
}

/// Why it ended, and what was used.
fn end(said: Option<Delta<'_>>, to: &mut dyn FnMut(Event<'_>)) {
    let (reason, usage, error) = match said {
        Some(said) => (said.finish_reason, said.usage, said.error),
        None => (None, None, None),
    };
    let used = usage.and_then(|raw| USAGE.sum(&USAGE.read(raw.get().as_bytes())));
    if let Some(used) = used {
        to(Event::Usage(used));
    }
    let word = reason.as_ref().map_or("COMPLETE", |text| &*text.0);
    let reason = match word {
        "COMPLETE" => Finish::Stop,
        "STOP_SEQUENCE" => Finish::StopText,
        "MAX_TOKENS" => Finish::Length,
        "TOOL_CALL" => Finish::Calls,
        "ERROR_TOXIC" => Finish::Filter,
        "ERROR" | "TIMEOUT" => {
            to(Event::Failed(broken(word, error)));
            return;
        }
        _ => Finish::Other,
    };
    to(Event::Finish {
        choice: CHOICE,
        reason,
        stop: None,
    });
    to(Event::End);
}

/// It says itself that it failed.
fn broken(word: &str, error: Option<Value>) -> Failure {
    let kind = match word {
        "TIMEOUT" => FailureKind::Timeout,
        _ => FailureKind::Server,
    };
    let failure = match error {
        Some(error) => failure(0, &error),
        None => unreadable(format!("The model server ended its answer with {word}.")),
    };
    Failure {
        status: 0,
        kind,
        ..failure
    }
}
