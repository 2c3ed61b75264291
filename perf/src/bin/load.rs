//! The load generator: a closed loop, an open loop, or many slow streams held open at once. It
//! checks every byte of every answer, prints one line of JSON, and fails if anything was wrong.
//! With `--pid` it also says what that process tree used in the measured window. `perf/run`
//! starts it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use tokio::{
    runtime,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use weir_perf::{
    Result,
    client::{Client, Job, Target},
    exact_timers, now_ns,
    process::{self, Sample},
    scene::{self, Scene},
    sleep_until,
    text::Text,
};

/// Added to what a run should take; after it the run has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Runs before anything is counted.
const WARM_UP: Duration = Duration::from_millis(700);

#[derive(Parser)]
struct Options {
    /// Where to send the requests.
    #[arg(long)]
    target: SocketAddr,
    /// The path that is asked for.
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// Root of the process tree to measure.
    #[arg(long)]
    pid: Option<u32>,
    /// Length of the measured window.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Each connection sends its next request when the answer is complete.
    Closed {
        #[arg(long, default_value_t = 64)]
        connections: usize,
        #[arg(long, default_value = "sim-json")]
        model: String,
        /// Size of each request's body.
        #[arg(long, default_value_t = 1024)]
        bytes: usize,
    },
    /// Requests start at fixed times; latency counts from when each should have started.
    Open {
        /// Requests per second.
        #[arg(long, default_value_t = 300)]
        rate: u64,
        #[arg(long, default_value_t = 16)]
        connections: u64,
    },
    /// Sends prompts of one kind of text, one after the other, and asks the proxy itself something
    /// every few milliseconds: what the prompts cost, and how long others wait meanwhile.
    Admission {
        #[arg(long)]
        text: Text,
        #[arg(long, default_value_t = 1 << 20)]
        bytes: usize,
    },
    /// Opens so many slow streams and watches them while all are open.
    Streams {
        #[arg(long, default_value_t = 1000)]
        streams: usize,
        #[arg(long, default_value_t = 100)]
        pause_ms: u64,
    },
}

fn main() -> Result<()> {
    let options = Options::parse();
    let run = async {
        match &options.mode {
            Mode::Closed {
                connections,
                model,
                bytes,
            } => {
                let scene = Scene::named(model).ok_or("no such scene")?;
                let job = Job::new(scene, *bytes, &options.target());
                closed(&options, *connections, Arc::new(job)).await
            }
            Mode::Open { rate, connections } => open(&options, *rate, *connections).await,
            Mode::Admission { text, bytes } => admission(&options, *text, *bytes).await,
            Mode::Streams { streams, pause_ms } => {
                streams_at_once(&options, *streams, *pause_ms).await
            }
        }
    };
    let limit = Duration::from_secs_f64(options.seconds) + PATIENCE;
    let figures = runtime()?.block_on(async { timeout(limit, run).await? })?;
    println!("{figures}");
    Ok(())
}

