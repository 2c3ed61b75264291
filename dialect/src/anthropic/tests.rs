//! What is read and written again says the same; what other dialects say arrives whole.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::ir::{Event, FailureKind, Fit, Unfit};
use crate::provider::{Dialect, Provider};
use crate::surface::{Form, Surface};
use crate::translate::{Ask, Outgoing, Read, Reads, Target, Translator, Writes, request};

use super::answer_in::Reader;
use super::answer_out::Writer;

fn ask(surface: Surface, body: &[u8]) -> Ask<'_> {
    Ask {
        surface,
        path: "/",
        query: None,
        body,
        id: "1",
        now: 7,
        model: "claude-sonnet-4-5",
    }
}

/// A chat client's request, written for a model of Anthropic's; and what was dropped of it.
fn out_of_chat(model: &str, lenient: bool, said: &Value) -> Result<(Value, Vec<String>), Unfit> {
    let provider = Provider::new(Dialect::Anthropic);
    let target = Target {
        provider: &provider,
        model,
        base: "",
        lenient,
        ask_usage: true,
    };
    let body = said.to_string();
    let translated = request(&ask(Surface::Chat, body.as_bytes()), &target)?;
    assert_eq!(translated.path, "/v1/messages");
    let body = serde_json::from_slice(&translated.body).expect("JSON");
    Ok((body, translated.dropped))
}

/// The same of a request that is refused: which place is to blame.
fn blamed(model: &str, said: &Value) -> String {
    match out_of_chat(model, false, said) {
        Err(Unfit::Inexpressible { at, .. }) => at,
        other => panic!("it isn't refused: {other:?}"),
    }
}

fn asked(more: Value) -> Value {
    let mut said = json!({"messages": [{"role": "user", "content": "Hi"}]});
    for (name, value) in more.as_object().expect("an object") {
        said[name] = value.clone();
    }
    said
}

/// A Messages request as it is written again.
fn again(model: &str, body: &[u8]) -> Result<(Value, Outgoing), Unfit> {
    let mut fit = Fit::new("anthropic", false);
    let Read::Chat(chat, _) = super::request_in::read(&ask(Surface::Messages, body), &mut fit)?
    else {
        panic!("it is a chat");
    };
    let provider = Provider::new(Dialect::Anthropic);
    let target = Target {
        provider: &provider,
        model,
        base: "/v1",
        lenient: false,
        ask_usage: true,
    };
    let outgoing = super::request_out::write(*chat, &target, &mut fit)?;
    let body = serde_json::from_slice(&outgoing.body).expect("JSON");
    Ok((body, outgoing))
}

/// An answer through a translator, in pieces of `cut` bytes.
fn through(mut translator: Translator, form: Form, answer: &[u8], cut: usize) -> Vec<u8> {
    translator.begin(form);
    let mut out = Vec::new();
    for piece in answer.chunks(cut) {
        translator.feed(piece, &mut out).expect("an answer");
    }
    translator.end(&mut out).expect("an end");
    out
}

fn reader() -> Box<dyn Reads> {
    Box::new(Reader::default())
}

fn writer() -> Box<dyn Writes> {
    Box::new(Writer::new(&ask(Surface::Messages, b"")))
}

/// The data of a stream's events.
fn events(stream: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stream).expect("text");
    let mut said = Vec::new();
    for event in text.split("\n\n").filter(|it| !it.is_empty()) {
        let (name, data) = event.split_once("\ndata: ").expect("a name and data");
        let data: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        said.push(data);
    }
    said
}

