//! A client's request to Ollama's API, read into the form between dialects.
//!
//! Source: Ollama's API reference (`docs/api.md`) and the types of its servers and clients:
//! `/api/chat`, `/api/generate`, `/api/embed` and the elder `/api/embeddings`. Its calls of tools have no
//! ids: they get some here, and results the id of the call that they answer.

use serde_json::Value;

use super::answer_out::{Shape, Writer};
use crate::fields::{Fields, invalid};
use crate::ir::{
    Amount, Call, Chat, Effort, Embed, EmbedInput, Fit, Format, Message, Part, Reasoning, Role,
    Said, Source, Tool, ToolResult, Unfit, What, call_id,
};
use crate::openai::chat::request_in::stop;
use crate::translate::{Ask, Read};

/// Reads a body.
///
/// # Errors
/// What is wrong with it.
pub fn read(ask: &Ask<'_>, _fit: &mut Fit) -> Result<Read, Unfit> {
    let shape = Shape::of_path(ask.path);
    let body = Fields::of_body(ask.body)?;
    let writer = Box::new(Writer::new(ask, shape));
    Ok(match shape {
        Shape::Chat | Shape::Generate => Read::Chat(Box::new(chat(body, shape)?), writer),
        Shape::Embed | Shape::Embeddings => Read::Embed(Box::new(embed(body, shape)?), writer),
    })
}

fn chat(mut body: Fields, shape: Shape) -> Result<Chat, Unfit> {
    body.take("model");
    let mut rest = Vec::new();
    let messages = match shape {
        Shape::Generate => prompt(&mut body)?,
        _ => messages(&mut body, &mut rest)?,
    };
    let stream = body.boolean("stream")?;
    let mut chat = Chat {
        messages,
        tools: tools(&mut body, &mut rest)?,
        format: format(&mut body)?,
        reasoning: think(&mut body)?,
        logprobs: logprobs(&mut body)?,
        stream: stream.is_none_or(|said| said.value),
        stream_usage: true,
        ..Chat::default()
    };
    if let Some(options) = body.object("options")? {
        read_options(options, &mut chat, &mut rest)?;
    }
    rest.extend(body.rest());
    chat.rest = rest;
    Ok(chat)
}

/// What has no place in the form.
type Rest = Vec<Said<Value>>;

/// The one turn of `/api/generate`.
fn prompt(body: &mut Fields) -> Result<Vec<Message>, Unfit> {
    for empty in ["suffix", "template"] {
        body.neutral(empty, |value| value == "");
    }
    body.neutral("raw", |value| *value == Value::Bool(false));
    body.neutral("context", |value| {
        value.as_array().is_some_and(Vec::is_empty)
    });
    let mut messages = Vec::new();
    if let Some(text) = body.text("system")?.filter(|text| !text.is_empty()) {
        let part = Part::new("system", What::Text(text));
        messages.push(turn(Role::System, vec![part]));
    }
    let mut parts = images(body)?;
    if let Some(text) = body.text("prompt")?.filter(|text| !text.is_empty()) {
        parts.push(Part::new("prompt", What::Text(text)));
    }
    if parts.is_empty() {
        return Err(invalid("prompt", "is missing"));
    }
    messages.push(turn(Role::User, parts));
    Ok(messages)
}

fn turn(role: Role, parts: Vec<Part>) -> Message {
    Message {
        role,
        parts,
        name: None,
    }
}

fn messages(body: &mut Fields, rest: &mut Rest) -> Result<Vec<Message>, Unfit> {
    if body.look("messages").is_none() {
        return Err(invalid("messages", "is missing"));
    }
    // Calls that no result has answered yet.
    let mut open = Vec::new();
    let said = body.objects("messages")?.into_iter();
    said.map(|it| message(it, &mut open, rest)).collect()
}

fn message(mut said: Fields, open: &mut Vec<Open>, rest: &mut Rest) -> Result<Message, Unfit> {
    let role = match &*said.needed_text("role")? {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => return result(said, open, rest),
        _ => {
            let at = said.at("role");
            return Err(invalid(&at, "must be system, user, assistant or tool"));
        }
    };
    let mut parts = Vec::new();
    let at = said.at("thinking");
    if let Some(text) = said.text("thinking")?.filter(|text| !text.is_empty()) {
        let signature = None;
        parts.push(Part::new(at, What::Reasoning { text, signature }));
    }
    parts.extend(content(&mut said)?);
    for (index, call) in said.objects("tool_calls")?.into_iter().enumerate() {
        parts.push(tool_call(call, index, open, rest)?);
    }
    rest.extend(said.rest());
    Ok(turn(role, parts))
}

