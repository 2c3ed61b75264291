//! A request written for Ollama's API.
//!
//! Source: Ollama's API reference (`docs/api.md`), "Generate a chat completion".

use serde_json::{Map, Value, json};

use super::answer_in::Reader;
use crate::ir::{
    Amount, Call, Chat, Fit, Format, Message, Modality, Part, Reasoning, Role, Source, Tool,
    ToolChoice, ToolResult, Unfit, What,
};
use crate::openai::chat::request_out::effort;
use crate::provider::at;
use crate::surface::Surface;
use crate::translate::{Outgoing, Target};

/// Writes a request.
///
/// # Errors
/// What can't be said.
pub fn write(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let body = body(chat, target, fit)?;
    Ok(Outgoing {
        path: at(target.base, "/api", "/chat"),
        query: None,
        body: body.to_string().into_bytes(),
        headers: Vec::new(),
        surface: Surface::Ollama,
        reader: Box::new(Reader::default()),
    })
}

fn body(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Value, Unfit> {
    let Chat {
        messages,
        mut tools,
        tool_choice,
        parallel_tools,
        format,
        reasoning,
        max_tokens,
        temperature,
        top_p,
        top_k,
        frequency_penalty,
        presence_penalty,
        seed,
        stop,
        choices,
        logprobs,
        user,
        output,
        stream,
        stream_usage: _,
        rest,
    } = chat;
    let mut body = Map::new();
    body.insert("model".into(), target.model.into());
    let mut written = Vec::new();
    let mut names = Vec::new();
    for message in messages {
        write_message(message, &mut names, &mut written, fit)?;
    }
    body.insert("messages".into(), written.into());
    if let Some(choice) = tool_choice {
        match choice.value {
            ToolChoice::Auto => {}
            ToolChoice::None => tools.clear(),
            ToolChoice::Among {
                names,
                required: false,
            } => tools.retain(|tool| names.contains(&tool.name)),
            _ => fit.lacks(choice.at)?,
        }
    }
    // Models call as many as they like.
    if let Some(parallel) = parallel_tools.filter(|said| !said.value && !tools.is_empty()) {
        fit.lacks(parallel.at)?;
    }
    if !tools.is_empty() {
        let tools: Result<Vec<_>, _> = tools.into_iter().map(|it| write_tool(it, fit)).collect();
        body.insert("tools".into(), tools?.into());
    }
    if let Some(format) = format {
        body.insert("format".into(), write_format(format.value));
    }
    if let Some(think) = reasoning.and_then(|said| think(said.value)) {
        body.insert("think".into(), think);
    }
    if let Some(top) = logprobs {
        body.insert("logprobs".into(), true.into());
        body.insert("top_logprobs".into(), top.value.into());
    }
    let mut options = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            options.insert(name.to_owned(), value);
        }
    };
    put("num_predict", max_tokens.map(|said| said.value.into()));
    put("temperature", temperature.map(|said| said.value.into()));
    put("top_p", top_p.map(|said| said.value.into()));
    put("top_k", top_k.map(|said| said.value.into()));
    put(
        "frequency_penalty",
        frequency_penalty.map(|said| said.value.into()),
    );
    put(
        "presence_penalty",
        presence_penalty.map(|said| said.value.into()),
    );
    put("seed", seed.map(|said| said.value.into()));
    put("stop", stop.map(|said| said.value.into()));
    if !options.is_empty() {
        body.insert("options".into(), options.into());
    }
    body.insert("stream".into(), stream.into());
    fit.lacks_any(choices)?;
    fit.hints_any(user);
    fit.lacks_any(output.filter(|said| said.value != [Modality::Text]))?;
    for said in rest {
        fit.lacks(said.at)?;
    }
    Ok(Value::Object(body))
}

