//! What each kind of answer costs: sound, speech, pictures, and what nobody can read. The access log, the
//! metric, the ledger and the budget have the same figure.

use crate::keys::sha256;
use crate::support::supervised::said;
use crate::support::{Gate, Gateway, Provider};
use serde_json::Value;
use std::process::Command;

const CHAT: &str = "/v1/chat/completions";
const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
const SPEECH: &str = "/v1/audio/speech";
const IMAGES: &str = "/v1/images/generations";
const SECRET: &str = "weir-correct-horse-battery-staple";
/// Of the team, in dollars.
const BUDGET: f64 = 100.0;

/// A weir whose team may spend so many dollars on any model.
fn under(usd: f64, provider: &Provider, prices: &str) -> Gateway {
    let (hash, url) = (sha256(SECRET), provider.url());
    Gateway::start(&format!(
        "model_routes: {{\"*\": \"{url}\"}}\nprices: {{{prices}}}\nstate_dir: \"{{folder}}/state\"\nusage: {{}}\n\
         teams: [{{name: search, budget: {{usd: {usd}, per: total}}, keys: [{{name: ci, sha256: {hash}}}]}}]\n"
    ))
}

fn start(provider: &Provider) -> Gateway {
    under(BUDGET, provider, "")
}

#[track_caller]
fn post(weir: &Gateway, path: &str, kind: &str, body: impl AsRef<[u8]>) -> u16 {
    let authorization = format!("Bearer {SECRET}");
    let headers = [("content-type", kind), ("authorization", &*authorization)];
    weir.post_with(path, &headers, body).status()
}

#[track_caller]
fn ask(weir: &Gateway, path: &str, json: &str) -> u16 {
    post(weir, path, "application/json", json)
}

const FORM: &str = "multipart/form-data; boundary=XyZ";

/// An upload of this file for this model.
fn upload(model: &str, file: &[u8]) -> Vec<u8> {
    let mut body = format!(
        "--XyZ\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n\
         --XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(file);
    body.extend_from_slice(b"\r\n--XyZ--\r\n");
    body
}

/// Sound without a sound: 8000 samples of 16 bits a second.
fn wav(millis: u32) -> Vec<u8> {
    let data = millis * 16;
    let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    for number in [8000u32, 16000] {
        file.extend_from_slice(&number.to_le_bytes());
    }
    file.extend_from_slice(b"\x02\0\x10\0data");
    file.extend_from_slice(&data.to_le_bytes());
    file.resize(file.len() + data as usize, 0);
    file
}

/// The one record, whose cost everybody agrees on.
#[track_caller]
fn agreed(weir: &Gateway) -> Value {
    let record = weir.records(1).remove(0);
    let cost = record["cost_usd"].as_f64();
    let cost = cost.unwrap_or_else(|| panic!("a cost: {record}"));
    weir.wait_value("llm_cost_usd_total", &[("team", "search")], cost);
    let budget = [("team", "search"), ("period", "total")];
    weir.wait_value("weir_budget_used_ratio", &budget, cost / BUDGET);
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["usage", "--json", "-c"])
        .arg(weir.folder().join("weir.yaml"))
        .env_clear()
        .output()
        .expect("weir's binary");
    assert!(output.status.success(), "{}", said(&output));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        rows[0]["cost_usd"].as_f64(),
        Some(cost),
        "the ledger: {rows:?}"
    );
    assert_eq!(
        (&rows[0]["requests"], &rows[0]["unpriced"]),
        (&1.into(), &0.into())
    );
    record
}

#[track_caller]
fn assert_cost(weir: &Gateway, usd: f64, source: &str) {
    let record = agreed(weir);
    let cost = record["cost_usd"].as_f64().expect("a cost");
    assert!(
        (cost - usd).abs() < 1e-12,
        "{cost} instead of {usd}: {record}"
    );
    assert_eq!(record["token_source"], source, "{record}");
}

// === sound that is heard ===

