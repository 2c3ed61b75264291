//! A worker's answer, read as events.

use prost::Message as _;

use super::message::{ChatChunk, ChoiceDelta, FinishReason, TokenLogprob, ToolCallDelta};
use super::status;
use crate::ir::{Event, Failure, FailureKind, Finish, Logprob, Usage};
use crate::translate::{Reads, unreadable};

/// See the module.
#[derive(Debug, Default)]
pub struct Reader {
    started: bool,
    choices: Vec<Choice>,
}

/// What is known of one choice.
#[derive(Debug, Default)]
struct Choice {
    index: u32,
    /// Its calls: the worker's index and id.
    calls: Vec<(u32, String)>,
    finished: bool,
}

// === impl Reader ===

impl Reads for Reader {
    fn event(
        &mut self,
        _name: &[u8],
        data: &[u8],
        to: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Failure> {
        let chunk = ChatChunk::decode(data).map_err(|error| {
            unreadable(format!("a message of its stream can't be read: {error}"))
        })?;
        let ChatChunk {
            id,
            model,
            created,
            choices,
            usage,
            error,
        } = chunk;
        if let Some(error) = error {
            let code = u32::try_from(error.code).unwrap_or_default();
            let failure = status::failure(code, &error.message, &error.reason);
            to(Event::Failed(failure));
            return Ok(());
        }
        if !std::mem::replace(&mut self.started, true) {
            to(Event::Start {
                id: said(&id).map(Into::into),
                model: said(&model).map(Into::into),
                created: Some(created).filter(|it| *it > 0),
            });
        }
        for delta in choices {
            self.delta(delta, to);
        }
        if let Some(used) = usage {
            to(Event::Usage(Usage {
                input: Some(used.input_tokens),
                output: Some(used.output_tokens),
                cached: used.cached_tokens,
                reasoning: used.reasoning_tokens,
                ..Usage::default()
            }));
        }
        Ok(())
    }

    /// A worker always streams.
    fn whole(&mut self, _body: &[u8], _to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        Err(unreadable("its answer is no stream of gRPC"))
    }

    /// Called where the status after the messages is 0: it is whole.
    fn end(&mut self, to: &mut dyn FnMut(Event<'_>)) {
        for choice in &self.choices {
            if !choice.finished {
                to(choice.finish(Finish::Stop));
            }
        }
        to(Event::End);
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        Failure {
            status,
            kind: FailureKind::of_status(status),
            message: match String::from_utf8_lossy(body).trim() {
                "" => format!("the worker answered {status}"),
                said => said.to_owned(),
            },
            code: None,
            param: None,
        }
    }
}

impl Reader {
    fn delta(&mut self, delta: ChoiceDelta, to: &mut dyn FnMut(Event<'_>)) {
        let ChoiceDelta {
            index: choice,
            content,
            reasoning,
            reasoning_signature,
            refusal,
            tool_calls,
            finish_reason,
            logprobs,
            redacted_reasoning,
        } = delta;
        let at = match self.choices.iter().position(|it| it.index == choice) {
            Some(at) => at,
            None => {
                self.choices.push(Choice {
                    index: choice,
                    ..Choice::default()
                });
                self.choices.len() - 1
            }
        };
        let known = &mut self.choices[at];
        if let Some(text) = said(&reasoning) {
            let text = text.into();
            to(Event::Reasoning { choice, text });
        }
        if let Some(signature) = said(&reasoning_signature) {
            let signature = signature.into();
            to(Event::Signature { choice, signature });
        }
        if let Some(data) = said(&redacted_reasoning) {
            let data = data.into();
            to(Event::Redacted { choice, data });
        }
        if let Some(text) = said(&content) {
            let text = text.into();
            to(Event::Text { choice, text });
        }
        if let Some(text) = said(&refusal) {
            let text = text.into();
            to(Event::Refusal { choice, text });
        }
        for call in tool_calls {
            known.call(call, to);
        }
        if !logprobs.is_empty() {
            let tokens = logprobs.into_iter().map(logprob).collect();
            to(Event::Logprobs { choice, tokens });
        }
        let reason = match FinishReason::try_from(finish_reason) {
            Ok(FinishReason::Unspecified) => return,
            Ok(FinishReason::Stop) => Finish::Stop,
            Ok(FinishReason::Length) => Finish::Length,
            Ok(FinishReason::ToolCalls) => Finish::Calls,
            Ok(FinishReason::ContentFilter) => Finish::Filter,
            Err(_) => Finish::Other,
        };
        if !std::mem::replace(&mut known.finished, true) {
            to(known.finish(reason));
        }
    }
}

impl Choice {
    fn call(&mut self, delta: ToolCallDelta, to: &mut dyn FnMut(Event<'_>)) {
        let choice = self.index;
        let ToolCallDelta {
            index,
            id,
            name,
            arguments,
            signature,
        } = delta;
        // A worker that counts badly gives another call the same index.
        let known = self.calls.iter().rposition(|(at, known)| {
            *at == index && (id.is_empty() || known.is_empty() || *known == id)
        });
        let call = u32::try_from(known.unwrap_or(self.calls.len())).unwrap_or(u32::MAX);
        if known.is_none() {
            to(Event::Call {
                choice,
                call,
                id: id.as_str().into(),
                name: name.as_str().into(),
                signature: said(&signature).map(Into::into),
            });
            self.calls.push((index, id));
        }
        if let Some(text) = said(&arguments) {
            let text = text.into();
            to(Event::Arguments { choice, call, text });
        }
    }

    fn finish(&self, reason: Finish) -> Event<'static> {
        let reason = match reason {
            Finish::Stop if !self.calls.is_empty() => Finish::Calls,
            reason => reason,
        };
        Event::Finish {
            choice: self.index,
            reason,
            stop: None,
        }
    }
}

fn said(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn logprob(said: TokenLogprob) -> Logprob {
    Logprob {
        token: said.token,
        logprob: said.logprob,
        bytes: Some(said.bytes).filter(|bytes| !bytes.is_empty()),
        top: said.top.into_iter().map(logprob).collect(),
    }
}