/// The message that a client puts together of a stream; blocks must come one after another.
fn put_together(stream: &[u8]) -> Value {
    let (mut message, mut open, mut partial) = (Value::Null, None, String::new());
    for event in events(stream) {
        let index = event["index"].as_u64().map(|it| it as usize);
        match event["type"].as_str().expect("a type") {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                assert_eq!(open, None, "a block begins in another");
                let blocks = message["content"].as_array_mut().expect("a list");
                assert_eq!(index, Some(blocks.len()));
                open = index;
                partial.clear();
                blocks.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!(open, index, "a delta of another block");
                let block = &mut message["content"][index.expect("an index")];
                let delta = &event["delta"];
                for name in ["text", "thinking", "signature"] {
                    if let Some(text) = delta[name].as_str() {
                        let before = block[name].as_str().unwrap_or_default();
                        block[name] = format!("{before}{text}").into();
                    }
                }
                partial.push_str(delta["partial_json"].as_str().unwrap_or_default());
            }
            "content_block_stop" => {
                assert_eq!(open.take(), index);
                if !partial.is_empty() {
                    message["content"][index.expect("an index")]["input"] =
                        serde_json::from_str(&partial).expect("arguments");
                }
            }
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event["delta"]["stop_sequence"].clone();
                for (name, value) in event["usage"].as_object().expect("usage") {
                    message["usage"][name] = value.clone();
                }
            }
            _ => {}
        }
    }
    assert_eq!(open, None, "a block stays open");
    message
}

fn golden(of: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/translate");
    let files = std::fs::read_dir(folder.join(of)).expect("goldens");
    let mut files: Vec<PathBuf> = files.map(|it| it.expect("a file").path()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).expect("a file");
        let name = path.file_name().expect("a name");
        (name.to_string_lossy().into_owned(), bytes)
    };
    files.into_iter().map(read).collect()
}

// === requests ===

#[test]
fn a_request_that_is_read_and_written_is_the_same() {
    for (name, bytes) in golden("clients/messages") {
        let mut said: Value = serde_json::from_slice(&bytes).expect("JSON");
        // An effort is an effort of models that know it.
        let model = match name.starts_with("reasoning") {
            true => "claude-opus-4-6",
            false => "claude-sonnet-4-5",
        };
        said["model"] = model.into();
        let (mut written, outgoing) = again(model, &bytes).expect(&name);
        // One text may stand alone.
        for said in [&mut said, &mut written] {
            let system = said["system"][0]["text"].clone();
            if system.is_string() {
                said["system"] = system;
            }
            for message in said["messages"].as_array_mut().expect("messages") {
                for block in message["content"].as_array_mut().into_iter().flatten() {
                    if let Some(text) = block["content"][0].get("text").cloned() {
                        block["content"] = text;
                    }
                }
            }
            if said["system"].is_null() {
                said.as_object_mut().expect("a body").shift_remove("system");
            }
        }
        assert_eq!(written, said, "{name}");
        assert_eq!(outgoing.path, "/v1/messages");
        let version = ("anthropic-version", "2023-06-01".to_owned());
        assert_eq!(outgoing.headers, [version]);
    }
}

