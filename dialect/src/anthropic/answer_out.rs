//! An answer as clients of the Messages API read it.
//!
//! Source: Anthropic's API reference, "Create a Message", "Streaming Messages" and "Errors".
//!
//! Blocks of a stream come one after another, each with an index, while other dialects may mix the
//! arguments of several calls: the first goes on as it comes, what is for a later block is held until the
//! one before it is complete, which is when its arguments are a whole object. Pictures and logprobs have
//! no place here, and no client of this API asks for them or for several choices.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde_json::{Value, json};

use super::input;
use crate::ir::{Event, Failure, FailureKind, Finish, Usage, call_id};
use crate::text::string;
use crate::translate::{Ask, Writes};

/// See the module.
#[derive(Debug)]
pub struct Writer {
    id: String,
    request: String,
    model: String,
    started: bool,
    usage: Option<Usage>,
    /// The index of the next block.
    next: u32,
    open: Option<Open>,
    held: VecDeque<Held>,
    /// Bytes of it.
    held_bytes: usize,
    called: bool,
    refused: bool,
    finish: Option<(Finish, Option<String>)>,
}

/// The block that is being written; its index is the one before the next.
#[derive(Debug)]
enum Open {
    Text,
    Thinking,
    /// Said as it began.
    Redacted,
    Call {
        call: u32,
        whole: Object,
    },
}

/// What waits for the call before it.
#[derive(Debug)]
enum Held {
    Call {
        call: u32,
        id: String,
        name: String,
        arguments: String,
    },
    Text(String),
    Thinking(String),
    Signature(String),
    Redacted(String),
}

/// No more is held for blocks that come later: the one before them is taken to be complete.
const HELD_BYTES_MAX: usize = 8 << 20;

// === impl Writer ===

impl Writer {
    /// A writer for one answer.
    pub fn new(ask: &Ask<'_>) -> Self {
        Self {
            id: format!("msg_{}", ask.id),
            request: ask.id.to_owned(),
            model: ask.model.to_owned(),
            started: false,
            usage: None,
            next: 0,
            open: None,
            held: VecDeque::new(),
            held_bytes: 0,
            called: false,
            refused: false,
            finish: None,
        }
    }

    fn named(&mut self, id: Option<Cow<'_, str>>, model: Option<Cow<'_, str>>) {
        if let Some(id) = id.filter(|id| id.starts_with("msg_")) {
            self.id = id.into_owned();
        }
        if let Some(model) = model {
            self.model = model.into_owned();
        }
    }

