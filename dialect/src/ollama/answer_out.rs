//! An answer as clients of Ollama's API read it.
//!
//! Source: Ollama's API reference (`docs/api.md`). A stream is a line for each piece, and a last one that
//! says `done` and what was used. Calls come whole, their arguments as objects; so a call waits for its
//! arguments, but for nothing else. How long it took isn't known here: durations are 0.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::time;
use crate::ir::{Embedded, Event, Failure, Finish, Logprob, Usage};
use crate::openai::chat::answer_out::{logprobs, status};
use crate::surface::Form;
use crate::text::string;
use crate::translate::{Ask, Writes};

/// Which of the API's methods is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Chat,
    Generate,
    Embed,
    /// The elder method, of one prompt.
    Embeddings,
}

/// See the module.
#[derive(Debug)]
pub struct Writer {
    shape: Shape,
    model: String,
    created: u64,
    usage: Option<Usage>,
    finish: Option<Finish>,
    /// Calls that aren't written yet, in order.
    calls: Vec<Pending>,
    /// What each line begins with; empty before the first.
    head: Vec<u8>,
}

/// A call, as far as it came.
#[derive(Debug)]
struct Pending {
    call: u32,
    id: String,
    name: String,
    arguments: String,
}

// === impl Shape ===

impl Shape {
    /// By the client's path.
    pub fn of_path(path: &str) -> Self {
        match path.trim_end_matches('/').rsplit('/').next() {
            Some("generate") => Self::Generate,
            Some("embed") => Self::Embed,
            Some("embeddings") => Self::Embeddings,
            _ => Self::Chat,
        }
    }
}

// === impl Writer ===

impl Writer {
    /// A writer for one answer.
    pub fn new(ask: &Ask<'_>, shape: Shape) -> Self {
        Self {
            shape,
            model: ask.model.to_owned(),
            created: ask.now,
            usage: None,
            finish: None,
            calls: Vec::new(),
            head: Vec::new(),
        }
    }

    fn start(&mut self, model: Option<Cow<'_, str>>, created: Option<u64>) {
        if let Some(model) = model {
            self.model = model.into_owned();
        }
        self.created = created.unwrap_or(self.created);
    }

    /// A line that isn't the last one; `write` writes what stands beside role or time.
    fn line(&mut self, out: &mut Vec<u8>, write: impl FnOnce(Shape, &mut Vec<u8>)) {
        if self.head.is_empty() {
            self.head.extend_from_slice(b"{\"model\":");
            string(&mut self.head, &self.model);
            self.head.extend_from_slice(b",\"created_at\":");
            string(&mut self.head, &time::written(self.created));
        }
        out.extend_from_slice(&self.head);
        write(self.shape, out);
        out.extend_from_slice(b",\"done\":false}\n");
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        self.line(out, |shape, out| {
            out.extend_from_slice(match shape {
                Shape::Generate => b",\"response\":",
                _ => b",\"message\":{\"role\":\"assistant\",\"content\":",
            });
            string(out, text);
            close(shape, out);
        });
    }

    fn thought(&mut self, text: &str, out: &mut Vec<u8>) {
        self.line(out, |shape, out| {
            out.extend_from_slice(match shape {
                Shape::Generate => b",\"response\":\"\",\"thinking\":",
                _ => b",\"message\":{\"role\":\"assistant\",\"content\":\"\",\"thinking\":",
            });
            string(out, text);
            close(shape, out);
        });
    }

    /// A message with something beside its text.
    fn beside(&mut self, name: &str, value: &Value, out: &mut Vec<u8>) {
        self.line(out, |shape, out| {
            out.extend_from_slice(match shape {
                Shape::Generate => b",\"response\":\"\",",
                _ => b",\"message\":{\"role\":\"assistant\",\"content\":\"\",",
            });
            string(out, name);
            out.push(b':');
            out.extend_from_slice(value.to_string().as_bytes());
            close(shape, out);
        });
    }

    /// Writes the calls that wait: all of them, or those at the front that are complete.
    fn write_calls(&mut self, all: bool, out: &mut Vec<u8>) {
        while let Some(first) = self.calls.first() {
            let written = first.written();
            if written.is_none() && !all {
                return;
            }
            let first = self.calls.remove(0);
            match written {
                Some(call) => self.beside("tool_calls", &json!([call]), out),
                None => self.text(&first.arguments, out),
            }
        }
    }