#[test]
fn blocks_of_all_kinds_are_read_and_written() {
    let said = json!({"model": "claude-sonnet-4-5", "max_tokens": 10, "messages": [
        {"role": "user", "content": [
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
             "title": "A", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "b"}},
            {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "r"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "is_error": true, "content": [
                {"type": "text", "text": "no"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aa=="}},
            ]},
            {"type": "text", "text": "Well?"},
        ]},
    ], "tools": [{"name": "f", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
       "tool_choice": {"type": "auto", "disable_parallel_tool_use": true},
       "metadata": {"user_id": "u"}, "temperature": 0.5, "top_k": 3});
    let (written, outgoing) = again("claude-sonnet-4-5", said.to_string().as_bytes()).expect("it");
    assert_eq!(written, said);
    let beta = ("anthropic-beta", "files-api-2025-04-14".to_owned());
    assert_eq!(outgoing.headers[1], beta);
}

#[test]
fn a_search_result_says_where_it_is_from() {
    let said = json!({"max_tokens": 10, "messages": [{"role": "user", "content": [
        {"type": "search_result", "source": "https://x", "title": "X",
         "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}]});
    let (written, _) = again("claude-sonnet-4-5", said.to_string().as_bytes()).expect("it");
    let block = &written["messages"][0]["content"][0];
    assert_eq!(block["title"], "X");
    assert_eq!(block["source"]["data"], "Source: https://x\n\na\nb");
}

#[test]
fn a_cache_mark_on_the_whole_request_is_one_on_its_last_part() {
    let said = json!({"max_tokens": 10, "cache_control": {"type": "ephemeral"},
        "messages": [{"role": "user", "content": "Hi"}]});
    let (written, _) = again("claude-sonnet-4-5", said.to_string().as_bytes()).expect("it");
    let content = json!([{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]);
    assert_eq!(written["messages"][0]["content"], content);
}

#[test]
fn recorded_requests_are_read() {
    let Some((folder, index)) = recordings() else {
        return;
    };
    let mut seen = 0;
    for case in &index {
        let surface = match case["api"].as_str() {
            Some("anthropic-messages") => Surface::Messages,
            Some("anthropic-count-tokens") => Surface::MessagesCount,
            _ => continue,
        };
        if case["status"] != 200 {
            continue;
        }
        let file = case["request"].as_str().expect("a file");
        let bytes = std::fs::read(folder.join(file)).expect("a recording");
        let mut fit = Fit::new("x", false);
        let read = super::request_in::read(&ask(surface, &bytes), &mut fit);
        let Ok(Read::Chat(chat, _)) = read else {
            panic!("{file}: {read:?}");
        };
        let said: Value = serde_json::from_slice(&bytes).expect("JSON");
        let rest: Vec<_> = chat.rest.iter().map(|said| &*said.at).collect();
        println!("{file}: no place for {rest:?}");
        let own = said["tools"].as_array().into_iter().flatten();
        let own = own.filter(|it| it["type"].as_str().is_some_and(|it| it != "custom"));
        let tools = (rest.iter()).filter(|at| at.starts_with("tools[") && at.ends_with(']'));
        assert_eq!(tools.count(), own.count(), "{file}");
        assert_eq!(chat.stream, said["stream"] == true, "{file}");
        assert!(!chat.messages.is_empty(), "{file}");
        seen += 1;
    }
    assert!(seen > 10, "{seen} recordings");
}

#[test]
fn what_only_anthropic_has_is_not_lost_silently() {
    let said = json!({"max_tokens": 10, "container": "c", "tools": [{"type": "web_search_20250305", "name": "w"}],
        "messages": [{"role": "assistant", "content": [{"type": "server_tool_use", "id": "a", "name": "w", "input": {}}]}]});
    let body = said.to_string();
    let mut fit = Fit::new("x", false);
    let read = super::request_in::read(&ask(Surface::Messages, body.as_bytes()), &mut fit);
    let Ok(Read::Chat(chat, _)) = read else {
        panic!("it is a chat");
    };
    let places: Vec<_> = chat.rest.iter().map(|said| &*said.at).collect();
    assert_eq!(places, ["messages[0].content[0]", "tools[0]", "container"]);
}

#[test]
fn only_counting_needs_no_limit() {
    let body = br#"{"messages":[{"role":"user","content":"Hi"}]}"#;
    let mut fit = Fit::new("x", false);
    let read = super::request_in::read(&ask(Surface::Messages, body), &mut fit);
    assert_eq!(
        read.expect_err("it is missing").to_string(),
        "`max_tokens` is missing"
    );
    super::request_in::read(&ask(Surface::MessagesCount, body), &mut fit).expect("it is read");
    assert_eq!(super::count_out(7), br#"{"input_tokens":7}"#);
}

#[test]
fn a_conversation_of_chat_becomes_turns() {
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let said = json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A"},
        {"role": "user", "content": "B"},
        {"role": "assistant", "content": "", "tool_calls": [call("functions.f:0", "{\"a\":1}"), call("b", "{bad")]},
        {"role": "tool", "tool_call_id": "functions.f:0", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "user", "content": "Well?"},
        {"role": "developer", "content": "In French."},
    ]});
    let (body, _) = out_of_chat("claude-sonnet-4-5", false, &said).expect("it");
    let text = |text: &str| json!({"type": "text", "text": text});
    let result =
        |id: &str, text: &str| json!({"type": "tool_result", "tool_use_id": id, "content": text});
    let used =
        |id: &str, input: Value| json!({"type": "tool_use", "id": id, "name": "f", "input": input});
    assert_eq!(
        body,
        json!({
            "model": "claude-sonnet-4-5",
            "max_tokens": 64_000,
            "system": [text("Be brief."), text("In French.")],
            "messages": [
                {"role": "user", "content": [text("A"), text("B")]},
                {"role": "assistant", "content": [
                    used("functions_f_0", json!({"a": 1})), used("b", json!({"INVALID_JSON": "{bad"}))]},
                {"role": "user", "content": [result("functions_f_0", "1"), result("b", "2"), text("Well?")]},
            ],
        })
    );
}

#[test]
fn instructions_alone_are_what_is_asked() {
    let said = json!({"messages": [{"role": "system", "content": "Write a poem."}]});
    let (body, _) = out_of_chat("claude-sonnet-4-5", false, &said).expect("it");
    assert_eq!(
        body["messages"],
        json!([{"role": "user", "content": "Write a poem."}])
    );
    assert_eq!(body.get("system"), None);
}

#[test]
fn the_assistant_does_not_speak_first() {
    let said = json!({"messages": [
        {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Hi"}]});
    assert_eq!(blamed("claude-sonnet-4-5", &said), "messages[0].content");
    let (body, dropped) = out_of_chat("claude-sonnet-4-5", true, &said).expect("it");
    assert_eq!(dropped, ["messages[0].content"]);
    assert_eq!(body["messages"], json!([{"role": "user", "content": "Hi"}]));
}

#[test]
fn settings_have_their_ranges() {
    let new = "claude-sonnet-4-5";
    for (said, at) in [
        (json!({"temperature": 1.5}), "temperature"),
        (json!({"temperature": 0.5, "top_p": 0.5}), "top_p"),
        (json!({"seed": 1}), "seed"),
        (json!({"n": 2}), "n"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"presence_penalty": 0.5}), "presence_penalty"),
        (json!({"frequency_penalty": 0.5}), "frequency_penalty"),
        (json!({"stop": ["\n"]}), "stop"),
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format",
        ),
        (
            json!({"reasoning_effort": "high", "temperature": 0.5}),
            "temperature",
        ),
        (
            json!({"reasoning_effort": "high", "max_tokens": 1000}),
            "reasoning_effort",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"logit_bias": {"1": 2}}), "logit_bias"),
    ] {
        assert_eq!(blamed(new, &asked(said.clone())), at, "{said}");
        let (body, dropped) = out_of_chat(new, true, &asked(said)).expect("it is dropped");
        assert_eq!(dropped, [at]);
        assert_eq!(body["messages"][0]["content"], "Hi");
    }
    // What is so anyway.
    let said = asked(json!({"temperature": 1, "top_p": 1, "n": 1, "logprobs": false}));
    let (body, _) = out_of_chat(new, false, &said).expect("it");
    assert_eq!(body.as_object().expect("a body").len(), 3, "{body}");
    let both = asked(json!({"temperature": 0.5, "top_p": 0.5}));
    out_of_chat("claude-3-haiku-20240307", false, &both).expect("an old model takes both");
    assert_eq!(
        blamed("claude-opus-4-7", &asked(json!({"temperature": 0.5}))),
        "temperature"
    );
}

#[test]
fn thinking_is_said_as_the_model_knows_it() {
    let said = asked(json!({"reasoning_effort": "medium"}));
    let of = |model: &str, said: &Value| out_of_chat(model, false, said).expect("it").0;
    let body = of("claude-sonnet-4-5", &said);
    assert_eq!(
        body["thinking"],
        json!({"type": "enabled", "budget_tokens": 4096})
    );
    assert_eq!(body.get("output_config"), None);
    let body = of("claude-opus-4-6", &said);
    assert_eq!(body["thinking"], json!({"type": "adaptive"}));
    assert_eq!(body["output_config"], json!({"effort": "medium"}));
    assert_eq!(blamed("claude-3-5-haiku-latest", &said), "reasoning_effort");
    let most = asked(json!({"reasoning_effort": "xhigh"}));
    let body = of("claude-opus-4-1", &most);
    assert_eq!(
        (&body["max_tokens"], &body["thinking"]["budget_tokens"]),
        (&32_000.into(), &27_904.into())
    );
    let body = of("kimi-k2", &most);
    assert_eq!(
        (&body["max_tokens"], &body["thinking"]["budget_tokens"]),
        (&63_998.into(), &31_999.into())
    );
    let short = asked(json!({"reasoning_effort": "medium", "max_tokens": 4000}));
    let body = of("claude-sonnet-4-5", &short);
    assert_eq!(body["thinking"]["budget_tokens"], 2000);
    let off = asked(json!({"reasoning_effort": "none"}));
    assert_eq!(
        of("claude-sonnet-4-5", &off)["thinking"],
        json!({"type": "disabled"})
    );
    assert_eq!(of("claude-3-5-haiku-latest", &off).get("thinking"), None);
}

#[test]
fn a_turn_that_began_without_thoughts_gets_no_budget() {
    let said = json!({"reasoning_effort": "high", "messages": [
        {"role": "user", "content": "A"},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "1"}]});
    let (body, _) = out_of_chat("claude-sonnet-4-5", false, &said).expect("it");
    assert_eq!(body.get("thinking"), None);
    let (body, _) = out_of_chat("claude-opus-4-6", false, &said).expect("it");
    assert_eq!(body["thinking"], json!({"type": "adaptive"}));
}

#[test]
fn tools_are_chosen() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "strict": true}});
    let with = |choice: Value| {
        let said = asked(
            json!({"tools": [tool("f"), tool("g")], "tool_choice": choice, "parallel_tool_calls": false}),
        );
        out_of_chat("claude-sonnet-4-5", false, &said)
            .expect("it")
            .0
    };
    let f = json!({"type": "function", "function": {"name": "f"}});
    let lone = |mut choice: Value| {
        choice["disable_parallel_tool_use"] = true.into();
        choice
    };
    let written =
        |name: &str| json!({"name": name, "input_schema": {"type": "object"}, "strict": true});
    assert_eq!(
        with(json!("required"))["tool_choice"],
        lone(json!({"type": "any"}))
    );
    assert_eq!(with(json!("none"))["tool_choice"], json!({"type": "none"}));
    assert_eq!(
        with(f.clone())["tool_choice"],
        lone(json!({"type": "tool", "name": "f"}))
    );
    assert_eq!(
        with(json!("auto"))["tools"],
        json!([written("f"), written("g")])
    );
    let some = json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [f]}});
    let body = with(some);
    assert_eq!(body["tools"], json!([written("f")]));
    assert_eq!(body["tool_choice"], lone(json!({"type": "auto"})));
}

