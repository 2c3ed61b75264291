//! An answer as clients of OpenAI's Responses API read it.
//!
//! Source: OpenAI's API reference, "The response object" and "Streaming events".
//!
//! ```text
//! created, in_progress
//!   item added ─ part added ─ deltas ─ text done ─ part done ─ item done     thoughts, texts: one at a time
//!   item added ─ deltas ······················· arguments done ─ item done    calls: several at a time
//! completed | incomplete | failed
//! ```
//!
//! The events that end an item, a part and the answer repeat all that was said: it is held until then.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::items::{OF_CALL, REDACTED};
use crate::ir::{Event, Failure, FailureKind, Finish, Logprob, Usage, call_id};
use crate::openai::chat::answer_out::{error, status};
use crate::text::string;
use crate::translate::{Ask, Writes};

/// See the module.
#[derive(Debug)]
pub struct Writer {
    /// Of the answer's own id and those of its items.
    id: String,
    model: String,
    created: u64,
    echo: Map<String, Value>,
    begun: bool,
    sequence: u64,
    /// What has been said, each at its index; the open ones are no values yet.
    output: Vec<Item>,
    /// Thoughts or a message that go on.
    open: Option<usize>,
    /// Where the calls are in the output.
    calls: Vec<usize>,
    finish: Option<Finish>,
    usage: Option<Usage>,
}

#[derive(Debug)]
enum Item {
    Thought {
        text: String,
        /// Its part has begun.
        begun: bool,
        sealed: Option<String>,
    },
    Message(Vec<Content>),
    Call {
        id: String,
        name: String,
        arguments: String,
    },
    Image(String),
}

#[derive(Debug)]
enum Content {
    Text { text: String, logprobs: Vec<Value> },
    Refusal(String),
}

// === impl Item ===

impl Item {
    /// What it takes, to be said again at the end.
    fn bytes(&self) -> usize {
        let content = |it: &Content| match it {
            // Each token with what surrounds it.
            Content::Text { text, logprobs } => text.capacity() + 512 * logprobs.len(),
            Content::Refusal(text) => text.capacity(),
        };
        match self {
            Item::Thought { text, sealed, .. } => {
                text.capacity() + sealed.as_ref().map_or(0, String::len)
            }
            Item::Message(parts) => parts.iter().map(content).sum(),
            Item::Call { arguments, .. } => arguments.capacity(),
            Item::Image(base64) => base64.capacity(),
        }
    }
}

// === impl Writer ===

impl Writer {
    /// A writer for one answer; `echo` is what it repeats of the request.
    pub fn new(ask: &Ask<'_>, echo: Map<String, Value>) -> Self {
        Self {
            id: ask.id.to_owned(),
            model: ask.model.to_owned(),
            created: ask.now,
            echo,
            begun: false,
            sequence: 0,
            output: Vec::new(),
            open: None,
            calls: Vec::new(),
            finish: None,
            usage: None,
        }
    }

    /// Begins an event, up to and with its number.
    fn head(&mut self, kind: &str, out: &mut Vec<u8>) {
        for piece in ["event: ", kind, "\ndata: {\"type\":\"", kind] {
            out.extend_from_slice(piece.as_bytes());
        }
        out.extend_from_slice(b"\",\"sequence_number\":");
        out.extend_from_slice(self.sequence.to_string().as_bytes());
        self.sequence += 1;
    }

    /// An event with these members; a text is the last of them.
    fn say(&mut self, kind: &str, members: &Value, out: &mut Vec<u8>) {
        self.head(kind, out);
        let text = members.to_string();
        out.push(b',');
        out.extend_from_slice(&text.as_bytes()[1..]);
        out.extend_from_slice(b"\n\n");
    }

