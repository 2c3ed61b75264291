//! What dialling has taught: which addresses and proxies failed lately, which family of addresses
//! won, where hosts have moved, how busy they are. Beside it what dials share: the TLS of proxies,
//! connections that were made ahead, metrics.
//!
//! It outlives a configuration, is bounded, and takes the time as an argument. It orders; it never
//! leaves anything out.

mod faults;
mod host;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use weir_dns::Answer;

use super::Proxies;
use super::ahead::Ahead;
use super::lane::Lanes;
use super::order::ordered;
use super::outer;
use super::settings::ProxyUrl;
use super::steady::Steadies;
use crate::observe::Pool;
use faults::Faults;
pub(super) use host::Family;
use host::Host;

/// Addresses, proxies and pairs whose failures are remembered.
const FAULTS_MAX: usize = 4096;
/// Hosts that are remembered.
const HOSTS_MAX: usize = 4096;
/// Endpoints that a successor is told of.
const BUSIEST_MAX: usize = 64;
/// Proxies whose refusal of credentials has been told.
const TOLD_MAX: usize = 256;
/// Proxies whose silence is remembered.
const SILENT_MAX: usize = 256;
/// Silences further apart than this have nothing to do with each other.
const SILENT: Duration = Duration::from_secs(600);

/// What dialling has taught; see the module.
#[derive(Debug)]
pub struct Memory {
    pub(super) pool: Pool,
    pub(super) ahead: Ahead,
    pub(super) lanes: Lanes,
    pub(super) steady: Steadies,
    started: Instant,
    faults: Mutex<Faults<Who>>,
    hosts: Mutex<AHashMap<Box<str>, Host>>,
    told: Mutex<BTreeSet<u64>>,
    /// For which host a proxy was silent since it last opened a tunnel, and when.
    silent: Mutex<AHashMap<u64, (Arc<str>, Instant)>>,
    /// How often a road was asked for, by endpoint.
    uses: Mutex<AHashMap<u64, u64>>,
    outer: Mutex<Arc<OnceCell<outer::Config>>>,
}

/// Who can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// One address and port.
    Address(SocketAddr),
    /// A proxy, for whatever it is asked.
    Proxy(u64),
    /// A proxy that doesn't reach one endpoint.
    Pair(u64, u64),
}

// === impl Memory ===

