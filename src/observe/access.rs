//! The access log's record: one a request, at its end.

use crate::types::Money;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// Everything that is known of a request when it is over.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// When it arrived.
    pub time: chrono::DateTime<chrono::Utc>,
    /// Its number in this process.
    pub number: u64,
    /// `x-request-id`.
    pub request_id: &'a str,
    /// Trace id of `traceparent`.
    pub trace_id: &'a str,
    /// The client's address, as a trusted proxy or the socket says.
    pub client_ip: Option<std::net::IpAddr>,
    /// Who the client is by its certificate: a URI or a subject.
    pub client_cert: Option<&'a str>,
    /// HTTP method.
    pub method: &'a str,
    /// Path without query: a query may hold a key.
    pub path: &'a str,
    /// Status that was sent; 499 when the client left before one was.
    pub status: u16,
    /// From arrival to the end.
    pub latency: Duration,
    /// From arrival to the first byte of the answer's body.
    pub first_byte: Option<Duration>,
    /// From the request's last byte to the choice of an upstream.
    pub overhead: Option<Duration>,
    /// Who asked.
    pub team: Option<&'a str>,
    /// With which key.
    pub key: Option<&'a str>,
    /// The model that the client named.
    pub model: Option<&'a str>,
    /// The route's name: what may become a metric's label.
    pub model_label: Option<&'a str>,
    /// The model that the upstream was asked for.
    pub upstream_model: Option<&'a str>,
    /// Who answered.
    pub provider: Option<&'a str>,
    /// Which endpoint of it.
    pub endpoint: Option<&'a str>,
    /// `direct` or `proxy`.
    pub road: Option<&'static str>,
    /// Tries at upstreams.
    pub attempts: u32,
    /// Those of them that failed, in order.
    pub failed_tries: &'a [FailedTry],
    /// The prompt's tokens as they were estimated before it was sent, where that was asked for.
    pub estimate: Option<u64>,
    /// What was used.
    pub usage: Option<Usage>,
    /// What that cost, where it has a price.
    pub cost: Option<Money>,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// Whether the answer was a stream of events.
    pub stream: bool,
    /// How it ended.
    pub end: End<'a>,
}

