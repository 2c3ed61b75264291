//! A request written for Anthropic's Messages API.
//!
//! Source: Anthropic's API reference, "Create a Message"; its documentation on tools, extended thinking
//! and structured outputs; what models differ in is [`Model`]'s to say.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::answer_in::Reader;
use super::input;
use super::model::Model;
use super::path;
use super::thinking::Thinking;
use crate::ir::{
    Cache, Chat, Fit, Format, Message, Modality, Part, Role, Said, Source, Tool, ToolChoice,
    ToolResult, Unfit, What, call_id,
};
use crate::surface::Surface;
use crate::translate::{Outgoing, Target};

/// The version of the API where the configuration names none.
const VERSION: &str = "2023-06-01";
/// The beta that files are part of.
const FILES: &str = "files-api-2025-04-14";

/// Writes a request.
///
/// # Errors
/// What can't be said.
pub fn write(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let (body, files) = body(chat, target, fit)?;
    let version = target.provider.api_version.as_deref().unwrap_or(VERSION);
    let mut headers = vec![("anthropic-version", version.to_owned())];
    if files {
        headers.push(("anthropic-beta", FILES.to_owned()));
    }
    Ok(Outgoing {
        path: path(target.base, "/messages"),
        query: None,
        body: Value::Object(body).to_string().into_bytes(),
        headers,
        surface: Surface::Messages,
        reader: Box::new(Reader::default()),
    })
}

/// The body, and whether files are named in it.
fn body(
    chat: Chat,
    target: &Target<'_>,
    fit: &mut Fit,
) -> Result<(Map<String, Value>, bool), Unfit> {
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
    let model = Model::of(target.model);
    let mut turns = Turns {
        lenient: target.lenient,
        ..Turns::default()
    };
    for message in messages {
        turns.take(message, fit)?;
    }
    let resumes = turns.resumes_without_thoughts();
    let (system, messages, files) = turns.into_parts(fit)?;
    let (tools, tool_choice) = tools_and_choice(tools, tool_choice, parallel_tools, model, fit)?;
    let forced = matches!(
        tool_choice.as_ref().and_then(|it| it["type"].as_str()),
        Some("any" | "tool")
    );
    let mut most = max_tokens.as_ref().map(|said| said.value);
    let mut thinking = Thinking::default();
    if let Some(said) = reasoning {
        // A model that must call a tool doesn't think before.
        if forced && said.value.amount.is_on() {
            fit.lacks(said.at)?;
        } else {
            thinking = Thinking::of(said, model, &mut most, fit)?;
        }
    }
    // A turn that began without thoughts goes on without them: the API refuses a budget there.
    if resumes && thinking.has_budget() {
        thinking = Thinking::default();
    }

    let mut body = Map::new();
    body.insert("model".into(), target.model.into());
    let most = most.unwrap_or_else(|| model.max_tokens());
    body.insert("max_tokens".into(), most.into());
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("system", system);
    put("messages", Some(messages.into()));
    put(
        "tools",
        Some(tools).filter(|it| !it.is_empty()).map(Value::from),
    );
    put("tool_choice", tool_choice);
    let mut config = Map::new();
    if let Some(effort) = thinking.effort {
        config.insert("effort".into(), effort.into());
    }
    if let Some(said) = format {
        match said.value {
            Format::Schema {
                name: _,
                description,
                schema,
                // It always is, here.
                strict: _,
            } if model.has_schemas() => {
                let schema = closed(schema, description);
                config.insert(
                    "format".into(),
                    json!({"type": "json_schema", "schema": schema}),
                );
            }
            _ => fit.lacks(said.at)?,
        }
    }
    put(
        "output_config",
        Some(config).filter(|it| !it.is_empty()).map(Value::from),
    );

    // 1 is what both are anyway. With thoughts, and by the newest models, nothing else is taken.
    let thinks = thinking.is_on();
    let fixed = thinks || model.only_adapts();
    let temperature = temperature.filter(|said| said.value != 1.0);
    let top_p = top_p.filter(|said| said.value != 1.0);
    let mut warm = false;
    if let Some(said) = temperature {
        if fixed || !(0.0..=1.0).contains(&said.value) {
            fit.lacks(said.at)?;
        } else {
            warm = true;
            put("temperature", Some(said.value.into()));
        }
    }
    if let Some(said) = top_p {
        let taken = match (model.only_adapts(), thinks) {
            (true, _) => false,
            (false, true) => said.value >= 0.95,
            (false, false) => !(warm && model.has_one_of_temperature_and_top_p()),
        };
        match taken {
            true => put("top_p", Some(said.value.into())),
            false => fit.lacks(said.at)?,
        }
    }
    match top_k {
        Some(said) if fixed => fit.lacks(said.at)?,
        top_k => put("top_k", top_k.map(|said| said.value.into())),
    }
    put("thinking", thinking.thinking);
    if let Some(said) = stop {
        // Of white space alone they are refused.
        let (texts, blank): (Vec<_>, Vec<_>) =
            said.value.into_iter().partition(|it| !it.trim().is_empty());
        if !blank.is_empty() {
            fit.lacks(said.at)?;
        }
        put(
            "stop_sequences",
            Some(texts).filter(|it| !it.is_empty()).map(Value::from),
        );
    }
    put("metadata", user.map(|said| json!({"user_id": said.value})));
    put("stream", stream.then(|| true.into()));
    fit.lacks_any(frequency_penalty)?;
    fit.lacks_any(presence_penalty)?;
    fit.lacks_any(seed)?;
    fit.lacks_any(choices)?;
    fit.lacks_any(logprobs)?;
    fit.lacks_any(output.filter(|said| said.value.iter().any(|it| *it != Modality::Text)))?;
    for said in rest {
        fit.lacks(said.at)?;
    }
    Ok((body, files))
}

