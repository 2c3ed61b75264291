//! A request for embeddings written for DashScope's own API.
//!
//! Source: Alibaba Cloud Model Studio, "Text embedding: DashScope API reference".

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::answer_in::read_failure;
use crate::ir::{Embed, Embedded, Event, Failure, Fit, Unfit};
use crate::openai::chat::TOTALS;
use crate::openai::embed_in::{Exact, texts};
use crate::provider::at;
use crate::surface::Surface;
use crate::translate::{Outgoing, Reads, Target, unreadable};

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
    let mut parameters = Map::new();
    if let Some(dimensions) = dimensions {
        parameters.insert("dimension".into(), dimensions.value.into());
    }
    if let Some(purpose) = purpose {
        match &*purpose.value {
            "search_query" => drop(parameters.insert("text_type".into(), "query".into())),
            "search_document" => drop(parameters.insert("text_type".into(), "document".into())),
            _ => fit.lacks(purpose.at)?,
        }
    }
    fit.hints_any(user);
    for said in rest {
        fit.lacks(said.at)?;
    }
    let body = json!({
        "model": target.model,
        "input": {"texts": texts(inputs, fit)?},
        "parameters": parameters,
    });
    Ok(Outgoing {
        path: at(
            target.base,
            "/api/v1",
            "/services/embeddings/text-embedding/text-embedding",
        ),
        query: None,
        body: Value::to_string(&body).into_bytes(),
        headers: Vec::new(),
        surface: Surface::DashScope,
        reader: Box::new(Reader),
    })
}

/// Reads the answer.
#[derive(Debug)]
struct Reader;

#[derive(Deserialize)]
struct Body<'a> {
    output: Output,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Output {
    embeddings: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    text_index: Option<usize>,
    embedding: Vec<Exact>,
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
        let mut items = said.output.embeddings;
        items.sort_by_key(|item| item.text_index.unwrap_or(usize::MAX));
        let usage = said
            .usage
            .and_then(|raw| TOTALS.sum(&TOTALS.read(raw.get().as_bytes())));
        Ok(Embedded {
            model: None,
            vectors: (items.into_iter())
                .map(|item| Exact::all(item.embedding))
                .collect(),
            usage,
        })
    }
}