    /// What the last line, or a whole answer, has beside the message.
    fn last(&self) -> Map<String, Value> {
        let used = self.usage.unwrap_or_default();
        let mut said = Map::new();
        said.insert("done".into(), true.into());
        let reason = done_reason(self.finish.unwrap_or(Finish::Stop));
        said.insert("done_reason".into(), reason.into());
        said.insert("total_duration".into(), 0.into());
        said.insert("load_duration".into(), 0.into());
        let input = used.input.unwrap_or(0);
        said.insert("prompt_eval_count".into(), input.into());
        said.insert("prompt_eval_duration".into(), 0.into());
        said.insert("eval_count".into(), used.output.unwrap_or(0).into());
        said.insert("eval_duration".into(), 0.into());
        said
    }

    /// An answer, or the last line of a stream, with this message.
    fn done(&self, message: Map<String, Value>) -> Value {
        let mut said = Map::new();
        said.insert("model".into(), self.model.clone().into());
        said.insert("created_at".into(), time::written(self.created).into());
        match self.shape {
            Shape::Generate => {
                for (name, value) in message {
                    match &*name {
                        "role" => None,
                        "content" => said.insert("response".into(), value),
                        _ => said.insert(name, value),
                    };
                }
            }
            _ => {
                said.insert("message".into(), message.into());
            }
        }
        said.extend(self.last());
        Value::Object(said)
    }
}

fn close(shape: Shape, out: &mut Vec<u8>) {
    if shape != Shape::Generate {
        out.push(b'}');
    }
}

impl Pending {
    /// The call, if its arguments are all there.
    fn written(&self) -> Option<Value> {
        let arguments = serde_json::from_str::<Map<String, Value>>(&self.arguments).ok()?;
        let function = json!({"name": self.name, "arguments": arguments});
        Some(match self.id.is_empty() {
            true => json!({"function": function}),
            false => json!({"id": self.id, "function": function}),
        })
    }

    fn none_is_empty(&mut self) {
        if self.arguments.trim().is_empty() {
            self.arguments = "{}".to_owned();
        }
    }
}

impl Writes for Writer {
    fn bytes(&self) -> usize {
        let held = self.calls.iter().map(|it| it.arguments.capacity());
        held.sum()
    }

