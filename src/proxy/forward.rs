//! Fourth step: the request as the upstream gets it.

use super::carriage::Carriage;
use super::connect::{Sent, Try};
use super::journey::Journey;
use super::peek::Body;
use super::plan::{
    CREDENTIALS, X_WEIR_PRIORITY, model_in_path, shown_secret, without_keys,
    without_subprotocol_keys,
};
use super::plan::{Plan, Surface};
use super::refuse::Refusal;
use crate::dialect::bedrock::sign;
use crate::dialect::provider::{KeyHeader, reroute};
use crate::route::join;
use crate::tokens::meter;
use crate::types::{HeaderEdits, Piece, Template};
use crate::upstream::settings::AwsKeys;
use crate::upstream::{Provider, credential};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Uri, Version, header};
use pingora::Result;
use pingora::http::RequestHeader;
use std::borrow::Cow;
use std::fmt::Write;
use std::time::{Instant, SystemTime};

/// What a client says about where it comes from; believed from trusted proxies only.
const FORWARDED: [HeaderName; 6] = [
    header::FORWARDED,
    X_FORWARDED_FOR,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
];
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The request's id, on the way up and on the way down.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Rewrites the head: URL, host, credentials, framing, tracing, the operator's edits. Pingora has
/// already dropped what is hop-by-hop (RFC 9110, section 7.6.1).
pub fn head(request: &mut RequestHeader, journey: &mut Journey) -> Result<()> {
    if let Some(current) = journey.attempt.as_mut() {
        let http2 = request.version == Version::HTTP_2;
        current.sent = Some(Sent {
            at: Instant::now(),
            http2,
        });
        if let Some(lead) = current.lead.take() {
            lead.connected(http2);
        }
    }
    rewrite(request, journey)
}

/// The same for a call of weir's own, which hasn't a connection yet.
///
/// # Errors
/// When the URL can't be made.
pub fn rewrite(request: &mut RequestHeader, journey: &Journey) -> Result<()> {
    let (Some(plan), Some(current)) = (&journey.plan, &journey.attempt) else {
        return Err(Refusal::NoRoute(journey.arrival.path.clone()).into());
    };
    let endpoint = current.attempt.endpoint();
    let provider = journey.snapshot.upstreams.provider(endpoint.provider);
    let carriage = current.carriage.as_deref();
    request.set_uri(match carriage {
        Some(carriage) => carried_url(carriage)?,
        None => url(journey, plan, provider, current)?,
    });
    request.insert_header(header::HOST, &endpoint.host_header)?;
    let renewed = || {
        let value = provider.renewed.as_ref()?.value(Instant::now())?;
        Some((header::AUTHORIZATION, value))
    };
    let own = provider.credential.clone().or_else(renewed).or_else(|| {
        let dialect = provider.dialect.as_ref().filter(|_| carriage.is_some())?;
        theirs(request, journey, dialect.dialect.key_header())
    });
    credentials(request, journey, own, provider.has_own_account())?;
    if let Some(carriage) = carriage {
        translate(request, carriage)?;
        if let Some(within) = deadline(journey, carriage) {
            request.insert_header("grpc-timeout", within)?;
        }
    }
    request.remove_header(&header::PROXY_AUTHORIZATION);
    request.remove_header(&header::EXPECT);
    request.remove_header(X_WEIR_PRIORITY);
    frame(request, plan, current)?;
    if plan.surface.metered().is_some() {
        // A compressed answer can't be metered as it passes.
        request.insert_header(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        )?;
    }
    origin(request, journey, current.intranet)?;
    request.insert_header(X_REQUEST_ID, journey.arrival.request_id.as_str())?;
    let trace = &journey.arrival.trace;
    let parent: u64 = rand::random::<u64>().max(1);
    let traceparent = format!("00-{}-{parent:016x}-{:02x}", trace.id, trace.flags);
    request.insert_header(TRACEPARENT, traceparent)?;
    edit(request, &journey.snapshot.corridor.request_headers, journey)?;
    edit(request, &provider.headers, journey)?;
    match &provider.aws {
        Some(keys) => sign(request, plan, current, provider, keys),
        None => Ok(()),
    }
}

/// Signs a request as Amazon wants it; nothing of what is signed changes after this.
fn sign(
    request: &mut RequestHeader,
    plan: &Plan,
    current: &Try,
    provider: &Provider,
    keys: &AwsKeys,
) -> Result<()> {
    let Body::Held(held) = &plan.body else {
        return Err(Refusal::invalid("its body is too long, or of a form, to be signed").into());
    };
    let endpoint = current.attempt.endpoint();
    let dialect = provider.dialect.as_ref();
    let region = dialect.and_then(|dialect| dialect.region.as_deref());
    let region = region.or_else(|| sign::region_of(&endpoint.base.host));
    let host = endpoint.host_header.to_str().unwrap_or_default();
    let uri = request.uri.clone();
    let signed = sign::sign(
        &sign::Request {
            method: request.method.as_str(),
            host,
            path: uri.path(),
            query: uri.query(),
            headers: &[],
            body: current.body.as_ref().unwrap_or(&held.bytes),
            region: region.unwrap_or(sign::REGION),
            service: sign::SERVICE,
        },
        sign::Keys {
            access: &keys.access_key_id,
            secret: keys.secret_access_key.expose(),
            session: keys
                .session_token
                .as_ref()
                .map(|token| token.expose().as_str()),
        },
        SystemTime::now(),
    );
    let signed =
        signed.map_err(|what| Refusal::InvalidRequest(format!("it can't be signed: {what}")))?;
    for (name, value) in signed {
        request.insert_header(name, value)?;
    }
    Ok(())
}

