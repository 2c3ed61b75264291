//! A client's Messages request, read into the form between dialects.
//!
//! Source: Anthropic's API reference, "Create a Message" and "Count tokens in a Message".

use serde_json::Value;

use super::answer_out::Writer;
use crate::fields::{Fields, invalid};
use crate::ir::{
    Amount, Call, Chat, Effort, Fit, Format, Message, Part, Reasoning, Role, Said, Source, Tool,
    ToolChoice, ToolResult, Unfit, What,
};
use crate::openai::chat::request_in::cache;
use crate::surface::Surface;
use crate::translate::{Ask, Read};

/// Reads a body.
///
/// # Errors
/// What is wrong with it.
pub fn read(ask: &Ask<'_>, _fit: &mut Fit) -> Result<Read, Unfit> {
    let chat = chat(Fields::of_body(ask.body)?)?;
    if chat.max_tokens.is_none() && ask.surface != Surface::MessagesCount {
        return Err(invalid("max_tokens", "is missing"));
    }
    Ok(Read::Chat(Box::new(chat), Box::new(Writer::new(ask))))
}

/// What has no place in the form.
type Rest = Vec<Said<Value>>;

fn chat(mut body: Fields) -> Result<Chat, Unfit> {
    body.take("model");
    // `standard_only` keeps from Anthropic's priority tier, which others haven't.
    body.neutral("service_tier", |value| {
        value == "auto" || value == "standard_only"
    });
    for empty in ["stop_sequences", "mcp_servers"] {
        body.neutral(empty, |value| value.as_array().is_some_and(Vec::is_empty));
    }
    let mut rest = Vec::new();
    let mut messages = system(&mut body, &mut rest)?;
    if body.look("messages").is_none() {
        return Err(invalid("messages", "is missing"));
    }
    for said in body.objects("messages")? {
        messages.push(message(said, &mut rest)?);
    }
    name_results(&mut messages);
    // Said of the whole request, it marks the last part that can be.
    if let Some(mark) = cache(&mut body)? {
        let mut parts = messages
            .iter_mut()
            .rev()
            .flat_map(|it| it.parts.iter_mut().rev());
        let last = parts.find(|it| !matches!(it.what, What::Reasoning { .. } | What::Redacted(_)));
        if let Some(last) = last.filter(|it| it.cache.is_none()) {
            last.cache = Some(mark);
        }
    }
    let (tool_choice, parallel_tools) = tool_choice(&mut body, &mut rest)?;
    let (reasoning, format) = thinking(&mut body, &mut rest)?;
    let mut chat = Chat {
        messages,
        tools: tools(&mut body, &mut rest)?,
        tool_choice,
        parallel_tools,
        format,
        reasoning,
        max_tokens: body.whole("max_tokens")?,
        temperature: body.number("temperature")?,
        top_p: body.number("top_p")?,
        top_k: body.whole("top_k")?,
        stop: crate::openai::chat::request_in::stop(&mut body, "stop_sequences")?,
        stream: body.boolean("stream")?.is_some_and(|said| said.value),
        stream_usage: true,
        ..Chat::default()
    };
    if let Some(mut metadata) = body.object("metadata")? {
        chat.user = metadata.said_text("user_id")?;
        rest.extend(metadata.rest());
    }
    rest.extend(body.rest());
    chat.rest = rest;
    Ok(chat)
}

/// `system`: text, or a list of blocks.
fn system(body: &mut Fields, rest: &mut Rest) -> Result<Vec<Message>, Unfit> {
    let parts = blocks(body, "system", rest)?;
    Ok(match parts.is_empty() {
        true => Vec::new(),
        false => vec![Message {
            role: Role::System,
            parts,
            name: None,
        }],
    })
}

fn message(mut said: Fields, rest: &mut Rest) -> Result<Message, Unfit> {
    let role = match &*said.needed_text("role")? {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        _ => return Err(invalid(&said.at("role"), "must be user or assistant")),
    };
    if said.look("content").is_none() {
        return Err(invalid(&said.at("content"), "is missing"));
    }
    let parts = blocks(&mut said, "content", rest)?;
    rest.extend(said.rest());
    Ok(Message {
        role,
        parts,
        name: None,
    })
}

/// Some dialects know a result by the name of its tool.
fn name_results(messages: &mut [Message]) {
    let mut names: Vec<(String, String)> = Vec::new();
    for part in messages.iter_mut().flat_map(|it| &mut it.parts) {
        match &mut part.what {
            What::Call(call) => names.push((call.id.clone(), call.name.clone())),
            What::Result(result) => {
                let call = names.iter().rfind(|(id, _)| *id == result.id);
                result.name = call.map(|(_, name)| name.clone());
            }
            _ => {}
        }
    }
}

