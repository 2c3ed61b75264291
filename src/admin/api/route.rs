//! A request that the API knows: its path and method, what it reads and what it answers. The types of
//! its function say all of that, to the router and to the document alike.

use super::Known;
use super::answer::Answer;
use super::guard::Needs;
use super::problem::{Problem, Trouble};
use http::{Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

/// A path and its methods.
pub(super) struct At {
    /// Segments in braces are captured: `/api/keys/{team}/{name}`.
    pub(super) path: &'static str,
    pub(super) needs: Needs,
    pub(super) routes: Vec<Route>,
}

/// One method of a path.
pub(super) struct Route {
    pub(super) method: Method,
    /// Its name in the document, for programs.
    pub(super) name: &'static str,
    /// Its sentence in the document.
    pub(super) says: &'static str,
    work: Box<dyn Work>,
}

/// A request as far as it is read.
pub(super) struct Request {
    pub(super) captured: Map<String, Value>,
    pub(super) query: String,
    pub(super) body: Vec<u8>,
}

/// What a route's function is given.
pub(super) struct Asked<P, Q, B> {
    pub(super) known: Arc<Known>,
    pub(super) path: P,
    pub(super) query: Q,
    pub(super) body: B,
}

/// Nothing is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// A body, or that there is none.
pub(super) trait Body: Sized + Send + 'static {
    const WANTED: bool;

    fn read(bytes: &[u8]) -> Result<Self, Problem>;

    fn described(generator: &mut SchemaGenerator) -> Value;
}

/// JSON of this form.
pub(super) struct JsonBody<T>(pub(super) T);

impl Body for Nothing {
    const WANTED: bool = false;

    fn read(_: &[u8]) -> Result<Self, Problem> {
        Ok(Self {})
    }

    fn described(_: &mut SchemaGenerator) -> Value {
        Value::Null
    }
}

impl<T: DeserializeOwned + JsonSchema + Send + 'static> Body for JsonBody<T> {
    const WANTED: bool = true;

    fn read(bytes: &[u8]) -> Result<Self, Problem> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let read = serde_path_to_error::deserialize(&mut reader);
        let read = read.map_err(|error| wrong("the body", &error))?;
        let end = reader.end();
        end.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))?;
        Ok(Self(read))
    }

    fn described(generator: &mut SchemaGenerator) -> Value {
        let schema = generator.subschema_for::<T>();
        json!({"required": true, "content": {"application/json": {"schema": schema}}})
    }
}

fn wrong(what: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let (path, error) = (error.path().to_string(), error.inner());
    let detail = match &*path {
        "." | "?" => format!("{what}: {error}"),
        path => format!("{what}: {path}: {error}"),
    };
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

type Acting<'a> = Pin<Box<dyn Future<Output = Result<Response<Vec<u8>>, Problem>> + Send + 'a>>;

/// A route's function without its types.
trait Work: Send + Sync {
    fn act(&self, known: &Arc<Known>, request: Request) -> Acting<'_>;

    fn wants_body(&self) -> bool;

    fn described(&self, generator: &mut SchemaGenerator, says: &str) -> Described;
}

/// What the document says of a route.
pub(super) struct Described {
    pub(super) parameters: Vec<Value>,
    /// Null where there is none.
    pub(super) body: Value,
    pub(super) responses: Map<String, Value>,
    /// Something may be wrong with what is sent.
    pub(super) reads: bool,
    /// The path names a thing.
    pub(super) names: bool,
}

struct Typed<I, O, F> {
    function: F,
    types: PhantomData<fn(I) -> O>,
}

impl<P, Q, B, A, F, R> Work for Typed<Asked<P, Q, B>, A, F>
where
    P: DeserializeOwned + JsonSchema + Send,
    Q: DeserializeOwned + JsonSchema + Send,
    B: Body,
    A: Answer + Send,
    F: Fn(Asked<P, Q, B>) -> R + Send + Sync,
    R: Future<Output = Result<A, Trouble>> + Send,
{
    fn act(&self, known: &Arc<Known>, request: Request) -> Acting<'_> {
        let known = Arc::clone(known);
        Box::pin(async move {
            let asked = Asked {
                known,
                path: typed("the path", request.captured)?,
                query: typed("the query", pairs(&request.query)?)?,
                body: B::read(&request.body)?,
            };
            Ok((self.function)(asked).await?.response())
        })
    }

    fn wants_body(&self) -> bool {
        B::WANTED
    }

    fn described(&self, generator: &mut SchemaGenerator, says: &str) -> Described {
        let path = parameters::<P>("path");
        let query = parameters::<Q>("query");
        Described {
            reads: B::WANTED || !query.is_empty() || !path.is_empty(),
            names: !path.is_empty(),
            parameters: [path, query].concat(),
            body: B::described(generator),
            responses: A::described(generator, says),
        }
    }
}