/// One turn becomes one message, but for results of tools, of which each is a message. `names` are those of
/// the calls so far, by their ids.
fn write_message(
    message: Message,
    names: &mut Vec<(String, String)>,
    to: &mut Vec<Value>,
    fit: &mut Fit,
) -> Result<(), Unfit> {
    let Message { role, parts, name } = message;
    fit.lacks_any(name)?;
    let (mut text, mut thoughts) = (String::new(), String::new());
    let (mut images, mut calls) = (Vec::new(), Vec::new());
    let mut results = false;
    for part in parts {
        if let Some(cache) = part.cache {
            fit.hints(cache.at);
        }
        match part.what {
            What::Result(result) => {
                results = true;
                to.push(tool_message(result, names, fit)?);
            }
            What::Call(call) => {
                names.push((call.id.clone(), call.name.clone()));
                calls.push(write_call(call));
            }
            // Seals of other providers mean nothing here.
            What::Reasoning { text, .. } => thoughts.push_str(&text),
            What::Redacted(_) => {}
            what => write_part(what, &part.at, &mut text, &mut images, fit)?,
        }
    }
    if results && text.is_empty() && images.is_empty() {
        return Ok(());
    }
    let mut written = Map::new();
    let word = match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    written.insert("role".into(), word.into());
    written.insert("content".into(), text.into());
    if !images.is_empty() {
        written.insert("images".into(), images.into());
    }
    if !thoughts.is_empty() {
        written.insert("thinking".into(), thoughts.into());
    }
    if !calls.is_empty() {
        written.insert("tool_calls".into(), calls.into());
    }
    to.push(Value::Object(written));
    Ok(())
}

/// Texts are joined by an empty line: a message has one.
fn write_part(
    what: What,
    at: &str,
    text: &mut String,
    images: &mut Vec<Value>,
    fit: &mut Fit,
) -> Result<(), Unfit> {
    match what {
        What::Text(more)
        | What::Refusal(more)
        | What::Document {
            source: Source::Text(more),
            ..
        } => {
            if !text.is_empty() {
                text.push_str("\n\n");
            }
            text.push_str(&more);
        }
        What::Image {
            source: Source::Data { base64, .. },
            detail,
        } => {
            if detail.is_some_and(|detail| detail != "auto") {
                fit.lacks(format!("{at}.detail"))?;
            }
            images.push(base64.into());
        }
        _ => fit.lacks(at)?,
    }
    Ok(())
}

fn write_call(call: Call) -> Value {
    let arguments = match serde_json::from_str::<Value>(&call.arguments) {
        Ok(arguments @ Value::Object(_)) => arguments,
        // What a model wrote wrongly it may see again.
        Ok(Value::Null) | Err(_) if call.arguments.trim().is_empty() => json!({}),
        _ => json!({"arguments": call.arguments}),
    };
    json!({"function": {"name": call.name, "arguments": arguments}})
}

fn tool_message(
    result: ToolResult,
    names: &[(String, String)],
    fit: &mut Fit,
) -> Result<Value, Unfit> {
    let ToolResult {
        id,
        name,
        parts,
        error: _,
    } = result;
    let called = || {
        let call = names.iter().rev().find(|(known, _)| *known == id)?;
        Some(call.1.clone())
    };
    let name = name.or_else(called);
    let (mut text, mut images) = (String::new(), Vec::new());
    for Part { what, cache, at } in parts {
        fit.hints_any(cache);
        write_part(what, &at, &mut text, &mut images, fit)?;
    }
    let mut written = Map::new();
    written.insert("role".into(), "tool".into());
    written.insert("content".into(), text.into());
    if !images.is_empty() {
        written.insert("images".into(), images.into());
    }
    if let Some(name) = name {
        written.insert("tool_name".into(), name.into());
    }
    Ok(Value::Object(written))
}

fn write_tool(tool: Tool, fit: &mut Fit) -> Result<Value, Unfit> {
    let Tool {
        name,
        description,
        schema,
        strict,
        cache,
        at: _,
    } = tool;
    fit.hints_any(cache);
    fit.lacks_any(strict.filter(|said| said.value))?;
    let mut function = Map::new();
    function.insert("name".into(), name.into());
    if let Some(description) = description {
        function.insert("description".into(), description.into());
    }
    let schema = schema.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
    function.insert("parameters".into(), schema);
    Ok(json!({"type": "function", "function": function}))
}

/// The schema alone: what is said of it is said in it.
fn write_format(format: Format) -> Value {
    match format {
        Format::Json => "json".into(),
        Format::Schema {
            mut schema,
            description,
            ..
        } => {
            if let (Some(map), Some(description)) = (schema.as_object_mut(), description) {
                map.entry("description")
                    .or_insert_with(|| description.into());
            }
            schema
        }
    }
}

/// `true`, `false`, or how much.
fn think(reasoning: Reasoning) -> Option<Value> {
    Some(match reasoning.amount {
        Amount::Default => return None,
        Amount::Off => false.into(),
        Amount::Adaptive => true.into(),
        amount => match effort(amount)? {
            "minimal" => "low".into(),
            "xhigh" => "high".into(),
            word => word.into(),
        },
    })
}
