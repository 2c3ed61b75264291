//! The ledger: what each request used is written down before its answer's last byte goes out, carried
//! into a store, and summed up; whatever dies meanwhile.
//!
//! `WEIR_TEST_KILLS` (5) is how often weir is killed under load. The counts are printed.

use crate::support::postgres::Postgres;
use crate::support::supervised::said;
use crate::support::{Authority, Folder, Gateway, Launch, Provider, client, eventually};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi there"}]}"#;
const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}"#;
const UNCOUNTED: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}]}"#;

/// A configuration with a ledger in the test's folder.
fn config(url: &str, usage: &str) -> String {
    format!(
        "model_routes: {{gpt-4o: \"{url}\", nameless: \"{url}\"}}\nstate_dir: \"{{folder}}/state\"\nusage: {{{usage}}}\n\
         upgrade: {{probation: 200ms}}\n"
    )
}

fn start(url: &str, usage: &str) -> Gateway {
    Gateway::start(&config(url, usage))
}

/// `weir usage` with the file in this folder.
#[track_caller]
fn usage_of(folder: &Folder, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .arg("usage")
        .args(arguments)
        .arg("-c")
        .arg(folder.join("weir.yaml"))
        .env_clear()
        .output()
        .expect("weir's binary")
}

#[track_caller]
fn rows(folder: &Folder, arguments: &[&str]) -> Vec<Value> {
    let output = usage_of(folder, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[track_caller]
fn total(folder: &Folder) -> Value {
    rows(folder, &[]).remove(0)
}

fn kill(gateway: &mut Gateway) {
    gateway.signal(libc::SIGKILL);
    gateway.wait_exit();
}

fn segments(folder: &Folder) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("state/usage")).expect("the journal's folder");
    let mut all: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    all.retain(|path| path.extension().is_some_and(|it| it == "ndjson"));
    all.sort();
    all
}

// === what is written ===

#[test]
fn an_answered_request_is_in_the_ledger_of_a_weir_that_was_killed() {
    let provider = Provider::json(ANSWER);
    let mut gateway = start(&provider.url(), "");
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    kill(&mut gateway);
    let total = total(gateway.folder());
    let figures = [
        "requests",
        "input",
        "output",
        "cached",
        "reasoning",
        "unpriced",
    ];
    let found = figures.map(|name| total[name].as_i64().expect("a number"));
    assert_eq!(found, [1, 11, 7, 4, 2, 0], "{total}");
    // 7 tokens at 2.50 dollars a million, 4 cached ones at 1.25, and 7 at 10.
    assert_eq!(total["cost_usd"], 0.000_092_5);
}

#[test]
fn a_count_replaces_its_estimate() {
    let provider = Provider::json(UNCOUNTED);
    let mut gateway = start(&provider.url(), "");
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    let record = gateway.records(1).remove(0);
    assert_eq!(record["token_source"], "counted");
    kill(&mut gateway);
    let total = total(gateway.folder());
    assert_eq!(
        [&total["requests"], &total["input"], &total["output"]],
        [&json!(1), &record["input_tokens"], &record["output_tokens"]]
    );
}

#[test]
fn the_same_request_id_of_a_client_counts_each_time() {
    let provider = Provider::json(ANSWER);
    let gateway = start(&provider.url(), "");
    let id = [("x-request-id", "0190163d-8694-739b-aea5-966c26f8ad91")];
    for _ in 0..3 {
        let answer = gateway.post_with(CHAT, &id, ASK);
        assert_eq!(answer.header("x-request-id"), Some(id[0].1));
    }
    assert_eq!(total(gateway.folder())["requests"], 3);
    gateway.wait_value("weir_ledger_carried_total", &[], 3.0);
    assert_eq!(total(gateway.folder())["requests"], 3);
}

#[test]
fn a_refusal_without_a_try_is_no_usage_and_a_failed_try_is() {
    let provider = Provider::start(|exchange| exchange.json(500, "{}"));
    let gateway = start(&provider.url(), "");
    gateway.post(CHAT, "{").assert_refused(400, "invalid_json");
    let unknown = ASK.replace("gpt-4o", "other");
    assert_eq!(gateway.post(CHAT, unknown).status(), 404);
    assert_eq!(gateway.get("/healthz").status(), 200);
    assert_eq!(gateway.post(CHAT, ASK).status(), 500);
    gateway.records(3);
    let total = total(gateway.folder());
    assert_eq!([&total["requests"], &total["input"]], [1, 0], "{total}");
}

