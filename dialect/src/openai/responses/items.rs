//! The items of a Responses request's `input`, read as turns.
//!
//! Source: OpenAI's API reference, "Create a model response", `input`. Turns of the assistant come as
//! several items (thoughts, text, calls): those that follow each other are one turn, as are the outputs
//! of calls.

use serde_json::Value;

use crate::fields::{Fields, invalid};
use crate::ir::{Call, Fit, Message, Part, Role, Said, Source, ToolResult, Unfit, What};
use crate::openai::chat::request_in::source;

/// What `encrypted_content` begins with where it is a block of thoughts that only the provider can read.
pub const REDACTED: &str = "weir.redacted:";
/// What it begins with where it is the seal of the call that follows.
pub const OF_CALL: &str = "weir.call:";

/// What has no place in the form.
type Rest = Vec<Said<Value>>;

/// Reads `input`.
///
/// # Errors
/// What is wrong with it, or needs what OpenAI keeps.
pub fn read(
    body: &mut Fields,
    messages: &mut Vec<Message>,
    rest: &mut Rest,
    fit: &mut Fit,
) -> Result<(), Unfit> {
    match body.look("input") {
        None => return Err(invalid("input", "is missing")),
        Some(Value::String(_)) => {
            let text = body.needed_text("input")?;
            messages.push(Message {
                role: Role::User,
                parts: vec![Part::new("input", What::Text(text))],
                name: None,
            });
            return Ok(());
        }
        Some(_) => {}
    }
    // The seal of the call that comes next.
    let mut seal = None;
    for item in body.objects("input")? {
        let read = item_read(item, &mut seal, rest, fit)?;
        let Some((role, mut parts)) = read else {
            continue;
        };
        match messages.last_mut() {
            Some(last) if joins(last, role, &parts) => last.parts.append(&mut parts),
            _ => messages.push(Message {
                role,
                parts,
                name: None,
            }),
        }
    }
    Ok(())
}

/// Whether parts go on with a turn.
fn joins(last: &Message, role: Role, parts: &[Part]) -> bool {
    let results = |parts: &[Part]| (parts.iter()).all(|part| matches!(part.what, What::Result(_)));
    last.role == role
        && match role {
            Role::Assistant => true,
            Role::User => results(&last.parts) && results(parts),
            Role::System => false,
        }
}

fn item_read(
    mut item: Fields,
    seal: &mut Option<String>,
    rest: &mut Rest,
    fit: &mut Fit,
) -> Result<Option<(Role, Vec<Part>)>, Unfit> {
    let at = item.here().to_owned();
    let default = match item.look("role") {
        Some(_) => "message",
        None => "item_reference",
    };
    let kind = item.text("type")?.unwrap_or_else(|| default.to_owned());
    let mut parts = Vec::new();
    let role = match &*kind {
        "message" => message(&mut item, &mut parts, rest)?,
        "function_call" => {
            let signature = seal.take();
            let call = Call {
                id: item.needed_text("call_id")?,
                name: item.needed_text("name")?,
                arguments: item.text("arguments")?.unwrap_or_default(),
                signature,
            };
            parts.push(Part::new(at, What::Call(call)));
            Role::Assistant
        }
        "function_call_output" => {
            let id = item.needed_text("call_id")?;
            let mut inside = Vec::new();
            content(&mut item, "output", &mut inside, rest)?;
            let result = ToolResult {
                id,
                name: None,
                parts: inside,
                error: false,
            };
            parts.push(Part::new(at, What::Result(result)));
            Role::User
        }
        "reasoning" => {
            match thought(&mut item)? {
                Thought::Of(what) => parts.push(Part::new(at, what)),
                Thought::OfCall(signature) => *seal = Some(signature),
                Thought::Empty => {}
            }
            Role::Assistant
        }
        "item_reference" => {
            let what = "names an item that isn't kept: send the item itself";
            return Err(invalid(&at, what));
        }
        _ => {
            fit.lacks(at)?;
            return Ok(None);
        }
    };
    // What an answer's items had beside, and clients send back.
    for name in ["id", "status", "phase"] {
        item.take(name);
    }
    rest.extend(item.rest());
    Ok((!parts.is_empty()).then_some((role, parts)))
}

