//! A client's request to Gemini's API, read into the form between dialects.
//!
//! Source: Google's API reference, "models.generateContent", and what its SDKs send: names in both
//! spellings, base64 in the URL's alphabet.

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::answer_out::Writer;
use super::schema::to_json_schema;
use super::spelling::{inside, objects, spelled, word};
use super::{contents, embed_in};
use crate::fields::{Fields, invalid};
use crate::ir::{
    Amount, Chat, Effort, Fit, Format, Modality, Reasoning, Said, Tool, ToolChoice, Unfit,
};
use crate::surface::Form;
use crate::translate::{Ask, Read};

/// Reads a body.
///
/// # Errors
/// What is wrong with it.
pub fn read(ask: &Ask<'_>, fit: &mut Fit) -> Result<Read, Unfit> {
    let method = ask.path.rsplit_once(':').map_or("", |(_, method)| method);
    let body = Fields::of_body(ask.body)?;
    match method {
        "embedContent" => embed_in::read(body, false, fit),
        "batchEmbedContents" => embed_in::read(body, true, fit),
        "generateContent" => {
            let chat = chat(body)?;
            let writer = Writer::new(ask, Form::List);
            Ok(Read::Chat(Box::new(chat), Box::new(writer)))
        }
        "streamGenerateContent" => {
            let mut chat = chat(body)?;
            chat.stream = true;
            chat.stream_usage = true;
            let form = match wants_events(ask.query) {
                true => Form::Events,
                false => Form::List,
            };
            let writer = Writer::new(ask, form);
            Ok(Read::Chat(Box::new(chat), Box::new(writer)))
        }
        _ => Err(fit.no_such_api()),
    }
}

/// Whether the query has `alt=sse`.
fn wants_events(query: Option<&str>) -> bool {
    let members = query.unwrap_or_default().split('&');
    members
        .filter_map(|it| it.split_once('='))
        .any(|(name, value)| {
            let name = percent_decode_str(name).decode_utf8_lossy();
            matches!(&*name, "alt" | "$alt")
                && percent_decode_str(value)
                    .decode_utf8_lossy()
                    .eq_ignore_ascii_case("sse")
        })
}

/// What has no place in the form.
type Rest = Vec<Said<Value>>;

fn chat(mut body: Fields) -> Result<Chat, Unfit> {
    let is_empty = |value: &Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    for name in ["safetySettings", "labels", "toolConfig", "generationConfig"] {
        let name = spelled(&body, name);
        body.neutral(&name, is_empty);
    }
    body.take("model");
    let mut rest = Vec::new();
    let mut chat = Chat::default();
    let settings = inside(&mut body, "generationConfig")?;
    if let Some(settings) = settings {
        generation(settings, &mut chat, &mut rest)?;
    }
    chat.messages = contents::read(&mut body, &mut rest)?;
    chat.tools = tools(&mut body, &mut rest)?;
    if let Some(mut config) = inside(&mut body, "toolConfig")? {
        let calling = inside(&mut config, "functionCallingConfig")?;
        if let Some(calling) = calling {
            chat.tool_choice = tool_choice(calling, &mut rest)?;
        }
        rest.extend(config.rest());
    }
    rest.extend(body.rest());
    chat.rest = rest;
    Ok(chat)
}

