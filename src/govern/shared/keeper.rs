//! Looks after this host's stocks: draws ahead, tells what was used, gives back, and does what is to be
//! done when the server is away. One task; it never stands in a request's way.
//!
//! ```text
//!               ┌────────── an exchange fails ─────────┐
//!               │                                      ▼
//!   unknown ─▶ up ◀── an exchange is answered ── down: on with the stock; then
//!       └───────── can't connect ───────────────▶  local: and a share of what was left
//!                                                  refuse: until the lease is over
//! ```

use super::agreeing::Agreeing;
use super::draw::{self, ALLOWANCES_MAX, Ask, Kind, Opening, Outcome};
use super::host::{Now, Speaking};
use super::kept::Kept;
use super::lease::{Lease, Step};
use super::link::{Dial, Fault, Link};
use super::settings::{OnDown, SharedState};
use super::words::Words;
use super::{Sharing, State};
use crate::observe;
use ahash::AHashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// The task that keeps stocks; see [`Keeper::run`].
pub struct Keeper {
    sharing: Sharing,
    settings: SharedState,
    dial: Dial,
    metrics: observe::Sharing,
    stocks: AHashMap<usize, Kept>,
    words: Option<Arc<dyn Words>>,
    /// How words stand, as the server says.
    stands: watch::Sender<String>,
    link: Option<Link>,
    connecting: Option<JoinHandle<Result<Link, Fault>>>,
    retry: Retry,
    /// When the last exchange was answered, by this process.
    beaten: Option<Instant>,
    /// Hosts come back to a server that has forgotten: it grants nothing yet.
    waits: bool,
    /// Everything has been told to a server that has forgotten, or is about to be.
    recalled: bool,
    told: bool,
}

struct Retry {
    at: Instant,
    pause: Duration,
}

/// How often stocks are looked at.
const TICK: Duration = Duration::from_millis(50);
/// The same while requests wait.
const TICK_WAITING: Duration = Duration::from_millis(10);
/// A host that has nothing to say says that it lives.
const BEAT: Duration = Duration::from_millis(500);
/// By when the server must have answered.
const EXCHANGE: Duration = Duration::from_millis(500);
/// By when there must be a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// Between two attempts to connect.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a server that has forgotten waits for hosts to come back, before it grants anything.
const PATIENCE: Duration = Duration::from_secs(5);

impl Keeper {
    /// Of these stocks, and of all that are made later.
    pub fn new(
        sharing: Sharing,
        settings: SharedState,
        dial: Dial,
        metrics: observe::Sharing,
    ) -> Self {
        let is_local = settings.on_down == OnDown::Local;
        sharing.0.local.store(is_local, Ordering::Relaxed);
        Self {
            sharing,
            settings,
            dial,
            metrics,
            stocks: AHashMap::default(),
            words: None,
            stands: watch::Sender::default(),
            link: None,
            connecting: None,
            retry: Retry {
                at: Instant::now(),
                pause: PAUSE_MIN,
            },
            beaten: None,
            waits: true,
            recalled: false,
            told: false,
        }
    }

    /// Has the words of all hosts kept alike, too.
    #[must_use]
    pub fn with_words(mut self, words: Arc<dyn Words>) -> Self {
        self.words = Some(words);
        self
    }

    /// Keeps them until `end` is told, or dropped. `true` says that no other process of this host goes
    /// on: what isn't used is given back then. Dropping the future leaves all as it is, as a `kill -9`
    /// would.
    pub async fn run(mut self, mut end: oneshot::Receiver<bool>) {
        // Dropped at the end, and its task with it.
        let mut beside = JoinSet::new();
        if let Some(words) = self.words.take() {
            let (settings, dial) = (self.settings.clone(), Arc::clone(&self.dial));
            let agreeing = Agreeing::new(words, settings, dial, self.stands.subscribe());
            beside.spawn(agreeing.run());
        }
        loop {
            let sharing = self.sharing.clone();
            let pause = self.pause();
            let last = tokio::select! {
                last = &mut end => Some(last.unwrap_or(false)),
                link = connected(&mut self.connecting) => {
                    self.connecting = None;
                    self.connected(link);
                    None
                }
                () = sharing.0.wake.notified() => None,
                () = sleep(pause) => None,
            };
            if let Some(last) = last {
                if last {
                    self.give_all_back().await;
                }
                return;
            }
            self.tick().await;
        }
    }

    fn pause(&self) -> Duration {
        let presses = |kept: &Kept| kept.lease.is_pressing(kept.stock.seen());
        if self.stocks.values().any(presses) {
            TICK_WAITING
        } else {
            TICK
        }
    }

    async fn tick(&mut self) {
        self.take_in();
        let now = Instant::now();
        if self.link.is_none() {
            self.connect(now);
        } else {
            let steps = self.steps(now);
            let beats = self
                .beaten
                .is_none_or(|at| now.saturating_duration_since(at) >= BEAT);
            if !steps.is_empty() || beats {
                self.exchange(&steps, false).await;
            }
            self.answer().await;
        }
        if self.sharing.state() == State::Down {
            self.go_on_alone(Instant::now());
        }
        self.tell_metrics();
    }

