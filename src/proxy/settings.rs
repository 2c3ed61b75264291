//! What the corridor itself must know: deadlines, header edits, whom to believe.
//! Filled by `config::check`.

use crate::types::HeaderEdits;
use ipnet::IpNet;
use std::time::Duration;

/// Settings of every request.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may say whose request it forwards (`X-Forwarded-For`, `X-Real-IP`, `X-Request-Id`).
    pub trusted_proxies: Vec<IpNet>,
    /// Edits of every request to an upstream.
    pub request_headers: HeaderEdits,
    /// Edits of every answer to a client.
    pub response_headers: HeaderEdits,
    /// General deadlines.
    pub timeouts: Timeouts,
    /// Whether each request's tokens are estimated before it is sent, though nothing asks for them but
    /// the access log.
    pub estimates: bool,
}

/// Deadlines of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The whole request body must be here by then.
    pub client_body: Duration,
    /// TCP, CONNECT and TLS to an upstream together.
    pub connect: Duration,
    /// From the sent request to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two bytes of an answer, and of a client that doesn't read.
    pub idle: Duration,
    /// The whole request; zero = no limit.
    pub total: Duration,
    /// After so much silence a stream of events gets a comment line; zero = never.
    pub heartbeat: Duration,
}
