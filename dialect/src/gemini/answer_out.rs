//! An answer as clients of Gemini's API read it: whole, as server-sent events, or as one array whose
//! elements come one by one.
//!
//! Source: Google's API reference, "GenerateContentResponse". A call has all of its arguments at once:
//! they are held until their JSON is complete. Why it ended and what was used is said in the last piece.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::error;
use super::seal;
use crate::ir::{Event, Failure, Finish, Logprob, Usage, call_id};
use crate::surface::Form;
use crate::text::string;
use crate::translate::{Ask, Writes};

/// See the module.
#[derive(Debug)]
pub struct Writer {
    id: String,
    model: String,
    /// Of streams: events, or a list.
    form: Form,
    /// A piece was written.
    begun: bool,
    usage: Option<Usage>,
    calls: Vec<Held>,
    ends: Vec<End>,
}

/// A call whose arguments come.
#[derive(Debug)]
struct Held {
    choice: u32,
    call: u32,
    id: String,
    name: String,
    signature: Option<String>,
    arguments: String,
    scan: Scan,
}

/// Finds the end of a JSON object in pieces.
#[derive(Debug, Default)]
struct Scan {
    depth: u32,
    quoted: bool,
    escaped: bool,
}

/// How a choice ended.
#[derive(Debug)]
struct End {
    choice: u32,
    reason: &'static str,
    /// What of it can't be said by a word.
    message: Option<String>,
}

// === impl Writer ===

