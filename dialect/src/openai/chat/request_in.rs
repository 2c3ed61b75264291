//! A client's request for a chat completion, read into the form between dialects.
//!
//! Source: OpenAI's API reference, "Create chat completion". Besides: `reasoning_content` and
//! `thinking_blocks` of earlier answers, as many servers and gateways have them, and `cache_control` on
//! parts and tools, as clients of Anthropic's models write it.

use serde_json::Value;

use super::answer_out::Writer;
use crate::fields::{Fields, invalid};
use crate::ir::{
    Amount, Cache, Call, Chat, Effort, Format, Message, Modality, Part, Reasoning, Role, Said,
    Source, Tool, ToolChoice, ToolResult, Unfit, What,
};
use crate::translate::{Ask, Read};

/// Reads a body.
///
/// # Errors
/// What is wrong with it.
pub fn read(ask: &Ask<'_>) -> Result<Read, Unfit> {
    let chat = chat(Fields::of_body(ask.body)?)?;
    let writer = Writer::new(ask, chat.stream_usage);
    Ok(Read::Chat(Box::new(chat), Box::new(writer)))
}

fn chat(mut body: Fields) -> Result<Chat, Unfit> {
    let is = |wanted: Value| move |value: &Value| *value == wanted;
    body.neutral("n", is(1.into()));
    body.neutral("store", is(false.into()));
    body.neutral("service_tier", is("auto".into()));
    body.neutral("verbosity", is("medium".into()));
    for empty in ["logit_bias", "metadata"] {
        body.neutral(empty, |value| {
            value.as_object().is_some_and(|it| it.is_empty())
        });
    }
    for zero in ["frequency_penalty", "presence_penalty"] {
        body.neutral(zero, |value| value.as_f64() == Some(0.0));
    }
    body.take("model");
    let mut rest = Vec::new();
    let mut chat = Chat {
        messages: messages(&mut body, &mut rest)?,
        tools: tools(&mut body, &mut rest)?,
        tool_choice: tool_choice(&mut body, &mut rest)?,
        parallel_tools: body.boolean("parallel_tool_calls")?,
        format: format(&mut body, &mut rest)?,
        reasoning: reasoning(&mut body)?,
        temperature: body.number("temperature")?,
        top_p: body.number("top_p")?,
        top_k: body.whole("top_k")?,
        frequency_penalty: body.number("frequency_penalty")?,
        presence_penalty: body.number("presence_penalty")?,
        seed: body.said("seed", "must be a whole number", Value::as_i64)?,
        stop: stop(&mut body, "stop")?,
        choices: body.whole("n")?,
        logprobs: logprobs(&mut body)?,
        user: body.said_text("user")?,
        output: modalities(&mut body)?,
        stream: body.boolean("stream")?.is_some_and(|said| said.value),
        ..Chat::default()
    };
    let old = body.whole("max_tokens")?;
    chat.max_tokens = body.whole("max_completion_tokens")?.or(old);
    if let Some(mut options) = body.object("stream_options")? {
        let usage = options.boolean("include_usage")?;
        chat.stream_usage = usage.is_some_and(|said| said.value);
        // Padding against those who listen to lengths: weir's own answers have none.
        options.take("include_obfuscation");
        rest.extend(options.rest());
    }
    rest.extend(body.rest());
    chat.rest = rest;
    Ok(chat)
}

/// What has no place in the form.
type Rest = Vec<Said<Value>>;

fn messages(body: &mut Fields, rest: &mut Rest) -> Result<Vec<Message>, Unfit> {
    if body.look("messages").is_none() {
        return Err(invalid("messages", "is missing"));
    }
    let said = body.objects("messages")?.into_iter();
    said.map(|it| message(it, rest)).collect()
}

