//! OpenAI's dialect at Azure: what differs in paths, keys and answers.
//!
//! Source: Azure OpenAI REST API reference, "Data plane inference", and "API version lifecycle" of the v1
//! API. There are two ways to a model: its deployment's own path with an `api-version`, and, where the base
//! URL ends with `/openai/v1`, paths as OpenAI has them, without a version. The body
//! is OpenAI's in both. Prompts that a filter has looked at are told of in a
//! first chunk with `prompt_filter_results` and no choices; what was filtered is an error with the code
//! `content_filter`, or a choice that ends so.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::ir::{Chat, Fit, Unfit};
use crate::openai::chat::answer_in::Reader;
use crate::openai::chat::request_out::body;
use crate::provider::Provider;
use crate::surface::Surface;
use crate::translate::{Outgoing, Target};

/// The version of the API where the configuration names none: the last one that was made stable before v1.
pub const API_VERSION: &str = "2024-10-21";

/// What stands in a segment of a path as it is (RFC 3986, section 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Methods that belong to a deployment; the others (`/responses`, `/files`, …) name the model in the body
/// or need none.
const OF_DEPLOYMENT: &[&str] = &[
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/audio/transcriptions",
    "/audio/translations",
    "/audio/speech",
    "/images/generations",
    "/images/edits",
];

/// Writes a request.
///
/// # Errors
/// What can't be said.
pub fn write(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let body = body(chat, target, fit)?;
    let (path, query) = path(
        target.provider,
        target.base,
        target.model,
        "/chat/completions",
    );
    Ok(Outgoing {
        path,
        query,
        body: body.to_string().into_bytes(),
        headers: Vec::new(),
        surface: Surface::Chat,
        reader: Box::new(Reader::default()),
    })
}

/// Where a request of OpenAI's dialect goes at Azure: the whole path and the query to add. `base` is the
/// base URL's path without a `/` at its end, `client_path` that of the client, with or without its `/v1`.
pub fn path(
    provider: &Provider,
    base: &str,
    model: &str,
    client_path: &str,
) -> (String, Option<String>) {
    let version = provider.api_version.as_deref();
    // A client of Azure's own SDK says it all by itself.
    let method = match client_path.find("/openai/") {
        Some(at) => {
            let inside = &client_path[at + "/openai".len()..];
            match inside.strip_prefix("/deployments/") {
                Some(rest) => rest.find('/').map_or(rest, |at| &rest[at..]),
                None => inside,
            }
        }
        None => client_path,
    };
    let method = match method.strip_prefix("/v1") {
        Some(rest) if rest.starts_with('/') => rest,
        _ => method,
    };
    if base.ends_with("/v1") {
        let query = version.map(|version| format!("api-version={version}"));
        return (format!("{base}{method}"), query);
    }
    let root = match base.trim_end_matches('/') {
        "" => "/openai",
        base => base,
    };
    let path = match (
        OF_DEPLOYMENT.contains(&method),
        root.contains("/deployments/"),
    ) {
        (true, false) => {
            let model = utf8_percent_encode(model, SEGMENT);
            format!("{root}/deployments/{model}{method}")
        }
        _ => format!("{root}{method}"),
    };
    let version = version.unwrap_or(API_VERSION);
    (path, Some(format!("api-version={version}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Dialect;

    #[test]
    fn a_deployment_has_a_path_of_its_own_and_the_new_api_has_not() {
        let provider = Provider::new(Dialect::Azure);
        let dated = Provider {
            api_version: Some("2025-01-01-preview".into()),
            ..provider.clone()
        };
        let old = Some("api-version=2024-10-21");
        for (provider, base, asked, path_is, query_is) in [
            (
                &provider,
                "",
                "/v1/chat/completions",
                "/openai/deployments/my%20m/chat/completions",
                old,
            ),
            (
                &provider,
                "/openai",
                "/v1/embeddings",
                "/openai/deployments/my%20m/embeddings",
                old,
            ),
            (
                &provider,
                "/openai/deployments/x",
                "/v1/completions",
                "/openai/deployments/x/completions",
                old,
            ),
            (
                &provider,
                "",
                "/openai/deployments/y/audio/speech",
                "/openai/deployments/my%20m/audio/speech",
                old,
            ),
            (&provider, "", "/v1/responses", "/openai/responses", old),
            (
                &provider,
                "/openai/v1",
                "/v1/chat/completions",
                "/openai/v1/chat/completions",
                None,
            ),
            (
                &provider,
                "/openai/v1",
                "/v1/images/generations",
                "/openai/v1/images/generations",
                None,
            ),
            (
                &provider,
                "/openai/v1",
                "/responses",
                "/openai/v1/responses",
                None,
            ),
            (
                &dated,
                "/openai/v1",
                "/v1/responses",
                "/openai/v1/responses",
                Some("api-version=2025-01-01-preview"),
            ),
            (
                &dated,
                "",
                "/v1/images/generations",
                "/openai/deployments/my%20m/images/generations",
                Some("api-version=2025-01-01-preview"),
            ),
        ] {
            let (path, query) = path(provider, base, "my m", asked);
            assert_eq!(
                (&*path, query.as_deref()),
                (path_is, query_is),
                "{base} {asked}"
            );
        }
    }
}