impl Writer {
    /// A writer for one answer; `form` is that of a stream.
    pub fn new(ask: &Ask<'_>, form: Form) -> Self {
        Self {
            id: ask.id.to_owned(),
            model: ask.model.to_owned(),
            form,
            begun: false,
            usage: None,
            calls: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn start(&mut self, id: Option<Cow<'_, str>>, model: Option<Cow<'_, str>>) {
        if let Some(id) = id {
            self.id = id.into_owned();
        }
        if let Some(model) = model {
            self.model = model.into_owned();
        }
    }

    /// Begins an element of the stream.
    fn open(&mut self, out: &mut Vec<u8>) {
        let begun = std::mem::replace(&mut self.begun, true);
        out.extend_from_slice(match (self.form, begun) {
            (Form::List, false) => b"[",
            (Form::List, true) => b",\r\n",
            _ => b"data: ",
        });
    }

    /// Ends an element.
    fn close(&self, out: &mut Vec<u8>) {
        if self.form != Form::List {
            out.extend_from_slice(b"\r\n\r\n");
        }
    }

    /// What follows the candidates.
    fn tail(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"modelVersion\":");
        string(out, &self.model);
        out.extend_from_slice(b",\"responseId\":");
        string(out, &self.id);
        out.extend_from_slice(b"}");
    }

    /// An element with one part of one candidate, which `write` writes.
    fn part(&mut self, choice: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        self.open(out);
        out.extend_from_slice(b"{\"candidates\":[{\"content\":{\"parts\":[");
        write(out);
        out.extend_from_slice(b"],\"role\":\"model\"},\"index\":");
        out.extend_from_slice(choice.to_string().as_bytes());
        out.extend_from_slice(b"}]");
        self.tail(out);
        self.close(out);
    }

    fn value(&mut self, choice: u32, part: &Value, out: &mut Vec<u8>) {
        self.part(choice, out, |out| {
            out.extend_from_slice(part.to_string().as_bytes());
        });
    }

    fn hold(&mut self, event: Event<'_>) {
        match event {
            Event::Call {
                choice,
                call,
                id,
                name,
                signature,
            } => {
                let id = match id.is_empty() {
                    true => call_id(&self.id, choice, call),
                    false => id.into_owned(),
                };
                self.calls.push(Held {
                    choice,
                    call,
                    id,
                    name: name.into_owned(),
                    signature: signature.map(Cow::into_owned),
                    arguments: String::new(),
                    scan: Scan::default(),
                });
            }
            Event::Arguments { choice, call, text } => {
                let of = |it: &&mut Held| (it.choice, it.call) == (choice, call);
                if let Some(held) = self.calls.iter_mut().find(of) {
                    held.arguments.push_str(&text);
                    held.scan.take(&text);
                }
            }
            _ => {}
        }
    }

    /// Takes the calls of a choice that are complete, or all of them, once it has ended. What a model
    /// wrote that is no JSON goes into the reason why it ended.
    fn take_calls(&mut self, choice: u32, ended: bool) -> (Vec<Value>, Option<String>) {
        let (mut parts, mut broken) = (Vec::new(), None);
        self.calls.retain_mut(|held| {
            if held.choice != choice || !(ended || held.is_complete()) {
                return true;
            }
            match held.part() {
                Some(part) => parts.push(part),
                None => {
                    broken.get_or_insert_with(|| {
                        let Held {
                            name, arguments, ..
                        } = held;
                        format!("Malformed function call: {name}({arguments})")
                    });
                }
            }
            false
        });
        (parts, broken)
    }

    fn end_of(choice: u32, reason: Finish, broken: Option<String>) -> End {
        End {
            choice,
            reason: match broken {
                Some(_) => "MALFORMED_FUNCTION_CALL",
                None => finish(reason),
            },
            message: broken,
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
            Event::Start { id, model, .. } => self.start(id, model),
            Event::Text { choice, text } | Event::Refusal { choice, text } => {
                self.part(choice, out, |out| {
                    out.extend_from_slice(b"{\"text\":");
                    string(out, &text);
                    out.push(b'}');
                });
            }
            Event::Reasoning { choice, text } => self.part(choice, out, |out| {
                out.extend_from_slice(b"{\"thought\":true,\"text\":");
                string(out, &text);
                out.push(b'}');
            }),
            Event::Signature { choice, signature } => {
                self.value(choice, &sealed("", &seal::wrap(&signature)), out);
            }
            Event::Redacted { choice, data } => {
                self.value(choice, &sealed("", &seal::wrap_redacted(&data)), out);
            }
            event @ Event::Call { .. } => self.hold(event),
            event @ Event::Arguments { choice, .. } => {
                self.hold(event);
                for part in self.take_calls(choice, false).0 {
                    self.value(choice, &part, out);
                }
            }
            Event::Media {
                choice,
                media_type,
                base64,
            } => self.part(choice, out, |out| {
                out.extend_from_slice(b"{\"inlineData\":{\"mimeType\":");
                string(out, &media_type);
                out.extend_from_slice(b",\"data\":");
                string(out, &base64);
                out.extend_from_slice(b"}}");
            }),
            Event::Logprobs { choice, tokens } => {
                self.open(out);
                let candidate = json!({
                    "content": {"parts": [], "role": "model"},
                    "index": choice,
                    "logprobsResult": logprobs(&tokens),
                });
                out.extend_from_slice(b"{\"candidates\":[");
                out.extend_from_slice(candidate.to_string().as_bytes());
                out.push(b']');
                self.tail(out);
                self.close(out);
            }
            Event::Finish { choice, reason, .. } => {
                let (parts, broken) = self.take_calls(choice, true);
                for part in parts {
                    self.value(choice, &part, out);
                }
                self.ends.push(Self::end_of(choice, reason, broken));
            }
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Failed(failure) => {
                self.open(out);
                let (_, error) = error::write(&failure);
                out.extend_from_slice(error.to_string().as_bytes());
                self.close(out);
                if self.form == Form::List {
                    out.push(b']');
                }
            }
            Event::End => {
                let candidates: Vec<_> = (std::mem::take(&mut self.ends).into_iter())
                    .map(|end| end.candidate(vec![json!({"text": ""})]))
                    .collect();
                self.open(out);
                out.extend_from_slice(b"{\"candidates\":");
                out.extend_from_slice(Value::Array(candidates).to_string().as_bytes());
                if let Some(used) = &self.usage {
                    out.extend_from_slice(b",\"usageMetadata\":");
                    out.extend_from_slice(usage(used).to_string().as_bytes());
                }
                self.tail(out);
                self.close(out);
                if self.form == Form::List {
                    out.push(b']');
                }
            }
        }
    }

    fn whole(&mut self, events: Vec<Event<'static>>) -> Vec<u8> {
        let mut choices: Vec<(u32, Whole)> = vec![(0, Whole::default())];
        for event in events {
            match event {
                Event::Start { id, model, .. } => self.start(id, model),
                Event::Usage(usage) => self.usage = Some(usage),
                Event::Failed(_) | Event::End => {}
                Event::Text { choice, .. }
                | Event::Reasoning { choice, .. }
                | Event::Signature { choice, .. }
                | Event::Redacted { choice, .. }
                | Event::Refusal { choice, .. }
                | Event::Call { choice, .. }
                | Event::Arguments { choice, .. }
                | Event::Media { choice, .. }
                | Event::Logprobs { choice, .. }
                | Event::Finish { choice, .. } => {
                    let at = match choices.iter().position(|(index, _)| *index == choice) {
                        Some(at) => at,
                        None => {
                            choices.push((choice, Whole::default()));
                            choices.len() - 1
                        }
                    };
                    choices[at].1.take(event, self);
                }
            }
        }
        let candidates: Vec<_> = choices
            .into_iter()
            .map(|(index, it)| it.candidate(index, self))
            .collect();
        let mut out = b"{\"candidates\":".to_vec();
        out.extend_from_slice(Value::Array(candidates).to_string().as_bytes());
        if let Some(used) = &self.usage {
            out.extend_from_slice(b",\"usageMetadata\":");
            out.extend_from_slice(usage(used).to_string().as_bytes());
        }
        self.tail(&mut out);
        out
    }

    fn failure(&self, failure: &Failure) -> (u16, Vec<u8>) {
        let (status, body) = error::write(failure);
        (status, body.to_string().into_bytes())
    }

    fn stream_form(&self) -> Form {
        self.form
    }
}

// === impl Held ===

impl Held {
    fn is_complete(&self) -> bool {
        self.scan.depth == 0 && self.arguments.trim_end().ends_with('}')
    }

