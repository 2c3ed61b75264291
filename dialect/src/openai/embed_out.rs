//! A request for embeddings written for a server that speaks OpenAI's dialect.
//!
//! Source: OpenAI's API reference, "Create embeddings".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::chat::TOTALS;
use super::chat::answer_in::{failure, plain};
use super::embed_in::Exact;
use crate::ir::{Embed, EmbedInput, Embedded, Event, Failure, Fit, Unfit};
use crate::provider::{Dialect, at};
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
    let inputs: Vec<Value> = inputs.into_iter().map(input).collect();
    body.insert("input".into(), inputs.into());
    if let Some(dimensions) = dimensions {
        body.insert("dimensions".into(), dimensions.value.into());
    }
    if let Some(user) = user {
        body.insert("user".into(), user.value.into());
    }
    fit.lacks_any(purpose)?;
    for said in rest {
        fit.lacks(said.at)?;
    }
    let (path, query) = place(target);
    Ok(Outgoing {
        path,
        query,
        body: Value::Object(body).to_string().into_bytes(),
        headers: Vec::new(),
        surface: Surface::Embeddings,
        reader: Box::new(Reader),
    })
}

fn input(input: EmbedInput) -> Value {
    match input {
        EmbedInput::Text(text) => text.into(),
        EmbedInput::Tokens(tokens) => tokens.into(),
    }
}

/// Path and query; Azure's with an `api_version` names the deployment.
fn place(target: &Target<'_>) -> (String, Option<String>) {
    let provider = target.provider;
    if provider.dialect != Dialect::Azure {
        return (at(target.base, provider.quirks.root, "/embeddings"), None);
    }
    match provider.api_version.as_deref() {
        None | Some("v1") => (at(target.base, "/openai/v1", "/embeddings"), None),
        Some(version) => {
            let model = percent_encoding::utf8_percent_encode(
                target.model,
                percent_encoding::NON_ALPHANUMERIC,
            );
            let model = model.to_string().replace("%2D", "-").replace("%2E", ".");
            let method = format!("/deployments/{model}/embeddings");
            let path = at(target.base, "/openai", &method);
            (path, Some(format!("api-version={version}")))
        }
    }
}

/// Reads the answer.
#[derive(Debug)]
struct Reader;

#[derive(Deserialize)]
struct Body<'a> {
    model: Option<String>,
    #[serde(borrow)]
    data: Vec<Item<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Item<'a> {
    index: Option<usize>,
    #[serde(borrow)]
    embedding: &'a RawValue,
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
        match serde_json::from_slice::<Value>(body) {
            Ok(said) => failure(status, &said),
            Err(_) => plain(status, body),
        }
    }

    fn embedded(&mut self, body: &[u8]) -> Result<Embedded, Failure> {
        let said: Body<'_> = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        let mut items = said.data;
        items.sort_by_key(|item| item.index.unwrap_or(usize::MAX));
        let vectors: Result<_, _> = items.iter().map(|item| vector(item.embedding)).collect();
        let usage = said
            .usage
            .and_then(|raw| TOTALS.sum(&TOTALS.read(raw.get().as_bytes())));
        Ok(Embedded {
            model: said.model,
            vectors: vectors?,
            usage,
        })
    }
}

/// Numbers, or base64 of 32-bit floats.
fn vector(raw: &RawValue) -> Result<Vec<f64>, Failure> {
    if let Ok(list) = serde_json::from_str::<Vec<Exact>>(raw.get()) {
        return Ok(Exact::all(list));
    }
    let base64 = serde_json::from_str::<String>(raw.get()).ok();
    let bytes = base64.and_then(|text| STANDARD.decode(text).ok());
    let wrong = || unreadable("an embedding of its answer can't be read");
    let bytes = bytes.filter(|it| it.len() % 4 == 0).ok_or_else(wrong)?;
    let number = |it: &[u8]| f64::from(f32::from_le_bytes([it[0], it[1], it[2], it[3]]));
    Ok(bytes.chunks_exact(4).map(number).collect())
}