#[test]
fn an_open_proxy_without_usage_writes_nothing() {
    let provider = Provider::json(ANSWER);
    let gateway = Gateway::start(&format!(
        "model_routes: {{gpt-4o: \"{}\"}}\nstate_dir: \"{{folder}}/state\"\n",
        provider.url()
    ));
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    assert!(!gateway.folder().join("state").exists());
    let told = usage_of(gateway.folder(), &[]);
    assert!(!told.status.success() && said(&told).contains("keeps no usage"));
}

#[test]
fn a_folder_that_cannot_be_written_is_told_at_check_and_start() {
    let text = "port: 0\nadmin: off\nmodel_routes: {m: \"http://127.0.0.1:9\"}\n\
                state_dir: /proc/weir\nusage: {}\n";
    let run = Launch::exactly(text).output();
    assert!(!run.status.success());
    assert!(said(&run).contains("/proc/weir"), "{}", said(&run));
    assert!(said(&run).contains("`usage: off`"), "{}", said(&run));
    let folder = Folder::new();
    let file = folder.write("weir.yaml", text.replace("/proc/weir", "/dev/null/weir"));
    let check = Launch::verb(&["check", "-c"]).arg(file).output();
    assert!(!check.status.success());
    assert!(
        said(&check).contains("state_dir: /dev/null/weir"),
        "{}",
        said(&check)
    );
}

// === what is carried ===

#[test]
fn segments_are_closed_carried_and_gone() {
    let provider = Provider::json(ANSWER);
    let gateway = start(&provider.url(), "segment_size: 4KiB");
    for _ in 0..50 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    }
    gateway.wait_value("weir_ledger_carried_total", &[], 50.0);
    eventually("one segment is left", || {
        (segments(gateway.folder()).len() == 1).then_some(())
    });
    let name = segments(gateway.folder()).remove(0);
    let name = name
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert!(!name.contains(".000001."), "{name} is the first");
    assert_eq!(total(gateway.folder())["requests"], 50);
    assert_eq!(gateway.value("weir_ledger_appended_total", &[]), Some(50.0));
}

#[test]
fn torn_lines_are_set_aside_and_keep_nobody_from_starting() {
    let provider = Provider::json(ANSWER);
    let mut gateway = start(&provider.url(), "store: \"postgres://u@127.0.0.1:1/d\"");
    for _ in 0..3 {
        gateway.post(CHAT, ASK);
    }
    kill(&mut gateway);
    let segment = segments(gateway.folder()).remove(0);
    let text = std::fs::read_to_string(&segment).expect("a segment");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    // What a power cut leaves: zeros where a block was, and a line without its end.
    let torn = format!("{}\n\0\0\0\0\n{}\n{}", lines[0], lines[1], &lines[2][..50]);
    std::fs::write(&segment, torn).expect("a segment");
    let text = config(&provider.url(), "");
    let text = text.replace("{folder}", &gateway.folder().path().display().to_string());
    let next = Gateway::start(&text);
    next.wait_value("weir_ledger_torn_total", &[], 2.0);
    next.wait_log("set aside");
    next.wait_value("weir_ledger_carried_total", &[], 2.0);
    eventually("the torn segment is gone", || {
        (!segment.exists()).then_some(())
    });
    let aside = segment.with_extension("ndjson.torn");
    let aside = std::fs::read(aside).expect("what was set aside");
    assert!(aside.ends_with(format!("{}\n", &lines[2][..50]).as_bytes()));
    assert_eq!(total(next.folder())["requests"], 2);
}

#[test]
fn no_record_is_lost_by_an_upgrade_and_one_generation_carries() {
    let provider = Provider::json(ANSWER);
    let gateway = Launch::supervised(&config(&provider.url(), "")).start();
    let clients = Clients::start(3, gateway.address());
    for _ in 0..3 {
        clients.wait_more(30);
        gateway.replace_binary();
        let done = gateway.upgrade();
        assert!(done.status.success(), "{}", said(&done));
    }
    clients.wait_more(30);
    let answered = clients.stop().len() as u64;
    gateway.wait_settled();
    assert_eq!(total(gateway.folder())["requests"], answered);
    eventually("all is carried", || {
        (stored(gateway.folder()).len() as u64 == answered).then_some(())
    });
    println!("{answered} requests over 3 upgrades");
}

