//! The composition root: settings → snapshot → services and background tasks. The only file that
//! knows everyone.

mod build;
mod certificates;
mod handover;
mod host;
mod keys;
mod listeners;
mod operators;
mod probing;
pub mod question;
mod renewing;
mod resolving;
mod running;
mod sharing;
mod source;
mod spent;

pub use crate::govern::Caller;
pub use crate::govern::settings::Allowance;
pub use build::offline;
pub use keys::asked_for;
pub use source::{Fault, Source};

use crate::admin::Known;
use crate::config::{self, Settings};
use crate::egress::{self, Memory};
use crate::govern::{Accounts, Governor, Keys, Ledger, ledger};
use crate::observe::settings::{Format, Level};
use crate::observe::{Observer, program_log};
use crate::snapshot::Live;
use crate::supervise::protocol::{Order, Told};
use crate::supervise::settings::Plan;
use crate::supervise::sockets;
use crate::supervise::worker::{Orders, Teller, Worker};
use crate::types::socket::{Address, Socket};
use build::{Shared, resolver};
use certificates::{Certificates, Loader};
use handover::Handover;
use listeners::Listeners;
use operators::Operators;
use resolving::Watch;
use running::{Running, Signals};
use sharing::Keeping;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Runs weir in this one process until it is told to stop.
///
/// `started` is called once with the bound addresses, when connections are accepted.
///
/// # Errors
/// Why it could not start.
pub fn run(source: &Source, started: impl FnOnce(&Bound)) -> Result<(), Fault> {
    let stamp = source.stamp();
    let settings = source.load()?;
    program_log::init(&settings.observe);
    let opened = opened(&settings)?;
    let wanted = sockets_of(&settings);
    let process = Process {
        source,
        stamp,
        sockets: opened,
        worker: None,
    };
    process.run(settings, started).inspect_err(|_| {
        // It couldn't start: what was made for it goes again.
        wanted
            .iter()
            .for_each(|it| sockets::remove_file(&it.address));
    })
}

/// Opens all sockets, or none.
fn opened(settings: &Settings) -> Result<Vec<OwnedFd>, Fault> {
    let wanted = sockets_of(settings);
    let mut opened = Vec::new();
    for socket in &wanted {
        match sockets::open(socket) {
            Ok(descriptor) => opened.push(descriptor),
            Err(error) => {
                let before = wanted.iter().take(opened.len());
                before.for_each(|it| sockets::remove_file(&it.address));
                return Err(Fault::Unusable(format!(
                    "{error}; the admin listener's address is set with `admin.address`, or \
                     `admin: off`"
                )));
            }
        }
    }
    Ok(opened)
}

/// Starts the log of a supervisor, which reads no configuration: JSON lines from level info on, or
/// plain ones on a terminal.
pub fn log_of_the_supervisor() {
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    program_log::init(&crate::observe::Settings {
        level: Level::Info,
        format: if terminal { Format::Text } else { Format::Json },
        file: None,
    });
}

/// Runs one generation of a supervised weir: with the sockets that the supervisor holds, until the
/// supervisor says that another one serves.
///
/// # Errors
/// Why it could not start; the supervisor is told too.
pub fn serve(source: &Source) -> Result<(), Fault> {
    let worker = Worker::inherit().map_err(Fault::Unusable)?;
    let Some(mut worker) = worker else {
        return Err(Fault::Unusable(
            "`weir serve` is started by `weir run`; to serve without a supervisor say \
             `weir run --single`"
                .into(),
        ));
    };
    let stamp = source.stamp();
    let settings = match source.load() {
        Ok(settings) => settings,
        Err(fault) => {
            failed(worker, &fault)?;
            return Err(fault);
        }
    };
    program_log::init(&settings.observe);
    let sockets = worker.take_sockets();
    Process {
        source,
        stamp,
        sockets,
        worker: Some(worker),
    }
    .run(settings, |_| {})
}

/// What a supervisor must know of the configuration. Everything that can be checked without serving
/// has been checked then.
///
/// # Errors
/// All mistakes.
pub fn plan(source: &Source) -> Result<Plan, Fault> {
    let settings = source.load()?;
    built(&settings)?;
    Ok(Plan {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_hash: source.hash(),
        sockets: sockets_of(&settings),
        upgrade: settings.upgrade,
        drain: settings.listen.drain,
    })
}

