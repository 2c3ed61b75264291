//! weir without a file: a provider from the variables that its SDKs use.
//!
//! Read as a file would be, so that a wrong variable is told in the same way. Called by the command
//! line when no file is given.

use super::path::Path;
use super::shown::shown;
use super::{Mistake, Mistakes, Settings, What, parse};

/// Settings from `OPENAI_API_KEY` (with `OPENAI_BASE_URL`, when it isn't OpenAI's own API) and
/// `OLLAMA_BASE` (such as `http://localhost:11434`); with both, OpenAI's models go to the first and
/// all others to the second. `HTTPS_PROXY` and `NO_PROXY` count as they do for `egress.from_env`.
/// `None` when neither provider is set.
pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Option<Result<Settings, Mistakes>> {
    let is_set = |name| env(name).is_some_and(|value| !value.trim().is_empty());
    let text = match (is_set("OPENAI_API_KEY"), is_set("OLLAMA_BASE")) {
        (false, false) => return None,
        (true, false) => format!("{ALONE}openai}}\nproviders:\n{OPENAI}"),
        (false, true) => format!("{ALONE}ollama}}\nproviders:\n{OLLAMA}"),
        (true, true) => format!("{ALONE}ollama}}\nproviders:\n{OPENAI}{MODELS}{OLLAMA}"),
    };
    let trimmed = |name: &str| {
        let value = env(name)?.trim().to_owned();
        match name {
            // Both forms are in use: the server's address, and its OpenAI API.
            "OLLAMA_BASE" => {
                let base = value.trim_end_matches('/');
                Some(base.strip_suffix("/v1").unwrap_or(base).to_owned())
            }
            _ => Some(value),
        }
    };
    Some(
        parse(&text, "environment", &trimmed).map_err(|mut mistakes| {
            let named = |mistake| of_variable(mistake, is_set("OPENAI_API_KEY"), env);
            mistakes.0.iter_mut().for_each(named);
            mistakes
        }),
    )
}

/// Tells a mistake by its variable: lines and keys are those of a text that nobody wrote.
fn of_variable(mistake: &mut Mistake, openai: bool, env: &dyn Fn(&str) -> Option<String>) {
    mistake.line = None;
    let variable = match mistake.path.as_str() {
        "providers[0].api_key" => "OPENAI_API_KEY",
        "providers[0].base_url" if openai => "OPENAI_BASE_URL",
        "providers[0].base_url" | "providers[1].base_url" => "OLLAMA_BASE",
        _ => return,
    };
    variable.clone_into(&mut mistake.path);
    if let What::Wrong { found, .. } = &mut mistake.what
        && variable != "OPENAI_API_KEY"
    {
        let value = env(variable).unwrap_or_default();
        let value = serde_yaml::Value::String(value.trim().to_owned());
        *found = shown(&value, &Path::root().key(variable));
    }
}

/// The way there is the environment's, too.
const ALONE: &str = "port: 8080\negress: {from_env: true}\nrouting: {default_provider: ";

const OPENAI: &str = r#"  - name: openai
    base_url: "${OPENAI_BASE_URL:-https://api.openai.com/v1}"
    api_key: "${OPENAI_API_KEY}"
"#;

/// Not `o*`, which would take `olmo2`, `orca-mini` and `openchat` from Ollama.
const MODELS: &str = r#"    models: ["gpt-*", "chatgpt-*", "o?", "o?-*", "text-embedding-*"]
"#;

const OLLAMA: &str = r#"  - name: ollama
    base_url: "${OLLAMA_BASE}/v1"
"#;
