//! A client's Responses request, read into the form between dialects.
//!
//! Source: OpenAI's API reference, "Create a model response". What needs something that OpenAI keeps
//! between requests (answers, conversations, prompts, runs in the background) is refused: no other
//! provider has it. An answer is kept nowhere, and says so (`store: false`).

use serde_json::{Map, Value, json};

use super::answer_out::Writer;
use super::items;
use crate::fields::{Fields, invalid};
use crate::ir::{
    Amount, Chat, Fit, Format, Message, Part, Reasoning, Role, Said, Tool, ToolChoice, Unfit, What,
};
use crate::openai::chat::request_in::amount;
use crate::translate::{Ask, Read};

/// Reads a body.
///
/// # Errors
/// What is wrong with it, or needs what OpenAI keeps.
pub fn read(ask: &Ask<'_>, fit: &mut Fit) -> Result<Read, Unfit> {
    let mut body = Fields::of_body(ask.body)?;
    let echo = echo(&body);
    let chat = chat(&mut body, fit)?;
    let writer = Writer::new(ask, echo);
    Ok(Read::Chat(Box::new(chat), Box::new(writer)))
}

fn chat(body: &mut Fields, fit: &mut Fit) -> Result<Chat, Unfit> {
    refuse_state(body)?;
    let is = |wanted: Value| move |value: &Value| *value == wanted;
    body.neutral("store", is(false.into()));
    body.neutral("background", is(false.into()));
    body.neutral("truncation", is("disabled".into()));
    body.neutral("service_tier", is("auto".into()));
    body.take("model");
    // The answer repeats it: that is all that it is for.
    body.take("metadata");
    if let Some(mut options) = body.object("stream_options")? {
        // Padding against those who listen to lengths: weir's own answers have none.
        options.take("include_obfuscation");
        for said in options.rest() {
            fit.lacks(said.at)?;
        }
    }
    let mut messages = Vec::new();
    if let Some(text) = body.text("instructions")?.filter(|text| !text.is_empty()) {
        messages.push(Message {
            role: Role::System,
            parts: vec![Part::new("instructions", What::Text(text))],
            name: None,
        });
    }
    let mut rest = Vec::new();
    items::read(body, &mut messages, &mut rest, fit)?;
    let tools = tools(body, fit)?;
    let mut chat = Chat {
        messages,
        tools,
        tool_choice: tool_choice(body, fit)?,
        parallel_tools: body.boolean("parallel_tool_calls")?,
        format: format(body, &mut rest)?,
        reasoning: reasoning(body, &mut rest)?,
        max_tokens: body.whole("max_output_tokens")?,
        temperature: body.number("temperature")?,
        top_p: body.number("top_p")?,
        logprobs: logprobs(body, fit)?,
        user: body.said_text("user")?,
        stream: body.boolean("stream")?.is_some_and(|said| said.value),
        stream_usage: true,
        ..Chat::default()
    };
    let others = std::mem::replace(body, Fields::of(String::new(), json!({}))?);
    rest.extend(others.rest());
    chat.rest = rest;
    Ok(chat)
}

/// What the answer repeats of the request.
fn echo(body: &Fields) -> Map<String, Value> {
    let defaults = [
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("metadata", json!({})),
        ("parallel_tool_calls", true.into()),
        ("reasoning", json!({"effort": null, "summary": null})),
        ("temperature", 1.0.into()),
        ("text", json!({"format": {"type": "text"}})),
        ("tool_choice", "auto".into()),
        ("tools", json!([])),
        ("top_logprobs", 0.into()),
        ("top_p", 1.0.into()),
        ("truncation", "disabled".into()),
        ("user", Value::Null),
    ];
    (defaults.into_iter())
        .map(|(name, default)| {
            let said = body.look(name).cloned().unwrap_or(default);
            (name.to_owned(), said)
        })
        .collect()
}

/// See the module.
fn refuse_state(body: &mut Fields) -> Result<(), Unfit> {
    for (name, what) in [
        (
            "previous_response_id",
            "names an answer that isn't kept: send the whole conversation in `input`",
        ),
        (
            "conversation",
            "names a conversation that isn't kept: send it in `input`",
        ),
        (
            "prompt",
            "names a prompt that isn't kept: send its text in `instructions` and `input`",
        ),
    ] {
        if body.look(name).is_some() {
            return Err(invalid(name, what));
        }
    }
    if body.look("background") == Some(&Value::Bool(true)) {
        let what = "can't be true: the answer would have to be kept";
        return Err(invalid("background", what));
    }
    Ok(())
}