#[test]
fn a_full_disk_delays_records_and_no_request() {
    let provider = Provider::json(ANSWER);
    let text = config(&provider.url(), "").replace("{folder}/state", "{folder}/state/disk");
    let mount = "mkdir -p state/disk && mount -t tmpfs -o size=2m weir state/disk && exec \"$@\"";
    let launch = Launch::file(&text).within(&["unshare", "-rm", "sh", "-c", mount, "sh"]);
    let possible = Command::new("unshare").args(["-rm", "true"]).status();
    if !possible.is_ok_and(|it| it.success()) {
        eprintln!("skipped: no namespace for mounts here");
        return;
    }
    let mut gateway = launch.start();
    // The disk as weir sees it.
    let disk = PathBuf::from(format!("/proc/{}/root", gateway.pid())).join(
        gateway
            .folder()
            .join("state/disk")
            .strip_prefix("/")
            .expect("absolute"),
    );
    gateway.post(CHAT, ASK);
    gateway.wait_value("weir_ledger_carried_total", &[], 1.0);
    let filler = disk.join("filler");
    let mut file = std::fs::File::create(&filler).expect("a file on the small disk");
    while file.write_all(&[0; 512]).is_ok() {}
    // What is left of the segment's last page takes a few lines.
    let mut sent = 1;
    eventually("lines wait", || {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
        sent += 1;
        let waiting = gateway.value("weir_ledger_waiting_bytes", &[]);
        waiting.is_some_and(|bytes| bytes > 0.0).then_some(())
    });
    gateway.wait_log("make room on the disk");
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    sent += 1;
    let failures = gateway.value("weir_ledger_failures_total", &[("place", "journal")]);
    assert!(failures.is_some_and(|count| count >= 1.0), "{failures:?}");
    std::fs::remove_file(&filler).expect("the filler");
    drop(file);
    gateway.wait_log("the disk takes usage again");
    gateway.wait_value("weir_ledger_waiting_bytes", &[], 0.0);
    gateway.wait_value("weir_ledger_carried_total", &[], f64::from(sent));
    assert_eq!(gateway.value("weir_ledger_dropped_total", &[]), Some(0.0));
    gateway.signal(libc::SIGTERM);
    gateway.wait_exit();
}

// === PostgreSQL ===

#[test]
fn records_wait_while_postgresql_is_away_and_count_once() {
    let Some(mut postgres) = Postgres::start(None) else {
        return;
    };
    let provider = Provider::json(ANSWER);
    let usage = format!("store: \"{}\"", postgres.url("sslmode=disable"));
    let gateway = start(&provider.url(), &usage);
    // Nobody has made the tables yet, or somebody has: neither keeps who asks from an answer.
    assert_eq!(total(gateway.folder())["requests"], 0);
    let ask = |count: usize| {
        for _ in 0..count {
            assert_eq!(gateway.post(CHAT, ASK).status(), 200);
        }
    };
    ask(5);
    gateway.wait_value("weir_ledger_carried_total", &[], 5.0);
    postgres.kill();
    ask(5);
    eventually("the store is found away", || {
        let failures = gateway.value("weir_ledger_failures_total", &[("place", "store")]);
        let bytes = gateway.value("weir_ledger_uncarried_bytes", &[]);
        (failures > Some(0.0) && bytes > Some(0.0)).then_some(())
    });
    gateway.wait_log("usage can't be carried");
    assert!(!gateway.log().contains("s3cret"));
    let told = usage_of(gateway.folder(), &[]);
    assert!(!told.status.success() && said(&told).contains("postgres://127.77."));
    postgres.start_again();
    gateway.wait_value("weir_ledger_carried_total", &[], 10.0);
    gateway.wait_value("weir_ledger_uncarried_bytes", &[], 0.0);
    ask(1);
    assert_eq!(total(gateway.folder())["requests"], 11);
    let by = rows(gateway.folder(), &["--by", "provider,model,day"]);
    assert_eq!((by.len(), &by[0]["model"]), (1, &json!("gpt-4o")));
}

