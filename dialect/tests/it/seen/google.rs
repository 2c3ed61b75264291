//! Gemini.

use serde_json::Value;

use super::openai::list;
use super::{Call, Happened, Seen, Used, push, sum, text};

pub fn gemini(events: &[Happened], seen: &mut Seen) {
    for Happened { data, .. } in events {
        if let Some(said) = data.get("error") {
            let mut error = (String::new(), String::new());
            push(&mut error.0, &said["status"]);
            push(&mut error.1, &said["message"]);
            seen.error = Some(error);
        }
        if let Some(reason) = text(&data["promptFeedback"]["blockReason"]) {
            seen.choice(0).finish = Some(reason);
        }
        for (place, candidate) in list(&data["candidates"]).enumerate() {
            let index = candidate["index"].as_u64().unwrap_or(place as u64);
            let choice = seen.choice(index);
            for part in list(&candidate["content"]["parts"]) {
                choice.seals.extend(text(&part["thoughtSignature"]));
                match part["thought"] == true {
                    true => push(&mut choice.thoughts, &part["text"]),
                    false => push(&mut choice.text, &part["text"]),
                }
                choice.media.extend(text(&part["inlineData"]["data"]));
                if let Some(said) = part.get("functionCall") {
                    let mut call = Call::default();
                    push(&mut call.id, &said["id"]);
                    push(&mut call.name, &said["name"]);
                    call.arguments = match &said["args"] {
                        Value::Null => String::new(),
                        args => args.to_string(),
                    };
                    choice.calls.push(call);
                }
            }
            if let Some(word) = text(&candidate["finishReason"]) {
                choice.finish = Some(word);
                seen.ended = true;
            }
        }
        if data["usageMetadata"].is_object() {
            seen.usage = Some(used(&data["usageMetadata"]));
        }
    }
}

fn used(usage: &Value) -> Used {
    let count = |name: &str| usage[name].as_u64();
    let thoughts = count("thoughtsTokenCount");
    Used {
        input: sum(&[count("promptTokenCount"), count("toolUsePromptTokenCount")]),
        output: sum(&[count("candidatesTokenCount"), thoughts]),
        cached: count("cachedContentTokenCount"),
        cache_write: None,
        reasoning: thoughts,
    }
}
