//! Answers of model servers through the meter: our own golden files, and recordings of real
//! providers where they lie beside the repository (`WEIR_FIXTURES`, else `../shared/fixtures`).
//!
//! Each answer is cut at every place in two, at random places, and into single bytes; what comes
//! out and what is known in the end must not depend on it. `WEIR_ALL_CUTS=1` also cuts long
//! answers at every place, which takes minutes without optimisation.

use std::fs;
use std::path::{Path, PathBuf};

use super::dialects::CODINGS;
use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};
use weir::proxy;
use weir::tokens::count;
use weir::tokens::meter::{Coding, Ending, Form, Media, Meter, Source, Surface, Usage};

/// `input`, `output`, `cached`, `cache_write`, `reasoning`.
type Counts = [Option<u64>; 5];

const FIELDS: [&str; 5] = ["input", "output", "cached", "cache_write", "reasoning"];

/// One answer and what must be known of it.
struct Case {
    name: String,
    surface: Surface,
    model: String,
    form: Form,
    bytes: Bytes,
    usage: Option<Counts>,
    /// What of it is sound or pictures, if that is known.
    media: Option<Media>,
    /// What the client gets when usage is stripped.
    stripped: Stripped,
    ending: Option<Ending>,
    /// The tokens of the text, if it is known.
    tokens: Option<u64>,
}

enum Stripped {
    Bytes(Vec<u8>),
    /// Event by event: the text, or the JSON where the text of numbers may differ.
    Events(Vec<Event>),
}

enum Event {
    Text(String),
    Json(Value),
}

/// What a meter has given and knows.
#[derive(Debug, PartialEq)]
struct Seen {
    bytes: Vec<u8>,
    usage: Option<Counts>,
    media: Option<Media>,
    ending: Ending,
    first: bool,
    /// Counted only now and then: it is the slow part.
    tokens: Option<u64>,
}

impl Case {
    fn run<'a>(&self, strip: bool, tokens: bool, pieces: impl Iterator<Item = &'a [u8]>) -> Seen {
        let mut meter = Meter::new(self.surface, &self.model, self.form, strip);
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for piece in pieces {
            bytes.extend_from_slice(&meter.feed(self.bytes.slice_ref(piece)));
        }
        bytes.extend_from_slice(&meter.end());
        let media = meter.usage().map(|usage| usage.media);
        let usage = meter.usage().map(|usage| {
            assert_eq!(usage.source, Source::Upstream);
            counts_of(usage)
        });
        let tokens = tokens.then(|| meter.delivered());
        Seen {
            bytes,
            usage,
            media,
            ending: meter.saw_finish(),
            first: meter.first_token_seen(),
            tokens,
        }
    }

    /// Checks the whole answer, then all its cuts against it. Gives the number of cuts.
    fn check(&self) -> usize {
        let name = &self.name;
        let whole = self.run(false, true, std::iter::once(&self.bytes[..]));
        assert!(whole.bytes == self.bytes, "{name}: bytes changed");
        assert_eq!(whole.usage, self.usage, "{name}: usage");
        if self.media.is_some() {
            assert_eq!(whole.media, self.media, "{name}: sound and pictures");
        }
        if let Some(ending) = self.ending {
            assert_eq!(whole.ending, ending, "{name}: ending");
        }
        if let Some(tokens) = self.tokens {
            assert_eq!(whole.tokens, Some(tokens), "{name}: counted tokens");
        }
        let mut stripped = self.run(true, true, std::iter::once(&self.bytes[..]));
        self.check_stripped(&stripped.bytes);
        assert_eq!(
            stripped.tokens, whole.tokens,
            "{name}: tokens depend on stripping"
        );
        let mut cuts = 0;
        for strip in [false, true] {
            let expected = if strip {
                &mut stripped
            } else {
                &mut Seen {
                    tokens: None,
                    ..copy(&whole)
                }
            };
            expected.tokens = None;
            for cut in self.places() {
                let (left, right) = self.bytes.split_at(cut);
                let seen = self.run(strip, false, [left, right].into_iter());
                assert!(seen == *expected, "{name}: strip {strip}, cut at {cut}");
                cuts += 1;
            }
            expected.tokens = whole.tokens;
            let single = self.run(strip, true, self.bytes.chunks(1));
            assert!(single == *expected, "{name}: strip {strip}, byte by byte");
            let mut random = Random(0x77656972);
            let rounds = if cfg!(debug_assertions) { 8 } else { 20 };
            for round in 0..rounds {
                let largest = [3, 17, 200, 1500][round % 4];
                let pieces = random.pieces(&self.bytes, largest);
                let seen = self.run(strip, true, pieces.into_iter());
                assert!(
                    seen == *expected,
                    "{name}: strip {strip}, random cuts, round {round}"
                );
            }
        }
        cuts
    }

    fn check_stripped(&self, bytes: &[u8]) {
        let name = &self.name;
        match &self.stripped {
            Stripped::Bytes(expected) => assert_eq!(
                String::from_utf8_lossy(bytes),
                String::from_utf8_lossy(expected),
                "{name}: stripped"
            ),
            Stripped::Events(expected) => {
                let text = std::str::from_utf8(bytes).expect("UTF-8");
                let events: Vec<_> = text.split_inclusive("\n\n").collect();
                assert_eq!(events.len(), expected.len(), "{name}: stripped events");
                for (event, expected) in events.iter().zip(expected) {
                    match expected {
                        Event::Text(expected) => assert_eq!(event, expected, "{name}: stripped"),
                        Event::Json(expected) => {
                            assert_eq!(data(event).as_ref(), Some(expected), "{name}: stripped")
                        }
                    }
                }
            }
        }
    }

    /// Where to cut in two: everywhere, or for long answers at the ends and at as many places as
    /// the time allows.
    fn places(&self) -> Vec<usize> {
        let len = self.bytes.len();
        let work_max = if cfg!(debug_assertions) {
            6_000_000
        } else {
            200_000_000
        };
        if len * len <= work_max || std::env::var_os("WEIR_ALL_CUTS").is_some() {
            return (0..=len).collect();
        }
        let stride = (len * len / work_max) | 1;
        (0..=len)
            .filter(|at| at % stride == 0 || *at < 40 || *at + 40 > len)
            .collect()
    }
}

