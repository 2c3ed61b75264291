//! What is told in each of the golden files, and how each client's API says it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::golden::{Client, Upstream};
use crate::seen::{Api, Choice, Seen, Used};

/// Checks an answer as the client's API says it, against the story and what the upstream itself says.
pub fn check(feature: &str, client: &Client, upstream: &Upstream, told: Option<&Seen>, got: &Seen) {
    let said = got.first();
    let stem = feature.trim_end_matches("_stream");
    let text = match stem {
        "text" | "stream" | "system" => "Hello there!",
        "stop" => told.map_or("Hello there!", |told| told.choices[&0].text.trim_end()),
        "tool_result" => "It is 18 degrees in Paris.",
        "schema" => r#"{"name":"Ada","age":36}"#,
        "reasoning" => "4",
        "image" => told.map_or("", |told| &told.choices[&0].text),
        _ => "",
    };
    match stem {
        "schema" => assert_eq!(json_of(&said.text), json_of(text)),
        "image" => assert!(!said.text.is_empty()),
        // A model may say something before it calls.
        "tools" | "parallel_tools" => {}
        _ => assert_eq!(said.text.trim_end(), text),
    }
    let cities: &[&str] = match stem {
        "tools" => &["Paris"],
        "parallel_tools" => &["Paris", "Rome"],
        _ => &[],
    };
    let calls: Vec<_> = (cities.iter())
        .map(|city| ("get_weather".to_owned(), json!({"city": city})))
        .collect();
    assert_eq!(said.called(), calls);
    // Azure's models don't tell their thoughts.
    if stem == "reasoning" && upstream.name != "azure" {
        assert_eq!(said.thoughts, "Simple sum.");
    }
    let output = if stem == "reasoning" { 5 } else { 4 };
    let used = got.usage.expect("usage");
    assert_eq!((used.input, used.output), (Some(12), Some(output)));
    same(client, upstream, told, got);
    let finish = match stem {
        "tools" | "parallel_tools" => "calls",
        // Only some tell what ended it.
        "stop" if told.is_some_and(|it| meaning(&it.first()) == "stop text") => "stop text",
        _ => "stop",
    };
    assert_eq!(meaning(&said), word(client.answers, finish), "{said:?}");
}

