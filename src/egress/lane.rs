//! Many requests at once, one HTTP/2 connection: while the first request opens it, the others wait
//! for a moment instead of opening one each.
//!
//! Pingora connects for each request that finds no connection in its pool, and learns by ALPN only
//! then that one would have carried them all. So the first request for a pool key *leads*, and says
//! when it is connected what the upstream speaks. Who speaks HTTP/1.1 is remembered for
//! [`HTTP1_LASTS`], or until it speaks HTTP/2, and nobody waits for it. Nobody waits twice, nor for longer than the caller says, who counts it as time
//! to connect: an upstream that takes no connections keeps its requests no longer than it did.
//!
//! While Pingora opens a stream it takes the connection out of its pool, so that others don't find
//! it for that moment. Whoever then would dial beside an open lane is told so instead
//! ([`Lanes::is_open`]), and asks the pool again.
//!
//! ```text
//!   nobody ─ first ─▶ opening ─ HTTP/2 ─▶ open ─ last connection closed ─▶ nobody
//!                        ├─ HTTP/1.1 ─▶ nobody, remembered
//!                        └─ dropped ──▶ nobody
//! ```

use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use pingora::upstreams::peer::{Tracer, Tracing};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Road;
use super::memory::Memory;

/// Endpoints that are known to speak HTTP/1.1 only.
const HTTP1_MAX: usize = 4096;
/// How long that is believed: an upstream may learn HTTP/2, or have been behind another road.
const HTTP1_LASTS: Duration = Duration::from_secs(600);

/// Connections that are being opened or open, by the pool's key. Each entry has a request that
/// leads or a connection that lives, so there are no more than of those.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    lanes: AHashMap<u64, Lane>,
    /// Who speaks HTTP/1.1, and since when that is known.
    http1: AHashMap<u64, Instant>,
}

#[derive(Debug, Default)]
struct Lane {
    /// Ends with the request that leads.
    opening: Option<watch::Receiver<()>>,
    /// There is an HTTP/2 connection.
    open: bool,
    /// Connections that live and may be HTTP/2.
    live: usize,
}

/// A request that tells of its connection. The first one leads: it opens a connection for others
/// too. Dropped before it says more, it lets the others go on by themselves.
#[derive(Debug)]
pub struct Lead {
    memory: Arc<Memory>,
    pool_key: u64,
    endpoint: u64,
    /// Those who wait, where it leads.
    others: Option<watch::Sender<()>>,
}

// === impl Lanes ===

impl Lanes {
    /// Leads, or returns when who leads has done so, or when there is nothing to wait for.
    pub(super) async fn join(
        memory: &Arc<Memory>,
        pool_key: u64,
        endpoint: u64,
        patience: Duration,
    ) -> Option<Lead> {
        let mut opening = {
            let mut state = memory.lanes.0.lock();
            if let Some(since) = state.http1.get(&endpoint) {
                if since.elapsed() < HTTP1_LASTS {
                    return None;
                }
                state.http1.remove(&endpoint);
            }
            let lane = state.lanes.entry(pool_key).or_default();
            match &lane.opening {
                Some(opening) => opening.clone(),
                None if lane.open => return None,
                None => {
                    let (others, opening) = watch::channel(());
                    lane.opening = Some(opening);
                    return Some(Lead {
                        memory: Arc::clone(memory),
                        pool_key,
                        endpoint,
                        others: Some(others),
                    });
                }
            }
        };
        // Nothing is ever sent: it ends when the sender does.
        drop(tokio::time::timeout(patience, opening.changed()).await);
        None
    }

    /// There is an HTTP/2 connection, or was a moment ago.
    pub(super) fn is_open(&self, pool_key: u64) -> bool {
        let state = self.0.lock();
        state.lanes.get(&pool_key).is_some_and(|lane| lane.open)
    }

    fn connected(&self, pool_key: u64) {
        self.0.lock().lanes.entry(pool_key).or_default().live += 1;
    }

    fn disconnected(&self, pool_key: u64) {
        self.change(pool_key, |lane| {
            lane.live = lane.live.saturating_sub(1);
            lane.open &= lane.live > 0;
        });
    }

    /// Forgets a lane that has nothing left.
    fn change(&self, pool_key: u64, change: impl FnOnce(&mut Lane)) {
        let mut state = self.0.lock();
        if let Some(lane) = state.lanes.get_mut(&pool_key) {
            change(lane);
            if lane.opening.is_none() && lane.live == 0 {
                state.lanes.remove(&pool_key);
            }
        }
    }
}

// === impl Lead ===

impl Lead {
    /// One that nobody waits for.
    pub(super) fn alone(memory: &Arc<Memory>, pool_key: u64, endpoint: u64) -> Self {
        Self {
            memory: Arc::clone(memory),
            pool_key,
            endpoint,
            others: None,
        }
    }

    /// There is a connection, and this is what it speaks.
    pub fn connected(self, is_http2: bool) {
        let lanes = &self.memory.lanes;
        {
            let http1 = &mut lanes.0.lock().http1;
            if is_http2 {
                http1.remove(&self.endpoint);
            } else if self.others.is_some() && http1.len() < HTTP1_MAX {
                http1.insert(self.endpoint, Instant::now());
            }
        }
        lanes.change(self.pool_key, |lane| lane.open = is_http2);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.others.is_some() {
            let lanes = &self.memory.lanes;
            lanes.change(self.pool_key, |lane| lane.opening = None);
        }
    }
}

