//! How urgent a request is: as its key's, or its team's; and what it says of that itself, as far as its
//! team lets it.

use crate::govern::Caller;
use crate::govern::settings::PriorityHeader;
use crate::proxy::refuse::Refusal;
use crate::types::Priority;
use http::HeaderMap;

/// What a request says of its priority. It stops at weir.
pub const X_WEIR_PRIORITY: &str = "x-weir-priority";

/// The priority of a request with these headers.
///
/// # Errors
/// It asks for one that there isn't.
pub fn of(headers: &HeaderMap, caller: Option<&Caller>) -> Result<Priority, Refusal> {
    let (own, may) = match caller {
        Some(Caller { team, key }) => (key.priority.unwrap_or(team.priority), team.priority_header),
        None => (Priority::Normal, PriorityHeader::Lower),
    };
    let mut asked = headers.get_all(X_WEIR_PRIORITY).iter();
    let (Some(first), true) = (asked.next(), may != PriorityHeader::Off) else {
        return Ok(own);
    };
    let named = first.to_str().ok().and_then(|name| name.parse().ok());
    let (Some(asked), None) = (named, asked.next()) else {
        let wrong = "its x-weir-priority isn't one of high, normal, batch";
        return Err(Refusal::invalid(wrong));
    };
    Ok(match may {
        PriorityHeader::Any => asked,
        _ => own.min(asked),
    })
}
