//! One settled request, as a line of the journal and a row of the store.

use crate::observe::Record;
use crate::types::Money;
use serde::Deserialize;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// A process of some weir, as no other is or was: milliseconds of its start, and chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(i64);

/// What one request used. With its instance, its number tells it from every other: the client's own
/// `x-request-id` may come twice.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Entry<'a> {
    /// Its number in its process.
    pub number: u64,
    /// 0: provisional, for its tokens are being counted; 1: as it stays.
    pub revision: u8,
    /// When it arrived: Unix time, milliseconds.
    pub time_ms: i64,
    /// `x-request-id`.
    pub request_id: Cow<'a, str>,
    /// Who asked.
    pub team: Option<Cow<'a, str>>,
    /// With which key.
    pub key: Option<Cow<'a, str>>,
    /// The model that the client named.
    pub model: Option<Cow<'a, str>>,
    /// The model that the upstream was asked for, where that is another.
    pub upstream_model: Option<Cow<'a, str>>,
    /// Who answered.
    pub provider: Option<Cow<'a, str>>,
    /// Which endpoint of it.
    pub endpoint: Option<Cow<'a, str>>,
    /// Prompt tokens, cached ones included.
    pub input: u64,
    /// Generated tokens, reasoning included.
    pub output: u64,
    /// Prompt tokens that came from a cache.
    pub cached: u64,
    /// Prompt tokens that were put into a cache.
    pub cache_write: u64,
    /// Generated tokens that were reasoning.
    pub reasoning: u64,
    /// Who counted: `upstream`, `counted` or `estimated`; `None` where nothing was.
    pub source: Option<Cow<'a, str>>,
    /// What it cost; `None` where the model has no price.
    #[serde(rename = "cost_pico", with = "pico")]
    pub cost: Option<Money>,
    /// Status that was sent.
    pub status: u16,
    /// How it ended: `complete`, `client_closed`, `upstream_broke`, `refused:CODE` or `aborted`.
    pub end: Cow<'a, str>,
    /// Whether the answer was a stream.
    pub stream: bool,
    /// From arrival to the end.
    pub latency_ms: u64,
    /// From arrival to the first byte of the answer's body.
    pub ttft_ms: Option<u64>,
}

/// A longer name is cut: clients choose some of them.
const TEXT_BYTES_MAX: usize = 256;

// === impl Entry ===

impl<'a> Entry<'a> {
    /// What a request used; `None` for one that no upstream was tried for, and which cost nothing.
    pub fn of(record: &Record<'a>, last: bool) -> Option<Self> {
        if record.attempts == 0 {
            return None;
        }
        let text = |text: Option<&'a str>| text.map(Cow::Borrowed);
        let usage = record.usage;
        let tokens =
            |of: fn(crate::observe::access::Usage) -> u64| usage.map(of).unwrap_or_default();
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or_default();
        Some(Self {
            number: record.number,
            revision: last.into(),
            time_ms: record.time.timestamp_millis(),
            request_id: record.request_id.into(),
            team: text(record.team),
            key: text(record.key),
            model: text(record.model),
            upstream_model: text(record.upstream_model),
            provider: text(record.provider),
            endpoint: text(record.endpoint),
            input: tokens(|usage| usage.input),
            output: tokens(|usage| usage.output),
            cached: tokens(|usage| usage.cached),
            cache_write: tokens(|usage| usage.cache_write),
            reasoning: tokens(|usage| usage.reasoning),
            source: usage.map(|usage| usage.source.into()),
            cost: record.cost,
            status: record.status,
            end: record.end.text(),
            stream: record.stream,
            latency_ms: millis(record.latency),
            ttft_ms: record.first_byte.map(millis),
        })
    }

    /// Appends it as one line of JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut line = Line(out);
        line.0.push(b'{');
        line.number("number", self.number);
        line.number("revision", self.revision.into());
        line.signed("time_ms", Some(self.time_ms));
        line.text("request_id", Some(&self.request_id));
        line.text("team", self.team.as_deref());
        line.text("key", self.key.as_deref());
        line.text("model", self.model.as_deref());
        line.text("upstream_model", self.upstream_model.as_deref());
        line.text("provider", self.provider.as_deref());
        line.text("endpoint", self.endpoint.as_deref());
        line.number("input", self.input);
        line.number("output", self.output);
        line.number("cached", self.cached);
        line.number("cache_write", self.cache_write);
        line.number("reasoning", self.reasoning);
        line.text("source", self.source.as_deref());
        line.signed("cost_pico", self.cost.map(Money::pico));
        line.number("status", self.status.into());
        line.text("end", Some(&self.end));
        line.word("stream", if self.stream { "true" } else { "false" });
        line.number("latency_ms", self.latency_ms);
        line.signed("ttft_ms", self.ttft_ms.map(signed));
        // Instead of the last comma.
        line.0.pop();
        line.0.extend_from_slice(b"}\n");
    }
}