    /// Those that were made or used since the last look.
    fn take_in(&mut self) {
        for stock in std::mem::take(&mut *self.sharing.0.fresh.lock()) {
            let place = Arc::as_ptr(&stock) as usize;
            let lease = Lease::new(stock.terms().0);
            self.stocks.entry(place).or_insert(Kept {
                stock,
                lease,
                refilled: None,
            });
        }
    }

    /// Where the server has forgotten, it is told of all that requests have asked for lately, also where
    /// nobody does now.
    fn recall(&mut self) {
        if std::mem::replace(&mut self.recalled, self.waits) || !self.waits {
            return;
        }
        for kept in self.stocks.values_mut() {
            kept.lease.tell_again();
        }
        let known = self.sharing.0.known.lock();
        for stock in known.values().filter_map(Weak::upgrade) {
            stock.wants_keeping();
        }
    }

    /// What is to be done, the most pressing first.
    fn steps(&mut self, now: Instant) -> Vec<(usize, Step)> {
        let mut steps: Vec<(usize, Step)> = Vec::new();
        self.stocks.retain(|place, kept| {
            let seen = kept.stock.seen();
            if let Some(step) = kept.lease.look(seen, now) {
                steps.push((*place, step));
                return true;
            }
            if !kept.lease.is_over(seen, now) {
                return true;
            }
            kept.stock.is_let_go();
            // Somebody may have taken from it since it was looked at.
            let used = kept.stock.seen() != seen;
            if used {
                kept.stock.wants_keeping();
            }
            false
        });
        steps.sort_by_key(|(_, step)| match step {
            Step::Draw { .. } => 0,
            Step::Keep(_) => 1,
            Step::Tell => 2,
        });
        steps.truncate(ALLOWANCES_MAX);
        steps
    }

    // === the server ===

    fn connect(&mut self, now: Instant) {
        if self.connecting.is_some() || now < self.retry.at {
            return;
        }
        let (dial, server) = (Arc::clone(&self.dial), self.settings.server.clone());
        self.connecting = Some(tokio::spawn(async move {
            timeout(CONNECT, Link::open(&dial, &server))
                .await
                .unwrap_or(Err(Fault::Slow))
        }));
    }

    fn connected(&mut self, link: Result<Link, Fault>) {
        match link {
            Ok(link) => self.link = Some(link),
            Err(fault) => self.failed(&fault),
        }
    }

    async fn exchange(&mut self, steps: &[(usize, Step)], leaves: bool) {
        let Some(mut link) = self.link.take() else {
            return;
        };
        let began = Instant::now();
        let sharing = self.sharing.clone();
        let Some(mut speaking) = speak(&sharing).await else {
            // Another process of this host does; it has the same news.
            self.link = Some(link);
            return;
        };
        match self.converse(&mut link, &mut speaking, steps, leaves).await {
            Ok(()) => {
                self.metrics.exchanged("ok", began.elapsed());
                self.link = Some(link);
                self.succeeded();
            }
            Err(fault) => {
                self.metrics.exchanged(fault.word(), began.elapsed());
                self.failed(&fault);
            }
        }
    }

    async fn converse(
        &mut self,
        link: &mut Link,
        speaking: &mut Speaking<'_>,
        steps: &[(usize, Step)],
        leaves: bool,
    ) -> Result<(), Fault> {
        let asks: Vec<(usize, Ask)> = steps
            .iter()
            .filter_map(|(place, step)| {
                Some((*place, self.stocks.get(place)?.ask(*step, self.waits)))
            })
            .collect();
        let (places, asks): (Vec<usize>, Vec<Ask>) = asks.into_iter().unzip();
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        // A second time where another host's process, or a clock, was ahead.
        for _ in 0..2 {
            let now = Now::read();
            let opening = Opening {
                number: speaking.begin(now)?,
                heard: speaking.noted().heard,
                host: self.sharing.0.host.name(),
                lease_ms: millis(self.settings.lease),
                patience_ms: millis(PATIENCE),
                leaves,
            };
            let call = draw::call(&self.settings.prefix, &opening, &asks);
            let reply = timeout(EXCHANGE, link.run(&call))
                .await
                .unwrap_or(Err(Fault::Slow))?;
            match draw::outcome(&reply, &asks).ok_or(Fault::Unexpected)? {
                Outcome::Old(last) => speaking.pass(last)?,
                Outcome::Done {
                    hosts,
                    waits_ms,
                    words,
                    answers,
                } => {
                    speaking.heard(now, hosts)?;
                    self.waits = waits_ms > 0;
                    self.recall();
                    self.metrics.hosts(hosts);
                    let told = Instant::now();
                    for ((place, ask), answer) in places.iter().zip(&asks).zip(answers) {
                        if let Some(kept) = self.stocks.get_mut(place) {
                            kept.hear(ask, answer, hosts, told);
                        }
                    }
                    self.stands.send_replace(words);
                    return Ok(());
                }
            }
        }
        Err(Fault::Twins)
    }