    /// The call as a part; `None` when its arguments are no object.
    fn part(&self) -> Option<Value> {
        let mut args = self.arguments.trim();
        if args.is_empty() {
            args = "{}";
        }
        let args: Value = serde_json::from_str(args).ok()?;
        if !args.is_object() {
            return None;
        }
        let mut part = json!({
            "functionCall": {"id": self.id, "name": self.name, "args": args},
        });
        if let Some(signature) = &self.signature {
            part["thoughtSignature"] = seal::wrap(signature).into();
        }
        Some(part)
    }
}

// === impl Scan ===

impl Scan {
    fn take(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.quoted => self.escaped = true,
                b'"' => self.quoted = !self.quoted,
                b'{' | b'[' if !self.quoted => self.depth += 1,
                b'}' | b']' if !self.quoted => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }
}

// === impl End ===

impl End {
    fn candidate(self, parts: Vec<Value>) -> Value {
        let mut said = json!({
            "content": {"parts": parts, "role": "model"},
            "finishReason": self.reason,
            "index": self.choice,
        });
        if let Some(message) = self.message {
            said["finishMessage"] = message.into();
        }
        said
    }
}

/// A whole choice, as far as it came.
#[derive(Default)]
struct Whole {
    parts: Vec<Value>,
    logprobs: Vec<Logprob>,
    finish: Option<Finish>,
}

impl Whole {
    fn take(&mut self, event: Event<'static>, writer: &mut Writer) {
        match event {
            Event::Text { text, .. } | Event::Refusal { text, .. } => self.text(&text, false),
            Event::Reasoning { text, .. } => self.text(&text, true),
            Event::Signature { signature, .. } => {
                let signature = seal::wrap(&signature);
                match self.parts.last_mut().filter(|part| is_open(part, true)) {
                    Some(thoughts) => thoughts["thoughtSignature"] = signature.into(),
                    None => self.parts.push(sealed("", &signature)),
                }
            }
            Event::Redacted { data, .. } => {
                self.parts.push(sealed("", &seal::wrap_redacted(&data)));
            }
            event @ (Event::Call { .. } | Event::Arguments { .. }) => writer.hold(event),
            Event::Media {
                media_type, base64, ..
            } => self
                .parts
                .push(json!({"inlineData": {"mimeType": media_type, "data": base64}})),
            Event::Logprobs { tokens, .. } => self.logprobs.extend(tokens),
            Event::Finish { reason, .. } => self.finish = Some(reason),
            Event::Start { .. } | Event::Usage(_) | Event::Failed(_) | Event::End => {}
        }
    }

