//! Anthropic's messages.

use serde_json::{Map, Value};

use super::openai::{error, list};
use super::{Call, Choice, Happened, Seen, Used, push, sum, text};

pub fn whole(body: &Value, seen: &mut Seen) {
    assert_eq!(body["type"], "message");
    assert_eq!(body["role"], "assistant");
    for block in list(&body["content"]) {
        let choice = seen.choice(0);
        begin(block, choice);
        if block["type"] == "tool_use" {
            let call = choice.calls.last_mut().expect("a call");
            call.arguments = block["input"].to_string();
        }
    }
    end(body, seen.choice(0));
    seen.usage = body["usage"].as_object().map(used);
}

/// Blocks come one after the other, each opened and closed.
pub fn stream(events: &[Happened], seen: &mut Seen) {
    let (mut usage, mut open, mut next) = (Map::new(), None, 0);
    for (place, Happened { name, data }) in events.iter().enumerate() {
        let kind = data["type"].as_str().expect("a type");
        assert_eq!(name, kind, "the event has its type as its name");
        // An error may be all there is.
        let begins = matches!(kind, "message_start" | "error");
        assert!(
            place > 0 && kind != "message_start" || begins,
            "how it begins"
        );
        let index = || data["index"].as_u64().expect("an index");
        match kind {
            "message_start" => {
                assert_eq!(data["message"]["type"], "message");
                update(&mut usage, &data["message"]["usage"]);
            }
            "content_block_start" => {
                assert_eq!(open, None, "one block at a time");
                assert_eq!(index(), next, "blocks are numbered");
                open = Some(index());
                next += 1;
                begin(&data["content_block"], seen.choice(0));
            }
            "content_block_delta" => {
                assert_eq!(open, Some(index()), "a piece of the open block");
                let (delta, choice) = (&data["delta"], seen.choice(0));
                match delta["type"].as_str().expect("a type") {
                    "text_delta" => push(&mut choice.text, &delta["text"]),
                    "thinking_delta" => push(&mut choice.thoughts, &delta["thinking"]),
                    "signature_delta" => choice.seals.extend(text(&delta["signature"])),
                    // Also that of the provider's own tools.
                    "input_json_delta" => {
                        if let Some(call) = choice.calls.last_mut() {
                            push(&mut call.arguments, &delta["partial_json"]);
                        }
                    }
                    _ => {}
                }
            }
            "content_block_stop" => {
                assert_eq!(open.take(), Some(index()), "the open block is closed");
            }
            "message_delta" => {
                assert_eq!(open, None, "all blocks are closed");
                end(&data["delta"], seen.choice(0));
                update(&mut usage, &data["usage"]);
            }
            "message_stop" => seen.ended = true,
            "error" => seen.error = Some(error(&data["error"])),
            _ => {}
        }
    }
    seen.usage = Some(used(&usage));
}

fn begin(block: &Value, choice: &mut Choice) {
    match block["type"].as_str().expect("a type") {
        "text" => push(&mut choice.text, &block["text"]),
        "thinking" => {
            push(&mut choice.thoughts, &block["thinking"]);
            choice.seals.extend(text(&block["signature"]));
        }
        "redacted_thinking" => choice.redacted.extend(text(&block["data"])),
        "tool_use" => {
            let mut call = Call::default();
            push(&mut call.id, &block["id"]);
            push(&mut call.name, &block["name"]);
            choice.calls.push(call);
        }
        _ => {}
    }
}

fn end(said: &Value, choice: &mut Choice) {
    choice.finish = text(&said["stop_reason"]);
    choice.stop = text(&said["stop_sequence"]);
}

fn update(usage: &mut Map<String, Value>, later: &Value) {
    for (name, value) in later.as_object().into_iter().flatten() {
        if !value.is_null() {
            usage.insert(name.clone(), value.clone());
        }
    }
}

fn used(usage: &Map<String, Value>) -> Used {
    let count = |name: &str| usage.get(name).and_then(Value::as_u64);
    let cached = count("cache_read_input_tokens");
    let cache_write = count("cache_creation_input_tokens");
    let details = usage.get("output_tokens_details");
    Used {
        input: sum(&[count("input_tokens"), cached, cache_write]),
        output: count("output_tokens"),
        cached,
        cache_write,
        reasoning: details.and_then(|it| it["thinking_tokens"].as_u64()),
    }
}
