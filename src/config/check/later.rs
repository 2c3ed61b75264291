//! Keys whose meaning isn't built yet: read for their form, then answered. A value that turns a
//! thing off is as good as none.

use super::Check;
use crate::config::file::{Dialect, File, Provider};
use crate::config::path::Path;

/// Notes every key that is used and isn't built.
pub(super) fn report(file: &File, check: &mut Check<'_>) {
    let logging = file.logging.as_ref();
    let tracing = file.tracing.as_ref();
    let otlp = tracing.and_then(|tracing| tracing.otlp_endpoint.as_ref());
    for (used, keys) in [
        (
            logging
                .and_then(|logging| logging.bodies)
                .is_some_and(|bodies| bodies.0),
            &["logging", "bodies"],
        ),
        (
            otlp.is_some_and(|url| !url.0.is_empty()),
            &["tracing", "otlp_endpoint"],
        ),
    ] {
        if used {
            let path = keys.iter().fold(Path::root(), |path, key| path.key(key));
            check.findings.not_built(&path, keys.join("."));
        }
    }
    let providers = check.key("providers");
    for (index, it) in file.providers.iter().flat_map(|list| list.items()) {
        provider(it, &providers.index(index), check);
    }
}

fn provider(provider: &Provider, path: &Path, check: &mut Check<'_>) {
    let dialect = match provider.dialect {
        None | Some(Dialect::Openai) => None,
        Some(Dialect::Anthropic) => Some("anthropic"),
        Some(Dialect::Azure) => Some("azure"),
        Some(Dialect::Gemini) => Some("gemini"),
        Some(Dialect::Ollama) => Some("ollama"),
        Some(Dialect::Grpc) => Some("grpc"),
    };
    if let Some(dialect) = dialect {
        let key = format!("providers[].dialect ({dialect})");
        check.findings.not_built(&path.key("dialect"), key);
    }
}
