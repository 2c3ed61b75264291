//! What real providers answered, as each client reads it.
//!
//! The recordings lie outside of the repository; where they don't, the test says so and passes.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use weir_dialect::provider::Dialect;
use weir_dialect::surface::Form;

use crate::golden::{Answer, CLIENTS, Client, UPSTREAMS, Upstream};
use crate::seen::{self, Seen, Used, Wire};
use crate::story;

#[derive(Debug, Deserialize)]
pub struct Case {
    pub id: String,
    provider: String,
    api: String,
    status: u16,
    content_type: String,
    response: String,
    usage: Option<Usage>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Usage {
    input: Option<u64>,
    output: Option<u64>,
    cached: Option<u64>,
    cache_write: Option<u64>,
    reasoning: Option<u64>,
}

/// The folder of the recordings, if they are here.
pub fn folder() -> Option<PathBuf> {
    let folders = [
        "../../shared/fixtures",
        "../../../shared/fixtures",
        "../shared/fixtures",
    ];
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    (folders.iter().map(|it| here.join(it))).find(|it| it.join("index.json").exists())
}

/// All recordings of upstreams that are read, with what they were answers of.
pub fn cases(folder: &Path) -> Vec<(Case, &'static Upstream, Answer)> {
    let index = std::fs::read(folder.join("index.json")).expect("an index");
    let cases: Vec<Case> = serde_json::from_slice(&index).expect("a list of cases");
    (cases.into_iter())
        .filter_map(|case| {
            let dialect = match &*case.api {
                "openai-chat" if case.provider == "azure" => Dialect::Azure,
                "openai-chat" => Dialect::OpenAi,
                "anthropic-messages" => Dialect::Anthropic,
                "gemini" => Dialect::Gemini,
                "ollama-chat" => Dialect::Ollama,
                "dashscope-generation" => Dialect::DashScope,
                "cohere-v2-chat" => Dialect::Cohere,
                "bedrock-converse" => Dialect::Bedrock,
                _ => return None,
            };
            let upstream = UPSTREAMS.iter().find(|it| it.dialect == dialect)?;
            let bytes = std::fs::read(folder.join(&case.response)).expect("a recording");
            let form = match &*case.content_type {
                kind if kind.starts_with("text/event-stream") => Form::Events,
                kind if kind.starts_with("application/x-ndjson") => Form::Lines,
                "application/vnd.amazon.eventstream" => Form::Frames,
                _ => Form::Body,
            };
            Some((case, upstream, Answer { form, bytes }))
        })
        .collect()
}

#[test]
fn what_providers_answered_is_what_each_client_reads() {
    let Some(folder) = folder() else {
        return println!("SKIPPED: the recordings aren't here");
    };
    let (mut answers, mut pairs, mut bad) = (0, 0, String::new());
    for (case, upstream, answer) in cases(&folder) {
        answers += 1;
        for client in &CLIENTS {
            for stream in [false, true] {
                let checked = catch_unwind(AssertUnwindSafe(|| {
                    check(&case, client, stream, upstream, &answer)
                }));
                pairs += 1;
                if let Err(panic) = checked {
                    let panic = crate::matrix::message(&*panic);
                    let form = if stream { "streamed" } else { "whole" };
                    let _ = writeln!(bad, "{} to {} {form}: {panic}", case.id, client.name);
                }
            }
        }
    }
    println!("{answers} recorded answers in {pairs} forms");
    assert!(bad.is_empty(), "\n{bad}");
}

fn check(case: &Case, client: &Client, stream: bool, upstream: &Upstream, answer: &Answer) {
    let body = match stream {
        true => client.body("stream"),
        false => client.body("text"),
    };
    let body = body.expect("the client's request");
    let ask = || {
        let translated = client.ask(&body, stream, upstream, false);
        translated.unwrap_or_else(|unfit| panic!("{unfit}"))
    };
    if case.status != 200 {
        let (status, bytes) = ask().answer.refusal(case.status, &answer.bytes);
        return assert_error(case, status, &bytes, answer);
    }
    let api = upstream.answers.expect("an API that is JSON");
    let told = seen::read(api, answer.wire(), &answer.bytes);
    assert_usage(case, told.usage);
    let got = answer.through(ask(), usize::MAX);
    assert_eq!(got.failed, None);
    for cut in [1, 13, 1000] {
        assert!(answer.through(ask(), cut) == got, "cut by {cut} it differs");
    }
    let wire = if stream { client.stream } else { Wire::Body };
    let got = seen::read(client.answers, wire, &got.bytes);
    assert!(!stream || got.ended, "the stream's last word");
    story::same(client, upstream, Some(&as_told(told)), &got);
}

/// What the translation does with things that a client's API has no place for, or has in another.
fn as_told(told: Seen) -> Seen {
    told
}

/// What is read here is what those who recorded it say.
fn assert_usage(case: &Case, used: Option<Used>) {
    let Some(usage) = case.usage else { return };
    let used = used.expect("usage");
    let or_none = |count: Option<u64>| count.filter(|it| *it > 0);
    assert_eq!(used.input.unwrap_or(0), usage.input.unwrap_or(0), "input");
    assert_eq!(used.output, usage.output, "output");
    assert_eq!(or_none(used.cached), or_none(usage.cached), "cached");
    assert_eq!(
        or_none(used.cache_write),
        or_none(usage.cache_write),
        "written to a cache"
    );
    assert_eq!(
        or_none(used.reasoning),
        or_none(usage.reasoning),
        "reasoning"
    );
}

/// The client is told the provider's own words, with the provider's status.
fn assert_error(case: &Case, status: u16, bytes: &[u8], answer: &Answer) {
    assert_eq!(status, case.status);
    let said: Value = serde_json::from_slice(bytes).expect("JSON");
    let message = said["error"]["message"].as_str().or(said["error"].as_str());
    let message = message.unwrap_or_else(|| panic!("a message in {said}"));
    let original: Value = serde_json::from_slice(&answer.bytes).expect("JSON");
    let original = original.to_string();
    let quoted = Value::from(message).to_string();
    assert!(
        original.contains(quoted.trim_matches('"')),
        "{message} in {original}"
    );
}