    /// Whatever comes first, a message begins.
    fn start(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let used = self.usage.unwrap_or_default();
        let message = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model,
            "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage(&used),
        });
        say(
            out,
            "message_start",
            &json!({"type": "message_start", "message": message}),
        );
    }

    /// Something that is neither a call nor its arguments.
    fn piece(&mut self, piece: Held, out: &mut Vec<u8>) {
        self.settle(out);
        match &self.open {
            // Its arguments aren't complete.
            Some(Open::Call { whole, .. }) if whole.has_begun() => self.hold(piece, out),
            _ if !self.held.is_empty() => self.hold(piece, out),
            _ => self.write(piece, out),
        }
    }

    fn hold(&mut self, piece: Held, out: &mut Vec<u8>) {
        self.held_bytes += match &piece {
            Held::Call { id, name, .. } => id.len() + name.len(),
            Held::Text(text) | Held::Thinking(text) => text.len(),
            Held::Signature(text) | Held::Redacted(text) => text.len(),
        } + size_of::<Held>();
        self.held.push_back(piece);
        if self.held_bytes > HELD_BYTES_MAX {
            self.flush(out);
        }
    }

    /// Closes a call that is complete, and writes what waited for that.
    fn settle(&mut self, out: &mut Vec<u8>) {
        loop {
            match &self.open {
                Some(Open::Call { whole, .. }) if !whole.is_complete() => return,
                _ => {}
            }
            let Some(piece) = self.held.pop_front() else {
                self.held_bytes = 0;
                return;
            };
            self.write(piece, out);
        }
    }

    /// Writes all that is held: nothing more comes for what is before it.
    fn flush(&mut self, out: &mut Vec<u8>) {
        while let Some(piece) = self.held.pop_front() {
            self.write(piece, out);
        }
        self.held_bytes = 0;
    }

    fn write(&mut self, piece: Held, out: &mut Vec<u8>) {
        match piece {
            Held::Text(text) => self.text(&text, out),
            Held::Thinking(text) => self.thought(&text, out),
            Held::Signature(signature) => self.seal(&signature, out),
            Held::Redacted(data) => {
                let block = json!({"type": "redacted_thinking", "data": data});
                self.begin(Open::Redacted, &block, out);
                self.stop(out);
            }
            Held::Call {
                call,
                id,
                name,
                arguments,
            } => {
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                let whole = Object::default();
                self.begin(Open::Call { call, whole }, &block, out);
                self.arguments(&arguments, out);
            }
        }
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        if !matches!(self.open, Some(Open::Text)) {
            self.begin(Open::Text, &json!({"type": "text", "text": ""}), out);
        }
        self.delta("text_delta", "text", text, out);
    }

    fn thought(&mut self, text: &str, out: &mut Vec<u8>) {
        if !matches!(self.open, Some(Open::Thinking)) {
            let block = json!({"type": "thinking", "thinking": "", "signature": ""});
            self.begin(Open::Thinking, &block, out);
        }
        if !text.is_empty() {
            self.delta("thinking_delta", "thinking", text, out);
        }
    }

    /// The seal ends its block.
    fn seal(&mut self, signature: &str, out: &mut Vec<u8>) {
        self.thought("", out);
        self.delta("signature_delta", "signature", signature, out);
        self.stop(out);
    }

    /// Arguments of the open call.
    fn arguments(&mut self, text: &str, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        if let Some(Open::Call { whole, .. }) = &mut self.open {
            whole.pass(text);
            self.delta("input_json_delta", "partial_json", text, out);
        }
    }

    /// Begins a block after what is open.
    fn begin(&mut self, open: Open, block: &Value, out: &mut Vec<u8>) {
        self.stop(out);
        let index = self.next;
        self.next += 1;
        self.open = Some(open);
        let said = json!({"type": "content_block_start", "index": index, "content_block": block});
        say(out, "content_block_start", &said);
    }

    fn stop(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            let said = json!({"type": "content_block_stop", "index": self.next - 1});
            say(out, "content_block_stop", &said);
        }
    }

    fn delta(&self, kind: &str, name: &str, text: &str, out: &mut Vec<u8>) {
        use std::io::Write;
        // Writing to memory doesn't fail.
        let _ = write!(
            out,
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{},\
             \"delta\":{{\"type\":\"{kind}\",\"{name}\":",
            self.next.saturating_sub(1)
        );
        string(out, text);
        out.extend_from_slice(b"}}\n\n");
    }

    fn call(&mut self, call: u32, id: &str, name: Cow<'_, str>) -> Held {
        self.called = true;
        Held::Call {
            call,
            id: match id {
                "" => call_id(&self.request, 0, call),
                id => id.to_owned(),
            },
            name: name.into_owned(),
            arguments: String::new(),
        }
    }

    fn stop_reason(&self) -> &'static str {
        let reason = self.finish.as_ref().map_or(Finish::Other, |it| it.0);
        match reason {
            _ if self.refused => "refusal",
            Finish::Stop | Finish::Other if self.called => "tool_use",
            Finish::Stop | Finish::Other => "end_turn",
            Finish::StopText => "stop_sequence",
            Finish::Length => "max_tokens",
            Finish::Calls => "tool_use",
            Finish::Filter | Finish::Refusal => "refusal",
            Finish::Pause => "pause_turn",
        }
    }

    fn stop_text(&self) -> Option<&str> {
        self.finish.as_ref()?.1.as_deref()
    }
}

impl Writes for Writer {
    fn bytes(&self) -> usize {
        // A string may have room for twice what is in it.
        2 * self.held_bytes
    }

