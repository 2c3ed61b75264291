//! The listeners of a running weir: what accepts, under which terms, and how it stops.

use super::certificates::Loaded;
use super::{Bound, Fault};
use crate::admin::{Admin, Known};
use crate::config::Settings;
use crate::listen::settings::Settings as Listen;
use crate::listen::tls::Challenges;
use crate::listen::{self, Acceptor, Caps, Listening, Phase, Refusal, Refused};
use crate::observe::access::End;
use crate::observe::{Observer, Record};
use crate::proxy::Proxy;
use crate::snapshot::Live;
use arc_swap::ArcSwap;
use pingora::apps::HttpServerApp;
use pingora::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Which sockets are closed when weir accepts no more.
#[derive(Clone, Debug)]
pub(super) enum Closing {
    /// Those at these places; the others are kept, to accept again or because others accept there.
    Only(Vec<usize>),
    /// Those of clients: nobody accepts there any more.
    All,
}

/// What the listeners serve.
pub(super) struct Services {
    pub(super) live: Arc<Live>,
    pub(super) observer: Arc<Observer>,
    /// What operators are told.
    pub(super) known: Known,
    pub(super) challenges: Challenges,
}

/// All listeners.
pub(super) struct Listeners {
    /// In the order of the sockets: those for clients, then the admin listener's.
    phases: Vec<Phased>,
    clients: usize,
    caps: Caps,
    /// Of the admin listener.
    admin: Option<Caps>,
    terms: Terms,
}

/// One listener's accept loop.
struct Phased {
    phase: watch::Sender<Phase>,
    /// Ends when the socket is closed and what waited there was accepted.
    accepting: JoinHandle<()>,
}

/// Under which terms clients' connections are taken, by listener; a handle.
#[derive(Clone)]
pub(super) struct Terms(Arc<[Arc<ArcSwap<listen::Terms>>]>);

impl Terms {
    /// Swaps them for connections that come from now on.
    pub(super) fn apply(&self, listen: &Listen, loaded: &Loaded) {
        for (place, terms) in self.0.iter().enumerate() {
            if let Some(next) = listen::Terms::of(listen, place, loaded.tls(place).cloned()) {
                terms.store(Arc::new(next));
            }
        }
    }

    /// Idle connections leave at once when their listener drains: nobody else is there for them.
    fn leave_at_once(&self) {
        for terms in self.0.iter() {
            terms.store(Arc::new(listen::Terms {
                idle_close_delay: Duration::ZERO,
                ..(**terms.load()).clone()
            }));
        }
    }
}

impl Listeners {
    /// Takes over the sockets; nothing is accepted before [`Listeners::accept`].
    pub(super) fn open(
        settings: &Settings,
        sockets: Vec<OwnedFd>,
        services: Services,
        loaded: &Loaded,
    ) -> Result<(Self, Bound), Fault> {
        let observer = &services.observer;
        let caps = Caps::new(observer.metrics.connections.clone());
        let proxy = Arc::new(http_proxy(settings, services.live));
        let mut sockets = sockets.into_iter();
        let mut phases = Vec::new();
        let mut all_terms = Vec::new();
        let mut bound = Bound {
            clients: Vec::new(),
            admin: None,
        };
        for place in 0..settings.listen.listeners.len() {
            let terms = listen::Terms::of(&settings.listen, place, loaded.tls(place).cloned());
            let terms = Arc::new(ArcSwap::from_pointee(terms.ok_or_else(no_socket)?));
            let listening = Listening::try_from(sockets.next().ok_or_else(no_socket)?)?;
            bound.clients.push(listening.address()?);
            let acceptor = Acceptor {
                app: Arc::clone(&proxy),
                terms: Arc::clone(&terms),
                caps: caps.clone(),
                refused: refused(observer),
                challenges: Some(services.challenges.clone()),
            };
            phases.push(spawn(acceptor, listening));
            all_terms.push(terms);
        }
        let mut admin_caps = None;
        if let Some(admin) = &settings.admin {
            /// Connections of operators at once.
            const CONNECTIONS_MAX: usize = 256;
            let listening = Listening::try_from(sockets.next().ok_or_else(no_socket)?)?;
            bound.admin = Some(listening.address()?);
            let app = Admin::new(services.known, admin);
            // Operators aren't counted among the clients.
            let open = prometheus::IntGauge::new("admin_connections", "not told")
                .map_err(|error| Fault::Unusable(error.to_string()))?;
            let own = Caps::new(open);
            own.set(CONNECTIONS_MAX, 0);
            admin_caps = Some(own.clone());
            let acceptor = Acceptor {
                app: Arc::new(app),
                terms: Arc::new(ArcSwap::from_pointee(listen::Terms::plain(
                    &settings.listen,
                ))),
                caps: own,
                refused: refused(observer),
                challenges: None,
            };
            phases.push(spawn(acceptor, listening));
        }
        let listeners = Self {
            phases,
            clients: all_terms.len(),
            caps,
            admin: admin_caps,
            terms: Terms(all_terms.into()),
        };
        listeners.cap(&settings.listen);
        Ok((listeners, bound))
    }

