//! An answer as clients of OpenAI's legacy completions read it: its texts. Thoughts have no place in it.
//!
//! Source: OpenAI's API reference, "The completion object".

use serde_json::{Value, json};

use crate::ir::{Event, Failure, Finish};
use crate::openai::chat::answer_out::{error, finish, status, usage};
use crate::openai::chunks::Chunks;
use crate::text::string;
use crate::translate::{Ask, Writes};

/// See the module.
#[derive(Debug)]
pub struct Writer {
    chunks: Chunks,
}

// === impl Writer ===

impl Writer {
    /// A writer for one answer.
    pub fn new(ask: &Ask<'_>, usage_wanted: bool) -> Self {
        Self {
            chunks: Chunks::new(ask, "cmpl", "text_completion", usage_wanted),
        }
    }

    /// A chunk of one choice.
    fn chunk(&mut self, choice: u32, text: &str, reason: Option<Finish>, out: &mut Vec<u8>) {
        self.chunks.open(out);
        out.extend_from_slice(b"{\"text\":");
        string(out, text);
        out.extend_from_slice(b",\"index\":");
        out.extend_from_slice(choice.to_string().as_bytes());
        out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":");
        match reason {
            None => out.extend_from_slice(b"null"),
            Some(reason) => string(out, finish(reason)),
        }
        out.push(b'}');
        self.chunks.close(out);
    }
}

impl Writes for Writer {
    fn event(&mut self, event: Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, model, created } => self.chunks.start(id, model, created),
            Event::Text { choice, text } | Event::Refusal { choice, text } => {
                self.chunk(choice, &text, None, out);
            }
            Event::Finish { choice, reason, .. } => self.chunk(choice, "", Some(reason), out),
            Event::Usage(usage) => self.chunks.usage = Some(usage),
            Event::Failed(failure) => self.chunks.failed(&failure, out),
            Event::End => self.chunks.end(out),
            // Nothing of this can be asked for here, but for thoughts, which a completion doesn't tell.
            Event::Reasoning { .. }
            | Event::Signature { .. }
            | Event::Redacted { .. }
            | Event::Call { .. }
            | Event::Arguments { .. }
            | Event::Media { .. }
            | Event::Logprobs { .. } => {}
        }
    }

    fn whole(&mut self, events: Vec<Event<'static>>) -> Vec<u8> {
        let mut choices: Vec<(u32, String, Finish)> = vec![(0, String::new(), Finish::Stop)];
        let mut of = |index: u32, text: &str, reason: Option<Finish>| {
            let at = match choices.iter().position(|it| it.0 == index) {
                Some(at) => at,
                None => {
                    choices.push((index, String::new(), Finish::Stop));
                    choices.len() - 1
                }
            };
            let choice = &mut choices[at];
            choice.1.push_str(text);
            choice.2 = reason.unwrap_or(choice.2);
        };
        for event in events {
            match event {
                Event::Start { id, model, created } => self.chunks.start(id, model, created),
                Event::Usage(usage) => self.chunks.usage = Some(usage),
                Event::Text { choice, text } | Event::Refusal { choice, text } => {
                    of(choice, &text, None);
                }
                Event::Finish { choice, reason, .. } => of(choice, "", Some(reason)),
                _ => {}
            }
        }
        let choice = |(index, text, reason): (u32, String, Finish)| {
            json!({
                "text": text,
                "index": index,
                "logprobs": null,
                "finish_reason": finish(reason),
            })
        };
        let choices: Vec<Value> = choices.into_iter().map(choice).collect();
        let mut body = json!({
            "id": self.chunks.id,
            "object": "text_completion",
            "created": self.chunks.created,
            "model": self.chunks.model,
            "choices": choices,
        });
        if let Some(used) = &self.chunks.usage {
            body["usage"] = usage(used);
        }
        body.to_string().into_bytes()
    }

    fn failure(&self, failure: &Failure) -> (u16, Vec<u8>) {
        (status(failure), error(failure).to_string().into_bytes())
    }
}