/// The provider's own credential, else the client's; but for one that opens weir, which nobody else sees.
fn credentials(
    request: &mut RequestHeader,
    journey: &Journey,
    own: Option<(HeaderName, HeaderValue)>,
    theirs_alone: bool,
) -> Result<()> {
    let are_keys = !journey.snapshot.keys.is_open();
    if are_keys || theirs_alone || own.is_some() {
        for name in &CREDENTIALS {
            request.remove_header(name);
        }
    }
    if are_keys && let Some(kept) = without_subprotocol_keys(&request.headers) {
        request.remove_header(&header::SEC_WEBSOCKET_PROTOCOL);
        if !kept.is_empty() {
            request.insert_header(header::SEC_WEBSOCKET_PROTOCOL, kept)?;
        }
    }
    if let Some((name, own)) = own {
        request.insert_header(name, own)?;
    }
    Ok(())
}

/// The client's own credential where another dialect has it; `None` for a key of weir, which nobody else
/// sees.
fn theirs(
    request: &RequestHeader,
    journey: &Journey,
    header: KeyHeader,
) -> Option<(HeaderName, HeaderValue)> {
    if !journey.snapshot.keys.is_open() {
        return None;
    }
    let secret = shown_secret(&request.headers)?;
    credential(header, std::str::from_utf8(&secret).ok()?)
}

/// Headers of a request in another dialect.
fn translate(request: &mut RequestHeader, carriage: &Carriage) -> Result<()> {
    for name in CLIENTS_DIALECT {
        request.remove_header(name);
    }
    request.insert_header(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )?;
    request.insert_header(header::ACCEPT, HeaderValue::from_static("*/*"))?;
    for (name, value) in &carriage.headers {
        request.insert_header(*name, value.as_str())?;
    }
    Ok(())
}

/// When a call of gRPC is given up, so that the worker knows; `None` where it never is.
fn deadline(journey: &Journey, carriage: &Carriage) -> Option<String> {
    /// The value has 8 digits at most.
    const MILLIS_MAX: u128 = 99_999_999;
    let current = journey.attempt.as_ref().filter(|_| carriage.is_call())?;
    let timeouts = &journey.snapshot.corridor.timeouts;
    let total = (!timeouts.total.is_zero()).then(|| {
        timeouts
            .total
            .saturating_sub(journey.arrival.started.elapsed())
    });
    // What doesn't come piece by piece is whole with its first byte.
    let first_byte = journey
        .snapshot
        .exit(current.choice.endpoint)
        .limits
        .first_byte;
    let whole = (carriage.surface == meter::Surface::Embeddings && !first_byte.is_zero())
        .then_some(first_byte);
    let within = total.into_iter().chain(whole).min()?;
    Some(format!("{}m", within.as_millis().clamp(1, MILLIS_MAX)))
}

/// Headers that mean something in the client's dialect only.
const CLIENTS_DIALECT: [&str; 8] = [
    "anthropic-version",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "x-goog-api-client",
    "x-goog-user-project",
];

fn carried_url(carriage: &Carriage) -> Result<Uri> {
    let whole = match &carriage.query {
        Some(query) => format!("{}?{query}", carriage.path),
        None => carriage.path.clone(),
    };
    Uri::from_maybe_shared(Bytes::from(whole))
        .map_err(|_| Refusal::invalid("the model's name can't be part of a URL").into())
}

/// Swaps the body for the one that this upstream gets.
pub fn body(body: &mut Option<Bytes>, journey: &mut Journey) -> Result<()> {
    let Some(plan) = journey.plan.as_mut() else {
        return Ok(());
    };
    if let Body::Streamed {
        bytes_max, passed, ..
    } = &mut plan.body
    {
        *passed += body.as_ref().map_or(0, |piece| piece.len() as u64);
        if *passed > *bytes_max as u64 && !plan.upgrade {
            return Err(Refusal::BodyTooLarge(*bytes_max).into());
        }
    }
    if let Some(edited) = journey
        .attempt
        .as_ref()
        .and_then(|current| current.body.as_ref())
    {
        *body = Some(edited.clone());
    }
    Ok(())
}

/// The length of a held body is known; what streams keeps its own framing.
fn frame(
    request: &mut RequestHeader,
    plan: &super::plan::Plan,
    current: &super::connect::Try,
) -> Result<()> {
    let Body::Held(held) = &plan.body else {
        return Ok(());
    };
    let length = match &current.body {
        Some(edited) => {
            request.remove_header(&header::CONTENT_ENCODING);
            edited.len()
        }
        None => held.bytes.len(),
    };
    request.remove_header(&header::TRANSFER_ENCODING);
    if length > 0 || request.headers.contains_key(header::CONTENT_LENGTH) {
        request.insert_header(header::CONTENT_LENGTH, length)?;
    }
    Ok(())
}

