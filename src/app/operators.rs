//! What the admin API tells and does: joins what `govern` knows of keys, limits and usage. Every
//! process answers for all: keys and usage are files or a database, limits are shared sums.

mod aside;
mod keys;
mod limits;
mod upstreams;
mod usage;

pub(super) use upstreams::unwell;

use crate::admin::Weir;
use crate::admin::api::Trouble;
use crate::admin::api::nouns::{
    Key, KeyName, KeyQuery, Keys, LimitQuery, Limits, Made, NewKey, Overlap, Team, Teams,
    Upstreams, Usage, UsageQuery,
};
use crate::govern::ledger;
use crate::govern::look::Of;
use crate::snapshot::{Live, Snapshot};
use aside::Aside;
use async_trait::async_trait;
use limits::{allowed, budgets, standing};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Answers operators.
pub(super) struct Operators {
    live: Arc<Live>,
    /// `None` where usage isn't kept.
    ledger: Option<Arc<ledger::Settings>>,
    keys: Aside,
    usage: Aside,
}

impl Operators {
    pub(super) fn new(live: Arc<Live>, ledger: Option<ledger::Settings>) -> Self {
        Self {
            live,
            ledger: ledger.map(Arc::new),
            keys: Aside::new(),
            usage: Aside::new(),
        }
    }

    /// Does something with the keys of the live configuration.
    async fn keys<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshot) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        let snapshot = self.live.pin();
        self.keys.work(move || work(&snapshot)).await
    }
}

#[async_trait]
impl Weir for Operators {
    async fn usage(&self, query: UsageQuery) -> Result<Usage, Trouble> {
        let Some(ledger) = self.ledger.clone() else {
            return Err(Trouble::Conflict(
                "this configuration keeps no usage: add `usage: {store: sqlite}`".into(),
            ));
        };
        let work = move || usage::usage(&ledger, &query);
        self.usage.work(work).await
    }

    async fn upstreams(&self) -> Result<Upstreams, Trouble> {
        Ok(upstreams::upstreams(&self.live.pin(), Instant::now()))
    }

    async fn teams(&self) -> Result<Teams, Trouble> {
        let work = |it: &Snapshot| {
            let (governor, now) = (&it.governor, SystemTime::now());
            let teams = it.keys.teams().map(|teams| teams.all());
            let teams: Vec<_> = teams.into_iter().flatten().collect();
            let all = teams.iter();
            let all = all.map(|team| (Of::Team(&team.name), &team.allowance));
            let fleet = governor.fleet(all, now);
            let told = teams.into_iter().map(|team| {
                let allowance = &team.allowance;
                let look = governor.look(Of::Team(&team.name), allowance, &fleet, now);
                Team {
                    team: team.name.to_string(),
                    models: team.models.as_ref().map(|models| models.patterns.clone()),
                    limits: allowed(allowance),
                    budgets: budgets(allowance),
                    standing: standing(look),
                }
            });
            Ok(Teams {
                teams: told.collect(),
            })
        };
        self.keys(work).await
    }

    async fn keys(&self, query: KeyQuery) -> Result<Keys, Trouble> {
        let work = move |snapshot: &Snapshot| keys::listed(&snapshot.keys, query.team.as_deref());
        self.keys(work).await.map(|keys| Keys { keys })
    }

    async fn key(&self, name: KeyName) -> Result<Key, Trouble> {
        self.keys(move |it| keys::one(&it.keys, &name)).await
    }

    async fn make_key(&self, key: NewKey) -> Result<Made, Trouble> {
        self.keys(move |it| keys::make(&it.keys, key)).await
    }

    async fn rotate_key(&self, name: KeyName, overlap: Overlap) -> Result<Made, Trouble> {
        let work = move |it: &Snapshot| keys::rotate(&it.keys, &name, overlap);
        self.keys(work).await
    }

    async fn revoke_key(&self, name: KeyName) -> Result<(), Trouble> {
        self.keys(move |it| keys::revoke(&it.keys, &name)).await
    }

    async fn limits(&self, query: LimitQuery) -> Result<Limits, Trouble> {
        let work = move |it: &Snapshot| limits::limits(it, query.team.as_deref());
        self.keys(work).await
    }
}