#[test]
fn a_transcription_costs_the_time_that_is_reported() {
    for answer in [
        r#"{"text":"hi there","usage":{"type":"duration","seconds":9}}"#,
        r#"{"text":"hi","usage":{"seconds":8.2,"type":"duration"}}"#,
        r#"{"task":"transcribe","duration":8.470000267028809,"text":"hi","segments":[{"id":0,"text":"hi"}]}"#,
        r#"{"duration":8.47,"text":"hi","usage":{"type":"duration","seconds":9}}"#,
    ] {
        let provider = Provider::json(answer);
        let weir = start(&provider);
        assert_eq!(
            post(&weir, TRANSCRIPTIONS, FORM, upload("whisper-1", b"ID3")),
            200
        );
        assert_cost(&weir, 0.0009, "upstream");
        let record = weir.records(1).remove(0);
        assert_eq!(
            (&record["input_tokens"], &record["output_tokens"]),
            (&0.into(), &0.into())
        );
    }
    let provider = Provider::events(&[
        r#"{"type":"transcript.text.delta","delta":"hi"}"#,
        r#"{"type":"transcript.text.done","text":"hi","usage":{"type":"duration","seconds":9}}"#,
    ]);
    let weir = start(&provider);
    assert_eq!(
        post(&weir, TRANSCRIPTIONS, FORM, upload("whisper-1", b"ID3")),
        200
    );
    assert_cost(&weir, 0.0009, "upstream");
}

#[test]
fn tokens_of_sound_cost_what_sound_costs() {
    const USAGE: &str = r#"{"text":"hi","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":4,"audio_tokens":10},"output_tokens":45,"total_tokens":59}}"#;
    let provider = Provider::json(USAGE);
    let weir = start(&provider);
    let body = upload("gpt-4o-transcribe", b"ID3");
    assert_eq!(post(&weir, TRANSCRIPTIONS, FORM, body), 200);
    // 4 at 2.50 dollars a million, 10 at 6, 45 at 10.
    assert_cost(&weir, 0.000_52, "upstream");
    const CHATTED: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":null,"audio":{"data":"AAAA","transcript":"hi"}},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":100,"completion_tokens":60,"total_tokens":160,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":80},"completion_tokens_details":{"audio_tokens":50,"reasoning_tokens":0}}}"#;
    let provider = Provider::json(CHATTED);
    let weir = start(&provider);
    let json = r#"{"model":"gpt-4o-audio-preview","max_tokens":100,"messages":[]}"#;
    assert_eq!(ask(&weir, CHAT, json), 200);
    // 20 at 2.50, 80 at 40; 10 at 10, 50 at 80.
    assert_cost(&weir, 0.007_35, "upstream");
}

#[test]
fn gemini_reports_sound_by_its_modality() {
    const ANSWER: &str = r#"{"candidates":[{"content":{"parts":[{"text":"hi"}]},"finishReason":"STOP","index":0}],
        "usageMetadata":{"promptTokenCount":108,"candidatesTokenCount":10,"totalTokenCount":118,"promptTokensDetails":[{"modality":"TEXT","tokenCount":8},{"modality":"AUDIO","tokenCount":100}]}}"#;
    let provider = Provider::json(ANSWER);
    let weir = start(&provider);
    let json = r#"{"contents":[{"parts":[{"text":"What is said?"}]}]}"#;
    let path = "/v1beta/models/gemini-2.5-flash:generateContent";
    assert_eq!(ask(&weir, path, json), 200);
    // 8 at 0.30 dollars a million, 100 at 1, 10 at 2.50.
    assert_cost(&weir, 0.000_127_4, "upstream");
}

