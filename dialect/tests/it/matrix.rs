//! Each client's API with each upstream's.
//!
//! What goes out and what comes back stands in `pairs/<client>/<upstream>/<feature>.txt`
//! (`WEIR_BLESS=1` writes it anew); besides, each must mean what the story tells. The whole is a table in
//! `dialect/MATRIX.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::Value;
use weir_dialect::ir::Unfit;
use weir_dialect::translate::Translated;

use crate::golden::{
    Answer, CLIENTS, Client, FEATURES, Got, UPSTREAMS, Upstream, blessing, folder, is_stream,
};
use crate::seen::{self, Wire};
use crate::{requests, story};

/// What became of a cell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    Pass,
    Refused(String),
    /// The client's API has no such thing.
    Without,
    /// A file isn't there.
    Missing(String),
    /// It means something else, or isn't what stands in the file.
    Wrong(String),
}

#[test]
fn each_client_understands_each_upstream() {
    let only = std::env::var("WEIR_ONLY").unwrap_or_default();
    let mut cells = BTreeMap::new();
    for client in &CLIENTS {
        for upstream in &UPSTREAMS {
            for feature in FEATURES {
                let name = format!("{}/{}/{feature}", client.name, upstream.name);
                if !name.contains(&only) {
                    continue;
                }
                let cell = catch_unwind(AssertUnwindSafe(|| cell(client, upstream, feature)))
                    .unwrap_or_else(|panic| Cell::Wrong(message(&*panic)));
                cells.insert((client.name, upstream.name, feature), cell);
            }
        }
    }
    let mut bad = String::new();
    let mut counts = [0; 3];
    for ((client, upstream, feature), cell) in &cells {
        match cell {
            Cell::Pass => counts[0] += 1,
            Cell::Refused(_) => counts[1] += 1,
            Cell::Without => counts[2] += 1,
            Cell::Missing(what) | Cell::Wrong(what) => {
                let _ = writeln!(bad, "{client}/{upstream}/{feature}: {what}");
            }
        }
    }
    let [pass, refused, without] = counts;
    println!("{pass} pass, {refused} are refused, {without} are not in the client's API");
    if only.is_empty() {
        let table = table(&cells);
        println!("{table}");
        assert_file(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("MATRIX.md"),
            &table,
        );
    }
    assert!(bad.is_empty(), "\n{bad}");
}

/// What a panic says.
pub fn message(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (None, Some(text)) => (*text).to_owned(),
        (None, None) => "a panic".to_owned(),
    }
}

fn cell(client: &Client, upstream: &Upstream, feature: &'static str) -> Cell {
    if client.lacks.contains(&feature) {
        return Cell::Without;
    }
    let Some(body) = client.body(feature) else {
        return Cell::Missing(format!("clients/{}/{feature}.json", client.name));
    };
    let file = folder()
        .join("pairs")
        .join(client.name)
        .join(upstream.name)
        .join(feature.to_owned() + ".txt");
    let ask = || client.ask(&body, is_stream(feature), upstream, false);
    let translated = match ask() {
        Ok(translated) => translated,
        Err(Unfit::NoSuchApi { .. }) => {
            return Cell::Missing(format!("{} isn't built", upstream.name));
        }
        Err(unfit) => {
            let message = unfit.to_string();
            assert_file(&file, &format!("refused: {message}\n"));
            return Cell::Refused(message);
        }
    };
    assert!(translated.dropped.is_empty(), "{:?}", translated.dropped);
    let Some(answer) = upstream.answer(feature) else {
        return Cell::Missing(format!("upstreams/{}/{feature}.*", upstream.name));
    };
    let out = outgoing(&translated);
    let got = match feature {
        "error" => {
            let (status, bytes) = translated.answer.refusal(429, &answer.bytes);
            let failed = None;
            Got {
                status,
                bytes,
                failed,
            }
        }
        _ => answer.through(translated, usize::MAX),
    };
    let back = format!(
        "--- answer {}\n{}",
        got.status,
        shown(&got.bytes, is_stream(feature))
    );
    assert_file(&file, &(out + &back));
    requests::check(feature, upstream, &ask().expect("a request"));
    match feature {
        "error" => story_of_error(client, &answer, &got),
        _ => {
            assert_eq!(got.failed, None);
            for cut in [1, 7, 100] {
                assert_eq!(
                    answer.through(ask().expect("a request"), cut),
                    got,
                    "cut by {cut}"
                );
            }
            let told = upstream
                .answers
                .map(|api| seen::read(api, answer.wire(), &answer.bytes));
            let wire = match is_stream(feature) {
                true => client.stream,
                false => Wire::Body,
            };
            let seen = seen::read(client.answers, wire, &got.bytes);
            assert!(seen.ended || wire == Wire::Body, "the stream's last word");
            story::check(feature, client, upstream, told.as_ref(), &seen);
        }
    }
    Cell::Pass
}