    fn event(&mut self, event: Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, model, .. } => {
                self.named(id, model);
                self.start(out);
                return;
            }
            Event::Usage(usage) => {
                self.usage = Some(usage);
                return;
            }
            Event::Failed(failure) => {
                say(out, "error", &error(&failure, &self.request));
                return;
            }
            _ => self.start(out),
        }
        match event {
            Event::Refusal { choice: 0, text } => {
                self.refused = true;
                self.piece(Held::Text(text.into_owned()), out);
            }
            // The usual ones go on without a copy.
            Event::Text { choice: 0, text } if matches!(self.open, None | Some(Open::Text)) => {
                self.text(&text, out);
            }
            Event::Reasoning { choice: 0, text }
                if matches!(self.open, None | Some(Open::Thinking)) =>
            {
                self.thought(&text, out);
            }
            Event::Text { choice: 0, text } => self.piece(Held::Text(text.into_owned()), out),
            Event::Reasoning { choice: 0, text } => {
                self.piece(Held::Thinking(text.into_owned()), out);
            }
            Event::Signature {
                choice: 0,
                signature,
            } => self.piece(Held::Signature(signature.into_owned()), out),
            Event::Redacted { choice: 0, data } => {
                self.piece(Held::Redacted(data.into_owned()), out);
            }
            Event::Call {
                choice: 0,
                call,
                id,
                name,
                ..
            } => {
                self.settle(out);
                let begun = self.call(call, &id, name);
                match self.open {
                    // One without arguments as yet may still get them.
                    Some(Open::Call { .. }) if !self.is_settled() => self.hold(begun, out),
                    _ => self.write(begun, out),
                }
            }
            Event::Arguments {
                choice: 0,
                call: of,
                text,
            } => {
                match &self.open {
                    Some(Open::Call { call, .. }) if *call == of => {
                        self.arguments(&text, out);
                        if !self.held.is_empty() {
                            self.settle(out);
                        }
                        return;
                    }
                    _ => {}
                }
                let wanted = |it: &mut Held| match it {
                    Held::Call {
                        call, arguments, ..
                    } if *call == of => {
                        arguments.push_str(&text);
                        true
                    }
                    _ => false,
                };
                if self.held.iter_mut().any(wanted) {
                    self.held_bytes += text.len();
                    if self.held_bytes > HELD_BYTES_MAX {
                        self.flush(out);
                    }
                }
            }
            Event::Finish {
                choice: 0,
                reason,
                stop,
            } => {
                self.flush(out);
                self.stop(out);
                self.finish = Some((reason, stop.map(Cow::into_owned)));
            }
            Event::End => {
                self.flush(out);
                self.stop(out);
                let said = json!({
                    "type": "message_delta",
                    "delta": {"stop_reason": self.stop_reason(), "stop_sequence": self.stop_text()},
                    "usage": usage(&self.usage.unwrap_or_default()),
                });
                say(out, "message_delta", &said);
                say(out, "message_stop", &json!({"type": "message_stop"}));
            }
            _ => {}
        }
    }

    fn whole(&mut self, events: Vec<Event<'static>>) -> Vec<u8> {
        let mut blocks: Vec<Block> = Vec::new();
        for event in events {
            match event {
                Event::Start { id, model, .. } => self.named(id, model),
                Event::Usage(usage) => self.usage = Some(usage),
                Event::Text { choice: 0, text } => add_text(&mut blocks, &text),
                Event::Refusal { choice: 0, text } => {
                    self.refused = true;
                    add_text(&mut blocks, &text);
                }
                Event::Reasoning { choice: 0, text } => match blocks.last_mut() {
                    Some(Block::Thinking(thoughts, None)) => thoughts.push_str(&text),
                    _ => blocks.push(Block::Thinking(text.into_owned(), None)),
                },
                Event::Signature {
                    choice: 0,
                    signature,
                } => match blocks.last_mut() {
                    Some(Block::Thinking(_, seal @ None)) => *seal = Some(signature.into_owned()),
                    _ => blocks.push(Block::Thinking(String::new(), Some(signature.into_owned()))),
                },
                Event::Redacted { choice: 0, data } => {
                    blocks.push(Block::Redacted(data.into_owned()));
                }
                Event::Call {
                    choice: 0,
                    call,
                    id,
                    name,
                    ..
                } => {
                    let call = self.call(call, &id, name);
                    blocks.push(Block::Call(call));
                }
                Event::Arguments {
                    choice: 0,
                    call: of,
                    text,
                } => {
                    for block in &mut blocks {
                        if let Block::Call(Held::Call {
                            call, arguments, ..
                        }) = block
                            && *call == of
                        {
                            arguments.push_str(&text);
                        }
                    }
                }
                Event::Finish {
                    choice: 0,
                    reason,
                    stop,
                } => self.finish = Some((reason, stop.map(Cow::into_owned))),
                _ => {}
            }
        }
        let content: Vec<Value> = blocks.into_iter().map(Block::into_value).collect();
        let said = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model,
            "content": content,
            "stop_reason": self.stop_reason(),
            "stop_sequence": self.stop_text(),
            "usage": usage(&self.usage.unwrap_or_default()),
        });
        said.to_string().into_bytes()
    }

    fn failure(&self, failure: &Failure) -> (u16, Vec<u8>) {
        let body = error(failure, &self.request).to_string().into_bytes();
        (status(failure), body)
    }
}

