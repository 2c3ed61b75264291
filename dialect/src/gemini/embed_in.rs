//! A request for embeddings to Gemini's API, and its answer.
//!
//! Source: Google's API reference, "models.embedContent" and "models.batchEmbedContents".

use serde_json::{Value, json};

use super::error;
use super::spelling::{inside, objects, spelled, word};
use crate::fields::{Fields, invalid};
use crate::ir::{Embed, EmbedInput, Embedded, Event, Failure, Fit, Said, Unfit};
use crate::translate::{Read, Writes};

/// Reads a body; `batch` is of several inputs.
///
/// # Errors
/// What is wrong with it.
pub fn read(mut body: Fields, batch: bool, fit: &mut Fit) -> Result<Read, Unfit> {
    let mut embed = Embed::default();
    if batch {
        for (place, said) in objects(&mut body, "requests")?.into_iter().enumerate() {
            input(said, place > 0, &mut embed, fit)?;
        }
        if embed.inputs.is_empty() {
            return Err(invalid("requests", "is missing or empty"));
        }
        embed.rest.extend(body.rest());
    } else {
        input(body, false, &mut embed, fit)?;
    }
    Ok(Read::Embed(Box::new(embed), Box::new(Writer { batch })))
}

/// Takes one input. What all of them share must be said alike (`again`) by each.
fn input(mut said: Fields, again: bool, embed: &mut Embed, fit: &mut Fit) -> Result<(), Unfit> {
    said.take("model");
    let name = spelled(&said, "embedContentConfig");
    let mut settings = match said.look(&name) {
        Some(_) => said.object(&name)?,
        None => None,
    };
    let at = said.at("content");
    let mut content = inside(&mut said, "content")?.ok_or_else(|| invalid(&at, "is missing"))?;
    let mut texts = Vec::new();
    for mut part in objects(&mut content, "parts")? {
        if let Some(text) = part.text("text")? {
            texts.push(text);
        }
        embed.rest.extend(part.rest());
    }
    if texts.is_empty() {
        return Err(invalid(&content.at("parts"), "has no text"));
    }
    content.take("role");
    embed.rest.extend(content.rest());
    embed.inputs.push(EmbedInput::Text(texts.join("\n")));

    let from = settings.as_mut().unwrap_or(&mut said);
    let dimensions = from.whole(&spelled(from, "outputDimensionality"))?;
    let name = spelled(from, "taskType");
    let at = from.at(&name);
    let purpose = match word(from, "taskType")? {
        None => None,
        Some(task) => match purpose(&task) {
            Some(purpose) => Some(Said::new(at, purpose.to_owned())),
            None => {
                embed.rest.push(Said::new(at, task.into()));
                None
            }
        },
    };
    if again {
        differs(&embed.dimensions, &dimensions, fit)?;
        differs(&embed.purpose, &purpose, fit)?;
    } else {
        (embed.dimensions, embed.purpose) = (dimensions, purpose);
    }
    if let Some(settings) = settings {
        embed.rest.extend(settings.rest());
    }
    embed.rest.extend(said.rest());
    Ok(())
}

/// Other APIs have one setting for all inputs.
fn differs<T: PartialEq>(
    first: &Option<Said<T>>,
    said: &Option<Said<T>>,
    fit: &mut Fit,
) -> Result<(), Unfit> {
    let same = match (first, said) {
        (Some(first), Some(said)) => first.value == said.value,
        (first, said) => first.is_none() && said.is_none(),
    };
    match said.as_ref().or(first.as_ref()) {
        Some(said) if !same => fit.lacks(said.at.clone()),
        _ => Ok(()),
    }
}

/// Google's task in Cohere's words.
fn purpose(task: &str) -> Option<&'static str> {
    Some(match task {
        "RETRIEVAL_QUERY" => "search_query",
        "RETRIEVAL_DOCUMENT" => "search_document",
        "CLASSIFICATION" => "classification",
        "CLUSTERING" => "clustering",
        _ => return None,
    })
}

/// Cohere's word in Google's.
pub fn task(purpose: &str) -> Option<&'static str> {
    Some(match purpose {
        "search_query" => "RETRIEVAL_QUERY",
        "search_document" => "RETRIEVAL_DOCUMENT",
        "classification" => "CLASSIFICATION",
        "clustering" => "CLUSTERING",
        _ => return None,
    })
}

/// Writes the answer.
#[derive(Debug)]
struct Writer {
    batch: bool,
}

// === impl Writer ===

impl Writes for Writer {
    fn event(&mut self, _event: Event<'_>, _out: &mut Vec<u8>) {}

    fn whole(&mut self, _events: Vec<Event<'static>>) -> Vec<u8> {
        Vec::new()
    }

    fn failure(&self, failure: &Failure) -> (u16, Vec<u8>) {
        let (status, body) = error::write(failure);
        (status, body.to_string().into_bytes())
    }

    fn embedded(&mut self, embedded: Embedded) -> Vec<u8> {
        let mut vectors = embedded.vectors.into_iter().map(|it| json!({"values": it}));
        let mut said = match self.batch {
            true => json!({"embeddings": vectors.collect::<Vec<Value>>()}),
            false => json!({"embedding": vectors.next()}),
        };
        if let Some(input) = embedded.usage.and_then(|usage| usage.input) {
            said["usageMetadata"] = json!({"promptTokenCount": input, "totalTokenCount": input});
        }
        said.to_string().into_bytes()
    }
}
