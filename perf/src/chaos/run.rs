//! A run: calm, chaos, calm again, and the books.

use super::court::{Court, Latencies};
use super::dice::Dice;
use super::gateway::{
    BUFFERED_BYTES_MAX, BUSY_IN_FLIGHT_MAX, Gateway, IN_FLIGHT_MAX, Metrics, OPEN_MAX, PLACES,
    QUEUE_MAX, SERVERS,
};
use super::plan::{Act, Id, Surface, Team, Way};
use super::provider::Server;
use super::user::User;
use super::world::World;
use crate::Result;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until};

/// Requests before anything is measured: caches fill, connections and threads are made.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long all that is open may take to end after the last act.
const SETTLE: Duration = Duration::from_secs(30);
/// How much more memory than in calm weir may have in the end: what the allocator keeps of its peak,
/// and what has grown for good, such as tables and the buffers of threads.
const MEMORY_MORE_KIB: u64 = 48 << 10;

/// What a run does.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u32,
    pub calm: Duration,
    pub chaos: Duration,
    /// Acts a second.
    pub rate: u32,
    /// Acts at once.
    pub acts_max: u32,
    pub weir: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub requests: u64,
    pub statuses: BTreeMap<String, u64>,
    pub ends: BTreeMap<String, u64>,
    pub ways: BTreeMap<&'static str, u64>,
    pub faults: BTreeMap<String, u64>,
    pub weather: BTreeMap<String, u64>,
    pub reloads: u64,
    /// Steady clients that were told to come again later, and were served then; by what they were told.
    pub told_to_wait: BTreeMap<String, u64>,
    /// How often weir did what it does where servers fail or are slow.
    pub measures: BTreeMap<String, u64>,
    pub calm: Latencies,
    pub chaos: Latencies,
    /// Resident memory: after calm, at its peak, in the end.
    pub memory_kib: [u64; 3],
    /// The most that was seen in flight, buffered and waiting.
    pub peaks: BTreeMap<String, u64>,
    pub violations: Vec<String>,
    /// How many more there were.
    pub more_violations: u64,
    /// The end of weir's log, where something was violated.
    pub last_words: Vec<String>,
}

struct Run {
    options: Options,
    world: Rc<World>,
    gateway: Gateway,
    court: RefCell<Court>,
    acts: Arc<Semaphore>,
    ways: RefCell<BTreeMap<&'static str, u64>>,
    next: Cell<u64>,
    peak_kib: Cell<u64>,
    /// The most that was seen of each gauge.
    peaks: RefCell<BTreeMap<String, u64>>,
    /// Files that were taken, and files that were refused.
    reloads: Cell<(u64, u64)>,
}

/// Performs a run in a folder.
///
/// # Errors
/// When it can't be performed; what weir does wrong is in the [`Outcome`].
pub async fn run(options: Options, folder: &Path) -> Result<Outcome> {
    let world = Rc::new(World::new(options.seed));
    let mut servers = Vec::new();
    for (index, (_, steady)) in SERVERS.iter().enumerate() {
        servers.push(Server::start(&world, index, *steady).await?);
    }
    let gateway = Gateway::start(&options.weir, folder, &servers).await?;
    let court = Court::new(&world, gateway.access_log());
    let run = Rc::new(Run {
        acts: Arc::new(Semaphore::new(options.acts_max as usize)),
        world,
        gateway,
        court: RefCell::new(court),
        options,
        ways: RefCell::default(),
        next: Cell::new(0),
        peak_kib: Cell::new(0),
        peaks: RefCell::default(),
        reloads: Cell::default(),
    });
    run.whole().await
}

