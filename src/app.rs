//! The composition root: settings → snapshot → services and background tasks. The only file that
//! knows everyone.

mod build;
mod running;
mod source;

pub use build::offline;
pub use source::{Fault, Source};

use crate::admin::Admin;
use crate::config::{self, Settings};
use crate::govern::Governor;
use crate::listen::{Acceptor, bind, h2, head::Bounds};
use crate::observe::access::End;
use crate::observe::{Observer, Record, program_log};
use crate::proxy::Proxy;
use crate::snapshot::Live;
use build::{Shared, resolver};
use pingora::apps::HttpServerApp;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use running::{Running, Signals, Stop};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

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
    let h2 = h2::Limits {
        header_bytes_max: settings.listen.header_bytes_max,
        client_header: settings.listen.client_header,
        keepalive: settings.listen.keepalive,
        stall: settings.proxy.timeouts.idle,
    };
    for listener in &settings.listen.listeners {
        let bounds = Bounds {
            idle: Duration::ZERO,
            complete: settings.listen.client_header,
            bytes_max: settings.listen.header_bytes_max,
            h2: listener.h2,
        };
        let open = observer.metrics.connections.clone();
        let acceptor = acceptor(&proxy, &permits, bounds, h2, &observer, open);
        bound
            .clients
            .push(spawn(acceptor, tcp(&listener.socket)?, &down)?);
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
        let acceptor = acceptor(&Arc::new(app), &own, bounds, h2, &observer, open);
        let address = spawn(acceptor, tcp(&admin.socket)?, &never);
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
    h2: h2::Limits,
    observer: &Arc<Observer>,
    open: prometheus::IntGauge,
) -> Acceptor<A> {
    let tell = Arc::clone(observer);
    Acceptor {
        app: Arc::clone(app),
        permits: Arc::clone(permits),
        bounds,
        h2,
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

fn tcp(socket: &crate::types::socket::Socket) -> std::io::Result<SocketAddr> {
    socket
        .address
        .tcp()
        .ok_or_else(|| std::io::Error::other("not built yet"))
}

fn http_proxy(settings: &Settings, live: Arc<Live>) -> HttpProxy<Proxy> {
    /// Idle connections to upstreams that are kept, per thread.
    const POOL: usize = 512;
    let conf = ServerConf {
        threads: settings.threads,
        upstream_keepalive_pool_size: POOL,
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(Proxy::new(live), Arc::new(conf));
    proxy.handle_init_modules();
    proxy
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