/// An error with status 429 is one that the client's SDK knows for what it is.
fn story_of_error(client: &Client, answer: &Answer, got: &Got) {
    use crate::seen::Api;
    assert_eq!(got.status, 429);
    let said: Value = serde_json::from_slice(&got.bytes).expect("JSON");
    let (message, kind, wanted) = match client.answers {
        Api::Messages => (
            &said["error"]["message"],
            &said["error"]["type"],
            "rate_limit_error",
        ),
        Api::Gemini => {
            assert_eq!(said["error"]["code"], 429);
            (
                &said["error"]["message"],
                &said["error"]["status"],
                "RESOURCE_EXHAUSTED",
            )
        }
        Api::Ollama => (&said["error"], &said["none"], ""),
        _ => (
            &said["error"]["message"],
            &said["error"]["type"],
            "rate_limit_error",
        ),
    };
    if client.answers != Api::Ollama {
        assert_eq!(kind, wanted, "{said}");
    }
    let message = message.as_str().expect("a message");
    assert!(!message.is_empty());
    let upstream = String::from_utf8_lossy(&answer.bytes);
    assert!(upstream.contains(message), "{message} in {upstream}");
}

fn outgoing(translated: &Translated) -> String {
    let mut text = format!("POST {}", translated.path);
    if let Some(query) = &translated.query {
        let _ = write!(text, "?{query}");
    }
    text.push('\n');
    for (name, value) in &translated.headers {
        let _ = writeln!(text, "{name}: {value}");
    }
    text + "\n" + &shown(&translated.body, false)
}

/// JSON with its lines apart, other text as it is, and bytes as hexadecimal numbers.
fn shown(bytes: &[u8], stream: bool) -> String {
    if !stream && let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        return serde_json::to_string_pretty(&value).expect("JSON") + "\n";
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text.replace('\r', "\\r"),
        _ => {
            let line = |line: &[u8]| -> String {
                let hex: String = line.iter().map(|byte| format!("{byte:02x} ")).collect();
                let text = line.iter().map(|byte| match byte {
                    b' '..=b'~' => char::from(*byte),
                    _ => '.',
                });
                format!("{hex:48} {}\n", text.collect::<String>())
            };
            bytes.chunks(16).map(line).collect()
        }
    }
}

fn assert_file(path: &PathBuf, wanted: &str) {
    if blessing() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        return std::fs::write(path, wanted).expect("written");
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        there == wanted,
        "{} isn't what comes out now (WEIR_BLESS=1 writes it):\n{wanted}",
        path.display()
    );
}

type Cells = BTreeMap<(&'static str, &'static str, &'static str), Cell>;

fn table(cells: &Cells) -> String {
    let mut text = String::from(
        "# Which client works with which upstream\n\n\
         Written by `WEIR_BLESS=1 cargo test -p weir-dialect --test it -- matrix::`; a test keeps it fresh. Each cell is a\n\
         file below `tests/golden/translate/pairs`: what goes to the upstream, and what comes back to the client.\n\n\
         `✓` translated, with the same meaning and usage; `=` the API is the same: bytes pass as they are (translating them\n\
         gives the same, too); a number: refused with status 400 and the message below (a `lenient` route drops the field\n\
         and lists it in `x-weir-dropped`); `–` the client's API has no such thing.\n",
    );
    let mut messages: Vec<&str> = Vec::new();
    for client in &CLIENTS {
        let _ = write!(text, "\n## {}\n\n| |", client.name);
        for upstream in &UPSTREAMS {
            let _ = write!(text, " {} |", upstream.name);
        }
        text.push_str("\n|---|");
        text.push_str(&"---|".repeat(UPSTREAMS.len()));
        text.push('\n');
        for feature in FEATURES {
            let _ = write!(text, "| {} |", feature.replace('_', " "));
            for upstream in &UPSTREAMS {
                let mark = match &cells[&(client.name, upstream.name, feature)] {
                    Cell::Pass if client.passes(upstream) => "=".to_owned(),
                    Cell::Pass => "✓".to_owned(),
                    Cell::Without => "–".to_owned(),
                    Cell::Missing(_) => "missing".to_owned(),
                    Cell::Wrong(_) => "wrong".to_owned(),
                    Cell::Refused(message) => {
                        let known = messages.iter().position(|it| it == message);
                        let at = known.unwrap_or_else(|| {
                            messages.push(message);
                            messages.len() - 1
                        });
                        (at + 1).to_string()
                    }
                };
                let _ = write!(text, " {mark} |");
            }
            text.push('\n');
        }
    }
    if !messages.is_empty() {
        text.push_str("\n## Refusals\n\n");
    }
    for (at, message) in messages.iter().enumerate() {
        let _ = writeln!(text, "{}. {message}", at + 1);
    }
    text
}