#[test]
fn a_schema_is_closed() {
    let schema = json!({"type": "object", "properties": {
        "properties": {"type": "array", "items": {"type": "object", "properties": {}}}}});
    let said = asked(
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
    );
    let (body, _) = out_of_chat("claude-sonnet-4-5", false, &said).expect("it");
    assert_eq!(
        body["output_config"]["format"],
        json!({"type": "json_schema", "schema": {
        "type": "object", "additionalProperties": false, "properties": {"properties": {
            "type": "array", "items": {"type": "object", "properties": {}, "additionalProperties": false}}}}})
    );
    assert_eq!(blamed("claude-sonnet-4-0", &said), "response_format");
}

// === answers ===

#[test]
fn an_answer_that_is_read_and_written_is_the_same() {
    for (name, bytes) in golden("upstreams/anthropic") {
        if name.ends_with(".sse") {
            let said = put_together(&bytes);
            let stream = || Translator::of_stream(reader(), writer());
            let whole = through(stream(), Form::Events, &bytes, bytes.len());
            assert_eq!(put_together(&whole), said, "{name}");
            for cut in 1..40 {
                let pieces = through(stream(), Form::Events, &bytes, cut);
                assert_eq!(pieces, whole, "{name} in pieces of {cut}");
            }
            let collected = Translator::of_whole(reader(), writer());
            let collected = through(collected, Form::Events, &bytes, 7);
            let collected: Value = serde_json::from_slice(&collected).expect("JSON");
            assert_eq!(collected, said, "{name}, collected");
        } else if name != "error.json" {
            let said: Value = serde_json::from_slice(&bytes).expect("JSON");
            let whole = Translator::of_whole(reader(), writer());
            let written = through(whole, Form::Body, &bytes, 7);
            let written: Value = serde_json::from_slice(&written).expect("JSON");
            assert_eq!(written, said, "{name}");
            // A client that wanted a stream.
            let stream = Translator::of_stream(reader(), writer());
            let written = through(stream, Form::Body, &bytes, 7);
            assert_eq!(put_together(&written), said, "{name}, streamed");
        }
    }
}