/// A try at an upstream that failed.
#[derive(Clone, Debug)]
pub struct FailedTry {
    /// Whose endpoint.
    pub provider: Arc<str>,
    /// Which endpoint of it.
    pub endpoint: Arc<str>,
    /// What went wrong: an `error_type` of the metrics.
    pub error: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// Tokens of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
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
    /// Seconds of sound that were heard; 0 is none, or not known.
    pub audio_seconds: u64,
    /// Pictures that were made.
    pub images: u64,
    /// Characters that were read out.
    pub characters: u64,
    /// `upstream`, `counted` or `estimated`.
    pub source: &'static str,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// The answer was delivered whole.
    Complete,
    /// The client left first.
    ClientClosed,
    /// The upstream broke off after the answer had begun.
    UpstreamBroke,
    /// weir answered by itself, with this code.
    Refused(&'a str),
    /// weir gave up by a fault of its own.
    Aborted,
}

/// A field's value; both forms of the log are written from one list of fields.
#[derive(Clone, Copy)]
enum Value<'a> {
    None,
    Text(&'a str),
    /// A number, written already.
    Raw(&'a str),
    Number(u64),
    /// Milliseconds with three decimals.
    Millis(Duration),
    Truth(bool),
}

/// A list of JSON.
fn told(tries: &[FailedTry]) -> String {
    let tries = tries.iter().map(|it| {
        serde_json::json!({
            "provider": *it.provider,
            "endpoint": *it.endpoint,
            "error": it.error,
            "ms": it.took.as_micros() as f64 / 1000.0,
        })
    });
    serde_json::Value::Array(tries.collect()).to_string()
}

impl<'a> Record<'a> {
    /// A request whose head was refused before anything in it was understood.
    pub fn of_refused_head(client: Option<std::net::IpAddr>, status: u16, end: End<'a>) -> Self {
        Self {
            time: chrono::Utc::now(),
            number: 0,
            request_id: "",
            trace_id: "",
            client_ip: client,
            client_cert: None,
            method: "",
            path: "",
            status,
            latency: Duration::ZERO,
            first_byte: None,
            overhead: None,
            team: None,
            key: None,
            model: None,
            model_label: None,
            upstream_model: None,
            provider: None,
            endpoint: None,
            road: None,
            attempts: 0,
            failed_tries: &[],
            estimate: None,
            usage: None,
            cost: None,
            bytes_in: 0,
            bytes_out: 0,
            stream: false,
            end,
        }
    }

    /// Mean gap between the tokens of a stream; `None` where there were fewer than two.
    pub fn inter_token(&self) -> Option<Duration> {
        let tokens = self.usage.filter(|_| self.stream)?.output;
        let gaps = u32::try_from(tokens.checked_sub(1)?).ok()?;
        let streaming = self.latency.checked_sub(self.first_byte?)?;
        streaming.checked_div(gaps)
    }

    /// Appends the record as one line of JSON.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut separator = b'{';
        self.fields(&mut |name, value| {
            out.push(separator);
            separator = b',';
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            value.write(out);
        });
        out.extend_from_slice(b"}\n");
    }

    /// Appends the record as one line of `key=value`; a value with a space or a quote is a JSON string.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.fields(&mut |name, value| {
            if matches!(value, Value::None) {
                return;
            }
            if out.len() > start {
                out.push(b' ');
            }
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            match value {
                Value::Text(text) if is_plain(text) => out.extend_from_slice(text.as_bytes()),
                other => other.write(out),
            }
        });
        out.push(b'\n');
    }

    /// All fields in order.
    fn fields(&self, field: &mut impl FnMut(&'static str, Value<'_>)) {
        let text = |text: Option<&'a str>| text.map_or(Value::None, Value::Text);
        let known = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        let number = |number: Option<u64>| number.map_or(Value::None, Value::Number);
        let time = self
            .time
            .to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let client = self.client_ip.map(|ip| ip.to_string());
        let usage = self.usage.as_ref();
        field("time", Value::Text(&time));
        field("request_id", text(known(self.request_id)));
        field(
            "client_ip",
            client.as_deref().map_or(Value::None, Value::Text),
        );
        field("client_cert", text(self.client_cert));
        field("method", text(known(self.method)));
        field("path", text(known(self.path)));
        field("status", Value::Number(self.status.into()));
        field("latency_ms", Value::Millis(self.latency));
        field(
            "ttft_ms",
            self.first_byte.map_or(Value::None, Value::Millis),
        );
        field("team", text(self.team));
        field("key", text(self.key));
        field("model", text(self.model));
        field("upstream_model", text(self.upstream_model));
        field("provider", text(self.provider));
        field("endpoint", text(self.endpoint));
        field("road", text(self.road));
        field("attempts", Value::Number(self.attempts.into()));
        if !self.failed_tries.is_empty() {
            let tries = told(self.failed_tries);
            field("failed_tries", Value::Raw(&tries));
        }
        if self.estimate.is_some() {
            field("estimated_input_tokens", number(self.estimate));
        }
        field("input_tokens", number(usage.map(|usage| usage.input)));
        field("output_tokens", number(usage.map(|usage| usage.output)));
        field("cached_tokens", number(usage.map(|usage| usage.cached)));
        field(
            "reasoning_tokens",
            number(usage.map(|usage| usage.reasoning)),
        );
        if let Some(usage) = usage {
            for (name, count) in [
                ("audio_seconds", usage.audio_seconds),
                ("images", usage.images),
                ("characters", usage.characters),
            ] {
                if count > 0 {
                    field(name, Value::Number(count));
                }
            }
        }
        field("token_source", text(usage.map(|usage| usage.source)));
        let cost = self.cost.map(|cost| cost.to_string());
        field("cost_usd", cost.as_deref().map_or(Value::None, Value::Raw));
        field("bytes_in", Value::Number(self.bytes_in));
        field("bytes_out", Value::Number(self.bytes_out));
        field("stream", Value::Truth(self.stream));
        field("end", Value::Text(&self.end.text()));
        field("trace_id", text(known(self.trace_id)));
    }
}

