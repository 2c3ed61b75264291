//! What a request has in common with others that had better go to the same endpoint. A part of `plan`.

use super::arrive::Arrival;
use super::peek::Body;
use crate::route::settings::{Affinity, Hash};
use crate::upstream::balance::{hash, hash_on};
use pingora::http::RequestHeader;

/// A number made of what the route looks at. Where the request doesn't have that, of its user, else of its
/// key, else of its address.
pub fn value(rule: &Hash, request: &RequestHeader, arrival: &Arrival, body: &Body) -> u64 {
    let found = match &rule.by {
        Affinity::Key => Some(by_key(arrival)),
        Affinity::User => None,
        Affinity::Header(name) => {
            let value = request.headers.get(name).map(|value| value.as_bytes());
            value.filter(|value| !value.is_empty()).map(hash)
        }
        Affinity::Prefix(bytes_max) => by_prefix(body, *bytes_max),
    };
    found
        .or_else(|| by_user(arrival, body))
        .unwrap_or_else(|| by_key(arrival))
}

fn by_prefix(body: &Body, bytes_max: usize) -> Option<u64> {
    let [lead, said] = body.asked()?.opening.prefix(body.plain()?, bytes_max)?;
    Some(hash_on(hash(lead), said))
}

/// Users of different keys are different ones.
fn by_user(arrival: &Arrival, body: &Body) -> Option<u64> {
    let user = body.asked()?.opening.user(body.plain()?)?;
    let team = arrival.caller.as_ref().map(|caller| &*caller.team.name);
    let of_team = hash(team.unwrap_or_default().as_bytes());
    Some(hash_on(of_team, user.as_bytes()))
}

fn by_key(arrival: &Arrival) -> u64 {
    match (&arrival.caller, arrival.client) {
        (Some(caller), _) => {
            let of_team = hash(caller.team.name.as_bytes());
            hash_on(of_team, caller.key.name.as_bytes())
        }
        (None, Some(client)) => hash(client.to_string().as_bytes()),
        (None, None) => hash(b""),
    }
}
