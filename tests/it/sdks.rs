//! Official SDKs, unchanged, in front of weir and of providers of every dialect.
//!
//! The scripts are in `tests/sdk`. `WEIR_TEST_PYTHON` names the Python that has the SDKs (default:
//! `python3`), `WEIR_TEST_NODE` the folder whose `node_modules` has those for Node; `tests/run` makes both.

use super::fixtures::{index, recordings};
use crate::support::simulated::{Recording, simulated};
use crate::support::{Gateway, Provider};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::process::Command;

/// A provider's name and its dialect, which has golden answers. `llamacpp` speaks OpenAI's, but for its
/// Responses API.
const UPSTREAMS: [(&str, &str); 9] = [
    ("openai", "openai"),
    ("llamacpp", "openai, quirks: llamacpp"),
    ("azure", "azure"),
    ("anthropic", "anthropic"),
    ("gemini", "gemini"),
    ("ollama", "ollama"),
    ("dashscope", "dashscope"),
    ("cohere", "cohere"),
    ("bedrock", "bedrock"),
];

/// What clients of each SDK call themselves where a provider must tell them apart.
const CLIENTS: [&str; 10] = [
    "chat",
    "responses",
    "messages",
    "gemini",
    "ollama",
    "langchain",
    "node",
    "node-responses",
    "vercel",
    "vercel-openai",
];

const STATUSES: [u16; 7] = [400, 401, 403, 404, 429, 500, 529];

/// The golden features that the scripts ask for.
const FEATURES: [&str; 8] = [
    "text",
    "tools",
    "parallel_tools",
    "reasoning",
    "schema",
    "system",
    "image",
    "stop",
];

fn providers(
    recordings: &HashMap<&'static str, HashMap<String, Recording>>,
) -> Vec<(&'static str, Provider)> {
    UPSTREAMS
        .iter()
        .map(|(name, dialect)| {
            let recordings = recordings.get(name).cloned().unwrap_or_default();
            let dialect = dialect.split(',').next().unwrap_or_default();
            (*name, simulated(dialect, recordings))
        })
        .collect()
}

/// weir in front of them; models are called `PROVIDER-MODEL`.
fn gateway(providers: &[(&'static str, Provider)], models: &[(String, String)]) -> Gateway {
    let mut said = String::from("providers:\n");
    for ((name, provider), (_, dialect)) in providers.iter().zip(UPSTREAMS) {
        said.push_str(&format!(
            "- {{name: {name}, dialect: {dialect}, base_url: \"{}\", api_key: sk-up, breaker: off}}\n",
            provider.url()
        ));
    }
    said.push_str("model_routes:\n");
    for (name, model) in models {
        said.push_str(&format!(
            "  {name}-{model}: {{targets: [{{provider: {name}, model: {model}}}], retries: 0, lenient: true}}\n"
        ));
    }
    Gateway::start(&said)
}

/// All that the scripts need to know: where weir is and where the providers are.
fn told(gateway: &Gateway, providers: &[(&'static str, Provider)]) -> Value {
    let places: serde_json::Map<_, _> = providers
        .iter()
        .map(|(name, provider)| ((*name).to_owned(), json!(provider.url())))
        .collect();
    json!({
        "weir": format!("http://{}", gateway.address()),
        "providers": places,
        "golden": concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/translate/clients"),
    })
}

/// Runs a script with what it is told; it says in its last line how much was seen, without a complaint.
#[track_caller]
fn runs(mut command: Command, gateway: &Gateway, told: &Value) {
    let path = gateway.folder().write("told.json", told.to_string());
    let output = command
        .arg(path)
        .env("NO_PROXY", "*")
        .output()
        .unwrap_or_else(|error| panic!("{command:?} can't be run: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim_end().ends_with("all is well"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{said}");
}

fn python(script: &str) -> Command {
    let python = std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(python);
    command.arg(format!("{}/tests/sdk/{script}", env!("CARGO_MANIFEST_DIR")));
    command
}

fn node(script: &str) -> Command {
    let modules = std::env::var("WEIR_TEST_NODE")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/target/sdk-node").to_owned());
    let mut command = Command::new("node");
    command
        .arg(format!("{}/tests/sdk/{script}", env!("CARGO_MANIFEST_DIR")))
        .env("WEIR_TEST_NODE", modules);
    command
}

/// The models of the story, at each provider.
fn story() -> Vec<(String, String)> {
    let mut models: Vec<String> = FEATURES.iter().map(ToString::to_string).collect();
    models.extend(STATUSES.map(|status| format!("error-{status}")));
    models.extend(CLIENTS.map(|client| format!("busy-{client}")));
    models.extend(CLIENTS.map(|client| format!("endless-{client}")));
    let all = UPSTREAMS.iter().flat_map(|(name, _)| {
        let named = |model: &String| ((*name).to_owned(), model.clone());
        models.iter().map(named)
    });
    all.collect()
}

#[test]
fn sdks_for_python_work_unchanged_with_every_provider() {
    let providers = providers(&HashMap::new());
    let gateway = gateway(&providers, &story());
    runs(python("story.py"), &gateway, &told(&gateway, &providers));
}

#[test]
fn sdks_for_node_work_unchanged_with_every_provider() {
    let providers = providers(&HashMap::new());
    let gateway = gateway(&providers, &story());
    runs(node("story.cjs"), &gateway, &told(&gateway, &providers));
}

/// The dialect and the provider's SDK for an API of the recordings; those of which weir translates nothing
/// have none.
fn recorded(api: &str) -> Option<(&'static str, &'static str)> {
    Some(match api {
        "openai-chat" => ("openai", "chat"),
        "anthropic-messages" => ("anthropic", "messages"),
        "gemini" => ("gemini", "gemini"),
        "ollama-chat" => ("ollama", "ollama"),
        "dashscope-generation" => ("dashscope", "dashscope"),
        "cohere-v2-chat" => ("cohere", "cohere"),
        "bedrock-converse" => ("bedrock", "bedrock"),
        _ => return None,
    })
}

#[test]
fn recordings_are_read_alike_by_the_providers_sdk_and_through_weir() {
    let Some(folder) = recordings() else { return };
    let mut played: HashMap<&'static str, HashMap<String, Recording>> = HashMap::new();
    let (mut models, mut cases) = (Vec::new(), Vec::new());
    for (number, case) in index(&folder).iter().enumerate() {
        let text = |name: &str| case[name].as_str().unwrap_or_default();
        let Some((dialect, sdk)) = recorded(text("api")) else {
            continue;
        };
        let model = format!("recording-{number}");
        let recording = Recording {
            status: case["status"]
                .as_u64()
                .and_then(|status| status.try_into().ok())
                .expect("a status"),
            content_type: text("content_type").to_owned(),
            body: fs::read(folder.join(text("response"))).expect("a recording"),
        };
        cases.push(json!({
            "id": text("id"), "dialect": dialect, "sdk": sdk, "model": model,
            "streamed": case["streamed"], "status": recording.status, "usage": case["usage"],
        }));
        // Who has no Responses API gets those requests as chat.
        for name in [
            dialect,
            if dialect == "openai" {
                "llamacpp"
            } else {
                dialect
            },
        ] {
            let of = played.entry(name).or_default();
            if of.insert(model.clone(), recording.clone()).is_none() {
                models.push((name.to_owned(), model.clone()));
            }
        }
    }
    let providers = providers(&played);
    let gateway = gateway(&providers, &models);
    let mut told = told(&gateway, &providers);
    told["cases"] = json!(cases);
    runs(python("recordings.py"), &gateway, &told);
}
