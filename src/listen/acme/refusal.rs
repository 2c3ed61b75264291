//! What an ACME server's answer means for us, in one line. Called by whoever asks it for something.

use super::client::{Client, NoAnswer};
use super::error::Error;
use instant_acme::Problem;
use std::path::Path;
use std::time::Instant;

/// No sentence of a server is repeated beyond this.
const CHARACTERS_MAX: usize = 600;

/// Why a step failed.
pub(super) fn of(
    step: &'static str,
    error: instant_acme::Error,
    client: &Client,
    account: &Path,
) -> Error {
    let wait = client.take_wait();
    match error {
        instant_acme::Error::Api(problem) if concerns_account(&problem) => Error::AccountRefused {
            path: account.to_owned(),
            problem: sentence(&problem),
        },
        instant_acme::Error::Api(problem) => Error::Refused {
            step,
            problem: sentence(&problem),
            wait,
        },
        instant_acme::Error::KeyRejected => Error::Account {
            path: account.to_owned(),
            why: "its key is not an EC key on P-256".to_owned(),
        },
        instant_acme::Error::Timeout(next) => Error::Refused {
            step,
            problem: "it has not decided in time; weir will ask again".to_owned(),
            wait: next.map(|next| next.saturating_duration_since(Instant::now())),
        },
        instant_acme::Error::Json(error) => Error::Unreachable {
            step,
            why: one_line(&format!("what came is not ACME: {error}")),
            wait,
        },
        instant_acme::Error::Other(error) if error.is::<NoAnswer>() => Error::Unreachable {
            step,
            why: one_line(&error.to_string()),
            wait,
        },
        error => Error::Refused {
            step,
            problem: one_line(&error.to_string()),
            wait,
        },
    }
}

/// The account is unknown, deactivated or revoked.
fn concerns_account(problem: &Problem) -> bool {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.rsplit(':').next().unwrap_or_default();
    matches!(kind, "accountDoesNotExist" | "unauthorized")
}

/// A problem document in one line: what, which kind, and for which names.
pub(super) fn sentence(problem: &Problem) -> String {
    let mut all = words(problem.detail.as_deref(), problem.r#type.as_deref());
    for part in &problem.subproblems {
        let name = match &part.identifier {
            Some(name) => name.authorized(false).to_string(),
            None => "also".to_owned(),
        };
        let words = words(part.detail.as_deref(), part.r#type.as_deref());
        all.push_str(&format!("; {name}: {words}"));
    }
    one_line(&all)
}

fn words(detail: Option<&str>, kind: Option<&str>) -> String {
    let kind = kind.map(|kind| kind.rsplit(':').next().unwrap_or(kind));
    match (detail, kind) {
        (Some(detail), Some(kind)) => format!("{detail} ({kind})"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => "without a reason".to_owned(),
    }
}

/// What others wrote, as it may stand in a log.
fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(CHARACTERS_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Problem {
        serde_json::from_str(json).expect("a problem")
    }

    #[test]
    fn a_problem_is_told_with_its_kind_and_its_parts() {
        let told = sentence(&problem(
            r#"{"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "Some\nnames",
                "subproblems": [{"type": "urn:ietf:params:acme:error:caa", "detail": "CAA forbids",
                                 "identifier": {"type": "dns", "value": "a.test"}}]}"#,
        ));
        let expected = "Some names (rejectedIdentifier); a.test: CAA forbids (caa)";
        assert_eq!(told, expected);
        assert_eq!(sentence(&problem("{}")), "without a reason");
    }

    #[test]
    fn a_server_cannot_fill_the_log() {
        let long = format!(r#"{{"detail": "{}"}}"#, "x".repeat(CHARACTERS_MAX + 1));
        assert_eq!(sentence(&problem(&long)).len(), CHARACTERS_MAX);
    }

    #[test]
    fn what_concerns_the_account_is_told_apart() {
        let kind = |kind: &str| {
            problem(&format!(
                r#"{{"type": "urn:ietf:params:acme:error:{kind}"}}"#
            ))
        };
        assert!(concerns_account(&kind("accountDoesNotExist")));
        assert!(concerns_account(&kind("unauthorized")));
        assert!(!concerns_account(&kind("rateLimited")));
    }
}