#[test]
fn what_is_asked_of_postgresql_is_what_is_asked_of_sqlite() {
    let Some(postgres) = Postgres::start(None) else {
        return;
    };
    let provider = Provider::start(|exchange| {
        let uncounted = exchange.request.text().contains("uncounted");
        exchange.json(200, if uncounted { UNCOUNTED } else { ANSWER });
    });
    let url = provider.url();
    let stores = [
        "store: sqlite".to_owned(),
        format!("store: \"{}\"", postgres.url("")),
    ];
    let found = stores.map(|store| {
        let gateway = start(&url, &store);
        // A name that PostgreSQL can't hold as it is.
        let routes = format!("\"*\": \"{url}\"");
        gateway.reload(&config(&url, &store).replace("gpt-4o:", &format!("{routes}, gpt-4o:")));
        for model in ["gpt-4o", "b\\u0000c", "uncounted"] {
            assert_eq!(
                gateway.post(CHAT, ASK.replace("gpt-4o", model)).status(),
                200
            );
        }
        gateway.records(3);
        gateway.wait_value("weir_ledger_carried_total", &[], 4.0);
        let answers = [
            &["--by", "model,provider,team"][..],
            &["--since", "1d"],
            &["--until", "2020-01-01"],
        ];
        answers.map(|arguments| {
            let mut rows = rows(gateway.folder(), arguments);
            // Made of the address, which is the test's own.
            rows.iter_mut()
                .for_each(|row| row["provider"] = Value::Null);
            rows
        })
    });
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0][0].len(), 3);
    assert_eq!(found[0][2][0]["requests"], 0);
}

#[test]
fn postgresql_is_reached_by_tls_as_sslmode_says() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (chain, key) = authority.issue("db", "/CN=db", "DNS:db.test", 2);
    let Some(postgres) = Postgres::start(Some((&chain, &key))) else {
        return;
    };
    let root = |authority: &Authority| format!("sslrootcert={}", authority.ca().display());
    let (right, wrong) = (root(&authority), root(&other));
    let folder = Folder::new();
    // What is said by a weir that asks this database.
    let asked = |url: &str| {
        let yaml = config("http://127.0.0.1:9", &format!("store: \"{url}\""));
        folder.write(
            "weir.yaml",
            yaml.replace("{folder}", &folder.path().display().to_string()),
        );
        said(&usage_of(&folder, &[]))
    };
    let reaches = |url: &str| {
        let said = asked(url);
        assert!(!said.contains("can't be read"), "{url}: {said}");
    };
    let refuses = |url: &str, why: &str| {
        let said = asked(url);
        let told = said.contains("usage can't be read") && said.contains(why);
        assert!(told, "{url}: {said}");
        assert!(!said.contains("s3cret"), "{said}");
    };
    let by_name = |name: &str, mode: &str| postgres.url_named(name, mode);
    for mode in ["disable", "allow", "prefer", "require"] {
        reaches(&by_name("other.test", &format!("sslmode={mode}")));
    }
    // With authorities `require` looks who has signed, as libpq does; only `verify-full` looks for whom.
    for mode in ["require", "verify-ca"] {
        reaches(&by_name("other.test", &format!("sslmode={mode}&{right}")));
        refuses(
            &by_name("db.test", &format!("sslmode={mode}&{wrong}")),
            "invalid peer certificate",
        );
    }
    reaches(&by_name("db.test", &format!("sslmode=verify-full&{right}")));
    let full = |root: &str| format!("sslmode=verify-full&{root}");
    refuses(&by_name("other.test", &full(&right)), "not valid for name");
    refuses(
        &by_name("db.test", &full(&wrong)),
        "invalid peer certificate",
    );
    refuses(
        &by_name("db.test", "sslmode=verify-full"),
        "invalid peer certificate",
    );
    refuses(
        &by_name("db.test", "sslmode=require&sslrootcert=/nowhere.pem"),
        "/nowhere.pem",
    );
    // A certificate that `prefer` can't believe leads to plaintext, and a Unix socket has none.
    reaches(&by_name("db.test", &format!("sslmode=prefer&{wrong}")));
    reaches(&postgres.url_unix(""));
    reaches(&postgres.url_unix(&full(&right)));
}

#[test]
fn a_postgresql_without_tls_is_reached_where_that_is_no_must() {
    let Some(postgres) = Postgres::start(None) else {
        return;
    };
    let folder = Folder::new();
    for (mode, reached) in [("prefer", true), ("allow", true), ("require", false)] {
        let url = postgres.url(&format!("sslmode={mode}"));
        let yaml = config("http://127.0.0.1:9", &format!("store: \"{url}\""));
        folder.write(
            "weir.yaml",
            yaml.replace("{folder}", &folder.path().display().to_string()),
        );
        let output = usage_of(&folder, &[]);
        assert_eq!(
            output.status.success(),
            reached,
            "{mode}: {}",
            said(&output)
        );
    }
}

// === what is shown ===