/// Checks what only building shows: certificates, keys, proxies; and what the host must have: users,
/// folders that can be written. Answers with what will be a mistake soon, or may be one.
///
/// # Errors
/// What can't be used.
pub fn check(settings: &Settings) -> Result<Vec<String>, Fault> {
    let host = host::look(settings);
    let built = built(settings);
    if host.mistakes.is_empty() {
        return built.map(|warnings| [warnings, host.warnings].concat());
    }
    let other = built.err().map(|fault| fault.to_string());
    let all: Vec<String> = other.into_iter().chain(host.mistakes).collect();
    Err(Fault::Unusable(all.join("\n")))
}

fn built(settings: &Settings) -> Result<Vec<String>, Fault> {
    let loaded = Loader::new(settings.state_dir.clone()).load(&settings.listen)?;
    let snapshot = offline(settings)?;
    let warnings = settings.warnings.iter().cloned();
    let warnings = warnings.chain(loaded.warnings());
    Ok(warnings
        .chain(build::unpriced(&snapshot, settings))
        .collect())
}

/// Sockets for clients, then the admin listener's.
fn sockets_of(settings: &Settings) -> Vec<Socket> {
    let clients = settings.listen.listeners.iter().map(|it| it.socket.clone());
    let admin = settings.admin.iter().map(|it| it.socket.clone());
    clients.chain(admin).collect()
}

/// Where these sockets are bound, with their real ports.
fn own_of(sockets: &[OwnedFd]) -> egress::Own {
    let address = |socket| {
        socket2::SockRef::from(socket)
            .local_addr()
            .ok()?
            .as_socket()
    };
    egress::Own::new(sockets.iter().filter_map(address))
}

fn failed(worker: Worker, fault: &Fault) -> Result<(), Fault> {
    let runtime = runtime(1)?;
    runtime.block_on(async {
        let (teller, _orders) = worker.connect()?;
        tell_failure(&teller, fault).await;
        Ok(())
    })
}

async fn tell_failure(teller: &Teller, fault: &Fault) {
    let reason = fault.to_string();
    teller.tell(Told::Failed { reason });
    teller.finish().await;
}

/// Where weir listens, with real ports.
#[derive(Clone, Debug)]
pub struct Bound {
    /// For clients.
    pub clients: Vec<Address>,
    /// For operators.
    pub admin: Option<Address>,
}

/// A process that is about to serve.
struct Process<'a> {
    source: &'a Source,
    stamp: config::watch::Stamp,
    /// As [`sockets_of`] has them.
    sockets: Vec<OwnedFd>,
    worker: Option<Worker>,
}

impl Process<'_> {
    fn run(self, settings: Settings, started: impl FnOnce(&Bound)) -> Result<(), Fault> {
        // The first provider to be installed wins; Pingora would take ring.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        raise_descriptor_limit();
        let vocabulary = std::thread::spawn(crate::tokens::count::load);
        let begun = runtime(settings.threads).map_err(Fault::from);
        let begun = begun.and_then(|runtime| {
            let observer = observer(&settings)?;
            let ledger = opened_ledger(&settings, &observer)?;
            Ok((runtime, observer, ledger))
        });
        let (runtime, observer, ledger) = match begun {
            Ok(begun) => begun,
            Err(fault) => {
                if let Some(worker) = self.worker {
                    failed(worker, &fault)?;
                }
                return Err(fault);
            }
        };
        let number = self.worker.as_ref().map(Worker::number);
        let Self {
            source,
            stamp,
            sockets,
            worker,
        } = self;
        let served = runtime.block_on(async {
            let supervisor = worker.map(Worker::connect).transpose()?;
            let teller = supervisor.as_ref().map(|(teller, _)| teller.clone());
            let start = Start {
                source,
                stamp,
                sockets,
                settings,
                observer: Arc::clone(&observer),
                ledger: ledger.clone(),
                supervisor,
                number,
                vocabulary,
            };
            match start.serve(started).await {
                Ok(handover) => Ok((handover, teller)),
                Err(fault) => {
                    if let Some(teller) = &teller {
                        tell_failure(teller, &fault).await;
                    }
                    Err(fault)
                }
            }
        });
        let last_words = served.map(|(handover, teller)| {
            // What is told last is told when every request has been counted.
            let settled = runtime.spawn_blocking({
                let observer = Arc::clone(&observer);
                move || observer.finish()
            });
            runtime.block_on(async {
                if settled.await.is_err() {
                    tracing::error!("the last requests could not be counted");
                }
                if let Some(teller) = teller {
                    let report = Box::new(handover.report());
                    teller.tell(Told::Report { report });
                    teller.finish().await;
                }
            });
        });
        // What still runs has had its time. Requests that are cut now are settled by their own end.
        runtime.shutdown_timeout(Duration::from_millis(100));
        observer.finish();
        if let Some(ledger) = ledger {
            ledger.finish();
        }
        last_words
    }
}

