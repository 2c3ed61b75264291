//! A request written for Gemini's API, at Google AI and Vertex.
//!
//! Source: Google's API reference, "models.generateContent", and the one of Vertex. Schemas go where JSON
//! Schema is understood as it is (`parametersJsonSchema`, `responseJsonSchema`), so that nothing of them
//! is lost. A schema's name has no place and no meaning to the model.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::answer_in::Reader;
use super::contents_out::Conversation;
use super::thinking;
use crate::ir::{Chat, Fit, Format, Modality, Said, Tool, ToolChoice, Unfit};
use crate::provider::{Dialect, Provider, at};
use crate::surface::Surface;
use crate::translate::{Outgoing, Target};

/// Writes a request.
///
/// # Errors
/// What can't be said.
pub fn write(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let (method, query) = match chat.stream {
        true => ("streamGenerateContent", Some("alt=sse".to_owned())),
        false => ("generateContent", None),
    };
    let body = body(chat, target, fit)?;
    Ok(Outgoing {
        path: path(target.provider, target.base, target.model, method),
        query,
        body: body.to_string().into_bytes(),
        headers: Vec::new(),
        surface: Surface::Gemini,
        reader: Box::new(Reader::default()),
    })
}

/// What can't stand in a path as it is.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b':');

/// The path of a model's method. Vertex without a project is that of an API key alone.
pub fn path(provider: &Provider, base: &str, named: &str, method: &str) -> String {
    let model = utf8_percent_encode(named, ENCODED);
    let has_place = named.contains('/');
    if provider.dialect != Dialect::Vertex {
        let place = if has_place { "" } else { "models/" };
        return at(base, "/v1beta", &format!("/{place}{model}:{method}"));
    }
    let model = match named.split_once('/') {
        None => format!("publishers/google/models/{model}"),
        Some(("publishers" | "endpoints" | "projects", _)) => model.to_string(),
        Some((publisher, name)) => {
            let name = utf8_percent_encode(name, ENCODED);
            format!("publishers/{publisher}/models/{name}")
        }
    };
    let place = match &provider.project {
        Some(project) if !model.starts_with("projects/") => {
            let region = provider.region.as_deref().unwrap_or("global");
            format!("projects/{project}/locations/{region}/")
        }
        _ => String::new(),
    };
    at(base, "/v1", &format!("/{place}{model}:{method}"))
}

fn body(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Value, Unfit> {
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
    let mut body = Map::new();
    let mut settings = Map::new();
    let conversation = Conversation::of(messages, target, fit)?;
    if let Some(resolution) = conversation.resolution {
        settings.insert("mediaResolution".into(), resolution.into());
    }
    if !conversation.instructions.is_empty() {
        let said = json!({"parts": conversation.instructions});
        body.insert("systemInstruction".into(), said);
    }
    body.insert("contents".into(), conversation.contents.into());
    if !tools.is_empty() {
        let calling = calling(&tools, tool_choice);
        let declared: Result<Vec<_>, _> = tools.into_iter().map(|it| declare(it, fit)).collect();
        let tools = json!([{"functionDeclarations": declared?}]);
        body.insert("tools".into(), tools);
        if let Some(calling) = calling {
            let config = json!({"functionCallingConfig": calling});
            body.insert("toolConfig".into(), config);
        }
    }
    if let Some(said) = parallel_tools.filter(|said| !said.value) {
        fit.lacks(said.at)?;
    }
    fit.hints_any(user);

    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            settings.insert(name.to_owned(), value);
        }
    };
    put("temperature", temperature.map(|said| said.value.into()));
    put("topP", top_p.map(|said| said.value.into()));
    put("topK", top_k.map(|said| said.value.into()));
    put("maxOutputTokens", max_tokens.map(|said| said.value.into()));
    put("stopSequences", stop.map(|said| said.value.into()));
    put("seed", seed.map(|said| said.value.into()));
    put("candidateCount", choices.map(|said| said.value.into()));
    put(
        "frequencyPenalty",
        frequency_penalty.map(|said| said.value.into()),
    );
    put(
        "presencePenalty",
        presence_penalty.map(|said| said.value.into()),
    );
    if let Some(top) = logprobs {
        put("responseLogprobs", Some(true.into()));
        put(
            "logprobs",
            Some(top.value).filter(|top| *top > 0).map(Value::from),
        );
    }
    put(
        "responseModalities",
        output.map(|said| modalities(&said.value)),
    );
    if let Some(format) = format {
        put("responseMimeType", Some("application/json".into()));
        put("responseJsonSchema", schema(format.value));
    }
    if let Some(reasoning) = reasoning {
        put(
            "thinkingConfig",
            thinking::write(reasoning, target.model, fit)?,
        );
    }
    if !settings.is_empty() {
        body.insert("generationConfig".into(), settings.into());
    }
    for said in rest {
        match &*said.at {
            // Clients of Google's models say it in other dialects, too.
            "safetySettings" | "safety_settings" => {
                body.insert("safetySettings".into(), said.value);
            }
            _ => fit.lacks(said.at)?,
        }
    }
    Ok(Value::Object(body))
}

fn modalities(output: &[Modality]) -> Value {
    let word = |it: &Modality| match it {
        Modality::Text => "TEXT",
        Modality::Image => "IMAGE",
        Modality::Audio => "AUDIO",
    };
    output.iter().map(word).collect()
}

/// The schema of the answer; answers follow it in any case, so that `strict` says nothing.
fn schema(format: Format) -> Option<Value> {
    match format {
        Format::Json => None,
        Format::Schema {
            name: _,
            description,
            mut schema,
            strict: _,
        } => {
            if let (Some(said), Some(map)) = (description, schema.as_object_mut()) {
                map.entry("description").or_insert(said.into());
            }
            Some(schema)
        }
    }
}

fn declare(tool: Tool, fit: &mut Fit) -> Result<Value, Unfit> {
    let Tool {
        name,
        description,
        schema,
        strict: _,
        cache,
        at: _,
    } = tool;
    fit.hints_any(cache);
    let mut declared = Map::new();
    declared.insert("name".into(), name.into());
    if let Some(description) = description {
        declared.insert("description".into(), description.into());
    }
    if let Some(schema) = schema {
        declared.insert("parametersJsonSchema".into(), schema);
    }
    Ok(Value::Object(declared))
}

/// Which tools may be called. `VALIDATED` is Google's word for arguments that follow their schema, as
/// those of `ANY` do.
fn calling(tools: &[Tool], choice: Option<Said<ToolChoice>>) -> Option<Value> {
    let strict = (tools.iter()).any(|tool| tool.strict.as_ref().is_some_and(|said| said.value));
    let auto = if strict { "VALIDATED" } else { "AUTO" };
    Some(match choice.map(|said| said.value) {
        None if strict => json!({"mode": auto}),
        None => return None,
        Some(ToolChoice::Auto) => json!({"mode": auto}),
        Some(ToolChoice::None) => json!({"mode": "NONE"}),
        Some(ToolChoice::Required) => json!({"mode": "ANY"}),
        Some(ToolChoice::Tool(name)) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
        Some(ToolChoice::Among { names, required }) => {
            let mode = if required { "ANY" } else { "VALIDATED" };
            json!({"mode": mode, "allowedFunctionNames": names})
        }
    })
}
