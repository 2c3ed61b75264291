//! What translating a piece of text costs, from each upstream's stream to each client's.
//!
//! Allocations are held to a limit; times are told only
//! (`cargo test --release -p weir-dialect --test it -- costs:: --nocapture`).

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use weir_dialect::surface::Form;

use crate::golden::{CLIENTS, Carrier, Client, UPSTREAMS, Upstream};

/// The system's allocator, which counts what each thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
    /// Bytes that this thread took and didn't give back.
    static KEPT: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        keep(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }
}

fn count(bytes: isize) {
    // A thread that ends has no counter any more.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
    keep(bytes);
}

fn keep(bytes: isize) {
    let _ = KEPT.try_with(|kept| kept.set(kept.get() + bytes));
}

/// Bytes that this thread holds.
fn kept() -> isize {
    KEPT.get()
}

/// What one event may ask of the allocator.
const ALLOCATIONS_MAX: f64 = 12.0;
const EVENTS: u32 = 2_000;

#[test]
fn a_piece_of_text_asks_little_of_the_allocator() {
    let mut table = String::from("| ns, allocations |");
    for client in &CLIENTS {
        let _ = write!(table, " {} |", client.name);
    }
    table.push_str("\n|---|");
    table.push_str(&"---:|".repeat(CLIENTS.len()));
    let (mut greedy, mut pairs) = (String::new(), 0);
    for upstream in &UPSTREAMS {
        let _ = write!(table, "\n| {} |", upstream.name);
        for client in &CLIENTS {
            let Some((time, allocations)) = cost(client, upstream) else {
                table.push_str(" |");
                continue;
            };
            pairs += 1;
            let _ = write!(table, " {}, {allocations:.2} |", time.as_nanos());
            if allocations > ALLOCATIONS_MAX {
                let _ = writeln!(
                    greedy,
                    "{} from {}: {allocations}",
                    client.name, upstream.name
                );
            }
        }
    }
    println!("{table}");
    assert!(greedy.is_empty(), "allocations per event:\n{greedy}");
    assert!(pairs > 0, "something was measured");
}

/// What a translator doesn't count of what it holds.
const UNCOUNTED_BYTES: isize = 64 << 10;

#[test]
fn what_a_stream_holds_is_counted() {
    let mut bad = String::new();
    let mut pairs = 0;
    for upstream in &UPSTREAMS {
        for client in &CLIENTS {
            let Some((translator, event)) = begun(client, upstream) else {
                continue;
            };
            pairs += 1;
            let event = fattened(&event);
            if let Err(wrong) = is_counted(translator, &event) {
                let _ = writeln!(bad, "text, {} from {}: {wrong}", client.name, upstream.name);
            }
        }
    }
    for client in &CLIENTS {
        let Some((translator, event)) = calling(client) else {
            continue;
        };
        pairs += 1;
        if let Err(wrong) = is_counted(translator, &event) {
            let _ = writeln!(bad, "calls, {}: {wrong}", client.name);
        }
    }
    println!("{pairs} streams");
    assert!(bad.is_empty(), "\n{bad}");
}

/// Says a lot, many times over.
fn is_counted(mut translator: Carrier, event: &[u8]) -> Result<(), String> {
    let mut out = Vec::with_capacity(64 << 10);
    let mut before = None;
    for _ in 0..1000 {
        out.clear();
        if let Err(failure) = translator.feed(event, &mut out) {
            return Err(failure.message);
        }
        let said = isize::try_from(translator.bytes()).expect("a size");
        let held = kept() - said;
        let grown = held - *before.get_or_insert(held);
        if grown > UNCOUNTED_BYTES {
            return Err(format!("holds {grown} bytes that it doesn't count"));
        }
    }
    Ok(())
}

/// The same event with more text, where its framing has no lengths.
fn fattened(event: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(event) {
        Ok(text) if !text.contains('\0') => text.replace("Hello", &"Hello ".repeat(200)).into(),
        _ => event.to_vec(),
    }
}

/// In the middle of two calls, of which the second one's arguments come without end.
fn calling(client: &Client) -> Option<(Carrier, Vec<u8>)> {
    let openai = &UPSTREAMS[0];
    let body = client.body("tools_stream")?;
    let translated = client.ask(&body, true, openai, false).ok()?;
    let mut translator = Carrier::begin(translated, Form::Events);
    let begin = |call: u32| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":{call},\"id\":\"c{call}\",\"function\":{{\"name\":\"f\",\"arguments\":\"\"}}}}]}}}}]}}\n\n"
        )
    };
    let mut out = Vec::new();
    for call in [0, 1] {
        let begun = begin(call);
        translator
            .feed(begun.as_bytes(), &mut out)
            .expect("an event");
    }
    let arguments = "a".repeat(1000);
    let event = format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":1,\"function\":{{\"arguments\":\"{arguments}\"}}}}]}}}}]}}\n\n"
    );
    Some((translator, event.into()))
}

/// Of one event: the time, of the quickest of some rounds, and the allocations.
fn cost(client: &Client, upstream: &Upstream) -> Option<(Duration, f64)> {
    let (begun, event) = begun(client, upstream)?;
    let mut translator = begun;
    let mut out = Vec::with_capacity(4096);
    let mut quickest = Duration::MAX;
    let mut asked = 0;
    for _ in 0..5 {
        let (before, start) = (ASKED.get(), Instant::now());
        for _ in 0..EVENTS {
            out.clear();
            translator
                .feed(black_box(&event), &mut out)
                .expect("an event");
            black_box(&out);
        }
        quickest = quickest.min(start.elapsed());
        asked = ASKED.get() - before;
        assert!(
            out.windows(5).any(|it| it == b"Hello"),
            "each piece goes on at once: {}",
            String::from_utf8_lossy(&out)
        );
    }
    Some((quickest / EVENTS, asked as f64 / f64::from(EVENTS)))
}

/// A translator in the middle of a stream, and an event with a piece of text.
fn begun(client: &Client, upstream: &Upstream) -> Option<(Carrier, Vec<u8>)> {
    let answer = upstream.answer("stream")?;
    let body = client.body("stream")?;
    let translated = client.ask(&body, true, upstream, false).ok()?;
    let mut translator = Carrier::begin(translated, answer.form);
    let mut out = Vec::new();
    for event in events(answer.form, &answer.bytes) {
        translator.feed(event, &mut out).expect("an event");
        if event.windows(5).any(|it| it == b"Hello") {
            return Some((translator, event.to_vec()));
        }
    }
    panic!("no event of {} says Hello", upstream.name)
}

fn events(form: Form, mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut framer = form.framer().expect("a stream");
    let mut events = Vec::new();
    while let Some(end) = framer.next(bytes) {
        let (event, rest) = bytes.split_at(end);
        events.push(event);
        bytes = rest;
    }
    events
}