    /// A piece of an item's text; `part` names the index of the part, if the item has parts.
    fn delta(
        &mut self,
        kind: &str,
        at: usize,
        part: Option<(&str, usize)>,
        text: &str,
        out: &mut Vec<u8>,
    ) {
        self.head(kind, out);
        out.extend_from_slice(b",\"item_id\":");
        string(out, &self.item_id(at));
        out.extend_from_slice(b",\"output_index\":");
        out.extend_from_slice(at.to_string().as_bytes());
        if let Some((name, index)) = part {
            out.extend_from_slice(format!(",\"{name}\":{index}").as_bytes());
        }
        out.extend_from_slice(b",\"delta\":");
        string(out, text);
        if kind == "response.output_text.delta" {
            out.extend_from_slice(b",\"logprobs\":[]");
        }
        out.extend_from_slice(b"}\n\n");
    }

    fn item_id(&self, at: usize) -> String {
        let kind = match &self.output[at] {
            Item::Thought { .. } => "rs",
            Item::Message(_) => "msg",
            Item::Call { .. } => "fc",
            Item::Image(_) => "ig",
        };
        format!("{kind}_{}_{at}", self.id)
    }

    /// The first events.
    fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let response = self.response("in_progress", None);
        for kind in ["response.created", "response.in_progress"] {
            self.say(kind, &json!({"response": response}), out);
        }
    }

    /// Adds an item, closing the one that was open.
    fn add(&mut self, item: Item, out: &mut Vec<u8>) -> usize {
        self.close(out);
        let at = self.output.len();
        self.output.push(item);
        let item = self.item(at, "in_progress");
        let members = json!({"output_index": at, "item": item});
        self.say("response.output_item.added", &members, out);
        at
    }

    fn done(&mut self, at: usize, out: &mut Vec<u8>) {
        let item = self.item(at, self.status_word());
        let members = json!({"output_index": at, "item": item});
        self.say("response.output_item.done", &members, out);
    }

    /// Ends the thoughts or the message that are open.
    fn close(&mut self, out: &mut Vec<u8>) {
        let Some(at) = self.open.take() else { return };
        match &self.output[at] {
            Item::Thought {
                text, begun: true, ..
            } => {
                let text = text.clone();
                let id = self.item_id(at);
                let mut members = json!({
                    "item_id": id, "output_index": at, "summary_index": 0, "text": text,
                });
                self.say("response.reasoning_summary_text.done", &members, out);
                members["part"] = json!({"type": "summary_text", "text": members["text"].take()});
                if let Some(members) = members.as_object_mut() {
                    members.shift_remove("text");
                }
                self.say("response.reasoning_summary_part.done", &members, out);
            }
            Item::Message(content) if !content.is_empty() => self.close_part(at, out),
            _ => {}
        }
        self.done(at, out);
    }

    /// Ends the last part of a message.
    fn close_part(&mut self, at: usize, out: &mut Vec<u8>) {
        let id = self.item_id(at);
        let Item::Message(content) = &self.output[at] else {
            return;
        };
        let Some(last) = content.last() else { return };
        let index = content.len() - 1;
        let part = part(last);
        let mut members = json!({"item_id": id, "output_index": at, "content_index": index});
        let kind = match last {
            Content::Text { text, logprobs } => {
                members["text"] = text.as_str().into();
                members["logprobs"] = logprobs.clone().into();
                "response.output_text.done"
            }
            Content::Refusal(text) => {
                members["refusal"] = text.as_str().into();
                "response.refusal.done"
            }
        };
        self.say(kind, &members, out);
        let members =
            json!({"item_id": id, "output_index": at, "content_index": index, "part": part});
        self.say("response.content_part.done", &members, out);
    }

    fn thought(&mut self, out: &mut Vec<u8>) -> usize {
        if let Some(at) = self.open
            && matches!(self.output[at], Item::Thought { .. })
        {
            return at;
        }
        let item = Item::Thought {
            text: String::new(),
            begun: false,
            sealed: None,
        };
        let at = self.add(item, out);
        self.open = Some(at);
        at
    }

    fn think(&mut self, text: &str, out: &mut Vec<u8>) {
        let at = self.thought(out);
        let id = self.item_id(at);
        let Item::Thought {
            text: said, begun, ..
        } = &mut self.output[at]
        else {
            return;
        };
        said.push_str(text);
        if !std::mem::replace(begun, true) {
            let members = json!({
                "item_id": id, "output_index": at, "summary_index": 0,
                "part": {"type": "summary_text", "text": ""},
            });
            self.say("response.reasoning_summary_part.added", &members, out);
        }
        let part = Some(("summary_index", 0));
        self.delta("response.reasoning_summary_text.delta", at, part, text, out);
    }

    /// A seal ends the thoughts before it.
    fn seal(&mut self, data: String, out: &mut Vec<u8>) {
        let at = self.thought(out);
        if let Item::Thought { sealed, .. } = &mut self.output[at] {
            *sealed = Some(data);
        }
        self.close(out);
    }

    /// The open message, whose last part is a text or a refusal, as is wanted.
    fn message(&mut self, refusal: bool, out: &mut Vec<u8>) -> (usize, usize) {
        let open = self.open;
        let at = match open.filter(|at| matches!(self.output[*at], Item::Message(_))) {
            Some(at) => at,
            None => {
                let at = self.add(Item::Message(Vec::new()), out);
                self.open = Some(at);
                at
            }
        };
        let last = match &self.output[at] {
            Item::Message(content) => (content.last())
                .map(|last| (content.len() - 1, matches!(last, Content::Refusal(_)))),
            _ => None,
        };
        if let Some((index, is_refusal)) = last {
            if is_refusal == refusal {
                return (at, index);
            }
            self.close_part(at, out);
        }
        let new = match refusal {
            true => Content::Refusal(String::new()),
            false => Content::Text {
                text: String::new(),
                logprobs: Vec::new(),
            },
        };
        let part = part(&new);
        let mut index = 0;
        if let Item::Message(content) = &mut self.output[at] {
            index = content.len();
            content.push(new);
        }
        let members = json!({
            "item_id": self.item_id(at), "output_index": at, "content_index": index, "part": part,
        });
        self.say("response.content_part.added", &members, out);
        (at, index)
    }

    fn text(&mut self, text: &str, refusal: bool, out: &mut Vec<u8>) {
        let (at, index) = self.message(refusal, out);
        if let Item::Message(content) = &mut self.output[at] {
            match content.last_mut() {
                Some(Content::Text { text: said, .. } | Content::Refusal(said)) => {
                    said.push_str(text);
                }
                None => {}
            }
        }
        let kind = match refusal {
            true => "response.refusal.delta",
            false => "response.output_text.delta",
        };
        self.delta(kind, at, Some(("content_index", index)), text, out);
    }

    fn logprobs(&mut self, tokens: &[Logprob], out: &mut Vec<u8>) {
        let (at, index) = self.message(false, out);
        let said: Vec<Value> = tokens.iter().map(logprob).collect();
        let members = json!({
            "item_id": self.item_id(at), "output_index": at, "content_index": index,
            "delta": "", "logprobs": said,
        });
        if let Item::Message(content) = &mut self.output[at]
            && let Some(Content::Text { logprobs, .. }) = content.last_mut()
        {
            logprobs.extend(said);
        }
        self.say("response.output_text.delta", &members, out);
    }

    fn call(
        &mut self,
        id: Cow<'_, str>,
        name: Cow<'_, str>,
        signature: Option<Cow<'_, str>>,
        out: &mut Vec<u8>,
    ) {
        if let Some(signature) = signature {
            self.close(out);
            self.seal(format!("{OF_CALL}{signature}"), out);
        }
        let call = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        let id = match id.is_empty() {
            true => call_id(&self.id, 0, call),
            false => id.into_owned(),
        };
        let item = Item::Call {
            id,
            name: name.into_owned(),
            arguments: String::new(),
        };
        let at = self.add(item, out);
        self.calls.push(at);
    }

    fn arguments(&mut self, call: u32, text: &str, out: &mut Vec<u8>) {
        if let Some(&at) = self.calls.get(call as usize) {
            self.arguments_at(at, text, out);
        }
    }

    fn arguments_at(&mut self, at: usize, text: &str, out: &mut Vec<u8>) {
        if let Item::Call { arguments, .. } = &mut self.output[at] {
            arguments.push_str(text);
        }
        let kind = "response.function_call_arguments.delta";
        self.delta(kind, at, None, text, out);
    }

    /// Ends whatever is open.
    fn close_all(&mut self, out: &mut Vec<u8>) {
        self.close(out);
        for at in std::mem::take(&mut self.calls) {
            let id = self.item_id(at);
            if matches!(&self.output[at], Item::Call { arguments, .. } if arguments.is_empty()) {
                // The pieces come to what the whole is.
                self.arguments_at(at, "{}", out);
            }
            if let Item::Call {
                name, arguments, ..
            } = &self.output[at]
            {
                let members = json!({
                    "item_id": id, "output_index": at, "name": name, "arguments": arguments,
                });
                self.say("response.function_call_arguments.done", &members, out);
            }
            self.done(at, out);
        }
    }

    /// The status of what has ended.
    fn status_word(&self) -> &'static str {
        match self.finish {
            Some(Finish::Length | Finish::Filter | Finish::Refusal) => "incomplete",
            _ => "completed",
        }
    }

    fn item(&self, at: usize, status: &str) -> Value {
        let id = self.item_id(at);
        let going = status == "in_progress";
        match &self.output[at] {
            Item::Thought {
                text,
                begun,
                sealed,
            } => {
                let summary = match *begun && !going {
                    true => json!([{"type": "summary_text", "text": text}]),
                    false => json!([]),
                };
                let mut said = json!({"id": id, "type": "reasoning", "summary": summary});
                if let Some(sealed) = sealed {
                    said["encrypted_content"] = sealed.as_str().into();
                }
                said
            }
            Item::Message(content) => json!({
                "id": id, "type": "message", "status": status, "role": "assistant",
                "content": content.iter().map(part).collect::<Value>(),
            }),
            Item::Call {
                id: call,
                name,
                arguments,
            } => json!({
                "id": id, "type": "function_call", "status": status, "call_id": call,
                "name": name, "arguments": arguments,
            }),
            Item::Image(base64) => json!({
                "id": id, "type": "image_generation_call", "status": status,
                "result": base64,
            }),
        }
    }

    /// The answer as it stands.
    fn response(&self, status: &str, failure: Option<&Failure>) -> Value {
        let reason = match (status, self.finish) {
            ("incomplete", Some(Finish::Filter | Finish::Refusal)) => {
                json!({"reason": "content_filter"})
            }
            ("incomplete", _) => json!({"reason": "max_output_tokens"}),
            _ => Value::Null,
        };
        let output: Vec<Value> = match status {
            "in_progress" => Vec::new(),
            _ => (0..self.output.len())
                .map(|at| self.item(at, self.status_word()))
                .collect(),
        };
        let mut said = json!({
            "id": format!("resp_{}", self.id),
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "error": failure.map(|it| json!({"code": code(it), "message": it.message})),
            "incomplete_details": reason,
            "model": self.model,
            "output": output,
            "previous_response_id": null,
            "store": false,
            "usage": self.usage.as_ref().map(usage),
        });
        if let Some(said) = said.as_object_mut() {
            said.extend(self.echo.clone());
        }
        said
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.close_all(out);
        let status = self.status_word();
        let response = self.response(status, None);
        let kind = match status {
            "incomplete" => "response.incomplete",
            _ => "response.completed",
        };
        self.say(kind, &json!({"response": response}), out);
    }
}

