//! All that a request needs to know, immutable: one configuration, ready to be used. A request pins
//! the snapshot that is live when it arrives and keeps it to its end, so no reload changes it midway.
//! Built by `app`, read by `proxy` and `admin`.

use crate::egress::{self, Egress};
use crate::govern::settings::Terms;
use crate::govern::{Governor, Keys, Ledger};
use crate::observe::Observer;
use crate::proxy::settings::Settings as Corridor;
use crate::route::{Found, ProviderIndex, Table};
use crate::tokens::calibration::Calibration;
use crate::tokens::price::Prices;
use crate::upstream::settings::Batch;
use crate::upstream::{EndpointId, Group, Hedge, Upstreams};
use ahash::AHashMap;
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::sync::Arc;

/// One configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Deadlines, header edits and whom to believe.
    pub corridor: Corridor,
    /// The tables of routing.
    pub routes: Table,
    /// Providers and endpoints.
    pub upstreams: Upstreams,
    /// The road to each endpoint, by [`EndpointId`].
    pub exits: Vec<Exit>,
    /// Whose turn it is, by `RouteIndex`.
    pub route_groups: Vec<Group>,
    /// Whose turn it is for requests that name no model, by `ProviderIndex`.
    pub provider_groups: Vec<Group>,
    /// What holds for each route of a model, by `RouteIndex`.
    pub route_terms: Vec<Option<Terms>>,
    /// When a route's short requests are worth a second call, by its pattern.
    pub hedges: AHashMap<String, Hedge>,
    /// How a route's requests for one embedding become one call, by its pattern.
    pub batches: AHashMap<String, Batch>,
    /// What tokens cost.
    pub prices: Prices,
    /// Which road, and how it is walked.
    pub egress: Egress,
    /// Who may come in.
    pub keys: Keys,
    /// Limits; shared by all snapshots.
    pub governor: Arc<Governor>,
    /// What upstreams' reports have taught of their tokens; shared by all snapshots.
    pub calibration: Arc<Calibration>,
    /// Where usage is written down, if it is; shared by all snapshots.
    pub ledger: Option<Arc<Ledger>>,
    /// Metrics and logs; shared by all snapshots.
    pub observer: Arc<Observer>,
    /// The answer to `GET /v1/models`; `None` when no model has a name that can be listed.
    pub model_list: Option<Bytes>,
}

/// An endpoint as the road sees it.
#[derive(Debug)]
pub struct Exit {
    /// Where, and how it is verified.
    pub endpoint: egress::Endpoint,
    /// Deadlines of its connections.
    pub limits: egress::Limits,
}

impl Snapshot {
    /// The road to an endpoint.
    pub fn exit(&self, id: EndpointId) -> &Exit {
        &self.exits[id.0]
    }

    /// The limits of the route that was found, where it has some.
    pub fn terms(&self, found: Found) -> Option<&Terms> {
        match found {
            Found::Model(route) => self.route_terms[route.0].as_ref(),
            Found::Path(..) | Found::Default(_) => None,
        }
    }

    /// The group that takes turns for what routing found.
    pub fn group(&self, found: Found) -> &Group {
        match found {
            Found::Model(route) => &self.route_groups[route.0],
            Found::Path(ProviderIndex(provider), _) | Found::Default(ProviderIndex(provider)) => {
                &self.provider_groups[provider]
            }
        }
    }
}

/// The snapshot that new requests get.
#[derive(Debug)]
pub struct Live(ArcSwap<Snapshot>);

impl Live {
    /// Begins with `first`.
    pub fn new(first: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    /// The live snapshot, for as long as the caller wants.
    pub fn pin(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Replaces it for requests that come from now on.
    pub fn swap(&self, next: Snapshot) {
        next.upstreams.go_live();
        self.0.store(Arc::new(next));
    }
}