fn counts_of(usage: Usage) -> Counts {
    [
        usage.input,
        usage.output,
        usage.cached,
        usage.cache_write,
        usage.reasoning,
    ]
}

fn copy(seen: &Seen) -> Seen {
    Seen {
        bytes: seen.bytes.clone(),
        ..*seen
    }
}

/// A small generator with a fixed seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn pieces<'a>(&mut self, mut bytes: &'a [u8], largest: usize) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(1 + self.below(largest)));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}

// === golden files ===

#[test]
fn golden_answers_pass_unchanged_and_are_measured_wherever_they_are_cut() {
    let cases = golden_answers();
    let cuts: usize = cases.iter().map(Case::check).sum();
    println!("{} golden answers, {cuts} cuts", cases.len());
}

fn golden_answers() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases = Vec::new();
    for dialect in fs::read_dir(&folder).expect("the golden folders") {
        let dialect = dialect.expect("an entry").path();
        for entry in fs::read_dir(&dialect).into_iter().flatten() {
            cases.extend(golden(&dialect, &entry.expect("an entry").path()));
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() >= GOLDEN_MIN, "golden files are missing");
    cases
}

fn golden(folder: &Path, said: &Path) -> Option<Case> {
    const FORMS: [(&str, Form); 5] = [
        ("in.sse", Form::Events),
        ("in.json", Form::Body),
        ("in.list.json", Form::List),
        ("in.ndjson", Form::Lines),
        ("in.frames", Form::Frames),
    ];
    let name = said.file_name()?.to_str()?.strip_suffix(".said.json")?;
    let said: Value = serde_json::from_slice(&fs::read(said).ok()?).expect(name);
    let file = |suffix: &str| fs::read(folder.join(format!("{name}.{suffix}"))).ok();
    let found = FORMS
        .iter()
        .find_map(|(suffix, form)| Some((file(suffix)?, *form)));
    let (bytes, form) = found.expect(name);
    let model = text(&said, "model");
    let tokens = said["texts"].as_array().expect(name).iter().map(|said| {
        count::count(
            count::family(&model).encoding,
            said[2].as_str().expect(name),
        )
    });
    Some(Case {
        name: format!("{}/{name}", folder.file_name()?.to_str()?),
        surface: surface(&text(&said, "surface")),
        form,
        stripped: Stripped::Bytes(file("stripped.sse").unwrap_or_else(|| bytes.clone())),
        bytes: bytes.into(),
        usage: counts(&said["usage"]),
        media: media(&said["media"]),
        ending: Some(match &*text(&said, "ending") {
            "open" => Ending::Open,
            "finished" => Ending::Finished,
            "done" => Ending::Done,
            "error" => Ending::Error,
            other => panic!("{name}: {other}"),
        }),
        tokens: Some(tokens.sum()),
        model,
    })
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// The surface of an API, as the index and the golden files name it.
fn surface(name: &str) -> Surface {
    match name {
        "chat" | "openai-chat" => Surface::Chat,
        "completions" | "openai-completions" => Surface::Completions,
        "embeddings" | "openai-embeddings" => Surface::Embeddings,
        "responses" | "openai-responses" => Surface::Responses,
        "audio" => Surface::Audio,
        "images" => Surface::Images,
        "rerank" => Surface::Rerank,
        "messages" | "anthropic-messages" => Surface::Messages,
        "messages-count" | "anthropic-count-tokens" => Surface::MessagesCount,
        "gemini" => Surface::Gemini,
        "gemini-count" | "gemini-count-tokens" => Surface::GeminiCount,
        "gemini-embed" | "gemini-embeddings" => Surface::GeminiEmbed,
        "ollama" | "ollama-chat" | "ollama-generate" => Surface::Ollama,
        "ollama-embed" => Surface::OllamaEmbed,
        "dashscope" | "dashscope-generation" => Surface::DashScope,
        "cohere" | "cohere-v2-chat" => Surface::Cohere,
        "cohere-embed" | "cohere-v2-embed" => Surface::CohereEmbed,
        "converse" | "bedrock-converse" => Surface::Converse,
        "invoke" | "bedrock-invoke" => Surface::Invoke,
        "other" => Surface::Other,
        other => panic!("no surface is called {other}"),
    }
}

fn media(said: &Value) -> Option<Media> {
    let number = |name: &str| said[name].as_u64().unwrap_or(0);
    said.is_object().then(|| Media {
        audio_input: number("audio_input"),
        audio_output: number("audio_output"),
        image_input: number("image_input"),
        seconds: number("seconds"),
        images: number("images"),
        characters: 0,
    })
}

fn counts(usage: &Value) -> Option<Counts> {
    usage
        .as_object()
        .map(|usage| FIELDS.map(|field| usage[field].as_u64()))
}

// === recordings ===

#[test]
fn recorded_answers_pass_unchanged_and_are_measured_wherever_they_are_cut() {
    let Some(folder) = recordings() else { return };
    let cases = recorded(&folder);
    let (mut cuts, mut usages) = (0, 0);
    for case in &cases {
        cuts += case.check();
        usages += usize::from(case.usage.is_some());
    }
    let count = cases.len();
    assert!(count >= RECORDED_MIN, "only {count} recordings");
    println!("{count} recordings byte-exact, {usages} with usage (exact), {cuts} cuts in two");
}

/// So many golden answers there are at least.
const GOLDEN_MIN: usize = 97;
/// So many recordings there are at least.
const RECORDED_MIN: usize = 136;
/// Of them requests in OpenAI's dialects, and answers that are event streams.
const REQUESTS_MIN: usize = 79;
const STREAMS_MIN: usize = 65;

#[test]
fn recorded_requests_are_read_and_edited_without_loss() {
    use weir::dialect::openai::request;
    let Some(folder) = recordings() else { return };
    let index = index(&folder);
    let mut read = 0;
    for entry in index
        .iter()
        .filter(|entry| text(entry, "api").starts_with("openai-"))
    {
        let name = text(entry, "id");
        let body = fs::read(folder.join(text(entry, "request"))).expect(&name);
        let value: Map<String, Value> = serde_json::from_slice(&body).expect(&name);
        let body = Bytes::from(body);
        let asked = request::read(&body).expect(&name);
        let model = value.get("model").and_then(Value::as_str);
        assert_eq!(
            asked.model.as_ref().map(|named| &*named.name),
            model,
            "{name}"
        );
        assert_eq!(
            asked.stream,
            value.get("stream") == Some(&Value::Bool(true)),
            "{name}"
        );
        assert_eq!(asked.edited(&body, None, false), body, "{name}");
        let edited = asked.edited(&body, Some("another"), true);
        let edited: Map<String, Value> = serde_json::from_slice(&edited).expect(&name);
        for (key, old) in &value {
            match &**key {
                "model" => assert_eq!(edited[key], "another", "{name}"),
                "stream_options" => {}
                _ => assert_eq!(&edited[key], old, "{name}"),
            }
        }
        if asked.stream {
            assert_eq!(edited["stream_options"]["include_usage"], true, "{name}");
        }
        read += 1;
    }
    assert!(read >= REQUESTS_MIN, "only {read} requests");
    println!("{read} recorded requests read and edited");
}

pub fn recordings() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures");
    let folder = std::env::var_os("WEIR_FIXTURES").map_or_else(beside, PathBuf::from);
    if folder.join("index.json").is_file() {
        return Some(folder);
    }
    let named = std::env::var_os("WEIR_FIXTURES").is_some();
    let there = folder.exists() || named;
    assert!(!there, "{} has no index.json", folder.display());
    skipped(&format!("no recordings at {}", folder.display()));
    None
}

