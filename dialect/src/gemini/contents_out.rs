//! The turns of a conversation in Gemini's words.
//!
//! A result of a function names the function, which most other dialects don't: the name is that of the
//! call with its id, somewhere before it.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::seal::standard;
use super::thinking::has_levels;
use crate::fields::invalid;
use crate::ir::{Call, Fit, Message, Part, Role, Said, Source, ToolResult, Unfit, What};
use crate::provider::Dialect;
use crate::translate::Target;

/// What was said.
#[derive(Debug, Default)]
pub struct Conversation {
    /// Parts of `systemInstruction`.
    pub instructions: Vec<Value>,
    pub contents: Vec<Value>,
    /// The setting that says how closely pictures are looked at.
    pub resolution: Option<&'static str>,
}

/// In place of a seal, on calls that another model has made: without any, models since generation 3
/// refuse the turn (Google's guide "Thought signatures", its questions and answers).
const NO_SEAL: &str = "skip_thought_signature_validator";

struct Scribe<'a> {
    /// Names of calls by their ids.
    names: HashMap<String, String>,
    vertex: bool,
    needs_seals: bool,
    /// How closely each picture is to be looked at, and where that was said.
    details: Vec<(Option<String>, String)>,
    fit: &'a mut Fit,
}

// === impl Conversation ===

impl Conversation {
    /// Writes messages.
    ///
    /// # Errors
    /// What can't be said.
    pub fn of(messages: Vec<Message>, target: &Target<'_>, fit: &mut Fit) -> Result<Self, Unfit> {
        let mut scribe = Scribe {
            names: HashMap::new(),
            vertex: target.provider.dialect == Dialect::Vertex,
            needs_seals: has_levels(target.model),
            details: Vec::new(),
            fit,
        };
        let mut said = Self::default();
        // Of turns that follow each other and have one speaker, one is made.
        let mut turn: Option<(Role, Vec<Value>)> = None;
        for message in messages {
            let Message { role, parts, name } = message;
            scribe.fit.lacks_any(name)?;
            let mut written = scribe.parts(parts)?;
            if role == Role::System {
                said.instructions.append(&mut written);
                continue;
            }
            match &mut turn {
                Some((speaker, parts)) if *speaker == role => parts.append(&mut written),
                _ => said.turn(turn.replace((role, written))),
            }
        }
        said.turn(turn);
        said.resolution = scribe.resolution()?;
        Ok(said)
    }

    fn turn(&mut self, turn: Option<(Role, Vec<Value>)>) {
        let Some((role, parts)) = turn.filter(|(_, parts)| !parts.is_empty()) else {
            return;
        };
        let word = match role {
            Role::Assistant => "model",
            Role::User | Role::System => "user",
        };
        self.contents.push(json!({"role": word, "parts": parts}));
    }
}

// === impl Scribe ===