impl Value<'_> {
    /// Appends the value as JSON.
    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::None => out.extend_from_slice(b"null"),
            Self::Truth(truth) => out.extend_from_slice(if truth { b"true" } else { b"false" }),
            Self::Number(number) => write_number(number, out),
            Self::Raw(number) => out.extend_from_slice(number.as_bytes()),
            Self::Millis(duration) => {
                let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
                write_number(micros / 1000, out);
                let rest = micros % 1000;
                let digit = |n: u64| b'0' + u8::try_from(n % 10).unwrap_or_default();
                out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
            }
            Self::Text(text) => {
                // A Vec takes every write, and every string is JSON.
                let written = serde_json::to_writer(out, text);
                debug_assert!(written.is_ok());
            }
        }
    }
}

impl End<'_> {
    /// In one word; `refused:CODE` for a refusal.
    pub fn text(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Complete => "complete",
            Self::ClientClosed => "client_closed",
            Self::UpstreamBroke => "upstream_broke",
            Self::Refused(code) => return format!("refused:{code}").into(),
            Self::Aborted => "aborted",
        })
    }
}

fn write_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'=' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        Record {
            time: chrono::DateTime::from_timestamp_millis(1_767_225_600_123).unwrap(),
            number: 1,
            request_id: "r1",
            trace_id: "t1",
            client_ip: Some([192, 0, 2, 1].into()),
            client_cert: None,
            method: "POST",
            path: "/v1/chat/completions",
            status: 200,
            latency: Duration::from_micros(12_345),
            first_byte: Some(Duration::from_micros(2_345)),
            overhead: None,
            team: None,
            key: None,
            model: Some("a model\n\"x\""),
            model_label: Some("gpt*"),
            upstream_model: None,
            provider: Some("openai"),
            endpoint: Some("api.openai.com"),
            road: Some("direct"),
            attempts: 1,
            failed_tries: &[],
            estimate: None,
            usage: Some(Usage {
                input: 7,
                output: 11,
                cached: 0,
                cache_write: 0,
                reasoning: 0,
                audio_seconds: 0,
                images: 0,
                characters: 0,
                source: "upstream",
            }),
            cost: Money::from_usd(0.0125),
            bytes_in: 1,
            bytes_out: 2,
            stream: true,
            end: End::Refused("no_route"),
        }
    }

    #[test]
    fn a_json_record_is_one_line_that_reads_back() {
        let mut out = Vec::new();
        record().write_json(&mut out);
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
        let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(line["time"], "2026-01-01T00:00:00.123Z");
        assert_eq!(line["latency_ms"], 12.345);
        assert_eq!(line["model"], "a model\n\"x\"");
        assert_eq!(line["end"], "refused:no_route");
        assert_eq!(line["output_tokens"], 11);
        assert_eq!(line["cost_usd"], 0.0125);
    }

    #[test]
    fn a_text_record_quotes_what_could_be_misread() {
        let mut out = Vec::new();
        record().write_text(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(r#" model="a model\n\"x\"" "#), "{text}");
        assert!(text.contains(" status=200 "), "{text}");
        assert!(!text.contains("team="), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn the_gap_between_tokens_is_the_mean() {
        assert_eq!(record().inter_token(), Some(Duration::from_millis(1)));
        let mut one = record();
        one.usage.as_mut().unwrap().output = 1;
        assert_eq!(one.inter_token(), None);
    }
}
