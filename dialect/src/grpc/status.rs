//! How a call of gRPC ended, as its trailers say (or its head, where there was nothing else).
//!
//! Source: gRPC over HTTP/2, "Responses"; the codes' meaning: `google/rpc/code.proto`.

use percent_encoding::percent_decode_str;

use crate::ir::{Failure, FailureKind};

/// Where the code stands.
pub const GRPC_STATUS: &str = "grpc-status";
/// Where the words stand, with what isn't printable percent-encoded.
pub const GRPC_MESSAGE: &str = "grpc-message";
/// After how many milliseconds a call may be made again (gRFC A6).
pub const GRPC_RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub code: u32,
    pub message: String,
}

// === impl Status ===

impl Status {
    /// What the two values say; a code that is none is 2, unknown.
    pub fn of(code: &str, message: Option<&str>) -> Self {
        let message = message.unwrap_or_default();
        Self {
            code: code.trim().parse().unwrap_or(UNKNOWN),
            message: percent_decode_str(message).decode_utf8_lossy().into_owned(),
        }
    }

    /// It went well.
    pub fn is_ok(&self) -> bool {
        self.code == 0
    }

    /// For the client's dialect to say.
    pub fn failure(&self) -> Failure {
        failure(self.code, &self.message, "")
    }
}

const UNKNOWN: u32 = 2;

/// What a code says, with the worker's own words.
pub fn failure(code: u32, message: &str, reason: &str) -> Failure {
    use FailureKind as Kind;
    let (name, status, kind) = match code {
        1 => ("CANCELLED", 500, Kind::Server),
        3 => ("INVALID_ARGUMENT", 400, Kind::Invalid),
        4 => ("DEADLINE_EXCEEDED", 504, Kind::Timeout),
        5 => ("NOT_FOUND", 404, Kind::NotFound),
        6 => ("ALREADY_EXISTS", 500, Kind::Server),
        7 => ("PERMISSION_DENIED", 403, Kind::Forbidden),
        8 => ("RESOURCE_EXHAUSTED", 429, Kind::RateLimited),
        9 => ("FAILED_PRECONDITION", 400, Kind::Invalid),
        10 => ("ABORTED", 500, Kind::Server),
        11 => ("OUT_OF_RANGE", 400, Kind::Invalid),
        12 => ("UNIMPLEMENTED", 500, Kind::Server),
        13 => ("INTERNAL", 500, Kind::Server),
        14 => ("UNAVAILABLE", 503, Kind::Overloaded),
        15 => ("DATA_LOSS", 500, Kind::Server),
        16 => ("UNAUTHENTICATED", 401, Kind::Unauthenticated),
        _ => ("UNKNOWN", 500, Kind::Server),
    };
    Failure {
        status,
        kind,
        message: match message {
            "" => format!("the worker failed with {name}"),
            message => message.to_owned(),
        },
        code: Some(reason)
            .filter(|reason| !reason.is_empty())
            .map(str::to_owned),
        param: None,
    }
}