fn url(journey: &Journey, plan: &Plan, provider: &Provider, current: &Try) -> Result<Uri> {
    let arrival = &journey.arrival;
    let base = &*current.attempt.endpoint().base.path;
    let model = current.choice.model.as_deref();
    let there = provider.dialect.as_ref().and_then(|dialect| {
        let Surface::Metered(surface) = plan.surface else {
            return None;
        };
        let model = model.or(plan.model.as_deref()).unwrap_or_default();
        reroute(dialect, surface, base, model, &arrival.path)
    });
    let path = match (model, model_in_path(&arrival.path)) {
        (Some(model), Some(named)) => Cow::Owned(with_model(&arrival.path, named, model)),
        _ => Cow::Borrowed(arrival.path.as_str()),
    };
    let query = arrival.query.as_deref();
    let query = match journey.snapshot.keys.is_open() {
        true => query.map(Cow::Borrowed),
        false => query.and_then(without_keys),
    };
    let joined = match there {
        Some((path, own)) => match own.as_deref().or(query.as_deref()) {
            Some(query) => format!("{path}?{query}"),
            None => path,
        },
        None => join(base, &path, query.as_deref()),
    };
    Uri::from_maybe_shared(Bytes::from(joined))
        .map_err(|_| Refusal::invalid("the path can't be part of a URL").into())
}

/// The path with another model's name in the place of the one it has.
fn with_model(path: &str, named: &str, model: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    let at = named.as_ptr() as usize - path.as_ptr() as usize;
    let model = percent_encoding::utf8_percent_encode(model, KEPT);
    format!("{}{model}{}", &path[..at], &path[at + named.len()..])
}

/// Who asks: told to intranet hosts, never to the outside.
fn origin(request: &mut RequestHeader, journey: &Journey, intranet: bool) -> Result<()> {
    let mut chain = String::new();
    if intranet && journey.arrival.trusted {
        let lines = request.headers.get_all(&X_FORWARDED_FOR).iter();
        for line in lines.filter_map(|line| line.to_str().ok()) {
            chain.push_str(line);
            chain.push_str(", ");
        }
    }
    for name in &FORWARDED {
        if request.headers.contains_key(name) {
            request.remove_header(name);
        }
    }
    if let (true, Some(peer)) = (intranet, journey.arrival.peer) {
        let _ = write!(chain, "{peer}");
        request.insert_header(X_FORWARDED_FOR, chain)?;
    }
    Ok(())
}

fn edit(request: &mut RequestHeader, edits: &HeaderEdits, journey: &Journey) -> Result<()> {
    for name in &edits.remove {
        request.remove_header(name);
    }
    for (name, template) in &edits.set {
        // The client's own header of that name never stands in for a value that isn't there: what it
        // says of its certificate, say, is not what the certificate says.
        match rendered(template, journey) {
            Some(value) => request.insert_header(HeaderName::clone(name), value)?,
            None => drop(request.remove_header(name)),
        }
    }
    Ok(())
}

/// A header's value with its placeholders filled in. What a client chose (a model's name) and no
/// header can carry is left out; so is a header of which nothing is left.
pub fn rendered(template: &Template, journey: &Journey) -> Option<HeaderValue> {
    let mut value = String::new();
    for piece in &template.pieces {
        match piece {
            Piece::Text(text) => value.push_str(text),
            Piece::RequestId => value.push_str(&journey.arrival.request_id),
            Piece::ClientIp => {
                if let Some(client) = journey.arrival.client {
                    let _ = write!(value, "{client}");
                }
            }
            Piece::ClientCert => {
                if let Some(identity) = &journey.arrival.identity {
                    value.push_str(identity.name());
                }
            }
            Piece::Model => {
                let model = journey.plan.as_ref().and_then(|plan| plan.model.as_deref());
                let printable = model.unwrap_or_default().chars();
                value.extend(printable.filter(|c| c.is_ascii_graphic() || *c == ' '));
            }
            Piece::Team | Piece::Key => {
                if let Some(caller) = &journey.arrival.caller {
                    value.push_str(match piece {
                        Piece::Team => &caller.team.name,
                        _ => &caller.key.name,
                    });
                }
            }
        }
    }
    HeaderValue::from_str(&value)
        .ok()
        .filter(|value| !value.is_empty())
}

/// The model that the upstream is asked for, when it isn't the client's name.
pub fn upstream_model(journey: &Journey) -> Option<&str> {
    journey.attempt.as_ref()?.choice.model.as_deref()
}

#[cfg(test)]
mod tests {
    use super::with_model;

    #[test]
    fn a_mapped_model_takes_its_place_in_the_path() {
        let path = "/openai/deployments/gpt-4o/chat/completions";
        let named = super::model_in_path(path).unwrap();
        assert_eq!(
            with_model(path, named, "my gpt/4o"),
            "/openai/deployments/my%20gpt%2F4o/chat/completions"
        );
    }
}
