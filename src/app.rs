//! The composition root: settings → snapshot → services and background tasks. The only file that
//! knows everyone.

use crate::admin::Admin;
use crate::config::{self, Mistakes, Settings};
use crate::egress::{self, Egress};
use crate::govern::Governor;
use crate::listen::{Acceptor, bind, head::Bounds};
use crate::observe::access::End;
use crate::observe::{Observer, Record, program_log};
use crate::proxy::Proxy;
use crate::route::settings::Balance;
use crate::route::{ProviderIndex, Table};
use crate::snapshot::{Exit, Live, Snapshot};
use crate::upstream::{self, Group, Order, ProviderId, Share, Upstreams};
use bytes::Bytes;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::v2::server::default_h2_options;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Environment variables alone.
    Environment,
    /// Settings that the program made; they are never read again.
    Given(Box<Settings>),
}

/// Why weir could not start, or the configuration could not be used.
#[derive(Debug)]
pub enum Fault {
    /// The configuration has mistakes.
    Mistakes(Mistakes),
    /// The environment names no provider, and there is no file.
    Nothing,
    /// Something that was named can't be used: a port, a file, a certificate.
    Unusable(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistakes(mistakes) => mistakes.fmt(f),
            Self::Nothing => f.write_str(
                "no configuration: name a file with -c FILE, put one at /etc/weir/weir.yaml, \
                 or set OPENAI_API_KEY or OLLAMA_BASE",
            ),
            Self::Unusable(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Fault {}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Unusable(error.to_string())
    }
}

impl Source {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(&self) -> Result<Settings, Fault> {
        let env = |name: &str| std::env::var(name).ok();
        match self {
            Self::File(path) => config::load(path, &env).map_err(Fault::Mistakes),
            Self::Environment => config::from_env(&env)
                .ok_or(Fault::Nothing)?
                .map_err(Fault::Mistakes),
            Self::Given(settings) => Ok((**settings).clone()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Environment => f.write_str("environment"),
            Self::Given(_) => f.write_str("built in"),
        }
    }
}

impl Source {
    /// What the file looks like; taken before it is read, so that no change is missed.
    fn stamp(&self) -> config::watch::Stamp {
        match self {
            Self::File(path) => config::watch::Stamp::of(path),
            Self::Environment | Self::Given(_) => config::watch::Stamp::default(),
        }
    }
}

/// Runs weir until it is told to stop.
///
/// `started` is called once with the bound addresses, when connections are accepted.
///
/// # Errors
/// Why it could not start.
pub fn run(source: &Source, started: impl FnOnce(&Bound)) -> Result<(), Fault> {
    let stamp = source.stamp();
    let settings = source.load()?;
    program_log::init(&settings.observe);
    // The first provider to be installed wins; Pingora would take ring.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    raise_descriptor_limit();
    std::thread::spawn(crate::tokens::count::load);
    let runtime = runtime(settings.threads)?;
    let observer = Observer::new(&settings.observe)?;
    let served = serve(source, stamp, settings, Arc::clone(&observer), started);
    let outcome = runtime.block_on(served);
    // What still runs has had its time. Requests that are cut now are settled by their own end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    observer.finish();
    outcome
}

/// A snapshot of a configuration that nothing is served from, for `weir check` and `weir explain`.
/// Writes no log and opens no socket.
///
/// # Errors
/// What can't be used: a certificate, a proxy's URL.
pub fn offline(settings: &Settings) -> Result<Snapshot, Fault> {
    let quiet = crate::observe::Settings {
        file: None,
        ..settings.observe.clone()
    };
    let shared = Shared {
        observer: Observer::new(&quiet)?,
        governor: Arc::new(Governor::new(settings.govern.clone())),
        resolver: resolver(settings)?,
    };
    shared.build(settings, None)
}

fn resolver(settings: &Settings) -> Result<weir_dns::Resolver, Fault> {
    weir_dns::Resolver::new(settings.egress.dns.clone())
        .map_err(|error| Fault::Unusable(format!("dns: {error}")))
}

/// The addresses that weir listens on, with real ports.
#[derive(Clone, Debug)]
pub struct Bound {
    /// For clients.
    pub clients: Vec<SocketAddr>,
    /// For operators.
    pub admin: Option<SocketAddr>,
}

async fn serve(
    source: &Source,
    stamp: config::watch::Stamp,
    settings: Settings,
    observer: Arc<Observer>,
    started: impl FnOnce(&Bound),
) -> Result<(), Fault> {
    // Before anything else is seen of weir: a signal without a handler would end it.
    let signals = Signals::new()?;
    let shared = Shared {
        observer: Arc::clone(&observer),
        governor: Arc::new(Governor::new(settings.govern.clone())),
        resolver: resolver(&settings)?,
    };
    let live = Arc::new(Live::new(shared.build(&settings, None)?));
    let (shutdown, down) = watch::channel(false);
    // The admin listener goes on answering while clients are drained.
    let (_admin_shutdown, never) = watch::channel(false);
    let ready = Arc::new(AtomicBool::new(true));

    let connections = match settings.listen.connections_max {
        0 => Semaphore::MAX_PERMITS,
        max => max.min(Semaphore::MAX_PERMITS),
    };
    let permits = Arc::new(Semaphore::new(connections));
    let mut bound = Bound {
        clients: Vec::new(),
        admin: None,
    };
    let proxy = Arc::new(http_proxy(&settings, Arc::clone(&live)));
    for listener in &settings.listen.listeners {
        let bounds = Bounds {
            idle: Duration::ZERO,
            complete: settings.listen.client_header,
            bytes_max: settings.listen.header_bytes_max,
            h2: listener.h2,
        };
        let open = observer.metrics.connections.clone();
        let acceptor = acceptor(&proxy, &permits, bounds, &observer, open);
        bound
            .clients
            .push(spawn(acceptor, listener.address, &down)?);
    }
    if let Some(admin) = &settings.admin {
        let app = Admin::new(Arc::clone(&live), Arc::clone(&ready), admin.token.clone());
        let bounds = Bounds {
            idle: Duration::ZERO,
            complete: settings.listen.client_header,
            bytes_max: settings.listen.header_bytes_max,
            h2: false,
        };
        let own = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
        // Operators aren't counted among the clients.
        let open = prometheus::IntGauge::new("admin_connections", "not told")
            .map_err(|error| Fault::Unusable(error.to_string()))?;
        let acceptor = acceptor(&Arc::new(app), &own, bounds, &observer, open);
        let address = spawn(acceptor, admin.address, &never);
        bound.admin = Some(address.map_err(|error| {
            Fault::Unusable(format!(
                "admin: {error}; set another with `admin.address`, or `admin: off`"
            ))
        })?);
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        configuration = %source,
        providers = settings.upstream.providers.len(),
        model_routes = settings.route.models.len(),
        paths = settings.route.target_map.len(),
        access_log = %settings.observe.file.as_ref().map_or("standard output".into(), |file| file.path.display().to_string()),
        "starting"
    );
    warn_of_open_keys(&settings, &bound);
    for address in &bound.clients {
        tracing::info!(%address, "listening");
    }
    if let Some(address) = bound.admin {
        tracing::info!(%address, "admin listening");
    }
    started(&bound);

    let drain = settings.listen.drain;
    let mut running = Running {
        source,
        stamp,
        signals,
        watch: settings.watch,
        started: settings,
        shared,
        live,
    };
    let stop = running.until_stopped().await;
    ready.store(false, Ordering::Relaxed);
    if stop == Stop::Drain {
        tracing::info!(in_flight = running.shared.governor.in_flight(), "draining");
        shutdown.send_replace(true);
        let drained = drained(&permits, connections, drain);
        tokio::select! {
            () = drained => {}
            () = running.signals.stop() => tracing::warn!("stopped before all requests had ended"),
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// There are no teams yet: whoever reaches a listener spends the providers' keys.
fn warn_of_open_keys(settings: &Settings, bound: &Bound) {
    let keyed = settings
        .upstream
        .providers
        .iter()
        .filter(|one| one.api_key.is_some());
    let names: Vec<&str> = keyed.map(|provider| provider.name.as_str()).collect();
    let open = bound
        .clients
        .iter()
        .find(|address| !address.ip().is_loopback());
    if let (Some(address), false) = (open, names.is_empty()) {
        let providers = names.join(", ");
        tracing::warn!(
            %address,
            providers,
            "whoever reaches this address uses the api_key of these providers; listen on \
             127.0.0.1, or let only those reach it who may"
        );
    }
}

/// Connections of operators at once.
const ADMIN_CONNECTIONS_MAX: usize = 256;

async fn drained(permits: &Semaphore, connections: usize, drain: Duration) {
    let empty = async {
        while permits.available_permits() < connections {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(drain, empty).await.is_err() {
        tracing::warn!("requests were still open when the time to drain was over");
    }
}

fn acceptor<A>(
    app: &Arc<A>,
    permits: &Arc<Semaphore>,
    bounds: Bounds,
    observer: &Arc<Observer>,
    open: prometheus::IntGauge,
) -> Acceptor<A> {
    let tell = Arc::clone(observer);
    Acceptor {
        app: Arc::clone(app),
        permits: Arc::clone(permits),
        bounds,
        open,
        refused: Arc::new(move |peer, fault| {
            let (status, code, _) = fault.answer();
            tell.request(&Record::of_refused_head(
                peer.ip(),
                status,
                End::Refused(code),
            ));
        }),
    }
}

fn spawn<A: HttpServerApp + Send + Sync + 'static>(
    acceptor: Acceptor<A>,
    address: SocketAddr,
    down: &ShutdownWatch,
) -> std::io::Result<SocketAddr> {
    let listener = bind(address)?;
    let bound = listener.local_addr()?;
    tokio::spawn(acceptor.serve(listener, down.clone()));
    Ok(bound)
}

fn http_proxy(settings: &Settings, live: Arc<Live>) -> HttpProxy<Proxy> {
    /// Windows of a client's HTTP/2 connection: the default of 64 KiB for all streams together
    /// makes a 5 MB prompt take a second at 20 ms of distance.
    const H2_WINDOW: u32 = 1 << 20;
    const H2_IDLE: Duration = Duration::from_secs(75);
    /// Idle connections to upstreams that are kept, per thread.
    const POOL: usize = 512;
    let conf = ServerConf {
        threads: settings.threads,
        upstream_keepalive_pool_size: POOL,
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(Proxy::new(live), Arc::new(conf));
    proxy.handle_init_modules();
    let header_bytes_max = u32::try_from(settings.listen.header_bytes_max).unwrap_or(u32::MAX);
    let mut options = default_h2_options();
    options.max_header_list_size(header_bytes_max);
    options.initial_window_size(H2_WINDOW);
    options.initial_connection_window_size(2 * H2_WINDOW);
    proxy.h2_options = Some(options);
    let mut server = pingora::apps::HttpServerOptions::default();
    server.h2_idle_timeout = Some(H2_IDLE);
    proxy.server_options = Some(server);
    proxy
}

/// What outlives a configuration.
#[derive(Clone)]
struct Shared {
    observer: Arc<Observer>,
    governor: Arc<Governor>,
    resolver: weir_dns::Resolver,
}

impl Shared {
    /// Makes a snapshot of checked settings; state of `old` is carried over.
    fn build(&self, settings: &Settings, old: Option<&Snapshot>) -> Result<Snapshot, Fault> {
        let upstreams = Upstreams::new(&settings.upstream, old.map(|old| &old.upstreams));
        let exits = exits(settings, &upstreams)?;
        let routes = Table::new(&settings.route);
        let route_groups = routes
            .models
            .routes()
            .iter()
            .map(|route| {
                let shares: Vec<Share> = route
                    .targets
                    .iter()
                    .map(|target| Share {
                        provider: ProviderId(target.provider.0),
                        model: target.model.as_deref().map(Arc::from),
                        weight: target.weight,
                    })
                    .collect();
                let order = match route.balance {
                    Balance::RoundRobin => Order::RoundRobin,
                    Balance::Random => Order::Random,
                };
                Group::new(&upstreams, &shares, order, route.retries)
            })
            .collect();
        let provider_groups = (0..upstreams.providers().len())
            .map(|number| {
                let share = Share {
                    provider: ProviderId(number),
                    model: None,
                    weight: 1,
                };
                Group::new(&upstreams, &[share], Order::RoundRobin, PATH_RETRIES)
            })
            .collect();
        Ok(Snapshot {
            model_list: model_list(&routes, &upstreams),
            corridor: settings.proxy.clone(),
            egress: Egress::new(settings.egress.clone(), self.resolver.clone()),
            governor: Arc::clone(&self.governor),
            observer: Arc::clone(&self.observer),
            routes,
            upstreams,
            exits,
            route_groups,
            provider_groups,
        })
    }
}

/// Further tries for requests that no model route governs.
const PATH_RETRIES: u32 = 2;

fn exits(settings: &Settings, upstreams: &Upstreams) -> Result<Vec<Exit>, Fault> {
    upstreams
        .endpoints()
        .iter()
        .map(|endpoint| {
            let provider = &settings.upstream.providers[endpoint.provider.0];
            exit(settings, provider, &endpoint.base)
                .map_err(|error| Fault::Unusable(format!("provider {}: {error}", provider.name)))
        })
        .collect()
}

fn exit(
    settings: &Settings,
    provider: &upstream::settings::Provider,
    base: &crate::types::BaseUrl,
) -> Result<Exit, String> {
    let mode = match &provider.egress {
        upstream::settings::Egress::Auto => egress::Mode::Auto,
        upstream::settings::Egress::Direct => egress::Mode::Direct,
        upstream::settings::Egress::Proxy => egress::Mode::Proxy(None),
        upstream::settings::Egress::Url(url) => {
            let proxy: egress::ProxyUrl = url
                .expose()
                .parse()
                .map_err(|error: egress::ProxyUrlError| format!("egress: {error}"))?;
            egress::Mode::Proxy(Some(Arc::new(proxy)))
        }
    };
    let tls = egress::Tls::load(
        provider.tls.server_name.clone(),
        provider.tls.verify,
        provider.tls.ca.as_deref(),
        provider
            .tls
            .client
            .as_ref()
            .map(|(cert, key)| (cert.as_path(), key.as_path())),
    )?;
    let general = settings.proxy.timeouts;
    let own = provider.timeouts;
    Ok(Exit {
        endpoint: egress::Endpoint::new(base.scheme, &base.host, base.port, mode, tls)
            .map_err(|error| error.to_string())?,
        limits: egress::Limits {
            connect: own.connect.unwrap_or(general.connect),
            first_byte: own.first_byte.unwrap_or(general.first_byte),
            idle: own.idle.unwrap_or(general.idle),
            write: own.idle.unwrap_or(general.idle),
        },
    })
}

/// The answer to `GET /v1/models` (OpenAI's list), or `None` when nothing can be listed.
fn model_list(routes: &Table, upstreams: &Upstreams) -> Option<Bytes> {
    let models: Vec<_> = routes
        .models
        .names()
        .map(|name| {
            let owner = routes.models.find(name).and_then(|index| {
                let ProviderIndex(provider) = routes.models.route(index).targets.first()?.provider;
                Some(upstreams.provider(ProviderId(provider)).name.to_string())
            });
            serde_json::json!({"id": name, "object": "model", "created": 0, "owned_by": owner})
        })
        .collect();
    if models.is_empty() {
        return None;
    }
    let list = serde_json::json!({"object": "list", "data": models});
    Some(list.to_string().into())
}

/// A running weir and what it was started with.
struct Running<'a> {
    source: &'a Source,
    /// What the file looked like when it was last read.
    stamp: config::watch::Stamp,
    signals: Signals,
    /// What can't be changed by a reload was built from these.
    started: Settings,
    /// `watch:` of the live configuration.
    watch: bool,
    shared: Shared,
    live: Arc<Live>,
}

/// How a stop was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Finish what is open.
    Drain,
    /// Now.
    Now,
}

impl Running<'_> {
    /// Obeys signals and watches the file, until a signal says to stop.
    async fn until_stopped(&mut self) -> Stop {
        loop {
            let signals = &mut self.signals;
            let (source, watch, stamp) = (self.source, self.watch, &mut self.stamp);
            let changed = async {
                match source {
                    Source::File(path) if watch => config::watch::changed(path, stamp).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = signals.hangup.recv() => {}
                () = changed => {}
                _ = signals.reopen.recv() => {
                    self.shared.observer.reopen();
                    continue;
                }
                _ = signals.terminate.recv() => return Stop::Drain,
                _ = signals.interrupt.recv() => return Stop::Now,
            }
            // Files are read and names checked on a thread that serves nobody.
            let prepared = self.prepare();
            let prepared = tokio::select! {
                prepared = prepared => prepared,
                _ = self.signals.terminate.recv() => return Stop::Drain,
                _ = self.signals.interrupt.recv() => return Stop::Now,
            };
            let fault = |error: tokio::task::JoinError| Fault::Unusable(error.to_string());
            let (stamp, prepared) = match prepared {
                Ok((stamp, prepared)) => (Some(stamp), prepared),
                Err(error) => (None, Err(fault(error))),
            };
            if let Some(stamp) = stamp {
                self.stamp = stamp;
            }
            self.shared.observer.metrics.reload(prepared.is_ok());
            match prepared {
                Ok((settings, next)) => self.apply(*settings, *next),
                Err(fault) => {
                    tracing::error!(%fault, "configuration refused; the old one goes on serving");
                }
            }
        }
    }

    /// Loads, checks and builds.
    fn prepare(&self) -> tokio::task::JoinHandle<(config::watch::Stamp, Prepared)> {
        let (source, shared, old) = (self.source.clone(), self.shared.clone(), self.live.pin());
        tokio::task::spawn_blocking(move || {
            let stamp = source.stamp();
            let prepared = source.load().and_then(|settings| {
                let next = shared.build(&settings, Some(&old))?;
                Ok((Box::new(settings), Box::new(next)))
            });
            (stamp, prepared)
        })
    }

    /// Swaps: new requests get `next`.
    fn apply(&mut self, settings: Settings, next: Snapshot) {
        self.shared.governor.apply(settings.govern.clone());
        self.live.swap(next);
        tracing::info!("configuration reloaded");
        let waiting: Vec<&str> = [
            ("listen, limits.connections, limits.header_bytes, timeouts.client_header, timeouts.drain",
                settings.listen != self.started.listen),
            ("admin", settings.admin != self.started.admin),
            ("threads", settings.threads != self.started.threads),
            ("logging", settings.observe != self.started.observe),
            ("dns", settings.egress.dns != self.started.egress.dns),
        ]
        .into_iter()
        .filter_map(|(keys, differs)| differs.then_some(keys))
        .collect();
        if !waiting.is_empty() {
            let keys = waiting.join(", ");
            tracing::warn!(
                keys,
                "these keep the settings that weir was started with until a restart"
            );
        }
        self.watch = settings.watch;
    }
}

/// A configuration that could be served, or why not.
type Prepared = Result<(Box<Settings>, Box<Snapshot>), Fault>;

struct Signals {
    hangup: Signal,
    reopen: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Resolves when weir is told to stop, in whichever way.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
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
