//! First step: when the request came, from whom, under which id and trace.

use super::journey::Journey;
use crate::govern::Caller;
use crate::types::identity::Identity;
use crate::types::{Tenant, client_network};
use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use ipnet::IpNet;
use pingora::http::RequestHeader;
use pingora_proxy::Session;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What is known of a request before its body is read.
#[derive(Debug)]
pub struct Arrival {
    /// When its head was complete.
    pub started: Instant,
    /// The same on the wall.
    pub time: DateTime<Utc>,
    /// Its number in this process, from 1 on.
    pub number: u64,
    /// `x-request-id`: a UUIDv7, or what a trusted proxy gave.
    pub request_id: String,
    /// Who holds the other end of the socket.
    pub peer: Option<IpAddr>,
    /// The client, as the socket or a trusted proxy says.
    pub client: Option<IpAddr>,
    /// Who the client is by its certificate.
    pub identity: Option<Arc<Identity>>,
    /// Which team's key it shows; written by the plan, `None` where nobody needs one.
    pub caller: Option<Caller>,
    /// It came by TLS.
    pub secure: bool,
    /// `Strict-Transport-Security` of its listener (RFC 6797).
    pub hsts: Option<HeaderValue>,
    /// The socket's peer may speak for others.
    pub trusted: bool,
    /// The trace that it belongs to.
    pub trace: Trace,
    /// Its method.
    pub method: Method,
    /// Its path without the query.
    pub path: String,
    /// Its query.
    pub query: Option<String>,
}

/// W3C trace context, level 1.
#[derive(Debug, Default)]
pub struct Trace {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Flags as the client sent them; `00` (not sampled) for a trace that begins here.
    pub flags: u8,
}

impl Arrival {
    /// An arrival of which only the time is known.
    pub fn now() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        Self {
            started: Instant::now(),
            time: Utc::now(),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            request_id: String::new(),
            peer: None,
            client: None,
            identity: None,
            caller: None,
            secure: false,
            hsts: None,
            trusted: false,
            trace: Trace::default(),
            method: Method::GET,
            path: String::new(),
            query: None,
        }
    }

    /// Whose requests it takes turns with, where it must wait.
    pub fn tenant(&self) -> Tenant {
        let team = self.caller.as_ref().map(|caller| &caller.team.name);
        match (team, self.client) {
            (Some(team), _) => Tenant::Team(Arc::clone(team)),
            (None, Some(client)) => Tenant::Address(client_network(client)),
            (None, None) => Tenant::Nobody,
        }
    }
}

/// Fills in the arrival and sets the deadlines of the client's side.
pub fn arrive(session: &mut Session, journey: &mut Journey) {
    let corridor = &journey.snapshot.corridor;
    session.set_write_timeout(Some(corridor.timeouts.idle));
    session.set_read_timeout(Some(corridor.timeouts.client_body));
    if journey.snapshot.governor.ending().is_draining() {
        session.set_keepalive(None);
    }
    let peer = session
        .client_addr()
        .and_then(|address| address.as_inet())
        .map(|address| address.ip().to_canonical());
    if let Some(secured) = session.digest().and_then(crate::listen::secured) {
        journey.arrival.secure = true;
        journey.arrival.identity.clone_from(&secured.with.identity);
        journey.arrival.hsts.clone_from(&secured.hsts);
    }
    forget_case(session.req_header_mut());
    if !wants_websocket(session.req_header()) {
        // RFC 9110, section 7.8: a server may go on in the protocol that is spoken.
        session.req_header_mut().remove_header(&header::UPGRADE);
    }
    let request = session.req_header();
    let headers = &request.headers;
    let arrival = &mut journey.arrival;
    // A Unix socket's peer has no address and is of this host; the socket's file says who may connect.
    arrival.trusted = peer.is_none_or(|peer| is_trusted(peer, &corridor.trusted_proxies));
    let peer = peer.or(Some(Ipv4Addr::LOCALHOST.into()));
    arrival.peer = peer;
    arrival.client = peer;
    let mut given_id = None;
    if arrival.trusted {
        arrival.client = forwarded_for(headers, &corridor.trusted_proxies).or(peer);
        given_id = headers.get("x-request-id").and_then(usable_id);
    }
    let unique = uuid::Builder::from_unix_timestamp_millis(
        u64::try_from(arrival.time.timestamp_millis()).unwrap_or_default(),
        &rand::random(),
    )
    .into_uuid();
    arrival.request_id = given_id.unwrap_or_else(|| unique.to_string());
    arrival.trace = headers
        .get("traceparent")
        .and_then(trace_of)
        .unwrap_or_else(|| Trace {
            id: unique.simple().to_string(),
            flags: 0,
        });
    arrival.method = request.method.clone();
    arrival.path = request.uri.path().to_owned();
    arrival.query = request.uri.query().map(str::to_owned);
}

