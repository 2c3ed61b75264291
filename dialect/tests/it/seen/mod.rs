//! What an answer says, read plainly from the whole of its bytes.
//!
//! It has nothing of the crate's readers. Where an API has a grammar (blocks that open and close, numbers
//! that count up), breaking it is a panic.

use std::collections::BTreeMap;

use serde_json::Value;

mod anthropic;
mod google;
mod openai;
mod others;

/// An API whose answers are read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Chat,
    Completions,
    Responses,
    Messages,
    Gemini,
    Ollama,
    DashScope,
    Cohere,
    Converse,
}

/// How the bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Body,
    Events,
    Lines,
    Frames,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    pub choices: BTreeMap<u64, Choice>,
    pub usage: Option<Used>,
    /// The error that a stream ended with: its type and message.
    pub error: Option<(String, String)>,
    /// The last word of a stream came.
    pub ended: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    pub text: String,
    pub thoughts: String,
    /// Seals of thoughts and of calls.
    pub seals: Vec<String>,
    pub redacted: Vec<String>,
    pub refusal: String,
    pub calls: Vec<Call>,
    pub media: Vec<String>,
    /// In the API's own word.
    pub finish: Option<String>,
    pub stop: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Call {
    pub id: String,
    pub name: String,
    /// JSON as text.
    pub arguments: String,
}

/// Tokens: `input` with all that was cached, `output` with reasoning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    pub input: Option<u64>,
    pub output: Option<u64>,
    pub cached: Option<u64>,
    pub cache_write: Option<u64>,
    pub reasoning: Option<u64>,
}

/// Reads an answer.
pub fn read(api: Api, wire: Wire, bytes: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let events = events(wire, bytes);
    let whole = wire == Wire::Body;
    match api {
        Api::Chat => openai::chat(&events, &mut seen),
        Api::Completions => openai::completions(&events, &mut seen),
        Api::Responses => openai::responses(&events, whole, &mut seen),
        Api::Messages if whole => anthropic::whole(&events[0].data, &mut seen),
        Api::Messages => anthropic::stream(&events, &mut seen),
        Api::Gemini => google::gemini(&events, &mut seen),
        Api::Ollama => others::ollama(&events, whole, &mut seen),
        Api::DashScope => others::dashscope(&events, &mut seen),
        Api::Cohere if whole => others::cohere_whole(&events[0].data, &mut seen),
        Api::Cohere => others::cohere_stream(&events, &mut seen),
        Api::Converse if whole => others::converse_whole(&events[0].data, &mut seen),
        Api::Converse => others::converse_stream(&events, &mut seen),
    }
    seen
}

/// One event: its name, where it has one, and its data; `[DONE]` is a string.
#[derive(Debug)]
pub struct Happened {
    pub name: String,
    pub data: Value,
}

pub fn events(wire: Wire, bytes: &[u8]) -> Vec<Happened> {
    let json = |text: &[u8]| -> Value {
        serde_json::from_slice(text)
            .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(text)))
    };
    let unnamed = |data| Happened {
        name: String::new(),
        data,
    };
    match wire {
        Wire::Body => match json(bytes) {
            Value::Array(list) => list.into_iter().map(unnamed).collect(),
            value => vec![unnamed(value)],
        },
        Wire::Lines => (bytes.split(|byte| *byte == b'\n'))
            .filter(|line| !line.trim_ascii().is_empty())
            .map(|line| unnamed(json(line)))
            .collect(),
        Wire::Events => {
            let text = std::str::from_utf8(bytes).expect("UTF-8");
            (text.replace("\r\n", "\n").split("\n\n"))
                .filter_map(|block| sse(block, json))
                .collect()
        }
        Wire::Frames => frames(bytes, json),
    }
}

fn sse(block: &str, json: impl Fn(&[u8]) -> Value) -> Option<Happened> {
    let (mut name, mut data) = (String::new(), None::<String>);
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value.to_owned(),
            "data" => match &mut data {
                None => data = Some(value.to_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            },
            _ => {}
        }
    }
    let data = match data?.trim() {
        "" => return None,
        "[DONE]" => Value::String("[DONE]".to_owned()),
        data => json(data.as_bytes()),
    };
    Some(Happened { name, data })
}

/// Amazon's event stream: length, length of headers, checksum; headers; payload; checksum.
fn frames(mut bytes: &[u8], json: impl Fn(&[u8]) -> Value) -> Vec<Happened> {
    let number = |at: &[u8]| u32::from_be_bytes(at[..4].try_into().expect("4 bytes")) as usize;
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (length, headers_len) = (number(bytes), number(&bytes[4..]));
        let (frame, rest) = bytes.split_at(length);
        bytes = rest;
        let mut headers = &frame[12..12 + headers_len];
        let mut name = String::new();
        while !headers.is_empty() {
            let (key, after) = headers[1..].split_at(usize::from(headers[0]));
            assert_eq!(after[0], 7, "a header that is a string");
            let length = usize::from(u16::from_be_bytes([after[1], after[2]]));
            let (value, after) = after[3..].split_at(length);
            if key == b":event-type" || key == b":exception-type" {
                name = String::from_utf8(value.to_vec()).expect("a name");
            }
            headers = after;
        }
        let data = json(&frame[12 + headers_len..length - 4]);
        all.push(Happened { name, data });
    }
    all
}

// === impl Seen ===

impl Seen {
    pub fn choice(&mut self, index: u64) -> &mut Choice {
        self.choices.entry(index).or_default()
    }

    /// Its only choice, or the first of several.
    pub fn first(&self) -> Choice {
        self.choices.get(&0).cloned().unwrap_or_default()
    }
}

// === impl Choice ===

impl Choice {
    /// The arguments of its calls as JSON.
    pub fn called(&self) -> Vec<(String, Value)> {
        let call = |call: &Call| {
            let arguments = match call.arguments.trim() {
                "" => serde_json::json!({}),
                text => serde_json::from_str(text)
                    .unwrap_or_else(|_| Value::String(call.arguments.clone())),
            };
            (call.name.clone(), arguments)
        };
        self.calls.iter().map(call).collect()
    }
}

/// Appends a member that is a string.
pub fn push(to: &mut String, value: &Value) {
    to.push_str(value.as_str().unwrap_or_default());
}

/// A member that is a string with something in it.
pub fn text(value: &Value) -> Option<String> {
    value
        .as_str()
        .filter(|it| !it.is_empty())
        .map(str::to_owned)
}

/// Sums what is said; `None` when none of it is.
pub fn sum(counts: &[Option<u64>]) -> Option<u64> {
    counts
        .iter()
        .any(Option::is_some)
        .then(|| counts.iter().flatten().sum())
}