impl Memory {
    /// Of a process that hasn't dialled yet.
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            ahead: Ahead::default(),
            lanes: Lanes::default(),
            steady: Steadies::default(),
            started: Instant::now(),
            faults: Mutex::new(Faults::new(FAULTS_MAX)),
            hosts: Mutex::default(),
            told: Mutex::default(),
            silent: Mutex::default(),
            uses: Mutex::default(),
            outer: Mutex::default(),
        }
    }

    /// How long this process has been dialling.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    // --- hosts ---

    /// The generation of a host whose addresses are these; see `memory/host.rs`.
    pub(super) fn generation(&self, host: &str, answer: &Answer, now: Instant) -> u32 {
        self.with(host, now, |host| host.answered(answer, now))
    }

    /// These addresses in the order in which to try them.
    pub(super) fn order(
        &self,
        host: &str,
        answer: &[IpAddr],
        port: u16,
        now: Instant,
    ) -> Vec<IpAddr> {
        let (family, turn) = self.with(host, now, |host| (host.family(now), host.turn()));
        let faults = self.faults.lock();
        ordered(answer, family, turn, |address| {
            let who = Who::Address(SocketAddr::new(address, port));
            faults.until(&who, now).is_some()
        })
    }

    /// A connection to this address of the host was made.
    pub(super) fn connected(&self, host: &str, address: SocketAddr, now: Instant) {
        self.works(Who::Address(address));
        self.with(host, now, |host| host.connected(address.ip(), now));
    }

    fn with<R>(&self, name: &str, now: Instant, act: impl FnOnce(&mut Host) -> R) -> R {
        let mut hosts = self.hosts.lock();
        if let Some(host) = hosts.get_mut(name) {
            return act(host);
        }
        if hosts.len() >= HOSTS_MAX {
            let oldest = hosts.iter().min_by_key(|(_, host)| host.touched);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                hosts.remove(&oldest);
            }
        }
        act(hosts.entry(name.into()).or_insert_with(|| Host::new(now)))
    }

    // --- how busy ---

    pub(super) fn used(&self, endpoint: u64) {
        let mut uses = self.uses.lock();
        if let Some(count) = uses.get_mut(&endpoint) {
            *count += 1;
        } else if uses.len() < HOSTS_MAX {
            uses.insert(endpoint, 1);
        }
    }

    pub(super) fn uses(&self, endpoint: u64) -> u64 {
        self.uses.lock().get(&endpoint).copied().unwrap_or_default()
    }

    /// The busiest endpoints, as nothing but numbers: for a successor's [`Memory::learn`].
    pub fn busiest(&self) -> Vec<(u64, u64)> {
        let mut all: Vec<_> = self
            .uses
            .lock()
            .iter()
            .map(|(id, uses)| (*id, *uses))
            .collect();
        all.sort_unstable_by_key(|(_, uses)| std::cmp::Reverse(*uses));
        all.truncate(BUSIEST_MAX);
        all
    }

    /// Which endpoints were busy in another process; half as much as those of this one.
    pub fn learn(&self, busiest: impl IntoIterator<Item = (u64, u64)>) {
        let mut uses = self.uses.lock();
        for (endpoint, count) in busiest.into_iter().take(BUSIEST_MAX) {
            uses.entry(endpoint).or_insert(count / 2);
        }
    }

    // --- failures ---

    pub(super) fn failed(&self, who: Who, now: Instant) {
        self.faults.lock().failed(who, now);
    }

    pub(super) fn works(&self, who: Who) {
        self.faults.lock().works(&who);
    }

    /// The proxy opened a tunnel.
    pub(super) fn opened(&self, proxy: u64, endpoint: u64) {
        self.works(Who::Proxy(proxy));
        self.works(Who::Pair(proxy, endpoint));
        self.silent.lock().remove(&proxy);
    }

    /// The proxy was asked for an endpoint on this host, and said nothing. It may be waiting for the
    /// endpoint, so that is what is blamed, with the proxy. A proxy that is silent for another host
    /// too, and opened no tunnel between, is no good itself.
    pub(super) fn silent(&self, proxy: u64, endpoint: u64, host: &Arc<str>, now: Instant) {
        self.failed(Who::Pair(proxy, endpoint), now);
        let before = {
            let mut silent = self.silent.lock();
            if silent.len() >= SILENT_MAX {
                silent.retain(|_, (_, since)| now.saturating_duration_since(*since) < SILENT);
            }
            if silent.len() < SILENT_MAX || silent.contains_key(&proxy) {
                silent.insert(proxy, (Arc::clone(host), now))
            } else {
                None
            }
        };
        let counts = |(other, since): (Arc<str>, Instant)| {
            other != *host && now.saturating_duration_since(since) < SILENT
        };
        if before.is_some_and(counts) {
            self.failed(Who::Proxy(proxy), now);
        }
    }

    /// The first of these proxies to ask for this endpoint, and how many others there are: those
    /// that work in the order of the configuration, then those that failed, the one first that
    /// failed longest ago. `avoided` have been asked for the same request already.
    pub(super) fn proxy<'p>(
        &self,
        proxies: &'p Proxies,
        endpoint: u64,
        avoided: &[u64],
        now: Instant,
    ) -> Option<(&'p Arc<ProxyUrl>, usize)> {
        if let ([only], []) = (&proxies[..], avoided) {
            return Some((only, 0));
        }
        let faults = self.faults.lock();
        let left = proxies.iter().map(|proxy| (proxy, proxy.id));
        let left: Vec<_> = left.filter(|(_, id)| !avoided.contains(id)).collect();
        // Of equal ones the first is found, `None` being the least.
        let best = left.iter().min_by_key(|(_, id)| {
            let proxy = faults.last(&Who::Proxy(*id), now);
            proxy.max(faults.last(&Who::Pair(*id, endpoint), now))
        })?;
        Some((best.0, left.len() - 1))
    }

    /// True the first time that a proxy refuses these credentials, and again after it took them.
    pub(super) fn is_news(&self, proxy: u64) -> bool {
        let mut told = self.told.lock();
        told.len() < TOLD_MAX && told.insert(proxy)
    }

    /// The proxy takes its credentials.
    pub(super) fn let_in(&self, proxy: u64) {
        self.told.lock().remove(&proxy);
    }

    // --- TLS of proxies ---

    /// How TLS is spoken to proxies. Reads the system's authorities the first time, and again where
    /// that failed, on a thread that may wait for files.
    pub(super) async fn outer(&self) -> Result<outer::Config, String> {
        let cell = Arc::clone(&self.outer.lock());
        let read = async || {
            let reading = tokio::task::spawn_blocking(outer::config);
            let lost = |error| format!("the system's authorities can't be read: {error}");
            reading.await.unwrap_or_else(|error| Err(lost(error)))
        };
        cell.get_or_try_init(read).await.cloned()
    }

    /// The system's authorities may have changed: the next connection reads them again.
    pub(super) fn forget_outer(&self) {
        *self.outer.lock() = Arc::default();
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(Pool::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(urls: &[&str]) -> Proxies {
        let parsed = urls.iter().map(|url| Arc::new(url.parse().expect("a URL")));
        parsed.collect()
    }

    #[test]
    fn proxies_that_work_come_first_in_the_order_of_the_file() {
        let memory = Memory::default();
        let now = Instant::now();
        let list = proxies(&["http://a:1", "http://b:1", "http://c:1"]);
        let id = |at: usize| list[at].id;
        let first = |avoided: &[u64], now| {
            let (proxy, others) = memory.proxy(&list, 7, avoided, now)?;
            Some((proxy.host.clone(), others))
        };
        let is = |host: &str, others| Some((host.to_owned(), others));
        assert_eq!(first(&[], now), is("a", 2));
        memory.failed(Who::Proxy(id(0)), now);
        assert_eq!(first(&[], now), is("b", 2));
        assert_eq!(first(&[id(1)], now), is("c", 1));
        assert_eq!(
            first(&[id(1), id(2)], now),
            is("a", 0),
            "last, but not left out"
        );
        assert_eq!(first(&[id(0), id(1), id(2)], now), None);
        let later = now + Duration::from_secs(30);
        assert_eq!(first(&[], later), is("a", 2), "its time is over");
        // All fail: the one that failed first is the first again.
        let second = Duration::from_secs(1);
        memory.failed(Who::Proxy(id(1)), now + second);
        memory.failed(Who::Proxy(id(2)), now + 2 * second);
        assert_eq!(first(&[], now + 3 * second), is("a", 2));
        // It fails again: another one has its turn, and not the same one each time.
        memory.failed(Who::Proxy(id(0)), now + 4 * second);
        assert_eq!(first(&[], now + 5 * second), is("b", 2));
        memory.failed(Who::Proxy(id(1)), now + 6 * second);
        assert_eq!(first(&[], now + 7 * second), is("c", 2));
    }

    #[test]
    fn a_proxy_that_reaches_one_endpoint_not_is_first_for_the_others() {
        let memory = Memory::default();
        let now = Instant::now();
        let list = proxies(&["http://a:1", "http://b:1"]);
        memory.failed(Who::Pair(list[0].id, 7), now);
        let first = |endpoint| {
            let (proxy, _) = memory.proxy(&list, endpoint, &[], now).expect("one");
            proxy.host.clone()
        };
        assert_eq!((first(7), first(8)), ("b".to_owned(), "a".to_owned()));
    }

    #[test]
    fn a_proxy_is_blamed_for_silence_when_a_second_host_sees_it_and_no_tunnel_was_opened_between() {
        let now = Instant::now();
        let hosts = ["dead.example", "other.example"].map(Arc::from);
        let list = proxies(&["http://a:1", "http://b:1"]);
        let id = list[0].id;
        let is_last = |memory: &Memory, endpoint, now| {
            let (proxy, _) = memory.proxy(&list, endpoint, &[], now).expect("one");
            proxy.host == "b"
        };
        let memory = Memory::default();
        memory.silent(id, 7, &hosts[0], now);
        memory.silent(id, 8, &hosts[0], now);
        assert!(is_last(&memory, 7, now) && is_last(&memory, 8, now));
        assert!(!is_last(&memory, 9, now), "one host only");
        memory.opened(id, 9);
        memory.silent(id, 10, &hosts[1], now);
        assert!(!is_last(&memory, 9, now), "a tunnel between");
        memory.silent(id, 7, &hosts[0], now);
        assert!(is_last(&memory, 9, now));
        let memory = Memory::default();
        memory.silent(id, 7, &hosts[0], now);
        memory.silent(id, 10, &hosts[1], now + SILENT);
        assert!(!is_last(&memory, 9, now + SILENT), "long ago");
        for proxy in 0..2 * SILENT_MAX as u64 {
            memory.silent(proxy, 7, &hosts[0], now);
        }
        assert_eq!(memory.silent.lock().len(), SILENT_MAX);
    }

    #[tokio::test]
    async fn the_authorities_are_read_once_and_again_when_they_may_have_changed() {
        // As Pingora does; another test may have done it.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let memory = Memory::default();
        let first = memory.outer().await.expect("authorities");
        let second = memory.outer().await.expect("authorities");
        assert!(Arc::ptr_eq(&first, &second));
        memory.forget_outer();
        let third = memory.outer().await.expect("authorities");
        assert!(!Arc::ptr_eq(&first, &third));
    }

    #[test]
    fn refused_credentials_are_news_once_until_they_are_taken() {
        let memory = Memory::default();
        assert!(memory.is_news(1) && !memory.is_news(1) && memory.is_news(2));
        memory.let_in(1);
        assert!(memory.is_news(1));
        for proxy in 0..2 * TOLD_MAX as u64 {
            memory.is_news(proxy);
        }
        assert_eq!(memory.told.lock().len(), TOLD_MAX);
    }

    #[test]
    fn a_successor_knows_who_was_busy() {
        let (first, second) = (Memory::default(), Memory::default());
        for endpoint in 0..2 * BUSIEST_MAX as u64 {
            (0..endpoint).for_each(|_| first.used(endpoint));
        }
        second.learn(first.busiest());
        let busiest: Vec<_> = first.busiest().iter().map(|(id, _)| *id).collect();
        let expected: Vec<_> = (BUSIEST_MAX as u64..2 * BUSIEST_MAX as u64).rev().collect();
        assert_eq!(busiest.len(), BUSIEST_MAX);
        assert_eq!(busiest[..10], expected[..10]);
        second.used(7);
        assert_eq!((second.uses(7), second.uses(127)), (1, 63));
    }

    #[test]
    fn hosts_are_forgotten_when_there_are_too_many() {
        let memory = Memory::default();
        let now = Instant::now();
        let answer: Answer = Arc::from([IpAddr::from([127, 0, 0, 1])]);
        for number in 0..HOSTS_MAX as u64 + 10 {
            let now = now + Duration::from_secs(number);
            memory.generation(&format!("{number}.test"), &answer, now);
        }
        let hosts = memory.hosts.lock();
        assert_eq!(hosts.len(), HOSTS_MAX);
        assert!(!hosts.contains_key("0.test") && hosts.contains_key("10.test"));
    }
}
