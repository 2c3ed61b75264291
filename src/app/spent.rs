//! What the books have of budgets, told to the accounts when weir starts: where `state_dir` lost its
//! accounts, or the ledger is kept elsewhere, nobody gets a fresh budget.

use crate::config::Settings;
use crate::govern::budget::Span;
use crate::govern::ledger;
use crate::govern::settings::{Allowance, Period};
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

/// Raises what is spent of each budget to what the books have. Waits a moment for that; books that take
/// longer are read beside the requests. Only for a weir that nobody else serves beside: what is being
/// settled would be counted twice.
pub(super) async fn restore(snapshot: Arc<Snapshot>, settings: &Settings) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let (Some(usage), Some(_)) = (settings.usage.clone(), &settings.govern.teams) else {
        return;
    };
    // A database may have what other hosts spent; those tell it through the shared state.
    if settings.shared_state.is_some() && usage.store != ledger::settings::Store::Sqlite {
        return;
    }
    let job = tokio::task::spawn_blocking(move || {
        if let Err(fault) = read(&snapshot, &usage) {
            tracing::warn!(
                %fault,
                "what is spent of budgets could not be compared with the books; it is as the accounts \
                 in state_dir have it"
            );
        }
    });
    if tokio::time::timeout(PATIENCE, job).await.is_err() {
        tracing::warn!(
            "the books are slow: budgets are compared with them while requests are served"
        );
    }
}

fn read(snapshot: &Snapshot, usage: &ledger::Settings) -> Result<(), ledger::Fault> {
    let now = SystemTime::now();
    let keys = &snapshot.keys;
    let teams = keys.teams().map(|teams| teams.all()).unwrap_or_default();
    for per in PERIODS {
        let has = |allowance: &Allowance| allowance.budgets.iter().any(|budget| budget.per == per);
        let since = Span::of(per, now).begins();
        let mut sums: AHashMap<&Arc<str>, Money> = AHashMap::new();
        for spent in ledger::report::spent(usage, since.unwrap_or(SystemTime::UNIX_EPOCH))? {
            let Some(team) = teams.iter().find(|team| *team.name == *spent.team) else {
                continue;
            };
            let cost = i64::try_from(spent.sums.cost_pico).unwrap_or(i64::MAX);
            let cost = Money::from_pico(cost);
            *sums.entry(&team.name).or_default() += cost;
            let caller = spent
                .key
                .and_then(|key| keys.named(&team.name, key.as_str()));
            if let Some(caller) = caller.filter(|caller| has(&caller.key.allowance)) {
                let key = Some(&caller.key.name);
                (snapshot.governor).restore_spent(&team.name, key, per, now, cost);
            }
        }
        for team in teams.iter().filter(|team| has(&team.allowance)) {
            let spent = sums.get(&team.name).copied().unwrap_or_default();
            (snapshot.governor).restore_spent(&team.name, None, per, now, spent);
        }
    }
    Ok(())
}
