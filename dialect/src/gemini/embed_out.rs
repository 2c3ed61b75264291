//! A request for embeddings written for Gemini's API, and its answer.
//!
//! Source: Google's API reference, "models.batchEmbedContents"; of Vertex, "Text embeddings API"
//! (`:predict`). Newer models have `:embedContent` there, for one input at a time.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::embed_in::task;
use super::request_out::path;
use super::{USAGE, error};
use crate::ir::{Embed, EmbedInput, Embedded, Event, Failure, Fit, Unfit, Usage};
use crate::provider::Dialect;
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
    fit.hints_any(user);
    for said in rest {
        fit.lacks(said.at)?;
    }
    let task = match purpose {
        None => None,
        Some(said) => match task(&said.value) {
            Some(task) => Some(task),
            None => {
                fit.lacks(said.at)?;
                None
            }
        },
    };
    let texts = texts(inputs, target)?;
    let count = texts.len();
    let dimensions = dimensions.map(|said| said.value);
    let is_vertex = target.provider.dialect == Dialect::Vertex;
    let (method, body) = match (is_vertex, has_predict(target.model)) {
        (false, _) => ("batchEmbedContents", batch(texts, dimensions, task, target)),
        (true, true) => ("predict", predict(texts, dimensions, task)),
        (true, false) if count > 1 => return Err(inexpressible("input", target)),
        (true, false) => {
            let text = texts.into_iter().next().unwrap_or_default();
            ("embedContent", content(text, dimensions, task).into())
        }
    };
    Ok(Outgoing {
        path: path(target.provider, target.base, target.model, method),
        query: None,
        body: body.to_string().into_bytes(),
        headers: Vec::new(),
        surface: Surface::GeminiEmbed,
        reader: Box::new(Reader { count }),
    })
}

/// Texts alone; what is in tokens can't be left out, either.
fn texts(inputs: Vec<EmbedInput>, target: &Target<'_>) -> Result<Vec<String>, Unfit> {
    let text = |input: EmbedInput| match input {
        EmbedInput::Text(text) => Ok(text),
        EmbedInput::Tokens(_) => Err(inexpressible("input", target)),
    };
    inputs.into_iter().map(text).collect()
}

fn inexpressible(at: &str, target: &Target<'_>) -> Unfit {
    Unfit::Inexpressible {
        at: at.to_owned(),
        target: target.provider.dialect.as_str(),
    }
}

/// Whether Vertex has a model behind `:predict`, as the SDKs tell it.
fn has_predict(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    !name.contains("gemini") || name == "gemini-embedding-001"
}

fn content(
    text: String,
    dimensions: Option<u64>,
    task: Option<&'static str>,
) -> Map<String, Value> {
    let mut said = Map::new();
    said.insert("content".into(), json!({"parts": [{"text": text}]}));
    if let Some(task) = task {
        said.insert("taskType".into(), task.into());
    }
    if let Some(dimensions) = dimensions {
        said.insert("outputDimensionality".into(), dimensions.into());
    }
    said
}

fn batch(
    texts: Vec<String>,
    dimensions: Option<u64>,
    task: Option<&'static str>,
    target: &Target<'_>,
) -> Value {
    let model = match target.model.contains('/') {
        true => target.model.to_owned(),
        false => format!("models/{}", target.model),
    };
    let request = |text| {
        let mut said = content(text, dimensions, task);
        said.insert("model".into(), model.clone().into());
        Value::Object(said)
    };
    let requests: Vec<_> = texts.into_iter().map(request).collect();
    json!({"requests": requests})
}

fn predict(texts: Vec<String>, dimensions: Option<u64>, task: Option<&'static str>) -> Value {
    let instance = |text: String| match task {
        Some(task) => json!({"content": text, "task_type": task}),
        None => json!({"content": text}),
    };
    let instances: Vec<_> = texts.into_iter().map(instance).collect();
    match dimensions {
        Some(it) => json!({"instances": instances, "parameters": {"outputDimensionality": it}}),
        None => json!({"instances": instances}),
    }
}

/// Reads the answer.
#[derive(Debug)]
struct Reader {
    /// How many were asked for.
    count: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said<'a> {
    embeddings: Option<Vec<Vector>>,
    embedding: Option<Vector>,
    predictions: Option<Vec<Prediction>>,
    #[serde(borrow)]
    usage_metadata: Option<&'a RawValue>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Vector {
    values: Vec<f64>,
    statistics: Option<Statistics>,
}

#[derive(Deserialize)]
struct Prediction {
    embeddings: Vector,
}

#[derive(Deserialize)]
struct Statistics {
    token_count: Option<f64>,
}

// === impl Reader ===

impl Reads for Reader {
    fn event(
        &mut self,
        _name: &[u8],
        _data: &[u8],
        _to: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Failure> {
        Err(unreadable(
            "it answered a request for embeddings with a stream",
        ))
    }

    fn whole(&mut self, _body: &[u8], _to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        Err(unreadable("it is no answer of a model"))
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        error::of_body(status, body)
    }

    fn embedded(&mut self, body: &[u8]) -> Result<Embedded, Failure> {
        let said: Said<'_> = serde_json::from_slice(body)
            .map_err(|error| unreadable(format!("its answer can't be read: {error}")))?;
        if let Some(error) = &said.error {
            return Err(error::read(0, error));
        }
        let vectors: Vec<Vector> = match (said.embeddings, said.embedding, said.predictions) {
            (Some(all), ..) => all,
            (None, Some(one), _) => vec![one],
            (None, None, Some(all)) => all.into_iter().map(|it| it.embeddings).collect(),
            (None, None, None) => return Err(unreadable("its answer has no embeddings")),
        };
        if vectors.len() != self.count {
            return Err(unreadable(format!(
                "its answer has {} embeddings for {} inputs",
                vectors.len(),
                self.count
            )));
        }
        let reported = said
            .usage_metadata
            .and_then(|raw| USAGE.sum(&USAGE.read(raw.get().as_bytes())));
        let counted = (vectors.iter())
            .filter_map(|it| it.statistics.as_ref()?.token_count)
            .map(|count| count as u64)
            .reduce(u64::saturating_add);
        let usage = reported.or_else(|| {
            Some(Usage {
                input: Some(counted?),
                output: Some(0),
                ..Usage::default()
            })
        });
        Ok(Embedded {
            model: None,
            vectors: vectors.into_iter().map(|it| it.values).collect(),
            usage,
        })
    }
}
