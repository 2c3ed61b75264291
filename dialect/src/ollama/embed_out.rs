//! A request for embeddings written for Ollama's API.
//!
//! Source: Ollama's API reference (`docs/api.md`), "Generate Embeddings".

use serde::Deserialize;
use serde_json::{Map, Value};

use super::answer_in::{read_failure, used};
use crate::ir::{Embed, Embedded, Event, Failure, Fit, Unfit};
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
    let mut body = Map::new();
    body.insert("model".into(), target.model.into());
    body.insert("input".into(), texts(inputs, fit)?.into());
    if let Some(dimensions) = dimensions {
        body.insert("dimensions".into(), dimensions.value.into());
    }
    fit.hints_any(user);
    fit.lacks_any(purpose)?;
    for said in rest {
        fit.lacks(said.at)?;
    }
    Ok(Outgoing {
        path: at(target.base, "/api", "/embed"),
        query: None,
        body: Value::Object(body).to_string().into_bytes(),
        headers: Vec::new(),
        surface: Surface::OllamaEmbed,
        reader: Box::new(Reader),
    })
}

/// Reads the answer.
#[derive(Debug)]
struct Reader;

#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    embeddings: Vec<Vec<Exact>>,
    prompt_eval_count: Option<u64>,
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
        let said: Body = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        Ok(Embedded {
            model: said.model,
            vectors: said.embeddings.into_iter().map(Exact::all).collect(),
            usage: used(said.prompt_eval_count, None),
        })
    }
}