impl Entry<'static> {
    /// Reads a line, with or without its end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(line: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(line)
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A line that is being written: each member ends with a comma.
struct Line<'o>(&'o mut Vec<u8>);

impl Line<'_> {
    fn name(&mut self, name: &str) {
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn word(&mut self, name: &str, word: &str) {
        self.name(name);
        self.0.extend_from_slice(word.as_bytes());
        self.0.push(b',');
    }

    fn number(&mut self, name: &str, number: u64) {
        self.word(name, itoa::Buffer::new().format(number));
    }

    fn signed(&mut self, name: &str, number: Option<i64>) {
        match number {
            Some(number) => self.word(name, itoa::Buffer::new().format(number)),
            None => self.word(name, "null"),
        }
    }

    fn text(&mut self, name: &str, text: Option<&str>) {
        let Some(text) = text else {
            return self.word(name, "null");
        };
        self.name(name);
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text[..end];
        // A Vec takes every write, and every string is JSON.
        let written = serde_json::to_writer(&mut *self.0, text);
        debug_assert!(written.is_ok());
        self.0.push(b',');
    }
}

/// Money as picodollars.
mod pico {
    use super::Money;
    use serde::{Deserialize, Deserializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Money>, D::Error> {
        Option::<i64>::deserialize(deserializer).map(|pico| pico.map(Money::from_pico))
    }
}

// === impl Instance ===

impl Instance {
    /// One that begins now.
    pub fn new(now: SystemTime) -> Self {
        const CHANCE_BITS: u32 = 20;
        let millis = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        let millis = i64::try_from(millis).unwrap_or_default();
        // 43 bits of milliseconds last until the year 2248.
        let chance = i64::from(rand::random::<u32>() >> (u32::BITS - CHANCE_BITS));
        Self(((millis & ((1 << 43) - 1)) << CHANCE_BITS) | chance)
    }

    /// From its column of the store.
    pub(super) const fn of(number: i64) -> Self {
        Self(number)
    }

    /// As a column of the store.
    pub const fn number(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Instance {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        i64::from_str_radix(text, 16).map(Self)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn entry(number: u64) -> Entry<'static> {
        Entry {
            number,
            revision: 1,
            time_ms: 1_767_225_600_123,
            request_id: "r1".into(),
            team: Some("search".into()),
            key: None,
            model: Some("a \"model\"\n\u{0}".into()),
            upstream_model: Some("gpt-4o".into()),
            provider: Some("openai".into()),
            endpoint: Some("api.openai.com".into()),
            input: 7,
            output: 11,
            cached: 3,
            cache_write: 2,
            reasoning: 1,
            source: Some("upstream".into()),
            cost: Some(Money::from_pico(1_234_567)),
            status: 200,
            end: "refused:upstream_failed".into(),
            stream: true,
            latency_ms: 12,
            ttft_ms: None,
        }
    }

    #[test]
    fn an_entry_is_one_line_that_reads_back() {
        let mut line = Vec::new();
        entry(5).write(&mut line);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(Entry::read(&line).unwrap(), entry(5));
    }

    #[test]
    fn every_part_of_a_line_that_was_cut_is_no_entry() {
        let mut line = Vec::new();
        entry(5).write(&mut line);
        for end in 0..line.len() - 1 {
            assert!(Entry::read(&line[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn what_a_client_chose_is_bounded() {
        let mut line = Vec::new();
        Entry {
            model: Some("\u{1}".repeat(100_000).into()),
            // A cut would come within a character.
            key: Some(format!("x{}", "é".repeat(200)).into()),
            ..entry(5)
        }
        .write(&mut line);
        assert!(line.len() < 4096, "{}", line.len());
        let key = Entry::read(&line).unwrap().key.unwrap();
        assert_eq!(key.len(), TEXT_BYTES_MAX - 1);
    }

    #[test]
    fn an_instance_is_a_name_that_reads_back_and_comes_once() {
        let now = SystemTime::now();
        let (one, other) = (Instance::new(now), Instance::new(now));
        assert_ne!(one, other);
        assert_eq!(one.to_string().parse(), Ok(one));
        assert_eq!(one.to_string().len(), 16);
        let later = Instance::new(now + std::time::Duration::from_millis(1));
        assert!(later > one && one.number() > 0);
    }
}
