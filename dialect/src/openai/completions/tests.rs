use serde_json::{Value, json};

use crate::provider::Dialect;
use crate::surface::Form;
use crate::trial::{COMPLETIONS, answered_any, ask, asked, events, golden};

fn value(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn a_prompt_is_what_a_user_says() {
    for prompt in [r#""Say hello.""#, r#"["Say hello."]"#] {
        let body = format!(
            r#"{{"prompt":{prompt},"max_tokens":9,"echo":false,"best_of":1,"logprobs":null,"suffix":null}}"#
        );
        let said = asked(COMPLETIONS, &body, Dialect::OpenAi);
        assert_eq!(
            said["messages"],
            json!([{"role": "user", "content": "Say hello."}])
        );
        assert_eq!(said["max_completion_tokens"], 9);
    }
}

#[test]
fn what_only_a_completion_has_is_refused_by_name() {
    for (field, at) in [
        (r#""echo":true"#, "echo"),
        (r#""suffix":"x""#, "suffix"),
        (r#""best_of":3"#, "best_of"),
        (r#""logprobs":2"#, "logprobs"),
    ] {
        let body = format!(r#"{{"prompt":"Hi",{field}}}"#);
        let refused = ask(COMPLETIONS, &body, Dialect::OpenAi, false).expect_err(at);
        assert!(
            refused.to_string().contains(&format!("`{at}`")),
            "{refused}"
        );
    }
    for prompt in [r#"["a","b"]"#, "[1,2]", "[[1,2]]", "[]"] {
        let body = format!(r#"{{"prompt":{prompt}}}"#);
        for lenient in [false, true] {
            let refused = ask(COMPLETIONS, &body, Dialect::OpenAi, lenient).expect_err(prompt);
            assert!(refused.to_string().contains("`prompt`"), "{refused}");
        }
    }
}

#[test]
fn answers_are_completions() {
    let body = golden("clients/completions/text.json");
    let answer = golden("upstreams/dashscope/text.json");
    let out = answered_any(COMPLETIONS, &body, Dialect::DashScope, &answer, Form::Body);
    let said = value(&out);
    assert_eq!(said["object"], "text_completion");
    assert_eq!(
        said["choices"],
        json!([{"text": "Hello there!", "index": 0, "logprobs": null, "finish_reason": "stop"}])
    );
    assert_eq!(said["usage"]["total_tokens"], 16);
    let body = golden("clients/completions/stream.json");
    let answer = golden("upstreams/cohere/stream.sse");
    let out = answered_any(COMPLETIONS, &body, Dialect::Cohere, &answer, Form::Events);
    assert!(out.ends_with("data: [DONE]\n\n"), "{out}");
    let said = events(&out);
    let text: String = (said.iter())
        .filter_map(|it| it["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(text, "Hello there!");
    assert!(said.iter().all(|it| it["object"] == "text_completion"));
    let last = said.last().expect("usage");
    assert_eq!(
        (&last["choices"], &last["usage"]["total_tokens"]),
        (&json!([]), &json!(16))
    );
}