    fn text(&mut self, text: &str, thought: bool) {
        if let Some(part) = (self.parts.last_mut()).filter(|part| is_open(part, thought))
            && let Value::String(before) = &mut part["text"]
        {
            before.push_str(text);
            return;
        }
        self.parts.push(match thought {
            true => json!({"thought": true, "text": text}),
            false => json!({"text": text}),
        });
    }

    fn candidate(mut self, choice: u32, writer: &mut Writer) -> Value {
        let (calls, broken) = writer.take_calls(choice, true);
        self.parts.extend(calls);
        let reason = self.finish.unwrap_or(Finish::Stop);
        let mut said = Writer::end_of(choice, reason, broken).candidate(self.parts);
        if !self.logprobs.is_empty() {
            said["logprobsResult"] = logprobs(&self.logprobs);
        }
        said
    }
}

/// Whether more of the same text goes into a part.
fn is_open(part: &Value, thought: bool) -> bool {
    part.get("text").is_some()
        && part.get("thought").is_some() == thought
        && part.get("thoughtSignature").is_none()
}

fn sealed(thoughts: &str, signature: &str) -> Value {
    json!({"thought": true, "text": thoughts, "thoughtSignature": signature})
}

fn logprobs(tokens: &[Logprob]) -> Value {
    let one = |it: &Logprob| json!({"token": it.token, "logProbability": it.logprob});
    let chosen: Vec<_> = tokens.iter().map(one).collect();
    let top: Vec<_> = (tokens.iter())
        .map(|it| json!({"candidates": it.top.iter().map(one).collect::<Vec<_>>()}))
        .collect();
    json!({"topCandidates": top, "chosenCandidates": chosen})
}

/// Gemini's word for why an answer ended.
fn finish(reason: Finish) -> &'static str {
    match reason {
        Finish::Stop | Finish::StopText | Finish::Calls | Finish::Pause => "STOP",
        Finish::Length => "MAX_TOKENS",
        Finish::Filter | Finish::Refusal => "SAFETY",
        Finish::Other => "OTHER",
    }
}

/// Usage in Gemini's words: thoughts are counted beside the candidates.
pub fn usage(used: &Usage) -> Value {
    let (input, output) = (used.input.unwrap_or(0), used.output.unwrap_or(0));
    let mut said = Map::new();
    let mut put = |name: &str, count: u64| said.insert(name.to_owned(), count.into());
    put("promptTokenCount", input);
    put(
        "candidatesTokenCount",
        output.saturating_sub(used.reasoning.unwrap_or(0)),
    );
    put("totalTokenCount", input.saturating_add(output));
    if let Some(cached) = used.cached {
        put("cachedContentTokenCount", cached);
    }
    if let Some(reasoning) = used.reasoning {
        put("thoughtsTokenCount", reasoning);
    }
    let media = &used.media;
    let mut details = |name: &str, all: &[(&str, u64)]| {
        let said_of: Vec<_> = (all.iter())
            .filter(|(_, count)| *count > 0)
            .map(|(modality, count)| json!({"modality": modality, "tokenCount": count}))
            .collect();
        if !said_of.is_empty() {
            said.insert(name.to_owned(), said_of.into());
        }
    };
    details(
        "promptTokensDetails",
        &[("AUDIO", media.audio_input), ("IMAGE", media.image_input)],
    );
    details("candidatesTokensDetails", &[("AUDIO", media.audio_output)]);
    Value::Object(said)
}
