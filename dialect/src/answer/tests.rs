use super::*;
use crate::openai::chat::CHAT;

fn event(json: &str) -> Reader {
    let mut reader = Reader::of_events(&CHAT);
    reader.begin();
    reader.push(0, json.as_bytes());
    reader
}

fn texts(json: &str) -> Vec<(u32, Field, &str)> {
    let reader = event(json);
    let texts = reader.facts().texts.iter();
    texts
        .map(|text| (text.choice, text.field, &json[text.at.clone()]))
        .collect()
}

/// The event without its usage.
fn without_usage(json: &str) -> String {
    let reader = event(json);
    let (mut out, mut from) = (String::new(), 0);
    for (start, end) in reader.facts().usage_at.into_iter().flatten() {
        out.push_str(&json[from..start]);
        from = end;
    }
    out + &json[from..]
}

#[test]
fn indices_are_believed_wherever_they_stand() {
    let json = r#"{"choices":[
        {"delta":{"content":"a","tool_calls":[{"function":{"arguments":"b"},"index":4}]},"index":3},
        {"index":1,"delta":{"tool_calls":[{"index":2,"function":{"arguments":"c"}}]}},
        {"text":"d"}]}"#;
    let expected = [
        (3, Field::Content, "a"),
        (3, Field::Arguments(4), "b"),
        (1, Field::Arguments(2), "c"),
        (2, Field::Text, "d"),
    ];
    assert_eq!(texts(json), expected);
}

#[test]
fn texts_are_taken_only_from_where_answers_say_them() {
    let json = r#"{"content":"no","text":"no","choices":[{"delta":{"content":null,"role":"no",
        "refusal":"r","name":{"content":"no"},"function_call":{"name":"no","arguments":"f"}},
        "logprobs":{"content":[{"token":"no","text":"no"}]},"content":"no"}],
        "x":[{"choices":[{"text":"no"}]}]}"#;
    assert_eq!(
        texts(json),
        [(0, Field::Refusal, "r"), (0, Field::Arguments(0), "f")]
    );
}

