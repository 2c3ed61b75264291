//! The dialler behind Pingora's connector: a TCP connection to one of an endpoint's addresses, or
//! a tunnel to it through a forward proxy.
//!
//! Pingora calls it through `PeerOptions::custom_l4` when its pool has nothing to reuse; TLS with
//! the endpoint, where there is any, comes on top. It keeps its own time (Pingora's
//! `connection_timeout` doesn't cover it) and tells `Memory` what it learns. It never chooses the
//! road and asks one proxy only: a connection belongs to the pool of the proxy that it was asked
//! for, so another proxy is another dial (`proxy/connect` sees to that). Where others are left it leaves
//! them their share of the time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora::protocols::l4::stream::Stream;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;
use weir_dns::{Answer, LookupError, Resolver};

use super::ahead::Carrier;
use super::error::{Blame, Cause, ConnectError, Fault};
use super::forbidden::{self, Why};
use super::memory::{Memory, Who};
use super::race::{Lost, Won, race};
use super::settings::{Authority, ProxyKind, ProxyUrl};
use super::socks::{self, Place};
use super::{Own, Road, outer, tunnel};
use crate::observe::pool::Handshake;
use crate::types::Secret;

/// A proxy takes a connection within this, whatever the whole may take.
const PROXY_TCP: Duration = Duration::from_secs(3);
/// TLS with a proxy.
const PROXY_TLS: Duration = Duration::from_secs(5);
/// CONNECT, or SOCKS' negotiation: the proxy connects to the endpoint meanwhile.
const PROXY_TUNNEL: Duration = Duration::from_secs(5);

/// What several share isn't divided into less than this.
const SHARE_LEAST: Duration = Duration::from_secs(1);

/// Addresses of an endpoint that a SOCKS proxy is asked for, one after the other.
const SOCKS_ADDRESSES_MAX: usize = 3;
/// With less time than this it isn't asked for another one.
const ADDRESS_LEAST: Duration = Duration::from_millis(100);

/// How one endpoint is dialled.
#[derive(Debug)]
pub(super) struct Dialler {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    /// For the connection and the tunnel together; TLS with the endpoint has its own.
    pub(super) budget: Duration,
    pub(super) reach: Reach,
    /// The key of the pool that the connection will be in.
    pub(super) pool_key: u64,
    /// The endpoint, whatever the road.
    pub(super) endpoint: u64,
    /// Not to be dialled while an HTTP/2 connection lives; see `lane.rs`.
    pub(super) share: bool,
    /// Proxies that could be asked after this one, out of the same time.
    pub(super) others: usize,
    /// Proxies that were asked before, and used their part of it.
    pub(super) asked: usize,
    pub(super) memory: Arc<Memory>,
}

/// By which way.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    /// To one of these.
    Direct(Answer),
    /// Through a proxy.
    Proxy(Arc<Hop>),
}

/// A proxy, and what it is given to connect to.
#[derive(Debug)]
pub(super) struct Hop {
    pub(super) proxy: Arc<ProxyUrl>,
    /// The proxy's name is resolved when it is dialled.
    pub(super) resolver: Resolver,
    /// Where weir listens, and so no proxy can be.
    pub(super) own: Own,
    /// The endpoint's addresses, where the proxy is given one and not the name.
    pub(super) addresses: Option<Answer>,
}

// === impl Dialler ===

#[async_trait]
impl Connect for Dialler {
    async fn connect(&self, _logical: &PeerAddr) -> pingora::Result<Stream> {
        /// A stream is opened in less.
        const MOMENT: Duration = Duration::from_millis(1);
        if self.share && self.memory.lanes.is_open(self.pool_key) {
            tokio::time::sleep(MOMENT).await;
            return Err(ConnectError::Shared.into());
        }
        let ahead = self.memory.ahead.take(self.pool_key, now());
        if let Some(carrier) = ahead {
            self.memory.pool.ahead_taken();
            return Ok(carrier.into());
        }
        Ok(self.dial().await?.into())
    }
}