/// Pictures, and the text about them.
fn content(said: &mut Fields) -> Result<Vec<Part>, Unfit> {
    let mut parts = images(said)?;
    let at = said.at("content");
    if let Some(text) = said.text("content")?.filter(|text| !text.is_empty()) {
        parts.push(Part::new(at, What::Text(text)));
    }
    Ok(parts)
}

fn images(said: &mut Fields) -> Result<Vec<Part>, Unfit> {
    let at = said.at("images");
    let list = said.list("images")?.unwrap_or_default();
    let image = |(index, value): (usize, Value)| {
        let at = format!("{at}[{index}]");
        let Value::String(base64) = value else {
            return Err(invalid(&at, "must be a picture in base64"));
        };
        let media_type = media_type(&base64).to_owned();
        let source = Source::Data { media_type, base64 };
        let detail = None;
        Ok(Part::new(at, What::Image { source, detail }))
    };
    list.into_iter().enumerate().map(image).collect()
}

/// What kind of picture begins so.
fn media_type(base64: &str) -> &'static str {
    const KINDS: [(&str, &str); 4] = [
        ("iVBORw0KGgo", "image/png"),
        ("R0lGOD", "image/gif"),
        ("UklGR", "image/webp"),
        ("Qk", "image/bmp"),
    ];
    let kind = KINDS.iter().find(|(start, _)| base64.starts_with(start));
    kind.map_or("image/jpeg", |(_, kind)| kind)
}

/// A call that waits for its result.
struct Open {
    id: String,
    name: String,
}

fn tool_call(
    mut call: Fields,
    index: usize,
    open: &mut Vec<Open>,
    rest: &mut Rest,
) -> Result<Part, Unfit> {
    let at = call.here().to_owned();
    call.neutral("type", |value| value == "function");
    let id = call.text("id")?.filter(|id| !id.is_empty());
    let mut function = needed_object(&mut call, "function")?;
    // Some servers number the calls of a turn.
    function.take("index");
    let name = function.needed_text("name")?;
    let arguments = match function.take("arguments") {
        None => String::new(),
        Some(Value::String(text)) => text,
        Some(value) => value.to_string(),
    };
    let place = u32::try_from(open.len()).unwrap_or(u32::MAX);
    let made = || call_id(&name, place, u32::try_from(index).unwrap_or(u32::MAX));
    let id = id.unwrap_or_else(made);
    rest.extend(function.rest());
    rest.extend(call.rest());
    open.push(Open {
        id: id.clone(),
        name: name.clone(),
    });
    let signature = None;
    Ok(Part::new(
        at,
        What::Call(Call {
            id,
            name,
            arguments,
            signature,
        }),
    ))
}

fn needed_object(of: &mut Fields, name: &str) -> Result<Fields, Unfit> {
    let at = of.at(name);
    of.object(name)?.ok_or_else(|| invalid(&at, "is missing"))
}

/// The result of the call that it names, by id or by tool; else of the first that waits for one.
fn result(mut said: Fields, open: &mut Vec<Open>, rest: &mut Rest) -> Result<Message, Unfit> {
    let at = said.here().to_owned();
    let id = said.text("tool_call_id")?.filter(|id| !id.is_empty());
    let elder = said.text("name")?;
    let name = said.text("tool_name")?.or(elder);
    let place = match (&id, &name) {
        (Some(id), _) => open.iter().position(|it| it.id == *id),
        (None, Some(name)) => open.iter().position(|it| it.name == *name),
        (None, None) => (!open.is_empty()).then_some(0),
    };
    let of = place.map(|place| open.remove(place));
    let (known_id, known_name) = of.map_or((None, None), |it| (Some(it.id), Some(it.name)));
    let name = name.or(known_name);
    let Some(id) = id.or(known_id) else {
        let what = "is the result of no call before it (see `tool_name`)";
        return Err(invalid(&at, what));
    };
    let parts = content(&mut said)?;
    rest.extend(said.rest());
    let result = ToolResult {
        id,
        name,
        parts,
        error: false,
    };
    Ok(turn(Role::User, vec![Part::new(at, What::Result(result))]))
}

