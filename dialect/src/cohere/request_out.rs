//! A request written for Cohere's API, version 2.
//!
//! Source: Cohere's API reference, "Chat" (`POST /v2/chat`).

use serde_json::{Map, Value, json};

use super::answer_in::Reader;
use crate::ir::{
    Amount, Call, Chat, Fit, Format, Message, Modality, Part, Reasoning, Role, Source, Tool,
    ToolChoice, ToolResult, Unfit, What, call_id,
};
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
        path: at(target.base, "/v2", "/chat"),
        query: None,
        body: body.to_string().into_bytes(),
        headers: Vec::new(),
        surface: Surface::Cohere,
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
    for message in messages {
        write_message(message, &mut written, fit)?;
    }
    body.insert("messages".into(), written.into());
    if let Some(choice) = tool_choice {
        let word = match choice.value {
            ToolChoice::Auto => None,
            ToolChoice::None => Some("NONE"),
            ToolChoice::Required => Some("REQUIRED"),
            // The only tool that there is.
            ToolChoice::Tool(name) => {
                tools.retain(|tool| tool.name == name);
                Some("REQUIRED")
            }
            ToolChoice::Among { names, required } => {
                tools.retain(|tool| names.contains(&tool.name));
                required.then_some("REQUIRED")
            }
        };
        match word {
            None => {}
            // Without tools there is nothing to choose, and nothing to forbid.
            Some("NONE") if tools.is_empty() => {}
            Some(_) if tools.is_empty() => fit.lacks(choice.at)?,
            Some(word) => drop(body.insert("tool_choice".into(), word.into())),
        }
    }
    if let Some(parallel) = parallel_tools.filter(|said| !said.value && !tools.is_empty()) {
        fit.lacks(parallel.at)?;
    }
    if !tools.is_empty() {
        let strict = strict(&tools, fit)?;
        let tools: Result<Vec<_>, _> = tools.into_iter().map(|it| write_tool(it, fit)).collect();
        body.insert("tools".into(), tools?.into());
        if strict {
            body.insert("strict_tools".into(), true.into());
        }
    }
    if let Some(format) = format {
        body.insert("response_format".into(), write_format(format.value));
    }
    if let Some(thinking) = reasoning.and_then(|said| thinking(said.value)) {
        body.insert("thinking".into(), thinking);
    }
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("max_tokens", max_tokens.map(|said| said.value.into()));
    put("temperature", temperature.map(|said| said.value.into()));
    put("p", top_p.map(|said| said.value.into()));
    put("k", top_k.map(|said| said.value.into()));
    put(
        "frequency_penalty",
        frequency_penalty.map(|said| said.value.into()),
    );
    put(
        "presence_penalty",
        presence_penalty.map(|said| said.value.into()),
    );
    put("seed", seed.map(|said| said.value.into()));
    put("stop_sequences", stop.map(|said| said.value.into()));
    put("stream", Some(stream.into()));
    fit.lacks_any(choices)?;
    // Its own are of several tokens at once, without alternatives.
    fit.lacks_any(logprobs)?;
    fit.hints_any(user);
    fit.lacks_any(output.filter(|said| said.value != [Modality::Text]))?;
    for said in rest {
        fit.lacks(said.at)?;
    }
    Ok(Value::Object(body))
}

/// One turn becomes one message, but for results of tools, of which each is a message.
fn write_message(message: Message, to: &mut Vec<Value>, fit: &mut Fit) -> Result<(), Unfit> {
    let Message { role, parts, name } = message;
    fit.lacks_any(name)?;
    let (mut content, mut calls) = (Vec::new(), Vec::new());
    let mut results = false;
    for part in parts {
        if let Some(cache) = part.cache {
            fit.hints(cache.at);
        }
        match part.what {
            What::Result(result) => {
                results = true;
                to.push(tool_message(result, fit)?);
            }
            What::Call(call) => {
                let place = u32::try_from(calls.len()).unwrap_or(u32::MAX);
                calls.push(write_call(call, place));
            }
            // Seals of other providers mean nothing here.
            What::Reasoning { text, .. } => {
                if !text.is_empty() {
                    content.push(json!({"type": "thinking", "thinking": text}));
                }
            }
            What::Redacted(_) => {}
            what => content.extend(write_part(what, &part.at, fit)?),
        }
    }
    if content.is_empty() && results {
        return Ok(());
    }
    let mut written = Map::new();
    let word = match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    written.insert("role".into(), word.into());
    if !content.is_empty() || calls.is_empty() {
        written.insert("content".into(), plain(content));
    }
    if !calls.is_empty() {
        written.insert("tool_calls".into(), calls.into());
    }
    to.push(Value::Object(written));
    Ok(())
}

