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
use weir_dialect::translate::Translator;

use crate::golden::{CLIENTS, Client, UPSTREAMS, Upstream};

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
pub fn kept() -> isize {
    KEPT.get()
}

/// What one event may ask of the allocator.
const ALLOCATIONS_MAX: f64 = 8.0;
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
pub fn begun(client: &Client, upstream: &Upstream) -> Option<(Translator, Vec<u8>)> {
    let answer = upstream.answer("stream")?;
    let body = client.body("stream")?;
    let mut translator = client.ask(&body, true, upstream, false).ok()?.answer;
    translator.begin(answer.form);
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