/// What OpenAI's chat streams, as Messages clients get it.
fn of_chat_stream(chunks: &[Value]) -> Vec<u8> {
    let mut stream = String::new();
    for chunk in chunks {
        stream.push_str(&format!("data: {chunk}\n\n"));
    }
    stream.push_str("data: [DONE]\n\n");
    let reader = crate::openai::chat::answer_in::Reader::default();
    let translator = Translator::of_stream(Box::new(reader), writer());
    through(translator, Form::Events, stream.as_bytes(), 11)
}

fn delta(delta: Value) -> Value {
    json!({"id": "chatcmpl-1", "model": "gpt", "choices": [{"index": 0, "delta": delta}]})
}

#[test]
fn mixed_arguments_of_calls_become_blocks_one_after_another() {
    let call = |index: u32, id: &str| {
        delta(
            json!({"tool_calls": [{"index": index, "id": id, "function": {"name": "f", "arguments": ""}}]}),
        )
    };
    let arguments = |index: u32, text: &str| {
        delta(json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]}))
    };
    let stream = of_chat_stream(&[
        delta(json!({"reasoning_content": "hm"})),
        delta(json!({"content": "I look."})),
        call(0, "a"),
        call(1, "b"),
        arguments(1, "{\"x\":"),
        arguments(0, "{\"city\": \"}\\\""),
        arguments(1, "2}"),
        arguments(0, "\"}"),
        call(2, ""),
        delta(json!({"content": "Done."})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 4}}}),
    ]);
    let used =
        |id: &str, input: Value| json!({"type": "tool_use", "id": id, "name": "f", "input": input});
    assert_eq!(
        put_together(&stream),
        json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "gpt",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "I look."},
                used("a", json!({"city": "}\""})),
                used("b", json!({"x": 2})),
                used("call_af63ac4c86019afc_2", json!({})),
                {"type": "text", "text": "Done."},
            ],
            "stop_reason": "tool_use", "stop_sequence": null,
            "usage": {"input_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 5},
        })
    );
    let last = events(&stream);
    assert_eq!(last[last.len() - 1], json!({"type": "message_stop"}));
}

