//! What a provider speaks, and by which keys.

use super::Check;
use crate::config::file::{self, AwsKeys, Provider};
use crate::config::path::Path;
use crate::config::units::Text;
use crate::dialect::gemini::vertex_token::ServiceAccount;
use crate::dialect::provider::{self, Dialect, QUIRKS, Quirks, dialect_of_host};
use crate::types::{BaseUrl, Secret};
use crate::upstream::settings;

/// The dialect that the file names, else that of a host that is known; none where it isn't.
pub(super) fn dialect(
    given: &Provider,
    urls: &[BaseUrl],
    path: &Path,
    check: &mut Check<'_>,
) -> Option<provider::Provider> {
    let first = urls.first();
    let of_host = || first.and_then(|url| dialect_of_host(&url.host, &url.path));
    let dialect = given.dialect.map(named).or_else(of_host);
    keys(given, dialect, path, check);
    let dialect = dialect?;
    let text = |text: &Option<Text>| Some(text.as_ref()?.0.clone());
    let quirks = match (&given.quirks, dialect) {
        (Some(name), _) => quirks(&name.0, &path.key("quirks"), check),
        (None, Dialect::OpenAi) => first.and_then(|url| Quirks::of_host(&url.host)),
        (None, Dialect::Azure) => Some(Quirks::AZURE),
        (None, _) => None,
    };
    Some(provider::Provider {
        quirks: quirks.unwrap_or(Quirks::OPENAI),
        api_version: text(&given.api_version),
        region: text(&given.region),
        project: text(&given.project),
        ..provider::Provider::new(dialect)
    })
}

fn named(dialect: file::Dialect) -> Dialect {
    match dialect {
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
    }
}

fn quirks(name: &str, path: &Path, check: &mut Check<'_>) -> Option<Quirks> {
    let known = Quirks::by_name(name);
    if known.is_none() {
        let names = QUIRKS.iter().map(|quirks| quirks.name);
        let allowed = names.clone().collect::<Vec<_>>().join(", ");
        check.findings.wrong_word(path, allowed, names);
    }
    known
}

/// What only some dialects have.
fn keys(given: &Provider, dialect: Option<Dialect>, path: &Path, check: &mut Check<'_>) {
    use Dialect::{Anthropic, Azure, Bedrock, OpenAi, Vertex};
    let (openai, versioned): (&[Dialect], &[Dialect]) = (&[OpenAi], &[Azure, Anthropic]);
    for (name, is, dialects) in [
        ("quirks", given.quirks.is_some(), openai),
        ("api_version", given.api_version.is_some(), versioned),
        ("region", given.region.is_some(), &[Bedrock, Vertex]),
        ("project", given.project.is_some(), &[Vertex]),
        (
            "service_account",
            given.service_account.is_some(),
            &[Vertex],
        ),
        ("aws", given.aws.is_some(), &[Bedrock]),
    ] {
        let fits = dialect.is_some_and(|dialect| dialects.contains(&dialect));
        if is && !fits {
            let words = dialects
                .iter()
                .map(|it| format!("`dialect: {}`", it.as_str()));
            let words = words.collect::<Vec<_>>().join(" or ");
            let allowed = format!("nothing, unless {words}");
            check.findings.wrong(&path.key(name), allowed);
        }
    }
    let several = [
        given.api_key.is_some(),
        given.service_account.is_some(),
        given.aws.is_some(),
    ];
    if several.iter().filter(|is| **is).count() > 1 {
        let allowed = "one of `api_key`, `aws` and `service_account`";
        check.findings.wrong(&path.key("api_key"), allowed);
    }
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

/// The project of Vertex, where the file names none: that of the service account.
pub(super) fn default_project(speaks: &mut provider::Provider, account: &Secret<String>) {
    let account = ServiceAccount::parse(account.expose().as_bytes()).ok();
    let project = account.and_then(|account| Some(account.project()?.to_owned()));
    speaks.project = speaks.project.take().or(project);
}