impl Dialler {
    /// A new connection, counted and learnt from.
    pub(super) async fn dial(&self) -> Result<Carrier, ConnectError> {
        let began = Instant::now();
        let dialled = match &self.reach {
            Reach::Direct(addresses) => self.direct(addresses, began + self.budget).await,
            Reach::Proxy(hop) => {
                let by = began + share(self.budget, self.others + 1);
                self.through(hop, by).await
            }
        };
        let outcome = dialled.as_ref().map_or_else(ConnectError::as_str, |_| "ok");
        let took = began.elapsed();
        self.memory
            .pool
            .dialled(self.road().as_str(), outcome, took);
        dialled
    }

    fn road(&self) -> Road {
        match self.reach {
            Reach::Direct(_) => Road::Direct,
            Reach::Proxy(_) => Road::Proxy,
        }
    }

    async fn direct(&self, addresses: &[IpAddr], by: Instant) -> Result<Carrier, ConnectError> {
        let won = self.tcp(&self.host, addresses, self.port, by).await;
        let stream = won.map_err(|(address, cause)| ConnectError::Endpoint {
            target: self.target().to_string(),
            address,
            cause,
        })?;
        Ok(Carrier::Tcp(stream))
    }

    /// A connection to whichever of a host's addresses takes one.
    async fn tcp(
        &self,
        host: &str,
        addresses: &[IpAddr],
        port: u16,
        by: Instant,
    ) -> Result<TcpStream, (SocketAddr, Cause)> {
        let memory = &self.memory;
        let order = memory.order(host, addresses, port, now());
        let (failed, result) = match race(order, port, by).await {
            Ok(Won {
                stream,
                address,
                failed,
            }) => {
                memory.connected(host, address, now());
                memory.pool.handshake(Handshake::Tcp);
                (failed, Ok(stream))
            }
            Err(lost) => {
                let Lost {
                    address,
                    cause,
                    failed,
                } = *lost;
                (failed, Err((address, cause)))
            }
        };
        for address in failed {
            memory.failed(Who::Address(address), now());
        }
        result
    }

    /// A tunnel, and the news of how the proxy does.
    async fn through(&self, hop: &Hop, by: Instant) -> Result<Carrier, ConnectError> {
        let (id, endpoint) = (hop.proxy.id, self.endpoint);
        let opened = match &hop.addresses {
            Some(addresses) => self.by_address(hop, addresses, by).await,
            None => self.tunnel(hop, None, by).await,
        };
        match &opened {
            Ok(_) => {
                self.memory.opened(id, endpoint);
                self.memory.let_in(id);
            }
            // No fault of this one: those before it left it too little.
            Err(_) if self.asked > 0 && self.budget < SHARE_LEAST && Instant::now() >= by => {}
            Err(error) => {
                match (error.blame(), error) {
                    (Blame::Proxy, _) => self.memory.failed(Who::Proxy(id), now()),
                    (Blame::Pair, ConnectError::ProxySilent { .. }) => {
                        self.memory.silent(id, endpoint, &self.host, now());
                    }
                    (Blame::Pair, _) => self.memory.failed(Who::Pair(id, endpoint), now()),
                    (Blame::Nobody | Blame::Local | Blame::Endpoint | Blame::Decision, _) => {}
                }
                let is_login = matches!(error, ConnectError::ProxyCredentials { .. });
                if is_login && self.memory.is_news(id) {
                    tracing::error!(%error, "an egress proxy can't be used");
                }
            }
        }
        opened
    }

