//! Certificates while weir runs: read again when their files change, swapped in when they are sound,
//! renewed by ACME, their days told. A bad renewal changes nothing but the log.
//!
//! Only the process that leads does this: another one shows what it began with until it ends.

use super::Fault;
use super::handover::Handover;
use super::listeners::Terms;
use crate::config::Settings;
use crate::config::watch::Stamp;
use crate::listen::acme::{self, Kind};
use crate::listen::settings::Settings as Listen;
use crate::listen::tls::settings::ClientAuth;
use crate::listen::tls::{self, Challenges, Tickets};
use crate::observe::Observer;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Reads certificates of listeners.
#[derive(Clone)]
pub(super) struct Loader {
    state_dir: PathBuf,
    tickets: Tickets,
    challenges: Challenges,
}

/// TLS of all listeners, in their order.
pub(super) struct Loaded {
    tls: Vec<Option<tls::Loaded>>,
    /// What the files looked like before they were read: no change is missed.
    files: Vec<(PathBuf, Stamp)>,
}

impl Loader {
    /// For a check alone.
    pub(super) fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            tickets: Tickets::new(SystemTime::now()),
            challenges: Challenges::default(),
        }
    }

    /// For what is served.
    pub(super) fn of(handover: &Handover, state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            tickets: handover.tickets.clone(),
            challenges: handover.challenges.clone(),
        }
    }

    /// Reads and checks all files; blocks.
    ///
    /// # Errors
    /// All mistakes, a line each.
    pub(super) fn load(&self, listen: &Listen) -> Result<Loaded, Fault> {
        let now = SystemTime::now();
        let mut mistakes: Vec<String> = Vec::new();
        let files = stamped(self.files(listen));
        let loaded = listen.listeners.iter().map(|listener| {
            let settings = listener.tls.as_ref()?;
            let (tickets, challenges) = (&self.tickets, &self.challenges);
            let h2 = listener.h2;
            match tls::load(settings, h2, &self.state_dir, tickets, challenges, now) {
                Ok(loaded) => Some(loaded),
                Err(found) => {
                    mistakes.extend(found.iter().map(ToString::to_string));
                    None
                }
            }
        });
        let loaded = Loaded {
            tls: loaded.collect(),
            files,
        };
        if mistakes.is_empty() {
            Ok(loaded)
        } else {
            // Listeners may share a file.
            mistakes.dedup();
            Err(Fault::Unusable(mistakes.join("\n")))
        }
    }

    fn files(&self, listen: &Listen) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for tls in listen.listeners.iter().filter_map(|it| it.tls.as_ref()) {
            for certificate in &tls.certificates {
                files.extend([certificate.cert.clone(), certificate.key.clone()]);
            }
            files
                .extend((tls.acme.iter()).map(|acme| tls::acme_certificate(&self.state_dir, acme)));
            if let ClientAuth::Optional(path) | ClientAuth::Required(path) = &tls.client_auth {
                files.push(path.clone());
            }
        }
        files.sort_unstable();
        files.dedup();
        files
    }
}

impl Loaded {
    /// TLS of the listener at this place; `None` for a plaintext one.
    pub(super) fn tls(&self, listener: usize) -> Option<&Arc<tls::Tls>> {
        Some(&self.tls.get(listener)?.as_ref()?.tls)
    }

    /// What will be a mistake soon.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut all: Vec<String> = (self.tls.iter().flatten())
            .flat_map(|loaded| loaded.warnings.iter().cloned())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn warn(&self) {
        for warning in self.warnings() {
            tracing::warn!("{warning}");
        }
    }
}

fn stamped(files: Vec<PathBuf>) -> Vec<(PathBuf, Stamp)> {
    let stamp = |file: PathBuf| {
        let stamp = Stamp::of(&file);
        (file, stamp)
    };
    files.into_iter().map(stamp).collect()
}

/// The certificates in use.
pub(super) struct Certificates {
    keeper: Arc<Keeper>,
    tasks: Vec<JoinHandle<()>>,
}

struct Keeper {
    loader: Loader,
    terms: Terms,
    observer: Arc<Observer>,
    using: Mutex<Using>,
    /// ACME got another one.
    renewed: Notify,
}

/// What is in use, and what its files looked like.
struct Using {
    listen: Arc<Listen>,
    files: Vec<(PathBuf, Stamp)>,
    /// Listener, first name, end.
    ends: Vec<(String, String, SystemTime)>,
}

impl Using {
    fn new(listen: &Listen, loaded: &Loaded) -> Self {
        let named = listen.listeners.iter().zip(&loaded.tls);
        let ends = named.flat_map(|(listener, loaded)| {
            let all = loaded.iter().flat_map(|loaded| &loaded.certificates);
            all.map(|info| {
                let name = info.names.first().cloned().unwrap_or_default();
                (listener.socket.address.to_string(), name, info.not_after)
            })
        });
        Self {
            ends: ends.collect(),
            files: loaded.files.clone(),
            listen: Arc::new(listen.clone()),
        }
    }
}

impl Certificates {
    /// Begins with what was loaded; nothing is watched before [`Certificates::renew`].
    pub(super) fn new(
        loader: Loader,
        settings: &Settings,
        loaded: &Loaded,
        observer: &Arc<Observer>,
        terms: Terms,
    ) -> Self {
        loaded.warn();
        let keeper = Keeper {
            loader,
            terms,
            observer: Arc::clone(observer),
            using: Mutex::new(Using::new(&settings.listen, loaded)),
            renewed: Notify::new(),
        };
        keeper.tell_days();
        Self {
            keeper: Arc::new(keeper),
            tasks: Vec::new(),
        }
    }

    /// Reads what a reload brings.
    pub(super) fn loader(&self) -> Loader {
        self.keeper.loader.clone()
    }