impl Run {
    async fn whole(self: &Rc<Run>) -> Result<Outcome> {
        let Options { calm, chaos, .. } = self.options;
        self.act(WARM_UP, true).await?;
        self.wait_for_acts().await;
        self.court.borrow_mut().calm = Latencies::default();
        self.act(calm, true).await?;
        self.wait_for_acts().await;
        let memory_calm = self.gateway.rss_kib();
        self.world.set_calm(false);
        let (acted, troubled) = tokio::join!(self.act(chaos, false), self.trouble(chaos));
        acted?;
        troubled?;
        self.world.set_calm(true);
        self.wait_for_acts().await;
        self.check_gauges("after the last act").await?;
        self.check_recovery().await?;
        // Permits that leaked would be missing now.
        self.muster_all().await;
        self.check_gauges("after the musters").await?;
        self.court.borrow_mut().check_calls();
        self.check_books().await?;
        let measures = self.check_breakers().await?;
        let memory_end = self.check_memory(memory_calm).await;
        self.check_process().await?;
        let outcome = self.outcome([memory_calm, self.peak_kib.get(), memory_end]);
        Ok(Outcome {
            measures,
            ..outcome
        })
    }

    fn accuse(&self, violation: String) {
        self.court.borrow_mut().accuse(violation);
    }

    fn user(&self) -> User {
        User {
            weir: self.gateway.address,
            seed: self.options.seed,
        }
    }