/// Counts a connection from its beginning to its end.
#[derive(Clone, Debug)]
struct Life {
    memory: Arc<Memory>,
    /// The pool's key, where the connection may be HTTP/2.
    lane: Option<u64>,
    road: Road,
}

/// What Pingora tells of a connection's beginning and end; `lane` is the pool's key where it may be
/// HTTP/2.
pub(super) fn tracer(memory: &Arc<Memory>, lane: Option<u64>, road: Road) -> Tracer {
    Tracer(Box::new(Life {
        memory: Arc::clone(memory),
        lane,
        road,
    }))
}

impl Tracing for Life {
    fn on_connected(&self) {
        self.memory.pool.opened(self.road.as_str());
        if let Some(pool_key) = self.lane {
            self.memory.lanes.connected(pool_key);
        }
    }

    fn on_disconnected(&self) {
        self.memory.pool.closed(self.road.as_str());
        if let Some(pool_key) = self.lane {
            self.memory.lanes.disconnected(pool_key);
        }
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    async fn join(memory: &Arc<Memory>, pool_key: u64) -> Option<Lead> {
        Lanes::join(memory, pool_key, 7, PATIENCE).await
    }

    fn is_empty(memory: &Memory) -> bool {
        memory.lanes.0.lock().lanes.is_empty()
    }

    #[tokio::test(start_paused = true)]
    async fn others_wait_for_the_first_and_then_find_its_connection() {
        let memory = Arc::new(Memory::default());
        let lead = join(&memory, 1).await.expect("the first");
        let waiting = Arc::clone(&memory);
        let other = tokio::spawn(async move { join(&waiting, 1).await.is_none() });
        tokio::task::yield_now().await;
        assert!(!other.is_finished());
        let life = tracer(&memory, Some(1), Road::Direct);
        life.0.on_connected();
        lead.connected(true);
        assert!(other.await.expect("joined"));
        assert!(join(&memory, 1).await.is_none() && memory.lanes.is_open(1));
        life.0.on_disconnected();
        assert!(is_empty(&memory));
        assert!(join(&memory, 1).await.is_some(), "anew");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_who_speaks_http1() {
        let memory = Arc::new(Memory::default());
        let lead = join(&memory, 1).await.expect("the first");
        lead.connected(false);
        for pool_key in [1, 2] {
            assert!(join(&memory, pool_key).await.is_none());
        }
        assert!(is_empty(&memory));
    }

    #[tokio::test(start_paused = true)]
    async fn who_spoke_http1_is_asked_anew_after_a_while_and_once_it_speaks_http2() {
        let memory = Arc::new(Memory::default());
        let alone = || Lead::alone(&memory, 1, 7);
        let spoke_http1 = async || join(&memory, 1).await.expect("leads").connected(false);
        spoke_http1().await;
        tokio::time::advance(HTTP1_LASTS - Duration::from_millis(1)).await;
        // What others see doesn't make it last.
        alone().connected(false);
        assert!(join(&memory, 1).await.is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        spoke_http1().await;
        assert!(join(&memory, 1).await.is_none());
        alone().connected(true);
        assert!(join(&memory, 1).await.is_some());
        assert!(is_empty(&memory));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_is_open_for_as_long_as_its_http2_connections_live() {
        let memory = Arc::new(Memory::default());
        let lead = join(&memory, 1).await.expect("the first");
        let lives = [Some(1), None].map(|lane| tracer(&memory, lane, Road::Direct));
        lives.iter().for_each(|life| life.0.on_connected());
        lead.connected(true);
        assert!(memory.lanes.is_open(1));
        lives[0].0.on_disconnected();
        assert!(!memory.lanes.is_open(1) && is_empty(&memory));
        lives[1].0.on_disconnected();
        // One that might have been HTTP/2 and isn't.
        lives[0].0.on_connected();
        Lead::alone(&memory, 1, 7).connected(true);
        assert!(memory.lanes.is_open(1));
        Lead::alone(&memory, 1, 7).connected(false);
        assert!(!memory.lanes.is_open(1));
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_first_fails_or_takes_long_the_others_go_on_by_themselves() {
        let memory = Arc::new(Memory::default());
        let other = |pool_key| {
            let memory = Arc::clone(&memory);
            tokio::spawn(async move { join(&memory, pool_key).await.is_none() })
        };
        let lead = join(&memory, 1).await.expect("the first");
        let others = [other(1), other(1), other(1)];
        tokio::task::yield_now().await;
        drop(lead);
        for one in others {
            assert!(one.await.expect("joined"), "none of them leads");
        }
        assert!(is_empty(&memory));
        let began = tokio::time::Instant::now();
        let _lead = join(&memory, 2).await.expect("the first");
        assert!(other(2).await.expect("joined"));
        assert_eq!(began.elapsed(), PATIENCE);
    }

    #[test]
    fn a_lane_is_forgotten_with_its_last_connection() {
        let memory = Arc::new(Memory::default());
        let lives = [1, 1, 2].map(|key| tracer(&memory, Some(key), Road::Proxy));
        for life in &lives {
            life.0.on_connected();
        }
        for life in &lives {
            life.clone().0.on_disconnected();
        }
        assert!(is_empty(&memory));
    }
}
