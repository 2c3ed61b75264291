//! What generator and simulator agree on. The request's `model` chooses the scene, so the choice
//! passes any proxy; each answer can be checked to the byte. Both programs of `perf/` use it.

use memchr::memmem;

use crate::Result;

/// Bodies of chat answers without a stream, and about what a short answer of a model takes.
const ANSWER_BYTES: usize = 1024;

const PARAGRAPH: &str = "The river rose in the night.\\nBy morning the weir held \\\"more than \
    anyone had measured\\\", and the keeper wrote 4.27 m into the book, as his father had done. ";

/// What the simulator is asked to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scene {
    /// `sim-json`: one JSON answer of 1 KB.
    Answer,
    /// `sim-sse-EVENTS-PAUSEms`: so many content events, one write each, so far apart.
    Stream { events: u32, pause_ms: u64 },
}

impl Scene {
    /// Reads the scene from a request's body.
    pub fn of(body: &[u8]) -> Option<Scene> {
        let key = b"\"model\":";
        let value = &body[memmem::find(body, key)? + key.len()..];
        let (_, value) = std::str::from_utf8(&value[..value.len().min(64)])
            .ok()?
            .split_once('"')?;
        Scene::named(value.split_once('"')?.0)
    }

    /// Reads the scene from a model's name.
    pub fn named(model: &str) -> Option<Scene> {
        if model == "sim-json" {
            return Some(Scene::Answer);
        }
        let (events, pause) = model.strip_prefix("sim-sse-")?.split_once('-')?;
        let pause_ms = pause.strip_suffix("ms")?.parse().ok()?;
        Some(Scene::Stream {
            events: events.parse().ok()?,
            pause_ms,
        })
    }

    pub fn model(self) -> String {
        match self {
            Scene::Answer => "sim-json".to_owned(),
            Scene::Stream { events, pause_ms } => format!("sim-sse-{events}-{pause_ms}ms"),
        }
    }
}

/// A chat request of exactly `bytes` bytes (at least what its frame needs).
pub fn request(scene: Scene, bytes: usize) -> Vec<u8> {
    framed(scene, |room| {
        let room = bytes.saturating_sub(room);
        let mut text = PARAGRAPH.repeat(room / PARAGRAPH.len());
        text.push_str(&".".repeat(room - text.len()));
        text
    })
}

/// A chat request with this text, as it stands in JSON.
pub fn request_of(scene: Scene, text: String) -> Vec<u8> {
    framed(scene, |_| text)
}

/// `text` gets the size of what stands around it.
fn framed(scene: Scene, text: impl FnOnce(usize) -> String) -> Vec<u8> {
    let streams = matches!(scene, Scene::Stream { .. });
    let front = format!(
        r#"{{"model":"{}","messages":[{{"role":"system","content":"You are terse."}},{{"role":"user","content":""#,
        scene.model()
    );
    let back = format!(r#""}}],"temperature":0.2,"max_tokens":512,"stream":{streams}}}"#);
    let text = text(front.len() + back.len());
    [front, text, back].concat().into_bytes()
}

/// The answer to a request of which `sum` is the [`sum`].
pub fn answer(sum: u64) -> Vec<u8> {
    let front = format!(
        r#"{{"id":"chatcmpl-{sum:016x}","object":"chat.completion","created":1760000000,"model":"sim","choices":[{{"index":0,"message":{{"role":"assistant","content":""#
    );
    let back = r#""},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":211,"completion_tokens":158,"total_tokens":369,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}"#;
    let mut text = PARAGRAPH.repeat(ANSWER_BYTES / PARAGRAPH.len() - 2);
    text.push_str(&".".repeat(ANSWER_BYTES - front.len() - text.len() - back.len()));
    [&front, text.as_str(), back].concat().into_bytes()
}

/// A checksum that differs when a byte of a request is lost, changed or moved.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [bytes.len() as u64; 4];
    let mut blocks = bytes.chunks_exact(32);
    let mut mix = |block: &[u8]| {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("chunks of eight"));
            *lane = (lane.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    };
    blocks.by_ref().for_each(&mut mix);
    let mut last = [0; 32];
    last[..blocks.remainder().len()].copy_from_slice(blocks.remainder());
    mix(&last);
    lanes.iter().fold(0, |sum, lane| sum.rotate_left(17) ^ lane)
}

const EVENT_FRONT: &str = r#"data: {"id":"chatcmpl-sim4f1c20e2","object":"chat.completion.chunk","created":1760000000,"model":"sim","system_fingerprint":"fp_sim"#;
const CONTENT: &str = r#"","choices":[{"index":0,"delta":{"content":" river"},"finish_reason":null}],"obfuscation":""#;
const CONTENT_BACK: &str = "\"}\n\n";
const FINISH: &str = "\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "\",\"choices\":[],\"usage\":{\"prompt_tokens\":211,\"completion_tokens\":200,\
    \"total_tokens\":411}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// Content event number `number`, sent at `now_ns`.
pub fn content_event(number: u32, now_ns: u64) -> String {
    format!("{EVENT_FRONT}{CONTENT}{number:08}.{now_ns:020}{CONTENT_BACK}")
}

/// The events after the content: the finish, the usage where it was asked for, the end.
pub fn closing_events(with_usage: bool) -> Vec<String> {
    let event = |back| format!("{EVENT_FRONT}{back}");
    let usage = with_usage.then(|| event(USAGE));
    [Some(event(FINISH)), usage, Some(DONE.to_owned())]
        .into_iter()
        .flatten()
        .collect()
}

