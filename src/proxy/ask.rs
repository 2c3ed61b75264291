//! Usage that weir asks for in the client's stead (`stream_options.include_usage`), and providers that
//! refuse the request because of it.
//!
//! Such a refusal is weir's doing and none of the client's business: the same endpoint is tried once
//! more without the option, and remembered when that goes well. So a refusal that comes after weir
//! has asked is held back until its body is whole: names it the option, the try is repeated, else it
//! goes to the client as it came. A repeated try's answer goes to the client whatever it is: it is the
//! answer to what the client sent.

use super::journey::Journey;
use super::plan::Surface;
use crate::dialect::openai::request::Asked;
use crate::govern::Hold;
use crate::upstream::{Endpoint, EndpointId, IncludeUsage, Provider};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use pingora::{Error, ErrorType};
use std::time::Instant;

/// The upstream refused a request because weir asks for usage.
pub const USAGE_REFUSED: ErrorType = ErrorType::Custom("UsageRefused");

/// A longer refusal isn't held back: nobody writes that much about one field.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Whether to ask this endpoint for usage in the client's stead.
pub fn asks(
    surface: Surface,
    unasked: Option<EndpointId>,
    asked: Option<&Asked>,
    provider: &Provider,
    endpoint: &Endpoint,
) -> bool {
    let open = surface.takes_usage_option()
        && asked.is_some_and(|asked| asked.can_ask_usage() && !asked.include_usage);
    open && may_ask(unasked, provider, endpoint)
}

/// Whether this endpoint may be asked for usage.
pub fn may_ask(unasked: Option<EndpointId>, provider: &Provider, endpoint: &Endpoint) -> bool {
    match provider.include_usage {
        IncludeUsage::Always => true,
        IncludeUsage::Never => false,
        IncludeUsage::Auto => unasked.is_none() && !endpoint.refuses_usage(Instant::now()),
    }
}

/// A refusal that may be of weir's asking.
#[derive(Debug)]
pub struct Suspect {
    body: BytesMut,
    hold: Hold,
}

/// What is known of a suspect now.
pub enum Verdict {
    /// More of its body must be seen.
    Open,
    /// weir's asking is the reason.
    Ours,
    /// It goes to the client; this is what was held of its body.
    Theirs(Bytes),
}

impl Suspect {
    /// A refusal whose head has come; `None` where weir's asking can't be the reason, or nothing could
    /// be read.
    pub fn of(journey: &Journey, status: StatusCode, encoded: bool) -> Option<Self> {
        let refused = matches!(
            status,
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY
        );
        let current = journey.attempt.as_ref()?;
        let provider = journey
            .snapshot
            .upstreams
            .provider(current.attempt.endpoint().provider);
        let may_be = refused && !encoded && current.asks_usage;
        (may_be && provider.include_usage == IncludeUsage::Auto).then(|| Self {
            body: BytesMut::new(),
            hold: journey.snapshot.governor.buffers().hold(),
        })
    }

    /// Takes a piece of its body.
    pub fn feed(&mut self, piece: &[u8], end: bool) -> Verdict {
        let size = self.body.len() + piece.len();
        let fits = size <= REFUSAL_BYTES_MAX && self.hold.grow_to(size).is_ok();
        self.body.extend_from_slice(piece);
        match (fits, end) {
            (true, false) => Verdict::Open,
            (true, true) if names_the_option(&self.body) => Verdict::Ours,
            _ => Verdict::Theirs(self.body.split().freeze()),
        }
    }
}

/// A refusal without a word may be for anything: for weir's asking, too.
fn names_the_option(refusal: &[u8]) -> bool {
    let names = |name: &[u8]| memchr::memmem::find(refusal, name).is_some();
    refusal.is_empty() || names(b"stream_options") || names(b"include_usage")
}

/// The error that makes Pingora try again.
pub fn refused() -> Box<Error> {
    Error::explain(USAGE_REFUSED, "the upstream refuses to report usage").into_up()
}

/// Makes the next try the same as this one, but without asking.
pub fn ask_no_more(journey: &mut Journey) {
    if let Some(plan) = journey.plan.as_mut() {
        plan.unasked = journey.attempt.as_ref().map(|it| it.choice.endpoint);
        plan.course.again();
        plan.body.let_go();
    }
    journey.reply = Default::default();
}

/// A try without asking has gone well after one with it was refused: asking is the reason.
pub fn learn(journey: &Journey) {
    let (Some(plan), Some(current)) = (&journey.plan, &journey.attempt) else {
        return;
    };
    let endpoint = current.attempt.endpoint();
    let now = Instant::now();
    let repeated = plan.unasked == Some(current.choice.endpoint);
    if !repeated || endpoint.refuses_usage(now) {
        return;
    }
    endpoint.usage_refused(now);
    let provider = &journey.snapshot.upstreams.provider(endpoint.provider).name;
    tracing::info!(
        %provider,
        endpoint = %endpoint.name,
        "refuses stream_options.include_usage; its streams are counted for a day before it is asked again"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::govern::Buffers;

    fn suspect(buffers: &Buffers) -> Suspect {
        Suspect {
            body: BytesMut::new(),
            hold: buffers.hold(),
        }
    }

    fn is_ours(pieces: &[&[u8]]) -> bool {
        let buffers = Buffers::new(1 << 20);
        let mut suspect = suspect(&buffers);
        for piece in pieces {
            assert!(matches!(suspect.feed(piece, false), Verdict::Open));
        }
        match suspect.feed(b"", true) {
            Verdict::Ours => true,
            Verdict::Theirs(body) => {
                assert_eq!(body, pieces.concat(), "not a byte is lost");
                false
            }
            Verdict::Open => panic!("it is whole"),
        }
    }

    #[test]
    fn refusals_of_real_servers_are_known_wherever_they_are_cut() {
        for refusal in [
            r#"{"object":"error","message":"[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not permitted'}]","code":400}"#,
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted","input":{"include_usage":true}}]}"#,
            r#"{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error","param":null,"code":null}}"#,
            r#"{"error":"unknown field `include_usage`"}"#,
        ] {
            for cut in 0..refusal.len() {
                let (a, b) = refusal.as_bytes().split_at(cut);
                assert!(is_ours(&[a, b]), "{refusal} cut at {cut}");
            }
        }
        assert!(is_ours(&[]), "no word");
        let other = r#"{"error":{"message":"This model's maximum context length is 8192 tokens","param":"messages"}}"#;
        assert!(!is_ours(&[other.as_bytes()]));
    }

    #[test]
    fn a_long_refusal_is_let_go_at_the_limit() {
        let buffers = Buffers::new(1 << 20);
        let mut at = suspect(&buffers);
        assert!(matches!(
            at.feed(&vec![b'x'; REFUSAL_BYTES_MAX], false),
            Verdict::Open
        ));
        assert_eq!(buffers.held(), REFUSAL_BYTES_MAX);
        let Verdict::Theirs(body) = at.feed(b"y", false) else {
            panic!("one past it")
        };
        assert_eq!(body.len(), REFUSAL_BYTES_MAX + 1);
        drop(at);
        assert_eq!(buffers.held(), 0);
    }

    #[test]
    fn a_refusal_is_let_go_where_the_host_may_hold_no_more() {
        let buffers = Buffers::new(10);
        let mut full = suspect(&buffers);
        assert!(matches!(full.feed(b"0123456789", false), Verdict::Open));
        assert!(matches!(full.feed(b"x", false), Verdict::Theirs(body) if body.len() == 11));
    }
}