/// Tells it past the test's captured output, so that nobody takes it for passed.
fn skipped(why: &str) {
    use std::io::Write;
    let told = writeln!(std::io::stderr(), "SKIPPED: {why}");
    told.expect("standard error");
}

pub fn index(folder: &Path) -> Vec<Value> {
    let index = fs::read(folder.join("index.json")).expect("the index");
    let index: Vec<Value> = serde_json::from_slice(&index).expect("a list");
    let count = index.len();
    assert!(
        count >= RECORDED_MIN,
        "the index lists only {count} recordings"
    );
    index
}

fn recorded(folder: &Path) -> Vec<Case> {
    let cases = index(folder).into_iter().map(|entry| {
        let bytes = fs::read(folder.join(text(&entry, "response"))).expect("an answer");
        let path = text(&entry, "path");
        let known = proxy::Surface::of(&path);
        let surface = surface(&text(&entry, "api"));
        assert_eq!(known, proxy::Surface::Metered(surface), "{path}");
        let form = known.form(text(&entry, "content_type").as_bytes(), &path);
        let chat = matches!(surface, Surface::Chat | Surface::Completions);
        Case {
            name: text(&entry, "id"),
            surface,
            model: text(&entry, "model"),
            form,
            stripped: match (form, chat) {
                (Form::Events, true) => Stripped::Events(without_usage(&bytes)),
                _ => Stripped::Bytes(bytes.clone()),
            },
            bytes: bytes.into(),
            usage: counts(&entry["usage"]),
            media: None,
            ending: whole(&entry, form),
            tokens: None,
        }
    });
    cases.collect()
}