impl Writer {
    /// No call is open whose arguments may go on.
    fn is_settled(&self) -> bool {
        match &self.open {
            Some(Open::Call { whole, .. }) => whole.is_complete() && self.held.is_empty(),
            _ => true,
        }
    }
}

/// A block of a whole answer.
enum Block {
    Text(String),
    Thinking(String, Option<String>),
    Redacted(String),
    Call(Held),
}

impl Block {
    fn into_value(self) -> Value {
        match self {
            Block::Text(text) => json!({"type": "text", "text": text}),
            Block::Thinking(text, seal) => json!({
                "type": "thinking", "thinking": text, "signature": seal.unwrap_or_default(),
            }),
            Block::Redacted(data) => json!({"type": "redacted_thinking", "data": data}),
            Block::Call(Held::Call {
                id,
                name,
                arguments,
                ..
            }) => json!({"type": "tool_use", "id": id, "name": name, "input": input(&arguments)}),
            Block::Call(_) => Value::Null,
        }
    }
}

fn add_text(blocks: &mut Vec<Block>, text: &str) {
    match blocks.last_mut() {
        Some(Block::Text(before)) => before.push_str(text),
        _ => blocks.push(Block::Text(text.to_owned())),
    }
}

/// How far a JSON object has come that arrives in pieces.
#[derive(Debug, Default)]
struct Object {
    depth: u32,
    begun: bool,
    in_string: bool,
    escaped: bool,
}

impl Object {
    fn pass(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => {
                    self.begun = true;
                    self.depth += 1;
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    fn has_begun(&self) -> bool {
        self.begun
    }

    fn is_complete(&self) -> bool {
        self.begun && self.depth == 0 && !self.in_string
    }
}

/// Writes an event.
fn say(out: &mut Vec<u8>, name: &str, data: &Value) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(data.to_string().as_bytes());
    out.extend_from_slice(b"\n\n");
}

/// Usage in Anthropic's words: caches stand beside the input.
pub fn usage(used: &Usage) -> Value {
    let (cached, written) = (used.cached.unwrap_or(0), used.cache_write.unwrap_or(0));
    let input = used.input.unwrap_or(0);
    let mut said = json!({
        "input_tokens": input.saturating_sub(cached.saturating_add(written)),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": used.output.unwrap_or(0),
    });
    if let Some(reasoning) = used.reasoning {
        said["output_tokens_details"] = json!({"thinking_tokens": reasoning});
    }
    said
}

/// The status by which Anthropic's SDKs know what happened.
pub fn status(failure: &Failure) -> u16 {
    match (failure.status, failure.kind) {
        (_, FailureKind::Overloaded) => 529,
        // OpenAI says 429, which would be tried again.
        (_, FailureKind::Quota) => 402,
        (status @ 400..=599, _) => status,
        (_, FailureKind::Invalid) => 400,
        (_, FailureKind::Unauthenticated) => 401,
        (_, FailureKind::Forbidden) => 403,
        (_, FailureKind::NotFound) => 404,
        (_, FailureKind::TooLarge) => 413,
        (_, FailureKind::RateLimited) => 429,
        (_, FailureKind::Timeout) => 504,
        (_, FailureKind::Server) => 500,
    }
}

/// An error in Anthropic's words.
pub fn error(failure: &Failure, request: &str) -> Value {
    let kind = match failure.kind {
        FailureKind::Invalid => "invalid_request_error",
        FailureKind::Unauthenticated => "authentication_error",
        FailureKind::Quota => "billing_error",
        FailureKind::Forbidden => "permission_error",
        FailureKind::NotFound => "not_found_error",
        FailureKind::TooLarge => "request_too_large",
        FailureKind::RateLimited => "rate_limit_error",
        FailureKind::Timeout => "timeout_error",
        FailureKind::Overloaded => "overloaded_error",
        FailureKind::Server => "api_error",
    };
    json!({
        "type": "error",
        "error": {"type": kind, "message": failure.message},
        "request_id": request,
    })
}
