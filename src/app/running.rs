//! What a running weir obeys: its supervisor or signals, changes of its files, and the clock.
//!
//! ```text
//!             ┌────────── Resume ─────────┐
//!             ▼                           │
//!   ready ─ serving ─ Drain or Stop ─▶ draining ─ nothing open, or its time is over ─▶ out
//! ```

use super::build::Shared;
use super::certificates::{Certificates, Loaded};
use super::handover::{Handover, Others};
use super::listeners::{Closing, Listeners};
use super::probing::Probing;
use super::renewing::Renewing;
use super::{Fault, Source, question};
use crate::config::{self, Settings};
use crate::snapshot::{Live, Snapshot};
use crate::supervise::protocol::{Order, Reloaded, Report, Told};
use crate::supervise::worker::{Orders, Teller};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// A running weir and what it was started with.
pub(super) struct Running<'a> {
    pub(super) source: &'a Source,
    /// What the file looked like when it was last read.
    pub(super) stamp: config::watch::Stamp,
    pub(super) signals: Signals,
    pub(super) supervisor: Option<(Teller, Orders)>,
    /// What can't be changed by a reload was built from these.
    pub(super) started: Settings,
    /// `watch:` of the live configuration.
    pub(super) watch: bool,
    /// `timeouts.drain` of the live configuration.
    pub(super) drain: Duration,
    pub(super) shared: Shared,
    pub(super) live: Arc<Live>,
    pub(super) handover: Arc<Handover>,
    pub(super) certificates: Certificates,
    pub(super) listeners: Listeners,
    /// Asks endpoints whether they live.
    pub(super) probing: Probing,
    pub(super) renewing: Renewing,
    /// What `/health/ready` says.
    pub(super) ready: Arc<AtomicBool>,
    pub(super) doing: Doing,
}

/// What is going on.
#[derive(Default)]
pub(super) struct Doing {
    reload: Option<Reload>,
    /// Another one was asked for meanwhile.
    again: Option<Why>,
    drain: Option<Drain>,
    /// This process was told to end by a signal of its own.
    leaving: bool,
    /// This process alone accepts: it watches files and renews certificates.
    leads: bool,
    /// Ends when the file has another content than the live configuration's.
    watching: Option<JoinHandle<()>>,
    beats: u64,
}

struct Reload {
    why: Why,
    work: JoinHandle<(config::watch::Stamp, Prepared)>,
}

/// Who asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The supervisor, which waits for an answer.
    Ordered,
    /// A signal, or a change of the file.
    Own,
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    until: Instant,
    /// Its time is over: what was open has been told to end.
    ended: bool,
    /// Nobody accepts after this process: its sockets are closed.
    last: bool,
}

/// A configuration that could be served, or why not.
type Prepared = Result<Box<Next>, Fault>;

/// Ready to be swapped in.
struct Next {
    settings: Settings,
    snapshot: Snapshot,
    certificates: Loaded,
    config_hash: String,
}

enum Event {
    Signal(Wish),
    Order(Option<Order>),
    Changed,
    Prepared(Option<config::watch::Stamp>, Prepared),
    Beat,
    Look,
    TimeOver,
}

