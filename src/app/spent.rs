//! What the books have of budgets, told to the accounts when weir starts: where `state_dir` lost its
//! accounts, or the ledger is kept elsewhere, nobody gets a fresh budget.
//!
//! Only who comes when nobody serves beside tells it, and only of requests that came before: what is
//! settled from then on is in the accounts already, so that it counts once however late the books are.

use crate::config::Settings;
use crate::govern::accounts::Found;
use crate::govern::budget::Span;
use crate::govern::settings::{Allowance, Period};
use crate::govern::{Governor, Keys, ledger};
use crate::snapshot::Snapshot;
use crate::types::Money;
use ahash::AHashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const PERIODS: [Period; 5] = [
    Period::Day,
    Period::Week,
    Period::Month,
    Period::Year,
    Period::Total,
];

/// What the books are compared with.
struct Comparison {
    governor: Arc<Governor>,
    keys: Keys,
    usage: ledger::Settings,
    found: Found,
}

/// Adds what the books have of each budget beyond what the accounts had. Waits a moment for that; books
/// that take longer, or are away, are compared beside the requests, as soon as they can be read.
pub(super) async fn restore(snapshot: &Snapshot, settings: &Settings) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let (Some(usage), Some(_)) = (settings.usage.clone(), &settings.govern.teams) else {
        return;
    };
    // A database may have what other hosts spent; those tell it through the shared state.
    if settings.shared_state.is_some() && usage.store != ledger::settings::Store::Sqlite {
        return;
    }
    let Some(found) = snapshot.governor.accounts().found() else {
        return;
    };
    let comparison = Arc::new(Comparison {
        governor: Arc::clone(&snapshot.governor),
        keys: snapshot.keys.clone(),
        usage,
        found,
    });
    let job = tokio::spawn(comparison.until_done());
    if tokio::time::timeout(PATIENCE, job).await.is_err() {
        tracing::warn!(
            "the books are slow or away: budgets are compared with them while requests are served"
        );
    }
}

impl Comparison {
    async fn until_done(self: Arc<Self>) {
        const PAUSE: Duration = Duration::from_secs(1);
        const PAUSE_MAX: Duration = Duration::from_secs(30);
        let mut pause = PAUSE;
        loop {
            let this = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || this.read()).await {
                Ok(Ok(spent)) => return self.tell(spent),
                Ok(Err(fault)) if pause == PAUSE => tracing::warn!(
                    %fault,
                    "what is spent of budgets can't be compared with the books yet: it is as the accounts \
                     in state_dir have it, until the books can be read"
                ),
                Ok(Err(_)) => {}
                // The process ends.
                Err(_) => return,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// All of them or none, so that nothing is told twice.
    fn read(&self) -> Result<Vec<(Period, Vec<ledger::report::Spent>)>, ledger::Fault> {
        let mut all = Vec::new();
        for per in PERIODS {
            let since = Span::of(per, self.found.at).begins();
            let since = since.unwrap_or(SystemTime::UNIX_EPOCH);
            let spent = ledger::report::spent(&self.usage, since, self.found.at)?;
            all.push((per, spent));
        }
        Ok(all)
    }

    fn tell(&self, all: Vec<(Period, Vec<ledger::report::Spent>)>) {
        let raised: usize = (all.into_iter())
            .map(|(per, spent)| self.tell_of(per, spent))
            .sum();
        if raised > 0 {
            tracing::warn!(
                budgets = raised,
                "the accounts in state_dir lacked what was spent: budgets were raised to what the books have"
            );
        }
    }

    /// Answers with how many lacked something.
    fn tell_of(&self, per: Period, all: Vec<ledger::report::Spent>) -> usize {
        let teams = self.keys.teams().map(|teams| teams.all());
        let teams = teams.unwrap_or_default();
        let has = |allowance: &Allowance| allowance.budgets.iter().any(|budget| budget.per == per);
        let restore = |team: &Arc<str>, key: Option<&Arc<str>>, spent| {
            usize::from((self.governor).restore_spent(&self.found, team, key, per, spent))
        };
        let mut raised = 0;
        let mut sums: AHashMap<&Arc<str>, Money> = AHashMap::new();
        for spent in all {
            let Some(team) = teams.iter().find(|team| *team.name == *spent.team) else {
                continue;
            };
            let cost = i64::try_from(spent.sums.cost_pico).unwrap_or(i64::MAX);
            let cost = Money::from_pico(cost);
            *sums.entry(&team.name).or_default() += cost;
            let caller = (spent.key).and_then(|key| self.keys.named(&team.name, key.as_str()));
            if let Some(caller) = caller.filter(|caller| has(&caller.key.allowance)) {
                raised += restore(&team.name, Some(&caller.key.name), cost);
            }
        }
        for team in teams.iter().filter(|team| has(&team.allowance)) {
            let spent = sums.get(&team.name).copied().unwrap_or_default();
            raised += restore(&team.name, None, spent);
        }
        raised
    }
}