#[test]
fn a_later_call_waits_only_until_the_one_before_is_complete() {
    let mut writer = writer();
    let mut out = Vec::new();
    let call = |call: u32| Event::Call {
        choice: 0,
        call,
        id: "".into(),
        name: "f".into(),
        signature: None,
    };
    let arguments = |call: u32, text: &'static str| Event::Arguments {
        choice: 0,
        call,
        text: text.into(),
    };
    writer.event(call(0), &mut out);
    writer.event(arguments(0, "{"), &mut out);
    writer.event(call(1), &mut out);
    out.clear();
    writer.event(arguments(1, "{\"x\":1"), &mut out);
    assert!(out.is_empty(), "the first isn't complete");
    writer.event(arguments(0, "}"), &mut out);
    let said = events(&out);
    let types: Vec<_> = said
        .iter()
        .map(|it| it["type"].as_str().unwrap_or(""))
        .collect();
    assert_eq!(
        types,
        [
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta"
        ]
    );
    out.clear();
    writer.event(arguments(1, "}"), &mut out);
    assert_eq!(events(&out)[0]["delta"]["partial_json"], "}");
}

#[test]
fn errors_keep_their_kind() {
    for (kind, status, wanted) in [
        ("invalid_request_error", 400, FailureKind::Invalid),
        ("authentication_error", 401, FailureKind::Unauthenticated),
        ("billing_error", 402, FailureKind::Quota),
        ("permission_error", 403, FailureKind::Forbidden),
        ("not_found_error", 404, FailureKind::NotFound),
        ("request_too_large", 413, FailureKind::TooLarge),
        ("rate_limit_error", 429, FailureKind::RateLimited),
        ("api_error", 500, FailureKind::Server),
        ("timeout_error", 504, FailureKind::Timeout),
        ("overloaded_error", 529, FailureKind::Overloaded),
    ] {
        let body =
            json!({"type": "error", "error": {"type": kind, "message": "m"}, "request_id": "1"});
        let failure = reader().failure(status, body.to_string().as_bytes());
        assert_eq!((failure.status, failure.kind), (status, wanted));
        let (written, said) = writer().failure(&failure);
        let said: Value = serde_json::from_slice(&said).expect("JSON");
        assert_eq!((written, said), (status, body));
    }
    // In a stream.
    let mut translator = Translator::of_stream(reader(), writer());
    translator.begin(Form::Events);
    let mut out = Vec::new();
    let event = b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let failure = translator.feed(event, &mut out).expect_err("it failed");
    assert_eq!(failure.kind, FailureKind::Overloaded);
    assert_eq!(events(&out)[0]["error"]["type"], "overloaded_error");
    // A proxy's page.
    let failure = reader().failure(503, b"<html>down</html>");
    assert_eq!(
        (failure.kind, &*failure.message),
        (FailureKind::Overloaded, "<html>down</html>")
    );
}

