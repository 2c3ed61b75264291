//! Requests whose answers don't tell what they use, because they ask for that: the answer is made later, or
//! the part that tells it is left out. What isn't reported can be counted, but for what nobody is shown.

use super::auth::all_values;
use super::{Body, Surface};
use crate::dialect::openai::request::Asked;
use crate::tokens::meter::Surface::{Audio, DashScope, Responses};
use http::{HeaderName, request};
use memchr::memmem;

/// Alibaba's wish for an answer that only names a task.
const ASYNC: HeaderName = HeaderName::from_static("x-dashscope-async");
/// Google's choice of an answer's fields.
const FIELDS: HeaderName = HeaderName::from_static("x-goog-fieldmask");

/// Whether the answer will say nothing of what it took to make it.
pub(super) fn is_untold(head: &request::Parts, surface: Surface, asked: Option<&Asked>) -> bool {
    match surface {
        Surface::Metered(Responses) => asked.is_some_and(|asked| asked.background),
        Surface::Metered(DashScope) => head.headers.contains_key(ASYNC),
        surface if surface.is_google() && surface.metered().is_some() => {
            let query = head.uri.query().unwrap_or_default();
            let chosen = all_values(query, &["fields", "$fields"]).next().is_some();
            let is_read =
                |alt: &str| alt.eq_ignore_ascii_case("sse") || alt.eq_ignore_ascii_case("json");
            let other_form = all_values(query, &["alt", "$alt"]).any(|alt| !is_read(alt));
            chosen || other_form || head.headers.contains_key(FIELDS)
        }
        _ => false,
    }
}

/// Whether what is to be heard isn't sent, but the address where it lies: nobody here knows how long it lasts.
pub(super) fn is_fetched(surface: Surface, body: &Body) -> bool {
    let json = || body.asked().and(body.plain());
    match (surface, body.form()) {
        (Surface::Metered(Audio), Some(form)) => form.elsewhere,
        // Sound in JSON is base64, which has no colon.
        (Surface::Metered(Audio), None) => {
            json().is_some_and(|json| memmem::find(json, b"://").is_some())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::openai::request::read;
    use http::Request;

    fn is_untold(target: &str, header: Option<&str>, body: &[u8]) -> bool {
        let mut request = Request::get(target);
        if let Some(name) = header {
            request = request.header(name, "enable");
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let asked = read(body).unwrap();
        super::is_untold(&head, Surface::of(head.uri.path()), Some(&asked))
    }

    #[test]
    fn answers_that_tell_nothing_are_known_by_what_asks_for_them() {
        const GEMINI: &str = "/v1beta/models/g:generateContent";
        const DASHSCOPE: &str = "/api/v1/services/aigc/text-generation/generation";
        let background = br#"{"background":true}"#;
        assert!(is_untold("/v1/responses", None, background));
        assert!(!is_untold("/v1/responses", None, b"{}"));
        assert!(!is_untold("/v1/chat/completions", None, background));
        assert!(is_untold(DASHSCOPE, Some("X-DashScope-Async"), b"{}"));
        assert!(!is_untold(DASHSCOPE, None, b"{}"));
        for query in [
            "fields=candidates",
            "%24fields=a",
            "$Fields=a",
            "alt=proto",
            "alt=sse&alt=media",
        ] {
            let target = format!("{GEMINI}?{query}");
            assert!(is_untold(&target, None, b"{}"), "{query}");
        }
        for query in ["alt=sse", "$alt=json", "key=fields", ""] {
            let target = format!("{GEMINI}?{query}");
            assert!(!is_untold(&target, None, b"{}"), "{query}");
        }
        assert!(is_untold(GEMINI, Some("X-Goog-FieldMask"), b"{}"));
    }
}
