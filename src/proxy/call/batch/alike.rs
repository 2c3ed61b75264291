//! Which requests an upstream couldn't tell apart but for their input: those alone become one call.

use crate::proxy::journey::Journey;
use crate::proxy::plan::{CREDENTIALS, Plan};
use crate::snapshot::Snapshot;
use crate::types::{HeaderEdits, Piece};
use http::{HeaderName, header};
use pingora::http::RequestHeader;
use std::fmt::Write;

/// What differs from request to request, and of which one stands for all: who asks, and how the connection
/// is used. `x-stainless-*` is the SDKs' account of themselves.
const APART: [HeaderName; 19] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::EXPECT,
    header::USER_AGENT,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// The same for requests that are alike: configuration, path, the fallbacks that their callers may use,
/// what of the head goes on to the upstream, and `rest`, the body without its input.
pub fn key(
    snapshot: &Snapshot,
    journey: &Journey,
    plan: &Plan,
    head: &RequestHeader,
    rest: &[u8],
) -> Vec<u8> {
    let arrival = &journey.arrival;
    let mut key = format!(
        "{:p}\n{:?}\n{}\n{:?}\n",
        snapshot, plan.label, arrival.path, arrival.query
    );
    for fallback in plan.course.fallbacks() {
        let _ = writeln!(key, "{fallback:?}");
    }
    let mut providers: Vec<_> = (plan.course.candidates())
        .map(|choice| snapshot.upstreams.endpoint(choice.endpoint).provider)
        .map(|provider| snapshot.upstreams.provider(provider))
        .collect();
    providers.dedup_by_key(|provider| std::ptr::from_ref(*provider));
    let stay = !snapshot.keys.is_open() || providers.iter().all(|it| it.has_own_account());
    for (name, value) in &head.headers {
        let apart = APART.contains(name)
            || name.as_str().starts_with("x-stainless-")
            || stay && CREDENTIALS.contains(name);
        if !apart {
            let _ = writeln!(key, "{name}: {}", value.as_bytes().escape_ascii());
        }
    }
    let tell_who =
        |edits: &HeaderEdits| edits.set.iter().any(|(_, it)| it.pieces.iter().any(is_who));
    if tell_who(&snapshot.corridor.request_headers)
        || providers.iter().any(|provider| tell_who(&provider.headers))
    {
        let caller = arrival.caller.as_ref();
        let caller = caller.map(|caller| (&caller.team.name, &caller.key.name));
        let identity = arrival.identity.as_ref().map(|identity| identity.name());
        let _ = writeln!(key, "{:?} {identity:?} {caller:?}", arrival.client);
    }
    let mut key = key.into_bytes();
    key.extend_from_slice(rest);
    key
}

/// An operator's header says it of the caller.
fn is_who(piece: &Piece) -> bool {
    match piece {
        Piece::ClientIp | Piece::ClientCert | Piece::Team | Piece::Key => true,
        Piece::Text(_) | Piece::RequestId | Piece::Model => false,
    }
}
