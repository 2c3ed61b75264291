//! A request written for Bedrock's Converse.
//!
//! Source: Amazon Bedrock API reference, "Converse" and its types; the user guide's pages on inference
//! parameters for what only a model's own fields can say (`additionalModelRequestFields`).

use serde_json::{Map, Value, json};

use super::answer_in::Reader;
use super::blocks;
use crate::ir::{
    Amount, Chat, Effort, Fit, Format, Message, Modality, Role, Said, Tool, ToolChoice, Unfit, What,
};
use crate::provider::at;
use crate::surface::Surface;
use crate::translate::{Outgoing, Target};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stands in a segment of a path as it is (RFC 3986, section 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The least that Claude's thinking takes.
const THINKING_TOKENS_MIN: u64 = 1024;

/// Whose model it is, where its id says so: an ARN of a profile doesn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Claude,
    Nova,
    /// OpenAI's open models.
    GptOss,
    Other,
}

/// Writes a request.
///
/// # Errors
/// What can't be said.
pub fn write(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let method = match chat.stream {
        true => "converse-stream",
        false => "converse",
    };
    let model = utf8_percent_encode(target.model, SEGMENT);
    let path = at(target.base, "", &format!("/model/{model}/{method}"));
    Ok(Outgoing {
        path,
        query: None,
        body: body(chat, target.model, fit)?.to_string().into_bytes(),
        headers: Vec::new(),
        surface: Surface::Converse,
        reader: Box::new(Reader::default()),
    })
}

fn body(chat: Chat, model: &str, fit: &mut Fit) -> Result<Value, Unfit> {
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
        stream: _,
        stream_usage: _,
        rest,
    } = chat;
    let family = Family::of(model);
    let mut body = Map::new();
    let mut own = Map::new();
    let calls_before = messages.iter().any(has_tools);
    let (system, messages) = conversation(messages, family, fit)?;
    body.insert("messages".into(), messages.into());
    if !system.is_empty() {
        body.insert("system".into(), system.into());
    }
    if let Some(config) = tool_config(tools, tool_choice, calls_before, fit)? {
        body.insert("toolConfig".into(), config);
    }
    if let Some(said) = parallel_tools.filter(|said| !said.value) {
        fit.lacks(said.at)?;
    }
    if let Some(format) = format {
        let config = output_config(format, fit)?;
        body.extend(config.map(|config| ("outputConfig".to_owned(), config)));
    }
    if let Some(said) = reasoning {
        let most = max_tokens.as_ref().map(|said| said.value);
        think(said.value.amount, &said.at, family, most, &mut own, fit)?;
    }
    let mut inference = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            inference.insert(name.to_owned(), value);
        }
    };
    put("maxTokens", max_tokens.map(|said| said.value.into()));
    put("temperature", temperature.map(|said| said.value.into()));
    put("topP", top_p.map(|said| said.value.into()));
    let stops = stop.is_some();
    put("stopSequences", stop.map(|said| said.value.into()));
    if !inference.is_empty() {
        body.insert("inferenceConfig".into(), inference.into());
    }
    if stops && family == Family::Claude {
        // Which of them came is told only when it is asked for.
        body.insert(
            "additionalModelResponseFieldPaths".into(),
            json!(["/stop_sequence"]),
        );
    }
    if let Some(said) = top_k {
        match family {
            Family::Claude => own.insert("top_k".into(), said.value.into()),
            Family::Nova => own.insert("inferenceConfig".into(), json!({"topK": said.value})),
            Family::GptOss | Family::Other => {
                fit.lacks(said.at)?;
                None
            }
        };
    }
    if !own.is_empty() {
        body.insert("additionalModelRequestFields".into(), own.into());
    }
    if let Some(said) = user {
        match fits_metadata(&said.value) {
            true => {
                body.insert("requestMetadata".into(), json!({"user": said.value}));
            }
            false => fit.hints(said.at),
        }
    }
    fit.lacks_any(frequency_penalty)?;
    fit.lacks_any(presence_penalty)?;
    fit.lacks_any(seed)?;
    fit.lacks_any(choices)?;
    fit.lacks_any(logprobs)?;
    if let Some(said) = output.filter(|said| said.value.iter().any(|it| *it != Modality::Text)) {
        fit.lacks(said.at)?;
    }
    for said in rest {
        match (&*said.at, said.value.as_str()) {
            ("service_tier", Some(tier @ ("default" | "flex" | "priority"))) => {
                body.insert("serviceTier".into(), json!({"type": tier}));
            }
            _ => fit.lacks(said.at)?,
        }
    }
    Ok(Value::Object(body))
}