/// A setting, and what of it is so anyway.
type Neutral = (&'static str, fn(&Value) -> bool);

fn generation(mut said: Fields, chat: &mut Chat, rest: &mut Rest) -> Result<(), Unfit> {
    let neutral: [Neutral; 7] = [
        ("candidateCount", |value| *value == 1),
        ("responseLogprobs", |value| *value == false),
        ("audioTimestamp", |value| *value == false),
        ("frequencyPenalty", |value| value.as_f64() == Some(0.0)),
        ("presencePenalty", |value| value.as_f64() == Some(0.0)),
        ("mediaResolution", |value| {
            *value == "MEDIA_RESOLUTION_UNSPECIFIED"
        }),
        ("stopSequences", |value| {
            value.as_array().is_some_and(Vec::is_empty)
        }),
    ];
    for (name, is) in neutral {
        let name = spelled(&said, name);
        said.neutral(&name, is);
    }
    chat.temperature = said.number("temperature")?;
    chat.top_p = said.number(&spelled(&said, "topP"))?;
    chat.top_k = said.whole(&spelled(&said, "topK"))?;
    chat.max_tokens = said.whole(&spelled(&said, "maxOutputTokens"))?;
    chat.frequency_penalty = said.number(&spelled(&said, "frequencyPenalty"))?;
    chat.presence_penalty = said.number(&spelled(&said, "presencePenalty"))?;
    chat.choices = said.whole(&spelled(&said, "candidateCount"))?;
    chat.seed = said.said("seed", "must be a whole number", Value::as_i64)?;
    chat.stop = said.said(
        &spelled(&said, "stopSequences"),
        "must be a list of strings",
        |value| {
            let text = |it: &Value| Some(it.as_str()?.to_owned());
            value.as_array()?.iter().map(text).collect()
        },
    )?;
    let wanted = said.boolean(&spelled(&said, "responseLogprobs"))?;
    let top = said.whole("logprobs")?;
    chat.logprobs = match (wanted, top) {
        (Some(said), top) if said.value => Some(Said::new(said.at, top.map_or(0, |it| it.value))),
        _ => None,
    };
    chat.output = modalities(&mut said)?;
    chat.format = format(&mut said, rest)?;
    if let Some(mut thinking) = inside(&mut said, "thinkingConfig")? {
        chat.reasoning = reasoning(&mut thinking)?;
        rest.extend(thinking.rest());
    }
    rest.extend(said.rest());
    Ok(())
}

fn modalities(said: &mut Fields) -> Result<Option<Said<Vec<Modality>>>, Unfit> {
    let name = spelled(said, "responseModalities");
    said.neutral(&name, |value| {
        let is_text = |it: &Value| {
            it.as_str()
                .is_some_and(|it| it.eq_ignore_ascii_case("text"))
        };
        value
            .as_array()
            .is_some_and(|list| list.iter().all(is_text))
    });
    said.said(&name, "must be a list of TEXT, IMAGE and AUDIO", |value| {
        let modality = |it: &Value| match &*it.as_str()?.to_ascii_uppercase() {
            "TEXT" => Some(Modality::Text),
            "IMAGE" => Some(Modality::Image),
            "AUDIO" => Some(Modality::Audio),
            _ => None,
        };
        value.as_array()?.iter().map(modality).collect()
    })
}

fn format(said: &mut Fields, rest: &mut Rest) -> Result<Option<Said<Format>>, Unfit> {
    let name = spelled(said, "responseMimeType");
    let at = said.at(&name);
    let media_type = said.text(&name)?;
    let is_json = match media_type.as_deref() {
        None | Some("text/plain") => false,
        Some("application/json") => true,
        Some(other) => {
            rest.push(Said::new(at.clone(), other.into()));
            false
        }
    };
    let names = ["responseJsonSchema", "responseSchema"].map(|name| spelled(said, name));
    let schema = match (said.take(&names[0]), said.take(&names[1])) {
        (Some(schema), _) => Some((schema, &names[0])),
        (None, Some(schema)) => Some((to_json_schema(schema), &names[1])),
        (None, None) => None,
    };
    Ok(match schema {
        Some((schema, name)) => {
            let format = Format::Schema {
                name: None,
                description: None,
                schema,
                strict: Some(true),
            };
            Some(Said::new(said.at(name), format))
        }
        None => is_json.then(|| Said::new(at, Format::Json)),
    })
}

fn reasoning(thinking: &mut Fields) -> Result<Option<Said<Reasoning>>, Unfit> {
    let told = thinking.boolean(&spelled(thinking, "includeThoughts"))?;
    let (mut amount, mut at) = (Amount::Default, None);
    let name = spelled(thinking, "thinkingBudget");
    let budget = thinking.said(&name, "must be a whole number", |value| {
        value.as_i64().or_else(|| value.as_str()?.parse().ok())
    })?;
    if let Some(budget) = budget {
        amount = match budget.value {
            0 => Amount::Off,
            tokens => u64::try_from(tokens).map_or(Amount::Adaptive, Amount::Tokens),
        };
        at = Some(budget.at);
    }
    let name = spelled(thinking, "thinkingLevel");
    if let Some(level) = word(thinking, "thinkingLevel")? {
        let said = thinking.at(&name);
        amount = Amount::Effort(match &*level {
            "MINIMAL" => Effort::Minimal,
            "LOW" => Effort::Low,
            "MEDIUM" => Effort::Medium,
            "HIGH" => Effort::High,
            "XHIGH" => Effort::Max,
            _ => {
                return Err(invalid(
                    &said,
                    "must be MINIMAL, LOW, MEDIUM, HIGH or XHIGH",
                ));
            }
        });
        at = Some(said.into());
    }
    let told_at = told.as_ref().map(|said| said.at.clone());
    let told = told.map(|said| said.value);
    Ok(match at.or(told_at) {
        // That they aren't told is so anyway.
        Some(_) if amount == Amount::Default && told == Some(false) => None,
        Some(at) => Some(Said::new(at, Reasoning { amount, told })),
        None => None,
    })
}

fn tools(body: &mut Fields, rest: &mut Rest) -> Result<Vec<Tool>, Unfit> {
    let mut tools = Vec::new();
    for mut group in objects(body, "tools")? {
        for mut declared in objects(&mut group, "functionDeclarations")? {
            let at = declared.here().to_owned();
            let names = ["parametersJsonSchema", "parameters"].map(|it| spelled(&declared, it));
            let schema = match (declared.take(&names[0]), declared.take(&names[1])) {
                (Some(schema), _) => Some(schema),
                (None, schema) => schema.map(to_json_schema),
            };
            declared.neutral("behavior", |value| {
                *value == "BLOCKING" || *value == "UNSPECIFIED"
            });
            tools.push(Tool {
                name: declared.needed_text("name")?,
                description: declared.text("description")?,
                schema,
                strict: None,
                cache: None,
                at: at.into(),
            });
            rest.extend(declared.rest());
        }
        // Tools of Google's own.
        rest.extend(group.rest());
    }
    Ok(tools)
}

fn tool_choice(mut calling: Fields, rest: &mut Rest) -> Result<Option<Said<ToolChoice>>, Unfit> {
    let at = calling.here().to_owned();
    let mode = word(&mut calling, "mode")?;
    let names = calling.said(
        &spelled(&calling, "allowedFunctionNames"),
        "must be a list of strings",
        |value| {
            let text = |it: &Value| Some(it.as_str()?.to_owned());
            value
                .as_array()?
                .iter()
                .map(text)
                .collect::<Option<Vec<_>>>()
        },
    )?;
    let mut names = names.map(|said| said.value).unwrap_or_default();
    let choice = match (mode.as_deref(), names.len()) {
        (None | Some("AUTO" | "VALIDATED"), 0) => Some(ToolChoice::Auto),
        (Some("NONE"), _) => Some(ToolChoice::None),
        (Some("ANY"), 0) => Some(ToolChoice::Required),
        (Some("ANY"), 1) => names.pop().map(ToolChoice::Tool),
        (Some("ANY"), _) => Some(ToolChoice::Among {
            names,
            required: true,
        }),
        (None | Some("AUTO" | "VALIDATED"), _) => Some(ToolChoice::Among {
            names,
            required: false,
        }),
        (Some(_), _) => {
            let at = calling.at("mode");
            return Err(invalid(&at, "must be AUTO, ANY, NONE or VALIDATED"));
        }
    };
    rest.extend(calling.rest());
    Ok(choice.map(|choice| Said::new(at, choice)))
}