/// How a recorded answer must end, where its index tells.
fn whole(entry: &Value, form: Form) -> Option<Ending> {
    let tagged = |wanted: &str| {
        let tags = entry["tags"].as_array();
        tags.is_some_and(|tags| tags.iter().any(|tag| tag == wanted))
    };
    (form == Form::Body && entry["status"] == 200 && !tagged("stream_error"))
        .then_some(Ending::Finished)
}

/// The events of a stream without their usage, made the slow way.
fn without_usage(stream: &[u8]) -> Vec<Event> {
    let stream = std::str::from_utf8(stream).expect("UTF-8");
    let mut events = Vec::new();
    for event in stream.split_inclusive("\n\n") {
        let Some(Value::Object(mut object)) = data(event) else {
            events.push(Event::Text(event.to_owned()));
            continue;
        };
        let written = serde_json::to_string(&object).expect("JSON");
        let usage = object.shift_remove("usage");
        let choices = object
            .get("choices")
            .and_then(Value::as_array)
            .is_some_and(|all| !all.is_empty());
        if usage.as_ref().is_some_and(|usage| !usage.is_null()) && !choices {
            continue;
        }
        events.push(match usage {
            None => Event::Text(event.to_owned()),
            Some(_) if event.contains(&written) => {
                let without = serde_json::to_string(&object).expect("JSON");
                Event::Text(event.replace(&written, &without))
            }
            Some(_) => Event::Json(Value::Object(object)),
        });
    }
    events
}

