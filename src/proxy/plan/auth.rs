//! Who asks, and may they use that model? Finds the key in what a client sends, before its body is read,
//! and takes it out of what an upstream is sent.
//!
//! A key is taken from wherever SDKs put it: `Authorization: Bearer`, `x-api-key` (Anthropic), `api-key`
//! (Azure), `x-goog-api-key` or, where no header has one, `?key=` (Gemini), and the WebSocket subprotocol
//! that OpenAI's SDK uses in browsers. `govern::keys` knows whose it is.

use super::super::arrive::Arrival;
use super::super::journey::Journey;
use super::super::refuse::Refusal;
use super::super::surface::plain;
use super::{Plan, percent_decoded};
use crate::govern::keys::{KeyFault, Presented};
use crate::govern::{Caller, Denied, Moment};
use crate::snapshot::Snapshot;
use http::{HeaderMap, HeaderName, header};
use percent_encoding::percent_decode_str;
use pingora_proxy::Session;
use std::borrow::Cow;

/// Headers that carry credentials. Where there are teams, none of them goes on to an upstream.
pub const CREDENTIALS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];
/// What comes before a key among WebSocket subprotocols.
const SUBPROTOCOL: &str = "openai-insecure-api-key.";
/// The parameter of a query that holds a key.
const PARAMETER: &str = "key";

/// Writes down who asks; nothing where nobody needs a key.
///
/// # Errors
/// Nobody is known by what was sent.
pub(super) fn identify(session: &Session, journey: &mut Journey) -> Result<(), Refusal> {
    let snapshot = &journey.snapshot;
    if snapshot.keys.is_open() {
        return Ok(());
    }
    let arrival = &journey.arrival;
    let headers = &session.req_header().headers;
    let known = secret(headers, arrival.query.as_deref()).and_then(|secret| {
        let presented = Presented {
            bearer: secret.as_deref(),
            certificate: arrival.identity.as_deref(),
        };
        snapshot.keys.identify(presented, arrival.time.into())
    });
    match known {
        Ok(caller) => {
            journey.arrival.caller = caller;
            Ok(())
        }
        Err(fault) => {
            snapshot.observer.metrics.auth_failure(fault.code());
            let waits = snapshot
                .keys
                .failed(arrival.client, Moment::from(arrival.time));
            Err(match waits {
                Ok(()) => Refusal::NoKey(fault),
                Err(wait) => Refusal::Limited(Denied::RateLimited(wait)),
            })
        }
    }
}

/// The one secret that a request shows in its headers, if it does.
pub fn shown_secret(headers: &HeaderMap) -> Option<Cow<'_, [u8]>> {
    secret(headers, None).ok().flatten()
}

/// The secret that a request shows. Copies of one are one; several different ones are a fault, for
/// nobody can say which is meant.
fn secret<'r>(
    headers: &'r HeaderMap,
    query: Option<&'r str>,
) -> Result<Option<Cow<'r, [u8]>>, KeyFault> {
    let [authorization, plain @ ..] = &CREDENTIALS;
    let bearers = headers.get_all(authorization).iter();
    let bearers = bearers.filter_map(|value| bearer(value.as_bytes()));
    let plain = plain.iter().flat_map(|name| headers.get_all(name));
    let plain = plain.map(|value| value.as_bytes().trim_ascii());
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let protocols = protocols
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|protocol| protocol.trim_ascii().strip_prefix(SUBPROTOCOL.as_bytes()));
    let all = bearers.chain(plain).chain(protocols);
    if let Some(secret) = only(all.filter(|secret| !secret.is_empty()))? {
        return Ok(Some(Cow::Borrowed(secret)));
    }
    let all = query.into_iter().flat_map(|query| values(query, PARAMETER));
    let secret = only(all.filter(|secret| !secret.is_empty()))?;
    Ok(secret.map(|secret| Cow::from(percent_decode_str(secret))))
}

/// The one value that all of these are.
fn only<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Result<Option<T>, KeyFault> {
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.all(|other| other == first) {
        return Ok(Some(first));
    }
    Err(KeyFault::Several)
}

