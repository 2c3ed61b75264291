//! A request written for DashScope's own API.
//!
//! Source: Alibaba Cloud Model Studio, "DashScope API reference" of Qwen: text goes to one service, what has
//! pictures or sound in it to another, where each message is a list of parts.

use serde_json::{Map, Value, json};

use super::answer_in::Reader;
use crate::ir::{
    Amount, Call, Chat, Effort, Fit, Format, Message, Modality, Part, Reasoning, Role, Source,
    Tool, ToolChoice, ToolResult, Unfit, What, call_id,
};
use crate::provider::at;
use crate::surface::Surface;
use crate::translate::{Outgoing, Target};

const TEXT: &str = "/services/aigc/text-generation/generation";
const MEDIA: &str = "/services/aigc/multimodal-generation/generation";

/// Writes a request.
///
/// # Errors
/// What can't be said.
pub fn write(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let media = has_media(&chat.messages);
    let stream = chat.stream;
    let body = body(chat, media, target, fit)?;
    Ok(Outgoing {
        path: at(target.base, "/api/v1", if media { MEDIA } else { TEXT }),
        query: None,
        body: body.to_string().into_bytes(),
        headers: match stream {
            true => vec![("x-dashscope-sse", "enable".to_owned())],
            false => Vec::new(),
        },
        surface: Surface::DashScope,
        reader: Box::new(Reader::default()),
    })
}

/// Whether something else than text is asked about.
fn has_media(messages: &[Message]) -> bool {
    fn is_media(part: &Part) -> bool {
        match &part.what {
            What::Image { .. } | What::Audio(_) | What::Video(_) => true,
            What::Result(result) => result.parts.iter().any(is_media),
            _ => false,
        }
    }
    messages.iter().flat_map(|it| &it.parts).any(is_media)
}

fn body(chat: Chat, media: bool, target: &Target<'_>, fit: &mut Fit) -> Result<Value, Unfit> {
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
    let mut written = Vec::new();
    for message in messages {
        write_message(message, media, &mut written, fit)?;
    }
    let mut parameters = Map::new();
    parameters.insert("result_format".into(), "message".into());
    if stream {
        parameters.insert("incremental_output".into(), true.into());
    }
    if let Some(choice) = tool_choice {
        let value = match choice.value {
            ToolChoice::Auto => None,
            ToolChoice::None => Some("none".into()),
            ToolChoice::Tool(name) => Some(json!({"type": "function", "function": {"name": name}})),
            ToolChoice::Among {
                names,
                required: false,
            } => {
                tools.retain(|tool| names.contains(&tool.name));
                None
            }
            ToolChoice::Required | ToolChoice::Among { .. } => {
                fit.lacks(choice.at)?;
                None
            }
        };
        if let Some(value) = value.filter(|_| !tools.is_empty()) {
            parameters.insert("tool_choice".into(), value);
        }
    }
    if !tools.is_empty() {
        let tools: Result<Vec<_>, _> = tools.into_iter().map(|it| write_tool(it, fit)).collect();
        parameters.insert("tools".into(), tools?.into());
        // It calls one at a time unless it is told so; the APIs of others do as they see fit.
        let parallel = parallel_tools.is_none_or(|said| said.value);
        parameters.insert("parallel_tool_calls".into(), parallel.into());
    }
    if let Some(format) = format {
        parameters.insert("response_format".into(), write_format(format.value));
    }
    if let Some(reasoning) = reasoning {
        think(reasoning.value, &mut parameters);
    }
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            parameters.insert(name.to_owned(), value);
        }
    };
    put("max_tokens", max_tokens.map(|said| said.value.into()));
    put("temperature", temperature.map(|said| said.value.into()));
    put("top_p", top_p.map(|said| said.value.into()));
    put("top_k", top_k.map(|said| said.value.into()));
    put(
        "presence_penalty",
        presence_penalty.map(|said| said.value.into()),
    );
    put("seed", seed.map(|said| said.value.into()));
    put("stop", stop.map(|said| said.value.into()));
    put("n", choices.map(|said| said.value.into()));
    if let Some(top) = logprobs {
        put("logprobs", Some(true.into()));
        put("top_logprobs", Some(top.value.into()));
    }
    fit.lacks_any(frequency_penalty)?;
    fit.hints_any(user);
    fit.lacks_any(output.filter(|said| said.value != [Modality::Text]))?;
    for said in rest {
        fit.lacks(said.at)?;
    }
    Ok(json!({
        "model": target.model,
        "input": {"messages": written},
        "parameters": parameters,
    }))
}