/// Text, or a list of blocks.
fn blocks(said: &mut Fields, name: &str, rest: &mut Rest) -> Result<Vec<Part>, Unfit> {
    let mut parts = Vec::new();
    if let Some(Value::String(_)) = said.look(name) {
        let at = said.at(name);
        if let Some(text) = said.text(name)?.filter(|text| !text.is_empty()) {
            parts.push(Part::new(at, What::Text(text)));
        }
        return Ok(parts);
    }
    for block in said.objects(name)? {
        self::block(block, &mut parts, rest)?;
    }
    Ok(parts)
}

fn block(mut block: Fields, parts: &mut Vec<Part>, rest: &mut Rest) -> Result<(), Unfit> {
    let at = block.here().to_owned();
    let kind = block.needed_text("type")?;
    let cache = cache(&mut block)?;
    block.neutral("citations", |it| {
        it.as_array().is_some_and(Vec::is_empty) || it["enabled"] == false
    });
    let mut more = Vec::new();
    let what = match &*kind {
        "text" => What::Text(block.needed_text("text")?),
        "image" => What::Image {
            source: source(&mut block, &mut more, rest)?,
            detail: None,
        },
        "document" => What::Document {
            source: source(&mut block, &mut more, rest)?,
            name: block.text("title")?,
        },
        "search_result" => search_result(&mut block, rest)?,
        "thinking" => What::Reasoning {
            text: block.needed_text("thinking")?,
            signature: block.text("signature")?.filter(|it| !it.is_empty()),
        },
        "redacted_thinking" => What::Redacted(block.needed_text("data")?),
        "tool_use" => {
            // Who called: the model itself, which is how all others do it.
            block.neutral("caller", |caller| caller["type"] == "direct");
            let id = block.needed_text("id")?;
            let name = block.needed_text("name")?;
            let input = block.take("input");
            What::Call(Call {
                id,
                name,
                arguments: input.map(|it| it.to_string()).unwrap_or_default(),
                signature: None,
            })
        }
        "tool_result" => What::Result(ToolResult {
            id: block.needed_text("tool_use_id")?,
            name: None,
            parts: blocks(&mut block, "content", rest)?,
            error: block.boolean("is_error")?.is_some_and(|said| said.value),
        }),
        _ => {
            // What a tool of Anthropic's own did: no other API has it.
            rest.push(Said::new(at, Value::Object(block.into_map())));
            return Ok(());
        }
    };
    rest.extend(block.rest());
    parts.push(Part {
        what,
        cache,
        at: at.into(),
    });
    parts.append(&mut more);
    Ok(())
}

/// `source` of an image or document. A document that consists of blocks becomes its text; its pictures
/// come after it, in `more`.
fn source(block: &mut Fields, more: &mut Vec<Part>, rest: &mut Rest) -> Result<Source, Unfit> {
    let at = block.at("source");
    let mut said = (block.object("source")?).ok_or_else(|| invalid(&at, "is missing"))?;
    let source = match &*said.needed_text("type")? {
        "base64" => Source::Data {
            media_type: said.needed_text("media_type")?,
            base64: said.needed_text("data")?,
        },
        "url" => Source::Url(said.needed_text("url")?),
        "file" => Source::File(said.needed_text("file_id")?),
        "text" => {
            said.take("media_type");
            Source::Text(said.needed_text("data")?)
        }
        "content" => {
            let mut text = String::new();
            for part in blocks(&mut said, "content", rest)? {
                match part.what {
                    What::Text(piece) => add_line(&mut text, &piece),
                    _ => more.push(part),
                }
            }
            Source::Text(text)
        }
        _ => {
            let what = "must be base64, url, file, text or content";
            return Err(invalid(&said.at("type"), what));
        }
    };
    rest.extend(said.rest());
    Ok(source)
}

fn add_line(text: &mut String, piece: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(piece);
}

/// What a search found is a document that says where it is from.
fn search_result(block: &mut Fields, rest: &mut Rest) -> Result<What, Unfit> {
    let mut text = format!("Source: {}\n", block.needed_text("source")?);
    for part in blocks(block, "content", rest)? {
        if let What::Text(piece) = part.what {
            add_line(&mut text, &piece);
        }
    }
    Ok(What::Document {
        source: Source::Text(text),
        name: block.text("title")?,
    })
}