/// What stands after `Bearer`, in whatever case (RFC 9110, section 11.1); `None` for other schemes.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, rest) = value.trim_ascii_start().split_at_checked(SCHEME.len())?;
    let separated = rest.first().is_some_and(u8::is_ascii_whitespace);
    (scheme.eq_ignore_ascii_case(SCHEME) && separated).then(|| rest.trim_ascii())
}

/// The values of a parameter of a query, as they stand there; its name may be written in any way.
fn values<'q>(query: &'q str, name: &'static str) -> impl Iterator<Item = &'q str> {
    parameters(query).filter_map(move |(found, value)| is_named(found, name).then_some(value))
}

/// A query's parameters with their values, as they stand there.
fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.split('&');
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn is_named(found: &str, name: &str) -> bool {
    percent_decode_str(found).eq(name.bytes())
}

/// A query without the parameter that may hold a key; `None` where nothing is left.
pub fn without_keys(query: &str) -> Option<Cow<'_, str>> {
    if values(query, PARAMETER).next().is_none() {
        return Some(Cow::Borrowed(query));
    }
    let kept = query.split('&').filter(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        !is_named(name, PARAMETER)
    });
    let kept: Vec<&str> = kept.collect();
    (!kept.is_empty()).then(|| Cow::Owned(kept.join("&")))
}

/// WebSocket subprotocols without those that hold a key, where any does.
pub fn without_subprotocol_keys(headers: &HeaderMap) -> Option<String> {
    let all = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let all = all.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let all: Vec<Cow<'_, str>> = all
        .map(|it| String::from_utf8_lossy(it.trim_ascii()))
        .collect();
    let is_key = |protocol: &Cow<'_, str>| protocol.starts_with(SUBPROTOCOL);
    if !all.iter().any(is_key) {
        return None;
    }
    let kept: Vec<_> = all.into_iter().filter(|it| !is_key(it)).collect();
    Some(kept.join(", "))
}

/// Whether a caller may use a model by this name, or by the name that it is an alias of.
pub(super) fn may_use(snapshot: &Snapshot, caller: &Caller, model: &str) -> bool {
    let stands_for = snapshot.routes.models.alias_of(model);
    caller.may_use(model, stands_for.map(AsRef::as_ref))
}

/// Every model that the request names must be allowed: servers differ in whether they believe the path,
/// the body or the query.
///
/// # Errors
/// One isn't.
pub(super) fn permit_named(
    snapshot: &Snapshot,
    arrival: &Arrival,
    plan: &Plan,
) -> Result<(), Refusal> {
    let Some(caller) = restricted(arrival) else {
        return Ok(());
    };
    let in_body = (plan.body.model().into_iter()).chain(plan.body.others().iter().map(|it| &**it));
    // Google's bodies name the model as its paths do.
    let in_body = in_body.map(|name| match plan.surface.is_google() {
        true => name.strip_prefix("models/").unwrap_or(name),
        false => name,
    });
    let in_path = models_in_path(&arrival.path).map(percent_decoded);
    let query = arrival.query.as_deref().filter(|_| plan.upgrade);
    let in_query = query.into_iter().flat_map(models_in_query);
    let named = in_body.map(Cow::Borrowed).chain(in_path);
    for model in named.chain(in_query.map(percent_decoded)) {
        if !model.is_empty() && !may_use(snapshot, caller, &model) {
            return Err(Refusal::ModelNotAllowed(model.into_owned()));
        }
    }
    Ok(())
}

/// Who is asked by name may not be two: LiteLLM believes a query rather than the body.
///
/// # Errors
/// The query of a request to an API that has its model elsewhere names another one.
pub(super) fn one_model(arrival: &Arrival, plan: &Plan) -> Result<(), Refusal> {
    let is_api = plan.surface.metered().is_some() && !plan.upgrade && arrival.caller.is_some();
    let query = arrival.query.as_deref().filter(|_| is_api);
    let mut named = query
        .into_iter()
        .flat_map(models_in_query)
        .map(percent_decoded);
    match named.any(|name| Some(&*name) != plan.model.as_deref()) {
        true => Err(Refusal::invalid("its query names another model")),
        false => Ok(()),
    }
}

