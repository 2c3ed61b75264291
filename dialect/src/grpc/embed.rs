//! Embeddings: what a worker is asked, what it answers, and what stands between (see the parent).

use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::frame;
use super::message::{EMBED, EmbedRequest, EmbedResponse};
use super::request_out::headers;
use crate::fields::invalid;
use crate::ir::{Embed, EmbedInput, Embedded, Event, Failure, Fit, Unfit, Usage};
use crate::openai::chat::{answer_in, answer_out};
use crate::provider::at;
use crate::surface::{Form, Surface};
use crate::translate::{Outgoing, Reads, Target, Writes, unreadable};

/// Writes a request.
///
/// # Errors
/// What can't be said.
pub fn write(embed: Embed, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let Embed {
        inputs,
        dimensions,
        // The client's writer sees to it.
        base64: _,
        user,
        purpose,
        rest,
    } = embed;
    for said in rest {
        fit.lacks(said.at)?;
    }
    let mut texts = Vec::with_capacity(inputs.len());
    for input in inputs {
        match input {
            EmbedInput::Text(text) => texts.push(text),
            EmbedInput::Tokens(_) => {
                fit.lacks("input")?;
                texts.push(String::new());
            }
        }
    }
    let dimensions = dimensions.map(|said| {
        u32::try_from(said.value).map_err(|_| invalid(&said.at, "is more than a model can do"))
    });
    let body = frame::framed(&EmbedRequest {
        model: target.model.to_owned(),
        inputs: texts,
        dimensions: dimensions.transpose()?,
        user: user.map(|said| said.value),
        purpose: purpose.map(|said| said.value),
    });
    Ok(Outgoing {
        path: at(target.base, "", EMBED),
        query: None,
        body,
        headers: headers(),
        surface: Surface::Embeddings,
        reader: Box::new(Between::default()),
    })
}

/// Reads a worker's answer.
#[derive(Debug)]
pub struct Reader;

/// Writes it in OpenAI's dialect.
#[derive(Debug)]
pub struct Writer {
    /// Knows the words of errors.
    pub chat: answer_out::Writer,
}

/// Reads what [`Writer`] wrote.
#[derive(Debug, Default)]
pub struct Between(answer_in::Reader);

#[derive(Serialize, Deserialize)]
struct List {
    object: String,
    data: Vec<Item>,
    model: Option<String>,
    usage: Option<Used>,
}

#[derive(Serialize, Deserialize)]
struct Item {
    object: String,
    index: usize,
    embedding: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct Used {
    prompt_tokens: u64,
    total_tokens: u64,
}

// === impl Reader ===

impl Reads for Reader {
    fn event(&mut self, _: &[u8], _: &[u8], _: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        Err(unreadable("its embeddings come as a stream"))
    }

    fn whole(&mut self, _: &[u8], _: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        Err(unreadable("its embeddings are no answer of a model"))
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        super::answer_in::Reader::default().failure(status, body)
    }

    fn embedded(&mut self, body: &[u8]) -> Result<Embedded, Failure> {
        let message = frame::message(body).map_err(unreadable)?;
        let response = EmbedResponse::decode(message)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        let vectors = response.embeddings.into_iter();
        Ok(Embedded {
            model: Some(response.model).filter(|model| !model.is_empty()),
            vectors: vectors
                .map(|it| it.values.into_iter().map(exact).collect())
                .collect(),
            usage: response.usage.map(|used| Usage {
                input: Some(used.input_tokens),
                output: Some(used.output_tokens),
                ..Usage::default()
            }),
        })
    }
}

/// The number that is written as shortly as the one of 32 bits, which is read as the same one.
fn exact(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}

// === impl Writer ===

impl Writes for Writer {
    fn event(&mut self, event: Event<'_>, out: &mut Vec<u8>) {
        self.chat.event(event, out);
    }

    fn whole(&mut self, events: Vec<Event<'static>>) -> Vec<u8> {
        self.chat.whole(events)
    }

    fn failure(&self, failure: &Failure) -> (u16, Vec<u8>) {
        self.chat.failure(failure)
    }

    fn embedded(&mut self, embedded: Embedded) -> Vec<u8> {
        let item = |(index, embedding)| Item {
            object: "embedding".to_owned(),
            index,
            embedding,
        };
        let list = List {
            object: "list".to_owned(),
            data: embedded.vectors.into_iter().enumerate().map(item).collect(),
            model: embedded.model,
            usage: embedded.usage.map(|used| Used {
                prompt_tokens: used.input.unwrap_or_default(),
                total_tokens: used.input.unwrap_or_default() + used.output.unwrap_or_default(),
            }),
        };
        // Numbers and texts are always JSON.
        serde_json::to_vec(&list).unwrap_or_default()
    }

    fn stream_form(&self) -> Form {
        Form::Body
    }
}

// === impl Between ===

impl Reads for Between {
    fn event(
        &mut self,
        name: &[u8],
        data: &[u8],
        to: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Failure> {
        self.0.event(name, data, to)
    }

    fn whole(&mut self, body: &[u8], to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        self.0.whole(body, to)
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        self.0.failure(status, body)
    }

    fn embedded(&mut self, body: &[u8]) -> Result<Embedded, Failure> {
        let list: List = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        Ok(Embedded {
            model: list.model,
            vectors: list.data.into_iter().map(|it| it.embedding).collect(),
            usage: list.usage.map(|used| Usage {
                input: Some(used.prompt_tokens),
                output: Some(used.total_tokens - used.prompt_tokens.min(used.total_tokens)),
                ..Usage::default()
            }),
        })
    }
}