fn tools(body: &mut Fields, rest: &mut Rest) -> Result<Vec<Tool>, Unfit> {
    let mut tools = Vec::new();
    for mut tool in body.objects("tools")? {
        let at = tool.here().to_owned();
        tool.neutral("type", |value| value == "function");
        let mut function = needed_object(&mut tool, "function")?;
        tools.push(Tool {
            name: function.needed_text("name")?,
            description: function.text("description")?,
            schema: function.take("parameters"),
            strict: None,
            cache: None,
            at: at.into(),
        });
        rest.extend(function.rest());
        rest.extend(tool.rest());
    }
    Ok(tools)
}

fn format(body: &mut Fields) -> Result<Option<Said<Format>>, Unfit> {
    body.neutral("format", |value| value == "");
    body.said(
        "format",
        "must be json or a JSON Schema",
        |value| match value {
            Value::String(word) if word == "json" => Some(Format::Json),
            Value::Object(_) => Some(Format::Schema {
                name: None,
                description: None,
                schema: value.clone(),
                strict: None,
            }),
            _ => None,
        },
    )
}

fn think(body: &mut Fields) -> Result<Option<Said<Reasoning>>, Unfit> {
    let what = "must be true, false, low, medium or high";
    body.said("think", what, |value| {
        let (amount, told) = match value {
            Value::Bool(false) => (Amount::Off, None),
            Value::Bool(true) => (Amount::Adaptive, Some(true)),
            Value::String(word) => {
                let effort = match &**word {
                    "low" => Effort::Low,
                    "medium" => Effort::Medium,
                    "high" => Effort::High,
                    "max" => Effort::Max,
                    _ => return None,
                };
                (Amount::Effort(effort), Some(true))
            }
            _ => return None,
        };
        Some(Reasoning { amount, told })
    })
}

fn logprobs(body: &mut Fields) -> Result<Option<Said<u64>>, Unfit> {
    let wanted = body.boolean("logprobs")?.filter(|said| said.value);
    let top = body.whole("top_logprobs")?.filter(|said| said.value > 0);
    Ok(match (wanted, top) {
        (_, Some(top)) => Some(top),
        (Some(said), None) => Some(Said::new(said.at, 0)),
        (None, None) => None,
    })
}

/// `options`: what others have, too; what only a server of one's own has goes to the rest.
fn read_options(mut options: Fields, chat: &mut Chat, rest: &mut Rest) -> Result<(), Unfit> {
    let zero = |value: &Value| value.as_f64() == Some(0.0);
    options.neutral("frequency_penalty", zero);
    options.neutral("presence_penalty", zero);
    // Less than 0 is without a limit.
    options.neutral("num_predict", |value| {
        value.as_i64().is_some_and(|number| number < 0)
    });
    chat.max_tokens = options.whole("num_predict")?;
    chat.temperature = options.number("temperature")?;
    chat.top_p = options.number("top_p")?;
    chat.top_k = options.whole("top_k")?;
    chat.frequency_penalty = options.number("frequency_penalty")?;
    chat.presence_penalty = options.number("presence_penalty")?;
    chat.seed = options.said("seed", "must be a whole number", Value::as_i64)?;
    chat.stop = stop(&mut options, "stop")?;
    rest.extend(options.rest());
    Ok(())
}

fn embed(mut body: Fields, shape: Shape) -> Result<Embed, Unfit> {
    body.take("model");
    body.neutral("truncate", |value| *value == Value::Bool(true));
    let options = body.object("options")?;
    let name = match shape {
        Shape::Embeddings => "prompt",
        _ => "input",
    };
    let inputs = match body.take(name) {
        None => return Err(invalid(name, "is missing")),
        Some(Value::String(text)) => vec![EmbedInput::Text(text)],
        Some(Value::Array(list)) if !list.is_empty() && shape == Shape::Embed => {
            let text = |value: Value| match value {
                Value::String(text) => Ok(EmbedInput::Text(text)),
                _ => Err(invalid(name, "must be a string or a list of strings")),
            };
            list.into_iter().map(text).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(invalid(name, "must be a string or a list of strings")),
    };
    let mut embed = Embed {
        inputs,
        dimensions: body.whole("dimensions")?,
        ..Embed::default()
    };
    embed
        .rest
        .extend(options.into_iter().flat_map(Fields::rest));
    embed.rest.extend(body.rest());
    Ok(embed)
}
