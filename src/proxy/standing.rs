//! What an answer says of the limits that its caller is under: OpenAI's `x-ratelimit-*`, Anthropic's
//! names for the same where its API is spoken, and budgets that are nearly spent. Of several limits
//! the one that is nearest to being reached.

use super::plan::Surface;
use crate::govern::grant::Tier;
use crate::govern::{Grant, Moment};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use http::{HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::ResponseHeader;
use std::fmt::Write;

/// Limit, remaining, reset.
type Names = [HeaderName; 3];

const REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];
const ANTHROPIC_REQUESTS: Names = [
    HeaderName::from_static("anthropic-ratelimit-requests-limit"),
    HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
    HeaderName::from_static("anthropic-ratelimit-requests-reset"),
];
const ANTHROPIC_TOKENS: Names = [
    HeaderName::from_static("anthropic-ratelimit-tokens-limit"),
    HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
    HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
];
/// `team;per=month;used=0.83`, one for each budget of which a share was passed that is warned of.
const X_WEIR_BUDGET_WARNING: HeaderName = HeaderName::from_static("x-weir-budget-warning");

/// Adds what there is to say.
pub fn mark(response: &mut ResponseHeader, grant: &Grant, surface: Surface) -> Result<()> {
    let standing = grant.standing(Moment::now());
    if let Some(tier) = &standing.requests {
        tell(response, tier, &REQUESTS, &ANTHROPIC_REQUESTS, surface)?;
    }
    if let Some(tier) = &standing.tokens {
        tell(response, tier, &TOKENS, &ANTHROPIC_TOKENS, surface)?;
    }
    let mut warning = String::new();
    for (whose, per, used) in grant.nearly_spent() {
        let comma = if warning.is_empty() { "" } else { ", " };
        let _ = write!(
            warning,
            "{comma}{whose};per={};used={used:.2}",
            per.as_str()
        );
    }
    if !warning.is_empty() {
        response.insert_header(X_WEIR_BUDGET_WARNING, warning)?;
    }
    Ok(())
}

fn tell(
    response: &mut ResponseHeader,
    tier: &Tier,
    openai: &Names,
    anthropic: &Names,
    surface: Surface,
) -> Result<()> {
    let reset = tier.reset_text().to_string();
    put(response, openai, tier, reset)?;
    if surface.is_anthropic() {
        let reset = TimeDelta::from_std(tier.reset).unwrap_or_default();
        // Whole seconds, and never too soon.
        let reset: DateTime<Utc> = Utc::now() + reset + TimeDelta::milliseconds(999);
        let reset = reset.to_rfc3339_opts(SecondsFormat::Secs, true);
        put(response, anthropic, tier, reset)?;
    }
    Ok(())
}

fn put(response: &mut ResponseHeader, names: &Names, tier: &Tier, reset: String) -> Result<()> {
    let [limit, remaining, until] = names;
    response.insert_header(limit, HeaderValue::from(tier.limit))?;
    response.insert_header(remaining, HeaderValue::from(tier.remaining))?;
    response.insert_header(until, reset)
}
