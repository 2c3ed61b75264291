//! The official `openai` SDK for Python, unchanged, in front of `weir demo`.
//!
//! `WEIR_TEST_PYTHON` names the Python that has it (default: `python3`).

use crate::support::{Gateway, Launch};
use std::process::Command;

const SCRIPT: &str = r#"
import sys
try:
    import openai
except ImportError:
    sys.exit("the openai SDK is missing: pip install openai, or name a Python that has it with WEIR_TEST_PYTHON")

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=30)
messages = [{"role": "user", "content": "Hello from the SDK"}]

chat = client.chat.completions.create(model="echo", messages=messages)
assert chat.choices[0].message.content == "Hello from the SDK", chat
assert chat.choices[0].finish_reason == "stop", chat
assert chat.usage.completion_tokens == 4 and chat.usage.prompt_tokens > 4, chat.usage
assert chat.usage.total_tokens == chat.usage.prompt_tokens + 4, chat.usage
assert chat._request_id, "no x-request-id"

text, finish = "", None
for event in client.chat.completions.create(model="echo", messages=messages, stream=True):
    assert event.usage is None, "usage that nobody asked for"
    assert event.choices, "an empty event"
    text += event.choices[0].delta.content or ""
    finish = event.choices[0].finish_reason or finish
assert (text, finish) == ("Hello from the SDK", "stop"), (text, finish)

usage = None
for event in client.chat.completions.create(
    model="echo", messages=messages, stream=True, stream_options={"include_usage": True}
):
    usage = event.usage or usage
assert usage and usage.completion_tokens == 4, usage

raw = client.chat.completions.with_raw_response.create(model="echo", messages=messages)
assert raw.headers["x-weir-model"] == "echo" and raw.headers["x-weir-attempts"] == "1", raw.headers

done = client.completions.create(model="echo", prompt="Hello from the SDK")
assert done.choices[0].text == "Hello from the SDK" and done.usage.completion_tokens == 4, done

vectors = client.embeddings.create(model="echo", input=["one", "two"], encoding_format="float")
assert len(vectors.data) == 2 and len(vectors.data[0].embedding) == 8, vectors
assert vectors.data[0].embedding != vectors.data[1].embedding
assert vectors.usage.prompt_tokens == 2, vectors.usage

default_encoding = client.embeddings.create(model="echo", input="one")
assert len(default_encoding.data[0].embedding) == 8, default_encoding

assert [model.id for model in client.models.list()] == ["echo"]
assert client.models.retrieve("echo").id == "echo"

for call in (
    lambda: client.chat.completions.create(model="nobody", messages=messages),
    lambda: client.models.retrieve("nobody"),
):
    try:
        call()
        sys.exit("a model that doesn't exist was served")
    except openai.NotFoundError as error:
        assert error.status_code == 404 and error.code == "model_not_found", error
        assert error.param == "model" and error.type == "invalid_request_error", error
        assert "nobody" in error.message, error

try:
    client.chat.completions.create(model="echo", messages=messages, extra_body={"model": 7})
    sys.exit("a number was taken for a model")
except openai.BadRequestError as error:
    assert error.code == "invalid_request", error

print("all is well")
"#;

#[test]
fn the_openai_sdk_works_unchanged() {
    let weir = Launch::verb(&["demo", "--port", "0", "--admin-port", "0", "--pace", "1"]).spawn();
    let line = weir.wait_printed("curl -N http://");
    let base = line
        .split("curl -N ")
        .nth(1)
        .and_then(|it| it.split("/chat").next());
    runs(&weir, SCRIPT, base.expect("a URL"));
}

/// Runs a script for the official SDK against `base`, which is its argument; it says that all is well.
#[track_caller]
pub fn runs(weir: &Gateway, script: &str, base: &str) {
    let python = std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = weir.folder().write("sdk.py", script);
    let output = Command::new(&python)
        .arg(script)
        .arg(base)
        .env("NO_PROXY", "*")
        .output()
        .unwrap_or_else(|error| panic!("{python} can't be run: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "all is well",
        "{told}"
    );
}
