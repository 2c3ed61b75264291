//! The turns of a conversation as clients of Gemini's API say them.
//!
//! Turns of the same speaker are one: SDKs send each piece of a streamed answer back as a turn of its
//! own. Calls and results without ids are given them, by their names and order.

use serde_json::Value;

use super::seal::{self, Seal};
use super::spelling::{inside, needed, objects, spelled};
use crate::fields::{Fields, invalid};
use crate::ir::{Call, Message, Part, Role, Said, Source, ToolResult, Unfit, What, call_id};

type Rest = Vec<Said<Value>>;

/// Takes `systemInstruction` and `contents`.
///
/// # Errors
/// What is wrong with them.
pub fn read(body: &mut Fields, rest: &mut Rest) -> Result<Vec<Message>, Unfit> {
    let mut turns = Turns::default();
    let name = spelled(body, "systemInstruction");
    if let Some(Value::String(_)) = body.look(&name) {
        let at = body.at(&name);
        let text = body.text(&name)?.unwrap_or_default();
        turns.put(Role::System, Part::new(at, What::Text(text)));
    } else if let Some(mut said) = inside(body, "systemInstruction")? {
        // Whatever is there, it is the operator who speaks.
        said.take("role");
        turns.content(said, Role::System, rest)?;
    }
    if body.look("contents").is_none() {
        return Err(invalid("contents", "is missing"));
    }
    for mut said in objects(body, "contents")? {
        let role = match said.text("role")?.as_deref() {
            None | Some("" | "user" | "function") => Role::User,
            Some("model") => Role::Assistant,
            Some("system") => Role::System,
            Some(_) => return Err(invalid(&said.at("role"), "must be user or model")),
        };
        turns.content(said, role, rest)?;
    }
    Ok(turns.messages)
}

#[derive(Default)]
struct Turns {
    messages: Vec<Message>,
    /// The calls that have had no result yet: name and id.
    open: Vec<(String, String)>,
    calls: u32,
}

impl Turns {
    fn content(&mut self, mut said: Fields, role: Role, rest: &mut Rest) -> Result<(), Unfit> {
        for part in objects(&mut said, "parts")? {
            self.part(part, role, rest)?;
        }
        rest.extend(said.rest());
        Ok(())
    }

    fn put(&mut self, role: Role, part: Part) {
        match self.messages.last_mut() {
            Some(last) if last.role == role => {
                if let Some(part) = joined(last, part) {
                    last.parts.push(part);
                }
            }
            _ => self.messages.push(Message {
                role,
                parts: vec![part],
                name: None,
            }),
        }
    }

    fn part(&mut self, mut said: Fields, role: Role, rest: &mut Rest) -> Result<(), Unfit> {
        let at = said.here().to_owned();
        let thought = said.boolean("thought")?.is_some_and(|said| said.value);
        let sealed = said.text(&spelled(&said, "thoughtSignature"))?;
        let sealed = sealed
            .filter(|it| !it.is_empty())
            .map(|it| seal::unwrap(&it));
        if let Some(call) = inside(&mut said, "functionCall")? {
            let what = What::Call(self.call(call, sealed, rest)?);
            self.put(role, Part::new(at, what));
            rest.extend(said.rest());
            return Ok(());
        }
        let text = said.text("text")?;
        match sealed {
            Some(Seal::Redacted(data)) => {
                self.put(role, Part::new(at.clone(), What::Redacted(data)));
            }
            // A seal on a text is that of the thoughts before it.
            Some(Seal::Signature(signature)) => {
                let text = match (&text, thought) {
                    (Some(text), true) => text.clone(),
                    _ => String::new(),
                };
                let signature = Some(signature);
                self.put(
                    role,
                    Part::new(at.clone(), What::Reasoning { text, signature }),
                );
            }
            None if thought => {
                let text = text.clone().unwrap_or_default();
                let signature = None;
                self.put(
                    role,
                    Part::new(at.clone(), What::Reasoning { text, signature }),
                );
            }
            None => {}
        }
        if let Some(text) = text.filter(|text| !text.is_empty() && !thought) {
            self.put(role, Part::new(at.clone(), What::Text(text)));
        }
        if let Some(blob) = inside(&mut said, "inlineData")? {
            let what = inline_data(blob, rest)?;
            self.put(role, Part::new(at.clone(), what));
        }
        if let Some(file) = inside(&mut said, "fileData")? {
            let what = file_data(file, rest)?;
            self.put(role, Part::new(at.clone(), what));
        }
        if let Some(result) = inside(&mut said, "functionResponse")? {
            let result = self.result(result, rest)?;
            self.put(Role::User, Part::new(at.clone(), What::Result(result)));
        }
        if let Some(mut code) = inside(&mut said, "executableCode")? {
            let language = code
                .text("language")?
                .unwrap_or_default()
                .to_ascii_lowercase();
            let text = format!("```{language}\n{}\n```\n", code.needed_text("code")?);
            code.take("id");
            rest.extend(code.rest());
            self.put(role, Part::new(at.clone(), What::Text(text)));
        }
        if let Some(mut ran) = inside(&mut said, "codeExecutionResult")? {
            let text = format!("```\n{}\n```\n", ran.text("output")?.unwrap_or_default());
            ran.take("id");
            ran.neutral("outcome", |value| *value == "OUTCOME_OK");
            rest.extend(ran.rest());
            self.put(role, Part::new(at, What::Text(text)));
        }
        rest.extend(said.rest());
        Ok(())
    }