fn tools(body: &mut Fields, fit: &mut Fit) -> Result<Vec<Tool>, Unfit> {
    let mut tools = Vec::new();
    for mut tool in body.objects("tools")? {
        let at = tool.here().to_owned();
        if tool.needed_text("type")? != "function" {
            // A tool that OpenAI runs itself, or without a schema.
            fit.lacks(at)?;
            continue;
        }
        let name = tool.needed_text("name")?;
        tools.push(Tool {
            name,
            description: tool.text("description")?,
            schema: tool.take("parameters"),
            strict: tool.boolean("strict")?,
            cache: None,
            at: at.into(),
        });
        for said in tool.rest() {
            fit.lacks(said.at)?;
        }
    }
    Ok(tools)
}

fn tool_choice(body: &mut Fields, fit: &mut Fit) -> Result<Option<Said<ToolChoice>>, Unfit> {
    const AT: &str = "tool_choice";
    let Some(value) = body.take(AT) else {
        return Ok(None);
    };
    let name = |tool: &Value| Some(tool["name"].as_str()?.to_owned());
    let choice = match (value.as_str(), value["type"].as_str()) {
        (Some("auto"), _) => Some(ToolChoice::Auto),
        (Some("none"), _) => Some(ToolChoice::None),
        (Some("required"), _) => Some(ToolChoice::Required),
        (_, Some("function")) => name(&value).map(ToolChoice::Tool),
        (_, Some("allowed_tools")) => {
            let tools = value["tools"].as_array();
            let names = tools.and_then(|tools| tools.iter().map(name).collect());
            names.map(|names| ToolChoice::Among {
                names,
                required: value["mode"] == "required",
            })
        }
        (_, Some(_)) => {
            fit.lacks(AT)?;
            return Ok(None);
        }
        _ => None,
    };
    match choice {
        Some(choice) => Ok(Some(Said::new(AT, choice))),
        None => Err(invalid(
            AT,
            "must be none, auto, required or {\"type\": \"function\", \"name\": …}",
        )),
    }
}

fn format(body: &mut Fields, rest: &mut Vec<Said<Value>>) -> Result<Option<Said<Format>>, Unfit> {
    let Some(mut text) = body.object("text")? else {
        return Ok(None);
    };
    text.neutral("verbosity", |value| value == "medium");
    text.neutral("format", |value| value["type"] == "text");
    let what = "must have the type text, json_object or json_schema (with a `schema`)";
    let format = text.said("format", what, |value| match value["type"].as_str()? {
        "json_object" => Some(Format::Json),
        "json_schema" => {
            let said = |name: &str| value[name].as_str().map(str::to_owned);
            Some(Format::Schema {
                name: said("name"),
                description: said("description"),
                schema: value.get("schema")?.clone(),
                strict: value["strict"].as_bool(),
            })
        }
        _ => None,
    })?;
    rest.extend(text.rest());
    Ok(format)
}

fn reasoning(
    body: &mut Fields,
    rest: &mut Vec<Said<Value>>,
) -> Result<Option<Said<Reasoning>>, Unfit> {
    let Some(mut said) = body.object("reasoning")? else {
        return Ok(None);
    };
    let what = "must be none, minimal, low, medium, high or xhigh";
    let effort = said.said("effort", what, |value| amount(value.as_str()?))?;
    let old = said.text("generate_summary")?;
    let summary = said.text("summary")?.or(old);
    rest.extend(said.rest());
    let (amount, at) = match (effort, &summary) {
        (Some(effort), _) => (effort.value, effort.at),
        (None, Some(_)) => (Amount::Default, "reasoning.summary".into()),
        (None, None) => return Ok(None),
    };
    let told = summary.is_some().then_some(true);
    Ok(Some(Said::new(at, Reasoning { amount, told })))
}

/// `include` and `top_logprobs`. Sealed thoughts come always: nothing else of them is kept.
fn logprobs(body: &mut Fields, fit: &mut Fit) -> Result<Option<Said<u64>>, Unfit> {
    let top = body.whole("top_logprobs")?.filter(|top| top.value > 0);
    let mut wanted = None;
    for (place, value) in (body.list("include")?.into_iter().flatten()).enumerate() {
        let at = format!("include[{place}]");
        match value.as_str() {
            Some("reasoning.encrypted_content") => {}
            Some("message.output_text.logprobs") => wanted = Some(Said::new(at, 0)),
            Some(_) => fit.lacks(at)?,
            None => return Err(invalid(&at, "must be a string")),
        }
    }
    Ok(top.or(wanted))
}
