//! Ollama, DashScope, Cohere and Bedrock's Converse.

use serde_json::Value;

use super::openai::list;
use super::{Call, Choice, Happened, Seen, Used, push, sum, text};

pub fn ollama(events: &[Happened], whole: bool, seen: &mut Seen) {
    for Happened { data, .. } in events {
        if let Some(message) = text(&data["error"]) {
            seen.error = Some((String::new(), message));
            continue;
        }
        assert!(!seen.ended, "something after `done`");
        let choice = seen.choice(0);
        push(&mut choice.text, &data["response"]);
        push(&mut choice.thoughts, &data["thinking"]);
        let message = &data["message"];
        push(&mut choice.text, &message["content"]);
        push(&mut choice.thoughts, &message["thinking"]);
        for said in list(&message["tool_calls"]) {
            let mut call = Call::default();
            push(&mut call.id, &said["id"]);
            push(&mut call.name, &said["function"]["name"]);
            assert!(
                said["function"]["arguments"].is_object(),
                "arguments are an object"
            );
            call.arguments = said["function"]["arguments"].to_string();
            choice.calls.push(call);
        }
        if data["done"] == true {
            choice.finish = text(&data["done_reason"]);
            seen.ended = true;
            seen.usage = Some(Used {
                input: data["prompt_eval_count"].as_u64(),
                output: data["eval_count"].as_u64(),
                ..Used::default()
            });
        } else {
            assert!(!whole, "a whole answer is done");
        }
    }
}

pub fn dashscope(events: &[Happened], seen: &mut Seen) {
    for Happened { data, .. } in events {
        if let Some(code) = text(&data["code"]) {
            let mut message = String::new();
            push(&mut message, &data["message"]);
            seen.error = Some((code, message));
        }
        let output = &data["output"];
        push(&mut seen.choice(0).text, &output["text"]);
        if let Some(word) = text(&output["finish_reason"]).filter(|it| it != "null") {
            seen.choice(0).finish = Some(word);
        }
        for (place, said) in list(&output["choices"]).enumerate() {
            let choice = seen.choice(said["index"].as_u64().unwrap_or(place as u64));
            let message = &said["message"];
            push(&mut choice.text, &message["content"]);
            for part in list(&message["content"]) {
                push(&mut choice.text, &part["text"]);
            }
            push(&mut choice.thoughts, &message["reasoning_content"]);
            for (place, said) in list(&message["tool_calls"]).enumerate() {
                let at = said["index"].as_u64().unwrap_or(place as u64) as usize;
                if at >= choice.calls.len() {
                    choice.calls.resize(at + 1, Call::default());
                }
                let call = &mut choice.calls[at];
                if let Some(id) = text(&said["id"]) {
                    call.id = id;
                }
                if let Some(name) = text(&said["function"]["name"]) {
                    call.name = name;
                }
                push(&mut call.arguments, &said["function"]["arguments"]);
            }
            if let Some(word) = text(&said["finish_reason"]).filter(|it| it != "null") {
                choice.finish = Some(word);
            }
        }
        let usage = &data["usage"];
        if usage.is_object() {
            let details = [
                &usage["output_tokens_details"],
                &usage["completion_tokens_details"],
            ];
            seen.usage = Some(Used {
                input: usage["input_tokens"].as_u64(),
                output: usage["output_tokens"].as_u64(),
                cached: usage["prompt_tokens_details"]["cached_tokens"].as_u64(),
                cache_write: None,
                reasoning: details
                    .iter()
                    .find_map(|it| it["reasoning_tokens"].as_u64()),
            });
        }
    }
}

pub fn cohere_whole(body: &Value, seen: &mut Seen) {
    let (message, choice) = (&body["message"], seen.choice(0));
    push(&mut choice.thoughts, &message["tool_plan"]);
    for part in list(&message["content"]) {
        push(&mut choice.text, &part["text"]);
        push(&mut choice.thoughts, &part["thinking"]);
    }
    for said in list(&message["tool_calls"]) {
        choice.calls.push(cohere_call(said));
    }
    choice.finish = text(&body["finish_reason"]);
    seen.usage = cohere_used(&body["usage"]);
}