/// One text stands alone.
fn plain(mut content: Vec<Value>) -> Value {
    match &mut *content {
        [] => Value::String(String::new()),
        [only] if only["type"] == "text" => only["text"].take(),
        _ => Value::Array(content),
    }
}

fn write_part(what: What, at: &str, fit: &mut Fit) -> Result<Option<Value>, Unfit> {
    Ok(Some(match what {
        What::Text(text)
        | What::Refusal(text)
        | What::Document {
            source: Source::Text(text),
            ..
        } => json!({"type": "text", "text": text}),
        What::Image {
            source: source @ (Source::Url(_) | Source::Data { .. }),
            detail,
        } => {
            let url = match source {
                Source::Data { media_type, base64 } => format!("data:{media_type};base64,{base64}"),
                Source::Url(url) | Source::File(url) | Source::Text(url) => url,
            };
            let mut image = Map::new();
            image.insert("url".into(), url.into());
            if let Some(detail) = detail {
                image.insert("detail".into(), detail.into());
            }
            json!({"type": "image_url", "image_url": image})
        }
        _ => {
            fit.lacks(at)?;
            return Ok(None);
        }
    }))
}

fn write_call(call: Call, place: u32) -> Value {
    let Call {
        id,
        name,
        arguments,
        signature: _,
    } = call;
    let id = match id.is_empty() {
        true => call_id(&name, 0, place),
        false => id,
    };
    let arguments = match arguments.is_empty() {
        true => "{}".to_owned(),
        false => arguments,
    };
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

fn tool_message(result: ToolResult, fit: &mut Fit) -> Result<Value, Unfit> {
    let ToolResult {
        id,
        name: _,
        parts,
        error: _,
    } = result;
    let mut content = Vec::new();
    for Part { what, cache, at } in parts {
        fit.hints_any(cache);
        match what {
            // A result has texts and documents only.
            What::Image { .. } => fit.lacks(at)?,
            what => content.extend(write_part(what, &at, fit)?),
        }
    }
    Ok(json!({"role": "tool", "tool_call_id": id, "content": plain(content)}))
}

/// Whether tools are strict, which all are or none.
fn strict(tools: &[Tool], fit: &mut Fit) -> Result<bool, Unfit> {
    let is = |tool: &&Tool| tool.strict.as_ref().is_some_and(|said| said.value);
    if tools.iter().all(|tool| is(&tool)) {
        return Ok(true);
    }
    for tool in tools.iter().filter(is) {
        if let Some(said) = &tool.strict {
            fit.lacks(said.at.clone())?;
        }
    }
    Ok(false)
}

fn write_tool(tool: Tool, fit: &mut Fit) -> Result<Value, Unfit> {
    let Tool {
        name,
        description,
        schema,
        strict: _,
        cache,
        at: _,
    } = tool;
    fit.hints_any(cache);
    let mut function = Map::new();
    function.insert("name".into(), name.into());
    if let Some(description) = description {
        function.insert("description".into(), description.into());
    }
    let schema = schema.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
    function.insert("parameters".into(), schema);
    Ok(json!({"type": "function", "function": function}))
}

fn write_format(format: Format) -> Value {
    match format {
        Format::Json => json!({"type": "json_object"}),
        Format::Schema {
            mut schema,
            description,
            ..
        } => {
            if let (Some(map), Some(description)) = (schema.as_object_mut(), description) {
                map.entry("description")
                    .or_insert_with(|| description.into());
            }
            json!({"type": "json_object", "json_schema": schema})
        }
    }
}

/// On or off, and with how many tokens; there are no efforts.
fn thinking(reasoning: Reasoning) -> Option<Value> {
    Some(match reasoning.amount {
        Amount::Default => return None,
        Amount::Off => json!({"type": "disabled"}),
        Amount::Adaptive | Amount::Effort(_) => json!({"type": "enabled"}),
        Amount::Tokens(tokens) => json!({"type": "enabled", "token_budget": tokens}),
    })
}
