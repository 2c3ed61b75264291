//! An answer as clients of OpenAI's chat dialect read it.
//!
//! Source: OpenAI's API reference, "The chat completion object" and "… chunk object". Thoughts are
//! `reasoning_content`, as most servers and SDKs of models that think have it; their seals are
//! `thinking_blocks`, in which a client sends them back.

use serde_json::{Map, Value, json};

use crate::ir::{Event, Failure, FailureKind, Finish, Logprob, Usage, call_id};
use crate::openai::chunks::Chunks;
use crate::text::{number, string};
use crate::translate::{Ask, Writes};

/// See the module.
#[derive(Debug)]
pub struct Writer {
    chunks: Chunks,
    /// The choices that have begun.
    begun: Vec<u32>,
    /// The calls, by choice, of whose arguments nothing has come.
    bare: Vec<(u32, u32)>,
}

// === impl Writer ===

impl Writer {
    /// A writer for one answer.
    pub fn new(ask: &Ask<'_>, usage_wanted: bool) -> Self {
        Self {
            chunks: Chunks::new(ask, "chatcmpl", "chat.completion.chunk", usage_wanted),
            begun: Vec::new(),
            bare: Vec::new(),
        }
    }

    fn arguments(&mut self, choice: u32, call: u32, text: &str, out: &mut Vec<u8>) {
        self.delta(choice, out, |out| {
            out.extend_from_slice(b"\"tool_calls\":[{\"index\":");
            number(out, call);
            out.extend_from_slice(b",\"function\":{\"arguments\":");
            string(out, text);
            out.extend_from_slice(b"}}]");
        });
    }

    /// A chunk of one choice, whose delta `write` fills.
    fn delta(&mut self, choice: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        self.begin(choice, out);
        self.chunks.open(out);
        out.extend_from_slice(b"{\"index\":");
        number(out, choice);
        out.extend_from_slice(b",\"delta\":{");
        write(out);
        out.extend_from_slice(b"},\"finish_reason\":null}");
        self.chunks.close(out);
    }

    /// The first chunk of a choice says whose turn it is.
    fn begin(&mut self, choice: u32, out: &mut Vec<u8>) {
        if self.begun.contains(&choice) {
            return;
        }
        self.begun.push(choice);
        self.delta(choice, out, |out| {
            out.extend_from_slice(b"\"role\":\"assistant\",\"content\":\"\"");
        });
    }

    fn text(&mut self, choice: u32, name: &[u8], text: &str, out: &mut Vec<u8>) {
        self.delta(choice, out, |out| {
            out.extend_from_slice(name);
            string(out, text);
        });
    }

    fn value(&mut self, choice: u32, delta: &Value, out: &mut Vec<u8>) {
        let text = delta.to_string();
        self.delta(choice, out, |out| {
            out.extend_from_slice(&text.as_bytes()[1..text.len() - 1]);
        });
    }
}

