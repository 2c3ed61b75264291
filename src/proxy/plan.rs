//! Second step: may this request go on, which model does it name, and where can it go?

mod auth;
mod counted;
mod listed;
mod priority;
mod untold;

pub use auth::{CREDENTIALS, shown_secret, without_keys, without_subprotocol_keys};
pub use priority::X_WEIR_PRIORITY;

use super::arrive::Arrival;
use super::course::{Course, Leg};
use super::journey::Journey;
use super::peek::{self, Body};
use super::refuse::{self, Refusal};
use super::settle::Tried;
pub use super::surface::Surface;
use super::surface::plain;
use super::{affinity, reckon, replay, weigh};
use crate::govern::{Denied, Moment, Whom};
use crate::route::settings::Balance;
use crate::route::{Found, NotFound};
use crate::snapshot::Snapshot;
use crate::tokens::estimate::Estimate;
use crate::types::Priority;
use crate::upstream::retry::Nature;
use crate::upstream::{Choice, EndpointId};
use http::Method;
use pingora::Result;
use pingora::http::RequestHeader;
use pingora_proxy::Session;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a request may go.
#[derive(Debug)]
pub struct Plan {
    /// Which API its path belongs to.
    pub surface: Surface,
    /// The model as the client named it.
    pub model: Option<String>,
    /// The route's name for logs and metrics.
    pub label: Option<Arc<str>>,
    /// What to try, best first.
    pub course: Course,
    /// The last try, while there is no current one.
    pub tried: Option<Tried>,
    /// The same candidate was given a second chance after a pooled connection had died.
    pub second_chance: bool,
    /// A candidate refused the request because weir asks for usage: from here on it doesn't.
    pub unasked: Option<EndpointId>,
    /// The way to a connection with the current candidate.
    pub detour: Detour,
    /// The request's body, whole or passing through.
    pub body: Body,
    /// It asks for another protocol (WebSocket).
    pub upgrade: bool,
    /// It asks for an answer that doesn't tell what was used; see `untold`.
    pub untold: bool,
    /// When the request's last byte (that weir waits for) was here.
    pub ready: Instant,
    /// How urgent it is, where it must wait.
    pub priority: Priority,
    /// How long it waited for places at upstreams, if it did.
    pub queued: Option<Duration>,
    /// What it will use, where somebody wants to know.
    pub estimate: Option<Estimate>,
    /// weir's own share: from `ready` to the choice of an upstream.
    pub overhead: Option<Duration>,
}

/// The way to a connection with one candidate, all within its time to connect: around proxies that
/// failed, and back to the pool.
#[derive(Debug, Default)]
pub struct Detour {
    /// When the first proxy was asked.
    pub since: Option<Instant>,
    /// Those that failed, as [`Way::proxy_id`](crate::egress::Way::proxy_id) names them.
    pub avoided: Vec<u64>,
    /// How often the pool was asked again for a connection that others were using.
    pub shares: u32,
}

impl Plan {
    /// What a second try of the request would do: a safe or idempotent method does no harm (RFC 9110,
    /// section 9.2.2), and neither does a model that is asked for its answer twice.
    pub fn nature(&self, method: &Method) -> Nature {
        Nature {
            repeatable: method.is_idempotent()
                || self.surface.metered().is_some()
                || self.surface.is_short(),
        }
    }
}

impl Detour {
    /// The candidate has its connection, or has none: the next one begins anew. The pool isn't asked
    /// again more often for that.
    pub fn end(&mut self) {
        *self = Self {
            shares: self.shares,
            ..Self::default()
        };
    }
}

/// What happens after this step.
pub enum Step {
    /// The request goes to an upstream.
    Onward,
    /// weir has answered it.
    Answered,
}