/// Pingora keeps each header's name as it was written, in a second map beside the first. Names are
/// case-insensitive (RFC 9110, section 5.1); without that map a head is smaller and cheaper.
fn forget_case(head: &mut RequestHeader) {
    let (empty, ()) = http::Request::new(()).into_parts();
    let whole = std::mem::replace(head, RequestHeader::from(empty));
    *head = RequestHeader::from(http::request::Parts::from(whole));
}

/// The one other protocol that weir passes on (RFC 6455, section 4.1). Pingora takes any `Upgrade`
/// for a request without a body of its own.
fn wants_websocket(head: &RequestHeader) -> bool {
    let has = |name: HeaderName, token: &str| {
        head.headers.get_all(name).iter().any(|value| {
            let mut tokens = value.as_bytes().split(|byte| *byte == b',');
            tokens.any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        })
    };
    head.method == Method::GET
        && has(header::UPGRADE, "websocket")
        && has(header::CONNECTION, "upgrade")
        && !head.headers.contains_key(header::CONTENT_LENGTH)
        && !head.headers.contains_key(header::TRANSFER_ENCODING)
}

fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&peer))
}

/// The client that trusted proxies vouch for: the last address of `X-Forwarded-For` that isn't one
/// of theirs, else `X-Real-IP`. Anything further to the left the client may have made up.
fn forwarded_for(headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut outermost = None;
    for value in headers.get_all("x-forwarded-for").iter().rev() {
        for part in value.to_str().ok()?.rsplit(',') {
            let address = address_of(part)?;
            outermost = Some(address);
            if !is_trusted(address, trusted) {
                return Some(address);
            }
        }
    }
    outermost.or_else(|| address_of(headers.get("x-real-ip")?.to_str().ok()?))
}

/// An address, perhaps with a port, IPv6 perhaps in brackets.
fn address_of(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    let bare = text.strip_prefix('[')?.strip_suffix(']')?;
    bare.parse::<IpAddr>().ok()
}

fn usable_id(value: &HeaderValue) -> Option<String> {
    const LENGTH_MAX: usize = 128;
    let text = value.to_str().ok()?;
    let usable = !text.is_empty() && text.len() <= LENGTH_MAX && !text.contains(' ');
    usable.then(|| text.to_owned())
}

/// Reads `traceparent`: version, trace id, parent id, flags. An id of zeros or upper case is invalid.
fn trace_of(value: &HeaderValue) -> Option<Trace> {
    let text = value.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, id) = (parts.next()?, parts.next()?);
    let (parent, flags) = (parts.next()?, parts.next()?);
    let hex = |part: &str, length: usize| {
        part.len() == length
            && part
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zeros = |part: &str| part.bytes().all(|b| b == b'0');
    let valid = hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && hex(id, 32)
        && !zeros(id)
        && hex(parent, 16)
        && !zeros(parent)
        && hex(flags, 2);
    valid.then(|| Trace {
        id: id.to_owned(),
        flags: u8::from_str_radix(flags, 16).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let trusted = [
            "127.0.0.0/8".parse().unwrap(),
            "10.0.0.0/8".parse().unwrap(),
        ];
        let client = |pairs: &[(&'static str, &str)]| {
            forwarded_for(&headers(pairs), &trusted).map(|ip| ip.to_string())
        };
        let given = &[("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.1.1.1")];
        assert_eq!(client(given).as_deref(), Some("192.0.2.7"));
        let twice = &[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "[2001:db8::1]:443"),
        ];
        assert_eq!(client(twice).as_deref(), Some("2001:db8::1"));
        let inside = &[("x-forwarded-for", "10.9.9.9, 10.1.1.1")];
        assert_eq!(client(inside).as_deref(), Some("10.9.9.9"));
        let real = &[("x-real-ip", "192.0.2.9")];
        assert_eq!(client(real).as_deref(), Some("192.0.2.9"));
        assert_eq!(client(&[("x-forwarded-for", "unknown")]), None);
    }

    #[test]
    fn a_trace_goes_on_only_when_its_header_is_valid() {
        let read = |text: &str| trace_of(&text.parse().unwrap()).map(|trace| trace.flags);
        let id = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(read(&format!("00-{id}-b7ad6b7169203331-01")), Some(1));
        assert_eq!(read(&format!("01-{id}-b7ad6b7169203331-01-x")), Some(1));
        for bad in [
            format!("00-{id}-b7ad6b7169203331-01-x"),
            format!("ff-{id}-b7ad6b7169203331-01"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{id}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", id.to_uppercase()),
            "00".to_owned(),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
