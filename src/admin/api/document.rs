//! The OpenAPI 3.1 document, made of the table of routes.

use super::guard::Needs;
use super::problem::{MEDIA, Written};
use super::route::{At, Route};
use super::routes;
use http::{Method, StatusCode};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// The document as it is sent.
pub(super) fn document() -> &'static [u8] {
    static DOCUMENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut bytes = serde_json::to_vec(&written()).expect("strings as keys");
        bytes.push(b'\n');
        bytes
    });
    &DOCUMENT
}

fn written() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let paths: Map<String, Value> = routes::all()
        .iter()
        .map(|at| (at.path.to_owned(), path(at, &mut generator)))
        .collect();
    let problem = generator.subschema_for::<Written<'static>>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "weir",
            "summary": "The admin listener of weir: health, metrics, usage, teams, keys, limits",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "responses": {"problem": {
                "description": "Why not",
                "content": {MEDIA: {"schema": problem}},
            }},
            "securitySchemes": {"token": {
                "type": "http",
                "scheme": "bearer",
                "description": "`admin.token` of the configuration, where it has one",
            }},
        },
    })
}

fn path(at: &At, generator: &mut SchemaGenerator) -> Value {
    let methods = at.routes.iter().map(|route| {
        let method = route.method.as_str().to_ascii_lowercase();
        (method, operation(at, route, generator))
    });
    Value::Object(methods.collect())
}

fn operation(at: &At, route: &Route, generator: &mut SchemaGenerator) -> Value {
    let described = route.described(generator);
    let mut responses = described.responses;
    let mut also = |status: StatusCode| {
        let problem = json!({"$ref": "#/components/responses/problem"});
        responses
            .entry(status.as_str().to_owned())
            .or_insert(problem);
    };
    if at.needs != Needs::Nothing {
        also(StatusCode::UNAUTHORIZED);
    }
    if at.needs == Needs::Leave {
        // A query that nobody reads is a mistake, too.
        also(StatusCode::BAD_REQUEST);
        also(StatusCode::FORBIDDEN);
        also(StatusCode::SERVICE_UNAVAILABLE);
    }
    if described.names {
        also(StatusCode::NOT_FOUND);
    }
    if described.reads {
        also(StatusCode::CONFLICT);
        also(StatusCode::UNPROCESSABLE_ENTITY);
    }
    if route.wants_body() {
        also(StatusCode::REQUEST_TIMEOUT);
        also(StatusCode::PAYLOAD_TOO_LARGE);
        also(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.says,
        "responses": responses,
    });
    if route.method != Method::GET {
        operation["description"] =
            "Without `admin.token` this is answered on a Unix socket only.".into();
    }
    if at.needs != Needs::Nothing {
        operation["security"] = json!([{"token": []}]);
    }
    if !described.parameters.is_empty() {
        operation["parameters"] = described.parameters.into();
    }
    if !described.body.is_null() {
        operation["requestBody"] = described.body;
    }
    operation
}