fn message(mut said: Fields, rest: &mut Rest) -> Result<Message, Unfit> {
    let role = said.needed_text("role")?;
    let name = said.said_text("name")?;
    let mut parts = Vec::new();
    let role = match &*role {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => {
            thoughts(&mut said, &mut parts, rest)?;
            Role::Assistant
        }
        "tool" => {
            let result = result(&mut said, rest)?;
            parts.push(Part::new(said.here().to_owned(), What::Result(result)));
            rest.extend(said.rest());
            return Ok(Message {
                role: Role::User,
                parts,
                name: None,
            });
        }
        _ => {
            let at = said.at("role");
            return Err(invalid(
                &at,
                "must be system, developer, user, assistant or tool",
            ));
        }
    };
    content(&mut said, &mut parts, rest)?;
    if role == Role::Assistant {
        if let Some(text) = said.text("refusal")? {
            parts.push(Part::new(said.at("refusal"), What::Refusal(text)));
        }
        for call in said.objects("tool_calls")? {
            parts.push(tool_call(call, rest)?);
        }
        // What an answer had beside, and clients send back.
        for name in ["audio", "annotations", "function_call"] {
            said.neutral(name, |value| value.as_array().is_some_and(Vec::is_empty));
        }
    }
    rest.extend(said.rest());
    Ok(Message { role, parts, name })
}

/// What the assistant thought: sealed blocks, or plain text.
fn thoughts(said: &mut Fields, parts: &mut Vec<Part>, rest: &mut Rest) -> Result<(), Unfit> {
    let at = said.at("reasoning_content");
    let plain = said.text("reasoning_content")?;
    let other = match said.look("reasoning") {
        Some(Value::String(_)) => said.text("reasoning")?,
        _ => None,
    };
    let mut plain = plain.or(other).filter(|text| !text.is_empty());
    for mut block in said.objects("thinking_blocks")? {
        let at = block.here().to_owned();
        match &*block.needed_text("type")? {
            "redacted_thinking" => {
                let data = block.needed_text("data")?;
                parts.push(Part::new(at, What::Redacted(data)));
            }
            _ => {
                let text = block.text("thinking")?.filter(|text| !text.is_empty());
                let whole = plain.take();
                let signature = block.text("signature")?;
                let text = text.or(whole).unwrap_or_default();
                parts.push(Part::new(at, What::Reasoning { text, signature }));
            }
        }
        rest.extend(block.rest());
    }
    if let Some(text) = plain {
        let signature = None;
        parts.push(Part::new(at, What::Reasoning { text, signature }));
    }
    Ok(())
}

/// `content`: text, or a list of parts.
fn content(said: &mut Fields, parts: &mut Vec<Part>, rest: &mut Rest) -> Result<(), Unfit> {
    match said.look("content") {
        None => Ok(()),
        Some(Value::String(_)) => {
            let at = said.at("content");
            if let Some(text) = said.text("content")?.filter(|text| !text.is_empty()) {
                parts.push(Part::new(at, What::Text(text)));
            }
            Ok(())
        }
        Some(_) => {
            for part in said.objects("content")? {
                parts.push(content_part(part, rest)?);
            }
            Ok(())
        }
    }
}

fn content_part(mut part: Fields, rest: &mut Rest) -> Result<Part, Unfit> {
    let at = part.here().to_owned();
    let what = match &*part.needed_text("type")? {
        "text" => What::Text(part.needed_text("text")?),
        "refusal" => What::Refusal(part.needed_text("refusal")?),
        "image_url" => {
            let mut image = needed_object(&mut part, "image_url")?;
            let source = source(image.needed_text("url")?);
            let detail = image.text("detail")?;
            rest.extend(image.rest());
            What::Image { source, detail }
        }
        "video_url" => {
            let mut video = needed_object(&mut part, "video_url")?;
            let source = source(video.needed_text("url")?);
            rest.extend(video.rest());
            What::Video(source)
        }
        "input_audio" => {
            let mut audio = needed_object(&mut part, "input_audio")?;
            let media_type = match &*audio.needed_text("format")? {
                "mp3" => "audio/mpeg".to_owned(),
                other => format!("audio/{other}"),
            };
            let base64 = audio.needed_text("data")?;
            rest.extend(audio.rest());
            What::Audio(Source::Data { media_type, base64 })
        }
        "file" => {
            let mut file = needed_object(&mut part, "file")?;
            let name = file.text("filename")?;
            let source = match (file.text("file_data")?, file.text("file_id")?) {
                (Some(data), _) => source(data),
                (None, Some(id)) => Source::File(id),
                (None, None) => return Err(invalid(&file.at("file_data"), "is missing")),
            };
            rest.extend(file.rest());
            What::Document { source, name }
        }
        _ => {
            let at = part.at("type");
            let what = "must be text, image_url, input_audio, video_url, file or refusal";
            return Err(invalid(&at, what));
        }
    };
    let cache = cache(&mut part)?;
    rest.extend(part.rest());
    Ok(Part {
        what,
        cache,
        at: at.into(),
    })
}

