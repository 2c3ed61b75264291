//! What a failed try is called: in metrics, in the log, in the request's record.

use super::super::journey::Journey;
use super::super::replay::{FIRST_BYTE_LATE, IDLE, TOTAL};
use crate::egress::{ConnectError, Limits, RoadError};
use crate::observe::access::FailedTry;
use crate::upstream::retry::Fault;
use pingora::{Error, ErrorType};
use std::sync::Arc;

/// What went wrong and what to do, for the log.
pub(super) fn in_words(error: &Error, limits: &Limits) -> String {
    if let Some(cause) = ConnectError::within(error) {
        return cause.to_string();
    }
    match error.etype() {
        etype if *etype == FIRST_BYTE_LATE => {
            format!(
                "no answer within {:?} (timeouts.first_byte)",
                limits.first_byte
            )
        }
        etype if *etype == IDLE => format!("silent for {:?} (timeouts.idle)", limits.idle),
        etype if *etype == TOTAL => "the request took longer than timeouts.total".into(),
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
            format!(
                "no TLS handshake within {:?} (timeouts.connect)",
                limits.connect
            )
        }
        ErrorType::InvalidCert | ErrorType::TLSHandshakeFailure => format!(
            "{error}; a private authority's certificate belongs in the provider's tls.ca, another \
             name in tls.server_name"
        ),
        _ => error.to_string(),
    }
}

/// Counts, logs and notes that the current try failed.
pub(super) fn tell(journey: &mut Journey, kind: &'static str, error: &dyn std::fmt::Display) {
    let (Some(plan), Some(current)) = (&mut journey.plan, &journey.attempt) else {
        return;
    };
    let endpoint = current.attempt.endpoint();
    let provider = &journey.snapshot.upstreams.provider(endpoint.provider).name;
    plan.course.tells(FailedTry {
        endpoint: Arc::clone(&endpoint.name),
        provider: Arc::clone(provider),
        error: kind,
        took: current.began.elapsed(),
    });
    journey
        .snapshot
        .observer
        .metrics
        .upstream_error(provider, kind);
    tracing::warn!(
        request_id = journey.arrival.request_id,
        %provider,
        endpoint = %endpoint.name,
        kind,
        %error,
        "a try at an upstream failed"
    );
}

/// The same label where there was no road.
pub(super) fn error_type_of_road(error: &RoadError) -> &'static str {
    match error {
        RoadError::NotFound { .. } | RoadError::Dns { .. } => "dns",
        RoadError::Forbidden { .. } => "forbidden_address",
        RoadError::NoProxy { .. } => "no_proxy",
    }
}

/// The `error_type` label: a closed set.
pub(super) fn error_type(error: &Error) -> &'static str {
    if let Some(cause) = ConnectError::within(error) {
        return cause.as_str();
    }
    match error.etype() {
        ErrorType::ConnectTimedout => "connect_timeout",
        ErrorType::ConnectRefused => "connect_refused",
        ErrorType::ConnectNoRoute => "connect_no_route",
        ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError => "tls",
        ErrorType::ConnectProxyFailure => "proxy",
        etype if *etype == FIRST_BYTE_LATE => "first_byte_timeout",
        etype if *etype == IDLE => "idle_timeout",
        etype if *etype == TOTAL => "total_timeout",
        ErrorType::ReadTimedout => "first_byte_timeout",
        ErrorType::WriteTimedout => "write_timeout",
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => "closed",
        ErrorType::InvalidHTTPHeader
        | ErrorType::InvalidH2
        | ErrorType::H2Error
        | ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => "protocol",
        ErrorType::ConnectError | ErrorType::SocketError | ErrorType::InternalError => "connect",
        _ => "other",
    }
}

/// The same label of an answer's status.
pub(super) fn status_kind(fault: Fault) -> &'static str {
    match fault {
        Fault::Busy => "busy",
        Fault::Account => "account",
        _ => "status_5xx",
    }
}