    fn event(&mut self, event: Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Start { model, created, .. } => self.start(model, created),
            Event::Text { choice: 0, text } | Event::Refusal { choice: 0, text } => {
                self.text(&text, out);
            }
            Event::Reasoning { choice: 0, text } => self.thought(&text, out),
            Event::Call {
                choice: 0,
                call,
                id,
                name,
                ..
            } => {
                self.write_calls(false, out);
                self.calls.push(Pending {
                    call,
                    id: id.into_owned(),
                    name: name.into_owned(),
                    arguments: String::new(),
                });
            }
            Event::Arguments {
                choice: 0,
                call,
                text,
            } => {
                if let Some(pending) = self.calls.iter_mut().find(|it| it.call == call) {
                    pending.arguments.push_str(&text);
                }
            }
            Event::Media {
                choice: 0,
                media_type,
                base64,
            } if media_type.starts_with("image/") => {
                self.beside("images", &json!([base64]), out);
            }
            Event::Logprobs { choice: 0, tokens } => {
                let tokens = write_logprobs(&tokens).to_string();
                self.line(out, |shape, out| {
                    out.extend_from_slice(match shape {
                        Shape::Generate => b",\"response\":\"\"",
                        _ => b",\"message\":{\"role\":\"assistant\",\"content\":\"\"}",
                    });
                    out.extend_from_slice(b",\"logprobs\":");
                    out.extend_from_slice(tokens.as_bytes());
                });
            }
            Event::Finish {
                choice: 0, reason, ..
            } => {
                self.calls.iter_mut().for_each(Pending::none_is_empty);
                self.write_calls(true, out);
                self.finish = Some(reason);
            }
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Failed(failure) => {
                out.extend_from_slice(error(&failure).to_string().as_bytes());
                out.push(b'\n');
            }
            Event::End => {
                self.calls.iter_mut().for_each(Pending::none_is_empty);
                self.write_calls(true, out);
                let mut message = Map::new();
                message.insert("role".into(), "assistant".into());
                message.insert("content".into(), "".into());
                out.extend_from_slice(self.done(message).to_string().as_bytes());
                out.push(b'\n');
            }
            // Seals have no place, nor has a second choice, which no client can ask for.
            _ => {}
        }
    }

    fn whole(&mut self, events: Vec<Event<'static>>) -> Vec<u8> {
        let (mut content, mut thoughts) = (String::new(), String::new());
        let (mut images, mut tokens) = (Vec::<Value>::new(), Vec::new());
        for event in events {
            match event {
                Event::Start { model, created, .. } => self.start(model, created),
                Event::Text { choice: 0, text } | Event::Refusal { choice: 0, text } => {
                    content.push_str(&text);
                }
                Event::Reasoning { choice: 0, text } => thoughts.push_str(&text),
                Event::Call {
                    choice: 0,
                    call,
                    id,
                    name,
                    ..
                } => self.calls.push(Pending {
                    call,
                    id: id.into_owned(),
                    name: name.into_owned(),
                    arguments: String::new(),
                }),
                Event::Arguments {
                    choice: 0,
                    call,
                    text,
                } => {
                    if let Some(pending) = self.calls.iter_mut().find(|it| it.call == call) {
                        pending.arguments.push_str(&text);
                    }
                }
                Event::Media {
                    choice: 0,
                    media_type,
                    base64,
                } if media_type.starts_with("image/") => images.push(base64.into_owned().into()),
                Event::Logprobs {
                    choice: 0,
                    tokens: more,
                } => tokens.extend(more),
                Event::Finish {
                    choice: 0, reason, ..
                } => self.finish = Some(reason),
                Event::Usage(usage) => self.usage = Some(usage),
                _ => {}
            }
        }
        let mut calls = Vec::new();
        for mut pending in std::mem::take(&mut self.calls) {
            pending.none_is_empty();
            match pending.written() {
                Some(call) => calls.push(call),
                None => content.push_str(&pending.arguments),
            }
        }
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        message.insert("content".into(), content.into());
        if !thoughts.is_empty() {
            message.insert("thinking".into(), thoughts.into());
        }
        if !images.is_empty() {
            message.insert("images".into(), images.into());
        }
        if !calls.is_empty() {
            message.insert("tool_calls".into(), calls.into());
        }
        let mut said = self.done(message);
        if !tokens.is_empty() {
            said["logprobs"] = write_logprobs(&tokens);
        }
        said.to_string().into_bytes()
    }

    fn failure(&self, failure: &Failure) -> (u16, Vec<u8>) {
        (status(failure), error(failure).to_string().into_bytes())
    }

    fn embedded(&mut self, embedded: Embedded) -> Vec<u8> {
        let Embedded {
            model,
            mut vectors,
            usage,
        } = embedded;
        let said = match self.shape {
            Shape::Embeddings => {
                let first = match vectors.is_empty() {
                    true => Vec::new(),
                    false => vectors.swap_remove(0),
                };
                json!({"embedding": first})
            }
            _ => json!({
                "model": model.unwrap_or_else(|| self.model.clone()),
                "embeddings": vectors,
                "total_duration": 0,
                "load_duration": 0,
                "prompt_eval_count": usage.and_then(|it| it.input).unwrap_or(0),
            }),
        };
        said.to_string().into_bytes()
    }

    fn stream_form(&self) -> Form {
        Form::Lines
    }
}

/// Ollama's list of what OpenAI has in an object.
fn write_logprobs(tokens: &[Logprob]) -> Value {
    logprobs(tokens)["content"].take()
}

/// Ollama's word for why an answer ended; it has few, and none for calls.
fn done_reason(reason: Finish) -> &'static str {
    match reason {
        Finish::Length => "length",
        Finish::Stop
        | Finish::StopText
        | Finish::Calls
        | Finish::Filter
        | Finish::Refusal
        | Finish::Pause
        | Finish::Other => "stop",
    }
}

fn error(failure: &Failure) -> Value {
    json!({"error": failure.message})
}
