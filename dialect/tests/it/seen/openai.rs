//! OpenAI's three APIs, and what others add to the first.

use serde_json::Value;

use super::{Call, Choice, Happened, Seen, Used, push, text};

pub fn chat(events: &[Happened], seen: &mut Seen) {
    for Happened { data, .. } in events {
        if *data == "[DONE]" {
            seen.ended = true;
            continue;
        }
        if let Some(said) = data.get("error").filter(|it| !it.is_null()) {
            seen.error = Some(error(said));
        }
        let whole = data["object"] == "chat.completion";
        let mut usage = [&data["usage"], &data["x_groq"]["usage"]]
            .into_iter()
            .find_map(used);
        for (place, said) in list(&data["choices"]).enumerate() {
            usage = usage.or_else(|| used(&said["usage"]));
            let index = said["index"].as_u64().unwrap_or(place as u64);
            let choice = seen.choice(index);
            let delta = match &said["message"] {
                Value::Null => &said["delta"],
                message => message,
            };
            turn(delta, choice, whole);
            if let Some(word) = text(&said["finish_reason"]) {
                choice.finish = Some(word);
            }
        }
        seen.usage = usage.or(seen.usage);
    }
}

fn turn(delta: &Value, choice: &mut Choice, whole: bool) {
    let thought = text(&delta["reasoning_content"]).or_else(|| text(&delta["reasoning"]));
    choice.thoughts.push_str(&thought.unwrap_or_default());
    for block in list(&delta["thinking_blocks"]) {
        choice.redacted.extend(text(&block["data"]));
        choice.seals.extend(text(&block["signature"]));
    }
    match &delta["content"] {
        Value::Array(parts) => {
            for part in parts {
                push(&mut choice.text, &part["text"]);
                push(&mut choice.thoughts, &part["thinking"]);
                for thought in list(&part["thinking"]) {
                    push(&mut choice.thoughts, &thought["text"]);
                }
            }
        }
        content => push(&mut choice.text, content),
    }
    push(&mut choice.refusal, &delta["refusal"]);
    for image in list(&delta["images"]) {
        choice.media.extend(text(&image["image_url"]["url"]));
    }
    for (place, said) in list(&delta["tool_calls"]).enumerate() {
        let at = match whole {
            true => place,
            false => said["index"].as_u64().unwrap_or(place as u64) as usize,
        };
        assert!(at <= choice.calls.len(), "call {at} comes before others");
        if at == choice.calls.len() {
            choice.calls.push(Call::default());
        }
        let seal = &said["extra_content"]["google"]["thought_signature"];
        choice.seals.extend(text(seal));
        let call = &mut choice.calls[at];
        if let Some(id) = text(&said["id"]) {
            call.id = id;
        }
        if let Some(name) = text(&said["function"]["name"]) {
            call.name = name;
        }
        push(&mut call.arguments, &said["function"]["arguments"]);
    }
}

pub fn completions(events: &[Happened], seen: &mut Seen) {
    for Happened { data, .. } in events {
        if *data == "[DONE]" {
            seen.ended = true;
            continue;
        }
        if let Some(said) = data.get("error").filter(|it| !it.is_null()) {
            seen.error = Some(error(said));
            continue;
        }
        assert_eq!(data["object"], "text_completion");
        for said in list(&data["choices"]) {
            let choice = seen.choice(said["index"].as_u64().expect("an index"));
            push(&mut choice.text, &said["text"]);
            if let Some(word) = text(&said["finish_reason"]) {
                choice.finish = Some(word);
            }
        }
        seen.usage = used(&data["usage"]).or(seen.usage);
    }
}