/// Applies limits and rules of routing.
///
/// # Errors
/// The refusal to answer with.
pub async fn plan(session: &mut Session, journey: &mut Journey) -> Result<Step, Refusal> {
    let snapshot = Arc::clone(&journey.snapshot);
    let surface = Surface::of(&journey.arrival.path);
    if surface == Surface::Health {
        return local(refuse::text(session, journey, "OK").await);
    }
    if has_dot_segment(&journey.arrival.path) {
        return Err(Refusal::invalid("its path has a `.` or `..` segment"));
    }
    if Surface::is_disguised(&journey.arrival.path) {
        return Err(Refusal::invalid(
            "its path has a `/` that is encoded, or a `\\` or `;`, where servers differ in what they read; \
             write it plainly",
        ));
    }
    auth::identify(session, journey)?;
    let priority = priority::of(
        &session.req_header().headers,
        journey.arrival.caller.as_ref(),
    )?;
    let now = Moment::from(journey.arrival.time);
    let (client, caller) = (journey.arrival.client, journey.arrival.caller.as_ref());
    let grant = snapshot.governor.enter(client, caller, now);
    journey.grant = Some(grant.map_err(Refusal::from)?);
    if journey.arrival.method == Method::GET
        && let Some(answer) = listed::listed(&snapshot, journey, surface)
    {
        return local(refuse::json(session, journey, answer?).await);
    }
    let upgrade = session.is_upgrade_req();
    let body = peek::body(session, journey, surface).await?;
    let ready = Instant::now();
    let model = named_model(journey, surface, &body, upgrade);
    let found = snapshot
        .routes
        .find(&journey.arrival.path, model.as_deref());
    let label = match found {
        Ok(Found::Model(route)) => Some(Arc::clone(&snapshot.routes.models.route(route).pattern)),
        _ => None,
    };
    // What is refused from here on is told with the model that it named.
    let untold = untold::is_untold(session.req_header(), surface, body.asked())
        || untold::is_fetched(surface, &body);
    let plan = journey.plan.insert(Plan {
        surface,
        label,
        course: Course::default(),
        tried: None,
        second_chance: false,
        unasked: None,
        detour: Detour::default(),
        body,
        upgrade,
        untold,
        ready,
        priority,
        queued: None,
        estimate: None,
        overhead: None,
        model,
    });
    auth::permit_named(&snapshot, &journey.arrival, plan)?;
    auth::one_model(&journey.arrival, plan)?;
    let found = found.map_err(|missing| match (missing, &plan.model) {
        (NotFound::Model, Some(model)) => Refusal::ModelNotFound(model.clone()),
        _ if surface.metered().is_some() && !snapshot.routes.models.is_empty() => Refusal::NoModel,
        _ => Refusal::NoRoute(journey.arrival.path.clone()),
    })?;
    auth::permit_unnamed(&journey.arrival, plan)?;
    plan.course = Course::new(legs(
        &snapshot,
        session.req_header(),
        &journey.arrival,
        plan,
        found,
    ));
    admit(session, journey, found).await?;
    if let Some(plan) = &journey.plan
        && let Some(answer) = counted::counted(&snapshot, &journey.arrival, plan).await
    {
        return local(refuse::json(session, journey, answer?).await);
    }
    let Some(plan) = journey.plan.as_mut() else {
        return Err(Refusal::NoRoute(journey.arrival.path.clone()));
    };
    let deadlines = replay::Deadlines {
        timeouts: snapshot.corridor.timeouts,
        began: journey.arrival.started,
        upload: !upgrade,
        ending: snapshot.governor.ending().clone(),
        drains: snapshot.governor.drains().clone(),
        buffers: snapshot.governor.buffers().clone(),
    };
    plan.body.install(session, deadlines);
    Ok(Step::Onward)
}

