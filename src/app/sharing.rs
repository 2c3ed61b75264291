//! The task that shares allowances with other hosts: started with the process, told when it ends.

use super::Fault;
use super::build::Shared;
use crate::config::Settings;
use crate::govern::shared::{Dial, Keeper, Server, Sharing, Stream, Words};
use pingora::connectors::TransportConnector;
use pingora::upstreams::peer::HttpPeer;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use weir_dns::Resolver;

/// What this host shares, where it does.
pub(super) fn open(settings: &Settings) -> Result<Option<Sharing>, Fault> {
    if settings.shared_state.is_none() {
        return Ok(None);
    }
    let folder = &settings.state_dir;
    Sharing::open(folder).map(Some).map_err(|error| {
        Fault::Unusable(format!(
            "what hosts share through shared_state is noted in state_dir {}, which can't be used: \
             {error}; make the folder and let weir's user write in it, or set `state_dir` to another one",
            folder.display()
        ))
    })
}

/// The running task, on a thread of its own: a host whose threads are all busy for longer than its lease
/// would count as dead.
pub(super) struct Keeping {
    end: oneshot::Sender<bool>,
    ended: oneshot::Receiver<()>,
}

impl Keeping {
    /// Starts it; `None` where nothing is shared.
    pub(super) fn start(
        settings: &Settings,
        sharing: Option<&Sharing>,
        shared: &Shared,
    ) -> io::Result<Option<Self>> {
        let Some((sharing, settings)) = sharing.zip(settings.shared_state.clone()) else {
            return Ok(None);
        };
        let metrics = shared.observer.metrics.sharing();
        let dial = dial(shared.resolver.clone(), Handle::current());
        let keeper = Keeper::new(sharing.clone(), settings, dial, metrics);
        let store: Arc<dyn Words> = Arc::clone(shared.keys.store()) as _;
        let keeper = keeper.with_words(store);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (end, told) = oneshot::channel();
        let (over, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("weir-sharing".into());
        thread.spawn(move || {
            runtime.block_on(keeper.run(told));
            // Nobody listens where the process has ended meanwhile.
            let _ = over.send(());
        })?;
        Ok(Some(Self { end, ended }))
    }

    /// Ends it. Where no other process of the host goes on (`last`), what isn't used is given back.
    pub(super) async fn end(self, last: bool) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let told = self.end.send(last).is_ok();
        if told && tokio::time::timeout(PATIENCE, self.ended).await.is_err() {
            tracing::warn!(
                "leases of shared allowances weren't given back in time: they end by themselves"
            );
        }
    }
}

/// Connects to the first address of the server that accepts.
fn dial(resolver: Resolver, serving: Handle) -> Dial {
    let connector = Arc::new(TransportConnector::new(None));
    Arc::new(move |server: &Server| {
        let (resolver, connector, server) =
            (resolver.clone(), Arc::clone(&connector), server.clone());
        let serving = serving.clone();
        Box::pin(async move {
            let mut last = io::Error::other(format!("{} has no address", server.host));
            for address in addresses(resolver, &serving, &server).await? {
                let mut peer = HttpPeer::new(address, server.tls, server.host.clone());
                peer.options.connection_timeout = Some(CONNECT);
                peer.options.total_connection_timeout = Some(CONNECT);
                match connector.new_stream(&peer).await {
                    Ok(stream) => return Ok(Box::new(stream) as Box<dyn Stream>),
                    Err(error) => last = io::Error::other(error.to_string()),
                }
            }
            Err(last)
        })
    })
}

/// For one address.
const CONNECT: Duration = Duration::from_millis(800);

async fn addresses(
    resolver: Resolver,
    serving: &Handle,
    server: &Server,
) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = server.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, server.port)]);
    }
    // What the resolver does beside a lookup belongs to the threads that serve.
    let host = server.host.clone();
    let found = serving.spawn(async move { resolver.lookup(&host).await });
    let found = found.await.map_err(io::Error::other)?;
    let found = found.map_err(io::Error::other)?;
    let with_port = |address: &IpAddr| SocketAddr::new(*address, server.port);
    Ok(found.iter().map(with_port).collect())
}