// === turns ===

/// The conversation as it is written.
#[derive(Debug, Default)]
struct Turns {
    lenient: bool,
    system: Vec<Value>,
    /// Who, where the client said it, and blocks: consecutive turns of one role are one.
    turns: Vec<(Role, String, Vec<Value>)>,
    /// Calls without a result as yet: id and name.
    open: Vec<(String, String)>,
    calls: u32,
    files: bool,
}

impl Turns {
    fn take(&mut self, message: Message, fit: &mut Fit) -> Result<(), Unfit> {
        let Message { role, parts, name } = message;
        fit.lacks_any(name)?;
        // Results come first in a turn: the API wants them so.
        let (results, others): (Vec<_>, Vec<_>) =
            (parts.into_iter()).partition(|it| matches!(it.what, What::Result(_)));
        let first = results
            .first()
            .or(others.first())
            .map(|it| it.at.to_string());
        let mut written = Vec::new();
        for part in results.into_iter().chain(others) {
            if let Some(block) = self.part(part, fit)? {
                written.push(block);
            }
        }
        if written.is_empty() {
            return Ok(());
        }
        if role == Role::System {
            // Instructions have one place, wherever in the conversation they were given.
            self.system.append(&mut written);
            return Ok(());
        }
        match self.turns.last_mut() {
            Some((last, _, blocks)) if *last == role => {
                let is_result = |it: &Value| it["type"] == "tool_result";
                let at = blocks.iter().take_while(|it| is_result(it)).count();
                let results = written.iter().take_while(|it| is_result(it)).count();
                let others = written.split_off(results);
                blocks.splice(at..at, written);
                blocks.extend(others);
            }
            _ => self.turns.push((role, first.unwrap_or_default(), written)),
        }
        Ok(())
    }

    /// A tool's result is the last word, and the turn that called it has no thoughts.
    fn resumes_without_thoughts(&self) -> bool {
        let [.., (Role::Assistant, _, before), (Role::User, _, last)] = &*self.turns else {
            return false;
        };
        let thought = |it: &Value| it["type"] == "thinking" || it["type"] == "redacted_thinking";
        last[0]["type"] == "tool_result" && !before.first().is_some_and(thought)
    }

    /// `system`, `messages`, and whether files are named.
    fn into_parts(mut self, fit: &mut Fit) -> Result<(Option<Value>, Vec<Value>, bool), Unfit> {
        if self.turns.first().is_some_and(|it| it.0 == Role::Assistant) {
            // The user speaks first.
            let (_, at, _) = self.turns.remove(0);
            fit.lacks(at)?;
        }
        if self.turns.is_empty() {
            // Instructions alone are what is asked.
            let asked = std::mem::take(&mut self.system);
            if asked.is_empty() {
                return Err(crate::fields::invalid(
                    "messages",
                    "has nothing that is said",
                ));
            }
            self.turns.push((Role::User, String::new(), asked));
        }
        let system = match &mut *self.system {
            [] => None,
            [only] if only.get("cache_control").is_none() => Some(only["text"].take()),
            _ => Some(Value::Array(self.system)),
        };
        let message = |(role, _, blocks): (Role, String, Vec<Value>)| {
            let role = match role {
                Role::Assistant => "assistant",
                _ => "user",
            };
            json!({"role": role, "content": plain(blocks)})
        };
        let messages = self.turns.into_iter().map(message).collect();
        Ok((system, messages, self.files))
    }