    fn call(
        &mut self,
        mut said: Fields,
        sealed: Option<Seal>,
        rest: &mut Rest,
    ) -> Result<Call, Unfit> {
        let id = said.text("id")?.filter(|id| !id.is_empty());
        let id = id.unwrap_or_else(|| call_id("said", 0, self.calls));
        self.calls += 1;
        let name = said.needed_text("name")?;
        let arguments = match said.object("args")? {
            Some(args) => Value::Object(args.into_map()).to_string(),
            None => "{}".to_owned(),
        };
        rest.extend(said.rest());
        self.open.push((name.clone(), id.clone()));
        Ok(Call {
            id,
            name,
            arguments,
            signature: match sealed {
                Some(Seal::Signature(signature)) => Some(signature),
                Some(Seal::Redacted(_)) | None => None,
            },
        })
    }

    fn result(&mut self, mut said: Fields, rest: &mut Rest) -> Result<ToolResult, Unfit> {
        let at = said.here().to_owned();
        let id = said.text("id")?.filter(|id| !id.is_empty());
        let name = said.text("name")?.filter(|name| !name.is_empty());
        // By its id, or the first call of that name that has no result.
        let open = self
            .open
            .iter()
            .position(|(call, call_id)| match (&id, &name) {
                (Some(id), _) => call_id == id,
                (None, Some(name)) => call == name,
                (None, None) => true,
            });
        let call = open.map(|at| self.open.remove(at));
        let id = id.or_else(|| call.as_ref().map(|(_, id)| id.clone()));
        let Some(id) = id else {
            return Err(invalid(&at, "answers no call of the turns before it"));
        };
        let mut parts = Vec::new();
        let mut error = false;
        if let Some(response) = said.object("response")? {
            let at = said.at("response");
            let (text, failed) = response_text(response);
            error = failed;
            parts.push(Part::new(at, What::Text(text)));
        }
        for mut part in objects(&mut said, "parts")? {
            let at = part.here().to_owned();
            if let Some(blob) = inside(&mut part, "inlineData")? {
                let what = inline_data(blob, rest)?;
                parts.push(Part::new(at.clone(), what));
            }
            if let Some(file) = inside(&mut part, "fileData")? {
                let what = file_data(file, rest)?;
                parts.push(Part::new(at, what));
            }
            rest.extend(part.rest());
        }
        for name in ["willContinue", "scheduling"] {
            let name = spelled(&said, name);
            said.neutral(&name, |value| *value == false || *value == "WHEN_IDLE");
        }
        rest.extend(said.rest());
        Ok(ToolResult {
            id,
            name: name.or(call.map(|(name, _)| name)),
            parts,
            error,
        })
    }
}

/// What a tool gave back, as text, and whether it failed. `output`, `result` and `error` are where SDKs
/// put what isn't an object.
fn response_text(response: Fields) -> (String, bool) {
    let map = response.into_map();
    if map.len() == 1 {
        for name in ["output", "result", "error"] {
            match map.get(name) {
                Some(Value::String(text)) => return (text.clone(), name == "error"),
                Some(value) => return (value.to_string(), name == "error"),
                None => {}
            }
        }
    }
    (Value::Object(map).to_string(), false)
}

/// Joins what a stream had cut: the part, unless it went into the one before it.
fn joined(message: &mut Message, part: Part) -> Option<Part> {
    if message.role != Role::Assistant {
        return Some(part);
    }
    match (message.parts.last_mut().map(|it| &mut it.what), part.what) {
        (Some(What::Text(before)), What::Text(text)) => {
            before.push_str(&text);
            None
        }
        (
            Some(What::Reasoning {
                text: before,
                signature: seal @ None,
            }),
            What::Reasoning { text, signature },
        ) => {
            before.push_str(&text);
            *seal = signature;
            None
        }
        (_, what) => Some(Part { what, ..part }),
    }
}

fn inline_data(mut blob: Fields, rest: &mut Rest) -> Result<What, Unfit> {
    let media_type = needed(&mut blob, "mimeType")?;
    let base64 = seal::standard(&blob.needed_text("data")?);
    let name = blob.text(&spelled(&blob, "displayName"))?;
    rest.extend(blob.rest());
    let source = Source::Data {
        media_type: media_type.clone(),
        base64,
    };
    Ok(of_media_type(&media_type, source, name))
}

fn file_data(mut file: Fields, rest: &mut Rest) -> Result<What, Unfit> {
    let uri = needed(&mut file, "fileUri")?;
    let media_type = file.text(&spelled(&file, "mimeType"))?.unwrap_or_default();
    let name = file.text(&spelled(&file, "displayName"))?;
    rest.extend(file.rest());
    // What Google's own API keeps is of no use elsewhere.
    let is_googles = uri.starts_with("gs://")
        || uri.starts_with("files/")
        || uri.starts_with("https://generativelanguage.googleapis.com/");
    let source = match is_googles {
        true => Source::File(uri),
        false => Source::Url(uri),
    };
    Ok(of_media_type(&media_type, source, name))
}

fn of_media_type(media_type: &str, source: Source, name: Option<String>) -> What {
    match media_type.split_once('/').map(|(kind, _)| kind) {
        Some("image") => What::Image {
            source,
            detail: None,
        },
        Some("audio") => What::Audio(source),
        Some("video") => What::Video(source),
        _ => What::Document { source, name },
    }
}
