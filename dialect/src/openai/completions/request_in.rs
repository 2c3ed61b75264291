//! A client's request for a legacy completion, read into the form between dialects: its prompt is what a
//! user says.
//!
//! Source: OpenAI's API reference, "Create completion".

use serde_json::Value;

use super::answer_out::Writer;
use crate::fields::{Fields, invalid};
use crate::ir::{Chat, Fit, Message, Part, Role, Unfit, What};
use crate::openai::chat::request_in::stop;
use crate::translate::{Ask, Read};

/// Reads a body.
///
/// # Errors
/// What is wrong with it, or can't be asked of a model that chats.
pub fn read(ask: &Ask<'_>, fit: &mut Fit) -> Result<Read, Unfit> {
    let chat = chat(Fields::of_body(ask.body)?, fit)?;
    let writer = Writer::new(ask, chat.stream_usage);
    Ok(Read::Chat(Box::new(chat), Box::new(writer)))
}

fn chat(mut body: Fields, fit: &mut Fit) -> Result<Chat, Unfit> {
    let is = |wanted: Value| move |value: &Value| *value == wanted;
    body.neutral("n", is(1.into()));
    body.neutral("best_of", is(1.into()));
    body.neutral("echo", is(false.into()));
    body.neutral("suffix", is("".into()));
    body.neutral("logit_bias", |value| {
        value.as_object().is_some_and(|it| it.is_empty())
    });
    for zero in ["frequency_penalty", "presence_penalty"] {
        body.neutral(zero, |value| value.as_f64() == Some(0.0));
    }
    body.take("model");
    let text = Part::new("prompt", What::Text(prompt(&mut body, fit)?));
    let mut chat = Chat {
        messages: vec![Message {
            role: Role::User,
            parts: vec![text],
            name: None,
        }],
        max_tokens: body.whole("max_tokens")?,
        temperature: body.number("temperature")?,
        top_p: body.number("top_p")?,
        top_k: body.whole("top_k")?,
        frequency_penalty: body.number("frequency_penalty")?,
        presence_penalty: body.number("presence_penalty")?,
        seed: body.said("seed", "must be a whole number", Value::as_i64)?,
        stop: stop(&mut body, "stop")?,
        choices: body.whole("n")?,
        user: body.said_text("user")?,
        stream: body.boolean("stream")?.is_some_and(|said| said.value),
        ..Chat::default()
    };
    if let Some(mut options) = body.object("stream_options")? {
        let usage = options.boolean("include_usage")?;
        chat.stream_usage = usage.is_some_and(|said| said.value);
        // Padding against those who listen to lengths: weir's own answers have none.
        options.take("include_obfuscation");
        chat.rest.extend(options.rest());
    }
    // `echo`, `suffix`, `best_of`, `logprobs` of the old form: nobody else has a place for them.
    chat.rest.extend(body.rest());
    Ok(chat)
}

/// One text: several prompts would be several conversations, and tokens are those of one model.
fn prompt(body: &mut Fields, fit: &mut Fit) -> Result<String, Unfit> {
    let list = match body.take("prompt") {
        None => return Err(invalid("prompt", "is missing")),
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(invalid("prompt", "must be a string")),
    };
    match <[Value; 1]>::try_from(list) {
        Ok([Value::String(text)]) => Ok(text),
        _ => {
            fit.lacks("prompt")?;
            Err(invalid("prompt", "must be one text: this model chats"))
        }
    }
}
