//! A part of a turn, written as blocks of Converse.
//!
//! Source: Amazon Bedrock API reference, "ContentBlock" and the types in it.

use serde_json::{Map, Value, json};

use super::request_out::Family;
use crate::fields::invalid;
use crate::ir::{Cache, Call, Fit, Part, Source, ToolResult, Unfit, What, call_id};

/// The longest id of a call.
const ID_BYTES_MAX: usize = 64;
/// The longest name of a document.
const NAME_CHARS_MAX: usize = 200;

const IMAGES: &[&str] = &["png", "jpeg", "gif", "webp"];
const VIDEOS: &[&str] = &[
    "mkv", "mov", "mp4", "webm", "flv", "mpeg", "mpg", "wmv", "three_gp",
];
const SOUNDS: &[&str] = &[
    "mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "mka", "x-aac", "m4a", "mpeg",
    "mpga", "pcm", "webm",
];

/// Writes a part. `place` counts the calls and documents of the conversation.
///
/// # Errors
/// What can't be said.
pub fn write(
    part: Part,
    family: Family,
    place: &mut u32,
    to: &mut Vec<Value>,
    fit: &mut Fit,
) -> Result<(), Unfit> {
    let Part {
        what,
        mut cache,
        at,
    } = part;
    let written = match what {
        // Converse refuses a text without any.
        What::Text(text) | What::Refusal(text) if text.trim().is_empty() => None,
        What::Text(text) | What::Refusal(text) => Some(json!({"text": text})),
        What::Image { source, detail } => {
            if detail.is_some_and(|detail| detail != "auto") {
                fit.lacks(format!("{at}.detail"))?;
            }
            media("image", "image/", source, &at, fit)?
        }
        What::Video(source) => media("video", "video/", source, &at, fit)?,
        What::Audio(source) => media("audio", "audio/", source, &at, fit)?,
        What::Document { source, name } => {
            *place += 1;
            document(source, name, *place, &at, fit)?
        }
        // Claude takes its thoughts back only with its seal on them.
        What::Reasoning {
            signature: None, ..
        } if family == Family::Claude => {
            fit.lacks(at.clone())?;
            None
        }
        What::Reasoning { text, signature } => {
            let mut said = Map::new();
            said.insert("text".into(), text.into());
            if let Some(signature) = signature {
                said.insert("signature".into(), signature.into());
            }
            Some(json!({"reasoningContent": {"reasoningText": said}}))
        }
        What::Redacted(data) => Some(json!({"reasoningContent": {"redactedContent": data}})),
        What::Call(call) => {
            *place += 1;
            Some(tool_use(call, *place, &at)?)
        }
        What::Result(mut result) => {
            // A result has no marks in it: they stand behind it.
            let inside = result.parts.iter_mut().filter_map(|part| part.cache.take());
            cache = cache.or(inside.last());
            Some(tool_result(result, family, place, fit)?)
        }
    };
    to.extend(written);
    if let Some(said) = cache {
        to.push(cache_point(said.value));
    }
    Ok(())
}

/// The mark up to which a prompt is cached.
pub fn cache_point(cache: Cache) -> Value {
    let mut said = json!({"type": "default"});
    if let Some(ttl) = cache.ttl {
        said["ttl"] = ttl.into();
    }
    json!({"cachePoint": said})
}

/// A picture, film or sound: its format is the last word of its media type.
fn media(
    kind: &str,
    types: &str,
    source: Source,
    at: &str,
    fit: &mut Fit,
) -> Result<Option<Value>, Unfit> {
    let (format, source) = match source {
        Source::Data { media_type, base64 } => {
            let Some(format) = media_type.strip_prefix(types) else {
                return lacks(at, fit);
            };
            let format = match format {
                "jpg" => "jpeg",
                "mpeg" if kind == "audio" => "mp3",
                "x-wav" | "wave" => "wav",
                "quicktime" => "mov",
                "x-matroska" => "mkv",
                "3gpp" => "three_gp",
                "x-flv" => "flv",
                "x-ms-wmv" => "wmv",
                other => other,
            };
            (format.to_owned(), json!({"bytes": base64}))
        }
        Source::Url(url) if url.starts_with("s3://") => {
            let Some(format) = extension(&url) else {
                return lacks(at, fit);
            };
            let format = match format {
                "jpg" => "jpeg",
                other => other,
            };
            (format.to_owned(), json!({"s3Location": {"uri": url}}))
        }
        Source::Url(_) | Source::File(_) | Source::Text(_) => return lacks(at, fit),
    };
    let known = match kind {
        "image" => IMAGES,
        "video" => VIDEOS,
        _ => SOUNDS,
    };
    if !known.contains(&&*format) {
        return lacks(at, fit);
    }
    Ok(Some(json!({kind: {"format": format, "source": source}})))
}