    /// Accepts, for the first time or again.
    pub(super) fn accept(&self) {
        for one in &self.phases {
            one.phase.send_replace(Phase::Accepting);
        }
    }

    /// Accepts no more; connections leave with the request that they carry, idle ones one by one.
    pub(super) fn drain(&self, closing: &Closing) {
        if matches!(closing, Closing::All) {
            self.terms.leave_at_once();
        }
        for (place, one) in self.phases.iter().enumerate() {
            one.phase.send_replace(match closing {
                // Operators may look until the end.
                Closing::All if place >= self.clients => continue,
                Closing::All => Phase::Closing,
                Closing::Only(places) if places.contains(&place) => Phase::Closing,
                Closing::Only(_) => Phase::Draining,
            });
        }
    }

    /// True when all who waited at sockets that are being closed have been accepted.
    pub(super) fn are_closed(&self) -> bool {
        let closing = |one: &&Phased| *one.phase.borrow() == Phase::Closing;
        let mut all = self.phases.iter().filter(closing);
        all.all(|one| one.accepting.is_finished())
    }

    /// A reload: new terms for new connections.
    pub(super) fn apply(&self, listen: &Listen, loaded: &Loaded) {
        self.cap(listen);
        self.terms.apply(listen, loaded);
    }

    /// The terms alone, for whoever renews certificates.
    pub(super) fn terms(&self) -> Terms {
        self.terms.clone()
    }

    /// Open connections of clients.
    pub(super) fn connections(&self) -> usize {
        self.caps.connections()
    }

    /// Open connections of operators.
    pub(super) fn operators(&self) -> usize {
        self.admin.as_ref().map_or(0, Caps::connections)
    }

    /// Other processes of this host have as many.
    pub(super) fn elsewhere(&self, connections: usize) {
        self.caps.set_elsewhere(connections);
    }

    fn cap(&self, listen: &Listen) {
        self.caps
            .set(listen.connections_max, listen.connections_per_client_max);
    }
}

fn no_socket() -> Fault {
    Fault::Unusable("there are fewer sockets than listeners; start weir anew".into())
}

fn spawn<A: HttpServerApp + Send + Sync + 'static>(
    acceptor: Acceptor<A>,
    listening: Listening,
) -> Phased {
    let (phase, watch) = watch::channel(Phase::Paused);
    let accepting = tokio::spawn(async move {
        if let Err(error) = acceptor.serve(listening, watch).await {
            tracing::error!(%error, "a listening socket can't be used any more");
        }
    });
    Phased { phase, accepting }
}

fn refused(observer: &Arc<Observer>) -> Refused {
    let observer = Arc::clone(observer);
    Arc::new(move |client, refusal| {
        if let Refusal::Head(fault) = refusal {
            let (status, code, _) = fault.answer();
            let end = End::Refused(code);
            observer.request(&Record::of_refused_head(client, status, end));
        } else {
            observer.metrics.connection_refused(refusal.label());
        }
    })
}

fn http_proxy(settings: &Settings, live: Arc<Live>) -> HttpProxy<Proxy> {
    /// Idle connections to upstreams that are kept, per thread.
    const POOL: usize = 512;
    /// Pingora's own bound of tries. The plan of a request has a closer one: candidates, and for each
    /// of them egress proxies.
    const TRIES_MAX: usize = 256;
    let conf = ServerConf {
        threads: settings.threads,
        upstream_keepalive_pool_size: POOL,
        max_retries: TRIES_MAX,
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(Proxy::new(live, &conf), Arc::new(conf));
    proxy.handle_init_modules();
    proxy
}