#[test]
fn recorded_answers_keep_text_calls_and_usage() {
    let Some((folder, index)) = recordings() else {
        return;
    };
    let ours = |it: &&Value| it["api"] == "anthropic-messages";
    let mut seen = 0;
    for case in index.iter().filter(ours) {
        let id = case["id"].as_str().expect("an id");
        let file = case["response"].as_str().expect("a file");
        let bytes = std::fs::read(folder.join(file)).expect("a recording");
        seen += 1;
        if case["status"] != 200 {
            let failure = reader().failure(case["status"].as_u64().expect("one") as u16, &bytes);
            let said: Value = serde_json::from_slice(&bytes).expect("JSON");
            assert_eq!(
                failure.message,
                said["error"]["message"].as_str().expect("one"),
                "{id}"
            );
            continue;
        }
        let (form, mut said) = match case["streamed"] == true {
            true => (Form::Events, recorded_stream(&bytes)),
            false => (Form::Body, serde_json::from_slice(&bytes).expect("JSON")),
        };
        let written = through(Translator::of_whole(reader(), writer()), form, &bytes, 13);
        let mut written: Value = serde_json::from_slice(&written).expect("JSON");
        let told = &written["usage"];
        for (name, at) in [
            ("output", "output_tokens"),
            ("cached", "cache_read_input_tokens"),
        ] {
            let wanted = case["usage"][name].as_u64().unwrap_or(0);
            assert_eq!(told[at].as_u64(), Some(wanted), "{id}: {name}");
        }
        let sum: u64 = [
            "input_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
        ]
        .iter()
        .filter_map(|at| told[*at].as_u64())
        .sum();
        assert_eq!(Some(sum), case["usage"]["input"].as_u64(), "{id}: input");
        assert_eq!(written["stop_reason"], said["stop_reason"], "{id}");
        assert_eq!(simple(&mut written), simple(&mut said), "{id}");
    }
    assert!(seen > 10, "{seen} recordings");
}