fn message(item: &mut Fields, parts: &mut Vec<Part>, rest: &mut Rest) -> Result<Role, Unfit> {
    let role = match &*item.needed_text("role")? {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => {
            let at = item.at("role");
            return Err(invalid(&at, "must be system, developer, user or assistant"));
        }
    };
    content(item, "content", parts, rest)?;
    Ok(role)
}

/// Text, or a list of parts.
fn content(
    item: &mut Fields,
    name: &str,
    parts: &mut Vec<Part>,
    rest: &mut Rest,
) -> Result<(), Unfit> {
    match item.look(name) {
        None => Err(invalid(&item.at(name), "is missing")),
        Some(Value::String(_)) => {
            let text = item.needed_text(name)?;
            parts.push(Part::new(item.at(name), What::Text(text)));
            Ok(())
        }
        Some(_) => {
            for part in item.objects(name)? {
                parts.push(content_part(part, rest)?);
            }
            Ok(())
        }
    }
}

fn content_part(mut part: Fields, rest: &mut Rest) -> Result<Part, Unfit> {
    let at = part.here().to_owned();
    let what = match &*part.needed_text("type")? {
        "input_text" | "output_text" | "text" => {
            for beside in ["annotations", "logprobs"] {
                part.take(beside);
            }
            What::Text(part.needed_text("text")?)
        }
        "refusal" => What::Refusal(part.needed_text("refusal")?),
        "input_image" => {
            let detail = part.text("detail")?;
            let source = match (part.text("image_url")?, part.text("file_id")?) {
                (Some(url), _) => source(url),
                (None, Some(id)) => Source::File(id),
                (None, None) => return Err(invalid(&part.at("image_url"), "is missing")),
            };
            What::Image { source, detail }
        }
        "input_file" => {
            let name = part.text("filename")?;
            let url = part.text("file_url")?.map(Source::Url);
            let data = part.text("file_data")?.map(source);
            let id = part.text("file_id")?.map(Source::File);
            match data.or(url).or(id) {
                Some(source) => What::Document { source, name },
                None => return Err(invalid(&part.at("file_data"), "is missing")),
            }
        }
        "input_audio" => {
            let place = part.at("input_audio");
            let audio = part.object("input_audio")?;
            let mut audio = audio.ok_or_else(|| invalid(&place, "is missing"))?;
            let media_type = match &*audio.needed_text("format")? {
                "mp3" => "audio/mpeg".to_owned(),
                other => format!("audio/{other}"),
            };
            let base64 = audio.needed_text("data")?;
            What::Audio(Source::Data { media_type, base64 })
        }
        _ => {
            let what =
                "must be input_text, input_image, input_file, input_audio, output_text or refusal";
            return Err(invalid(&part.at("type"), what));
        }
    };
    rest.extend(part.rest());
    Ok(Part::new(at, what))
}

enum Thought {
    Of(What),
    /// The seal of the call that follows.
    OfCall(String),
    Empty,
}

/// What the model thought: in full or in summary, with the provider's seal as `encrypted_content`.
fn thought(item: &mut Fields) -> Result<Thought, Unfit> {
    let mut texts = Vec::new();
    for name in ["content", "summary"] {
        let mut said = Vec::new();
        for mut part in item.objects(name)? {
            said.push(part.needed_text("text")?);
        }
        // The summary of what is there in full says nothing more.
        if texts.is_empty() {
            texts = said;
        }
    }
    let text = texts.join("\n\n");
    Ok(match item.text("encrypted_content")? {
        Some(sealed) => match (sealed.strip_prefix(REDACTED), sealed.strip_prefix(OF_CALL)) {
            (Some(data), _) => Thought::Of(What::Redacted(data.to_owned())),
            (_, Some(signature)) => Thought::OfCall(signature.to_owned()),
            (None, None) => Thought::Of(What::Reasoning {
                text,
                signature: Some(sealed),
            }),
        },
        None if text.is_empty() => Thought::Empty,
        None => Thought::Of(What::Reasoning {
            text,
            signature: None,
        }),
    })
}
