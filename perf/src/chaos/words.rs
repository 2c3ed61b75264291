//! What model servers say, and how clients read it: the same words for the same request, so that a
//! word too few, too many or of another request is found.

use super::plan::{Id, Surface};
use serde_json::{Value, json};

/// Tokens that a model server reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub input: u64,
    pub output: u64,
}

/// The words of an answer.
pub fn text(id: Id, words: u64) -> String {
    (0..words).map(|index| word(id, index)).collect()
}

fn word(id: Id, index: u64) -> String {
    format!("{:x}.{index} ", id.number)
}

/// A whole answer's body.
pub fn whole(surface: Surface, id: Id, words: u64, usage: Usage) -> String {
    let Usage { input, output } = usage;
    let body = match surface {
        Surface::Chat => json!({
            "id": format!("chatcmpl-{id}"), "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": text(id, words)}}],
            "usage": {"prompt_tokens": input, "completion_tokens": output,
                "total_tokens": input + output},
        }),
        Surface::Messages => json!({
            "id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": "m",
            "content": [{"type": "text", "text": text(id, words)}],
            "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": input, "output_tokens": output},
        }),
        Surface::Embeddings => json!({
            "object": "list", "model": "m",
            "data": [{"object": "embedding", "index": 0, "embedding": [id.number, words]}],
            "usage": {"prompt_tokens": input, "total_tokens": input},
        }),
    };
    body.to_string()
}

/// A whole answer to several requests for one embedding each that came as one call; each with its words.
pub fn whole_of_several(members: &[(Id, u64)], usage: Usage) -> String {
    let embeddings = members.iter().enumerate().rev().map(|(index, (id, words))| {
        json!({"object": "embedding", "index": index, "embedding": [id.number, words]})
    });
    let data: Vec<Value> = embeddings.collect();
    let tokens = json!({"prompt_tokens": usage.input, "total_tokens": usage.input});
    json!({"object": "list", "model": "m", "data": data, "usage": tokens}).to_string()
}

/// The events of a stream: those with words, and those that close it. `asked`: usage was asked for.
pub fn events(surface: Surface, id: Id, words: u64, usage: Usage, asked: bool) -> Events {
    match surface {
        Surface::Messages => message_events(id, words, usage),
        _ => chat_events(id, words, usage, asked),
    }
}

/// The events of one stream.
pub struct Events {
    pub words: Vec<String>,
    pub closing: Vec<String>,
    /// The very last one, which says that it is over.
    pub last: String,
}

fn chat_events(id: Id, words: u64, usage: Usage, asked: bool) -> Events {
    let event = |choices: Value, usage: Value| {
        let mut data = json!({
            "id": format!("chatcmpl-{id}"), "object": "chat.completion.chunk", "created": 1,
            "model": "m", "choices": choices,
        });
        if asked {
            data["usage"] = usage;
        }
        format!("data: {data}\n\n")
    };
    let choice = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    let content = |index| choice(json!({"content": word(id, index)}), Value::Null);
    let Usage { input, output } = usage;
    let report = json!({"prompt_tokens": input, "completion_tokens": output,
        "total_tokens": input + output});
    let finish = event(choice(json!({}), json!("stop")), Value::Null);
    Events {
        words: (0..words)
            .map(|index| event(content(index), Value::Null))
            .collect(),
        closing: match asked {
            true => vec![finish, event(json!([]), report)],
            false => vec![finish],
        },
        last: "data: [DONE]\n\n".into(),
    }
}

