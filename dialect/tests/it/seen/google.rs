//! Gemini.

use serde_json::Value;

use super::openai::list;
use super::{Call, Happened, Seen, Used, push, sum, text};

pub fn gemini(events: &[Happened], seen: &mut Seen) {
    let mut open = false;
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
                    call(said, &mut choice.calls, &mut open);
                }
                // What the model ran by itself is told as text.
                if let Some(code) = part.get("executableCode") {
                    let language = text(&code["language"]).unwrap_or_default().to_lowercase();
                    let code = text(&code["code"]).unwrap_or_default();
                    let told = format!("```{language}\n{}\n```\n", code.trim_end_matches('\n'));
                    choice.text.push_str(&told);
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

/// A call, or a piece of the one that is open: then its arguments come by their places.
fn call(said: &Value, calls: &mut Vec<Call>, open: &mut bool) {
    if !*open {
        let mut call = Call::default();
        push(&mut call.id, &said["id"]);
        push(&mut call.name, &said["name"]);
        call.arguments = match &said["args"] {
            Value::Null => "{}".to_owned(),
            args => args.to_string(),
        };
        calls.push(call);
    }
    let call = calls.last_mut().expect("a call");
    for piece in list(&said["partialArgs"]) {
        let mut arguments: Value = serde_json::from_str(&call.arguments).expect("JSON");
        let path = piece["jsonPath"].as_str().expect("a path");
        let name = path.strip_prefix("$.").expect("a member of the arguments");
        let mut value = text(&arguments[name]).unwrap_or_default();
        push(&mut value, &piece["stringValue"]);
        arguments[name] = value.into();
        call.arguments = arguments.to_string();
    }
    *open = said["willContinue"] == true;
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