    /// One of the questions that people have; where nobody can be asked, they are told nothing.
    async fn answer(&mut self) {
        let inner = Arc::clone(&self.sharing.0);
        let Some(mut link) = self.link.take() else {
            return inner.questions.lock().clear();
        };
        let question = inner.questions.lock().pop_front();
        if let Some(question) = question {
            let lease = i64::try_from(self.settings.lease.as_millis()).unwrap_or(i64::MAX);
            let call = question.call(&self.settings.prefix, inner.host.name(), lease);
            let reply = timeout(EXCHANGE, link.run(&call)).await;
            let reply = reply.unwrap_or(Err(Fault::Slow));
            match reply.and_then(|reply| question.answer(reply).ok_or(Fault::Unexpected)) {
                Ok(()) if inner.questions.lock().is_empty() => {}
                Ok(()) => inner.wake.notify_one(),
                Err(fault) => return self.failed(&fault),
            }
        }
        self.link = Some(link);
    }

    fn succeeded(&mut self) {
        self.beaten = Some(Instant::now());
        self.retry.pause = PAUSE_MIN;
        if self.sharing.state() != State::Up {
            self.sharing.0.set_state(State::Up);
            self.metrics.up(true);
            tracing::info!(server = %self.settings.server, "allowances are shared");
        }
        self.told = false;
        for kept in self.stocks.values_mut() {
            kept.refilled = None;
        }
    }

    fn failed(&mut self, fault: &Fault) {
        self.link = None;
        self.sharing.0.questions.lock().clear();
        let jitter = rand::random_range(0.75..1.25);
        self.retry.at = Instant::now() + self.retry.pause.mul_f64(jitter);
        self.retry.pause = (self.retry.pause * 2).min(PAUSE_MAX);
        self.sharing.0.set_state(State::Down);
        self.metrics.up(false);
        // Whoever comes back may have forgotten; it is asked before anything taken alone is let go.
        self.waits = true;
        if !std::mem::replace(&mut self.told, true) {
            let then = match self.settings.on_down {
                OnDown::Local => "goes on with an equal share of what was left",
                OnDown::Refuse => "refuses what it has no lease for",
            };
            tracing::error!(
                server = %self.settings.server,
                error = %fault,
                "allowances can't be shared: this host {then}"
            );
        }
    }

    // === without it ===

    fn go_on_alone(&mut self, now: Instant) {
        let Some(noted) = self.sharing.0.host.speak().map(|it| it.noted()) else {
            return;
        };
        let silence = noted.silence(Now::read());
        let until_over = until_over(self.settings.lease);
        let is_over = silence.is_none_or(|silence| silence >= until_over);
        for kept in self.stocks.values_mut() {
            match self.settings.on_down {
                OnDown::Local => kept.take_share(noted.hosts.max(1), now),
                OnDown::Refuse if is_over => kept.let_go(),
                OnDown::Refuse => {}
            }
            kept.stock.wake();
        }
    }

    async fn give_all_back(&mut self) {
        self.take_in();
        let all: Vec<(usize, Step)> = self
            .stocks
            .keys()
            .map(|place| (*place, Step::Keep(0)))
            .collect();
        let mut batches = all.chunks(ALLOWANCES_MAX).peekable();
        if batches.peek().is_none() {
            self.exchange(&[], true).await;
        }
        while let Some(steps) = batches.next() {
            self.exchange(steps, batches.peek().is_none()).await;
        }
    }

    fn tell_metrics(&self) {
        let mut sums = [(0.0, 0.0); 3];
        for kept in self.stocks.values() {
            let seen = kept.stock.seen();
            let (at, unit) = match kept.stock.terms().0 {
                Kind::Budget => (0, 1e-12),
                Kind::Slots => (1, 1.0),
                Kind::Rate { .. } => (2, 1.0),
            };
            sums[at].0 += seen.stock().max(0) as f64 * unit;
            sums[at].1 += seen.total as f64 * unit;
        }
        for (kind, (stock, used)) in ["budget", "slots", "rate"].into_iter().zip(sums) {
            self.metrics.stands(kind, stock, used);
        }
    }
}

/// How long a host may be silent before its lease is over for itself. For the others it is later: the last
/// exchange may have been heard late, and this task may be late.
pub(super) fn until_over(lease: Duration) -> Duration {
    lease.saturating_sub(EXCHANGE + lease / 10)
}

async fn connected(
    connecting: &mut Option<JoinHandle<Result<Link, Fault>>>,
) -> Result<Link, Fault> {
    match connecting {
        Some(connecting) => connecting.await.unwrap_or(Err(Fault::Unexpected)),
        None => std::future::pending().await,
    }
}

/// The right to speak for the host; another process has it for a round trip at most.
async fn speak(sharing: &Sharing) -> Option<Speaking<'_>> {
    const PAUSE: Duration = Duration::from_millis(2);
    const TRIES: usize = 25;
    for _ in 0..TRIES {
        if let Some(speaking) = sharing.0.host.speak() {
            return Some(speaking);
        }
        sleep(PAUSE).await;
    }
    None
}