/// The candidates of the route that was found, and those of the routes that it falls back to, as far as
/// the caller may use their models.
fn legs(
    snapshot: &Snapshot,
    request: &RequestHeader,
    arrival: &Arrival,
    plan: &Plan,
    found: Found,
) -> Vec<Leg> {
    let models = &snapshot.routes.models;
    let alias_of = |model| models.alias_of(model).map(Arc::clone);
    let leg = |found, mut choices: Vec<Choice>, name: Option<Arc<str>>, fallback| {
        let group = snapshot.group(found);
        if let Some(name) = name {
            // An upstream knows the name that an alias stands for, not the alias.
            for choice in &mut choices {
                choice.model.get_or_insert_with(|| Arc::clone(&name));
            }
        }
        let lenient = match found {
            Found::Model(route) => models.route(route).lenient,
            Found::Path(..) | Found::Default(_) => false,
        };
        Leg::new(choices, group.policy(), group.retries(), fallback).lenient(lenient)
    };
    let stands_for = plan.model.as_deref().and_then(alias_of);
    snapshot.group(found).retries().request();
    let choices = in_turn(snapshot, request, arrival, plan, found);
    let mut legs = vec![leg(found, choices, stands_for, None)];
    let Found::Model(route) = found else {
        return legs;
    };
    let may_use = |name: &str| {
        let caller = arrival.caller.as_ref();
        caller.is_none_or(|caller| auth::may_use(snapshot, caller, name))
    };
    for fallback in &models.route(route).fallback {
        if let Some(route) = models.find(fallback)
            && may_use(fallback)
        {
            let name = alias_of(fallback).unwrap_or_else(|| Arc::clone(fallback));
            let label = Arc::clone(&models.route(route).pattern);
            let found = Found::Model(route);
            let choices = snapshot.group(found).choices().to_vec();
            legs.push(leg(found, choices, Some(name), Some(label)).later(route));
        }
    }
    legs
}

/// The choices of a route for this request, best first; it has had its turn then.
pub fn in_turn(
    snapshot: &Snapshot,
    request: &RequestHeader,
    arrival: &Arrival,
    plan: &Plan,
    found: Found,
) -> Vec<Choice> {
    let value = match found {
        Found::Model(route) => match &snapshot.routes.models.route(route).balance {
            Balance::Hash(rule) => Some(affinity::value(rule, request, arrival, &plan.body)),
            _ => None,
        },
        Found::Path(..) | Found::Default(_) => None,
    };
    let group = snapshot.group(found);
    group.candidates(&snapshot.upstreams, value, Instant::now())
}

/// Asks leave for what the request asks for; where its route says so, it waits for that.
async fn admit(session: &mut Session, journey: &mut Journey, found: Found) -> Result<(), Refusal> {
    let snapshot = Arc::clone(&journey.snapshot);
    let governor = &snapshot.governor;
    let (Some(plan), Some(grant)) = (&mut journey.plan, &mut journey.grant) else {
        return Ok(());
    };
    let terms = snapshot.terms(found);
    let model = terms.and_then(|terms| Some((plan.label.as_ref()?, &terms.allowance)));
    governor.aim(grant, model);
    if is_unmetered(plan, &journey.arrival.method) {
        governor.admit_unmetered(grant)?;
    }
    if grant.is_limited() || snapshot.corridor.estimates {
        plan.estimate = weigh::weigh(&snapshot, plan).await;
    }
    if !grant.is_limited() {
        return Ok(());
    }
    let ask = reckon::reckon(&snapshot, plan, &journey.arrival);
    let watched = matches!(plan.body, Body::Held(_)) && !plan.upgrade;
    if !watched || !terms.is_some_and(|terms| terms.waits) {
        let now = Moment::from(journey.arrival.time);
        let admitted = governor.admit_drawing(grant, &ask, now).await;
        return admitted.map_err(Refusal::from);
    }
    let whom = Whom {
        tenant: journey.arrival.tenant(),
        priority: plan.priority,
    };
    let mut over = governor.ending().over();
    let left = async {
        // The body is here: whatever comes now, it is the end of the client's patience.
        while let Ok(Some(_)) = session.downstream_session.read_body_or_idle(true).await {}
    };
    tokio::select! {
        biased;
        admitted = governor.admit_in_turn(grant, &ask, whom) => admitted.map_err(Refusal::from),
        () = left => Err(Refusal::ClientLeft),
        () = std::future::poll_fn(|cx| over.poll(cx)) => Err(Refusal::ShuttingDown),
    }
}

