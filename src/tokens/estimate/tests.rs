use serde_json::json;

use super::super::prompt::prompt_tokens;
use super::*;

fn chat(content: &str) -> Vec<u8> {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": content}]})
        .to_string()
        .into_bytes()
}

/// How far an estimate is from the count, in thousandths, for each of several draws.
fn errors(body: &[u8]) -> Vec<u64> {
    let exact = prompt_tokens(Api::Chat, "gpt-4o", body);
    let draws = 1..=4;
    draws
        .map(|seed| {
            let estimate = seeded(
                Api::Chat,
                "gpt-4o",
                body,
                u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15),
            );
            estimate.input.abs_diff(exact) * 1000 / exact
        })
        .collect()
}

/// A text of many kinds in blocks, as documents are.
fn mixed(bytes: usize) -> String {
    let kinds = [
        include_str!("../count/scan.rs").to_owned(),
        "A weir is a low dam that regulates and measures a river. ".repeat(60),
        "堰是一种低矮的水坝，用来调节和测量河流的水位。".repeat(60),
        r#"{"id":17,"name":"north weir","open":true,"level":2.45},"#.repeat(60),
        "Плотина регулирует уровень воды в реке. ".repeat(60),
        "SGVsbG8gd29ybGQhIFRoaXMgaXMgYmFzZTY0IHRleHQ".repeat(60),
        "😀🎉👍 ok! 🚀 ".repeat(60),
    ];
    let mut text = String::new();
    let mut at = 0;
    while text.len() < bytes {
        let kind = &kinds[at % kinds.len()];
        // Blocks of different lengths.
        let mut end = kind.len() - (at * 997) % (kind.len() / 2);
        while !kind.is_char_boundary(end) {
            end -= 1;
        }
        text.push_str(&kind[..end]);
        at += 1;
    }
    text
}

#[test]
fn a_text_up_to_the_limit_is_counted_and_one_past_it_is_not() {
    let text = "water over the crest ".repeat(COUNTED_BYTES_MAX);
    for (bytes, exact) in [
        (COUNTED_BYTES_MAX - 4, true),
        (COUNTED_BYTES_MAX - 3, false),
    ] {
        // The role is text too.
        let body = chat(&text[..bytes]);
        let estimate = admission(Api::Chat, "gpt-4o", &body);
        assert_eq!(estimate.exact, exact, "{bytes} bytes");
        if exact {
            assert_eq!(estimate.input, prompt_tokens(Api::Chat, "gpt-4o", &body));
        }
    }
}

#[test]
fn a_large_image_does_not_make_a_short_text_a_long_one() {
    let url = format!("data:image/png;base64,{}", "QUJD".repeat(1 << 18));
    let content = json!([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]);
    let body = json!({"messages": [{"role": "user", "content": content}]}).to_string();
    let estimate = admission(Api::Chat, "gpt-4o", body.as_bytes());
    assert!(!estimate.exact, "an image's tokens are no count");
    assert_eq!(
        estimate.input,
        prompt_tokens(Api::Chat, "gpt-4o", body.as_bytes())
    );
}

#[test]
fn without_a_vocabulary_text_is_estimated_and_the_rest_is_as_it_is_with_one() {
    use crate::tokens::count::work::spent;
    let text = mixed(20_000);
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let messages = json!([{"role": "user", "content": text}]);
    let body = json!({"messages": messages, "tools": tools, "max_tokens": 77, "n": 2}).to_string();
    spent();
    let estimate = admission_uncounted(Api::Chat, "gpt-4o", body.as_bytes());
    assert_eq!(spent(), 0, "steps of counting");
    let counted = admission(Api::Chat, "gpt-4o", body.as_bytes());
    assert!(!estimate.exact);
    assert_eq!((estimate.output_max, estimate.output_said), (154, true));
    assert_eq!(estimate.prompt.fixed, counted.prompt.fixed);
    let off = estimate.input.abs_diff(counted.input) * 1000 / counted.input;
    assert!(off <= 150, "{off} ‰");
}

#[test]
fn long_texts_of_many_kinds_are_estimated_within_a_few_percent() {
    for bytes in [64 << 10, 256 << 10, 1 << 20] {
        let errors = errors(&chat(&mixed(bytes)));
        println!("{bytes} bytes: {errors:?} ‰");
        assert!(
            errors.iter().all(|error| *error <= 60),
            "{bytes}: {errors:?}"
        );
    }
}

#[test]
fn many_short_messages_are_estimated_like_a_long_one() {
    let text = mixed(256 << 10);
    let mut messages = Vec::new();
    let mut rest = &*text;
    while !rest.is_empty() {
        let mut end = rest.len().min(200);
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        messages.push(json!({"role": "user", "content": &rest[..end]}));
        rest = &rest[end..];
    }
    let body = json!({"messages": messages}).to_string().into_bytes();
    let errors = errors(&body);
    println!("{errors:?} ‰");
    assert!(errors.iter().all(|error| *error <= 80), "{errors:?}");
}

