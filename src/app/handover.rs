//! What one generation leaves to the next, and what several tell together: totals of metrics, limits
//! that were spent, names that were resolved, who is busy, keys of TLS tickets.
//!
//! All of it goes by message (see `supervise::protocol`): each generation reports, the one that leads
//! adds the totals of those that ended to its own.

use super::build::Shared;
use super::operators::unwell;
use crate::admin::Metrics;
use crate::govern::Moment;
use crate::listen::tls::{Challenges, Tickets};
use crate::observe::Breakers;
use crate::observe::merge::{merged, totals};
use crate::observe::metrics::Now;
use crate::snapshot::Live;
use crate::supervise::protocol::{Report, Summary, Told};
use crate::supervise::worker::Teller;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// All that this process knows and others need.
pub(super) struct Handover {
    shared: Shared,
    pub(super) tickets: Tickets,
    pub(super) challenges: Challenges,
    config_hash: Mutex<String>,
    live: OnceLock<Arc<Live>>,
    /// Totals of generations that ended, and which.
    inherited: Mutex<(String, Vec<u64>)>,
    generation: u64,
    neighbours: Option<Neighbours>,
}

impl Handover {
    /// Of a process that knows nothing yet; without a supervisor there is nobody to tell.
    pub(super) fn new(
        shared: Shared,
        config_hash: String,
        supervisor: Option<(u64, Teller)>,
    ) -> Self {
        Self {
            shared,
            tickets: Tickets::new(std::time::SystemTime::now()),
            challenges: Challenges::default(),
            config_hash: Mutex::new(config_hash),
            live: OnceLock::new(),
            inherited: Mutex::default(),
            generation: supervisor.as_ref().map_or(0, |(number, _)| *number),
            neighbours: supervisor.map(|(_, teller)| Neighbours::new(teller)),
        }
    }

    /// What others know, before anything is accepted.
    pub(super) fn begin(&self, state: Option<&Value>, totals: &[Report]) {
        if let Some(state) = state {
            self.take_over(state);
        }
        totals.iter().for_each(|report| self.absorb(report));
    }

    /// Goes on where another generation stands.
    pub(super) fn take_over(&self, state: &Value) {
        self.shared
            .governor
            .take_over(&state["limits"], Moment::now());
        self.shared.resolver.learn(names_of(&state["names"]));
        self.shared.dialling.learn(busiest_of(&state["busiest"]));
        self.shared.calibration.take_over(&state["calibration"]);
        if let Err(error) = self.challenges.import(&state["challenges"]) {
            tracing::debug!(%error, "another generation's challenges");
        }
        if let Err(error) = self.tickets.import(&state["tickets"]) {
            tracing::warn!(%error, "clients have to make full TLS handshakes once more");
        }
    }

    /// What another generation has spent since this one began. Its keys and challenges are older than
    /// those that this one has by now.
    pub(super) fn catch_up(&self, state: &Value) {
        self.shared
            .governor
            .take_over(&state["limits"], Moment::now());
        self.shared.resolver.learn(names_of(&state["names"]));
        self.shared.calibration.take_over(&state["calibration"]);
    }

    /// Adds the totals of a generation that ended.
    pub(super) fn absorb(&self, report: &Report) {
        let mut inherited = self.inherited.lock();
        if inherited.1.contains(&report.generation) {
            return;
        }
        inherited.0 = totals(&[&inherited.0, &report.metrics]);
        inherited.1.push(report.generation);
    }

    /// What requests get from now on; to be said once.
    pub(super) fn tells_of(&self, live: &Arc<Live>) {
        // Said twice, the first holds.
        let _ = self.live.set(Arc::clone(live));
    }

    /// The configuration is another one.
    pub(super) fn set_config_hash(&self, hash: String) {
        *self.config_hash.lock() = hash;
    }

    pub(super) fn config_hash(&self) -> String {
        self.config_hash.lock().clone()
    }

    /// This process in a few numbers.
    pub(super) fn summary(&self) -> Summary {
        let governor = &self.shared.governor;
        let (streams, oldest) = governor.streams().look(Instant::now());
        let connections = self.shared.observer.metrics.connections.get();
        Summary {
            config_hash: self.config_hash(),
            connections: u64::try_from(connections).unwrap_or_default(),
            in_flight: governor.in_flight() as u64,
            buffered_bytes: governor.buffers().held() as u64,
            streams: streams as u64,
            oldest_stream_seconds: oldest.map(|age| age.as_secs()),
            unwell: self
                .live
                .get()
                .map_or_else(Vec::new, |live| unwell(&live.pin())),
        }
    }

    /// All that this process knows.
    pub(super) fn report(&self) -> Report {
        let (metrics, absorbed) = self.totals();
        let names: Vec<Value> = (self.shared.resolver.known().into_iter())
            .map(|known| {
                json!([
                    known.name,
                    known.addresses,
                    known.fresh.as_secs(),
                    known.stale.as_secs(),
                    known.missing_for.map(|it| it.as_secs()),
                ])
            })
            .collect();
        let busiest: Vec<Value> = (self.shared.dialling.busiest().into_iter())
            .map(|(endpoint, uses)| json!([endpoint, uses]))
            .collect();
        Report {
            generation: self.generation,
            absorbed,
            drains: false,
            summary: self.summary(),
            metrics,
            state: json!({
                "limits": self.shared.governor.hand_over(Moment::now()),
                "names": names,
                "busiest": busiest,
                "calibration": self.shared.calibration.hand_over(),
                "tickets": self.tickets.export(),
                "challenges": self.challenges.export(),
            }),
        }
    }

    /// Its metrics, and which generations' totals are in them.
    fn totals(&self) -> (String, Vec<u64>) {
        let inherited = self.inherited.lock();
        let own = self.own_metrics();
        (merged(&[&own], &[&inherited.0]), inherited.1.clone())
    }