fn tools(body: &mut Fields, rest: &mut Rest) -> Result<Vec<Tool>, Unfit> {
    let mut tools = Vec::new();
    for mut tool in body.objects("tools")? {
        let at = tool.here().to_owned();
        tool.neutral("type", |value| value == "custom");
        if tool.look("type").is_some() {
            // A tool of Anthropic's own.
            rest.push(Said::new(at, Value::Object(tool.into_map())));
            continue;
        }
        tool.neutral("defer_loading", |value| value == false);
        tool.neutral("allowed_callers", |value| {
            *value == serde_json::json!(["direct"])
        });
        // How finely arguments are cut is the upstream's to say.
        tool.neutral("eager_input_streaming", Value::is_boolean);
        tools.push(Tool {
            name: tool.needed_text("name")?,
            description: tool.text("description")?,
            schema: tool.take("input_schema"),
            strict: tool.boolean("strict")?,
            cache: cache(&mut tool)?,
            at: at.into(),
        });
        rest.extend(tool.rest());
    }
    Ok(tools)
}

type Choice = (Option<Said<ToolChoice>>, Option<Said<bool>>);

fn tool_choice(body: &mut Fields, rest: &mut Rest) -> Result<Choice, Unfit> {
    let Some(mut said) = body.object("tool_choice")? else {
        return Ok((None, None));
    };
    let at = said.here().to_owned();
    let choice = match &*said.needed_text("type")? {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Tool(said.needed_text("name")?),
        _ => return Err(invalid(&said.at("type"), "must be auto, any, tool or none")),
    };
    let lone = said.boolean("disable_parallel_tool_use")?;
    let parallel = lone.filter(|said| said.value);
    rest.extend(said.rest());
    Ok((
        Some(Said::new(at, choice)),
        parallel.map(|said| Said::new(said.at, false)),
    ))
}

type Output = (Option<Said<Reasoning>>, Option<Said<Format>>);

/// `thinking` and `output_config`, which share the word on how much a model does.
fn thinking(body: &mut Fields, rest: &mut Rest) -> Result<Output, Unfit> {
    let mut effort = None;
    // Its name before it was generally available.
    let mut format = format(body, "output_format")?;
    if let Some(mut config) = body.object("output_config")? {
        effort = config.said(
            "effort",
            "must be low, medium, high, xhigh or max",
            |value| {
                Some(match value.as_str()? {
                    "low" => Effort::Low,
                    "medium" => Effort::Medium,
                    "high" => Effort::High,
                    "xhigh" | "max" => Effort::Max,
                    _ => return None,
                })
            },
        )?;
        format = self::format(&mut config, "format")?.or(format);
        rest.extend(config.rest());
    }
    let Some(mut said) = body.object("thinking")? else {
        let reasoning = effort.map(|said| {
            let amount = Amount::Effort(said.value);
            Said::new(said.at, Reasoning { amount, told: None })
        });
        return Ok((reasoning, format));
    };
    let at = said.here().to_owned();
    let budget = said.whole("budget_tokens")?;
    let amount = match &*said.needed_text("type")? {
        "disabled" => Amount::Off,
        "adaptive" => match effort.take() {
            Some(effort) => Amount::Effort(effort.value),
            None => Amount::Adaptive,
        },
        "enabled" => match budget {
            Some(budget) => Amount::Tokens(budget.value),
            None => return Err(invalid(&said.at("budget_tokens"), "is missing")),
        },
        _ => {
            let what = "must be enabled, adaptive or disabled";
            return Err(invalid(&said.at("type"), what));
        }
    };
    let told = said.said(
        "display",
        "must be summarized or omitted",
        |value| match value.as_str()? {
            "summarized" => Some(true),
            "omitted" => Some(false),
            _ => None,
        },
    )?;
    rest.extend(said.rest());
    // The form has one word for both; `high` is what it is anyway.
    if let Some(effort) = effort.filter(|it| it.value != Effort::High) {
        rest.push(Said::new(effort.at, Value::Null));
    }
    let told = told.map(|said| said.value);
    Ok((Some(Said::new(at, Reasoning { amount, told })), format))
}

fn format(fields: &mut Fields, name: &str) -> Result<Option<Said<Format>>, Unfit> {
    let what = "must have the type json_schema and a `schema`";
    fields.said(name, what, |value| match value["type"].as_str()? {
        "json_schema" => Some(Format::Schema {
            name: None,
            description: None,
            schema: value.get("schema")?.clone(),
            strict: Some(true),
        }),
        _ => None,
    })
}
