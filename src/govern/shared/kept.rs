//! One stock as its keeper has it: what is told and asked of it, and what becomes of an answer, or of
//! none. Called by `keeper`, while it has the right to speak for the host.

use super::draw::{Answer, Ask, Kind};
use super::lease::{Lease, Seen, Step};
use super::stock;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

/// A stock, and its lease.
pub(super) struct Kept {
    pub(super) stock: Arc<stock::Inner>,
    pub(super) lease: Lease,
    /// When a rate was last refilled without the server.
    pub(super) refilled: Option<Instant>,
}

// === impl Kept ===

impl Kept {
    /// What is told and asked. What is given back can't be taken from here on.
    pub(super) fn ask(&self, step: Step, waits: bool) -> Ask {
        let stock = &self.stock;
        let (kind, limit) = stock.terms();
        let account = &stock.account;
        if !waits {
            // What was taken without asking isn't this host's any more; what was used of it was used.
            let alone = account.alone().swap(0, Ordering::Relaxed);
            if alone > 0 {
                lower(
                    stock,
                    account.granted().saturating_sub(alone).max(account.total()),
                );
            }
        }
        let before = account.granted();
        if let Step::Keep(keep) = step {
            lower(stock, account.total().saturating_add(keep));
        }
        let seen = stock.seen();
        let alone = account.alone().load(Ordering::Relaxed).max(0);
        // What nobody has granted can't be claimed, but for what was used of it.
        let has = seen.granted.saturating_sub(alone).max(seen.total);
        let (need, want) = match step {
            Step::Draw { need, want } => (need.max(seen.total), want.max(has)),
            Step::Keep(_) | Step::Tell => (has, has),
        };
        let answer = self.lease.answer();
        let mut ask = Ask {
            name: stock.name.clone(),
            kind,
            limit,
            ttl_ms: stock.ttl_ms(SystemTime::now()),
            used: seen.total,
            has,
            give: 0,
            need,
            want,
            settled: account.settled(),
            told: account.elsewhere(),
        };
        if let Kind::Rate { .. } = kind {
            ask.give = before.saturating_sub(seen.granted).max(0);
            ask.need = need.saturating_sub(seen.granted).max(0);
            ask.want = want.saturating_sub(seen.granted).max(0);
            ask.settled = 0;
            ask.told = answer.map_or(0, |answer| answer.told);
        }
        ask
    }

    pub(super) fn hear(&mut self, ask: &Ask, answer: Answer, hosts: i64, now: Instant) {
        let account = &self.stock.account;
        let met = match ask.kind {
            Kind::Rate { .. } => {
                let drawn = answer.has.saturating_add(ask.give);
                account.grant(account.granted().saturating_add(drawn));
                drawn >= ask.need && (drawn > 0 || ask.want == 0)
            }
            Kind::Budget | Kind::Slots => {
                let is_alone = account.alone().load(Ordering::Relaxed) > 0;
                let kept = if is_alone {
                    account.granted()
                } else {
                    i64::MIN
                };
                account.grant(answer.has.max(kept));
                account.set_elsewhere(match ask.kind {
                    Kind::Budget => answer.settled,
                    _ => answer.told,
                });
                answer.has >= ask.need && (answer.has > ask.has || ask.want <= ask.has)
            }
        };
        self.lease.heard(answer, hosts, ask.used, met, now);
        self.stock.tell(answer);
    }

    /// A part of what was left, once; of a rate a part of what comes in.
    pub(super) fn take_share(&mut self, hosts: i64, now: Instant) {
        let (kind, limit) = self.stock.terms();
        let account = &self.stock.account;
        let seen = self.stock.seen();
        if let Kind::Rate { burst } = kind {
            let since = *self.refilled.get_or_insert(now);
            let elapsed = now.saturating_duration_since(since).as_secs_f64();
            let more = (limit as f64 / 60.0 / hosts as f64 * elapsed) as i64;
            let room = (burst / hosts).max(1).saturating_sub(seen.stock());
            if more > 0 {
                self.refilled = Some(now);
                account.grant(seen.granted.saturating_add(more.min(room).max(0)));
            }
            account.alone().store(-1, Ordering::Relaxed);
            return;
        }
        if account.alone().load(Ordering::Relaxed) != 0 {
            return;
        }
        let share = self
            .lease
            .share(seen, limit, account.elsewhere(), hosts, now);
        // What is noted is never 0: it was taken.
        let noted = if share > 0 { share } else { -1 };
        account.alone().store(noted, Ordering::Relaxed);
        account.grant(seen.granted.saturating_add(share));
    }

    /// The lease is over: others may have been granted what isn't used of it.
    pub(super) fn let_go(&self) {
        lower(&self.stock, self.stock.account.total());
    }
}

/// Less is granted from now on.
fn lower(stock: &stock::Inner, to: i64) {
    let seen: Seen = stock.seen();
    if to < seen.granted {
        stock.account.grant(to);
    }
}