#[test]
fn usage_is_shown_as_a_table_as_csv_and_as_json() {
    let provider = Provider::json(ANSWER);
    let gateway = start(&provider.url(), "");
    for _ in 0..2 {
        gateway.post(CHAT, ASK);
    }
    let folder = gateway.folder();
    let table = said(&usage_of(folder, &["--by", "model,day"]));
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().expect("a head").split_whitespace().collect();
    let names = [
        "model",
        "day",
        "requests",
        "input",
        "output",
        "cached",
        "cache_write",
        "reasoning",
    ];
    assert_eq!(head[..8], names);
    let row: Vec<&str> = lines.next().expect("a row").split_whitespace().collect();
    assert_eq!(
        (row[0], &row[2..]),
        ("gpt-4o", &["2", "22", "14", "8", "0", "4", "0.000185"][..])
    );
    let csv = said(&usage_of(folder, &["--by", "team,model", "--csv"]));
    assert_eq!(
        csv,
        "team,model,requests,input,output,cached,cache_write,reasoning,cost_usd\n\
         ,gpt-4o,2,22,14,8,0,4,0.000185\n"
    );
    assert!(rows(folder, &["--by", "model", "--team", "nobody"]).is_empty());
    for _ in 0..3 {
        gateway.post(CHAT, ASK.replace("gpt-4o", "nameless"));
    }
    let table = said(&usage_of(folder, &["--by", "model"]));
    assert!(table.contains("3 requests have no price"), "{table}");
    assert!(rows(folder, &["--by", "model", "--until", "2026-01-01"]).is_empty());
    let mistaken = usage_of(folder, &["--by", "colour"]);
    assert!(said(&mistaken).contains("upstream_model, provider or day"));
}

#[test]
fn a_providers_export_is_compared_by_day_and_model() {
    let provider = Provider::json(ANSWER);
    let gateway = start(&provider.url(), "");
    for _ in 0..2 {
        gateway.post(CHAT, ASK);
    }
    let folder = gateway.folder();
    let day = rows(folder, &["--by", "day"]).remove(0)["day"].clone();
    let day = day.as_str().expect("a day");
    let export = |output: u32, more: &str| {
        format!(
            "start_time_iso,model,num_model_requests,input_tokens,output_tokens,input_cached_tokens\n\
             {day}T00:00:00+00:00,gpt-4o-2024-08-06,2,22,{output},8\n{more}"
        )
    };
    let reconcile = |text: String| {
        let file = folder.write("export.csv", text).display().to_string();
        usage_of(folder, &["reconcile", &file])
    };
    let same = reconcile(export(14, ""));
    assert!(same.status.success(), "{}", said(&same));
    let other = reconcile(export(15, &format!("{day}T00:00:00+00:00,o3,1,5,5,0\n")));
    assert_eq!(other.status.code(), Some(1));
    let text = said(&other);
    assert!(text.contains("2 of 2 days and models differ"), "{text}");
    let line = text
        .lines()
        .find(|line| line.contains("gpt-4o"))
        .expect("a line");
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells, [day, "gpt-4o", "output", "14", "15", "-1"]);
    let unknown = reconcile("a,b\n1,2\n".into());
    assert!(said(&unknown).contains("--columns"), "{}", said(&unknown));
}

// === what must not be lost ===

