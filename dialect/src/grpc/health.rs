//! Whether a worker serves, by the standard service `grpc.health.v1.Health`.

use prost::Message as _;

use super::frame::{framed, message};
use super::message::{HealthCheckRequest, HealthCheckResponse};

/// The method.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";

const SERVING: i32 = 1;

/// The body of a question; an empty name asks for the whole worker.
pub fn request(service: &str) -> Vec<u8> {
    framed(&HealthCheckRequest {
        service: service.to_owned(),
    })
}

/// Whether the body of an answer says that it serves; an error has none.
pub fn serves(body: &[u8]) -> bool {
    let said = message(body)
        .ok()
        .and_then(|it| HealthCheckResponse::decode(it).ok());
    said.is_some_and(|said| said.status == SERVING)
}