/// What names no model that weir can see (files, batches, searches, forms of other kinds) may still use
/// one: a caller whose models are listed needs a pattern for its path.
///
/// # Errors
/// There is none.
pub(super) fn permit_unnamed(arrival: &Arrival, plan: &Plan) -> Result<(), Refusal> {
    // Where an API that weir knows has its model in the path, that one was looked at.
    let known = plan.surface.metered().is_some() && models_in_path(&arrival.path).next().is_some();
    let named = match plan.upgrade {
        true => fixes_model(arrival),
        false => plan.model.is_some() || known,
    };
    match restricted(arrival).filter(|_| !named) {
        Some(caller) if !caller.may_use(&arrival.path, None) => {
            Err(Refusal::PathNotAllowed(arrival.path.clone()))
        }
        _ => Ok(()),
    }
}

/// Whether a WebSocket's request says which model will answer on it. Elsewhere its messages do, and weir
/// doesn't read them; so they do of transcriptions, whatever the query says.
fn fixes_model(arrival: &Arrival) -> bool {
    let path = plain(&arrival.path);
    if path.ends_with(":bidigeneratecontent") {
        return models_in_path(&arrival.path).next().is_some();
    }
    let query = arrival.query.as_deref().unwrap_or_default();
    let names = models_in_query(query).any(|model| !model.is_empty());
    let transcribes = all_values(query, &["intent"]).next().is_some();
    path.ends_with("/realtime") && names && !transcribes
}

/// The models that a query names, as OpenAI has them and as Azure does.
pub(super) fn models_in_query(query: &str) -> impl Iterator<Item = &str> {
    all_values(query, &["model", "deployment"])
}

/// The values of these parameters of a query in any case, which some servers don't look at.
pub(super) fn all_values<'q>(
    query: &'q str,
    names: &'static [&'static str],
) -> impl Iterator<Item = &'q str> {
    parameters(query).filter_map(move |(found, value)| {
        let is_one = names.iter().any(|name| is_spelled(found, name));
        is_one.then_some(value)
    })
}

/// Whether a text is this word, however it is encoded and in any case.
fn is_spelled(text: &str, word: &str) -> bool {
    let decoded = percent_decode_str(text).map(|byte| byte.to_ascii_lowercase());
    decoded.eq(word.bytes())
}

/// The models that a path may name to any server, also one below a prefix or of an API that weir doesn't
/// know: what follows a segment such as `models`, up to a `:method`.
pub(super) fn models_in_path(path: &str) -> impl Iterator<Item = &str> {
    const BEFORE: [&str; 4] = ["models", "model", "deployments", "engines"];
    // Google's, before a method.
    const BEFORE_METHOD: [&str; 3] = ["tunedmodels", "endpoints", "dynamic"];
    path.match_indices('/').filter_map(|(slash, _)| {
        let (segment, rest) = path[slash + 1..].split_once('/')?;
        let is_one_of = |words: &[&str]| words.iter().any(|word| is_spelled(segment, word));
        let method = rest
            .rsplit_once(':')
            .filter(|(_, method)| !method.contains('/'));
        let named = is_one_of(&BEFORE) || method.is_some() && is_one_of(&BEFORE_METHOD);
        // A model's name may have a `/` in it.
        let name = match method {
            Some((name, _)) => name,
            None => rest.split('/').next().unwrap_or_default(),
        };
        Some(name).filter(|name| named && !name.is_empty())
    })
}

