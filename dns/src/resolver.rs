//! The resolver: what is known at once, what is asked for, and what is asked for again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::cache::{Cache, NAMES_MAX};
use crate::entry::{Outcome, Verdict};
use crate::flight::{Boarding, Flight, Flights, Landing, QUEUE_MAX};
use crate::hosts::{HOSTS_TTL, Hosts};
use crate::name::{is_name, key, literal};
use crate::observe::{Lookup, Observer};
use crate::renew::{Agenda, IN_USE};
use crate::transport::{Servers, Transport};
use crate::{Answer, Config, Error, Known, Listing, LookupError, ServerReport, Source};

const HOSTS: &str = "/etc/hosts";

/// The files are looked at this often at most, and while names are in use about so often.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// How long a query waits for that.
const LOOK_PATIENCE: Duration = Duration::from_millis(50);

/// The resolver. Clones share everything.
///
/// Works from any Tokio runtime with time and I/O enabled; a query runs as a task of the runtime
/// that first asked, and whoever waits for it asks again if that runtime ends.
#[derive(Clone, Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cache: Cache,
    hosts: Hosts,
    transport: Box<dyn Transport>,
    timeout: Duration,
    flights: Flights,
    agenda: Arc<Agenda>,
    /// Whether a task walks the agenda.
    is_kept: AtomicBool,
    looked: Mutex<Instant>,
    observer: Arc<dyn Observer>,
}

/// Who walks the agenda; when it is gone another one may be started.
struct Keeper(Weak<Shared>);

// === impl Resolver ===

impl Resolver {
    /// A resolver with an empty cache. Reads `/etc/resolv.conf` where `config` names no servers;
    /// where that file is missing or names none, the server of this machine is asked.
    ///
    /// Blocks for the time of reading two small files.
    pub fn new(config: Config) -> Result<Self, Error> {
        Self::with_observer(config, Arc::new(()))
    }

    /// As [`Resolver::new`], and `observer` is told what happens.
    pub fn with_observer(config: Config, observer: Arc<dyn Observer>) -> Result<Self, Error> {
        let servers = Servers::new(&config, Arc::clone(&observer))?;
        Ok(Self::with(&config, HOSTS, Box::new(servers), observer))
    }