/// Checks that what a client gets is what the upstream said, as far as the client's API has words for it.
pub fn same(client: &Client, upstream: &Upstream, told: Option<&Seen>, got: &Seen) {
    let said = got.first();
    assert_ids(client.answers, &said);
    let Some(told) = told else { return };
    let several = matches!(client.answers, Api::Chat | Api::Completions | Api::Gemini);
    let choices = told.choices.iter().filter(|(at, _)| several || **at == 0);
    let none = Choice::default();
    for (at, told) in choices {
        let said = got.choices.get(at).unwrap_or(&none);
        assert_eq!(said.text, text_of(client.answers, told), "text");
        if client.answers != Api::Completions {
            assert_eq!(said.thoughts, told.thoughts, "thoughts");
        }
        if client.calls() {
            assert_eq!(said.called(), told.called(), "calls");
        }
        for (said, told) in said.calls.iter().zip(&told.calls) {
            if !told.id.is_empty() && client.answers != Api::Ollama {
                assert_eq!(said.id, told.id, "ids of calls");
            }
        }
        if has_seals(client.answers) && upstream.answers.is_some_and(has_seals) {
            // Messages have no place for the seal of a call.
            if client.answers != Api::Messages || told.calls.is_empty() {
                assert_eq!(unwrapped(client.answers, said), seals(told), "seals");
            }
        }
        let finish = match meaning(told) {
            // Who can't ask for calls doesn't get any.
            "calls" if !client.calls() => continue,
            // A refusal is told as text, and that it is one by the reason.
            "stop" if client.answers == Api::Messages && !told.refusal.is_empty() => "refusal",
            meaning => word(client.answers, meaning),
        };
        assert_eq!(meaning(said), finish, "{said:?} of {told:?}");
    }
    let usage = |used: Option<Used>| {
        let used = tokens(client.answers, used.unwrap_or_default());
        // None is as good as zeros: some APIs must say something.
        (used != tokens(client.answers, Used::default())).then_some(used)
    };
    assert_eq!(usage(got.usage), usage(told.usage), "usage");
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// Where ids belong to an API, all calls have one, and no two the same.
fn assert_ids(api: Api, said: &Choice) {
    if matches!(api, Api::Ollama | Api::Gemini) {
        return;
    }
    let mut ids: Vec<_> = said.calls.iter().map(|call| &call.id).collect();
    assert!(ids.iter().all(|id| !id.is_empty()), "{said:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), said.calls.len(), "{said:?}");
}

/// A refusal is text where an API has no other word for it.
fn text_of(api: Api, told: &Choice) -> String {
    match api {
        Api::Chat | Api::Responses => told.text.clone(),
        _ => told.text.clone() + &told.refusal,
    }
}

fn has_seals(api: Api) -> bool {
    matches!(api, Api::Chat | Api::Messages | Api::Gemini | Api::Converse)
}

/// Seals, and thoughts that only the provider can read.
fn seals(said: &Choice) -> Vec<String> {
    said.seals.iter().chain(&said.redacted).cloned().collect()
}

/// Gemini's seals are bytes: clients get those of others wrapped as the bytes of their text.
fn unwrapped(api: Api, said: &Choice) -> Vec<String> {
    let unwrap = |seal: String| {
        let bytes = STANDARD.decode(seal).expect("base64");
        let text = String::from_utf8(bytes).expect("a text");
        text.trim_start_matches("redacted:").to_owned()
    };
    match api {
        Api::Gemini => seals(said).into_iter().map(unwrap).collect(),
        _ => seals(said),
    }
}

/// What an API can tell of usage; what wasn't said may be a zero.
fn tokens(api: Api, used: Used) -> Used {
    let used = Used {
        input: Some(used.input.unwrap_or(0)),
        output: Some(used.output.unwrap_or(0)),
        cached: Some(used.cached.unwrap_or(0)),
        cache_write: Some(used.cache_write.unwrap_or(0)),
        reasoning: Some(used.reasoning.unwrap_or(0)),
    };
    match api {
        Api::Ollama => Used {
            cached: None,
            cache_write: None,
            reasoning: None,
            ..used
        },
        Api::Messages => Used {
            reasoning: None,
            ..used
        },
        Api::Gemini => Used {
            cache_write: None,
            ..used
        },
        _ => used,
    }
}

/// What each API's word for the end means.
fn meaning(said: &Choice) -> &'static str {
    match said.finish.as_deref() {
        None => "nothing",
        Some(
            "stop" | "end_turn" | "STOP" | "COMPLETE" | "completed" | "eos" | "finish_reason_stop",
        ) => match said.calls.is_empty() {
            true => "stop",
            false => "calls",
        },
        Some("stop_sequence" | "STOP_SEQUENCE") => "stop text",
        Some(
            "length"
            | "max_tokens"
            | "MAX_TOKENS"
            | "max_output_tokens"
            | "model_context_window_exceeded",
        ) => "length",
        Some("tool_calls" | "tool_use" | "TOOL_CALL" | "function_call") => "calls",
        Some("content_filter" | "SAFETY" | "content_filtered" | "guardrail_intervened") => "filter",
        Some("refusal") => "refusal",
        Some("pause_turn") => "pause",
        Some(_) => "other",
    }
}

/// The nearest that an API has to a meaning.
fn word(api: Api, meaning: &'static str) -> &'static str {
    match (api, meaning) {
        (Api::Messages, "filter") => "refusal",
        (Api::Messages, "other") => "stop",
        (Api::Messages, meaning) => meaning,
        (_, "stop text" | "pause") => "stop",
        (Api::Chat | Api::Completions | Api::Responses, "refusal") => "filter",
        (Api::Gemini, "refusal") => "filter",
        (Api::Ollama, "filter" | "refusal" | "other") => "stop",
        (Api::Chat | Api::Completions | Api::Responses, "other") => "stop",
        (Api::Completions, "calls") => "stop",
        (_, meaning) => meaning,
    }
}