/// Nobody can tell what the request uses: its answer doesn't say it, or weir can't read it there.
fn is_unmetered(plan: &Plan, method: &Method) -> bool {
    let hidden = match plan.surface {
        // Hugging Face's models are asked where others are listed.
        Surface::Hidden | Surface::Models => true,
        Surface::Other => plan.model.is_some(),
        _ => false,
    };
    plan.upgrade || plan.untold || hidden && !reckon::IDLE.contains(method)
}

fn local(written: Result<()>) -> Result<Step, Refusal> {
    if let Err(error) = written {
        tracing::debug!(%error, "a client left before its answer");
    }
    Ok(Step::Answered)
}

/// The model that a request names: in its path, its body, or (where there is no body yet, as for a
/// WebSocket) its query.
fn named_model(journey: &Journey, surface: Surface, body: &Body, upgrade: bool) -> Option<String> {
    let arrival = &journey.arrival;
    let in_path = model_in_path(&arrival.path).map(|model| percent_decoded(model).into_owned());
    if in_path.is_some() || surface.has_model_in_path(&arrival.path) {
        // There servers don't ask the body.
        return in_path;
    }
    if let Some(model) = body.model().filter(|model| !model.is_empty()) {
        return Some(model.to_owned());
    }
    let query = arrival.query.as_deref().filter(|_| upgrade)?;
    let value = auth::models_in_query(query).next()?;
    Some(percent_decoded(value).into_owned())
}

/// The model that a path names, as it stands there: Azure's `/openai/deployments/{model}/…`, Google's
/// `…/models/{model}:method`, Bedrock's `/model/{model}/converse`.
pub fn model_in_path(path: &str) -> Option<&str> {
    let plain = plain(path);
    let deployed = (plain.strip_prefix("/openai/deployments/")).is_some_and(|it| it.contains('/'));
    let last = plain.rsplit('/').next().unwrap_or_default();
    let by_method = last.contains(':') && plain.contains("/models/");
    let invoked = || Surface::of(&plain).has_model_in_path(&plain) && !last.contains(':');
    match deployed || by_method || invoked() {
        true => auth::models_in_path(path).last(),
        false => None,
    }
}

/// True for a path that means another one once dots are resolved (RFC 3986, section 5.2.4): a prefix
/// of `target_map` and a base URL's path must hold for what the upstream makes of it.
fn has_dot_segment(path: &str) -> bool {
    let is_dots = |segment: &str| segment == "." || segment == "..";
    path.contains(['.', '%']) && percent_decoded(path).split(['/', '\\']).any(is_dots)
}

fn percent_decoded(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy()
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::Limited(denied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_known_in_every_spelling() {
        for path in [
            "/a/../b",
            "/a/./b",
            "/..",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a\\..\\b",
            "/a/x%2F..%2fb",
            "/a/x%5c..",
        ] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in ["/a..b", "/.../x", "/.well-known/x", "/a%20b", "/"] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }

    #[test]
    fn a_path_can_name_the_model() {
        for (path, model) in [
            ("/openai/deployments/gpt-4o/embeddings", Some("gpt-4o")),
            ("/openai/deployments/gpt-4o", None),
            ("/openai/deployments//x", None),
            (
                "/v1beta/models/gemini-2.5-pro:streamGenerateContent",
                Some("gemini-2.5-pro"),
            ),
            ("/v1beta/models/a:b:c", Some("a:b")),
            ("/openai/Deployments/a/embeddings", Some("a")),
            ("/x/v1/publishers/google/Models/g:predict", Some("g")),
            (
                "/model/us.anthropic.claude%3A0/converse",
                Some("us.anthropic.claude%3A0"),
            ),
            ("/model/m/invoke-with-response-stream", Some("m")),
            ("/v1beta/models/gemini", None),
            ("/v1/models", None),
        ] {
            assert_eq!(model_in_path(path), model, "{path}");
        }
    }
}