#[test]
fn sound_is_reserved_where_a_prompt_has_any() {
    let provider =
        Provider::json(r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#);
    let weir = under(
        1.0,
        &provider,
        "m: {input: 1000, output: 0, audio_input: 1000000}",
    );
    let ask_with = |part: &str| {
        let parts = format!(r#"[{{"type":"text","text":"What is said?"}}{part}]"#);
        let json = format!(
            r#"{{"model":"m","max_tokens":1,"messages":[{{"role":"user","content":{parts}}}]}}"#
        );
        ask(&weir, CHAT, &json)
    };
    assert_eq!(ask_with(""), 200);
    let sound = r#",{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}"#;
    assert_eq!(ask_with(sound), 429);
}

#[test]
fn seconds_where_tokens_are_paid_are_as_many_tokens() {
    let provider = Provider::json(r#"{"text":"hi","usage":{"type":"duration","seconds":4}}"#);
    let weir = start(&provider);
    let body = upload("gpt-4o-transcribe", &wav(60_000));
    assert_eq!(post(&weir, TRANSCRIPTIONS, FORM, body), 200);
    assert_cost(&weir, 0.000_64, "estimated");
    assert_eq!(weir.records(1)[0]["audio_seconds"], 4);
}

#[test]
fn an_upload_that_passes_unread_costs_what_its_bytes_may_last() {
    let provider = Provider::start(|exchange| {
        exchange.answer(200, &[("content-type", "text/plain")], b"hi there\n");
    });
    let url = provider.url();
    let hash = sha256(SECRET);
    let weir = Gateway::start(&format!(
        "target_map: {{/openai: \"{url}\"}}\nstate_dir: \"{{folder}}/state\"\nusage: {{}}\n\
         teams: [{{name: search, budget: {{usd: {BUDGET}, per: total}}, keys: [{{name: ci, sha256: {hash}}}]}}]\n"
    ));
    let path = "/openai/deployments/whisper-1/audio/transcriptions";
    // Sound as it is: nothing in it could name anything.
    assert_eq!(post(&weir, path, "audio/mpeg", [7; 20_001]), 200);
    assert_cost(&weir, 0.0001 * 11.0, "estimated");
}

#[test]
fn a_transcription_that_reports_nothing_costs_what_its_file_may_last() {
    let text = || {
        Provider::start(|exchange| {
            exchange.answer(200, &[("content-type", "text/plain")], b"hi there\n");
        })
    };
    let mut lame = wav(3200);
    // A rate that its own numbers contradict is no rate.
    lame[28] = 0xff;
    for (model, file, usd) in [
        ("whisper-1", wav(3200), 0.0004),
        ("whisper-1", vec![7; 6001], 0.0004),
        ("whisper-1", lame, 0.0026),
        // 10 tokens of sound and as many of text a second.
        ("gpt-4o-transcribe", wav(4000), 0.000_64),
    ] {
        let provider = text();
        let weir = start(&provider);
        assert_eq!(post(&weir, TRANSCRIPTIONS, FORM, upload(model, &file)), 200);
        assert_cost(&weir, usd, "estimated");
    }
}

#[test]
fn a_recording_that_is_fetched_from_elsewhere_cant_be_metered() {
    let provider = Provider::json(r#"{"text":"hi there"}"#);
    let weir = start(&provider);
    let fetched = |field: &str| {
        format!(
            "--XyZ\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n\
             --XyZ\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\nhttps://a.test/an-hour.mp3\r\n--XyZ--\r\n"
        )
    };
    for field in ["url", "file"] {
        let status = post(&weir, TRANSCRIPTIONS, FORM, fetched(field));
        assert_eq!(status, 403, "{field}");
    }
    let json = r#"{"model":"whisper-1","url":"https://a.test/an-hour.mp3"}"#;
    assert_eq!(ask(&weir, TRANSCRIPTIONS, json), 403);
    let sent = r#"{"model":"whisper-1","file":"data:audio/wav;base64,UklGRg=="}"#;
    assert_eq!(ask(&weir, TRANSCRIPTIONS, sent), 200);
}

#[test]
fn what_a_transcription_may_cost_is_reserved() {
    let provider = Provider::json(r#"{"text":"hi","usage":{"type":"duration","seconds":1}}"#);
    let weir = under(0.01, &provider, "");
    // 100 seconds may be bought, 101 may not.
    let long = upload("whisper-1", &wav(100_001));
    assert_eq!(post(&weir, TRANSCRIPTIONS, FORM, long), 429);
    assert!(provider.requests().is_empty());
    let fitting = upload("whisper-1", &wav(100_000));
    assert_eq!(post(&weir, TRANSCRIPTIONS, FORM, fitting), 200);
}

#[test]
fn a_client_that_leaves_before_its_transcription_pays_what_its_file_may_last() {
    let gate = Gate::default();
    let held = gate.clone();
    let provider = Provider::start(move |exchange| exchange.wait(&held));
    let weir = start(&provider);
    let mut client = weir.client();
    let authorization = format!("Bearer {SECRET}");
    let headers = [("content-type", FORM), ("authorization", &*authorization)];
    client.request(
        "POST",
        TRANSCRIPTIONS,
        &headers,
        &upload("whisper-1", &wav(3200)),
    );
    provider.wait_requests(1);
    client.close();
    assert_cost(&weir, 0.0004, "estimated");
    gate.open();
}

// === text that is read out ===

#[test]
fn speech_costs_its_text() {
    let sound = || {
        Provider::start(|exchange| {
            exchange.answer(
                200,
                &[("content-type", "audio/mpeg")],
                &[0xff, 0xfb, 0x90, 0x00],
            );
        })
    };
    let provider = sound();
    let weir = start(&provider);
    // Eleven characters.
    let json = r#"{"model":"tts-1","voice":"alloy","input":"Grüß di\u0063h, \u00e9"}"#;
    assert_eq!(ask(&weir, SPEECH, json), 200);
    assert_cost(&weir, 0.000_18, "counted");
    let provider = sound();
    let weir = start(&provider);
    let json = json.replace("tts-1", "gpt-4o-mini-tts");
    assert_eq!(ask(&weir, SPEECH, &json), 200);
    let record = agreed(&weir);
    assert_eq!(record["token_source"], "estimated");
    // Two tokens of sound for each byte of the text.
    assert_eq!(record["output_tokens"], 30);
    let cost = record["cost_usd"].as_f64().expect("a cost");
    let input = record["input_tokens"].as_f64().expect("tokens");
    assert!(input > 0.0);
    assert!(
        (cost - 30.0 * 12e-6 - input * 0.6e-6).abs() < 1e-12,
        "{record}"
    );
}

#[test]
fn speech_that_reports_its_tokens_costs_those() {
    let provider = Provider::events(&[
        r#"{"type":"speech.audio.delta","audio":"AAAA"}"#,
        r#"{"type":"speech.audio.done","usage":{"input_tokens":14,"output_tokens":101,"total_tokens":115}}"#,
    ]);
    let weir = start(&provider);
    let json = r#"{"model":"gpt-4o-mini-tts","stream_format":"sse","input":"Hi"}"#;
    assert_eq!(ask(&weir, SPEECH, json), 200);
    assert_cost(&weir, 0.001_220_4, "upstream");
}

// === pictures ===

#[test]
fn pictures_cost_as_many_as_came_or_as_were_asked_for() {
    let json = r#"{"model":"dall-e-3","n":3,"prompt":"a weir"}"#;
    let two = r#"{"created":1,"data":[{"url":"x","revised_prompt":"data"},{"b64_json":"AA=="}]}"#;
    let provider = Provider::json(two);
    let weir = start(&provider);
    assert_eq!(ask(&weir, IMAGES, json), 200);
    assert_cost(&weir, 0.24, "upstream");
    let unreadable = Provider::start(|exchange| {
        let headers = [
            ("content-type", "application/json"),
            ("content-encoding", "x-odd"),
        ];
        exchange.answer(200, &headers, b"\x01\x02\x03");
    });
    let weir = start(&unreadable);
    assert_eq!(ask(&weir, IMAGES, json), 200);
    assert_cost(&weir, 0.36, "estimated");
}

#[test]
fn pictures_that_are_paid_by_the_token_cost_their_tokens() {
    const USAGE: &str = r#"{"data":[{"b64_json":"AA=="}],"usage":{"total_tokens":1400,"input_tokens":340,"output_tokens":1060,"input_tokens_details":{"text_tokens":40,"image_tokens":300}}}"#;
    let json = r#"{"model":"gpt-image-1","prompt":"a weir"}"#;
    let provider = Provider::json(USAGE);
    let weir = start(&provider);
    assert_eq!(ask(&weir, IMAGES, json), 200);
    // 40 at 5 dollars a million, 300 at 10, 1060 at 40.
    assert_cost(&weir, 0.0456, "upstream");
    let provider = Provider::json(r#"{"data":[{"b64_json":"AA=="}]}"#);
    let weir = start(&provider);
    assert_eq!(ask(&weir, IMAGES, json), 200);
    let record = agreed(&weir);
    assert_eq!(
        (&record["output_tokens"], &record["token_source"]),
        (&6240.into(), &"estimated".into())
    );
    // Its tokens are reserved, of each that is asked for.
    let provider = Provider::json(USAGE);
    let weir = under(0.49, &provider, "");
    assert_eq!(
        ask(
            &weir,
            IMAGES,
            r#"{"model":"gpt-image-1","n":2,"prompt":"a weir"}"#
        ),
        429
    );
    assert!(provider.requests().is_empty());
}

// === what nobody can read ===

#[test]
fn what_is_charged_as_thought_is_told_to_all() {
    let provider = Provider::json(r#"{"result":"who knows"}"#);
    let prices = "m: {input: 10000, output: 100000, max_output: 7}}\nlimits: {unmetered: allow";
    let weir = under(BUDGET, &provider, prices);
    // Whether that API's servers know `max_tokens` nobody can say.
    let json = r#"{"model":"m","max_tokens":1,"text":"so long"}"#;
    assert_eq!(ask(&weir, "/v1/things", json), 200);
    let record = agreed(&weir);
    assert_eq!(
        (&record["output_tokens"], &record["token_source"]),
        (&7.into(), &"estimated".into())
    );
    assert!(record["cost_usd"].as_f64() > Some(0.7), "{record}");
}

#[test]
fn a_price_for_pieces_of_another_kind_is_none() {
    const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":5,"total_tokens":10}}"#;
    let provider = Provider::json(ANSWER);
    let prices = "painter: {image: 1}, speaker: {characters: 1}, hearer: {audio_minute: 1}, free: {input: 0, output: 0}";
    let weir = under(BUDGET, &provider, prices);
    for model in ["painter", "speaker", "hearer"] {
        let chat =
            format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#);
        assert_eq!(ask(&weir, CHAT, &chat), 403, "{model}");
        let text = format!(r#"{{"model":"{model}","input":"hi"}}"#);
        assert_eq!(ask(&weir, "/v1/embeddings", &text), 403, "{model}");
    }
    let picture = r#"{"model":"speaker","prompt":"a weir"}"#;
    assert_eq!(ask(&weir, IMAGES, picture), 403);
    let chat = r#"{"model":"free","messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(ask(&weir, CHAT, chat), 200, "what costs nothing is priced");
    let allowing = under(
        BUDGET,
        &provider,
        &format!("{prices}}}\nlimits: {{unpriced: allow"),
    );
    let chat = r#"{"model":"painter","messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(ask(&allowing, CHAT, chat), 200);
    let record = allowing.records(1).remove(0);
    assert_eq!(record["cost_usd"], Value::Null, "{record}");
}

#[test]
fn what_names_no_model_costs_nothing_though_all_models_have_a_price() {
    let provider = Provider::json(r#"{"object":"list","data":[]}"#);
    let (hash, url) = (sha256(SECRET), provider.url());
    let weir = Gateway::start(&format!(
        "limits: {{unpriced: allow, unmetered: allow}}\nprices: {{\"*\": {{input: 10000, output: 100000}}}}\n\
         target_map: {{/v1: \"{url}\"}}\nstate_dir: \"{{folder}}/state\"\nusage: {{}}\n\
         teams: [{{name: search, budget: {{usd: {BUDGET}, per: total}}, keys: [{{name: ci, sha256: {hash}}}]}}]\n"
    ));
    let authorization = format!("Bearer {SECRET}");
    let asked = [
        ("GET", "/v1/files"),
        ("GET", "/v1/responses/resp_1"),
        ("HEAD", CHAT),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/search"),
        ("POST", "/v1/batches"),
    ];
    for (method, path) in asked {
        let headers = [("authorization", &*authorization)];
        let mut client = weir.client();
        client.send_head(method, path, &headers);
        assert_eq!(client.read_head().status, 200, "{method} {path}");
    }
    for record in weir.records(asked.len()) {
        assert_eq!(record["cost_usd"], Value::Null, "{record}");
        assert_eq!(record["output_tokens"], Value::Null, "{record}");
    }
    let budget = [("team", "search"), ("period", "total")];
    weir.wait_value("weir_budget_used_ratio", &budget, 0.0);
}

#[test]
fn what_only_counts_tokens_costs_nothing() {
    let provider = Provider::json(r#"{"input_tokens":14}"#);
    let weir = under(0.001, &provider, "m: {input: 10000, output: 100000}");
    let json = r#"{"model":"m","messages":[{"role":"user","content":"How many tokens?"}]}"#;
    for _ in 0..2 {
        assert_eq!(ask(&weir, "/v1/messages/count_tokens", json), 200);
    }
}

#[test]
fn parts_that_are_more_than_their_whole_cost_no_less_than_nothing_and_no_more_than_the_dearest() {
    const ODD: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":1099511627776,"audio_tokens":1099511627776},"completion_tokens_details":{"audio_tokens":99,"reasoning_tokens":99}}}"#;
    let prices = "m: {input: 1000000, output: 1000000, cached: 1, audio_input: 1000000, audio_output: 1000000, reasoning: 1}";
    let provider = Provider::json(ODD);
    let weir = under(BUDGET, &provider, prices);
    let json = r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(ask(&weir, CHAT, json), 200);
    assert_cost(&weir, 15.0, "upstream");
}
