//! A request for an answer, written for a worker.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::frame::framed;
use super::message::{
    self, Blob, CHAT_STREAM, ChatRequest, Content, FormatType, Mode, Part, ResponseFormat, Thought,
    ToolChoice,
};
use crate::fields::invalid;
use crate::ir::{
    self, Amount, Chat, Effort, Fit, Format, Message, Modality, Role, Said, Source, ToolResult,
    Unfit, What,
};
use crate::openai::chat::answer_in::Reader;
use crate::provider::at;
use crate::surface::Surface;
use crate::translate::{Outgoing, Target};

/// Writes a request. Its answer is read after [`first`](super::first) has made it one of OpenAI's.
///
/// # Errors
/// What can't be said.
pub fn write(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let body = framed(&request(chat, target, fit)?);
    Ok(Outgoing {
        path: at(target.base, "", CHAT_STREAM),
        query: None,
        body,
        headers: headers(),
        surface: Surface::Chat,
        reader: Box::new(Reader::default()),
    })
}

/// What each call has (gRPC over HTTP/2, "Requests").
pub fn headers() -> Vec<(&'static str, String)> {
    [
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
        ("grpc-accept-encoding", "identity"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

fn request(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<ChatRequest, Unfit> {
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
        // A worker always streams, and tells what was used.
        stream: _,
        stream_usage: _,
        rest,
    } = chat;
    if let Some(output) = output
        && output.value != [Modality::Text]
    {
        fit.lacks(output.at)?;
    }
    for said in rest {
        fit.lacks(said.at)?;
    }
    let mut written = Vec::new();
    for message in messages {
        write_message(message, &mut written, fit)?;
    }
    name_results(&mut written);
    let tools: Result<Vec<_>, _> = tools.into_iter().map(|it| tool(it, fit)).collect();
    let amount = reasoning.as_ref().map(|said| said.value.amount);
    Ok(ChatRequest {
        model: target.model.to_owned(),
        messages: written,
        tools: tools?,
        tool_choice: tool_choice.map(|said| write_tool_choice(said.value)),
        parallel_tool_calls: value(parallel_tools),
        response_format: format.map(|said| write_format(said.value)),
        reasoning_effort: amount.and_then(effort).map(str::to_owned),
        reasoning_tokens: match amount {
            Some(Amount::Tokens(tokens)) => Some(tokens),
            _ => None,
        },
        max_tokens: value(max_tokens),
        temperature: value(temperature),
        top_p: value(top_p),
        top_k: value(top_k),
        frequency_penalty: value(frequency_penalty),
        presence_penalty: value(presence_penalty),
        seed: value(seed),
        stop: value(stop).unwrap_or_default(),
        n: small(choices)?,
        top_logprobs: small(logprobs)?,
        user: value(user),
        include_reasoning: reasoning.and_then(|said| said.value.told),
    })
}

fn value<T>(said: Option<Said<T>>) -> Option<T> {
    said.map(|said| said.value)
}

fn small(said: Option<Said<u64>>) -> Result<Option<u32>, Unfit> {
    said.map(|said| {
        u32::try_from(said.value).map_err(|_| invalid(&said.at, "is more than a model can do"))
    })
    .transpose()
}

fn effort(amount: Amount) -> Option<&'static str> {
    Some(match amount {
        Amount::Default | Amount::Tokens(_) => return None,
        Amount::Off => "none",
        Amount::Adaptive => "auto",
        Amount::Effort(Effort::Minimal) => "minimal",
        Amount::Effort(Effort::Low) => "low",
        Amount::Effort(Effort::Medium) => "medium",
        Amount::Effort(Effort::High) => "high",
        Amount::Effort(Effort::Max) => "max",
    })
}

/// One turn becomes one message, but for results of tools, of which each is a message.
fn write_message(
    message: Message,
    to: &mut Vec<message::Message>,
    fit: &mut Fit,
) -> Result<(), Unfit> {
    let Message { role, parts, name } = message;
    let mut turn = message::Message {
        role: match role {
            Role::System => message::Role::System,
            Role::User => message::Role::User,
            Role::Assistant => message::Role::Assistant,
        }
        .into(),
        name: value(name).unwrap_or_default(),
        ..message::Message::default()
    };
    let mut has_results = false;
    for part in parts {
        if let Some(cache) = part.cache {
            fit.hints(cache.at);
        }
        match part.what {
            What::Result(result) => {
                has_results = true;
                to.push(tool_message(result, fit)?);
            }
            What::Call(call) => turn.tool_calls.push(message::ToolCall {
                id: call.id,
                name: call.name,
                arguments: call.arguments,
                signature: call.signature.unwrap_or_default(),
            }),
            What::Reasoning { text, signature } => turn.thoughts.push(Thought {
                text,
                signature: signature.unwrap_or_default(),
                redacted: String::new(),
            }),
            What::Redacted(redacted) => turn.thoughts.push(Thought {
                redacted,
                ..Thought::default()
            }),
            what => turn.parts.extend(content(what, &part.at, fit)?),
        }
    }
    let is_empty = turn.parts.is_empty() && turn.tool_calls.is_empty() && turn.thoughts.is_empty();
    if !(is_empty && has_results) {
        to.push(turn);
    }
    Ok(())
}

/// A result has the name of its tool, whose call was said before.
fn name_results(messages: &mut [message::Message]) {
    for at in 0..messages.len() {
        let (before, [message, ..]) = messages.split_at_mut(at) else {
            return;
        };
        if message.role == i32::from(message::Role::Tool) && message.name.is_empty() {
            let calls = before.iter().rev().flat_map(|it| &it.tool_calls);
            let mut calls = calls.filter(|call| call.id == message.tool_call_id);
            if let Some(call) = calls.next() {
                message.name.clone_from(&call.name);
            }
        }
    }
}

fn content(what: What, at: &str, fit: &mut Fit) -> Result<Option<Part>, Unfit> {
    let part = match what {
        What::Text(text) | What::Refusal(text) => Some(Content::Text(text)),
        What::Image { source, detail } => blob(source, at, fit)?.map(|blob| {
            Content::Image(Blob {
                detail: detail.unwrap_or_default(),
                ..blob
            })
        }),
        What::Audio(source) => blob(source, at, fit)?.map(Content::Audio),
        What::Video(source) => blob(source, at, fit)?.map(Content::Video),
        What::Document {
            source: Source::Text(text),
            name,
        } => Some(Content::Document(Blob {
            source: Some(message::Source::Data(text.into_bytes())),
            media_type: "text/plain".to_owned(),
            name: name.unwrap_or_default(),
            ..Blob::default()
        })),
        What::Document { source, name } => blob(source, at, fit)?.map(|blob| {
            Content::Document(Blob {
                name: name.unwrap_or_default(),
                ..blob
            })
        }),
        What::Reasoning { .. } | What::Redacted(_) | What::Call(_) | What::Result(_) => {
            fit.lacks(at)?;
            None
        }
    };
    Ok(part.map(|part| Part { part: Some(part) }))
}

fn blob(source: Source, at: &str, fit: &mut Fit) -> Result<Option<Blob>, Unfit> {
    let blob = Blob::default();
    Ok(match source {
        Source::Data { media_type, base64 } => {
            let data = STANDARD.decode(base64.as_bytes());
            let data = data.map_err(|_| invalid(at, "has data that is no base64"))?;
            Some(Blob {
                source: Some(message::Source::Data(data)),
                media_type,
                ..blob
            })
        }
        Source::Url(url) => Some(Blob {
            source: Some(message::Source::Url(url)),
            ..blob
        }),
        Source::File(_) | Source::Text(_) => {
            fit.lacks(at)?;
            None
        }
    })
}

fn tool_message(result: ToolResult, fit: &mut Fit) -> Result<message::Message, Unfit> {
    let ToolResult {
        id,
        name,
        parts,
        error,
    } = result;
    let mut written = message::Message {
        role: message::Role::Tool.into(),
        tool_call_id: id,
        name: name.unwrap_or_default(),
        is_error: error,
        ..message::Message::default()
    };
    for part in parts {
        if let Some(cache) = part.cache {
            fit.hints(cache.at);
        }
        written.parts.extend(content(part.what, &part.at, fit)?);
    }
    Ok(written)
}

fn tool(tool: ir::Tool, fit: &mut Fit) -> Result<message::Tool, Unfit> {
    let ir::Tool {
        name,
        description,
        schema,
        strict,
        cache,
        at: _,
    } = tool;
    fit.hints_any(cache);
    Ok(message::Tool {
        name,
        description: description.unwrap_or_default(),
        parameters: schema.map(|it| it.to_string()).unwrap_or_default(),
        strict: value(strict),
    })
}

fn write_tool_choice(choice: ir::ToolChoice) -> ToolChoice {
    let (mode, names) = match choice {
        ir::ToolChoice::Auto => (Mode::Auto, Vec::new()),
        ir::ToolChoice::None => (Mode::None, Vec::new()),
        ir::ToolChoice::Required => (Mode::Required, Vec::new()),
        ir::ToolChoice::Tool(name) => (Mode::Required, vec![name]),
        ir::ToolChoice::Among {
            names,
            required: true,
        } => (Mode::Required, names),
        ir::ToolChoice::Among { names, .. } => (Mode::Auto, names),
    };
    ToolChoice {
        mode: mode.into(),
        names,
    }
}

fn write_format(format: Format) -> ResponseFormat {
    match format {
        Format::Json => ResponseFormat {
            r#type: FormatType::Json.into(),
            ..ResponseFormat::default()
        },
        Format::Schema {
            name,
            description,
            schema,
            strict,
        } => ResponseFormat {
            r#type: FormatType::JsonSchema.into(),
            name: name.unwrap_or_default(),
            description: description.unwrap_or_default(),
            schema: schema.to_string(),
            strict,
        },
    }
}
