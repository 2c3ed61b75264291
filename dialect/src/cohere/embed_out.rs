//! A request for embeddings written for Cohere's API, version 2.
//!
//! Source: Cohere's API reference, "Embed" (`POST /v2/embed`).

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::USAGE;
use super::answer_in::read_failure;
use crate::ir::{Embed, Embedded, Event, Failure, Fit, Unfit};
use crate::openai::embed_in::{Exact, texts};
use crate::provider::at;
use crate::surface::Surface;
use crate::translate::{Outgoing, Reads, Target, unreadable};

/// What embeddings are for where nobody says it: it must be said, and documents are what most embed.
const PURPOSE: &str = "search_document";

/// Writes a request.
///
/// # Errors
/// What can't be said.
pub fn write(embed: Embed, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let Embed {
        inputs,
        dimensions,
        base64: _,
        user,
        purpose,
        rest,
    } = embed;
    let mut body = Map::new();
    body.insert("model".into(), target.model.into());
    body.insert("texts".into(), texts(inputs, fit)?.into());
    let purpose = purpose.map_or_else(|| PURPOSE.to_owned(), |said| said.value);
    body.insert("input_type".into(), purpose.into());
    body.insert("embedding_types".into(), vec!["float"].into());
    if let Some(dimensions) = dimensions {
        body.insert("output_dimension".into(), dimensions.value.into());
    }
    fit.hints_any(user);
    for said in rest {
        fit.lacks(said.at)?;
    }
    Ok(Outgoing {
        path: at(target.base, "/v2", "/embed"),
        query: None,
        body: Value::Object(body).to_string().into_bytes(),
        headers: Vec::new(),
        surface: Surface::CohereEmbed,
        reader: Box::new(Reader),
    })
}

/// Reads the answer.
#[derive(Debug)]
struct Reader;

#[derive(Deserialize)]
struct Body<'a> {
    embeddings: Embeddings,
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Embeddings {
    float: Vec<Vec<Exact>>,
}

impl Reads for Reader {
    fn event(
        &mut self,
        _name: &[u8],
        _data: &[u8],
        _to: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Failure> {
        Err(unreadable("embeddings don't come as a stream"))
    }

    fn whole(&mut self, _body: &[u8], _to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        Err(unreadable("it answered with embeddings"))
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        read_failure(status, body)
    }

    fn embedded(&mut self, body: &[u8]) -> Result<Embedded, Failure> {
        let said: Body<'_> = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        let usage = said
            .meta
            .and_then(|raw| USAGE.sum(&USAGE.read(raw.get().as_bytes())));
        Ok(Embedded {
            model: None,
            vectors: said.embeddings.float.into_iter().map(Exact::all).collect(),
            usage,
        })
    }
}