fn data(event: &str) -> Option<Value> {
    let line = event.lines().find_map(|line| line.strip_prefix("data:"))?;
    serde_json::from_str(line).ok()
}

#[test]
fn a_chunk_that_is_not_edited_is_passed_on_uncopied() {
    let stream = Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n");
    for strip in [false, true] {
        let mut meter = Meter::new(Surface::Chat, "gpt-4o", Form::Events, strip);
        let out = meter.feed(stream.clone());
        assert_eq!((out.as_ptr(), out.len()), (stream.as_ptr(), stream.len()));
    }
    let mut whole = BytesMut::from(&stream[..]);
    whole.extend_from_slice(&stream[..20]);
    let whole = whole.freeze();
    let mut meter = Meter::new(Surface::Chat, "gpt-4o", Form::Events, true);
    let out = meter.feed(whole.clone());
    assert_eq!((out.as_ptr(), out.len()), (whole.as_ptr(), stream.len()));
}

// === what a stream may also have ===

#[test]
fn a_stream_says_the_same_with_other_line_ends_and_with_lines_that_say_nothing() {
    let Some(folder) = recordings() else { return };
    let (mut streams, mut checked) = (0, 0);
    for case in recorded(&folder) {
        if case.form != Form::Events {
            continue;
        }
        streams += 1;
        let text = String::from_utf8(case.bytes.to_vec()).expect("UTF-8");
        let unix = text.replace("\r\n", "\n");
        let plain = case.run(false, true, std::iter::once(&case.bytes[..]));
        let disturbed = [
            unix.replace('\n', "\r\n"),
            unix.replace('\n', "\r"),
            format!("\u{feff}{unix}"),
            format!(
                "retry: 3000\n\n{}",
                unix.replace("\n\n", "\n: ping\nid: 7\n\n: data: {}\n\n")
            ),
            unix.replace("\n\n", "\nretry: 10\n\n\n\nevent: ping\n\n"),
            unix.replace("data: ", "data:"),
        ];
        for bytes in disturbed {
            let other = Case {
                bytes: bytes.into_bytes().into(),
                name: case.name.clone(),
                model: case.model.clone(),
                stripped: Stripped::Events(Vec::new()),
                ..case
            };
            for pieces in [other.bytes.len().max(1), 1, 7] {
                let seen = other.run(false, pieces > 1, other.bytes.chunks(pieces));
                assert!(seen.bytes == other.bytes, "{}", case.name);
                assert_eq!(
                    (seen.usage, seen.ending, seen.first),
                    (plain.usage, plain.ending, plain.first),
                    "{}",
                    case.name
                );
                if pieces > 1 {
                    assert_eq!(seen.tokens, plain.tokens, "{}", case.name);
                }
                checked += 1;
            }
        }
    }
    assert!(streams >= STREAMS_MIN, "only {streams} streams");
    println!("{streams} streams disturbed in 6 ways, {checked} runs");
}

// === hostile bytes ===

/// Pieces of JSON and of framing, put together at random, say the same however they are cut, and
/// change nothing but usage that is stripped. `cargo test --release fuzz -- --ignored` runs longer.
#[test]
fn fuzz_any_bytes_say_the_same_however_they_are_cut() {
    println!("{} executions", fuzz(0x5eed, 4000));
}

#[test]
#[ignore = "minutes: more of the same, from another seed each time"]
fn fuzz_any_bytes_for_long() {
    let since = std::time::SystemTime::UNIX_EPOCH;
    let seed = since.elapsed().map_or(1, |age| age.as_nanos() as u64) | 1;
    println!("seed {seed:#x}: {} executions", fuzz(seed, 100_000));
}