impl Writes for Writer {
    fn bytes(&self) -> usize {
        let held = self.output.iter().map(Item::bytes);
        held.sum()
    }

    fn event(&mut self, event: Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Start {
                id: _,
                model,
                created,
            } => {
                if let Some(model) = model {
                    self.model = model.into_owned();
                }
                self.created = created.unwrap_or(self.created);
                self.begin(out);
                return;
            }
            Event::Usage(usage) => {
                self.usage = Some(usage);
                return;
            }
            _ => self.begin(out),
        }
        match event {
            Event::Text { choice: 0, text } => self.text(&text, false, out),
            Event::Refusal { choice: 0, text } => self.text(&text, true, out),
            Event::Reasoning { choice: 0, text } => self.think(&text, out),
            Event::Signature {
                choice: 0,
                signature,
            } => self.seal(signature.into_owned(), out),
            Event::Redacted { choice: 0, data } => {
                self.close(out);
                self.seal(format!("{REDACTED}{data}"), out);
            }
            Event::Call {
                choice: 0,
                id,
                name,
                signature,
                ..
            } => self.call(id, name, signature, out),
            Event::Arguments {
                choice: 0,
                call,
                text,
            } => self.arguments(call, &text, out),
            Event::Media {
                choice: 0,
                media_type,
                base64,
            } if media_type.starts_with("image/") => {
                let at = self.add(Item::Image(base64.into_owned()), out);
                self.done(at, out);
            }
            Event::Logprobs { choice: 0, tokens } => self.logprobs(&tokens, out),
            Event::Finish {
                choice: 0, reason, ..
            } => {
                self.finish = Some(reason);
                self.close_all(out);
            }
            Event::Failed(failure) => {
                let response = self.response("failed", Some(&failure));
                self.say("response.failed", &json!({"response": response}), out);
            }
            Event::End => self.end(out),
            // The API has one answer only, and no place for sound.
            _ => {}
        }
    }

    fn whole(&mut self, events: Vec<Event<'static>>) -> Vec<u8> {
        let mut stream = Vec::new();
        for event in events {
            self.event(event, &mut stream);
            stream.clear();
        }
        let response = self.response(self.status_word(), None);
        response.to_string().into_bytes()
    }

    fn failure(&self, failure: &Failure) -> (u16, Vec<u8>) {
        (status(failure), error(failure).to_string().into_bytes())
    }
}