/// The mark that Anthropic's clients put where a prompt is to be cached.
pub fn cache(fields: &mut Fields) -> Result<Option<Said<Cache>>, Unfit> {
    let at = fields.at("cache_control");
    let Some(mut mark) = fields.object("cache_control")? else {
        return Ok(None);
    };
    let ttl = mark.text("ttl")?;
    mark.neutral("type", |value| value == "ephemeral");
    fields.leave("cache_control", mark);
    Ok(Some(Said::new(at, Cache { ttl })))
}

/// An object that must be there.
fn needed_object(part: &mut Fields, name: &str) -> Result<Fields, Unfit> {
    let at = part.at(name);
    part.object(name)?.ok_or_else(|| invalid(&at, "is missing"))
}

/// A URL, or the bytes that a `data:` URL holds (RFC 2397).
pub fn source(url: String) -> Source {
    let data = url
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(','));
    match data.and_then(|(kind, base64)| Some((kind.strip_suffix(";base64")?, base64))) {
        Some((media_type, base64)) => Source::Data {
            media_type: media_type.to_owned(),
            base64: base64.to_owned(),
        },
        None => Source::Url(url),
    }
}

fn tool_call(mut call: Fields, rest: &mut Rest) -> Result<Part, Unfit> {
    let at = call.here().to_owned();
    call.neutral("type", |value| value == "function");
    // Some clients send back where in the stream it stood.
    call.take("index");
    let id = call.text("id")?.unwrap_or_default();
    let mut function = needed_object(&mut call, "function")?;
    let signature = signature(&mut call, rest)?;
    rest.extend(call.rest());
    let call = Call {
        id,
        name: function.needed_text("name")?,
        arguments: function.text("arguments")?.unwrap_or_default(),
        signature,
    };
    rest.extend(function.rest());
    Ok(Part::new(at, What::Call(call)))
}

/// Google's place for the seal of a thought in OpenAI's dialect.
fn signature(call: &mut Fields, rest: &mut Rest) -> Result<Option<String>, Unfit> {
    let Some(mut extra) = call.object("extra_content")? else {
        return Ok(None);
    };
    let mut signature = None;
    if let Some(mut google) = extra.object("google")? {
        signature = google.text("thought_signature")?;
        rest.extend(google.rest());
    }
    rest.extend(extra.rest());
    Ok(signature)
}

fn result(said: &mut Fields, rest: &mut Rest) -> Result<ToolResult, Unfit> {
    let id = said.needed_text("tool_call_id")?;
    let mut parts = Vec::new();
    content(said, &mut parts, rest)?;
    Ok(ToolResult {
        id,
        name: None,
        parts,
        error: false,
    })
}

fn tools(body: &mut Fields, rest: &mut Rest) -> Result<Vec<Tool>, Unfit> {
    let mut tools = Vec::new();
    for mut tool in body.objects("tools")? {
        let at = tool.here().to_owned();
        tool.neutral("type", |value| value == "function");
        if tool.look("type").is_some() {
            // A tool of the provider's own.
            rest.push(Said::new(at, Value::Object(tool.into_map())));
            continue;
        }
        let cache = cache(&mut tool)?;
        let mut function = needed_object(&mut tool, "function")?;
        tools.push(Tool {
            name: function.needed_text("name")?,
            description: function.text("description")?,
            schema: function.take("parameters"),
            strict: function.boolean("strict")?,
            cache,
            at: at.into(),
        });
        rest.extend(function.rest());
        rest.extend(tool.rest());
    }
    Ok(tools)
}

fn tool_choice(body: &mut Fields, rest: &mut Rest) -> Result<Option<Said<ToolChoice>>, Unfit> {
    let at = body.at("tool_choice");
    let choice = match body.take("tool_choice") {
        None => return Ok(None),
        Some(Value::String(word)) => match &*word {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" | "any" => ToolChoice::Required,
            _ => return Err(invalid(&at, "must be none, auto, required or an object")),
        },
        Some(value) => chosen(Fields::of(at.clone(), value)?, rest)?,
    };
    Ok(Some(Said::new(at, choice)))
}