fn observer(settings: &Settings) -> Result<Arc<Observer>, Fault> {
    Observer::new(&settings.observe).map_err(|error| match &settings.observe.file {
        Some(_) => Fault::Unusable(format!("the access log can't be opened: {error}")),
        None => error.into(),
    })
}

/// Where sums are kept: with teams, or where other hosts share them, in `state_dir`, where they are safe and all generations share them.
fn accounts(settings: &Settings) -> Result<Accounts, Fault> {
    if settings.govern.teams.is_none() && settings.shared_state.is_none() {
        return Ok(Accounts::private());
    }
    let folder = &settings.state_dir;
    Accounts::open(folder).map_err(|error| {
        Fault::Unusable(format!(
            "limits and budgets are kept in state_dir {}, which can't be used: {error}; make \
             the folder and let weir's user write in it, or set `state_dir` to another one",
            folder.display()
        ))
    })
}

fn opened_ledger(settings: &Settings, observer: &Observer) -> Result<Option<Arc<Ledger>>, Fault> {
    let Some(usage) = &settings.usage else {
        return Ok(None);
    };
    let opened = Ledger::open(usage, observer.metrics.books.clone());
    opened
        .map(|ledger| Some(Arc::new(ledger)))
        .map_err(|fault| {
            Fault::Unusable(format!(
                "{fault}; let weir's user write to state_dir, name another one, or say `usage: off`"
            ))
        })
}

/// Sums of the ledger that a configuration names, whether weir runs or not.
///
/// # Errors
/// Why there are none.
pub fn usage(settings: &Settings, query: &ledger::Query) -> Result<Vec<ledger::Row>, Fault> {
    let Some(usage) = &settings.usage else {
        return Err(Fault::Unusable(
            "this configuration keeps no usage: add `usage: {store: sqlite}`".into(),
        ));
    };
    ledger::report(usage, query).map_err(|fault| Fault::Unusable(fault.to_string()))
}

/// All that a process starts with.
struct Start<'a> {
    source: &'a Source,
    stamp: config::watch::Stamp,
    sockets: Vec<OwnedFd>,
    settings: Settings,
    observer: Arc<Observer>,
    ledger: Option<Arc<Ledger>>,
    supervisor: Option<(Teller, Orders)>,
    number: Option<u64>,
    vocabulary: std::thread::JoinHandle<()>,
}

impl Start<'_> {
    async fn serve(self, started: impl FnOnce(&Bound)) -> Result<Arc<Handover>, Fault> {
        let Self {
            source,
            stamp,
            sockets,
            settings,
            observer,
            ledger,
            mut supervisor,
            number,
            vocabulary,
        } = self;
        // Before anything else is seen of weir: a signal without a handler would end it.
        let signals = Signals::new()?;
        host::ready(&settings).map_err(Fault::Unusable)?;
        let sharing = sharing::open(&settings)?;
        let mut governor = Governor::new(settings.govern.clone(), accounts(&settings)?);
        if let Some((sharing, shared)) = sharing.as_ref().zip(settings.shared_state.as_ref()) {
            governor = governor.sharing(sharing.clone(), shared.lease);
        }
        let shared = Shared {
            observer: Arc::clone(&observer),
            governor: Arc::new(governor),
            keys: Keys::new(settings.state_dir.clone()),
            ledger,
            resolver: resolver(&settings, Arc::new(Watch::new(&observer.metrics)))?,
            own: own_of(&sockets),
            dialling: Arc::new(Memory::new(observer.metrics.pool.clone())),
            calibration: Arc::default(),
        };
        let keeping = Keeping::start(&settings, sharing.as_ref(), &shared)?;
        let teller = supervisor.as_ref().map(|(teller, _)| teller.clone());
        let handover = Arc::new(Handover::new(
            shared.clone(),
            source.hash(),
            number.zip(teller.clone()),
        ));
        let succeeds = match &mut supervisor {
            Some((_, orders)) => begin(orders, &handover).await?,
            None => false,
        };
        let snapshot = shared.build(&settings, None)?;
        if !snapshot.keys.is_open() {
            snapshot.keys.store().watch();
        }
        let live = Arc::new(Live::new(snapshot));
        handover.tells_of(&live);
        spent::restore(&live.pin(), &settings).await;
        let loader = Loader::of(&handover, settings.state_dir.clone());
        let loaded = loader.load(&settings.listen)?;
        let ready = Arc::new(AtomicBool::new(true));
        let (listeners, bound) = Listeners::open(
            &settings,
            sockets,
            listeners::Services {
                live: Arc::clone(&live),
                observer: Arc::clone(&observer),
                known: Known {
                    metrics: handover.metrics(),
                    ready: Arc::clone(&ready),
                    weir: Arc::new(Operators::new(Arc::clone(&live), settings.usage.clone())),
                },
                challenges: handover.challenges.clone(),
            },
            &loaded,
        )?;
        let terms = listeners.terms();
        let certificates = Certificates::new(loader, &settings, &loaded, &observer, terms);
        if succeeds {
            // Another one serves meanwhile, and has the log.
            observer.rotate(false);
            build::warm(&live.pin(), &shared.resolver, vocabulary).await;
        } else if build::weighs(&settings) {
            // What the first requests may use is asked before they are sent.
            build::ready(vocabulary).await;
        }
        connect_ahead(&live, succeeds).await;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            generation = number,
            configuration = %source,
            providers = settings.upstream.providers.len(),
            model_routes = settings.route.models.len(),
            paths = settings.route.target_map.len(),
            access_log = %settings.observe.file.as_ref().map_or("standard output".into(), |file| file.path.display().to_string()),
            "starting"
        );
        warn(&settings);
        warn_of_open_keys(&settings, &bound);
        listeners.accept();
        for address in &bound.clients {
            tracing::info!(%address, "listening");
        }
        if let Some(address) = &bound.admin {
            tracing::info!(%address, "admin listening");
        }
        started(&bound);
        if let Some(teller) = &teller {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            teller.tell(Told::Ready { version });
        }
        let mut running = Running {
            source,
            stamp,
            signals,
            supervisor,
            watch: settings.watch,
            drain: settings.listen.drain,
            started: settings,
            shared,
            live,
            handover: Arc::clone(&handover),
            certificates,
            listeners,
            probing: probing::Probing::default(),
            renewing: renewing::Renewing::default(),
            ready,
            doing: running::Doing::default(),
        };
        running.probe();
        running.until_over().await;
        if let Some(keeping) = keeping {
            keeping.end(running.is_last()).await;
        }
        tracing::info!("stopped");
        Ok(handover)
    }
}