    /// A reload has swapped these in.
    pub(super) fn apply(&mut self, settings: &Settings, loaded: &Loaded) {
        loaded.warn();
        let wanted = self.keeper.wanted();
        *self.keeper.using.lock() = Using::new(&settings.listen, loaded);
        self.keeper.tell_days();
        // An order that is under way isn't given up for nothing: ACME servers count them.
        if !self.tasks.is_empty() && self.keeper.wanted() != wanted {
            self.renew();
        }
    }

    /// This process leads: watches the files, turns ticket keys, lets ACME renew.
    pub(super) fn renew(&mut self) {
        self.pause();
        let keeper = Arc::clone(&self.keeper);
        self.tasks
            .push(tokio::spawn(async move { keeper.watch().await }));
        if let Some(renewal) = self.keeper.renewal() {
            self.tasks.push(tokio::spawn(async move {
                renewal.run().await;
            }));
        }
    }

    /// Another process leads.
    pub(super) fn pause(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        self.pause();
    }
}

impl Keeper {
    async fn watch(self: Arc<Self>) {
        const LOOK: Duration = Duration::from_secs(2);
        let mut last = Vec::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.renewed.notified() => last.clear(),
            }
            if self.loader.tickets.rotate(SystemTime::now()) {
                tracing::debug!("keys of TLS tickets turned");
            }
            self.tell_days();
            let keeper = Arc::clone(&self);
            let seen = last;
            let looked = tokio::task::spawn_blocking(move || keeper.look(seen)).await;
            last = looked.unwrap_or_default();
        }
    }

    /// Looks at the files; where they are others than those in use, and rest since the last look, they
    /// are loaded. Returns what was seen.
    fn look(&self, last: Vec<(PathBuf, Stamp)>) -> Vec<(PathBuf, Stamp)> {
        let (listen, used) = {
            let using = self.using.lock();
            (Arc::clone(&using.listen), using.files.clone())
        };
        let seen = stamped(used.iter().map(|(file, _)| file.clone()).collect());
        // The first look after ACME renewed has nothing to compare with: what it writes is whole.
        let rests = last.is_empty() || last == seen;
        if seen == used || !rests {
            return seen;
        }
        let loaded = self.loader.load(&listen);
        let mut using = self.using.lock();
        if !Arc::ptr_eq(&using.listen, &listen) {
            // A reload came between; it has read them too.
            return seen;
        }
        match loaded {
            Ok(loaded) => {
                self.terms.apply(&listen, &loaded);
                *using = Using {
                    listen: Arc::clone(&listen),
                    ..Using::new(&listen, &loaded)
                };
                tracing::info!("certificates were renewed");
                loaded.warn();
            }
            Err(fault) => {
                tracing::error!(%fault, "renewed certificates refused; the old ones go on serving");
                // Said once; a further change is looked at again.
                using.files.clone_from(&seen);
            }
        }
        drop(using);
        self.tell_days();
        seen
    }

    fn tell_days(&self) {
        let now = SystemTime::now();
        let using = self.using.lock();
        let days = using.ends.iter().map(|(listener, name, end)| {
            const DAY: f64 = 86_400.0;
            let left = match end.duration_since(now) {
                Ok(left) => left.as_secs_f64(),
                Err(past) => -past.duration().as_secs_f64(),
            };
            (
                listener.as_str(),
                name.as_str(),
                (left / DAY * 100.0).round() / 100.0,
            )
        });
        self.observer.metrics.certificates(days);
    }

    /// What ACME is to get, each certificate once, and how it can be proved that the names are ours.
    fn wanted(&self) -> (Vec<tls::settings::Acme>, Vec<Kind>) {
        let listen = Arc::clone(&self.using.lock().listen);
        let mut wanted: Vec<tls::settings::Acme> = Vec::new();
        for acme in (listen.listeners.iter()).filter_map(|it| it.tls.as_ref()?.acme.as_ref()) {
            if wanted
                .iter()
                .all(|other| other.domains.first() != acme.domains.first())
            {
                wanted.push(acme.clone());
            }
        }
        // The server asks at ports 443 and 80; what stands before this host may lead them elsewhere.
        let plain = listen.listeners.iter().any(|it| it.tls.is_none());
        let on = |port: u16| {
            let mut all = listen.listeners.iter();
            all.any(|it| it.socket.address.tcp().is_some_and(|it| it.port() == port))
        };
        let offers = match (on(443), plain) {
            (true, true) => vec![Kind::TlsAlpn01, Kind::Http01],
            (false, true) => vec![Kind::Http01, Kind::TlsAlpn01],
            (_, false) => vec![Kind::TlsAlpn01],
        };
        (wanted, offers)
    }

    /// The task that gets them; `None` where there is nothing to get.
    fn renewal(self: &Arc<Self>) -> Option<acme::Renewal> {
        let (wanted, offers) = self.wanted();
        if wanted.is_empty() {
            return None;
        }
        let keeper = Arc::clone(self);
        Some(acme::Renewal {
            wanted,
            state_dir: self.loader.state_dir.clone(),
            offers,
            challenges: self.loader.challenges.clone(),
            clock: Arc::new(SystemTime::now),
            told: Arc::new(move |event| match event {
                acme::Event::Issued { domains, path, .. } => {
                    tracing::info!(?domains, path = %path.display(), "ACME got a certificate");
                    keeper.renewed.notify_one();
                }
                acme::Event::Failed {
                    domains,
                    error,
                    again_in,
                } => tracing::error!(
                    ?domains,
                    %error,
                    again_in_seconds = again_in.as_secs(),
                    "ACME got no certificate; what serves now goes on serving"
                ),
            }),
        })
    }
}