impl Scribe<'_> {
    fn parts(&mut self, parts: Vec<Part>) -> Result<Vec<Value>, Unfit> {
        let mut written = Vec::with_capacity(parts.len());
        let is_sealed =
            |part: &Part| matches!(&part.what, What::Call(it) if it.signature.is_some());
        // The seal stands on the first of parallel calls.
        let mut unsealed = self.needs_seals && !parts.iter().any(is_sealed);
        for part in parts {
            let Part { what, cache, at } = part;
            self.fit.hints_any(cache);
            let is_call = matches!(what, What::Call(_));
            if let Some(mut part) = self.part(what, &at)? {
                if is_call && std::mem::take(&mut unsealed) {
                    part["thoughtSignature"] = NO_SEAL.into();
                }
                written.push(part);
            }
        }
        Ok(written)
    }

    fn part(&mut self, what: What, at: &str) -> Result<Option<Value>, Unfit> {
        Ok(Some(match what {
            What::Text(text) | What::Refusal(text) => json!({"text": text}),
            What::Image { source, detail } => {
                let place = format!("{at}.detail");
                self.details.push((detail.filter(|it| it != "auto"), place));
                return self.source(source, "image/jpeg", None, at);
            }
            What::Audio(source) => return self.source(source, "audio/mpeg", None, at),
            What::Video(source) => return self.source(source, "video/mp4", None, at),
            What::Document { source, name } => {
                return self.source(source, "application/pdf", name, at);
            }
            What::Reasoning { text, signature } => {
                let mut part = json!({"thought": true, "text": text});
                if let Some(signature) = signature {
                    part["thoughtSignature"] = signature.into();
                }
                part
            }
            What::Redacted(_) => {
                self.fit.lacks(at)?;
                return Ok(None);
            }
            What::Call(call) => self.call(call, at)?,
            What::Result(result) => self.result(result, at)?,
        }))
    }

    fn source(
        &mut self,
        source: Source,
        usual: &str,
        name: Option<String>,
        at: &str,
    ) -> Result<Option<Value>, Unfit> {
        let mut said = Map::new();
        let place = match source {
            Source::Text(text) => return Ok(Some(json!({"text": text}))),
            Source::Data { media_type, base64 } => {
                said.insert("mimeType".into(), media_type.into());
                said.insert("data".into(), standard(&base64).into());
                "inlineData"
            }
            Source::Url(uri) => {
                said.insert("mimeType".into(), media_type_of(&uri, usual).into());
                said.insert("fileUri".into(), uri.into());
                "fileData"
            }
            Source::File(id) if is_uri(&id) => {
                said.insert("mimeType".into(), media_type_of(&id, usual).into());
                said.insert("fileUri".into(), id.into());
                "fileData"
            }
            // A file that another provider keeps.
            Source::File(_) => {
                self.fit.lacks(at)?;
                return Ok(None);
            }
        };
        // Google AI has no place for the name of a document.
        if let Some(name) = name.filter(|_| self.vertex) {
            said.insert("displayName".into(), name.into());
        }
        Ok(Some(json!({place: said})))
    }

    fn call(&mut self, call: Call, at: &str) -> Result<Value, Unfit> {
        let Call {
            id,
            name,
            arguments,
            signature,
        } = call;
        let args = match arguments.trim() {
            "" => Value::Object(Map::new()),
            text => serde_json::from_str(text)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| invalid(at, "has arguments that are no JSON object"))?,
        };
        let mut said = json!({"name": name, "args": args});
        if !id.is_empty() {
            said["id"] = id.clone().into();
            self.names.insert(id, name);
        }
        let mut part = json!({"functionCall": said});
        if let Some(signature) = signature {
            part["thoughtSignature"] = signature.into();
        }
        Ok(part)
    }

    fn result(&mut self, result: ToolResult, at: &str) -> Result<Value, Unfit> {
        let ToolResult {
            id,
            name,
            parts,
            error,
        } = result;
        let name = name
            .or_else(|| self.names.get(&id).cloned())
            .ok_or_else(|| invalid(at, "answers no tool call of the messages before it"))?;
        let (mut text, mut media) = (String::new(), Vec::new());
        for part in parts {
            self.fit.hints_any(part.cache);
            match part.what {
                What::Text(more) => text.push_str(&more),
                what => {
                    let Some(mut part) = self.part(what, &part.at)? else {
                        continue;
                    };
                    match part.get_mut("text") {
                        Some(Value::String(more)) => text.push_str(more),
                        _ => media.push(part),
                    }
                }
            }
        }
        let response = match (error, serde_json::from_str(&text)) {
            (true, _) => json!({"error": text}),
            (false, Ok(Value::Object(said))) => Value::Object(said),
            (false, _) => json!({"output": text}),
        };
        let mut said = json!({"name": name, "response": response});
        if !id.is_empty() {
            said["id"] = id.into();
        }
        if !media.is_empty() {
            said["parts"] = media.into();
        }
        Ok(json!({"functionResponse": said}))
    }

    /// One setting for all pictures: it can be said where all of them say the same.
    fn resolution(&mut self) -> Result<Option<&'static str>, Unfit> {
        let details = std::mem::take(&mut self.details);
        let Some((Some(first), _)) = details.first() else {
            return self.no_resolution(details);
        };
        let word = match &**first {
            "low" => "MEDIA_RESOLUTION_LOW",
            "medium" => "MEDIA_RESOLUTION_MEDIUM",
            "high" => "MEDIA_RESOLUTION_HIGH",
            _ => return self.no_resolution(details),
        };
        if details
            .iter()
            .all(|(detail, _)| detail.as_ref() == Some(first))
        {
            return Ok(Some(word));
        }
        self.no_resolution(details)
    }

    fn no_resolution(
        &mut self,
        details: Vec<(Option<String>, String)>,
    ) -> Result<Option<&'static str>, Unfit> {
        for (detail, at) in details {
            self.fit.lacks_any(detail.map(|it| Said::new(at, it)))?;
        }
        Ok(None)
    }
}

fn is_uri(id: &str) -> bool {
    ["gs://", "https://", "http://"]
        .iter()
        .any(|scheme| id.starts_with(scheme))
}

/// The media type by the end of a URL's path, which Vertex wants to know.
fn media_type_of(uri: &str, usual: &str) -> String {
    let path = uri.split(['?', '#']).next().unwrap_or(uri);
    let end = path
        .rsplit_once('.')
        .map(|(_, end)| end.to_ascii_lowercase());
    let known = match end.as_deref() {
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("webp") => "image/webp",
        Some("gif") => "image/gif",
        Some("heic") => "image/heic",
        Some("pdf") => "application/pdf",
        Some("txt" | "md") => "text/plain",
        Some("html") => "text/html",
        Some("csv") => "text/csv",
        Some("mp3") => "audio/mpeg",
        Some("wav") => "audio/wav",
        Some("flac") => "audio/flac",
        Some("ogg") => "audio/ogg",
        Some("mp4") => "video/mp4",
        Some("webm") => "video/webm",
        Some("mov") => "video/quicktime",
        _ => usual,
    };
    known.to_owned()
}