    fn part(&mut self, part: Part, fit: &mut Fit) -> Result<Option<Value>, Unfit> {
        let Part { what, cache, at } = part;
        let mut block = match what {
            // It takes no empty ones.
            What::Text(text) | What::Refusal(text) if text.is_empty() => return Ok(None),
            What::Text(text) | What::Refusal(text) => json!({"type": "text", "text": text}),
            What::Image { source, detail } => {
                // Pictures are seen as they are.
                if detail.as_deref() == Some("low") {
                    fit.lacks(format!("{at}.detail"))?;
                }
                let Some(source) = self.source(source) else {
                    fit.lacks(at)?;
                    return Ok(None);
                };
                json!({"type": "image", "source": source})
            }
            What::Document { source, name } => {
                let source = match source {
                    Source::Data { media_type, base64 } if media_type.starts_with("text/") => {
                        text_source(&base64)
                    }
                    Source::Data { media_type, .. } if media_type != "application/pdf" => None,
                    source => self.source(source),
                };
                let Some(source) = source else {
                    fit.lacks(at)?;
                    return Ok(None);
                };
                let mut block = json!({"type": "document", "source": source});
                if let Some(name) = name {
                    block["title"] = name.into();
                }
                block
            }
            What::Reasoning { text, signature } => {
                let Some(signature) = signature else {
                    // Without its seal no thought is taken back. The API forgets those of earlier turns
                    // anyway, so this is no reason to refuse a conversation.
                    if self.lenient {
                        fit.lacks(at)?;
                    }
                    return Ok(None);
                };
                fit.hints_any(cache);
                return Ok(Some(
                    json!({"type": "thinking", "thinking": text, "signature": signature}),
                ));
            }
            What::Redacted(data) => {
                fit.hints_any(cache);
                return Ok(Some(json!({"type": "redacted_thinking", "data": data})));
            }
            What::Call(call) => {
                let id = match call.id.is_empty() {
                    true => call_id("history", 0, self.calls),
                    false => plain_id(&call.id),
                };
                self.calls += 1;
                self.open.push((id.clone(), call.name.clone()));
                // The seal of another provider means nothing here.
                json!({
                    "type": "tool_use", "id": id, "name": call.name, "input": input(&call.arguments),
                })
            }
            What::Result(result) => self.result(result, fit)?,
            What::Audio(_) | What::Video(_) => {
                fit.lacks(at)?;
                return Ok(None);
            }
        };
        mark(&mut block, cache);
        Ok(Some(block))
    }

    fn result(&mut self, result: ToolResult, fit: &mut Fit) -> Result<Value, Unfit> {
        let ToolResult {
            id,
            name,
            parts,
            error,
        } = result;
        let id = match id.is_empty() {
            false => plain_id(&id),
            // Of dialects without ids: the first call of that name, or the first of all.
            true => {
                let named = |(_, it): &(String, String)| name.as_deref() == Some(&**it);
                let call = self.open.iter().find(|it| named(it)).or(self.open.first());
                call.map(|(id, _)| id.clone()).unwrap_or_default()
            }
        };
        self.open.retain(|(open, _)| *open != id);
        let mut content = Vec::new();
        for part in parts {
            if let Some(block) = self.part(part, fit)? {
                content.push(block);
            }
        }
        let mut block = json!({"type": "tool_result", "tool_use_id": id});
        if !content.is_empty() {
            block["content"] = plain(content);
        }
        if error {
            block["is_error"] = true.into();
        }
        Ok(block)
    }

    fn source(&mut self, source: Source) -> Option<Value> {
        Some(match source {
            Source::Data { media_type, base64 } => {
                json!({"type": "base64", "media_type": media_type, "data": base64})
            }
            Source::Url(url) => json!({"type": "url", "url": url}),
            Source::File(id) => {
                self.files = true;
                json!({"type": "file", "file_id": id})
            }
            Source::Text(text) => json!({"type": "text", "media_type": "text/plain", "data": text}),
        })
    }
}

