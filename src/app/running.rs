//! What a running weir obeys: signals, and changes of its file.

use super::build::Shared;
use super::{Fault, Source};
use crate::config::{self, Settings};
use crate::snapshot::{Live, Snapshot};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A running weir and what it was started with.
pub(super) struct Running<'a> {
    pub(super) source: &'a Source,
    /// What the file looked like when it was last read.
    pub(super) stamp: config::watch::Stamp,
    pub(super) signals: Signals,
    /// What can't be changed by a reload was built from these.
    pub(super) started: Settings,
    /// `watch:` of the live configuration.
    pub(super) watch: bool,
    pub(super) shared: Shared,
    pub(super) live: Arc<Live>,
}

/// How a stop was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Finish what is open.
    Drain,
    /// Now.
    Now,
}

impl Running<'_> {
    /// Obeys signals and watches the file, until a signal says to stop.
    pub(super) async fn until_stopped(&mut self) -> Stop {
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

pub(super) struct Signals {
    hangup: Signal,
    reopen: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Resolves when weir is told to stop, in whichever way.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
