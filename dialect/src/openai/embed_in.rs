//! A client's request for embeddings in OpenAI's dialect, read into the form between dialects, and the
//! answer that it gets.
//!
//! Source: OpenAI's API reference, "Create embeddings".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::chat::answer_out::{error, status};
use crate::fields::{Fields, invalid};
use crate::ir::{Embed, EmbedInput, Embedded, Event, Failure, Fit, Unfit};
use crate::translate::{Ask, Read, Writes};

/// Reads a body.
///
/// # Errors
/// What is wrong with it.
pub fn read(ask: &Ask<'_>, _fit: &mut Fit) -> Result<Read, Unfit> {
    let mut body = Fields::of_body(ask.body)?;
    body.take("model");
    let inputs = match body.take("input") {
        None => return Err(invalid("input", "is missing")),
        Some(value) => inputs(value).ok_or_else(|| {
            let what = "must be a string, a list of strings, or one or several lists of tokens";
            invalid("input", what)
        })?,
    };
    let format = body.said(
        "encoding_format",
        "must be float or base64",
        |value| match value.as_str()? {
            "float" => Some(false),
            "base64" => Some(true),
            _ => None,
        },
    )?;
    let mut embed = Embed {
        inputs,
        dimensions: body.whole("dimensions")?,
        base64: format.is_some_and(|said| said.value),
        user: body.said_text("user")?,
        // Not OpenAI's own: several gateways and servers take it so.
        purpose: body.said_text("input_type")?,
        rest: Vec::new(),
    };
    embed.rest.extend(body.rest());
    let writer = Writer {
        model: ask.model.to_owned(),
        base64: embed.base64,
    };
    Ok(Read::Embed(Box::new(embed), Box::new(writer)))
}

fn inputs(value: Value) -> Option<Vec<EmbedInput>> {
    let list = match value {
        Value::String(text) => return Some(vec![EmbedInput::Text(text)]),
        Value::Array(list) if !list.is_empty() => list,
        _ => return None,
    };
    if list.iter().all(Value::is_number) {
        return Some(vec![EmbedInput::Tokens(tokens(&list)?)]);
    }
    let one = |value| match value {
        Value::String(text) => Some(EmbedInput::Text(text)),
        Value::Array(list) if !list.is_empty() => Some(EmbedInput::Tokens(tokens(&list)?)),
        _ => None,
    };
    list.into_iter().map(one).collect()
}

fn tokens(list: &[Value]) -> Option<Vec<u64>> {
    list.iter().map(Value::as_u64).collect()
}

/// The texts that are to be embedded, for a provider that takes nothing else: tokens are those of one
/// model, and without them nothing is left to ask.
///
/// # Errors
/// Where there are tokens.
pub fn texts(inputs: Vec<EmbedInput>, fit: &mut Fit) -> Result<Vec<String>, Unfit> {
    let text = |input| match input {
        EmbedInput::Text(text) => Ok(text),
        EmbedInput::Tokens(_) => {
            fit.lacks("input")?;
            let what = "must be text: this model's provider takes no tokens";
            Err(invalid("input", what))
        }
    };
    inputs.into_iter().map(text).collect()
}

/// A number that is read to its last digit.
#[derive(Debug, Clone, Copy)]
pub struct Exact(f64);

impl Exact {
    /// A vector of such numbers.
    pub fn all(list: Vec<Self>) -> Vec<f64> {
        list.into_iter().map(|it| it.0).collect()
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // The parser's own numbers may be off by the last bit.
        let raw = <&RawValue>::deserialize(from)?;
        let number = raw.get().parse().ok().filter(|it: &f64| it.is_finite());
        let wrong = || serde::de::Error::custom("a vector has something else than numbers");
        number.map(Exact).ok_or_else(wrong)
    }
}

/// Writes the answer.
#[derive(Debug)]
struct Writer {
    model: String,
    base64: bool,
}

impl Writes for Writer {
    fn event(&mut self, _event: Event<'_>, _out: &mut Vec<u8>) {}

    fn whole(&mut self, _events: Vec<Event<'static>>) -> Vec<u8> {
        Vec::new()
    }

    fn failure(&self, failure: &Failure) -> (u16, Vec<u8>) {
        (status(failure), error(failure).to_string().into_bytes())
    }

    fn embedded(&mut self, embedded: Embedded) -> Vec<u8> {
        let Embedded {
            model,
            vectors,
            usage,
        } = embedded;
        let vector = |(index, vector): (usize, Vec<f64>)| {
            let embedding: Value = match self.base64 {
                true => base64(&vector).into(),
                false => vector.into(),
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        };
        let data: Vec<_> = vectors.into_iter().enumerate().map(vector).collect();
        let input = usage.and_then(|it| it.input).unwrap_or(0);
        json!({
            "object": "list",
            "data": data,
            "model": model.as_ref().unwrap_or(&self.model),
            "usage": {"prompt_tokens": input, "total_tokens": input},
        })
        .to_string()
        .into_bytes()
    }
}

/// 32-bit floats, their low bytes first.
fn base64(vector: &[f64]) -> String {
    let bytes: Vec<u8> = (vector.iter())
        .flat_map(|number| (*number as f32).to_le_bytes())
        .collect();
    STANDARD.encode(bytes)
}