/// One turn becomes one message, but for results of tools, of which each is a message.
fn write_message(
    message: Message,
    media: bool,
    to: &mut Vec<Value>,
    fit: &mut Fit,
) -> Result<(), Unfit> {
    let Message { role, parts, name } = message;
    fit.lacks_any(name)?;
    let (mut content, mut calls) = (Vec::new(), Vec::new());
    let mut thoughts = String::new();
    let mut results = false;
    for part in parts {
        if let Some(cache) = part.cache {
            fit.hints(cache.at);
        }
        match part.what {
            What::Result(result) => {
                results = true;
                to.push(tool_message(result, media, fit)?);
            }
            What::Call(call) => {
                let place = u32::try_from(calls.len()).unwrap_or(u32::MAX);
                calls.push(write_call(call, place));
            }
            // Seals of other providers mean nothing here.
            What::Reasoning { text, .. } => thoughts.push_str(&text),
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
    written.insert("content".into(), whole(content, media));
    if !thoughts.is_empty() {
        written.insert("reasoning_content".into(), thoughts.into());
    }
    if !calls.is_empty() {
        written.insert("tool_calls".into(), calls.into());
    }
    to.push(Value::Object(written));
    Ok(())
}

/// The parts as a list, or as the text that they are together.
fn whole(content: Vec<Value>, media: bool) -> Value {
    if media {
        return Value::Array(content);
    }
    let texts: Vec<_> = content
        .iter()
        .filter_map(|it| it["text"].as_str())
        .collect();
    texts.join("\n\n").into()
}

fn write_part(what: What, at: &str, fit: &mut Fit) -> Result<Option<Value>, Unfit> {
    let (name, source) = match what {
        What::Text(text)
        | What::Refusal(text)
        | What::Document {
            source: Source::Text(text),
            ..
        } => return Ok(Some(json!({"text": text}))),
        What::Image { source, detail } => {
            if detail.is_some_and(|detail| detail != "auto") {
                fit.lacks(format!("{at}.detail"))?;
            }
            ("image", source)
        }
        What::Audio(source) => ("audio", source),
        What::Video(source) => ("video", source),
        _ => {
            fit.lacks(at)?;
            return Ok(None);
        }
    };
    let url = match source {
        Source::Url(url) => url,
        Source::Data { media_type, base64 } => format!("data:{media_type};base64,{base64}"),
        Source::File(_) | Source::Text(_) => {
            fit.lacks(at)?;
            return Ok(None);
        }
    };
    let mut part = Map::new();
    part.insert(name.into(), url.into());
    Ok(Some(part.into()))
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
    json!({
        "id": id,
        "type": "function",
        "index": place,
        "function": {"name": name, "arguments": arguments},
    })
}

fn tool_message(result: ToolResult, media: bool, fit: &mut Fit) -> Result<Value, Unfit> {
    let ToolResult {
        id,
        name,
        parts,
        error: _,
    } = result;
    let mut content = Vec::new();
    for Part { what, cache, at } in parts {
        fit.hints_any(cache);
        content.extend(write_part(what, &at, fit)?);
    }
    let mut written = Map::new();
    written.insert("role".into(), "tool".into());
    written.insert("content".into(), whole(content, media));
    written.insert("tool_call_id".into(), id.into());
    if let Some(name) = name {
        written.insert("name".into(), name.into());
    }
    Ok(written.into())
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
    // It must be there.
    let description = description.unwrap_or_default();
    function.insert("description".into(), description.into());
    let schema = schema.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
    function.insert("parameters".into(), schema);
    Ok(json!({"type": "function", "function": function}))
}

fn write_format(format: Format) -> Value {
    match format {
        Format::Json => json!({"type": "json_object"}),
        Format::Schema {
            name,
            description,
            schema,
            strict,
        } => {
            let mut said = Map::new();
            let name = name.unwrap_or_else(|| "answer".to_owned());
            said.insert("name".into(), name.into());
            if let Some(description) = description {
                said.insert("description".into(), description.into());
            }
            said.insert("schema".into(), schema);
            if let Some(strict) = strict {
                said.insert("strict".into(), strict.into());
            }
            json!({"type": "json_schema", "json_schema": said})
        }
    }
}

/// On or off, and with how many tokens. Efforts are the budgets that other gateways take them for.
fn think(reasoning: Reasoning, parameters: &mut Map<String, Value>) {
    let budget = match reasoning.amount {
        Amount::Default => return,
        Amount::Off | Amount::Adaptive => None,
        Amount::Tokens(tokens) => Some(tokens),
        Amount::Effort(Effort::Minimal | Effort::Low) => Some(1024),
        Amount::Effort(Effort::Medium) => Some(4096),
        Amount::Effort(Effort::High) => Some(16_384),
        // As much as the model can.
        Amount::Effort(Effort::Max) => None,
    };
    let on = reasoning.amount != Amount::Off;
    parameters.insert("enable_thinking".into(), on.into());
    if let Some(budget) = budget {
        parameters.insert("thinking_budget".into(), budget.into());
    }
}
