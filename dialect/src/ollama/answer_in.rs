//! An answer of Ollama's API, whole or streamed, read as events.
//!
//! Source: Ollama's API reference (`docs/api.md`). Each line of a stream has a piece of the text, or whole
//! calls; the last one says `done` and what was used.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{COUNTS, time};
use crate::ir::{Event, Failure, Finish};
use crate::openai::chat::answer_in::{failure, logprob, plain};
use crate::text::Text;
use crate::translate::{Reads, unreadable};
use crate::usage::{Count, Raw};

/// See the module.
#[derive(Debug, Default)]
pub struct Reader {
    started: bool,
    calls: u32,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    created_at: Option<Text<'a>>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    response: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(default)]
    done: bool,
    #[serde(borrow)]
    done_reason: Option<Text<'a>>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    logprobs: Option<Vec<Value>>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<CallSaid<'a>>>,
}

#[derive(Deserialize)]
struct CallSaid<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

// === impl Reader ===

impl Reads for Reader {
    fn event(
        &mut self,
        _name: &[u8],
        data: &[u8],
        to: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Failure> {
        let line: Line<'_> = serde_json::from_slice(data)
            .map_err(|error| unreadable(format!("a line of its stream can't be read: {error}")))?;
        if let Some(error) = &line.error {
            to(Event::Failed(failure(0, error)));
            return Ok(());
        }
        self.line(line, to);
        Ok(())
    }

    fn whole(&mut self, body: &[u8], to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        let line: Line<'_> = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        if let Some(error) = &line.error {
            return Err(failure(0, error));
        }
        if !line.done {
            return Err(unreadable("its answer isn't `done`"));
        }
        self.line(line, to);
        Ok(())
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        read_failure(status, body)
    }
}

/// `{"error": "…"}`
pub fn read_failure(status: u16, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Value>(body) {
        Ok(said) => failure(status, &said),
        Err(_) => plain(status, body),
    }
}

impl Reader {
    fn line(&mut self, line: Line<'_>, to: &mut dyn FnMut(Event<'_>)) {
        if !std::mem::replace(&mut self.started, true) {
            to(Event::Start {
                id: None,
                model: line
                    .model
                    .map(|text| text.0)
                    .filter(|model| !model.is_empty()),
                created: line.created_at.and_then(|text| time::read(&text.0)),
            });
        }
        let choice = 0;
        let (content, thinking, calls) = match line.message {
            Some(said) => (said.content, said.thinking, said.tool_calls),
            None => (None, None, None),
        };
        let thoughts = thinking.or(line.thinking);
        if let Some(Text(text)) = thoughts.filter(|text| !text.0.is_empty()) {
            to(Event::Reasoning { choice, text });
        }
        let content = content.or(line.response);
        if let Some(Text(text)) = content.filter(|text| !text.0.is_empty()) {
            to(Event::Text { choice, text });
        }
        for said in calls.into_iter().flatten() {
            let call = self.calls;
            self.calls += 1;
            to(Event::Call {
                choice,
                call,
                id: said.id.map(|text| text.0).unwrap_or_default(),
                name: said.function.name.0,
                signature: None,
            });
            let arguments = said.function.arguments.map(RawValue::get);
            if let Some(text) = arguments.filter(|text| *text != "null") {
                let text = text.into();
                to(Event::Arguments { choice, call, text });
            }
        }
        let tokens: Vec<_> = (line.logprobs.iter().flatten())
            .filter_map(logprob)
            .collect();
        if !tokens.is_empty() {
            to(Event::Logprobs { choice, tokens });
        }
        if !line.done {
            return;
        }
        let reason = match line.done_reason.as_ref().map(|text| &*text.0) {
            Some("length") => Finish::Length,
            _ if self.calls > 0 => Finish::Calls,
            _ => Finish::Stop,
        };
        to(Event::Finish {
            choice,
            reason,
            stop: None,
        });
        if let Some(used) = used(line.prompt_eval_count, line.eval_count) {
            to(Event::Usage(used));
        }
        to(Event::End);
    }
}

/// What the meter makes of the counts.
pub fn used(input: Option<u64>, output: Option<u64>) -> Option<crate::ir::Usage> {
    let mut raw = Raw::default();
    for (count, number) in [(Count::Input, input), (Count::Output, output)] {
        if let Some(number) = number {
            raw.add(count, number);
        }
    }
    COUNTS.sum(&raw)
}