fn part(content: &Content) -> Value {
    match content {
        Content::Text { text, logprobs } => json!({
            "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs,
        }),
        Content::Refusal(text) => json!({"type": "refusal", "refusal": text}),
    }
}

fn logprob(said: &Logprob) -> Value {
    let bytes = |it: &Logprob| {
        let own = || it.token.clone().into_bytes();
        it.bytes.clone().unwrap_or_else(own)
    };
    let one = |it: &Logprob| json!({"token": it.token, "logprob": it.logprob, "bytes": bytes(it)});
    let mut written = one(said);
    written["top_logprobs"] = said.top.iter().map(one).collect();
    written
}

/// Usage in the words of this API.
fn usage(used: &Usage) -> Value {
    let (input, output) = (used.input.unwrap_or(0), used.output.unwrap_or(0));
    // The SDK's types want all the details.
    json!({
        "input_tokens": input,
        "input_tokens_details": {
            "cached_tokens": used.cached.unwrap_or(0),
            "cache_write_tokens": used.cache_write.unwrap_or(0),
        },
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": used.reasoning.unwrap_or(0)},
        "total_tokens": input.saturating_add(output),
    })
}

/// The word for an error inside of an answer.
fn code(failure: &Failure) -> &'static str {
    match failure.kind {
        FailureKind::RateLimited | FailureKind::Quota => "rate_limit_exceeded",
        FailureKind::Invalid | FailureKind::TooLarge => "invalid_prompt",
        _ => "server_error",
    }
}