impl Writes for Writer {
    fn event(&mut self, event: Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, model, created } => {
                self.chunks.start(id, model, created);
                self.begin(0, out);
            }
            Event::Text { choice, text } => self.text(choice, b"\"content\":", &text, out),
            Event::Reasoning { choice, text } => {
                self.text(choice, b"\"reasoning_content\":", &text, out);
            }
            Event::Refusal { choice, text } => self.text(choice, b"\"refusal\":", &text, out),
            Event::Signature { choice, signature } => {
                self.value(
                    choice,
                    &json!({"thinking_blocks": [sealed("", &signature)]}),
                    out,
                );
            }
            Event::Redacted { choice, data } => {
                self.value(choice, &json!({"thinking_blocks": [redacted(&data)]}), out);
            }
            Event::Call {
                choice,
                call,
                id,
                name,
                signature,
            } => {
                let mut begun = self.call(choice, call, &id, &name, signature.as_deref());
                begun["index"] = call.into();
                self.bare.push((choice, call));
                self.value(choice, &json!({"tool_calls": [begun]}), out);
            }
            Event::Arguments { choice, call, text } => {
                self.bare.retain(|bare| *bare != (choice, call));
                self.arguments(choice, call, &text, out);
            }
            Event::Media {
                choice,
                media_type,
                base64,
            } => {
                let delta = match media_type.starts_with("audio/") {
                    true => {
                        json!({"audio": {"id": format!("audio_{}", self.chunks.id), "data": base64}})
                    }
                    false => json!({"images": [image(&media_type, &base64)]}),
                };
                self.value(choice, &delta, out);
            }
            Event::Logprobs { choice, tokens } => {
                self.begin(choice, out);
                self.chunks.open(out);
                let said = json!({
                    "index": choice,
                    "delta": {},
                    "logprobs": logprobs(&tokens),
                    "finish_reason": null,
                });
                out.extend_from_slice(said.to_string().as_bytes());
                self.chunks.close(out);
            }
            Event::Finish { choice, reason, .. } => {
                // A client reads what it has collected as JSON.
                while let Some(at) = self.bare.iter().position(|(of, _)| *of == choice) {
                    let (_, call) = self.bare.remove(at);
                    self.arguments(choice, call, "{}", out);
                }
                self.begin(choice, out);
                self.chunks.open(out);
                let said = json!({"index": choice, "delta": {}, "finish_reason": finish(reason)});
                out.extend_from_slice(said.to_string().as_bytes());
                self.chunks.close(out);
            }
            Event::Usage(usage) => self.chunks.usage = Some(usage),
            Event::Failed(failure) => self.chunks.failed(&failure, out),
            Event::End => self.chunks.end(out),
        }
    }

    fn whole(&mut self, events: Vec<Event<'static>>) -> Vec<u8> {
        let mut choices: Vec<(u32, Whole)> = vec![(0, Whole::default())];
        for event in events {
            let of = match &event {
                Event::Start { .. } | Event::Usage(_) | Event::Failed(_) | Event::End => None,
                Event::Text { choice, .. }
                | Event::Reasoning { choice, .. }
                | Event::Signature { choice, .. }
                | Event::Redacted { choice, .. }
                | Event::Refusal { choice, .. }
                | Event::Call { choice, .. }
                | Event::Arguments { choice, .. }
                | Event::Media { choice, .. }
                | Event::Logprobs { choice, .. }
                | Event::Finish { choice, .. } => Some(*choice),
            };
            let Some(of) = of else {
                match event {
                    Event::Start { id, model, created } => self.chunks.start(id, model, created),
                    Event::Usage(usage) => self.chunks.usage = Some(usage),
                    _ => {}
                }
                continue;
            };
            let at = match choices.iter().position(|(index, _)| *index == of) {
                Some(at) => at,
                None => {
                    choices.push((of, Whole::default()));
                    choices.len() - 1
                }
            };
            choices[at].1.take(event, self);
        }
        let choices: Vec<_> = choices
            .into_iter()
            .map(|(index, it)| it.choice(index))
            .collect();
        let mut body = json!({
            "id": self.chunks.id,
            "object": "chat.completion",
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

impl Writer {
    fn call(&self, choice: u32, call: u32, id: &str, name: &str, signature: Option<&str>) -> Value {
        let id = match id {
            "" => call_id(&self.chunks.id, choice, call),
            id => id.to_owned(),
        };
        let mut said = json!({
            "id": id, "type": "function", "function": {"name": name, "arguments": ""},
        });
        if let Some(signature) = signature {
            said["extra_content"] = json!({"google": {"thought_signature": signature}});
        }
        said
    }
}

/// A whole choice, as far as it came.
#[derive(Default)]
struct Whole {
    content: Option<String>,
    reasoning: Option<String>,
    /// The thoughts since the last seal.
    unsealed: String,
    blocks: Vec<Value>,
    refusal: Option<String>,
    calls: Vec<(Value, String)>,
    images: Vec<Value>,
    audio: String,
    logprobs: Vec<Logprob>,
    finish: Option<Finish>,
}

impl Whole {
    fn take(&mut self, event: Event<'static>, writer: &Writer) {
        match event {
            Event::Text { text, .. } => self.content.get_or_insert_default().push_str(&text),
            Event::Reasoning { text, .. } => {
                self.reasoning.get_or_insert_default().push_str(&text);
                self.unsealed.push_str(&text);
            }
            Event::Signature { signature, .. } => {
                let thoughts = std::mem::take(&mut self.unsealed);
                self.blocks.push(sealed(&thoughts, &signature));
            }
            Event::Redacted { data, .. } => self.blocks.push(redacted(&data)),
            Event::Refusal { text, .. } => self.refusal.get_or_insert_default().push_str(&text),
            Event::Call {
                choice,
                call,
                id,
                name,
                signature,
            } => {
                let said = writer.call(choice, call, &id, &name, signature.as_deref());
                self.calls.push((said, String::new()));
            }
            Event::Arguments { call, text, .. } => {
                if let Some((_, arguments)) = self.calls.get_mut(call as usize) {
                    arguments.push_str(&text);
                }
            }
            Event::Media {
                media_type, base64, ..
            } => match media_type.starts_with("audio/") {
                true => self.audio.push_str(&base64),
                false => self.images.push(image(&media_type, &base64)),
            },
            Event::Logprobs { tokens, .. } => self.logprobs.extend(tokens),
            Event::Finish { reason, .. } => self.finish = Some(reason),
            Event::Start { .. } | Event::Usage(_) | Event::Failed(_) | Event::End => {}
        }
    }

    fn choice(self, index: u32) -> Value {
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        message.insert("content".into(), self.content.into());
        message.insert("refusal".into(), self.refusal.into());
        if let Some(thoughts) = self.reasoning {
            message.insert("reasoning_content".into(), thoughts.into());
        }
        if !self.blocks.is_empty() {
            message.insert("thinking_blocks".into(), self.blocks.into());
        }
        if !self.calls.is_empty() {
            let calls = self.calls.into_iter().map(|(mut call, arguments)| {
                let arguments = match arguments.is_empty() {
                    true => "{}".to_owned(),
                    false => arguments,
                };
                call["function"]["arguments"] = arguments.into();
                call
            });
            message.insert("tool_calls".into(), calls.collect());
        }
        if !self.images.is_empty() {
            message.insert("images".into(), self.images.into());
        }
        if !self.audio.is_empty() {
            message.insert("audio".into(), json!({"id": "audio_0", "data": self.audio}));
        }
        let logprobs = match self.logprobs.is_empty() {
            true => Value::Null,
            false => logprobs(&self.logprobs),
        };
        json!({
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": finish(self.finish.unwrap_or(Finish::Stop)),
        })
    }
}

fn sealed(thoughts: &str, signature: &str) -> Value {
    json!({"type": "thinking", "thinking": thoughts, "signature": signature})
}

fn redacted(data: &str) -> Value {
    json!({"type": "redacted_thinking", "data": data})
}

fn image(media_type: &str, base64: &str) -> Value {
    let url = format!("data:{media_type};base64,{base64}");
    json!({"type": "image_url", "image_url": {"url": url}})
}

/// OpenAI's `logprobs` of a choice.
pub fn logprobs(tokens: &[Logprob]) -> Value {
    fn one(it: &Logprob) -> Map<String, Value> {
        let bytes = it
            .bytes
            .clone()
            .unwrap_or_else(|| it.token.clone().into_bytes());
        let mut said = Map::new();
        said.insert("token".into(), it.token.clone().into());
        said.insert("logprob".into(), it.logprob.into());
        said.insert("bytes".into(), bytes.into());
        said
    }
    let with_top = |it: &Logprob| {
        let mut said = one(it);
        let top: Vec<_> = it.top.iter().map(|top| Value::Object(one(top))).collect();
        said.insert("top_logprobs".into(), top.into());
        Value::Object(said)
    };
    json!({"content": tokens.iter().map(with_top).collect::<Vec<_>>(), "refusal": null})
}

/// OpenAI's word for why an answer ended.
pub fn finish(reason: Finish) -> &'static str {
    match reason {
        Finish::Stop | Finish::StopText | Finish::Pause | Finish::Other => "stop",
        Finish::Length => "length",
        Finish::Calls => "tool_calls",
        Finish::Filter | Finish::Refusal => "content_filter",
    }
}

/// Usage in OpenAI's words.
pub fn usage(used: &Usage) -> Value {
    let (input, output) = (used.input.unwrap_or(0), used.output.unwrap_or(0));
    let mut said = json!({
        "prompt_tokens": input,
        "completion_tokens": output,
        "total_tokens": input.saturating_add(output),
    });
    let mut prompt = Map::new();
    if let Some(cached) = used.cached {
        prompt.insert("cached_tokens".into(), cached.into());
    }
    if let Some(written) = used.cache_write.filter(|it| *it > 0) {
        prompt.insert("cache_write_tokens".into(), written.into());
    }
    if !prompt.is_empty() {
        said["prompt_tokens_details"] = prompt.into();
    }
    if let Some(reasoning) = used.reasoning {
        said["completion_tokens_details"] = json!({"reasoning_tokens": reasoning});
    }
    said
}

/// The status by which OpenAI's SDKs know what happened.
pub fn status(failure: &Failure) -> u16 {
    match (failure.status, failure.kind) {
        (529, _) => 503,
        (status @ 400..=599, _) => status,
        (_, FailureKind::Invalid) => 400,
        (_, FailureKind::Unauthenticated) => 401,
        (_, FailureKind::Forbidden) => 403,
        (_, FailureKind::NotFound) => 404,
        (_, FailureKind::TooLarge) => 413,
        (_, FailureKind::RateLimited | FailureKind::Quota) => 429,
        (_, FailureKind::Overloaded) => 503,
        (_, FailureKind::Timeout) => 504,
        (_, FailureKind::Server) => 502,
    }
}

/// An error in OpenAI's words.
pub fn error(failure: &Failure) -> Value {
    let kind = match failure.kind {
        FailureKind::Unauthenticated => "authentication_error",
        FailureKind::Forbidden => "permission_error",
        FailureKind::RateLimited => "rate_limit_error",
        FailureKind::Quota => "insufficient_quota",
        FailureKind::Invalid | FailureKind::NotFound | FailureKind::TooLarge => {
            "invalid_request_error"
        }
        FailureKind::Overloaded | FailureKind::Timeout | FailureKind::Server => "server_error",
    };
    let code = match (&failure.code, failure.kind) {
        (Some(code), _) => Some(code.as_str()),
        (None, FailureKind::Quota) => Some("insufficient_quota"),
        (None, FailureKind::RateLimited) => Some("rate_limit_exceeded"),
        (None, _) => None,
    };
    json!({"error": {
        "message": failure.message,
        "type": kind,
        "param": failure.param,
        "code": code,
    }})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surface::Surface;

    #[test]
    fn a_call_without_arguments_is_an_empty_object_in_a_stream_too() {
        let ask = Ask {
            surface: Surface::Chat,
            path: "/v1/chat/completions",
            query: None,
            body: b"",
            id: "1",
            now: 7,
            model: "m",
        };
        let mut writer = Writer::new(&ask, false);
        let mut out = Vec::new();
        let call = |call| Event::Call {
            choice: 0,
            call,
            id: "c".into(),
            name: "f".into(),
            signature: None,
        };
        let some = Event::Arguments {
            choice: 0,
            call: 1,
            text: "[]".into(),
        };
        let finish = Event::Finish {
            choice: 0,
            reason: Finish::Calls,
            stop: None,
        };
        for event in [call(0), call(1), some, finish] {
            writer.event(event, &mut out);
        }
        let said = String::from_utf8(out).expect("text");
        let empty = r#"{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}"#;
        assert_eq!(said.matches(empty).count(), 1, "{said}");
        assert_eq!(said.matches(r#""arguments":"{}""#).count(), 1, "{said}");
    }
}