pub fn cohere_stream(events: &[Happened], seen: &mut Seen) {
    for Happened { data, .. } in events {
        if *data == "[DONE]" {
            continue;
        }
        let (message, choice) = (&data["delta"]["message"], seen.choice(0));
        match data["type"].as_str().expect("a type") {
            "content-start" | "content-delta" => {
                push(&mut choice.text, &message["content"]["text"]);
                push(&mut choice.thoughts, &message["content"]["thinking"]);
            }
            "tool-plan-delta" => push(&mut choice.thoughts, &message["tool_plan"]),
            "tool-call-start" => choice.calls.push(cohere_call(&message["tool_calls"])),
            "tool-call-delta" => {
                let call = choice.calls.last_mut().expect("a call");
                let piece = &message["tool_calls"]["function"]["arguments"];
                push(&mut call.arguments, piece);
            }
            "message-end" => {
                choice.finish = text(&data["delta"]["finish_reason"]);
                seen.usage = cohere_used(&data["delta"]["usage"]);
                seen.ended = true;
            }
            _ => {}
        }
    }
}

fn cohere_call(said: &Value) -> Call {
    let mut call = Call::default();
    push(&mut call.id, &said["id"]);
    push(&mut call.name, &said["function"]["name"]);
    push(&mut call.arguments, &said["function"]["arguments"]);
    call
}

fn cohere_used(usage: &Value) -> Option<Used> {
    let tokens = usage["tokens"].as_object()?;
    let count = |name: &str| tokens.get(name)?.as_u64();
    Some(Used {
        input: count("input_tokens"),
        output: count("output_tokens"),
        cached: usage["cached_tokens"].as_u64(),
        ..Used::default()
    })
}

pub fn converse_whole(body: &Value, seen: &mut Seen) {
    let choice = seen.choice(0);
    for block in list(&body["output"]["message"]["content"]) {
        push(&mut choice.text, &block["text"]);
        converse_thought(
            &block["reasoningContent"]["reasoningText"],
            &block["reasoningContent"],
            choice,
        );
        if let Some(said) = block.get("toolUse") {
            let mut call = converse_call(said);
            call.arguments = said["input"].to_string();
            choice.calls.push(call);
        }
    }
    choice.finish = text(&body["stopReason"]);
    seen.usage = converse_used(&body["usage"]);
}

pub fn converse_stream(events: &[Happened], seen: &mut Seen) {
    for Happened { name, data } in events {
        let choice = seen.choice(0);
        match &**name {
            "contentBlockStart" => {
                if let Some(said) = data["start"].get("toolUse") {
                    choice.calls.push(converse_call(said));
                }
            }
            "contentBlockDelta" => {
                let delta = &data["delta"];
                push(&mut choice.text, &delta["text"]);
                converse_thought(
                    &delta["reasoningContent"],
                    &delta["reasoningContent"],
                    choice,
                );
                if let Some(said) = delta.get("toolUse") {
                    let call = choice.calls.last_mut().expect("a call");
                    push(&mut call.arguments, &said["input"]);
                }
            }
            "messageStop" => choice.finish = text(&data["stopReason"]),
            "metadata" => {
                seen.usage = converse_used(&data["usage"]);
                seen.ended = true;
            }
            _ => {}
        }
    }
}

fn converse_thought(thought: &Value, block: &Value, choice: &mut Choice) {
    push(&mut choice.thoughts, &thought["text"]);
    choice.seals.extend(text(&thought["signature"]));
    choice.redacted.extend(text(&block["redactedContent"]));
}

fn converse_call(said: &Value) -> Call {
    let mut call = Call::default();
    push(&mut call.id, &said["toolUseId"]);
    push(&mut call.name, &said["name"]);
    call
}

fn converse_used(usage: &Value) -> Option<Used> {
    usage.as_object()?;
    let count = |name: &str| usage[name].as_u64();
    let cached = count("cacheReadInputTokens");
    let cache_write = count("cacheWriteInputTokens");
    Some(Used {
        input: sum(&[count("inputTokens"), cached, cache_write]),
        output: count("outputTokens"),
        cached,
        cache_write,
        reasoning: None,
    })
}
