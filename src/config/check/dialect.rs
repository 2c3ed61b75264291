//! What a provider speaks, and by which keys.

use super::Check;
use crate::config::file::{self, AwsKeys, Provider};
use crate::config::path::Path;
use crate::config::units::Text;
use crate::dialect::provider::{self, Dialect};
use crate::types::Secret;
use crate::upstream::settings;

/// The dialect that the file names.
pub(super) fn dialect(
    given: &Provider,
    path: &Path,
    check: &mut Check<'_>,
) -> Option<provider::Provider> {
    let _ = (path, check);
    let dialect = match given.dialect? {
        file::Dialect::Openai => Dialect::OpenAi,
        file::Dialect::Azure => Dialect::Azure,
        file::Dialect::Anthropic => Dialect::Anthropic,
        file::Dialect::Gemini => Dialect::Gemini,
        file::Dialect::Vertex => Dialect::Vertex,
        file::Dialect::Ollama => Dialect::Ollama,
        file::Dialect::Dashscope => Dialect::DashScope,
        file::Dialect::Cohere => Dialect::Cohere,
        file::Dialect::Bedrock => Dialect::Bedrock,
        file::Dialect::Grpc => Dialect::Grpc,
    };
    let text = |text: &Option<Text>| Some(text.as_ref()?.0.clone());
    Some(provider::Provider {
        api_version: text(&given.api_version),
        region: text(&given.region),
        project: text(&given.project),
        ..provider::Provider::new(dialect)
    })
}

/// Keys of Amazon's.
pub(super) fn aws(
    given: Option<&AwsKeys>,
    path: &Path,
    check: &mut Check<'_>,
) -> Option<settings::AwsKeys> {
    let given = given?;
    let (id, secret) = (path.key("access_key_id"), path.key("secret_access_key"));
    if given.access_key_id.is_none() {
        check.missing(&id, "the id of a key");
    }
    if given.secret_access_key.is_none() {
        check.missing(&secret, "the secret of the key");
    }
    let token = given.session_token.as_ref();
    Some(settings::AwsKeys {
        access_key_id: given.access_key_id.as_ref()?.0.clone(),
        secret_access_key: check.secret(given.secret_access_key.as_ref(), &secret)?,
        session_token: check.secret(token, &path.key("session_token")),
    })
}

/// The text of a service account's key file.
pub(super) fn service_account(
    given: Option<&Text>,
    path: &Path,
    check: &mut Check<'_>,
) -> Option<Secret<String>> {
    let file = check.folder.join(&given?.0);
    match std::fs::read_to_string(&file) {
        Ok(text) => Some(Secret::new(text)),
        Err(error) => {
            let found = format!(
                "{}, which can't be read ({error})",
                check.findings.found(path)
            );
            let allowed = "the path of a readable JSON key file";
            check.findings.wrong_because(path, found, allowed);
            None
        }
    }
}
