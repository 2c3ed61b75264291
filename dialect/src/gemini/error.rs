//! Errors in Google's form: `{"error": {"code", "message", "status", "details"}}`, or a list of one.
//!
//! Source: AIP-193 and `google.rpc.Code`.

use serde_json::{Value, json};

use crate::ir::{Failure, FailureKind};
use crate::openai::chat::answer_in::plain;

/// Reads the body of an answer with an error status.
pub fn of_body(status: u16, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Value>(body) {
        Ok(said) => {
            let said = match &said {
                Value::Array(list) => list.first().unwrap_or(&said),
                said => said,
            };
            match said.get("error") {
                Some(error) => read(status, error),
                None => plain(status, body),
            }
        }
        Err(_) => plain(status, body),
    }
}

/// Reads an `error`; a `status` of 0 is not known.
pub fn read(status: u16, error: &Value) -> Failure {
    let word = error["status"].as_str();
    let status = match (status, error["code"].as_u64(), word) {
        (0, Some(code @ 400..=599), _) => code as u16,
        (0, _, Some(word)) => of_word(word).map_or(0, |(status, _)| status),
        (status, ..) => status,
    };
    let details = || error["details"].as_array().into_iter().flatten();
    // A wrong key is an `INVALID_ARGUMENT` with a reason.
    let wrong_key = details().any(|it| it["reason"] == "API_KEY_INVALID");
    let param = details().find_map(|it| it["fieldViolations"][0]["field"].as_str());
    let message = error["message"].as_str().filter(|it| !it.is_empty());
    let kind = match word.and_then(of_word) {
        _ if wrong_key => FailureKind::Unauthenticated,
        Some((_, kind)) => kind,
        None => FailureKind::of_status(status),
    };
    Failure {
        status: if wrong_key { 401 } else { status },
        kind,
        message: message.map_or_else(|| error.to_string(), str::to_owned),
        code: word.map(str::to_owned),
        param: param.map(str::to_owned),
    }
}

/// Writes an error: its status and body.
pub fn write(failure: &Failure) -> (u16, Value) {
    let (usual, word) = word(failure.kind);
    let status = match failure.status {
        529 => 503,
        status @ 400..=599 => status,
        _ => usual,
    };
    let mut error = json!({"code": status, "message": failure.message, "status": word});
    let mut details = Vec::new();
    if let Some(param) = &failure.param {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": param, "description": failure.message}],
        }));
    }
    if let Some(code) = failure.code.as_deref().filter(|code| *code != word) {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": code,
            "domain": "weir",
        }));
    }
    if !details.is_empty() {
        error["details"] = details.into();
    }
    (status, json!({"error": error}))
}

/// What a `google.rpc.Code` is in HTTP.
fn of_word(word: &str) -> Option<(u16, FailureKind)> {
    Some(match word {
        "INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE" => (400, FailureKind::Invalid),
        "UNAUTHENTICATED" => (401, FailureKind::Unauthenticated),
        "PERMISSION_DENIED" => (403, FailureKind::Forbidden),
        "NOT_FOUND" => (404, FailureKind::NotFound),
        "RESOURCE_EXHAUSTED" => (429, FailureKind::RateLimited),
        "UNAVAILABLE" => (503, FailureKind::Overloaded),
        "DEADLINE_EXCEEDED" => (504, FailureKind::Timeout),
        "INTERNAL" | "UNKNOWN" | "DATA_LOSS" => (500, FailureKind::Server),
        _ => return None,
    })
}

/// The `google.rpc.Code` of a failure, and its usual status.
fn word(kind: FailureKind) -> (u16, &'static str) {
    match kind {
        FailureKind::Invalid => (400, "INVALID_ARGUMENT"),
        FailureKind::TooLarge => (413, "INVALID_ARGUMENT"),
        FailureKind::Unauthenticated => (401, "UNAUTHENTICATED"),
        FailureKind::Forbidden => (403, "PERMISSION_DENIED"),
        FailureKind::NotFound => (404, "NOT_FOUND"),
        FailureKind::RateLimited | FailureKind::Quota => (429, "RESOURCE_EXHAUSTED"),
        FailureKind::Overloaded => (503, "UNAVAILABLE"),
        FailureKind::Timeout => (504, "DEADLINE_EXCEEDED"),
        FailureKind::Server => (502, "INTERNAL"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_kind() {
        let body =
            br#"[{"error":{"code":429,"message":"Slow down","status":"RESOURCE_EXHAUSTED"}}]"#;
        let failure = of_body(429, body);
        assert_eq!(failure.kind, FailureKind::RateLimited);
        assert_eq!(failure.message, "Slow down");
        let (status, said) = write(&failure);
        assert_eq!(status, 429);
        assert_eq!(said["error"]["status"], "RESOURCE_EXHAUSTED");
        assert_eq!(said["error"].get("details"), None);
    }

    #[test]
    fn a_wrong_key_is_no_wrong_request() {
        let body = br#"{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#;
        let failure = of_body(400, body);
        assert_eq!(failure.status, 401);
        assert_eq!(failure.kind, FailureKind::Unauthenticated);
    }

    #[test]
    fn what_is_no_json_is_told_as_it_is() {
        assert_eq!(of_body(502, b"<html>").message, "<html>");
    }
}