/// A stream says all twice: in pieces, and in the object that ends it.
pub fn responses(events: &[Happened], whole: bool, seen: &mut Seen) {
    if whole {
        return response(&events[0].data, seen);
    }
    let mut pieces = Choice::default();
    let mut calls: Vec<(u64, Call)> = Vec::new();
    for (place, Happened { name, data }) in events.iter().enumerate() {
        let kind = data["type"].as_str().expect("a type");
        assert_eq!(name, kind, "the event has its type as its name");
        assert_eq!(data["sequence_number"], place, "events are numbered");
        match kind {
            "response.output_text.delta" => push(&mut pieces.text, &data["delta"]),
            "response.refusal.delta" => push(&mut pieces.refusal, &data["delta"]),
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                push(&mut pieces.thoughts, &data["delta"]);
            }
            "response.output_item.added" if data["item"]["type"] == "function_call" => {
                let mut call = Call::default();
                push(&mut call.id, &data["item"]["call_id"]);
                push(&mut call.name, &data["item"]["name"]);
                calls.push((data["output_index"].as_u64().expect("an index"), call));
            }
            "response.function_call_arguments.delta" => {
                let of = data["output_index"].as_u64().expect("an index");
                let call = calls.iter_mut().find(|(index, _)| *index == of);
                push(&mut call.expect("a call").1.arguments, &data["delta"]);
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                assert_eq!(place + 1, events.len(), "{kind} is the last");
                response(&data["response"], seen);
                seen.ended = true;
            }
            "error" => seen.error = Some(error(data)),
            _ => {}
        }
    }
    if !seen.ended {
        return;
    }
    calls.sort_by_key(|(index, _)| *index);
    pieces.calls = calls.into_iter().map(|(_, call)| call).collect();
    let said = seen.choice(0);
    assert_eq!(pieces.text, said.text, "text in pieces and whole");
    assert_eq!(pieces.refusal, said.refusal, "refusal in pieces and whole");
    assert_eq!(
        pieces.thoughts, said.thoughts,
        "thoughts in pieces and whole"
    );
    assert_eq!(pieces.calls, said.calls, "calls in pieces and whole");
}

fn response(data: &Value, seen: &mut Seen) {
    assert_eq!(data["object"], "response");
    if let Some(said) = data.get("error").filter(|it| !it.is_null()) {
        seen.error = Some(error(said));
    }
    seen.usage = used(&data["usage"]);
    let choice = seen.choice(0);
    for item in list(&data["output"]) {
        match item["type"].as_str() {
            Some("message") => {
                for part in list(&item["content"]) {
                    push(&mut choice.text, &part["text"]);
                    push(&mut choice.refusal, &part["refusal"]);
                }
            }
            Some("reasoning") => {
                for part in list(&item["summary"]).chain(list(&item["content"])) {
                    push(&mut choice.thoughts, &part["text"]);
                }
                choice.seals.extend(text(&item["encrypted_content"]));
            }
            Some("function_call") => {
                let mut call = Call::default();
                push(&mut call.id, &item["call_id"]);
                push(&mut call.name, &item["name"]);
                push(&mut call.arguments, &item["arguments"]);
                choice.calls.push(call);
            }
            _ => {}
        }
    }
    choice.finish = match text(&data["incomplete_details"]["reason"]) {
        Some(reason) => Some(reason),
        None => text(&data["status"]),
    };
}

fn used(usage: &Value) -> Option<Used> {
    let usage = usage.as_object().map(|_| usage)?;
    let count = |names: &[&str]| names.iter().find_map(|it| usage[*it].as_u64());
    let detail = |names: &[&str], what: &str| names.iter().find_map(|it| usage[*it][what].as_u64());
    let prompt = &["prompt_tokens_details", "input_tokens_details"];
    let answer = &["completion_tokens_details", "output_tokens_details"];
    let input = count(&["prompt_tokens", "input_tokens"]);
    let mut output = count(&["completion_tokens", "output_tokens"]);
    let reasoning = detail(answer, "reasoning_tokens").or_else(|| count(&["reasoning_tokens"]));
    // xAI counts thoughts beside what it answers, which the total shows.
    if let (Some(input), Some(said), Some(thought)) = (input, output, reasoning)
        && thought > 0
        && usage["total_tokens"] == input + said + thought
    {
        output = Some(said + thought);
    }
    Some(Used {
        input,
        output,
        cached: detail(prompt, "cached_tokens")
            .or_else(|| count(&["prompt_cache_hit_tokens", "cached_tokens"])),
        cache_write: detail(prompt, "cache_write_tokens"),
        reasoning,
    })
}

pub fn error(said: &Value) -> (String, String) {
    let mut message = String::new();
    push(&mut message, &said["message"]);
    let kind = text(&said["type"]).or_else(|| text(&said["code"]));
    (kind.unwrap_or_default(), message)
}

pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