/// The fields of a type as parameters.
fn parameters<T: JsonSchema>(place: &str) -> Vec<Value> {
    let mut settings = schemars::generate::SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let required = schema.get("required").and_then(Value::as_array);
    let fields = schema.get("properties").and_then(Value::as_object);
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let required = required.is_some_and(|all| all.iter().any(|it| it == name));
        let mut parameter = json!({"name": name, "in": place, "required": required});
        if let Some(fields) = schema.as_object_mut() {
            // A parameter that is there has a value.
            drop_null(fields);
            fields.remove("default");
            if let Some(description) = fields.remove("description") {
                parameter["description"] = description;
            }
            if fields.get("type").is_some_and(|it| it == "array") {
                parameter["style"] = "form".into();
                parameter["explode"] = false.into();
            }
        }
        parameter["schema"] = schema;
        parameter
    };
    fields.into_iter().flatten().map(parameter).collect()
}

/// Takes back that a field may be null, which only JSON can say.
fn drop_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|it| it != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(forms)) = schema.get_mut("anyOf") {
        forms.retain(|form| form["type"] != "null");
        if let [Value::Object(only)] = &forms[..] {
            let only = only.clone();
            schema.remove("anyOf");
            schema.extend(only);
        }
    }
}

/// The pairs of a query (as a form has them), each name once.
fn pairs(query: &str) -> Result<Map<String, Value>, Problem> {
    let bad = |what: String| Problem::new(StatusCode::BAD_REQUEST, format!("the query: {what}"));
    let mut pairs = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let read = |text: &str| {
            let spaced = text.replace('+', " ");
            let text = percent_decode_str(&spaced).decode_utf8();
            text.map(|it| it.into_owned())
        };
        let (Ok(name), Ok(value)) = (read(name), read(value)) else {
            return Err(bad("it isn't UTF-8".into()));
        };
        if pairs.contains_key(&name) {
            return Err(bad(format!("{name} twice")));
        }
        pairs.insert(name, value.into());
    }
    Ok(pairs)
}

fn typed<T: DeserializeOwned>(what: &str, fields: Map<String, Value>) -> Result<T, Problem> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| wrong(what, &error))
}

// === impl At ===

impl At {
    pub(super) fn new(path: &'static str, needs: Needs) -> Self {
        Self {
            path,
            needs,
            routes: Vec::new(),
        }
    }

    /// A method of this path.
    pub(super) fn on<P, Q, B, A, F, R>(
        mut self,
        method: Method,
        name: &'static str,
        says: &'static str,
        act: F,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + Send + 'static,
        Q: DeserializeOwned + JsonSchema + Send + 'static,
        B: Body,
        A: Answer + Send + 'static,
        F: Fn(Asked<P, Q, B>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A, Trouble>> + Send + 'static,
    {
        self.routes.push(Route {
            method,
            name,
            says,
            work: Box::new(Typed {
                function: act,
                types: PhantomData,
            }),
        });
        self
    }

    /// The captured segments, where the path is this one.
    pub(super) fn captures(&self, path: &str) -> Option<Map<String, Value>> {
        let mut captured = Map::new();
        let mut given = path.split('/');
        for wanted in self.path.split('/') {
            let given = given.next()?;
            match wanted.strip_prefix('{').and_then(|it| it.strip_suffix('}')) {
                Some(name) => {
                    let value = percent_decode_str(given).decode_utf8().ok()?;
                    captured.insert(name.to_owned(), Value::from(&*value));
                }
                None if wanted == given => {}
                None => return None,
            }
        }
        given.next().is_none().then_some(captured)
    }

    /// The route for a method; HEAD is answered wherever GET is.
    pub(super) fn route(&self, method: &Method) -> Option<&Route> {
        let method = if *method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        self.routes.iter().find(|route| route.method == *method)
    }

    /// All methods, as `Allow` has them.
    pub(super) fn methods(&self) -> String {
        let mut all: Vec<&str> = Vec::new();
        for route in &self.routes {
            all.push(route.method.as_str());
            if route.method == Method::GET {
                all.push(Method::HEAD.as_str());
            }
        }
        all.join(", ")
    }
}

// === impl Route ===

impl Route {
    /// It changes nothing.
    pub(super) fn only_tells(&self) -> bool {
        self.method == Method::GET
    }

    pub(super) fn wants_body(&self) -> bool {
        self.work.wants_body()
    }

    pub(super) fn act(&self, known: &Arc<Known>, request: Request) -> Acting<'_> {
        self.work.act(known, request)
    }

    pub(super) fn described(&self, generator: &mut SchemaGenerator) -> Described {
        self.work.described(generator, self.says)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_segment_by_segment() {
        let at = At::new("/api/keys/{team}/{name}", Needs::Leave);
        let captured = at.captures("/api/keys/search/a%2Fb").unwrap();
        assert_eq!(
            Value::Object(captured),
            json!({"team": "search", "name": "a/b"})
        );
        for path in [
            "/api/keys/search",
            "/api/keys/search/a/b",
            "/api/key/search/a",
            "api/keys/search/a",
            "/api/keys/search/%ff",
            "",
        ] {
            assert!(at.captures(path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_query_is_read_as_forms_write_it() {
        let read = |query| pairs(query).map(Value::Object).ok();
        assert_eq!(
            read("a=1+2&b=%2B&&c").unwrap(),
            json!({"a": "1 2", "b": "+", "c": ""})
        );
        assert_eq!(read("a=1&a=1"), None);
        assert_eq!(read("a=%ff"), None);
    }
}
