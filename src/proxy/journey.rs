//! One request's facts, each written once by the step that learns it.

use super::arrive::Arrival;
use super::connect::Try;
use super::plan::{Plan, Surface};
use super::reply::Reply;
use crate::govern::Grant;
use crate::snapshot::Snapshot;
use std::sync::Arc;

/// One request's journey. Six fields, for good: a new need joins the struct of the step that learns
/// it. Dropping it settles the request, whatever has happened; see `settle`.
#[derive(Debug)]
pub struct Journey {
    /// Pinned at the start: no reload can change a request midway.
    pub snapshot: Arc<Snapshot>,
    /// `arrive`: id, clock, client.
    pub arrival: Arrival,
    /// `plan`: where it may go, and with which body.
    pub plan: Option<Plan>,
    /// `plan`: leave to be in flight.
    pub grant: Option<Grant>,
    /// `connect`: the current try; a retry replaces it, the old one reports itself.
    pub attempt: Option<Try>,
    /// `reply` or `refuse`: what the client got.
    pub reply: Reply,
}

impl Journey {
    /// A request whose head has just been read.
    pub fn begin(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            arrival: Arrival::now(),
            plan: None,
            grant: None,
            attempt: None,
            reply: Reply::default(),
        }
    }

    /// Which API its path belongs to.
    pub fn surface(&self) -> Surface {
        match &self.plan {
            Some(plan) => plan.surface,
            None => Surface::of(&self.arrival.path),
        }
    }
}
