//! A request for a chat completion, written for a server that speaks OpenAI's dialect.
//!
//! Source: OpenAI's API reference, "Create chat completion"; what other servers differ in stands in
//! their [`Quirks`].

use serde_json::{Map, Value, json};

use super::answer_in::Reader;
use crate::ir::{
    Amount, Call, Chat, Effort, Fit, Format, Message, Modality, Part, Reasoning, Role, Said,
    Source, Tool, ToolChoice, ToolResult, Unfit, What, call_id,
};
use crate::provider::{MaxTokens, Quirks, ReasoningField, at};
use crate::surface::Surface;
use crate::translate::{Outgoing, Target};

/// Fields that other APIs of OpenAI's have under the same name.
const COMMON: &[&str] = &[
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "verbosity",
    "store",
    "metadata",
    "logit_bias",
];

/// Writes a request.
///
/// # Errors
/// What can't be said.
pub fn write(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let body = body(chat, target, fit)?;
    Ok(Outgoing {
        path: at(
            target.base,
            target.provider.quirks.root,
            "/chat/completions",
        ),
        query: None,
        body: body.to_string().into_bytes(),
        headers: Vec::new(),
        surface: Surface::Chat,
        reader: Box::new(Reader::default()),
    })
}

/// The body of a request.
///
/// # Errors
/// What can't be said.
pub fn body(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Value, Unfit> {
    let Chat {
        messages,
        tools,
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
    let quirks = &target.provider.quirks;
    let mut body = Map::new();
    body.insert("model".into(), target.model.into());
    let mut written = Vec::new();
    for message in messages {
        write_message(message, quirks, &mut written, fit)?;
    }
    body.insert("messages".into(), written.into());
    if !tools.is_empty() {
        let tools: Result<Vec<_>, _> = tools.into_iter().map(|it| tool(it, fit)).collect();
        body.insert("tools".into(), tools?.into());
    }
    if let Some(choice) = tool_choice {
        body.insert("tool_choice".into(), write_tool_choice(choice.value));
    }
    // Without tools most servers refuse it.
    if let Some(said) = parallel_tools.filter(|_| body.contains_key("tools")) {
        body.insert("parallel_tool_calls".into(), said.value.into());
    }
    if let Some(format) = format {
        write_format(format, quirks, &mut body, fit)?;
    }
    if let Some(reasoning) = reasoning {
        write_reasoning(reasoning, quirks, &mut body, fit)?;
    }
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    let name = match quirks.max_tokens {
        MaxTokens::Old => "max_tokens",
        MaxTokens::New => "max_completion_tokens",
    };
    put(name, max_tokens.map(|said| said.value.into()));
    put("temperature", temperature.map(|said| said.value.into()));
    put("top_p", top_p.map(|said| said.value.into()));
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
    put("n", choices.map(|said| said.value.into()));
    if let Some(top) = logprobs {
        put("logprobs", Some(true.into()));
        put(
            "top_logprobs",
            Some(top.value).filter(|top| *top > 0).map(Value::from),
        );
    }
    put("user", user.map(|said| said.value.into()));
    put("modalities", output.map(|said| modalities(&said.value)));
    if stream {
        put("stream", Some(true.into()));
        if target.ask_usage && quirks.include_usage {
            put("stream_options", Some(json!({"include_usage": true})));
        }
    }
    match quirks.top_k() {
        true => put("top_k", top_k.map(|said| said.value.into())),
        false => fit.lacks_any(top_k)?,
    }
    for said in rest {
        // What the Responses API has in common with chat.
        let name = match &*said.at {
            "text.verbosity" => "verbosity",
            at => at,
        };
        let known = matches!(quirks.name, "openai" | "azure") && COMMON.contains(&name);
        match known {
            true => put(name, Some(said.value)),
            false => fit.lacks(said.at)?,
        }
    }
    Ok(Value::Object(body))
}

fn modalities(output: &[Modality]) -> Value {
    let word = |it: &Modality| match it {
        Modality::Text => "text",
        Modality::Image => "image",
        Modality::Audio => "audio",
    };
    output.iter().map(word).collect()
}

/// One turn becomes one message, but for results of tools, of which each is a message.
fn write_message(
    message: Message,
    quirks: &Quirks,
    to: &mut Vec<Value>,
    fit: &mut Fit,
) -> Result<(), Unfit> {
    let Message { role, parts, name } = message;
    let mut content = Vec::new();
    let mut calls = Vec::new();
    let mut thoughts = String::new();
    let mut refusal = None;
    for part in parts {
        if let Some(cache) = part.cache {
            fit.hints(cache.at);
        }
        match part.what {
            What::Result(result) => to.push(tool_message(result, fit)?),
            What::Call(call) => {
                let place = u32::try_from(calls.len()).unwrap_or(u32::MAX);
                calls.push(write_call(call, place));
            }
            // Seals have no place; the table lists them.
            What::Reasoning { text, .. } => thoughts.push_str(&text),
            What::Redacted(_) => {}
            What::Refusal(text) => refusal = Some(text),
            what => content.push(content_part(what, &part.at, fit)?),
        }
    }
    let only_results =
        content.is_empty() && calls.is_empty() && role == Role::User && !to.is_empty();
    if only_results {
        return Ok(());
    }
    let mut written = Map::new();
    let word = match role {
        Role::System if quirks.developer => "developer",
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    written.insert("role".into(), word.into());
    if let Some(name) = name {
        written.insert("name".into(), name.value.into());
    }
    let content = match content.is_empty() && !calls.is_empty() {
        true => Value::Null,
        false => plain(content),
    };
    written.insert("content".into(), content);
    if let Some(refusal) = refusal {
        written.insert("refusal".into(), refusal.into());
    }
    // Servers of models that think want the thoughts back with a tool's result; OpenAI's own refuses them.
    if quirks.reasoning != ReasoningField::Effort && !thoughts.is_empty() {
        written.insert("reasoning_content".into(), thoughts.into());
    }
    if !calls.is_empty() {
        written.insert("tool_calls".into(), calls.into());
    }
    to.push(Value::Object(written));
    Ok(())
}

/// One text stands alone; servers without a list of parts understand that, too.
fn plain(mut content: Vec<Value>) -> Value {
    match &mut *content {
        [] => Value::String(String::new()),
        [only] if only["type"] == "text" => only["text"].take(),
        _ => Value::Array(content),
    }
}

fn content_part(what: What, at: &str, fit: &mut Fit) -> Result<Value, Unfit> {
    Ok(match what {
        What::Text(text) => json!({"type": "text", "text": text}),
        What::Image { source, detail } => {
            let mut image = Map::new();
            image.insert("url".into(), url(source, at, fit)?.into());
            if let Some(detail) = detail {
                image.insert("detail".into(), detail.into());
            }
            json!({"type": "image_url", "image_url": image})
        }
        What::Video(source) => {
            json!({"type": "video_url", "video_url": {"url": url(source, at, fit)?}})
        }
        What::Audio(Source::Data { media_type, base64 }) => {
            let format = match media_type.strip_prefix("audio/").unwrap_or(&media_type) {
                "mpeg" | "mp3" => "mp3",
                "wav" | "x-wav" | "wave" => "wav",
                other => other,
            };
            json!({"type": "input_audio", "input_audio": {"data": base64, "format": format}})
        }
        What::Document { source, name } => {
            let mut file = Map::new();
            match source {
                Source::File(id) => file.insert("file_id".into(), id.into()),
                Source::Text(text) => return Ok(json!({"type": "text", "text": text})),
                Source::Url(_) => {
                    fit.lacks(at)?;
                    return Ok(json!({"type": "text", "text": ""}));
                }
                Source::Data { media_type, base64 } => {
                    let data = format!("data:{media_type};base64,{base64}");
                    // OpenAI wants a name wherever there is data.
                    file.insert(
                        "filename".into(),
                        name.unwrap_or_else(|| "document".into()).into(),
                    );
                    file.insert("file_data".into(), data.into())
                }
            };
            json!({"type": "file", "file": file})
        }
        _ => {
            fit.lacks(at)?;
            json!({"type": "text", "text": ""})
        }
    })
}

fn url(source: Source, at: &str, fit: &mut Fit) -> Result<String, Unfit> {
    Ok(match source {
        Source::Url(url) => url,
        Source::Data { media_type, base64 } => format!("data:{media_type};base64,{base64}"),
        Source::File(_) | Source::Text(_) => {
            fit.lacks(at)?;
            String::new()
        }
    })
}

fn write_call(call: Call, place: u32) -> Value {
    let id = match call.id.is_empty() {
        true => call_id(&call.name, 0, place),
        false => call.id,
    };
    let arguments = match call.arguments.is_empty() {
        true => "{}".to_owned(),
        false => call.arguments,
    };
    let mut written = json!({
        "id": id, "type": "function", "function": {"name": call.name, "arguments": arguments},
    });
    if let Some(signature) = call.signature {
        written["extra_content"] = json!({"google": {"thought_signature": signature}});
    }
    written
}

/// OpenAI has no word for a tool that failed: the text says it.
fn tool_message(result: ToolResult, fit: &mut Fit) -> Result<Value, Unfit> {
    let part = |part: Part| content_part(part.what, &part.at, fit);
    let content: Result<Vec<_>, _> = result.parts.into_iter().map(part).collect();
    Ok(json!({"role": "tool", "tool_call_id": result.id, "content": plain(content?)}))
}

fn tool(tool: Tool, fit: &mut Fit) -> Result<Value, Unfit> {
    fit.hints_any(tool.cache);
    let mut function = Map::new();
    function.insert("name".into(), tool.name.into());
    if let Some(description) = tool.description {
        function.insert("description".into(), description.into());
    }
    if let Some(schema) = tool.schema {
        function.insert("parameters".into(), schema);
    }
    if let Some(strict) = tool.strict {
        function.insert("strict".into(), strict.value.into());
    }
    Ok(json!({"type": "function", "function": function}))
}

fn write_tool_choice(choice: ToolChoice) -> Value {
    let named = |name: String| json!({"type": "function", "function": {"name": name}});
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Tool(name) => named(name),
        ToolChoice::Among { names, required } => {
            let mode = if required { "required" } else { "auto" };
            let tools: Vec<_> = names.into_iter().map(named).collect();
            json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
        }
    }
}

fn write_format(
    format: Said<Format>,
    quirks: &Quirks,
    body: &mut Map<String, Value>,
    fit: &mut Fit,
) -> Result<(), Unfit> {
    let written = match format.value {
        Format::Json => json!({"type": "json_object"}),
        Format::Schema { .. } if !quirks.json_schema => return fit.lacks(format.at),
        Format::Schema {
            name,
            description,
            schema,
            strict,
        } => {
            let mut said = Map::new();
            said.insert(
                "name".into(),
                name.unwrap_or_else(|| "answer".into()).into(),
            );
            if let Some(description) = description {
                said.insert("description".into(), description.into());
            }
            said.insert("schema".into(), schema);
            if let Some(strict) = strict {
                said.insert("strict".into(), strict.into());
            }
            json!({"type": "json_schema", "json_schema": said})
        }
    };
    body.insert("response_format".into(), written);
    Ok(())
}

fn write_reasoning(
    said: Said<Reasoning>,
    quirks: &Quirks,
    body: &mut Map<String, Value>,
    fit: &mut Fit,
) -> Result<(), Unfit> {
    let amount = said.value.amount;
    match quirks.reasoning {
        ReasoningField::Effort => {
            if let Some(word) = effort(amount) {
                body.insert("reasoning_effort".into(), word.into());
            }
        }
        ReasoningField::EnableThinking => {
            if amount != Amount::Default {
                body.insert("enable_thinking".into(), (amount != Amount::Off).into());
            }
            if let Amount::Tokens(tokens) = amount {
                body.insert("thinking_budget".into(), tokens.into());
            }
        }
        ReasoningField::ThinkingType => {
            if amount != Amount::Default {
                let word = if amount == Amount::Off {
                    "disabled"
                } else {
                    "enabled"
                };
                body.insert("thinking".into(), json!({"type": word}));
            }
        }
        ReasoningField::Reasoning => {
            let mut reasoning = Map::new();
            match amount {
                Amount::Tokens(tokens) => reasoning.insert("max_tokens".into(), tokens.into()),
                amount => {
                    effort(amount).and_then(|word| reasoning.insert("effort".into(), word.into()))
                }
            };
            if said.value.told == Some(false) {
                reasoning.insert("exclude".into(), true.into());
            }
            body.insert("reasoning".into(), reasoning.into());
        }
        ReasoningField::None => {
            if !matches!(amount, Amount::Default | Amount::Off) {
                fit.lacks(said.at)?;
            }
        }
    }
    Ok(())
}

/// OpenAI's word for an amount. A number of tokens is the effort that other gateways take it for.
pub fn effort(amount: Amount) -> Option<&'static str> {
    Some(match amount {
        Amount::Default | Amount::Adaptive => return None,
        Amount::Off => "none",
        Amount::Effort(Effort::Minimal) => "minimal",
        Amount::Effort(Effort::Low) => "low",
        Amount::Effort(Effort::Medium) => "medium",
        Amount::Effort(Effort::High) => "high",
        Amount::Effort(Effort::Max) => "xhigh",
        Amount::Tokens(0..2048) => "low",
        Amount::Tokens(2048..8192) => "medium",
        Amount::Tokens(_) => "high",
    })
}