/// Connects to upstreams ahead of requests. Where another generation serves meanwhile, this one waits
/// a moment for it; else whoever waits for weir comes first.
async fn connect_ahead(live: &Arc<Live>, wait: bool) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let snapshot = live.pin();
    let work = tokio::spawn(async move { build::connect_ahead(&snapshot).await });
    if wait && tokio::time::timeout(PATIENCE, work).await.is_err() {
        tracing::debug!("some upstreams were not connected to within {PATIENCE:?}");
    }
}

/// The supervisor's first line says what is known already; true when another generation serves.
async fn begin(orders: &mut Orders, handover: &Handover) -> Result<bool, Fault> {
    const PATIENCE: Duration = Duration::from_secs(10);
    match tokio::time::timeout(PATIENCE, orders.next()).await {
        Ok(Some(Order::Begin {
            state,
            totals,
            urgent,
        })) => {
            handover.begin(state.as_ref(), &totals);
            Ok(!urgent)
        }
        _ => Err(Fault::Unusable(
            "the supervisor didn't say how to begin; `weir serve` is started by `weir run`".into(),
        )),
    }
}

/// What is odd about a configuration that is served from now on.
fn warn(settings: &Settings) {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
}

/// Without teams whoever reaches a listener spends the providers' keys.
fn warn_of_open_keys(settings: &Settings, bound: &Bound) {
    if settings.govern.teams.is_some() {
        return;
    }
    let keyed = settings
        .upstream
        .providers
        .iter()
        .filter(|one| one.api_key.is_some());
    let names: Vec<&str> = keyed.map(|provider| provider.name.as_str()).collect();
    let open = bound
        .clients
        .iter()
        .find(|address| address.tcp().is_some_and(|it| !it.ip().is_loopback()));
    if let (Some(address), false) = (open, names.is_empty()) {
        let providers = names.join(", ");
        tracing::warn!(
            %address,
            providers,
            "whoever reaches this address uses the api_key of these providers; ask for keys of your \
             own (`teams`), listen on 127.0.0.1, or let only those reach it who may"
        );
    }
}

/// One thread needs no work stealing, and is cheaper without.
fn runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    /// Threads that count tokens and decompress bodies.
    const BLOCKING_THREADS_MAX: usize = 4;
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    };
    builder
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("weir")
        .build()
}

/// As many descriptors as the system lets us have: each stream takes two.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls read or write the one struct that they are given.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        tracing::warn!("the limit of open files could not be raised");
    }
}