    /// SOCKS with addresses: the next one where the proxy couldn't reach one, or is still waiting for
    /// it when its share of the time is over. Such an address is put last.
    async fn by_address(
        &self,
        hop: &Hop,
        addresses: &[IpAddr],
        by: Instant,
    ) -> Result<Carrier, ConnectError> {
        let order = self.memory.order(&self.host, addresses, self.port, now());
        let mut order = order.into_iter().take(SOCKS_ADDRESSES_MAX);
        let mut before = None;
        loop {
            let parts = order.len().max(1);
            let address = order.next();
            let part = share(by.saturating_duration_since(Instant::now()), parts);
            let opened = self.tunnel(hop, address, Instant::now() + part).await;
            let Some(address) = address else {
                return opened;
            };
            let who = Who::Address(SocketAddr::new(address, self.port));
            let error = match opened {
                Ok(carrier) => {
                    self.memory.works(who);
                    return Ok(carrier);
                }
                Err(error) => error,
            };
            let left = by.saturating_duration_since(Instant::now());
            match (error.blame(), before.take()) {
                (Blame::Pair, _) => self.memory.failed(who, now()),
                // The proxy had no more time: those before used it.
                (Blame::Proxy, Some(before)) if left.is_zero() => return Err(before),
                _ => return Err(error),
            }
            if order.len() == 0 || left < ADDRESS_LEAST {
                return Err(error);
            }
            before = Some(error);
        }
    }

    async fn tunnel(
        &self,
        hop: &Hop,
        address: Option<IpAddr>,
        by: Instant,
    ) -> Result<Carrier, ConnectError> {
        let (proxy, target) = (&*hop.proxy, self.target());
        let mut stream = self.reach_proxy(hop, by).await?;
        let tunnel_by = || by.min(Instant::now() + PROXY_TUNNEL);
        let login = proxy.login.as_ref().map(Secret::expose);
        let carrier = match proxy.kind {
            ProxyKind::Http => {
                let asking = tunnel::open(&mut stream, &target, login);
                self.answered(proxy, true, asking, tunnel_by()).await?;
                Carrier::Tcp(stream)
            }
            ProxyKind::Socks5 | ProxyKind::Socks5h => {
                let literal = address.or_else(|| self.host.parse().ok());
                let place = literal.map_or(Place::Name(&self.host), Place::Address);
                let by = tunnel_by();
                let greeting = socks::greet(&mut stream, login);
                self.answered(proxy, false, greeting, by).await?;
                let asking = socks::ask(&mut stream, place, self.port);
                self.answered(proxy, true, asking, by).await?;
                Carrier::Tcp(stream)
            }
            ProxyKind::Https => {
                let mut stream = self.outer(proxy, stream, by).await?;
                let asking = tunnel::open(&mut stream, &target, login);
                self.answered(proxy, true, asking, tunnel_by()).await?;
                if !outer::is_silent(&mut stream).await {
                    return Err(Fault::EARLY.of(proxy, &target));
                }
                let local = |_| ConnectError::Local {
                    target: target.to_string(),
                };
                let socket = outer::socket(stream).map_err(local)?;
                Carrier::Pair(socket)
            }
        };
        if !carrier.is_silent() {
            return Err(Fault::EARLY.of(proxy, &target));
        }
        self.memory.pool.handshake(Handshake::Tunnel);
        Ok(carrier)
    }

    /// The proxy's answer, if it comes in time. `asked` says whether that is about the endpoint.
    async fn answered(
        &self,
        proxy: &ProxyUrl,
        asked: bool,
        asking: impl Future<Output = Result<(), Fault>>,
        by: Instant,
    ) -> Result<(), ConnectError> {
        match timeout_at(by, asking).await {
            Ok(answer) => answer.map_err(|fault| fault.of(proxy, &self.target())),
            Err(_) => Err(ConnectError::ProxySilent {
                proxy: proxy.to_string(),
                target: self.target().to_string(),
                asked,
            }),
        }
    }

    /// TLS with the proxy.
    async fn outer(
        &self,
        proxy: &ProxyUrl,
        stream: TcpStream,
        by: Instant,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        // Pingora sees to this on sockets that it is given; this one it isn't.
        drop(set_tcp_keepalive(&stream, &outer::keepalive()));
        let by = by.min(Instant::now() + PROXY_TLS);
        let handshake = async {
            let config = self.memory.outer().await?;
            outer::handshake(&config, &proxy.host, stream).await
        };
        let made = timeout_at(by, handshake).await;
        let made = made.unwrap_or_else(|_| Err("no handshake in time".to_owned()));
        let stream = made.map_err(|why| ConnectError::ProxyTls {
            proxy: proxy.to_string(),
            why,
        })?;
        self.memory.pool.handshake(Handshake::ProxyTls);
        Ok(stream)
    }