impl Running<'_> {
    /// Serves until there is nothing more to serve.
    pub(super) async fn until_over(&mut self) {
        /// How often the supervisor hears that this process lives.
        const BEAT: Duration = Duration::from_millis(500);
        /// How often a process that drains looks whether anything is still open.
        const LOOK: Duration = Duration::from_millis(20);
        let mut beat = interval(BEAT);
        let mut look = interval(LOOK);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        if self.supervisor.is_none() {
            self.lead();
        }
        loop {
            let drain = self.doing.drain;
            let time_over = async {
                match drain {
                    Some(Drain {
                        until,
                        ended: false,
                        ..
                    }) => sleep_until(until).await,
                    _ => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                wish = self.signals.next() => Event::Signal(wish),
                order = next_order(&mut self.supervisor) => Event::Order(order),
                () = changed(&mut self.doing.watching) => Event::Changed,
                (stamp, prepared) = prepared(&mut self.doing.reload) => {
                    Event::Prepared(stamp, prepared)
                }
                _ = beat.tick() => Event::Beat,
                _ = look.tick(), if drain.is_some() => Event::Look,
                () = time_over => Event::TimeOver,
            };
            if self.handle(event) {
                return;
            }
        }
    }

    /// True when it is over.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Signal(wish) => return self.wish(wish),
            Event::Order(Some(order)) => self.obey(order),
            Event::Order(None) => {
                tracing::warn!("the supervisor is gone; draining");
                self.supervisor = None;
                self.stop(self.drain, &Closing::All);
            }
            Event::Changed => {
                self.doing.watching = None;
                self.reload(Why::Own);
            }
            Event::Prepared(stamp, prepared) => self.prepared(stamp, prepared),
            Event::Beat => self.beat(),
            Event::Look => return self.is_over(),
            Event::TimeOver => self.end(),
        }
        false
    }

    fn wish(&mut self, wish: Wish) -> bool {
        match wish {
            Wish::Reopen => self.shared.observer.reopen(),
            Wish::Upgrade => {
                tracing::warn!("only the supervisor of `weir run` without --single upgrades");
            }
            // With a supervisor these are its to obey: a terminal sends them to both.
            Wish::Reload | Wish::Now if self.supervisor.is_some() => {}
            Wish::Reload => self.reload(Why::Own),
            Wish::Now => return true,
            Wish::Stop if self.doing.leaving => {
                tracing::warn!("stopped before all requests had ended");
                return true;
            }
            Wish::Stop => self.leave(),
        }
        false
    }

    /// Told to end by a signal. Where a supervisor hears of it this process goes on accepting until another
    /// one does; a supervisor that stops too orders so itself.
    fn leave(&mut self) {
        self.doing.leaving = true;
        match &self.supervisor {
            Some((teller, _)) if !teller.is_alone() => {
                tracing::warn!("told to end: the supervisor is asked for another generation");
                teller.tell(Told::Leaving);
            }
            _ => self.stop(self.drain, &Closing::All),
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            // A supervisor that was restarted says it anew.
            Order::Begin { state, totals, .. } => self.handover.begin(state.as_ref(), &totals),
            Order::Lead => self.lead(),
            Order::Absorb { report } => self.handover.absorb(&report),
            Order::Drain { seconds, close } => {
                self.shared.observer.rotate(false);
                // The journals of all are the successor's to carry.
                self.carry_usage(false);
                self.certificates.pause();
                let close = Closing::Only(close);
                self.stop(Duration::from_secs(seconds), &close);
                // The successor takes over what is known now, and leads when it hears this.
                self.report();
            }
            Order::Resume => self.resume(),
            Order::Stop { seconds } => self.stop(Duration::from_secs(seconds), &Closing::All),
            Order::End => self.end(),
            Order::Reload => self.reload(Why::Ordered),
            Order::Reopen => self.shared.observer.reopen(),
            Order::Report => self.report(),
            Order::Question { id, question } => {
                if let Some((teller, _)) = &self.supervisor {
                    let teller = teller.clone();
                    let tell = move |answer| teller.tell(Told::Answer { id, answer });
                    question::answer(question, &self.shared, self.live.pin().keys.clone(), tell);
                }
            }
            Order::Others { id, reports, dead } => self.handover.answered(
                id,
                Others {
                    living: reports,
                    dead,
                },
            ),
            Order::Elsewhere { summary } => {
                let whole = |count| usize::try_from(count).unwrap_or(usize::MAX);
                let governor = &self.shared.governor;
                governor.elsewhere(whole(summary.in_flight), whole(summary.buffered_bytes));
                self.listeners.elsewhere(whole(summary.connections));
            }
        }
    }

    fn lead(&mut self) {
        self.doing.leads = true;
        self.shared.observer.rotate(true);
        self.carry_usage(true);
        self.certificates.renew();
        self.watch_file();
        let handover = Arc::clone(&self.handover);
        // The one that led before has spent limits since this process began.
        tokio::spawn(async move {
            let others = handover.others().await;
            if let Some(newest) = others.living.iter().max_by_key(|it| it.generation) {
                handover.catch_up(&newest.state);
            }
        });
    }

    fn carry_usage(&self, carry: bool) {
        if let Some(ledger) = &self.shared.ledger {
            ledger.lead(carry);
        }
    }

    fn resume(&mut self) {
        if self
            .doing
            .drain
            .is_none_or(|drain| drain.ended || drain.last)
        {
            // What has been closed or ended can't be taken back.
            tracing::warn!("told to accept again, too late");
            return;
        }
        tracing::warn!("accepting again: the generation that led is gone");
        self.doing.drain = None;
        self.shared.governor.ending().set_draining(false);
        // Nobody else does by now.
        self.carry_usage(true);
        self.listeners.accept();
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Accepts no more and lets what is open finish for `patience`. A drain that goes on already is
    /// never made longer.
    fn stop(&mut self, patience: Duration, closing: &Closing) {
        self.ready.store(false, Ordering::Relaxed);
        let in_flight = self.shared.governor.in_flight();
        tracing::info!(in_flight, "draining");
        self.shared.governor.ending().set_draining(true);
        self.listeners.drain(closing);
        let before = self.doing.drain;
        // A century is as good as no end.
        let century = || Instant::now() + Duration::from_secs(3_155_760_000);
        let until = Instant::now().checked_add(patience).unwrap_or_else(century);
        self.doing.drain = Some(Drain {
            until: before.map_or(until, |before| before.until.min(until)),
            ended: before.is_some_and(|before| before.ended),
            last: matches!(closing, Closing::All) || before.is_some_and(|before| before.last),
        });
        self.doing.leads = false;
        self.watch_file();
    }

    /// Ends what is open; what doesn't end by itself then is cut soon after. Sockets that others accept
    /// at are left to them, with all who wait there.
    fn end(&mut self) {
        let open = self.shared.governor.in_flight();
        if open > 0 {
            tracing::warn!(
                in_flight = open,
                "requests were still open when the time to drain was over"
            );
        }
        if self.doing.drain.is_none() {
            self.stop(Duration::ZERO, &Closing::All);
        }
        self.shared.governor.ending().end();
        self.doing.drain = Some(Drain {
            until: Instant::now() + LAST_WORDS,
            ended: true,
            last: self.doing.drain.is_none_or(|drain| drain.last),
        });
    }

    /// No other process of this host goes on.
    pub(super) fn is_last(&self) -> bool {
        self.doing.drain.is_none_or(|drain| drain.last)
    }

    fn is_over(&self) -> bool {
        let Some(drain) = self.doing.drain else {
            return false;
        };
        // Operators may look until a weir that stops is gone; of one that is replaced they take leave.
        let operators = if drain.last {
            0
        } else {
            self.listeners.operators()
        };
        let idle = self.listeners.are_closed()
            && self.listeners.connections() + operators == 0
            && self.shared.governor.in_flight() == 0;
        idle || drain.ended && Instant::now() >= drain.until
    }

    fn beat(&mut self) {
        self.shared.governor.sweep();
        let Some((teller, _)) = &self.supervisor else {
            return;
        };
        let summary = self.handover.summary();
        teller.tell(Told::Beat { summary });
        self.doing.beats += 1;
        if self.doing.beats.is_multiple_of(REPORT_EVERY) {
            self.report();
        }
    }

    fn report(&self) {
        if let Some((teller, _)) = &self.supervisor {
            let report = Box::new(Report {
                drains: self.doing.drain.is_some(),
                ..self.handover.report()
            });
            teller.tell(Told::Report { report });
        }
    }

    // === reload ===

    fn reload(&mut self, why: Why) {
        if self.doing.reload.is_some() {
            // What is being read may be older than what this one is asked for.
            let ordered = why == Why::Ordered || self.doing.again == Some(Why::Ordered);
            self.doing.again = Some(if ordered { Why::Ordered } else { why });
            return;
        }
        let (source, shared, old) = (self.source.clone(), self.shared.clone(), self.live.pin());
        let certificates = self.certificates.loader();
        // Files are read and names checked on a thread that serves nobody.
        let work = tokio::task::spawn_blocking(move || {
            let stamp = source.stamp();
            let prepare = || {
                let settings = source.load()?;
                super::host::ready(&settings).map_err(Fault::Unusable)?;
                let certificates = certificates.load(&settings.listen)?;
                let snapshot = shared.build(&settings, Some(&old))?;
                Ok(Box::new(Next {
                    config_hash: source.hash(),
                    settings,
                    snapshot,
                    certificates,
                }))
            };
            (stamp, prepare())
        });
        self.doing.reload = Some(Reload { why, work });
    }

    /// Begins what the live configuration has go on beside requests: asks its endpoints whether they live, and
    /// for the tokens that its providers need.
    pub(super) fn probe(&mut self) {
        let snapshot = self.live.pin();
        self.renewing = Renewing::of(&snapshot);
        self.probing = Probing::of(&snapshot);
    }

    fn prepared(&mut self, stamp: Option<config::watch::Stamp>, prepared: Prepared) {
        let why = self.doing.reload.take().map(|reload| reload.why);
        if let Some(stamp) = stamp {
            self.stamp = stamp;
        }
        let outcome = match prepared {
            Ok(next) => self.apply(*next),
            Err(fault) => {
                self.shared.observer.metrics.reload(false);
                tracing::error!(%fault, "configuration refused; the old one goes on serving");
                Reloaded::Refused {
                    reason: fault.to_string(),
                }
            }
        };
        if let Some((teller, _)) = &self.supervisor {
            match (why, outcome) {
                (Some(Why::Ordered), outcome) => teller.tell(Told::Reloaded { outcome }),
                (_, Reloaded::NeedsGeneration { keys }) => {
                    teller.tell(Told::WantGeneration { keys });
                }
                (_, outcome) => teller.tell(Told::Watched { outcome }),
            }
        }
        self.watch_file();
        if let Some(why) = self.doing.again.take() {
            self.reload(why);
        }
    }

    /// Watches the file from what was last read on, where that is asked for.
    fn watch_file(&mut self) {
        if let Some(watching) = self.doing.watching.take() {
            watching.abort();
        }
        if let (true, true, Source::File(path)) = (self.watch, self.doing.leads, self.source) {
            let (path, mut stamp) = (path.clone(), self.stamp);
            let watching = async move { config::watch::changed(&path, &mut stamp).await };
            self.doing.watching = Some(tokio::spawn(watching));
        }
    }

    /// Swaps: new requests get `next`.
    fn apply(&mut self, next: Next) -> Reloaded {
        let waiting = self.needs_a_new_process(&next.settings);
        if !waiting.is_empty() {
            if self.supervisor.is_some() {
                let keys = waiting.into_iter().map(str::to_owned).collect();
                return Reloaded::NeedsGeneration { keys };
            }
            let keys = waiting.join(", ");
            tracing::warn!(
                keys,
                "these keep the settings that weir was started with until a restart"
            );
        }
        self.shared.governor.apply(next.settings.govern.clone());
        if !next.snapshot.keys.is_open() {
            next.snapshot.keys.store().watch();
        }
        self.live.swap(next.snapshot);
        self.probe();
        // Terms belong to sockets: other sockets, other terms. A weir that stops has its own.
        if !waiting.contains(&LISTEN) && self.doing.drain.is_none_or(|drain| !drain.last) {
            self.certificates.apply(&next.settings, &next.certificates);
            self.listeners
                .apply(&next.settings.listen, &next.certificates);
        }
        self.handover.set_config_hash(next.config_hash.clone());
        self.watch = next.settings.watch;
        self.drain = next.settings.listen.drain;
        self.shared.observer.metrics.reload(true);
        tracing::info!("configuration reloaded");
        super::warn(&next.settings);
        Reloaded::Applied {
            config_hash: next.config_hash,
        }
    }

    /// Keys whose new values this process can't take.
    fn needs_a_new_process(&self, settings: &Settings) -> Vec<&'static str> {
        let (old, new) = (&self.started, settings);
        let sockets = |settings: &Settings| -> Vec<crate::types::socket::Socket> {
            let listeners = settings.listen.listeners.iter();
            listeners.map(|listener| listener.socket.clone()).collect()
        };
        [
            (LISTEN, sockets(old) != sockets(new)),
            ("admin", old.admin != new.admin),
            ("threads", old.threads != new.threads),
            ("logging", old.observe != new.observe),
            ("dns", old.egress.dns != new.egress.dns),
            ("shared_state", old.shared_state != new.shared_state),
            ("state_dir", old.state_dir != new.state_dir),
            ("usage", old.usage != new.usage),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

/// The key that names the sockets.
const LISTEN: &str = "listen";
/// What the last answers may take once everything has been told to end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Beats from one report to the next.
const REPORT_EVERY: u64 = 10;

async fn next_order(supervisor: &mut Option<(Teller, Orders)>) -> Option<Order> {
    match supervisor {
        Some((_, orders)) => orders.next().await,
        None => std::future::pending().await,
    }
}

/// Resolves when the file has changed.
async fn changed(watching: &mut Option<JoinHandle<()>>) {
    match watching {
        Some(watching) => {
            // It neither panics nor is it aborted while it stands here.
            drop(watching.await);
        }
        None => std::future::pending().await,
    }
}

async fn prepared(reload: &mut Option<Reload>) -> (Option<config::watch::Stamp>, Prepared) {
    match reload {
        Some(reload) => match (&mut reload.work).await {
            Ok((stamp, prepared)) => (Some(stamp), prepared),
            Err(error) => (None, Err(Fault::Unusable(error.to_string()))),
        },
        None => std::future::pending().await,
    }
}

/// Signals that weir knows.
pub(super) struct Signals {
    hangup: Signal,
    reopen: Signal,
    terminate: Signal,
    interrupt: Signal,
    upgrade: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Reload,
    Reopen,
    Upgrade,
    /// Finish what is open; said twice: end.
    Stop,
    /// End.
    Now,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.hangup.recv() => Wish::Reload,
            _ = self.reopen.recv() => Wish::Reopen,
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Now,
            _ = self.upgrade.recv() => Wish::Upgrade,
        }
    }
}
