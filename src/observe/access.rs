//! The access log's record: one a request, at its end.

use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// Everything that is known of a request when it is over.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// When it arrived.
    pub time: chrono::DateTime<chrono::Utc>,
    /// `x-request-id`.
    pub request_id: &'a str,
    /// Trace id of `traceparent`.
    pub trace_id: &'a str,
    /// The client's address, as a trusted proxy or the socket says.
    pub client_ip: Option<std::net::IpAddr>,
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
    /// What was used.
    pub usage: Option<Usage>,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// Whether the answer was a stream of events.
    pub stream: bool,
    /// How it ended.
    pub end: End<'a>,
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
    /// Generated tokens that were reasoning.
    pub reasoning: u64,
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

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    request_id: &'a str,
    client_ip: Option<std::net::IpAddr>,
    method: &'a str,
    path: &'a str,
    status: u16,
    latency_ms: f64,
    ttft_ms: Option<f64>,
    team: Option<&'a str>,
    key: Option<&'a str>,
    model: Option<&'a str>,
    upstream_model: Option<&'a str>,
    provider: Option<&'a str>,
    endpoint: Option<&'a str>,
    road: Option<&'a str>,
    attempts: u32,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
    token_source: Option<&'a str>,
    cost_usd: Option<f64>,
    bytes_in: u64,
    bytes_out: u64,
    stream: bool,
    end: End<'a>,
    trace_id: &'a str,
}

impl<'a> Record<'a> {
    /// A request whose head was refused before anything in it was understood.
    pub fn of_refused_head(client: std::net::IpAddr, status: u16, end: End<'a>) -> Self {
        Self {
            time: chrono::Utc::now(),
            request_id: "",
            trace_id: "",
            client_ip: Some(client),
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
            usage: None,
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
        if let Err(error) = serde_json::to_writer(&mut *out, &self.line()) {
            tracing::error!(%error, "an access record could not be written");
        }
        out.push(b'\n');
    }

    /// Appends the record as one line of `key=value`; a value with a space or a quote is a JSON string.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        let line = serde_json::to_value(self.line()).unwrap_or_default();
        let fields = line.as_object().into_iter().flatten();
        for (n, (name, value)) in fields.filter(|(_, value)| !value.is_null()).enumerate() {
            let gap = if n == 0 { "" } else { " " };
            let written = match value.as_str() {
                Some(text) if is_plain(text) => write!(out, "{gap}{name}={text}"),
                _ => write!(out, "{gap}{name}={value}"),
            };
            debug_assert!(written.is_ok(), "a Vec takes every write");
        }
        out.push(b'\n');
    }

    fn line(&self) -> Line<'a> {
        let usage = self.usage;
        Line {
            time: self
                .time
                .to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            request_id: self.request_id,
            client_ip: self.client_ip,
            method: self.method,
            path: self.path,
            status: self.status,
            latency_ms: millis(self.latency),
            ttft_ms: self.first_byte.map(millis),
            team: self.team,
            key: self.key,
            model: self.model,
            upstream_model: self.upstream_model,
            provider: self.provider,
            endpoint: self.endpoint,
            road: self.road,
            attempts: self.attempts,
            input_tokens: usage.map(|usage| usage.input),
            output_tokens: usage.map(|usage| usage.output),
            cached_tokens: usage.map(|usage| usage.cached),
            reasoning_tokens: usage.map(|usage| usage.reasoning),
            token_source: usage.map(|usage| usage.source),
            cost_usd: None,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            stream: self.stream,
            end: self.end,
            trace_id: self.trace_id,
        }
    }
}

impl Serialize for End<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Complete => serializer.serialize_str("complete"),
            Self::ClientClosed => serializer.serialize_str("client_closed"),
            Self::UpstreamBroke => serializer.serialize_str("upstream_broke"),
            Self::Refused(code) => serializer.collect_str(&format_args!("refused:{code}")),
            Self::Aborted => serializer.serialize_str("aborted"),
        }
    }
}

/// Milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 285 years")]
    let micros = duration.as_micros() as f64;
    micros / 1000.0
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
            request_id: "r1",
            trace_id: "t1",
            client_ip: Some([192, 0, 2, 1].into()),
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
            usage: Some(Usage {
                input: 7,
                output: 11,
                cached: 0,
                reasoning: 0,
                source: "upstream",
            }),
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