/// Compressed answers pass as they are and say what they say uncompressed, however they are cut; spoilt
/// ones pass too. What a meter keeps is bounded, and letting go of it in between changes no byte.
#[test]
fn fuzz_compressed_answers_say_what_they_say_uncompressed() {
    let rounds = 600;
    let mut random = Random(0xc0de);
    let seeds = golden_answers();
    let mut followed = 0;
    for round in 0..rounds {
        let (name, compress) = CODINGS[round % CODINGS.len()];
        let case = &seeds[random.below(seeds.len())];
        let counted = round % 8 == 0;
        let plain = case.run(false, counted, std::iter::once(&case.bytes[..]));
        let mut bytes = compress(&case.bytes);
        let spoilt = random.below(3) == 0;
        if spoilt {
            bytes = random.spoilt(&bytes, &case.bytes);
        }
        let lets_go = random.below(4) == 0;
        let largest = [1, 9, 300][random.below(3)];
        let mut meter = Meter::new(case.surface, &case.model, case.form, false)
            .decoding(Coding::named(name.as_bytes()));
        let mut out = Vec::new();
        for piece in random.pieces(&bytes, largest) {
            out.extend_from_slice(&meter.feed(Bytes::copy_from_slice(piece)));
            assert!(
                meter.bytes() < 24 << 20,
                "{name}: keeps {} bytes",
                meter.bytes()
            );
            if lets_go && random.below(20) == 0 {
                out.extend_from_slice(&meter.let_go());
            }
        }
        out.extend_from_slice(&meter.end());
        let what = format!("round {round}: {name}, {}", case.name);
        assert!(out == bytes, "{what}: bytes changed");
        if spoilt || lets_go || meter.is_blind() {
            assert!(spoilt || lets_go, "{what}: not followed");
            meter.settle(|| 1);
            continue;
        }
        followed += 1;
        let usage = meter.usage().map(counts_of);
        assert_eq!(
            (usage, meter.saw_finish()),
            (plain.usage, plain.ending),
            "{what}"
        );
        if let Some(tokens) = plain.tokens {
            assert_eq!(meter.delivered(), tokens, "{what}");
        }
    }
    assert!(followed > rounds / 3, "only {followed} were followed");
    println!("{rounds} compressed answers, {followed} of them followed to their end");
}

fn fuzz(seed: u64, rounds: usize) -> usize {
    const FORMS: [Form; 5] = [
        Form::Body,
        Form::List,
        Form::Events,
        Form::Lines,
        Form::Frames,
    ];
    let seeds = golden_answers();
    let mut random = Random(seed);
    for round in 0..rounds {
        let base = &seeds[random.below(seeds.len())];
        let other = &seeds[random.below(seeds.len())];
        let form = match random.below(8) {
            0 => FORMS[random.below(FORMS.len())],
            _ => base.form,
        };
        let bytes = random.spoilt(&base.bytes, &other.bytes);
        let case = Case {
            name: format!("seed {seed:#x}, round {round}: {}", base.name),
            bytes: bytes.into(),
            model: "gpt-4o".to_owned(),
            stripped: Stripped::Events(Vec::new()),
            form,
            ..*base
        };
        let strip = random.below(2) == 0;
        let counted = round % 16 == 0;
        let whole = case.run(strip, counted, std::iter::once(&case.bytes[..]));
        if !strip || form != Form::Events {
            assert!(whole.bytes == case.bytes, "{}: bytes changed", case.name);
        }
        for largest in [1, 4, 64] {
            let pieces = random.pieces(&case.bytes, largest);
            let cut = case.run(strip, counted, pieces.into_iter());
            assert!(cut == whole, "{}: {cut:?} is not {whole:?}", case.name);
        }
    }
    rounds * 4
}

impl Random {
    /// `bytes` with a few pieces of themselves, of `other`, or of what matters put in or taken out.
    fn spoilt(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        const SPICE: [&[u8]; 24] = [
            b"\"",
            b"\\",
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b"\n",
            b"\r",
            b"\r\n\r\n",
            b"\n\n",
            b"data: ",
            b"event: error\n",
            b"null",
            b"1e3",
            b"\"usage\":{",
            b"\"usage\":null,",
            b"\xff",
            b"\0\0\0\x20",
            b"[DONE]",
            b"\\ud83d",
            b"\"type\":\"error\",",
            b"\"done\":true,",
        ];
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(out.len() + 1);
            let end = (at + self.below(12)).min(out.len());
            let spice = match self.below(4) {
                0 => &b""[..],
                1 => {
                    let from = self.below(other.len() + 1);
                    &other[from..(from + self.below(60)).min(other.len())]
                }
                _ => SPICE[self.below(SPICE.len())],
            };
            let end = if self.below(2) == 0 { at } else { end };
            out.splice(at..end, spice.iter().copied());
        }
        out
    }
}