    pub(crate) fn with(
        config: &Config,
        hosts: impl Into<PathBuf>,
        transport: Box<dyn Transport>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let now = Instant::now();
        let shared = Shared {
            cache: Cache::new(config, NAMES_MAX, now),
            hosts: Hosts::new(hosts),
            transport,
            timeout: config.timeout,
            flights: Flights::new(),
            agenda: Arc::default(),
            is_kept: AtomicBool::new(false),
            looked: Mutex::new(now),
            observer,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The addresses of `host`: a name, or an IP literal, which is its own answer.
    ///
    /// Where an answer is known it waits for nothing, whether that is fresh or old; else for at
    /// most [`Config::timeout`]. A name with a dot at its end isn't searched for. Dropping the
    /// future is safe: the query goes on for those who wait for it too, and its answer is kept.
    pub async fn lookup(&self, host: &str) -> Result<Answer, LookupError> {
        self.answer(host, self.shared.timeout, false).await
    }

    /// As [`Resolver::lookup`], for callers that have another way: waits for at most `patience`,
    /// and not at all where the last query for this name had an unhappy end. The query goes on
    /// behind, so a later call knows better.
    pub async fn glance(&self, host: &str, patience: Duration) -> Result<Answer, LookupError> {
        let patience = patience.min(self.shared.timeout);
        self.answer(host, patience, true).await
    }

    /// Whether what it answers for `host` now has no IPv4 addresses only because no server could be
    /// asked for them, nor could one before. Such an answer doesn't say all that the name stands
    /// for. Without its IPv6 addresses it counts as whole: some servers never answer for those.
    pub fn lacks_ipv4(&self, host: &str) -> bool {
        let name = key(host, || self.shared.transport.ndots());
        self.shared.cache.lacks_ipv4(&name, Instant::now())
    }

    /// The names that it can answer for without asking, for a successor to begin with. Of many,
    /// those that were used last.
    pub fn known(&self) -> Vec<Known> {
        self.shared.cache.known(Instant::now())
    }

    /// Takes over what another resolver knew, for names that this one doesn't know.
    pub fn learn(&self, known: impl IntoIterator<Item = Known>) {
        let (shared, now) = (&self.shared, Instant::now());
        for known in known {
            // The hosts file is of today.
            if is_name(&known.name)
                && shared.hosts.find(&known.name).is_none()
                && let Some(at) = shared.cache.learn(&known, now, rand::random())
            {
                shared.agenda.add(&known.name, at);
                shared.see_to_the_agenda();
            }
        }
    }

    /// All that is remembered, by name; not what was flushed and wasn't asked for since.
    pub fn dump(&self) -> Vec<Listing> {
        self.shared.cache.list(Instant::now())
    }

    /// Forgets `host`, or all names where there is none; says how many it forgot. The next lookup
    /// asks and waits; only where nobody can say are the old addresses used on, as long as they
    /// would have been. What is being asked for meanwhile is kept when its answer comes.
    pub fn flush(&self, host: Option<&str>) -> usize {
        let (cache, now) = (&self.shared.cache, Instant::now());
        match host {
            Some(host) => {
                let name = key(host, || self.shared.transport.ndots());
                usize::from(cache.flush(&name, now))
            }
            None => cache.flush_all(now),
        }
    }

    /// The servers that it asks, and how they fare.
    pub fn servers(&self) -> Vec<ServerReport> {
        self.shared.transport.servers()
    }

    async fn answer(
        &self,
        host: &str,
        patience: Duration,
        content_with_echo: bool,
    ) -> Result<Answer, LookupError> {
        let shared = &self.shared;
        let name = key(host, || shared.transport.ndots());
        if let Some(address) = literal(&name) {
            return Ok(Arc::from([address]));
        }
        let (lookup, result) = match shared.cache.probe(&name, Instant::now()) {
            Verdict::Use {
                addresses,
                stale,
                due,
            } => {
                if due {
                    self.ask_behind(&name);
                }
                let lookup = if stale { Lookup::Stale } else { Lookup::Hit };
                (lookup, Ok(addresses))
            }
            Verdict::Unhappy(error) => (error.lookup(), Err(error)),
            Verdict::Ask { echo } => {
                let result = self.ask(&name, patience, echo.filter(|_| content_with_echo));
                let result = result.await;
                let lookup = result
                    .as_ref()
                    .err()
                    .map_or(Lookup::Miss, LookupError::lookup);
                (lookup, result)
            }
        };
        shared.observer.lookup(lookup);
        result
    }

    async fn ask(
        &self,
        name: &str,
        patience: Duration,
        echo: Option<LookupError>,
    ) -> Result<Answer, LookupError> {
        if let Some(addresses) = self.shared.listed(name) {
            return Ok(addresses);
        }
        if !is_name(name) {
            return Err(LookupError::NotFound { host: name.into() });
        }
        if let Some(echo) = echo {
            self.ask_behind(name);
            return Err(echo);
        }
        let outcome = tokio::time::timeout(patience, self.outcome(name)).await;
        // More than the outcome says: what a lost family had, or what was flushed.
        if let Some(held) = self.shared.cache.held(name, Instant::now()) {
            return Ok(held);
        }
        let reason = match outcome {
            Ok(Outcome::Found { addresses, .. }) => return Ok(addresses),
            Ok(Outcome::NotFound { .. }) => {
                return Err(LookupError::NotFound { host: name.into() });
            }
            Ok(Outcome::Unavailable(reason)) => reason,
            Err(_) => format!("no answer within {patience:?}").into(),
        };
        Err(LookupError::Unavailable {
            host: name.into(),
            reason,
        })
    }

    /// Waits for the query of this name: the one under way, or a new one.
    async fn outcome(&self, name: &str) -> Outcome {
        // A flight is lost only with the runtime it ran on; the next one runs on ours.
        for _ in 0..2 {
            let Some(mut flight) = self.board(name, None) else {
                let reason = format!("{QUEUE_MAX} names are being asked for already");
                return Outcome::Unavailable(reason.into());
            };
            if let Ok(outcome) = flight.wait_for(Option::is_some).await
                && let Some(outcome) = outcome.clone()
            {
                return outcome;
            }
        }
        Outcome::Unavailable("the query was given up".into())
    }

    fn ask_behind(&self, name: &str) {
        if Handle::try_current().is_ok() {
            drop(self.board(name, None));
        }
    }

    /// Joins the query of this name, starting it where there is none. `None`: there are too many.
    fn board(&self, name: &str, renewal: Option<OwnedSemaphorePermit>) -> Option<Flight> {
        let (landing, flight) = match self.shared.flights.board(name) {
            Boarding::Joined(flight) => return Some(flight),
            Boarding::Opened(landing, flight) => (landing, flight),
            Boarding::Full => return None,
        };
        let shared = Arc::clone(&self.shared);
        tokio::spawn(fly(shared, name.into(), landing, renewal));
        Some(flight)
    }

    /// Asks for a name whose time has come, if it is in use. Waits while enough are asked for.
    async fn renew(&self, name: &str) {
        let shared = &self.shared;
        let permit = Arc::clone(&shared.flights.renewals).acquire_owned().await;
        if shared.cache.is_due(name, IN_USE, Instant::now()) {
            drop(self.board(name, permit.ok()));
        }
    }
}

/// One query: waits for its turn, asks, keeps the outcome, tells it.
async fn fly(
    shared: Arc<Shared>,
    name: Box<str>,
    landing: Landing,
    renewal: Option<OwnedSemaphorePermit>,
) {
    let turn = Arc::clone(&shared.flights.runways).acquire_owned().await;
    // Another flight may have landed between the caller's look and this one's start.
    let outcome = match shared.cache.settled(&name, Instant::now()) {
        Some(outcome) => outcome,
        None => {
            shared.look().await;
            // Whoever looks it up meanwhile needn't come here to see that it is being asked for.
            let late = Instant::now() + shared.timeout;
            shared.cache.postpone(&name, late);
            let outcome = shared.ask(&name).await;
            shared.remember(&name, outcome.clone());
            outcome
        }
    };
    drop((turn, renewal));
    shared.flights.land(&name, &landing, outcome);
}

// === impl Shared ===

impl Shared {
    /// The addresses that the hosts file has for a name; they are kept as any others.
    fn listed(self: &Arc<Self>, name: &str) -> Option<Answer> {
        let addresses = self.hosts.find(name)?;
        self.remember(name, of_hosts(Arc::clone(&addresses)));
        Some(addresses)
    }

    async fn ask(&self, name: &str) -> Outcome {
        if let Some(addresses) = self.hosts.find(name) {
            return of_hosts(addresses);
        }
        match tokio::time::timeout(self.timeout, self.transport.ask(name)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unavailable(format!("no answer within {:?}", self.timeout).into()),
        }
    }

    fn remember(self: &Arc<Self>, name: &str, outcome: Outcome) {
        let due = self
            .cache
            .keep(name, outcome, Instant::now(), rand::random());
        if let Some(at) = due {
            self.agenda.add(name, at);
            self.see_to_the_agenda();
        }
    }

    /// Sees to it that a task walks the agenda, where there is a runtime for it.
    fn see_to_the_agenda(self: &Arc<Self>) {
        if let Ok(runtime) = Handle::try_current()
            && !self.is_kept.swap(true, Ordering::AcqRel)
        {
            let keeper = Keeper(Arc::downgrade(self));
            runtime.spawn(keeper.walk(Arc::clone(&self.agenda)));
        }
    }

    /// Looks whether the files have changed, where nobody has for a while.
    async fn look(self: &Arc<Self>) {
        {
            let (mut looked, now) = (self.looked.lock(), Instant::now());
            if now.saturating_duration_since(*looked) < LOOK_EVERY {
                return;
            }
            *looked = now;
        }
        let shared = Arc::clone(self);
        let look = tokio::task::spawn_blocking(move || shared.look_now());
        // Where all threads that may block do, the names can't wait for them.
        drop(tokio::time::timeout(LOOK_PATIENCE, look).await);
    }

    fn look_now(&self) {
        for name in self.hosts.look_again() {
            self.cache.forget(&name);
        }
        if self.transport.look_again() {
            let now = Instant::now();
            self.cache.doubt_all(now, |name| self.agenda.add(name, now));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.agenda.changed.notify_one();
    }
}

fn of_hosts(addresses: Answer) -> Outcome {
    Outcome::Found {
        addresses,
        ttl: HOSTS_TTL,
        source: Source::Hosts,
        lost: None,
    }
}

// === impl Keeper ===

impl Keeper {
    /// Asks for names that are due and in use, and looks at the files now and then. Ends when there
    /// is no more to do, or when the resolver is gone.
    async fn walk(self, agenda: Arc<Agenda>) {
        while let Some(next) = agenda.next() {
            let look = Instant::now() + LOOK_EVERY;
            tokio::select! {
                () = tokio::time::sleep_until(next.min(look)) => {}
                () = agenda.changed.notified() => {}
            }
            let Some(shared) = self.0.upgrade() else {
                return;
            };
            shared.look().await;
            let resolver = Resolver { shared };
            while let Some(name) = agenda.due(Instant::now()) {
                resolver.renew(&name).await;
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.is_kept.store(false, Ordering::Release);
        }
    }
}