#[test]
fn killed_at_random_moments_under_load_no_answer_is_missing_and_none_counts_twice() {
    let kills = std::env::var("WEIR_TEST_KILLS").map_or(5, |text| text.parse().expect("a number"));
    let provider = Provider::start(|exchange| {
        if exchange.request.text().contains("\"stream\":true") {
            exchange.stream();
            exchange.event(r#"{"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#);
            exchange.event(r#"{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7}}"#);
            exchange.event("[DONE]");
            exchange.end();
        } else {
            exchange.json(200, ANSWER);
        }
    });
    let folder = Folder::new();
    let state = folder.join("state").display().to_string();
    let text = config(&provider.url(), "segment_size: 64KiB").replace("{folder}/state", &state);
    let mut answered = BTreeSet::new();
    let mut moments = Vec::new();
    for round in 0..kills {
        let mut gateway = Gateway::start(&text);
        let clients = Clients::start(4, gateway.address());
        // After another number of answers each time: in the beginning, while a segment is closed, while
        // it is carried.
        let moment = 1 + (round * 7919) % 293;
        clients.wait_more(moment);
        moments.push(moment);
        kill(&mut gateway);
        answered.extend(clients.stop());
    }
    // The last one carries all.
    let gateway = Gateway::start(&text);
    eventually("all is carried", || {
        let all = std::fs::read_dir(folder.join("state/usage")).ok()?;
        let left = all.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        // Segments of the living, empty; and the carrier's lock.
        (left.sum::<u64>() == 0).then_some(())
    });
    let mut found = BTreeMap::<String, usize>::new();
    for id in stored(&folder) {
        *found.entry(id).or_default() += 1;
    }
    let missing: Vec<_> = answered
        .iter()
        .filter(|id| !found.contains_key(*id))
        .collect();
    let doubled: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
    println!(
        "{kills} kills: {} answered, {} in the ledger, {} missing, {} doubled",
        answered.len(),
        found.len(),
        missing.len(),
        doubled.len()
    );
    assert!(missing.is_empty(), "{missing:?}");
    assert!(doubled.is_empty(), "{doubled:?}");
    drop(gateway);
}

/// The request ids in the store.
fn stored(folder: &Folder) -> Vec<String> {
    let db = rusqlite::Connection::open(folder.join("state/usage.sqlite")).expect("a store");
    let mut select = db
        .prepare("SELECT request_id FROM weir_requests")
        .expect("its table");
    let ids = select.query_map([], |row| row.get(0)).expect("rows");
    ids.map(|id| id.expect("an id")).collect()
}

/// Clients that ask one after the other, each under an id of its own, and note what they have whole.
struct Clients {
    answered: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(count: usize, address: SocketAddr) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let clients = Self {
            answered: Arc::default(),
            count: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let threads = (0..count).map(|client| {
            let answered = Arc::clone(&clients.answered);
            let (count, stop) = (Arc::clone(&clients.count), Arc::clone(&clients.stop));
            std::thread::spawn(move || {
                let mut socket = None;
                while !stop.load(Ordering::Relaxed) {
                    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                    let id = format!("00000000-0000-7000-8000-{number:012}");
                    let ask = match client % 2 {
                        0 => ASK.to_owned(),
                        _ => ASK.replace("\"messages\"", "\"stream\":true,\"messages\""),
                    };
                    if asked(&mut socket, address, &id, &ask).is_some() {
                        answered.lock().expect("no panic").push(id);
                        count.fetch_add(1, Ordering::Relaxed);
                    } else {
                        socket = None;
                    }
                }
            })
        });
        let threads = threads.collect();
        Self { threads, ..clients }
    }

    /// Waits for so many answers more.
    #[track_caller]
    fn wait_more(&self, count: usize) {
        let before = self.count.load(Ordering::Relaxed);
        eventually(&format!("{count} answers more"), || {
            (self.count.load(Ordering::Relaxed) >= before + count).then_some(())
        });
    }

    /// The ids of all that was answered whole.
    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        std::mem::take(&mut self.answered.lock().expect("no panic"))
    }
}

/// Asks on a connection that is kept; `None` unless the answer came to its last byte.
fn asked(socket: &mut Option<TcpStream>, address: SocketAddr, id: &str, ask: &str) -> Option<()> {
    let stream = match socket {
        Some(stream) => stream,
        None => socket.insert(TcpStream::connect(address).ok()?),
    };
    stream
        .set_read_timeout(Some(crate::support::DEADLINE))
        .ok()?;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: weir\r\nx-request-id: {id}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{ask}",
        ask.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&piece[..count]);
        let Some(end) = client::find(&bytes, b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let body = &bytes[end + 4..];
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|it| it.lines().next()?.parse::<usize>().ok());
        let whole = match length {
            Some(length) => body.len() == length,
            None => body.ends_with(b"\r\n0\r\n\r\n"),
        };
        if whole {
            return head.starts_with("http/1.1 200").then_some(());
        }
    }
}

#[test]
fn what_is_counted_as_answered_is_missed_when_it_is_not_written_down() {
    // The measure itself: a request that no ledger wrote is found to be missing.
    let provider = Provider::json(ANSWER);
    let gateway = start(&provider.url(), "");
    let clients = Clients::start(1, gateway.address());
    clients.wait_more(1);
    let answered = clients.stop();
    gateway.wait_value("weir_ledger_carried_total", &[], answered.len() as f64);
    let found = stored(gateway.folder());
    assert_eq!(BTreeSet::from_iter(&answered), BTreeSet::from_iter(&found));
    let db = rusqlite::Connection::open(gateway.folder().join("state/usage.sqlite")).expect("it");
    let gone = db.execute(
        "DELETE FROM weir_requests WHERE request_id = ?1",
        [&answered[0]],
    );
    assert_eq!(gone.expect("a row"), 1);
    assert!(!stored(gateway.folder()).contains(&answered[0]));
}
