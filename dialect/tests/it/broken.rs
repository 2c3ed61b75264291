//! Streams that break: by the upstream's own account, or because they end too early.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use weir_dialect::ir::Failure;
use weir_dialect::surface::Form;

use crate::golden::{Answer, CLIENTS, Carrier, Client, UPSTREAMS, Upstream};
use crate::mutate::frame;
use crate::seen::{self, Seen};

/// How each upstream says in the middle of a stream that it failed, by its reference, and its message.
fn failing(upstream: &Upstream) -> Option<(Vec<u8>, &'static str)> {
    let text = |text: &str| text.as_bytes().to_vec();
    Some(match upstream.name {
        "openai" | "azure" => (
            text(
                "data: {\"error\":{\"message\":\"The server had an error.\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n",
            ),
            "The server had an error.",
        ),
        "anthropic" => (
            text(
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
            ),
            "Overloaded",
        ),
        "gemini" => (
            text(
                "data: {\"error\":{\"code\":503,\"message\":\"The model is overloaded.\",\"status\":\"UNAVAILABLE\"}}\r\n\r\n",
            ),
            "The model is overloaded.",
        ),
        "ollama" => (
            text("{\"error\":\"an error was encountered while running the model\"}\n"),
            "an error was encountered while running the model",
        ),
        "dashscope" => (
            text(
                "id:2\nevent:error\n:HTTP_STATUS/500\ndata:{\"code\":\"InternalError\",\"message\":\"An internal error has occured.\",\"request_id\":\"7\"}\n\n",
            ),
            "An internal error has occured.",
        ),
        "bedrock" => {
            let mut bytes = Vec::new();
            let payload = b"{\"message\":\"The model stream broke.\"}";
            frame(
                "exception",
                "modelStreamErrorException",
                payload,
                &mut bytes,
            );
            (bytes, "The model stream broke.")
        }
        _ => return None,
    })
}

#[test]
fn the_client_of_a_stream_is_told_that_it_failed() {
    each(|client, upstream| {
        let Some((failing, message)) = failing(upstream) else {
            return false;
        };
        let Some(begun) = begun(upstream) else {
            return false;
        };
        let answer = Answer {
            form: begun.form,
            bytes: [begun.bytes, failing].concat(),
        };
        let body = client.body("stream").expect("a request");
        let ask = || client.ask(&body, true, upstream, false);
        let Ok(translated) = ask() else { return false };
        let got = answer.through(translated, usize::MAX);
        assert_eq!(
            got.failed.as_ref().map(|failure| &*failure.message),
            Some(message)
        );
        assert_eq!(answer.through(ask().expect("a request"), 3), got, "cut");
        let seen = seen::read(client.answers, client.stream, &got.bytes);
        assert_told(&seen, message);

        // Who wants it whole gets nothing of it.
        let body = client.body("text").expect("a request");
        let translated = client.ask(&body, false, upstream, false);
        let got = answer.through(translated.expect("a request"), usize::MAX);
        assert_eq!(
            got.failed.map(|failure| failure.message).as_deref(),
            Some(message)
        );
        assert!(got.bytes.is_empty());
        true
    });
}

#[test]
fn a_stream_that_ends_early_is_not_taken_for_whole() {
    each(|client, upstream| {
        let Some(begun) = begun(upstream) else {
            return false;
        };
        let body = client.body("stream").expect("a request");
        let Ok(translated) = client.ask(&body, true, upstream, false) else {
            return false;
        };
        // Of a worker's answer only the status after it tells that it is whole.
        if translated.first.is_some() {
            return false;
        }
        let mut translator = Carrier::begin(translated, begun.form);
        let mut out = Vec::new();
        translator.feed(&begun.bytes, &mut out).expect("a stream");
        translator.end(&mut out).expect("no failure of its own");
        assert!(!translator.is_ended(), "it ended early");
        let gone = Failure::of_gateway("upstream_failed", "It went away.");
        translator.fails(gone, &mut out);
        let seen = seen::read(client.answers, client.stream, &out);
        assert_told(&seen, "It went away.");

        let body = client.body("text").expect("a request");
        let translated = client.ask(&body, false, upstream, false);
        let got = begun.through(translated.expect("a request"), usize::MAX);
        assert!(got.failed.is_some() && got.bytes.is_empty());
        true
    });
}

fn assert_told(seen: &Seen, message: &str) {
    assert_eq!(
        seen.error.as_ref().map(|(_, message)| &**message),
        Some(message)
    );
    assert!(
        seen.first().text.starts_with("Hello"),
        "what came before it"
    );
    assert_eq!(seen.first().finish.filter(|it| it != "failed"), None);
}

/// The beginning of an answer, up to its first text.
fn begun(upstream: &Upstream) -> Option<Answer> {
    let answer = upstream.answer("stream")?;
    let mut framer = answer.form.framer().expect("a stream");
    let mut end = 0;
    while let Some(length) = framer.next(&answer.bytes[end..]) {
        let event = end..end + length;
        end = event.end;
        if answer.bytes[event].windows(5).any(|it| it == b"Hello") {
            let bytes = answer.bytes[..end].to_vec();
            let form: Form = answer.form;
            return Some(Answer { form, bytes });
        }
    }
    panic!("no event of {} says Hello", upstream.name)
}

/// Tells of all pairs that don't hold; `false` where there is nothing to check.
fn each(check: impl Fn(&Client, &Upstream) -> bool) {
    let (mut bad, mut pairs) = (String::new(), 0);
    for client in &CLIENTS {
        if client.body("stream").is_none() {
            continue;
        }
        for upstream in &UPSTREAMS {
            match catch_unwind(AssertUnwindSafe(|| check(client, upstream))) {
                Ok(checked) => pairs += u32::from(checked),
                Err(panic) => {
                    let panic = crate::matrix::message(&*panic);
                    let _ = writeln!(bad, "{} from {}: {panic}", client.name, upstream.name);
                }
            }
        }
    }
    println!("{pairs} pairs");
    assert!(bad.is_empty(), "\n{bad}");
    assert!(pairs > 0);
}