#[test]
fn usage_goes_with_the_comma_that_belongs_to_it() {
    for (json, expected) in [
        (r#"{"a":1,"usage":null}"#, r#"{"a":1}"#),
        (r#"{"a":1,"usage":{"x":[1,"}"]},"b":2}"#, r#"{"a":1,"b":2}"#),
        (r#"{"usage":null,"a":1}"#, r#"{"a":1}"#),
        (r#"{ "usage" : { } , "a":1}"#, r#"{ "a":1}"#),
        (r#"{"usage":null}"#, "{}"),
        (
            r#"{"a":{"usage":1} , "usage" : null }"#,
            r#"{"a":{"usage":1}  }"#,
        ),
        (r#"{"usage":null,"usage":{},"a":1}"#, r#"{"a":1}"#),
        (r#"{"a":1,"usage":null,"usage":{}}"#, r#"{"a":1}"#),
        (
            r#"{"usage":"","a":[],"usage":1,"b":2}"#,
            r#"{"a":[],"b":2}"#,
        ),
        (
            r#"{"a":"\",\"usage\":null"}"#,
            r#"{"a":"\",\"usage\":null"}"#,
        ),
    ] {
        assert_eq!(without_usage(json), expected, "{json}");
    }
}

#[test]
fn an_error_is_one_unless_it_is_null() {
    for (json, error) in [
        (r#"{"error":{"message":"x"}}"#, true),
        (r#"{"error":"x"}"#, true),
        (r#"{"error":529}"#, true),
        (r#"{"type":"error"}"#, true),
        (r#"{"error":null,"type":"x"}"#, false),
        (r#"{"choices":[{"error":{}}]}"#, false),
    ] {
        assert_eq!(event(json).facts().error, error, "{json}");
    }
}

#[test]
fn an_end_is_seen_by_the_reasons_of_all_choices() {
    let mut reader = Reader::of_events(&CHAT);
    let mut after = |json: &str| {
        reader.begin();
        reader.push(0, json.as_bytes());
        reader.all_finished()
    };
    assert!(!after(r#"{"choices":[]}"#));
    assert!(!after(
        r#"{"choices":[{"finish_reason":null},{"index":1}]}"#
    ));
    assert!(!after(
        r#"{"choices":[{"finish_reason":"stop","index":1}]}"#
    ));
    assert!(after(
        r#"{"choices":[{"finish_reason":"length","index":0}]}"#
    ));
    assert!(!after(r#"{"choices":[{"index":2}]}"#));
    assert!(event(r#"{"type":"response.completed","response":{}}"#).all_finished());
}

#[test]
fn choices_that_are_empty_are_told_from_missing_ones() {
    assert_eq!(event(r#"{"choices":[ ]}"#).facts().choices, Choices::Empty);
    assert_eq!(
        event(r#"{"choices":null}"#).facts().choices,
        Choices::Missing
    );
    assert_eq!(event(r#"{"choices":[{}]}"#).facts().choices, Choices::Some);
}

#[test]
fn usage_is_read_from_where_each_server_puts_it_and_not_when_it_is_endless() {
    let input = |json: &str| event(json).reported().and_then(|reported| reported.input);
    let object = r#"{"x":"}","prompt_tokens":1}"#;
    for holder in ["response", "x_groq"] {
        let json = format!("{{\"{holder}\":{{\"id\":1,\"usage\":{object}}}}}");
        assert_eq!(input(&json), Some(1));
    }
    assert_eq!(
        input(&format!("{{\"other\":{{\"usage\":{object}}}}}")),
        None
    );
    assert_eq!(
        input(&format!(
            "{{\"usage\":{object},\"usage\":{{\"prompt_tokens\":2}}}}"
        )),
        Some(2)
    );
    let sized = |len: usize| {
        let padding = "y".repeat(len - 26);
        format!("{{\"usage\":{{\"x\":\"{padding}\",\"prompt_tokens\":1}}}}")
    };
    assert_eq!(input(&sized(USAGE_BYTES_MAX)), Some(1));
    assert_eq!(input(&sized(USAGE_BYTES_MAX + 1)), None);
}

#[test]
fn a_body_says_the_same_in_any_pieces() {
    let json = r#"{"usage":{"a":"\"}","input_tokens":12},"choices":[{"index":9,"message":{"content":"x\"y\\"}},
        {"message":{"content":"z","tool_calls":[{"function":{"arguments":"{}"}}]}}]} "#;
    let read = |pieces: [&str; 3]| {
        let mut reader = Reader::of_body(&CHAT);
        let mut said: Vec<(u32, Field, String)> = Vec::new();
        for piece in pieces {
            reader.push(0, piece.as_bytes());
            for text in &reader.facts().texts {
                let piece = &piece[text.at.clone()];
                match said.last_mut() {
                    Some((choice, field, all))
                        if (*choice, *field) == (text.choice, text.field) =>
                    {
                        all.push_str(piece)
                    }
                    _ => said.push((text.choice, text.field, piece.to_owned())),
                }
            }
        }
        assert!(reader.facts().closed && reader.facts().usage_given);
        (said, reader.reported())
    };
    let whole = read([json, "", ""]);
    assert_eq!(whole.1.and_then(|reported| reported.input), Some(12));
    let expected = [(0, Field::Content, r#"x\"y\\"#), (1, Field::Content, "z")];
    for ((choice, field, text), expected) in whole.0.iter().zip(expected) {
        assert_eq!((*choice, *field, &**text), expected);
    }
    assert_eq!(whole.0[2], (1, Field::Arguments(0), "{}".to_owned()));
    for first in 0..=json.len() {
        for second in first..=json.len() {
            let pieces = [&json[..first], &json[first..second], &json[second..]];
            assert_eq!(read(pieces), whole, "cut at {first} and {second}");
        }
    }
}

#[test]
fn deep_nesting_is_skipped_without_a_stack() {
    let deep = "[".repeat(1 << 20);
    let mut reader = Reader::of_body(&CHAT);
    reader.push(0, b"{\"choices\":[{\"message\":{\"content\":");
    reader.push(0, deep.as_bytes());
    reader.push(0, b"]]]]");
    assert!(!reader.facts().closed);
}

#[test]
fn counts_of_an_event_that_broke_are_not_added_to_those_of_the_next() {
    let mut reader = Reader::of_events(&crate::ollama::OLLAMA);
    for line in [
        r#"{"prompt_eval_count":5,"eval_count":4,"#,
        r#"{"prompt_eval_count":7,"eval_count":3,"done":true}"#,
    ] {
        reader.begin();
        reader.push(0, line.as_bytes());
    }
    let reported = reader.reported().unwrap();
    assert_eq!((reported.input, reported.output), (Some(7), Some(3)));
}