    /// Begins acts at their rate for a time, and looks after weir meanwhile.
    async fn act(self: &Rc<Run>, time: Duration, calm: bool) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(500);
        let began = Instant::now();
        let mut looked = began;
        for count in 0.. {
            let due = Duration::from_secs(1) * count / self.options.rate;
            if due >= time {
                break;
            }
            sleep_until(began + due).await;
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                self.look().await?;
            }
            let number = self.next.replace(self.next.get() + 1);
            let act = Act::draw(self.options.seed, number, calm);
            *self.ways.borrow_mut().entry(act.way.name()).or_default() += 1;
            let permit = Arc::clone(&self.acts).acquire_owned().await?;
            let run = Rc::clone(self);
            spawn_local(async move {
                let seen = run.user().perform(&act).await;
                run.court.borrow_mut().hear(seen, calm);
                drop(permit);
            });
        }
        Ok(())
    }

    /// Until no act is under way. Each has a deadline.
    async fn wait_for_acts(&self) {
        // It is never closed.
        let _ = self.acts.acquire_many(self.options.acts_max).await;
    }

    /// What must hold at any time.
    async fn look(&self) -> Result<()> {
        self.peak_kib
            .set(self.peak_kib.get().max(self.gateway.rss_kib()));
        {
            let mut court = self.court.borrow_mut();
            court.read()?;
            court.judge(false);
        }
        if let Some(end) = self.gateway.ended() {
            let last = self.gateway.last_words().join("\n");
            return Err(format!("{end} (seed {}); it said:\n{last}", self.options.seed).into());
        }
        let metrics = self.gateway.metrics().await?;
        let mut bounds = vec![
            ("weir_in_flight", String::new(), IN_FLIGHT_MAX),
            ("weir_buffered_bytes", String::new(), BUFFERED_BYTES_MAX),
            ("weir_queue_depth", String::new(), QUEUE_MAX),
        ];
        for places in PLACES {
            let label = format!("provider=\"{}\"", places.provider);
            let waiting = ("weir_upstream_queue_depth", label.clone());
            let carried = ("weir_upstream_in_flight", label);
            bounds.push((waiting.0, waiting.1, places.queue as f64));
            bounds.push((carried.0, carried.1, places.in_flight as f64));
        }
        for (name, label, most) in bounds {
            let now = metrics.sum(name, &label);
            let mut peaks = self.peaks.borrow_mut();
            let peak = peaks.entry(format!("{name}{{{label}}}")).or_default();
            *peak = (*peak).max(now as u64);
            if now > most || now < 0.0 {
                self.accuse(format!(
                    "{name}{{{label}}} is {now}, at most {most} is allowed"
                ));
            }
        }
        Ok(())
    }

    /// Reloads now and then: files that mean the same, and files that must be refused.
    async fn trouble(&self, time: Duration) -> Result<()> {
        let mut dice = Dice::of(self.options.seed.into(), &[9]);
        let end = Instant::now() + time;
        loop {
            sleep(Duration::from_millis(dice.between(1500, 5000))).await;
            if Instant::now() >= end {
                return Ok(());
            }
            let broken = dice.percent(30);
            if let Err(error) = self.gateway.reload(broken).await {
                self.accuse(format!("a reload: {error}"));
            }
            let (taken, refused) = self.reloads.get();
            self.reloads
                .set((taken + u64::from(!broken), refused + u64::from(broken)));
        }
    }

    /// All that is open is closed, and nothing is held for it.
    async fn check_gauges(&self, when: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let metrics = self.gateway.metrics().await?;
            let limits = self.gateway.api("/api/limits").await?;
            self.court.borrow_mut().read()?;
            let mut open = still_open(&metrics, &limits);
            let upstreams = self.gateway.api("/api/upstreams").await?;
            for endpoint in upstreams["upstreams"].as_array().into_iter().flatten() {
                if endpoint["in_flight"] != 0 {
                    open.push(format!("{endpoint} carries some"));
                }
            }
            if self.court.borrow().waits() {
                open.push("records of requests that are over".into());
            }
            if open.is_empty() {
                break;
            }
            if began.elapsed() > SETTLE {
                self.accuse(format!("{when}, {SETTLE:?} later: {}", open.join(", ")));
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        self.court.borrow_mut().judge(true);
        Ok(())
    }

    /// Who is well again serves again, within the longest time that a breaker stays open.
    async fn check_recovery(&self) -> Result<()> {
        /// The last weather ends, health is asked for, and a request finds out that all is well.
        const MORE: Duration = Duration::from_secs(6);
        let began = Instant::now();
        loop {
            let told = self.gateway.api("/api/upstreams").await?;
            let endpoints = told["upstreams"].as_array().map_or(&[][..], Vec::as_slice);
            let away: Vec<&Value> = (endpoints.iter())
                .filter(|it| it["breaker"] != "closed" || it["healthy"] == false)
                .collect();
            if endpoints.len() == SERVERS.len() && away.is_empty() {
                return Ok(());
            }
            if began.elapsed() > OPEN_MAX + MORE {
                let after = OPEN_MAX + MORE;
                self.accuse(format!("{after:?} after the chaos paused: {away:?}"));
                return Ok(());
            }
            for places in PLACES {
                let model = places.provider;
                if away.iter().any(|it| it["provider"] == model) {
                    let number = self.next.replace(self.next.get() + 1);
                    let id = Id::of(self.options.seed, number, 0);
                    let seen = self.user().ask(&plain(model, Team::Wild), id).await;
                    self.court.borrow_mut().hear(vec![seen], true);
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// No client has opened a breaker: of servers that are well none was ever open. Returns how often
    /// weir did what.
    async fn check_breakers(&self) -> Result<BTreeMap<String, u64>> {
        let metrics = self.gateway.metrics().await?;
        for (name, _) in SERVERS.iter().filter(|(_, steady)| *steady) {
            let opened = metrics.sum("weir_breaker_opened_total", &format!("\"{name}\""));
            if opened > 0.0 {
                self.accuse(format!("a breaker of {name} has opened {opened} times"));
            }
        }
        let mut measures = BTreeMap::new();
        for (name, labels) in [
            ("weir_breaker_opened_total", &[""][..]),
            ("weir_retries_denied_total", &[""]),
            ("weir_queue_wait_seconds_count", &[""]),
            ("weir_hedges_total", &["won", "lost", "failed"]),
            (
                "weir_batches_total",
                &["divided", "single", "shared", "undone"],
            ),
        ] {
            for label in labels {
                let count = metrics.sum(name, label) as u64;
                measures.insert(format!("{name}{{{label}}}"), count);
            }
        }
        Ok(measures)
    }

    /// As many requests at once as may be pass each provider, and a team's limit.
    async fn muster_all(&self) {
        let all = PLACES.map(|it| (it.provider, Team::Wild, it.in_flight));
        let busy = ("steady", Team::Busy, BUSY_IN_FLIGHT_MAX);
        for (wave, (model, team, size)) in all.into_iter().chain([busy]).enumerate() {
            self.muster(wave as u64, model, team, size).await;
        }
    }

    async fn muster(&self, wave: u64, model: &'static str, team: Team, size: u64) {
        let act = plain(model, team);
        let user = self.user();
        let asking = (0..size).map(|index| {
            let act = act.clone();
            let id = Id::of_muster(self.options.seed, wave, size, index);
            spawn_local(async move { user.ask(&act, id).await })
        });
        let asking: Vec<_> = asking.collect();
        let mut refused = BTreeMap::<String, u64>::new();
        for asked in asking {
            let Ok(seen) = asked.await else { continue };
            let status = seen.answer.as_ref().map(|answer| answer.status);
            if status != Some(200) {
                let refusal = seen
                    .answer
                    .as_ref()
                    .and_then(|answer| answer.refusal.clone());
                let kind = format!("{status:?} {refusal:?} {:?}", seen.ending);
                *refused.entry(kind).or_default() += 1;
            }
            self.court.borrow_mut().hear(vec![seen], true);
        }
        if !refused.is_empty() {
            self.accuse(format!(
                "of {size} at once for {model} not all passed: {refused:?}"
            ));
        }
    }

    /// Records, metrics, the ledger and budgets tell the same sums.
    async fn check_books(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            self.court.borrow_mut().read()?;
            let metrics = self.gateway.metrics().await?;
            let usage = self.gateway.api("/api/usage?by=team").await?;
            let limits = self.gateway.api("/api/limits").await?;
            let wrong = self.wrong_sums(&metrics, &usage, &limits);
            if wrong.is_empty() {
                return Ok(());
            }
            if began.elapsed() > SETTLE {
                for wrong in wrong {
                    self.accuse(format!("the books: {wrong}"));
                }
                return Ok(());
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    fn wrong_sums(&self, metrics: &Metrics, usage: &Value, limits: &Value) -> Vec<String> {
        let court = self.court.borrow();
        let sums = &court.sums;
        let mut wrong = Vec::new();
        let mut compare = |what: String, told: f64, records: f64| {
            if (told - records).abs() > 1e-6 {
                wrong.push(format!("{what} {told}, by the records {records}"));
            }
        };
        for (name, label, records) in [
            ("llm_requests_total", "", sums.records),
            ("llm_token_usage_total", "kind=\"input\"", sums.usage.input),
            (
                "llm_token_usage_total",
                "kind=\"output\"",
                sums.usage.output,
            ),
            ("weir_ledger_dropped_total", "", 0),
            ("weir_ledger_failures_total", "", 0),
            ("weir_ledger_torn_total", "", 0),
            ("weir_access_log_dropped_total", "", 0),
        ] {
            let told = metrics.sum(name, label);
            compare(format!("{name}{{{label}}} is"), told, records as f64);
        }
        let (taken, refused) = self.reloads.get();
        let reloads = metrics.sum("weir_config_reload_total", "");
        compare("reloads are".into(), reloads, (taken + refused) as f64);
        let rows = usage["rows"].as_array().map_or(&[][..], Vec::as_slice);
        for (team, (requests, used, cost)) in &sums.teams {
            let row = rows.iter().find(|row| row["team"] == **team);
            let told = |name: &str| row.and_then(|row| row[name].as_f64()).unwrap_or(0.0);
            compare(
                format!("the ledger's requests of {team} are"),
                told("requests"),
                *requests as f64,
            );
            compare(
                format!("the ledger's input of {team} is"),
                told("input"),
                used.input as f64,
            );
            compare(
                format!("the ledger's output of {team} is"),
                told("output"),
                used.output as f64,
            );
            compare(
                format!("the ledger's cost of {team} is"),
                told("cost_usd"),
                *cost,
            );
        }
        let poor = Team::Poor.name();
        let teams = limits["teams"].as_array().map_or(&[][..], Vec::as_slice);
        let budget = teams
            .iter()
            .find(|team| team["team"] == poor)
            .map(|team| &team["budgets"][0]);
        let used = budget
            .and_then(|budget| budget["used_usd"].as_f64())
            .unwrap_or(0.0);
        let cost = sums.teams.get(poor).map_or(0.0, |(_, _, cost)| *cost);
        compare(format!("the budget of {poor} says"), used, cost);
        wrong
    }

    /// Memory returns near to what it was before the chaos.
    async fn check_memory(&self, calm_kib: u64) -> u64 {
        let began = Instant::now();
        let most = calm_kib + calm_kib / 4 + MEMORY_MORE_KIB;
        loop {
            let now = self.gateway.rss_kib();
            if now <= most {
                return now;
            }
            if began.elapsed() > SETTLE {
                self.accuse(format!(
                    "{now} KiB of memory in the end, {calm_kib} KiB before the chaos"
                ));
                return now;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn check_process(&self) -> Result<()> {
        for line in self.gateway.complaints() {
            self.accuse(format!("weir's log: {line}"));
        }
        Ok(())
    }

    fn outcome(&self, memory_kib: [u64; 3]) -> Outcome {
        let court = self.court.borrow();
        let [faults, weather] = self.world.told();
        let (taken, refused) = self.reloads.get();
        let violated = !court.violations.is_empty();
        Outcome {
            requests: court.requests,
            statuses: court.statuses.clone(),
            ends: court.sums.ends.clone(),
            ways: self.ways.borrow().clone(),
            faults,
            weather,
            reloads: taken + refused,
            told_to_wait: court.told_to_wait.clone(),
            measures: BTreeMap::new(),
            calm: court.calm.clone(),
            chaos: court.chaos.clone(),
            memory_kib,
            peaks: self.peaks.borrow().clone(),
            violations: court.violations.clone(),
            more_violations: court.more,
            last_words: if violated {
                self.gateway.last_words()
            } else {
                Vec::new()
            },
        }
    }
}

/// The request of a client that behaves.
fn plain(model: &'static str, team: Team) -> Act {
    Act {
        number: 0,
        team,
        surface: Surface::Chat,
        model,
        stream: false,
        usage: false,
        prompt_bytes: 100,
        way: Way::Behave,
        reset: false,
        h2: false,
        priority: None,
    }
}

/// Gauges that aren't at 0, and places that are taken.
fn still_open(metrics: &Metrics, limits: &Value) -> Vec<String> {
    let gauges = [
        "weir_in_flight",
        "weir_queue_depth",
        "weir_upstream_in_flight",
        "weir_upstream_queue_depth",
        "weir_buffered_bytes",
        "weir_streams",
        "weir_drains",
        "weir_connections",
        "weir_accounts_homeless",
        "weir_ledger_waiting_bytes",
    ];
    let gauges = gauges.map(|name| (name.to_owned(), metrics.sum(name, "")));
    let mut all = gauges.to_vec();
    let mut places = |whose: &str, standing: &Value| {
        for kind in ["in_flight", "in_flight_tokens"] {
            let used = standing[kind]["used"].as_f64().unwrap_or(0.0);
            all.push((format!("{kind} of {whose}"), used));
        }
    };
    places("the host", &limits["host"]);
    for (list, name) in [("teams", "team"), ("keys", "key"), ("models", "model")] {
        for standing in limits[list].as_array().into_iter().flatten() {
            places(standing[name].as_str().unwrap_or("?"), standing);
        }
    }
    let open = all.into_iter().filter(|(_, value)| *value != 0.0);
    open.map(|(name, value)| format!("{name} is {value}"))
        .collect()
}