fn document(
    source: Source,
    name: Option<String>,
    place: u32,
    at: &str,
    fit: &mut Fit,
) -> Result<Option<Value>, Unfit> {
    let (format, source) = match source {
        Source::Data { media_type, base64 } => {
            let named = name.as_deref().and_then(extension);
            let Some(format) = document_format(&media_type).or(named) else {
                return lacks(at, fit);
            };
            (format.to_owned(), json!({"bytes": base64}))
        }
        Source::Text(text) => ("txt".to_owned(), json!({"text": text})),
        Source::Url(url) if url.starts_with("s3://") => {
            let Some(format) = extension(&url) else {
                return lacks(at, fit);
            };
            (format.to_owned(), json!({"s3Location": {"uri": url}}))
        }
        Source::Url(_) | Source::File(_) => return lacks(at, fit),
    };
    let name = document_name(name, place);
    Ok(Some(
        json!({"document": {"format": format, "name": name, "source": source}}),
    ))
}

fn lacks(at: &str, fit: &mut Fit) -> Result<Option<Value>, Unfit> {
    fit.lacks(at)?;
    Ok(None)
}

fn document_format(media_type: &str) -> Option<&'static str> {
    Some(match media_type {
        "application/pdf" => "pdf",
        "text/csv" => "csv",
        "application/msword" => "doc",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => "docx",
        "application/vnd.ms-excel" => "xls",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" => "xlsx",
        "text/html" => "html",
        "text/plain" => "txt",
        "text/markdown" => "md",
        _ => return None,
    })
}

fn extension(name: &str) -> Option<&str> {
    let (_, end) = name.rsplit('/').next()?.rsplit_once('.')?;
    (!end.is_empty() && end.len() <= 5).then_some(end)
}

/// Letters, digits, single spaces, `-`, `(`, `)`, `[` and `]`; each name once.
fn document_name(name: Option<String>, place: u32) -> String {
    let fits = |it: char| match it {
        it if it.is_ascii_alphanumeric() || "-()[]".contains(it) => it,
        _ => ' ',
    };
    let text: String = name.unwrap_or_default().chars().map(fits).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text: String = text.chars().take(NAME_CHARS_MAX - 10).collect();
    match text.trim() {
        "" => format!("document {place}"),
        text => text.to_owned(),
    }
}

fn tool_use(call: Call, place: u32, at: &str) -> Result<Value, Unfit> {
    let id = match call.id.is_empty() {
        true => call_id(&call.name, 0, place),
        false => call.id,
    };
    let input = match call.arguments.trim() {
        "" => json!({}),
        text => match serde_json::from_str(text) {
            Ok(input @ Value::Object(_)) => input,
            _ => return Err(invalid(at, "must have arguments that are a JSON object")),
        },
    };
    Ok(json!({"toolUse": {"toolUseId": fitting(&id), "name": call.name, "input": input}}))
}

fn tool_result(
    result: ToolResult,
    family: Family,
    place: &mut u32,
    fit: &mut Fit,
) -> Result<Value, Unfit> {
    let ToolResult {
        id,
        name: _,
        parts,
        error,
    } = result;
    let mut content = Vec::new();
    for part in parts {
        // A result has no sound in it.
        if matches!(part.what, What::Audio(_)) {
            fit.lacks(part.at)?;
            continue;
        }
        write(part, family, place, &mut content, fit)?;
    }
    if content.is_empty() {
        content.push(json!({"text": "(empty)"}));
    }
    let mut said = json!({"toolUseId": fitting(&id), "content": content});
    if error {
        said["status"] = "error".into();
    }
    Ok(json!({"toolResult": said}))
}

/// An id of the characters and length that Converse takes; equal for equal ids.
fn fitting(id: &str) -> String {
    let fits = |it: char| match it {
        it if it.is_ascii_alphanumeric() || it == '_' || it == '-' => it,
        _ => '_',
    };
    let text: String = id.chars().map(fits).collect();
    text[text.len().saturating_sub(ID_BYTES_MAX)..].to_owned()
}