    fn own_metrics(&self) -> String {
        let governor = &self.shared.governor;
        let now = Now {
            in_flight: governor.in_flight(),
            waiting: governor.waiting(),
            buffered_bytes: governor.buffers().held(),
            streams: governor.streams().look(Instant::now()).0,
            drains: governor.drains().open(),
            accounts_homeless: governor.accounts().homeless(),
        };
        let metrics = &self.shared.observer.metrics;
        self.standings(&metrics.breakers);
        metrics.no_budgets();
        governor.budgets(|team, key, per, now| metrics.budget(team, key, per.as_str(), now.used));
        metrics.no_upstreams();
        let live = self.live.get().map(|live| live.pin());
        if let Some(upstreams) = live.as_ref().map(|live| &live.upstreams) {
            for provider in upstreams.providers() {
                let endpoints = provider.endpoints.iter();
                let endpoints = endpoints.map(|id| upstreams.endpoint(*id));
                let endpoints = endpoints.map(|it| (&*it.name, it.in_flight()));
                metrics.upstream(&provider.name, provider.waiting(), endpoints);
            }
        }
        let text = metrics.render(now);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// How each endpoint stands.
    fn standings(&self, breakers: &Breakers) {
        breakers.none();
        let Some(live) = self.live.get() else {
            return;
        };
        let (snapshot, now) = (live.pin(), Instant::now());
        let upstreams = &snapshot.upstreams;
        for endpoint in upstreams.endpoints() {
            let provider = &upstreams.provider(endpoint.provider).name;
            let known = endpoint.known(now);
            breakers.stands(
                provider,
                &endpoint.name,
                known.breaker.code(),
                known.healthy,
            );
        }
    }

    /// What `/metrics` answers: this process, all others that live, and what the dead left.
    pub(super) fn metrics(self: &Arc<Self>) -> Metrics {
        let handover = Arc::clone(self);
        Arc::new(move || {
            let handover = Arc::clone(&handover);
            Box::pin(async move {
                let others = handover.others().await;
                let (own, absorbed) = handover.totals();
                let mut living = vec![own.as_str()];
                // One that was living when the others were asked may have been added since.
                let still = |it: &&Report| !absorbed.contains(&it.generation);
                let all = others.living.iter().filter(still);
                living.extend(all.map(|it| it.metrics.as_str()));
                let dead = others.dead.iter();
                let dead: Vec<&str> = dead
                    .filter(|it| !absorbed.contains(&it.generation))
                    .map(|it| it.metrics.as_str())
                    .collect();
                if living.len() == 1 && dead.is_empty() {
                    return own;
                }
                merged(&living, &dead)
            })
        })
    }

    /// What the other generations know; nothing where there are none.
    pub(super) async fn others(&self) -> Others {
        match &self.neighbours {
            Some(neighbours) => neighbours.ask().await,
            None => Others::default(),
        }
    }

    /// An answer of the supervisor's.
    pub(super) fn answered(&self, id: u64, others: Others) {
        if let Some(neighbours) = &self.neighbours {
            neighbours.answered(id, others);
        }
    }
}

fn names_of(state: &Value) -> impl Iterator<Item = weir_dns::Known> {
    state.as_array().into_iter().flatten().filter_map(|known| {
        let addresses = known[1].as_array()?.iter();
        let addresses: Option<Vec<IpAddr>> = addresses
            .map(|address| address.as_str()?.parse().ok())
            .collect();
        Some(weir_dns::Known {
            name: known[0].as_str()?.to_owned(),
            addresses: addresses?,
            fresh: Duration::from_secs(known[2].as_u64()?),
            stale: Duration::from_secs(known[3].as_u64()?),
            missing_for: known[4].as_u64().map(Duration::from_secs),
        })
    })
}

fn busiest_of(state: &Value) -> impl Iterator<Item = (u64, u64)> {
    let all = state.as_array().into_iter().flatten();
    all.filter_map(|known| Some((known[0].as_u64()?, known[1].as_u64()?)))
}

/// Reports of other generations.
#[derive(Clone, Debug, Default)]
pub(super) struct Others {
    pub(super) living: Vec<Report>,
    /// Those whose totals nobody has added yet.
    pub(super) dead: Vec<Report>,
}

/// Asks the supervisor what the other generations know.
struct Neighbours {
    teller: Teller,
    asked: Mutex<(u64, BTreeMap<u64, oneshot::Sender<Others>>)>,
    /// The last answer: it stands in for one that doesn't come, so that no counter falls.
    last: Mutex<Others>,
}

impl Neighbours {
    fn new(teller: Teller) -> Self {
        Self {
            teller,
            asked: Mutex::default(),
            last: Mutex::default(),
        }
    }

    /// An operator's question must be answered: where the supervisor is silent, with what it
    /// said last.
    async fn ask(&self) -> Others {
        const PATIENCE: Duration = Duration::from_secs(2);
        let (send, answer) = oneshot::channel();
        let id = {
            let mut asked = self.asked.lock();
            asked.0 += 1;
            let id = asked.0;
            asked.1.insert(id, send);
            id
        };
        self.teller.tell(Told::Ask { id });
        let others = tokio::time::timeout(PATIENCE, answer).await;
        self.asked.lock().1.remove(&id);
        match others {
            Ok(Ok(others)) => {
                self.last.lock().clone_from(&others);
                others
            }
            _ => self.last.lock().clone(),
        }
    }

    fn answered(&self, id: u64, others: Others) {
        if let Some(asker) = self.asked.lock().1.remove(&id) {
            // Whoever asked may be gone.
            drop(asker.send(others));
        }
    }
}
