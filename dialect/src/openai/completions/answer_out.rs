//! An answer as clients of OpenAI's legacy completions read it: its texts. Thoughts have no place in it.
//!
//! Source: OpenAI's API reference, "The completion object".

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::ir::{Event, Failure, Finish, Usage};
use crate::openai::chat::answer_out::{error, finish, status, usage};
use crate::text::string;
use crate::translate::{Ask, Writes};

/// See the module.
#[derive(Debug)]
pub struct Writer {
    id: String,
    model: String,
    created: u64,
    /// The client wants usage at the end of a stream.
    usage_wanted: bool,
    usage: Option<Usage>,
    /// What each chunk begins with; empty before the first.
    head: Vec<u8>,
}

// === impl Writer ===

impl Writer {
    /// A writer for one answer.
    pub fn new(ask: &Ask<'_>, usage_wanted: bool) -> Self {
        Self {
            id: format!("cmpl-{}", ask.id),
            model: ask.model.to_owned(),
            created: ask.now,
            usage_wanted,
            usage: None,
            head: Vec::new(),
        }
    }

    fn start(
        &mut self,
        id: Option<Cow<'_, str>>,
        model: Option<Cow<'_, str>>,
        created: Option<u64>,
    ) {
        if let Some(id) = id {
            self.id = id.into_owned();
        }
        if let Some(model) = model {
            self.model = model.into_owned();
        }
        self.created = created.unwrap_or(self.created);
    }

    /// Begins a chunk, up to its choices.
    fn open(&mut self, out: &mut Vec<u8>) {
        if self.head.is_empty() {
            self.head.extend_from_slice(b"data: {\"id\":");
            string(&mut self.head, &self.id);
            self.head
                .extend_from_slice(b",\"object\":\"text_completion\",\"created\":");
            self.head
                .extend_from_slice(self.created.to_string().as_bytes());
            self.head.extend_from_slice(b",\"model\":");
            string(&mut self.head, &self.model);
            self.head.extend_from_slice(b",\"choices\":[");
        }
        out.extend_from_slice(&self.head);
    }

    /// A chunk of one choice.
    fn chunk(&mut self, choice: u32, text: &str, reason: Option<Finish>, out: &mut Vec<u8>) {
        self.open(out);
        out.extend_from_slice(b"{\"text\":");
        string(out, text);
        out.extend_from_slice(b",\"index\":");
        out.extend_from_slice(choice.to_string().as_bytes());
        out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":");
        match reason {
            None => out.extend_from_slice(b"null"),
            Some(reason) => string(out, finish(reason)),
        }
        out.extend_from_slice(match self.usage_wanted {
            true => b"}],\"usage\":null}\n\n",
            false => b"}]}\n\n",
        });
    }
}

impl Writes for Writer {
    fn event(&mut self, event: Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, model, created } => self.start(id, model, created),
            Event::Text { choice, text } | Event::Refusal { choice, text } => {
                self.chunk(choice, &text, None, out);
            }
            Event::Finish { choice, reason, .. } => self.chunk(choice, "", Some(reason), out),
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Failed(failure) => {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(error(&failure).to_string().as_bytes());
                out.extend_from_slice(b"\n\n");
            }
            Event::End => {
                if let (true, Some(used)) = (self.usage_wanted, self.usage) {
                    self.open(out);
                    out.extend_from_slice(b"],\"usage\":");
                    out.extend_from_slice(usage(&used).to_string().as_bytes());
                    out.extend_from_slice(b"}\n\n");
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
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
                Event::Start { id, model, created } => self.start(id, model, created),
                Event::Usage(usage) => self.usage = Some(usage),
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
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let Some(used) = &self.usage {
            body["usage"] = usage(used);
        }
        body.to_string().into_bytes()
    }

    fn failure(&self, failure: &Failure) -> (u16, Vec<u8>) {
        (status(failure), error(failure).to_string().into_bytes())
    }
}