// === impl Family ===

impl Family {
    fn of(model: &str) -> Self {
        let names = [
            ("anthropic.", Self::Claude),
            ("amazon.nova", Self::Nova),
            ("openai.gpt-oss", Self::GptOss),
        ];
        (names.iter())
            .find(|(name, _)| model.contains(name))
            .map_or(Self::Other, |(_, family)| *family)
    }
}

fn has_tools(message: &Message) -> bool {
    let is_tool = |what: &What| matches!(what, What::Call(_) | What::Result(_));
    message.parts.iter().any(|part| is_tool(&part.what))
}

/// Instructions, and the turns: those of the same side that follow each other are one, for Converse
/// wants them to alternate.
fn conversation(
    messages: Vec<Message>,
    family: Family,
    fit: &mut Fit,
) -> Result<(Vec<Value>, Vec<Value>), Unfit> {
    let mut system = Vec::new();
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    let mut place = 0;
    for Message { role, parts, name } in messages {
        fit.lacks_any(name)?;
        let mut content = Vec::new();
        for part in parts {
            let allowed = role != Role::System || matches!(part.what, What::Text(_));
            if !allowed {
                fit.lacks(part.at)?;
                continue;
            }
            blocks::write(part, family, &mut place, &mut content, fit)?;
        }
        let word = match role {
            Role::System => {
                system.append(&mut content);
                continue;
            }
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        match turns.last_mut() {
            Some((before, blocks)) if *before == word => blocks.append(&mut content),
            _ => turns.push((word, content)),
        }
    }
    let turns = (turns.into_iter())
        .filter(|(_, content)| !content.is_empty())
        .map(|(role, content)| json!({"role": role, "content": content}));
    Ok((system, turns.collect()))
}

/// `None` without tools. Converse has no word for "none of them": they are left out, unless the
/// conversation has calls, which it wants explained.
fn tool_config(
    tools: Vec<Tool>,
    choice: Option<Said<ToolChoice>>,
    calls_before: bool,
    fit: &mut Fit,
) -> Result<Option<Value>, Unfit> {
    if tools.is_empty() {
        return Ok(None);
    }
    let (choice, choice_at) = match choice {
        Some(said) => (said.value, said.at),
        None => (ToolChoice::Auto, "tool_choice".into()),
    };
    let mut among = None;
    let word = match choice {
        ToolChoice::Auto => None,
        ToolChoice::None if !calls_before => return Ok(None),
        ToolChoice::None => {
            fit.lacks(choice_at)?;
            None
        }
        ToolChoice::Required => Some(json!({"any": {}})),
        ToolChoice::Tool(name) => Some(json!({"tool": {"name": name}})),
        // The others aren't told of.
        ToolChoice::Among { names, required } => {
            among = Some(names);
            required.then(|| json!({"any": {}}))
        }
    };
    let mut written = Vec::new();
    for tool in tools {
        if among
            .as_ref()
            .is_some_and(|names| !names.contains(&tool.name))
        {
            continue;
        }
        let schema = (tool.schema).unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        let mut spec = Map::new();
        spec.insert("name".into(), tool.name.into());
        if let Some(text) = tool.description.filter(|text| !text.is_empty()) {
            spec.insert("description".into(), text.into());
        }
        spec.insert("inputSchema".into(), json!({"json": schema}));
        if let Some(said) = tool.strict.filter(|said| said.value) {
            spec.insert("strict".into(), said.value.into());
        }
        written.push(json!({"toolSpec": spec}));
        if let Some(said) = tool.cache {
            written.push(blocks::cache_point(said.value));
        }
    }
    let mut config = Map::new();
    config.insert("tools".into(), written.into());
    if let Some(word) = word {
        config.insert("toolChoice".into(), word);
    }
    Ok(Some(config.into()))
}

fn output_config(format: Said<Format>, fit: &mut Fit) -> Result<Option<Value>, Unfit> {
    let Format::Schema {
        name,
        description,
        schema,
        // It is always followed exactly.
        strict: _,
    } = format.value
    else {
        fit.lacks(format.at)?;
        return Ok(None);
    };
    let mut said = Map::new();
    said.insert("schema".into(), schema.to_string().into());
    if let Some(name) = name {
        said.insert("name".into(), name.into());
    }
    if let Some(description) = description {
        said.insert("description".into(), description.into());
    }
    let structure = json!({"jsonSchema": said});
    Ok(Some(
        json!({"textFormat": {"type": "json_schema", "structure": structure}}),
    ))
}

/// How much a model thinks is a field of its own.
fn think(
    amount: Amount,
    at: &str,
    family: Family,
    max_tokens: Option<u64>,
    own: &mut Map<String, Value>,
    fit: &mut Fit,
) -> Result<(), Unfit> {
    let tokens = match (amount, family) {
        (Amount::Default, _) => return Ok(()),
        (Amount::Off, Family::Claude) => {
            own.insert("thinking".into(), json!({"type": "disabled"}));
            return Ok(());
        }
        (Amount::Adaptive, Family::Claude) => {
            own.insert("thinking".into(), json!({"type": "adaptive"}));
            return Ok(());
        }
        (amount, Family::Claude) => budget(amount),
        (Amount::Off, Family::Nova) => {
            own.insert("reasoningConfig".into(), json!({"type": "disabled"}));
            return Ok(());
        }
        (amount, Family::Nova) => {
            let config = json!({"type": "enabled", "maxReasoningEffort": effort(amount)});
            own.insert("reasoningConfig".into(), config);
            return Ok(());
        }
        (Amount::Off, Family::GptOss) => return fit.lacks(at),
        (amount, Family::GptOss) => {
            own.insert("reasoning_effort".into(), effort(amount).into());
            return Ok(());
        }
        (Amount::Off, Family::Other) => return Ok(()),
        (_, Family::Other) => return fit.lacks(at),
    };
    // Thoughts are part of the most tokens, and something must be left for the answer.
    let tokens = max_tokens.map_or(tokens, |most| tokens.min(most.saturating_sub(1)));
    if tokens < THINKING_TOKENS_MIN {
        return fit.lacks(at);
    }
    let thinking = json!({"type": "enabled", "budget_tokens": tokens});
    own.insert("thinking".into(), thinking);
    Ok(())
}

/// Tokens for an effort, as other gateways take it.
fn budget(amount: Amount) -> u64 {
    match amount {
        Amount::Tokens(tokens) => tokens.max(THINKING_TOKENS_MIN),
        Amount::Effort(Effort::Minimal | Effort::Low) => 1024,
        Amount::Effort(Effort::Medium) | Amount::Default | Amount::Adaptive => 4096,
        Amount::Effort(Effort::High) => 16384,
        Amount::Effort(Effort::Max) => 32768,
        Amount::Off => 0,
    }
}

fn effort(amount: Amount) -> &'static str {
    match amount {
        Amount::Effort(Effort::Minimal | Effort::Low) | Amount::Tokens(0..2048) | Amount::Off => {
            "low"
        }
        Amount::Effort(Effort::High | Effort::Max) | Amount::Tokens(8192..) => "high",
        _ => "medium",
    }
}

/// What the values of `requestMetadata` may consist of.
fn fits_metadata(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b" :_@$#=/+,-.".contains(&byte);
    text.len() <= 256 && text.bytes().all(fits)
}