fn runtime() -> Result<runtime::Runtime> {
    Ok(runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

// === the three modes ===

async fn closed(options: &Options, connections: usize, job: Arc<Job>) -> Result<Value> {
    let window = Arc::new(Window::default());
    let mut workers = JoinSet::new();
    for _ in 0..connections {
        let (job, window, target) = (job.clone(), window.clone(), options.target);
        workers.spawn(async move {
            let mut client = Client::new(target);
            let mut tally = Tally::default();
            while !window.is_over() {
                let began = now_ns();
                let events = job.perform(&mut client, |_| {}).await?;
                if window.is_open() {
                    tally.requests += 1;
                    tally.events += u64::from(events);
                    tally.times_ns.push(now_ns() - began);
                }
            }
            tally.connects = client.connects;
            Result::Ok(tally)
        });
    }
    let used = tokio::select! {
        used = async { sleep(WARM_UP).await; window.measure(options).await } => used?,
        // Workers end before the window does only by a mistake.
        Some(tally) = workers.join_next() => return Err(tally?.err().unwrap_or("ended".into())),
    };
    let tally = Tally::gather(workers).await?;
    Ok(report(options, tally, used))
}

/// Threads that sleep and block, as the timers of an event loop are too coarse for this.
async fn open(options: &Options, rate: u64, connections: u64) -> Result<Value> {
    let start = now_ns() + 100_000_000;
    let measured_from = start + WARM_UP.as_nanos() as u64;
    let total = (rate as f64 * (WARM_UP.as_secs_f64() + options.seconds)) as u64;
    let job = Arc::new(Job::new(Scene::Answer, 1024, &options.target()));
    let target = options.target;
    let worker = move |first: u64, job: Arc<Job>| -> Result<Tally> {
        exact_timers();
        let runtime = runtime()?;
        let mut client = Client::new(target);
        let mut tally = Tally::default();
        for number in (first..total).step_by(connections as usize) {
            let due = start + number * 1_000_000_000 / rate;
            sleep_until(due);
            runtime.block_on(job.perform(&mut client, |_| {}))?;
            if due >= measured_from {
                tally.requests += 1;
                tally.times_ns.push(now_ns() - due);
            }
        }
        tally.connects = client.connects;
        Ok(tally)
    };
    let workers: Vec<_> = (0..connections)
        .map(|first| {
            let job = job.clone();
            thread::spawn(move || worker(first, job))
        })
        .collect();
    sleep(Duration::from_nanos(measured_from.saturating_sub(now_ns()))).await;
    let used = Window::default().measure(options).await?;
    let mut tally = Tally::default();
    for worker in workers {
        tally.add(worker.join().map_err(|_| "a worker panicked")??);
    }
    Ok(report(options, tally, used))
}

/// Prompts from one thread, probes from another.
async fn admission(options: &Options, text: Text, bytes: usize) -> Result<Value> {
    const PAUSE: Duration = Duration::from_millis(30);
    const PROBE_NS: u64 = 2_000_000;
    let target = options.target;
    let window = Arc::new(Window::default());
    let prompts = {
        let (window, to) = (window.clone(), options.target());
        thread::spawn(move || -> Result<Tally> {
            let body = scene::request_of(Scene::Answer, text.of(bytes));
            let (job, mut client) = (Job::of(Scene::Answer, body, &to), Client::new(to.address));
            let (runtime, mut tally) = (runtime()?, Tally::default());
            while !window.is_over() {
                let began = now_ns();
                runtime.block_on(job.perform(&mut client, |_| {}))?;
                if window.is_open() {
                    tally.requests += 1;
                    tally.times_ns.push(now_ns() - began);
                }
                thread::sleep(PAUSE);
            }
            Ok(tally)
        })
    };
    let probes = {
        let window = window.clone();
        thread::spawn(move || -> Result<Vec<u64>> {
            exact_timers();
            let (runtime, mut client) = (runtime()?, Client::new(target));
            let (mut due, mut waits) = (now_ns(), Vec::new());
            while !window.is_over() {
                sleep_until(due);
                let began = now_ns();
                runtime.block_on(client.probe())?;
                if window.is_open() {
                    waits.push(now_ns() - began);
                }
                due = (due + PROBE_NS).max(now_ns());
            }
            Ok(waits)
        })
    };
    sleep(WARM_UP).await;
    let used = window.measure(options).await?;
    let prompts = prompts.join().map_err(|_| "the prompts panicked")??;
    let mut waits = probes.join().map_err(|_| "the probes panicked")??;
    waits.sort_unstable();
    let wait = |thousandth: usize| {
        let at = waits.len().saturating_sub(1) * thousandth / 1000;
        waits.get(at).map(|ns| *ns as f64 / 1000.0)
    };
    let mut figures = report(options, prompts, used);
    figures["probes"] = json!(waits.len());
    figures["probe_p50_us"] = json!(wait(500));
    figures["probe_p99_us"] = json!(wait(990));
    figures["probe_max_us"] = json!(wait(1000));
    Ok(figures)
}

async fn streams_at_once(options: &Options, streams: usize, pause_ms: u64) -> Result<Value> {
    const OPENING_AT_ONCE: usize = 64;
    let opening_seconds = 2.0 + streams as f64 / 1000.0;
    let events = ((opening_seconds + options.seconds) * 1000.0) as u64 / pause_ms;
    let scene = Scene::Stream {
        events: events as u32,
        pause_ms,
    };
    let job = Arc::new(Job::new(scene, 1024, &options.target()));

    // A first answer each from some connections, so that code and pools are warm.
    let first = Job::new(Scene::Answer, 1024, &options.target());
    let mut clients: Vec<_> = (0..8).map(|_| Client::new(options.target)).collect();
    for client in &mut clients {
        first.perform(client, |_| {}).await?;
    }
    let before = options.sample()?;

    let (window, opened) = (Arc::new(Window::default()), Arc::new(AtomicUsize::new(0)));
    let places = Arc::new(Semaphore::new(OPENING_AT_ONCE));
    let mut workers = JoinSet::new();
    for _ in 0..streams {
        let (job, window, target) = (job.clone(), window.clone(), options.target);
        let (opened, places) = (opened.clone(), places.clone());
        workers.spawn(async move {
            let mut place = Some(places.acquire_owned().await?);
            let mut client = Client::new(target);
            let mut tally = Tally::default();
            job.perform(&mut client, |sent| {
                if place.take().is_some() {
                    opened.fetch_add(1, Relaxed);
                }
                if window.is_open() {
                    tally.events += 1;
                    tally.times_ns.push(now_ns() - sent);
                }
            })
            .await?;
            if !window.is_over() {
                return Err(
                    "a stream ended before all were measured: opening took too long".into(),
                );
            }
            tally.connects = client.connects;
            Result::Ok(tally)
        });
    }
    let used = tokio::select! {
        used = async {
            while opened.load(Relaxed) < streams {
                sleep(Duration::from_millis(10)).await;
            }
            sleep(WARM_UP).await;
            window.measure(options).await
        } => used?,
        Some(tally) = workers.join_next() => return Err(tally?.err().unwrap_or("ended".into())),
    };
    let tally = Tally::gather(workers).await?;
    let after = used.as_ref().map(|used| (used.rss_kib, used.pss_kib));
    let mut figures = report(options, tally, used);
    if let (Some(before), Some((rss_kib, pss_kib))) = (before, after) {
        let per_stream = |after: u64, before| (after as f64 - before as f64) / streams as f64;
        figures["rss_before_kib"] = json!(before.rss_kib);
        figures["rss_kib_per_stream"] = json!(per_stream(rss_kib, before.rss_kib));
        figures["pss_kib_per_stream"] = json!(per_stream(pss_kib, before.pss_kib));
    }
    Ok(figures)
}

// === the measured window ===

/// Before it, inside it, after it.
#[derive(Default)]
struct Window(AtomicU8);

impl Window {
    fn is_open(&self) -> bool {
        self.0.load(Relaxed) == 1
    }

    fn is_over(&self) -> bool {
        self.0.load(Relaxed) == 2
    }

    /// Opens the window for as long as the options say; returns what the proxy used meanwhile.
    async fn measure(&self, options: &Options) -> Result<Option<Sample>> {
        let before = options.sample()?;
        self.0.store(1, Relaxed);
        sleep(Duration::from_secs_f64(options.seconds)).await;
        self.0.store(2, Relaxed);
        let after = options.sample()?;
        Ok(before.zip(after).map(|(before, after)| Sample {
            cpu: after.cpu - before.cpu,
            ..after
        }))
    }
}

impl Options {
    fn target(&self) -> Target {
        Target {
            address: self.target,
            path: self.path.clone(),
        }
    }

    fn sample(&self) -> Result<Option<Sample>> {
        Ok(self.pid.map(process::sample).transpose()?)
    }
}

/// What one worker counted inside the window.
#[derive(Default)]
struct Tally {
    requests: u64,
    events: u64,
    /// Latencies of requests, or of events where streams are watched.
    times_ns: Vec<u64>,
    connects: u64,
}

impl Tally {
    async fn gather(mut workers: JoinSet<Result<Tally>>) -> Result<Tally> {
        let mut sum = Tally::default();
        while let Some(tally) = workers.join_next().await {
            sum.add(tally??);
        }
        Ok(sum)
    }

    fn add(&mut self, other: Tally) {
        self.requests += other.requests;
        self.events += other.events;
        self.connects += other.connects;
        self.times_ns.extend(other.times_ns);
    }
}

fn report(options: &Options, mut tally: Tally, used: Option<Sample>) -> Value {
    tally.times_ns.sort_unstable();
    let percentile_us = |percent: usize| {
        let at = tally.times_ns.len().saturating_sub(1) * percent / 100;
        tally.times_ns.get(at).map(|ns| *ns as f64 / 1000.0)
    };
    let mut figures = json!({
        "requests": tally.requests,
        "events": tally.events,
        "connects": tally.connects,
        "requests_per_second": tally.requests as f64 / options.seconds,
        "events_per_second": tally.events as f64 / options.seconds,
        "p50_us": percentile_us(50),
        "p99_us": percentile_us(99),
    });
    if let Some(used) = used {
        let cpu_us = used.cpu.as_secs_f64() * 1e6;
        figures["cpu_share"] = json!(used.cpu.as_secs_f64() / options.seconds);
        figures["rss_kib"] = json!(used.rss_kib);
        figures["pss_kib"] = json!(used.pss_kib);
        if tally.requests > 0 {
            figures["cpu_us_per_request"] = json!(cpu_us / tally.requests as f64);
        }
        if tally.events > 0 {
            figures["cpu_us_per_event"] = json!(cpu_us / tally.events as f64);
        }
    }
    figures
}