/// Whether a stream's request asks for its usage.
pub fn asks_usage(body: &[u8]) -> bool {
    let key = b"\"include_usage\":";
    memmem::find(body, key).is_some_and(|at| {
        body[at + key.len()..]
            .trim_ascii_start()
            .starts_with(b"true")
    })
}

/// Checks that a stream brings each event, whole, once and in order, however it is cut.
#[derive(Default)]
pub struct StreamCheck {
    /// Events that came, of any kind.
    pub events: u32,
    contents: u32,
    finished: bool,
    done: bool,
    partial: Vec<u8>,
}

impl StreamCheck {
    /// Takes the next bytes; `sent` is called with the time at which each content event was sent.
    pub fn feed(&mut self, mut data: &[u8], mut sent: impl FnMut(u64)) -> Result<()> {
        if !self.partial.is_empty() {
            let held = std::mem::take(&mut self.partial);
            let whole = [&held, data].concat();
            return self.feed(&whole, sent);
        }
        while let Some(end) = memmem::find(data, b"\n\n") {
            let (event, rest) = data.split_at(end + 2);
            self.event(event, &mut sent)?;
            data = rest;
        }
        self.partial.extend_from_slice(data);
        Ok(())
    }

    /// Checks that all of a stream of `contents` content events has come.
    pub fn finish(&self, contents: u32) -> Result<()> {
        if self.done && self.contents == contents && self.partial.is_empty() {
            return Ok(());
        }
        let StreamCheck {
            contents: came,
            done,
            partial,
            ..
        } = self;
        let left = partial.len();
        Err(format!("{came} of {contents} events, done: {done}, {left} bytes left").into())
    }

    fn event(&mut self, event: &[u8], sent: &mut impl FnMut(u64)) -> Result<()> {
        self.events += 1;
        let fits = match event.strip_prefix(EVENT_FRONT.as_bytes()) {
            _ if self.done => false,
            Some(back) if back == FINISH.as_bytes() => !std::mem::replace(&mut self.finished, true),
            Some(back) if !self.finished => {
                self.contents += 1;
                content_time(back, self.contents - 1).map(sent).is_some()
            }
            _ => {
                self.done = event == DONE.as_bytes();
                self.done && self.finished
            }
        };
        if fits {
            return Ok(());
        }
        let text = String::from_utf8_lossy(event);
        Err(format!("event {} is not the next one: {text}", self.events).into())
    }
}

/// When the content event whose back half this is was sent, if it is number `number`.
fn content_time(back: &[u8], number: u32) -> Option<u64> {
    let stamp = back
        .strip_prefix(CONTENT.as_bytes())?
        .strip_suffix(CONTENT_BACK.as_bytes())?;
    let (came, time) = std::str::from_utf8(stamp).ok()?.split_once('.')?;
    (came.parse() == Ok(number))
        .then(|| time.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(numbers: &[u32]) -> String {
        let contents = numbers.iter().map(|number| content_event(*number, 7));
        contents.chain(closing_events(false)).collect()
    }

    fn check(text: &str, step: usize) -> Result<u32> {
        let mut check = StreamCheck::default();
        for piece in text.as_bytes().chunks(step) {
            check.feed(piece, |time| assert_eq!(time, 7))?;
        }
        check.finish(3).map(|()| check.events)
    }

    #[test]
    fn a_whole_stream_passes_however_it_is_cut() {
        let text = stream(&[0, 1, 2]);
        for step in [1, 2, 3, 50, 211, 500, text.len()] {
            assert_eq!(
                check(&text, step).expect("in order"),
                5,
                "in steps of {step}"
            );
        }
    }

    #[test]
    fn a_lost_doubled_swapped_or_changed_event_is_found() {
        for wrong in [
            &[0, 1][..],
            &[0, 2],
            &[0, 0, 1, 2],
            &[1, 0, 2],
            &[0, 1, 2, 3],
        ] {
            assert!(check(&stream(wrong), 64).is_err(), "{wrong:?}");
        }
        let whole = stream(&[0, 1, 2]);
        for wrong in [
            whole.replace("river", "riven"),
            whole.replace(DONE, ""),
            whole + DONE,
        ] {
            assert!(check(&wrong, 64).is_err());
        }
    }

    #[test]
    fn scenes_survive_the_way_through_a_request() {
        for scene in [
            Scene::Answer,
            Scene::Stream {
                events: 200,
                pause_ms: 5,
            },
        ] {
            let body = request(scene, 1024);
            assert_eq!((Scene::of(&body), body.len()), (Some(scene), 1024));
            assert!(!asks_usage(&body));
        }
        assert_eq!(Scene::of(br#"{"model": "gpt-4"}"#), None);
        assert!(asks_usage(
            br#"{"stream_options": {"include_usage": true}}"#
        ));
    }

    #[test]
    fn an_answer_has_one_size_and_tells_requests_apart() {
        let (one, other) = (request(Scene::Answer, 1024), request(Scene::Answer, 1023));
        assert_eq!(answer(sum(&one)).len(), ANSWER_BYTES);
        assert_ne!(answer(sum(&one)), answer(sum(&other)));
        let mut changed = one.clone();
        changed[1023] ^= 1;
        assert_ne!(sum(&one), sum(&changed));
    }
}