/// Texts that are costly to count, or that a linear model knows nothing of.
#[test]
fn hostile_texts_are_estimated_near_their_count() {
    let random = |alphabet: &[char]| {
        let mut state = 7_u64;
        let draw = |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            alphabet[(state >> 33) as usize % alphabet.len()]
        };
        (0..100_000).map(draw).collect::<String>()
    };
    let lower: Vec<char> = ('a'..='z').collect();
    let han: Vec<char> = ('一'..='龥').collect();
    for (name, text) in [
        ("a", "a".repeat(100_000)),
        ("space", " ".repeat(100_000)),
        ("space x", " ".repeat(100_000) + "x"),
        ("tab", "\t".repeat(100_000)),
        ("line ends", "\n".repeat(100_000)),
        ("digits", "7".repeat(100_000)),
        ("^", "^".repeat(100_000)),
        ("-", "-".repeat(100_000)),
        ("lower case", random(&lower)),
        ("Han", random(&han)),
        (
            "any characters",
            random(&['é', 'ж', '中', '😀', 'a', ' ', '\u{301}', '한']),
        ),
        ("base64", "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo".repeat(3000)),
    ] {
        let errors = errors(&chat(&text));
        println!("{name}: {errors:?} ‰");
        assert!(
            errors.iter().all(|error| *error <= 100),
            "{name}: {errors:?}"
        );
    }
}

#[test]
fn the_output_is_what_the_request_allows() {
    let output = |api, model: &str, body: serde_json::Value| {
        admission(api, model, body.to_string().as_bytes()).output_max
    };
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let chat = |more: serde_json::Value| {
        let mut body = json!({"messages": messages});
        let object = body.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        output(Api::Chat, "gpt-4o", body)
    };
    assert_eq!(chat(json!({"max_tokens": 5})), 5);
    assert_eq!(chat(json!({"max_completion_tokens": 7, "n": 3})), 21);
    assert_eq!(
        chat(json!({"max_tokens": 5, "max_completion_tokens": 7})),
        7
    );
    assert_eq!(chat(json!({"max_tokens": null})), 4096);
    assert_eq!(chat(json!({"max_tokens": -1, "n": 2})), 8192);
    assert_eq!(chat(json!({"max_tokens": 1e3})), 1000);
    assert_eq!(
        chat(json!({"max_tokens": u64::MAX, "n": u64::MAX})),
        u64::MAX
    );
    assert_eq!(chat(json!({"max_tokens": "5", "n": "x"})), 4096);
    assert_eq!(
        output(
            Api::Gemini,
            "gemini-2.0-flash",
            json!({
                "contents": [{"parts": [{"text": "Hi"}]}],
                "generationConfig": {"maxOutputTokens": 64, "candidateCount": 2},
            })
        ),
        128
    );
    for (api, body) in [
        (
            Api::Responses,
            json!({"input": "Hi", "max_output_tokens": 64}),
        ),
        (
            Api::Messages,
            json!({"messages": messages, "max_tokens": 64}),
        ),
        (
            Api::Ollama,
            json!({"prompt": "Hi", "options": {"num_predict": 64}}),
        ),
        (
            Api::DashScope,
            json!({"input": {"messages": messages}, "parameters": {"max_tokens": 64}}),
        ),
        (Api::Cohere, json!({"messages": messages, "max_tokens": 64})),
        (
            Api::Converse,
            json!({"messages": messages, "inferenceConfig": {"maxTokens": 64}}),
        ),
    ] {
        assert_eq!(output(api, "m", body), 64, "{api:?}");
    }
    assert_eq!(
        output(
            Api::Ollama,
            "llama3",
            json!({"prompt": "Hi", "options": {"num_predict": -2}})
        ),
        4096
    );
    // What is embedded or ranked is answered with numbers.
    for (api, body) in [
        (Api::Embeddings, json!({"input": "Hi"})),
        (Api::Cohere, json!({"texts": ["Hi"]})),
        (Api::Cohere, json!({"query": "Hi", "documents": ["here"]})),
        (Api::DashScope, json!({"input": {"texts": ["Hi"]}})),
        (Api::Gemini, json!({"content": {"parts": [{"text": "Hi"}]}})),
    ] {
        assert_eq!(output(api, "m", body), 0, "{api:?}");
    }
}

#[test]
fn each_prompt_of_a_completion_is_answered() {
    let output = |prompt: serde_json::Value, more: u64| {
        let body = json!({"prompt": prompt, "max_tokens": 10, "best_of": more}).to_string();
        admission(Api::Completions, "gpt-3.5-turbo-instruct", body.as_bytes()).output_max
    };
    assert_eq!(output(json!("a"), 1), 10);
    assert_eq!(output(json!(["a", "b", "c"]), 1), 30);
    assert_eq!(output(json!(["a", "b"]), 4), 80);
    assert_eq!(output(json!([1, 2, 3]), 1), 10);
    assert_eq!(output(json!([[1, 2], [3]]), 1), 20);
}

#[test]
fn a_field_that_is_there_twice_counts_as_the_larger() {
    let body = br#"{"messages":[],"max_tokens":900,"max_tokens":1,"n":3,"n":1}"#;
    assert_eq!(admission(Api::Chat, "gpt-4o", body).output_max, 2700);
}

#[test]
fn what_is_not_json_has_an_estimate_too() {
    for body in [&b""[..], b"{", b"\xff\xfe", b"[[[[", b"null", b"\"text\""] {
        let estimate = admission(Api::Chat, "gpt-4o", body);
        assert!(!estimate.exact, "{body:?}");
        assert_eq!(estimate.input, linear::estimate(body), "{body:?}");
        assert_eq!(estimate.output_max, 4096);
    }
}