fn message_events(id: Id, words: u64, usage: Usage) -> Events {
    let event = |data: Value| {
        let name = data["type"].as_str().unwrap_or_default().to_owned();
        format!("event: {name}\ndata: {data}\n\n")
    };
    let Usage { input, output } = usage;
    let start = [
        json!({"type": "message_start", "message": {"id": format!("msg_{id}"), "type": "message",
            "role": "assistant", "model": "m", "content": [], "stop_reason": null,
            "usage": {"input_tokens": input, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0,
            "content_block": {"type": "text", "text": ""}}),
    ];
    let content = |index| {
        json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "text_delta", "text": word(id, index)}})
    };
    Events {
        words: start
            .into_iter()
            .chain((0..words).map(content))
            .map(event)
            .collect(),
        closing: vec![
            event(json!({"type": "content_block_stop", "index": 0})),
            event(json!({"type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                "usage": {"output_tokens": output}})),
        ],
        last: event(json!({"type": "message_stop"})),
    }
}

/// The code of the error that a model server puts into its stream.
pub const SERVERS_ERROR: &str = "chaos_error";

/// An error inside a stream that began well.
pub fn error_event(surface: Surface) -> String {
    let error = json!({"type": "server_error", "code": SERVERS_ERROR, "message": "out of luck"});
    match surface {
        Surface::Messages => {
            format!(
                "event: error\ndata: {}\n\n",
                json!({"type": "error", "error": error})
            )
        }
        _ => format!("data: {}\n\n", json!({"error": error})),
    }
}

/// What a client makes of a stream.
#[derive(Debug, Default)]
pub struct Stream {
    partial: Vec<u8>,
    pub text: String,
    pub usage: Option<Usage>,
    /// The model said why it stopped.
    pub finished: bool,
    /// The stream said that it is over.
    pub done: bool,
    /// An error came in it: its code or type.
    pub error: Option<String>,
    /// Heartbeats: what weir says while the server is silent is none of the answer's bytes.
    pub heartbeats: u64,
    /// Events that no stream should have, or after its end.
    pub strange: Vec<String>,
}

/// What weir puts into a silent stream.
pub const HEARTBEAT: &str = ": heartbeat\n\n";
/// No event of ours is as long.
const EVENT_BYTES_MAX: usize = 1 << 20;

impl Stream {
    /// Reads a piece.
    pub fn feed(&mut self, piece: &[u8]) {
        self.partial.extend_from_slice(piece);
        while let Some(end) = memchr::memmem::find(&self.partial, b"\n\n") {
            let event: Vec<u8> = self.partial.drain(..end + 2).collect();
            self.event(&String::from_utf8_lossy(&event));
        }
        if self.partial.len() > EVENT_BYTES_MAX {
            self.partial.clear();
            self.strange.push("an event without end".into());
        }
    }

    fn event(&mut self, event: &str) {
        let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) else {
            // Other comments and empty events say nothing.
            self.heartbeats += u64::from(event == HEARTBEAT);
            return;
        };
        if self.done {
            self.strange.push(format!("after the end: {event}"));
        }
        if data == "[DONE]" {
            self.done = true;
            return;
        }
        let Ok(data) = serde_json::from_str::<Value>(data) else {
            self.strange.push(format!("no JSON: {event}"));
            return;
        };
        let error = &data["error"];
        if !error.is_null() {
            let code = error["code"].as_str().or(error["type"].as_str());
            self.error = Some(code.unwrap_or("unknown").to_owned());
            return;
        }
        let choice = &data["choices"][0];
        for word in [&choice["delta"]["content"], &data["delta"]["text"]] {
            self.text.push_str(word.as_str().unwrap_or_default());
        }
        for reason in [&choice["finish_reason"], &data["delta"]["stop_reason"]] {
            self.finished |= reason.is_string();
        }
        self.done |= data["type"] == "message_stop";
        for usage in [&data["usage"], &data["message"]["usage"]] {
            if usage.is_object() {
                let before = self.usage.unwrap_or_default();
                let now = usage_of(usage);
                self.usage = Some(Usage {
                    input: now.input.max(before.input),
                    output: now.output.max(before.output),
                });
            }
        }
    }
}

fn usage_of(usage: &Value) -> Usage {
    let number = |names: [&str; 2]| {
        names
            .iter()
            .find_map(|name| usage[name].as_u64())
            .unwrap_or(0)
    };
    Usage {
        input: number(["prompt_tokens", "input_tokens"]),
        output: number(["completion_tokens", "output_tokens"]),
    }
}

/// The words and the usage of a whole answer, if it is one.
pub fn read_whole(surface: Surface, body: &[u8]) -> Option<(String, Usage)> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let text = match surface {
        Surface::Chat => body["choices"][0]["message"]["content"]
            .as_str()?
            .to_owned(),
        Surface::Messages => body["content"][0]["text"].as_str()?.to_owned(),
        Surface::Embeddings => body["data"][0]["embedding"].to_string(),
    };
    Some((text, usage_of(&body["usage"])))
}

/// What [`read_whole`] finds in the right answer.
pub fn expected(surface: Surface, id: Id, words: u64) -> String {
    match surface {
        Surface::Embeddings => format!("[{},{words}]", id.number),
        _ => text(id, words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = Id {
        seed: 1,
        number: 77,
    };
    const USAGE: Usage = Usage {
        input: 5,
        output: 9,
    };

    #[test]
    fn a_stream_reads_back_however_it_is_cut() {
        for surface in [Surface::Chat, Surface::Messages] {
            let events = events(surface, ID, 4, USAGE, true);
            let all = [events.words.concat(), events.closing.concat(), events.last].concat();
            for step in [1, 7, 100, all.len()] {
                let mut stream = Stream::default();
                all.as_bytes()
                    .chunks(step)
                    .for_each(|piece| stream.feed(piece));
                assert_eq!(stream.text, text(ID, 4));
                assert_eq!(stream.usage, Some(USAGE), "{surface:?}");
                assert!(stream.finished && stream.done && stream.strange.is_empty());
            }
        }
    }

    #[test]
    fn a_whole_answer_reads_back() {
        for surface in [Surface::Chat, Surface::Messages, Surface::Embeddings] {
            let (text, usage) =
                read_whole(surface, whole(surface, ID, 4, USAGE).as_bytes()).expect("an answer");
            assert_eq!((text, usage.input), (expected(surface, ID, 4), 5));
        }
    }

    #[test]
    fn an_error_in_a_stream_is_seen_and_so_is_what_follows_the_end() {
        let mut stream = Stream::default();
        stream.feed(error_event(Surface::Chat).as_bytes());
        assert_eq!(stream.error.as_deref(), Some(SERVERS_ERROR));
        stream.feed(b"data: [DONE]\n\ndata: {}\n\n");
        assert_eq!(stream.strange.len(), 1);
    }
}