/// One text stands alone.
fn plain(mut blocks: Vec<Value>) -> Value {
    match &mut *blocks {
        [only] if only["type"] == "text" && only.get("cache_control").is_none() => {
            only["text"].take()
        }
        _ => Value::Array(blocks),
    }
}

fn text_source(base64: &str) -> Option<Value> {
    let text = String::from_utf8(STANDARD.decode(base64).ok()?).ok()?;
    Some(json!({"type": "text", "media_type": "text/plain", "data": text}))
}

fn mark(block: &mut Value, cache: Option<Said<Cache>>) {
    let Some(cache) = cache else { return };
    let mut mark = json!({"type": "ephemeral"});
    if let Some(ttl) = cache.value.ttl {
        mark["ttl"] = ttl.into();
    }
    block["cache_control"] = mark;
}

/// The API takes letters, digits, `_` and `-` in ids; other dialects have more.
fn plain_id(id: &str) -> String {
    let plain = |it: char| match it.is_ascii_alphanumeric() || it == '_' || it == '-' {
        true => it,
        false => '_',
    };
    id.chars().map(plain).collect()
}

// === tools ===

fn tools_and_choice(
    mut tools: Vec<Tool>,
    choice: Option<Said<ToolChoice>>,
    parallel: Option<Said<bool>>,
    model: Model,
    fit: &mut Fit,
) -> Result<(Vec<Value>, Option<Value>), Unfit> {
    if tools.is_empty() {
        // Without tools there is nothing to choose.
        return match choice {
            Some(said) if !matches!(said.value, ToolChoice::Auto | ToolChoice::None) => {
                fit.lacks(said.at).map(|()| (Vec::new(), None))
            }
            _ => Ok((Vec::new(), None)),
        };
    }
    let mut written = choice.map(|said| match said.value {
        ToolChoice::Auto => json!({"type": "auto"}),
        ToolChoice::None => json!({"type": "none"}),
        ToolChoice::Required => json!({"type": "any"}),
        ToolChoice::Tool(name) => json!({"type": "tool", "name": name}),
        // Who may call some tools only is given no others.
        ToolChoice::Among { names, required } => {
            tools.retain(|it| names.contains(&it.name));
            json!({"type": if required { "any" } else { "auto" }})
        }
    });
    if parallel.is_some_and(|said| !said.value) {
        let choice = written.get_or_insert_with(|| json!({"type": "auto"}));
        if choice["type"] != "none" {
            choice["disable_parallel_tool_use"] = true.into();
        }
    }
    let tools: Result<Vec<_>, _> = tools.into_iter().map(|it| tool(it, model, fit)).collect();
    Ok((tools?, written))
}

fn tool(tool: Tool, model: Model, fit: &mut Fit) -> Result<Value, Unfit> {
    let Tool {
        name,
        description,
        schema,
        strict,
        cache,
        at: _,
    } = tool;
    let mut written = json!({"name": name});
    if let Some(description) = description {
        written["description"] = description.into();
    }
    let mut schema = match schema {
        Some(Value::Object(schema)) => schema,
        _ => Map::new(),
    };
    if !schema.contains_key("type") {
        schema.insert("type".into(), "object".into());
    }
    written["input_schema"] = schema.into();
    if let Some(said) = strict.filter(|said| said.value) {
        match model.has_schemas() {
            true => written["strict"] = true.into(),
            false => fit.lacks(said.at)?,
        }
    }
    mark(&mut written, cache);
    Ok(written)
}

/// A schema for an answer: its objects must say that they have no other members. What follows that
/// follows the schema as it was.
fn closed(mut schema: Value, description: Option<String>) -> Value {
    close(&mut schema);
    if let (Some(description), Value::Object(map)) = (description, &mut schema) {
        map.entry("description").or_insert(description.into());
    }
    schema
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("properties").is_some_and(Value::is_object) {
                map.entry("additionalProperties").or_insert(false.into());
            }
            for (name, value) in map.iter_mut() {
                match &**name {
                    // Names, not keywords.
                    "properties" | "$defs" | "definitions" => {
                        value
                            .as_object_mut()
                            .into_iter()
                            .flatten()
                            .for_each(|(_, it)| close(it));
                    }
                    "enum" | "const" | "default" | "examples" => {}
                    _ => close(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}