fn restricted(arrival: &Arrival) -> Option<&Caller> {
    let caller = arrival.caller.as_ref();
    caller.filter(|caller| caller.is_restricted())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(
        headers: &[(&'static str, &[u8])],
        query: Option<&str>,
    ) -> Result<Option<Vec<u8>>, KeyFault> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, http::HeaderValue::from_bytes(value).unwrap());
        }
        secret(&map, query).map(|found| found.map(Cow::into_owned))
    }

    #[test]
    fn a_key_is_found_wherever_sdks_put_it() {
        for (name, value) in [
            ("authorization", "Bearer k-1"),
            ("authorization", "bEARER   k-1 "),
            ("x-api-key", "k-1"),
            ("api-key", " k-1"),
            ("x-goog-api-key", "k-1"),
            (
                "sec-websocket-protocol",
                "realtime, openai-insecure-api-key.k-1, x",
            ),
        ] {
            let found = shown(&[(name, value.as_bytes())], None);
            assert_eq!(found, Ok(Some(b"k-1".to_vec())), "{name}: {value}");
        }
        for query in ["key=k-1", "a=b&key=k-1&c", "%6bey=k%2d1", "key=k-1&key=k-1"] {
            assert_eq!(
                shown(&[], Some(query)),
                Ok(Some(b"k-1".to_vec())),
                "{query}"
            );
        }
    }

    #[test]
    fn what_is_no_key_is_none() {
        for value in [
            "Bearer",
            "Bearer ",
            "Basic azox",
            "k-1",
            "Bearerk-1",
            "",
            "Token k-1",
        ] {
            let found = shown(&[("authorization", value.as_bytes())], None);
            assert_eq!(found, Ok(None), "{value}");
        }
        for query in ["", "key", "key=", "monkey=1", "Key=1", "a=key=1"] {
            assert_eq!(shown(&[], Some(query)), Ok(None), "{query}");
        }
        assert_eq!(shown(&[("x-api-key", b"")], None), Ok(None));
    }

    #[test]
    fn copies_are_one_key_and_different_keys_are_none() {
        let twice: &[(&str, &[u8])] = &[("authorization", b"Bearer a"), ("x-api-key", b"a")];
        assert_eq!(shown(twice, None), Ok(Some(b"a".to_vec())));
        for two in [
            [("authorization", &b"Bearer a"[..]), ("x-api-key", b"b")],
            [
                ("authorization", b"Bearer a"),
                ("authorization", b"Bearer b"),
            ],
            [("x-api-key", b"a"), ("x-api-key", b"a\xff")],
        ] {
            assert_eq!(shown(&two, None), Err(KeyFault::Several));
        }
        assert_eq!(shown(&[], Some("key=a&key=b")), Err(KeyFault::Several));
        // A header says it better.
        let header: &[(&str, &[u8])] = &[("x-api-key", b"a")];
        assert_eq!(shown(header, Some("key=b")), Ok(Some(b"a".to_vec())));
        let odd: &[(&str, &[u8])] = &[("authorization", b"Bearer \xff\xfe")];
        assert_eq!(shown(odd, None), Ok(Some(b"\xff\xfe".to_vec())));
    }

    #[test]
    fn models_are_seen_wherever_a_path_may_name_one() {
        for (path, models) in [
            (
                "/openai/deployments/gpt-4o/chat/completions",
                &["gpt-4o"][..],
            ),
            ("/v1beta/models/g:generateContent", &["g"]),
            ("/gemini/v1beta/mod%65ls/g:generateContent", &["g"]),
            ("/v1/projects/p/publishers/google/models/g:predict", &["g"]),
            ("/v1/models/org/name:predict", &["org/name"]),
            (
                "/model/anthropic.claude-v2:1/converse",
                &["anthropic.claude-v2:1"],
            ),
            ("/v1/engines/a/models/b", &["a", "b"]),
            ("/v1beta/Models/g:generateContent", &["g"]),
            ("/v1beta/tunedModels/g:generateContent", &["g"]),
            ("/v1/endpoints/e/x", &[]),
            ("/v1/models", &[]),
            ("/v1/models/", &[]),
            ("/v1/chat/completions", &[]),
        ] {
            assert_eq!(models_in_path(path).collect::<Vec<_>>(), models, "{path}");
        }
    }

    #[test]
    fn a_query_goes_on_without_its_keys() {
        for (query, rest) in [
            ("alt=sse&key=secret", Some("alt=sse")),
            ("key=secret&alt=sse&key=2", Some("alt=sse")),
            ("%6Bey=secret", None),
            ("key", None),
            ("a=b&c=%6b", Some("a=b&c=%6b")),
            ("monkey=1", Some("monkey=1")),
            ("", Some("")),
        ] {
            assert_eq!(without_keys(query).as_deref(), rest, "{query}");
        }
    }
}