    async fn reach_proxy(&self, hop: &Hop, by: Instant) -> Result<TcpStream, ConnectError> {
        let proxy = &*hop.proxy;
        let by = by.min(Instant::now() + PROXY_TCP);
        let named = match timeout_at(by, hop.resolver.lookup(&proxy.host)).await {
            Ok(named) => named,
            Err(_) => Err(LookupError::Unavailable {
                host: proxy.host.as_str().into(),
                reason: "no answer in time".into(),
            }),
        };
        let addresses = named.map_err(|cause| ConnectError::ProxyName {
            proxy: proxy.to_string(),
            cause,
        })?;
        let failed = |(address, cause)| ConnectError::ProxyAddress {
            proxy: proxy.to_string(),
            address,
            cause,
        };
        let addresses = hop.allowed(&addresses).map_err(failed)?;
        let dialled = self.tcp(&proxy.host, &addresses, proxy.port, by).await;
        let stream = dialled.map_err(failed)?;
        // Best effort: Pingora sets it again on what it is given.
        drop(stream.set_nodelay(true));
        Ok(stream)
    }

    fn target(&self) -> Authority<'_> {
        Authority(&self.host, self.port)
    }
}

// === impl Hop ===

impl Hop {
    /// Those of the proxy's addresses that a proxy may have. Metadata services are no danger: they
    /// open no tunnel.
    fn allowed(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, (SocketAddr, Cause)> {
        let port = self.proxy.port;
        let may = |address: IpAddr| {
            let nobody = forbidden::why(address);
            let nobody = nobody.is_some_and(|why| !matches!(why, Why::Metadata(_)));
            !nobody && !self.own.takes(address, port)
        };
        let (allowed, others): (Vec<_>, Vec<_>) = addresses.iter().partition(|ip| may(**ip));
        match (&allowed[..], &others[..]) {
            ([], [first, ..]) => Err((SocketAddr::new(*first, port), Cause::Forbidden)),
            _ => Ok(allowed),
        }
    }
}

/// A part of the time that is left for as many as these; each has a moment in which something can be
/// done, as long as there is one.
fn share(left: Duration, parts: usize) -> Duration {
    let parts = u32::try_from(parts).unwrap_or(u32::MAX);
    (left / parts).max(SHARE_LEAST).min(left)
}

/// As tests with paused time see it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use pingora::ErrorType;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A proxy that takes one connection, reads the request's head, answers with `answer` and
    /// hands the head back. It closes after that where `close` says so, else waits for the client.
    async fn proxy(
        answer: &'static [u8],
        close: bool,
    ) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a head"));
            }
            stream.write_all(answer).await.expect("written");
            if !close {
                drop(stream.read_to_end(&mut Vec::new()).await);
            }
            String::from_utf8(head).expect("text")
        });
        (address, task)
    }

    fn dialler(proxy: &str, budget: Duration) -> Dialler {
        let resolver = Resolver::new(weir_dns::Config::default()).expect("a resolver");
        let hop = Hop {
            proxy: Arc::new(proxy.parse().expect("a URL")),
            resolver,
            own: Own::default(),
            addresses: None,
        };
        direct("api.example", 443, budget, Reach::Proxy(Arc::new(hop)))
    }

    fn direct(host: &str, port: u16, budget: Duration, reach: Reach) -> Dialler {
        Dialler {
            host: host.into(),
            port,
            budget,
            reach,
            pool_key: 1,
            endpoint: 2,
            share: false,
            others: 0,
            asked: 0,
            memory: Arc::default(),
        }
    }

    async fn connect(dialler: &Dialler) -> pingora::Result<Stream> {
        let logical = PeerAddr::Inet(SocketAddr::from(([0, 0, 0, 0], dialler.port)));
        dialler.connect(&logical).await
    }

    /// What the proxy's answer makes of a dial.
    async fn fault(answer: &'static [u8]) -> (ErrorType, ConnectError) {
        let (address, _task) = proxy(answer, true).await;
        let dialler = dialler(&format!("http://{address}"), Duration::from_secs(5));
        let error = connect(&dialler).await.expect_err("refused");
        let cause = ConnectError::within(&error).expect("our cause").clone();
        (error.etype().clone(), cause)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_by_name_with_the_credentials() {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 Connection established\r\n\
                       Via: x\r\n\r\n";
        let (address, task) = proxy(answer, false).await;
        let dialler = dialler(&format!("http://me:pw@{address}"), Duration::from_secs(5));
        drop(connect(&dialler).await.expect("a tunnel"));
        assert_eq!(
            task.await.expect("joined"),
            "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\
             Proxy-Authorization: Basic bWU6cHc=\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn each_refusal_of_a_proxy_has_its_own_error() {
        for (answer, word) in [
            (&b"HTTP/1.1 407 Auth\r\n\r\n"[..], "proxy_credentials"),
            (b"HTTP/1.0 401 Unauthorized\r\n\r\n", "proxy_credentials"),
            (
                b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno",
                "proxy_denied",
            ),
            (b"HTTP/1.1 302 Found\r\n\r\n", "proxy_denied"),
            (b"HTTP/1.1 502 Bad\r\n\r\n", "proxy_failed"),
            (b"HTTP/1.1 504\r\n\r\n", "proxy_failed"),
            (b"", "proxy_protocol"),
            (b"HTTP/1.1 200 O", "proxy_protocol"),
            (b"SSH-2.0-OpenSSH\r\n", "proxy_protocol"),
            (b"HTTP/1.1 200 OK\r\n\r\nHTTP", "proxy_protocol"),
            (b"HTTP/1.1 101 Switching\r\n\r\n", "proxy_protocol"),
        ] {
            let (kind, cause) = fault(answer).await;
            let text = String::from_utf8_lossy(answer);
            assert_eq!(cause.as_str(), word, "{text:?}: {cause}");
            assert_eq!(kind, ErrorType::ConnectProxyFailure, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_byte_after_the_head_is_refused_even_where_the_status_is_good() {
        let (_, cause) = fault(b"HTTP/1.1 200 OK\r\n\r\n\x16").await;
        assert!(
            cause.to_string().contains("data before the tunnel"),
            "{cause}"
        );
    }

    /// A SOCKS proxy that says this, whatever it is asked.
    async fn socks(answers: &'static [u8]) -> ConnectError {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            stream.write_all(answers).await.expect("written");
            drop(stream.read_to_end(&mut Vec::new()).await);
        });
        let url = format!("socks5h://me:pw@{address}");
        let dialler = dialler(&url, Duration::from_secs(5));
        let error = connect(&dialler).await.expect_err("refused");
        ConnectError::within(&error).expect("our cause").clone()
    }

    #[tokio::test]
    async fn a_socks_proxys_refusals_have_the_same_words() {
        for (answers, word) in [
            (&b"\x05\xff"[..], "proxy_credentials"),
            (b"\x05\x02\x01\x01", "proxy_credentials"),
            (b"\x05\x00\x05\x02\x00\x01", "proxy_denied"),
            (b"\x05\x00\x05\x01\x00\x01", "proxy_failed"),
            (b"HTTP/1.1 400 Bad\r\n\r\n", "proxy_protocol"),
            (
                b"\x05\x00\x05\x00\x00\x01\0\0\0\0\0\0HTTP/1.1 200 OK",
                "proxy_protocol",
            ),
        ] {
            let cause = socks(answers).await;
            assert_eq!(cause.as_str(), word, "{answers:?}: {cause}");
            assert!(!cause.to_string().contains("pw"), "{cause}");
        }
    }

    #[tokio::test]
    async fn an_endless_head_is_cut_at_its_limit() {
        let mut answer = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
        answer.resize(tunnel::HEAD_BYTES_MAX + 1, b'a');
        let (_, cause) = fault(answer.leak()).await;
        assert!(cause.to_string().contains("16 KiB"), "{cause}");
    }

    #[tokio::test]
    async fn a_head_of_just_the_limit_is_read() {
        let mut answer = b"HTTP/1.1 403 No\r\nx: ".to_vec();
        answer.resize(tunnel::HEAD_BYTES_MAX - 4, b'a');
        answer.extend_from_slice(b"\r\n\r\n");
        let (_, cause) = fault(answer.leak()).await;
        assert_eq!(cause.as_str(), "proxy_denied");
    }

    #[tokio::test]
    async fn a_silent_proxy_ends_with_the_budget() {
        let (address, _task) = proxy(b"HTTP/1.1 200 OK\r\n", false).await;
        let dialler = dialler(&format!("http://{address}"), Duration::from_millis(50));
        let error = connect(&dialler).await.expect_err("silent");
        let cause = ConnectError::within(&error).expect("our cause");
        assert_eq!(cause.as_str(), "proxy_timeout");
        assert_eq!(cause.blame(), Blame::Pair, "it may wait for the endpoint");
        assert!(!cause.to_string().contains('@'));
    }

    #[test]
    fn time_is_shared_evenly_and_in_no_tiny_pieces() {
        let second = Duration::from_secs(1);
        for (left, parts, given) in [(6, 1, 6), (6, 2, 3), (6, 6, 1), (6, 7, 1), (1, 2, 1)] {
            assert_eq!(
                share(left * second, parts),
                given * second,
                "{left} {parts}"
            );
        }
        assert_eq!(share(second / 2, 3), second / 2);
        assert_eq!(share(Duration::ZERO, 3), Duration::ZERO);
    }

    /// A SOCKS proxy that says nothing at all, or greets and is silent for `127.0.0.9`; all other
    /// addresses are reached. The second value is what it was asked for.
    async fn waiting(greets: bool) -> (SocketAddr, Arc<parking_lot::Mutex<Vec<IpAddr>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let asked: Arc<parking_lot::Mutex<Vec<IpAddr>>> = Arc::default();
        let note = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let note = Arc::clone(&note);
                tokio::spawn(async move {
                    let mut request = [0; 13];
                    if greets {
                        stream.write_all(b"\x05\x00").await.expect("written");
                        stream.read_exact(&mut request).await.expect("asked");
                        let ip = IpAddr::from([7, 8, 9, 10].map(|at: usize| request[at]));
                        note.lock().push(ip);
                        if ip != IpAddr::from(DEAD) {
                            let good = b"\x05\x00\x00\x01\0\0\0\0\0\0";
                            stream.write_all(good).await.expect("written");
                        }
                    }
                    drop(stream.read_to_end(&mut Vec::new()).await);
                });
            }
        });
        (address, asked)
    }

    const DEAD: [u8; 4] = [127, 0, 0, 9];

    /// Asks this proxy for these addresses.
    fn by_address(proxy: SocketAddr, budget: Duration, addresses: &[[u8; 4]]) -> Dialler {
        let mut dialler = dialler(&format!("socks5://{proxy}"), budget);
        if let Reach::Proxy(hop) = &mut dialler.reach {
            let hop = Arc::get_mut(hop).expect("the only one");
            hop.addresses = Some(addresses.iter().map(|it| IpAddr::from(*it)).collect());
        }
        dialler
    }

    #[tokio::test]
    async fn a_socks_proxy_that_waits_for_a_dead_address_is_asked_for_the_next_one() {
        let (proxy, asked) = waiting(true).await;
        let budget = Duration::from_millis(2_200);
        let dialler = by_address(proxy, budget, &[DEAD, [127, 0, 0, 1]]);
        for _ in 0..6 {
            dialler.dial().await.expect("the other address");
        }
        let dead = asked
            .lock()
            .iter()
            .filter(|it| **it == IpAddr::from(DEAD))
            .count();
        assert_eq!(dead, 1, "it is last from then on: {:?}", asked.lock());
    }

    #[tokio::test]
    async fn a_dead_address_that_used_all_the_time_is_not_the_proxys_fault_and_is_last_then() {
        let (proxy, asked) = waiting(true).await;
        let budget = Duration::from_millis(300);
        let dialler = by_address(proxy, budget, &[DEAD, [127, 0, 0, 1]]);
        // Addresses take turns: one of the two is the dead one's.
        let mut dials = Vec::new();
        for _ in 0..2 {
            dials.push(dialler.dial().await);
        }
        let failed: Vec<_> = dials.iter().filter_map(|it| it.as_ref().err()).collect();
        assert!(
            matches!(failed[..], [error] if error.blame() == Blame::Pair),
            "{dials:?}"
        );
        for _ in 0..4 {
            dialler.dial().await.expect("the other address");
        }
        assert_eq!(asked.lock().len(), 6);
    }

    #[tokio::test]
    async fn silence_before_anything_was_asked_for_is_the_proxys() {
        for (greets, blame) in [(false, Blame::Proxy), (true, Blame::Pair)] {
            let (proxy, _) = waiting(greets).await;
            let dialler = by_address(proxy, Duration::from_millis(50), &[DEAD]);
            let error = dialler.dial().await.expect_err("silent");
            assert_eq!(error.blame(), blame, "{error}");
        }
    }

    #[tokio::test]
    async fn a_proxy_is_blamed_for_its_own_time_and_for_no_time_that_others_used() {
        for (asked, millis, blamed) in [(0, 50, true), (1, 50, false), (1, 1050, true)] {
            let (address, _task) = proxy(b"HTTP/1.1 200 OK\r\n", false).await;
            let url = format!("http://{address}");
            let mut dialler = dialler(&url, Duration::from_millis(millis));
            dialler.asked = asked;
            dialler.dial().await.expect_err("silent");
            let second = "http://127.0.0.1:9";
            let list: Vec<Arc<ProxyUrl>> = [url.as_str(), second]
                .map(|it| Arc::new(it.parse().expect("a URL")))
                .into();
            let proxies = list.into();
            let (first, _) = dialler.memory.proxy(&proxies, 2, &[], now()).expect("one");
            assert_eq!(first.port == 9, blamed, "{asked} {millis}");
        }
    }

    #[tokio::test]
    async fn a_proxy_that_cannot_be_found_or_reached_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let closed = listener.local_addr().expect("bound");
        drop(listener);
        let dialler = dialler(&format!("http://me:pw@{closed}"), Duration::from_secs(5));
        let error = connect(&dialler).await.expect_err("closed");
        let cause = ConnectError::within(&error).expect("our cause");
        assert_eq!(cause.as_str(), "proxy_unreachable");
        assert_eq!(cause.blame(), Blame::Proxy);
        assert!(
            !format!("{error:?} {error}").contains("bWU6cHc"),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_proxy_that_would_be_weir_itself_or_nobody_is_not_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("bound");
        for (address, listeners) in [(own, vec![own]), (SocketAddr::from(([0; 4], 9)), vec![])] {
            let dialler = dialler(&format!("http://{address}"), Duration::from_secs(5));
            let Reach::Proxy(hop) = &dialler.reach else {
                panic!("through a proxy");
            };
            let hop = Hop {
                proxy: Arc::clone(&hop.proxy),
                resolver: hop.resolver.clone(),
                own: Own::new(listeners),
                addresses: None,
            };
            let by = Instant::now() + Duration::from_secs(5);
            let error = dialler.through(&hop, by).await.expect_err("forbidden");
            assert!(
                error.to_string().contains("weir's own, or nobody's"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn the_next_address_is_tried_and_the_last_ones_fault_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let addresses = [[127, 0, 0, 2], [127, 0, 0, 1]].map(IpAddr::from);
        let reach = Reach::Direct(Arc::from(addresses));
        let mut dialler = direct("api.example", port, Duration::from_secs(5), reach);
        drop(connect(&dialler).await.expect("the second address"));
        dialler.reach = Reach::Direct(Arc::from([IpAddr::from([127, 0, 0, 2])]));
        let error = connect(&dialler).await.expect_err("nobody there");
        assert_eq!(error.etype(), &ErrorType::ConnectRefused);
        let cause = ConnectError::within(&error).expect("our cause");
        assert_eq!(cause.as_str(), "connect_refused");
        assert_eq!(cause.blame(), Blame::Endpoint);
    }
}