/// Where recordings of real traffic are, and their list; they are kept outside of the repository.
fn recordings() -> Option<(PathBuf, Vec<Value>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    let Ok(index) = std::fs::read(folder.join("index.json")) else {
        println!("skipped: there are no recordings at {}", folder.display());
        return None;
    };
    Some((folder, serde_json::from_slice(&index).expect("an index")))
}

#[test]
fn broken_answers_are_failures_and_no_panics() {
    use rand::{RngExt, SeedableRng};
    let mut chance = rand::rngs::StdRng::seed_from_u64(7);
    let streams = golden("upstreams/anthropic");
    let (mut failed, mut passed) = (0, 0);
    for round in 0..4000 {
        let (_, bytes) = &streams[round % streams.len()];
        let mut bytes = bytes.clone();
        for _ in 0..chance.random_range(1..4) {
            let at = chance.random_range(0..bytes.len());
            match chance.random_range(0..3) {
                0 => bytes[at] = chance.random(),
                1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let mut translator = Translator::of_stream(reader(), writer());
        translator.begin(match bytes.starts_with(b"{") {
            true => Form::Body,
            false => Form::Events,
        });
        let mut out = Vec::new();
        let fed = translator.feed(&bytes, &mut out);
        match fed.and_then(|()| translator.end(&mut out)) {
            Ok(()) => passed += 1,
            Err(_) => failed += 1,
        }
        let _ = reader().failure(400, &bytes);
    }
    assert!(
        failed > 100 && passed > 100,
        "{failed} failed, {passed} passed"
    );
}

/// A recorded stream, whose framing isn't ours.
fn recorded_stream(bytes: &[u8]) -> Value {
    let text = std::str::from_utf8(bytes).expect("text");
    let mut plain = String::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("data:")) {
        let data: Value = serde_json::from_str(line).expect("JSON");
        let kind = data["type"].as_str().expect("a type");
        plain.push_str(&format!("event: {kind}\ndata: {data}\n\n"));
    }
    put_together(plain.as_bytes())
}

/// Its texts, thoughts and calls; texts beside each other are one.
fn simple(message: &mut Value) -> Vec<Value> {
    let mut simple: Vec<Value> = Vec::new();
    for block in message["content"].as_array().expect("blocks") {
        let (name, text) = match block["type"].as_str().expect("a type") {
            "text" => ("text", block["text"].as_str().expect("text")),
            "thinking" => {
                let signature = block["signature"].as_str().unwrap_or_default();
                let thoughts = block["thinking"].as_str().expect("thoughts");
                simple.push(json!({"thinking": thoughts, "signature": signature}));
                continue;
            }
            "redacted_thinking" => ("data", block["data"].as_str().expect("data")),
            "tool_use" => {
                let [id, name, input] = ["id", "name", "input"].map(|it| block[it].clone());
                simple.push(json!({"id": id, "name": name, "input": input}));
                continue;
            }
            _ => continue,
        };
        match simple.last_mut() {
            Some(last) if name == "text" && last.get("text").is_some() => {
                let before = last["text"].as_str().unwrap_or_default();
                last["text"] = format!("{before}{text}").into();
            }
            _ => simple.push(json!({ name: text })),
        }
    }
    simple
}
