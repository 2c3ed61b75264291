//! Where requests meet that become one call. What is gathered is closed by whoever began it, at the end
//! of its window at the latest; where that one is gone, its members go on alone.

use crate::govern::Hold;
use crate::proxy::call::Call;
use crate::proxy::connect::{Sent, Try};
use crate::snapshot::Snapshot;
use crate::upstream::settings::Batch;
use crate::upstream::{Attempt, Choice, Endpoint};
use ahash::AHashMap;
use bytes::Bytes;
use parking_lot::Mutex;
use pingora::Error;
use pingora::http::ResponseHeader;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// All that is being gathered.
#[derive(Default)]
pub struct Batches {
    open: Mutex<AHashMap<Vec<u8>, Arc<Gather>>>,
    /// Routes whose calls were undone lately, how often in a row, and when the last time.
    undone: Mutex<AHashMap<Arc<str>, (u32, Instant)>>,
}

/// Requests that become one call.
pub struct Gather {
    members: Mutex<Members>,
    full: Notify,
    /// The call's try, once the upstream may be at work on it.
    sent: OnceLock<Sight>,
}

#[derive(Default)]
struct Members {
    all: Vec<Member>,
    tokens: u64,
    closed: bool,
}

/// One of them.
pub struct Member {
    /// What is to be embedded, as it is written.
    pub item: Bytes,
    /// Its tokens.
    pub weight: u64,
    /// It began to gather: the call has its body.
    pub leads: bool,
    /// Where its part goes; closed when its client has left.
    pub part: oneshot::Sender<Part>,
}

/// What a request gets of a call.
pub enum Part {
    /// An answer: its own, or the one that all get. One of them has the call's try.
    Answer {
        head: Box<ResponseHeader>,
        body: Bytes,
        hold: Arc<Hold>,
        tried: Option<Box<Try>>,
    },
    /// There was none; one of them is told why.
    Failed(Box<Call>, Box<Error>),
    /// It goes the usual way.
    Alone,
}

/// The right to close what is gathered, and the duty.
pub struct Gathering {
    pub gather: Arc<Gather>,
    key: Vec<u8>,
    batches: Arc<crate::proxy::call::Calls>,
    /// The key names it.
    _snapshot: Arc<Snapshot>,
}

/// A call's try, as the other requests see it that it is made for.
pub struct Sight {
    endpoint: Arc<Endpoint>,
    choice: Choice,
    road: Option<crate::egress::Road>,
    intranet: bool,
    began: Instant,
    sent: Option<Sent>,
}

/// After so many calls in a row that were undone a route isn't batched for a while.
const UNDONE_MAX: u32 = 5;
const UNDONE_PAUSE: Duration = Duration::from_secs(60);

impl Batches {
    /// Whether calls of this route come to something, as far as is known.
    pub fn may(&self, label: &str, now: Instant) -> bool {
        let undone = self.undone.lock();
        let recent = |last: Instant| now.saturating_duration_since(last) < UNDONE_PAUSE;
        !(undone.get(label)).is_some_and(|&(count, last)| count >= UNDONE_MAX && recent(last))
    }

    /// A call of this route was undone, for good where its upstream can't do such calls; or it wasn't.
    pub fn ended(&self, label: &Arc<str>, undone: Option<bool>, now: Instant) {
        let mut all = self.undone.lock();
        let Some(for_good) = undone else {
            all.remove(label);
            return;
        };
        let (count, last) = all.entry(Arc::clone(label)).or_insert((0, now));
        *count = if for_good { UNDONE_MAX } else { *count + 1 };
        *last = now;
    }
}

impl Gathering {
    /// Joins what is gathered under this key, or begins it: then the member leads, and gets the right to
    /// close it.
    pub fn join(
        calls: &Arc<crate::proxy::call::Calls>,
        snapshot: &Arc<Snapshot>,
        key: Vec<u8>,
        mut member: Member,
        batch: &Batch,
    ) -> (Arc<Gather>, Option<Self>) {
        let mut open = calls.batches.open.lock();
        if let Some(gather) = open.get(&key) {
            match gather.take(member, batch) {
                None => return (Arc::clone(gather), None),
                Some(back) => member = back,
            }
            // It waits no longer for what it can't take.
            gather.full.notify_one();
        }
        let gather = Arc::new(Gather {
            members: Mutex::default(),
            full: Notify::new(),
            sent: OnceLock::new(),
        });
        member.leads = true;
        drop(gather.take(member, batch));
        open.insert(key.clone(), Arc::clone(&gather));
        let gathering = Self {
            gather: Arc::clone(&gather),
            key,
            batches: Arc::clone(calls),
            _snapshot: Arc::clone(snapshot),
        };
        (gather, Some(gathering))
    }

    /// Resolves when no more is awaited.
    pub async fn full(&self) {
        self.gather.full.notified().await;
    }

    /// Nobody joins any more: those who are there.
    pub fn close(&self) -> Vec<Member> {
        let all = {
            let mut members = self.gather.members.lock();
            members.closed = true;
            std::mem::take(&mut members.all)
        };
        let mut open = self.batches.batches.open.lock();
        if (open.get(&self.key)).is_some_and(|it| Arc::ptr_eq(it, &self.gather)) {
            open.remove(&self.key);
        }
        all
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        self.close();
    }
}

impl Gather {
    /// Takes a member, or gives it back.
    fn take(&self, member: Member, batch: &Batch) -> Option<Member> {
        let mut members = self.members.lock();
        let tokens = members.tokens.saturating_add(member.weight);
        if members.closed || members.all.len() >= batch.size || tokens > batch.tokens {
            return Some(member);
        }
        members.tokens = tokens;
        members.all.push(member);
        if members.all.len() == batch.size {
            self.full.notify_one();
        }
        None
    }

    /// The upstream may be at work.
    pub fn sent(&self, current: &Try) {
        // Told once.
        let _ = self.sent.set(Sight {
            endpoint: current.attempt.shared_endpoint(),
            choice: current.choice.clone(),
            road: current.road,
            intranet: current.intranet,
            began: current.began,
            sent: current.sent,
        });
    }

    /// The call's try as one of its requests has it; `number` is which of its tries.
    pub fn sight(&self, number: u32) -> Option<Try> {
        let seen = self.sent.get()?;
        Some(Try {
            attempt: Attempt::echo(Arc::clone(&seen.endpoint)),
            choice: seen.choice.clone(),
            road: seen.road,
            proxy: None,
            lead: None,
            intranet: seen.intranet,
            body: None,
            asks_usage: false,
            carriage: None,
            began: seen.began,
            sent: seen.sent,
            number,
        })
    }
}
