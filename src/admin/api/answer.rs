//! What a route answers with: how it is sent, and how the document describes it.

use super::nouns::Made;
use http::{HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// An answer of a route.
pub(super) trait Answer {
    /// What is sent.
    fn response(self) -> Response<Vec<u8>>;

    /// The document's responses, by status.
    fn described(generator: &mut SchemaGenerator, says: &str) -> Map<String, Value>;
}

/// 200 with JSON.
pub(super) struct Json<T>(pub(super) T);

/// 201 with JSON, and where the new thing is.
pub(super) struct Created(pub(super) Made);

/// 204.
pub(super) struct Gone;

/// 200 with text.
pub(super) struct Text(pub(super) String);

/// 200 in Prometheus' text format.
pub(super) struct Exposition(pub(super) String);

/// 200 or 503.
pub(super) struct Ready(pub(super) bool);

/// 200 with the OpenAPI document.
pub(super) struct Document(pub(super) &'static [u8]);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn with_type(
    status: StatusCode,
    media: &'static str,
    body: Vec<u8>,
) -> Response<Vec<u8>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let media = HeaderValue::from_static(media);
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Vec<u8>> {
    let body = serde_json::to_vec(value);
    let mut body = body.expect("strings as keys, and no failing type");
    body.push(b'\n');
    with_type(status, JSON, body)
}

fn one(status: u16, response: Value) -> Map<String, Value> {
    Map::from_iter([(status.to_string(), response)])
}

fn text(status: u16, says: &str) -> Map<String, Value> {
    let schema = json!({"schema": {"type": "string"}});
    one(
        status,
        json!({"description": says, "content": {"text/plain": schema}}),
    )
}

impl<T: Serialize + JsonSchema> Answer for Json<T> {
    fn response(self) -> Response<Vec<u8>> {
        json(StatusCode::OK, &self.0)
    }

    fn described(generator: &mut SchemaGenerator, says: &str) -> Map<String, Value> {
        let schema = generator.subschema_for::<T>();
        let content = json!({JSON: {"schema": schema}});
        one(200, json!({"description": says, "content": content}))
    }
}

impl Answer for Created {
    fn response(self) -> Response<Vec<u8>> {
        /// Of a path's segment (RFC 3986, section 2.3).
        const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~');
        let Made { key, .. } = &self.0;
        let (team, name) = (&*key.team, &*key.name);
        let [team, name] = [team, name].map(|it| utf8_percent_encode(it, RESERVED));
        let place = HeaderValue::from_str(&format!("/api/keys/{team}/{name}"));
        let mut response = json(StatusCode::CREATED, &self.0);
        if let Ok(place) = place {
            response.headers_mut().insert(header::LOCATION, place);
        }
        response
    }

    fn described(generator: &mut SchemaGenerator, says: &str) -> Map<String, Value> {
        let schema = generator.subschema_for::<Made>();
        let place = json!({"description": "where the key is", "required": true,
            "schema": {"type": "string", "format": "uri-reference"}});
        let name = json!({"team": "$response.body#/team", "name": "$response.body#/name"});
        let link = |operation: &str| json!({"operationId": operation, "parameters": name});
        let response = json!({
            "description": says,
            "headers": {"Location": place},
            "content": {JSON: {"schema": schema}},
            "links": {
                "look": link("key"), "rotate": link("rotate_key"), "revoke": link("revoke_key"),
            },
        });
        one(201, response)
    }
}

impl Answer for Gone {
    fn response(self) -> Response<Vec<u8>> {
        let mut response = Response::new(Vec::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    }

    fn described(_: &mut SchemaGenerator, says: &str) -> Map<String, Value> {
        one(204, json!({"description": says}))
    }
}

impl Answer for Text {
    fn response(self) -> Response<Vec<u8>> {
        with_type(StatusCode::OK, TEXT, self.0.into_bytes())
    }

    fn described(_: &mut SchemaGenerator, says: &str) -> Map<String, Value> {
        text(200, says)
    }
}

impl Answer for Exposition {
    fn response(self) -> Response<Vec<u8>> {
        with_type(StatusCode::OK, PROMETHEUS, self.0.into_bytes())
    }

    fn described(_: &mut SchemaGenerator, says: &str) -> Map<String, Value> {
        text(200, says)
    }
}

impl Answer for Ready {
    fn response(self) -> Response<Vec<u8>> {
        if self.0 {
            with_type(StatusCode::OK, TEXT, b"OK".into())
        } else {
            with_type(StatusCode::SERVICE_UNAVAILABLE, TEXT, b"draining".into())
        }
    }

    fn described(_: &mut SchemaGenerator, says: &str) -> Map<String, Value> {
        let mut both = text(200, says);
        both.extend(text(503, "it drains: send nothing new here"));
        both
    }
}

impl Answer for Document {
    fn response(self) -> Response<Vec<u8>> {
        with_type(StatusCode::OK, JSON, self.0.into())
    }

    fn described(_: &mut SchemaGenerator, says: &str) -> Map<String, Value> {
        let content = json!({JSON: {"schema": {"type": "object"}}});
        one(200, json!({"description": says, "content": content}))
    }
}