/// One tool, or some of them.
fn chosen(mut said: Fields, rest: &mut Rest) -> Result<ToolChoice, Unfit> {
    let choice = match &*said.needed_text("type")? {
        "function" => ToolChoice::Tool(function_name(&mut said, rest)?),
        "allowed_tools" => {
            let mut allowed = needed_object(&mut said, "allowed_tools")?;
            let mut names = Vec::new();
            for mut tool in allowed.objects("tools")? {
                tool.neutral("type", |value| value == "function");
                names.push(function_name(&mut tool, rest)?);
                rest.extend(tool.rest());
            }
            let required = allowed.text("mode")?.as_deref() == Some("required");
            rest.extend(allowed.rest());
            ToolChoice::Among { names, required }
        }
        _ => {
            return Err(invalid(
                &said.at("type"),
                "must be function or allowed_tools",
            ));
        }
    };
    rest.extend(said.rest());
    Ok(choice)
}

fn function_name(said: &mut Fields, rest: &mut Rest) -> Result<String, Unfit> {
    let mut function = needed_object(said, "function")?;
    let name = function.needed_text("name")?;
    rest.extend(function.rest());
    Ok(name)
}

fn format(body: &mut Fields, rest: &mut Rest) -> Result<Option<Said<Format>>, Unfit> {
    body.neutral("response_format", |value| value["type"] == "text");
    let Some(mut said) = body.object("response_format")? else {
        return Ok(None);
    };
    let at = said.here().to_owned();
    let format = match &*said.needed_text("type")? {
        "json_object" => Format::Json,
        "json_schema" => {
            let mut inner = needed_object(&mut said, "json_schema")?;
            let format = Format::Schema {
                name: inner.text("name")?,
                description: inner.text("description")?,
                schema: (inner.take("schema"))
                    .ok_or_else(|| invalid(&inner.at("schema"), "is missing"))?,
                strict: inner.boolean("strict")?.map(|said| said.value),
            };
            rest.extend(inner.rest());
            format
        }
        _ => {
            let what = "must be text, json_object or json_schema";
            return Err(invalid(&said.at("type"), what));
        }
    };
    rest.extend(said.rest());
    Ok(Some(Said::new(at, format)))
}

fn reasoning(body: &mut Fields) -> Result<Option<Said<Reasoning>>, Unfit> {
    let what = "must be none, minimal, low, medium, high or xhigh";
    body.said("reasoning_effort", what, |value| {
        Some(Reasoning {
            amount: amount(value.as_str()?)?,
            told: None,
        })
    })
}

/// OpenAI's words for how much a model thinks.
pub fn amount(word: &str) -> Option<Amount> {
    Some(match word {
        "none" => Amount::Off,
        "minimal" => Amount::Effort(Effort::Minimal),
        "low" => Amount::Effort(Effort::Low),
        "medium" => Amount::Effort(Effort::Medium),
        "high" => Amount::Effort(Effort::High),
        "xhigh" | "max" => Amount::Effort(Effort::Max),
        _ => return None,
    })
}

/// One text, or several.
pub fn stop(body: &mut Fields, name: &str) -> Result<Option<Said<Vec<String>>>, Unfit> {
    body.neutral(name, |value| value.as_array().is_some_and(Vec::is_empty));
    body.said(
        name,
        "must be a string or a list of strings",
        |value| match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(list) => {
                let text = |value: &Value| Some(value.as_str()?.to_owned());
                list.iter().map(text).collect()
            }
            _ => None,
        },
    )
}

fn logprobs(body: &mut Fields) -> Result<Option<Said<u64>>, Unfit> {
    let wanted = body.boolean("logprobs")?;
    let top = body.whole("top_logprobs")?;
    Ok(match (wanted, top) {
        (Some(said), top) if said.value => Some(Said::new(said.at, top.map_or(0, |top| top.value))),
        (None, Some(top)) if top.value > 0 => Some(top),
        _ => None,
    })
}

fn modalities(body: &mut Fields) -> Result<Option<Said<Vec<Modality>>>, Unfit> {
    let is_text = |value: &Value| {
        value
            .as_array()
            .is_some_and(|list| list.iter().all(|it| it == "text"))
    };
    body.neutral("modalities", is_text);
    body.said(
        "modalities",
        "must be a list of text, audio and image",
        |value| {
            let modality = |value: &Value| match value.as_str()? {
                "text" => Some(Modality::Text),
                "audio" => Some(Modality::Audio),
                "image" => Some(Modality::Image),
                _ => None,
            };
            value.as_array()?.iter().map(modality).collect()
        },
    )
}
