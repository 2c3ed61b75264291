//! One DNS server: what it says to one question, and how it fares.
//!
//! UDP, then TCP where the answer doesn't fit; both by hickory. A datagram that isn't from this
//! server, has another number or answers another question is passed over: the true one may still
//! come. No socket outlives its question, so none can go bad. [`crate::transport`] chooses whom to
//! ask and when to ask the next one.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_net::proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_net::proto::rr::{Name, RData, RecordType};
use hickory_net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime,
};
use hickory_net::tcp::TcpClientStream;
use hickory_net::udp::UdpClientStream;
use hickory_net::xfer::{DnsRequestSender, FirstAnswer};
use hickory_net::{DnsHandle, NetError};
use parking_lot::Mutex;
use tokio::io::{Interest, ReadBuf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

use crate::ServerReport;
use crate::observe::{Observer, Query as Seen, QueryEnd};

/// A UDP answer has at most so many bytes (RFC 9715: what passes everywhere unfragmented).
const UDP_PAYLOAD_BYTES: u16 = 1232;

/// Addresses kept of one family, at most.
const ADDRESSES_MAX: usize = 32;

/// Questions in a row that it let pass before it is taken for dead.
const DEAD_AFTER: u32 = 2;

/// How long a dead server isn't asked; doubles while it stays dead.
const DEAD_PAUSE_MIN: Duration = Duration::from_secs(5);
const DEAD_PAUSE_MAX: Duration = Duration::from_secs(60);

/// A server, by its address.
#[derive(Debug)]
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    queries: u64,
    failures: u64,
    /// Moves by an eighth of the way with each answer.
    latency: Option<Duration>,
    /// Questions in a row without any answer, and when the last answer came.
    unanswered: u32,
    heard: Option<Instant>,
    /// While it is dead: when it may be tried again.
    retry_at: Option<Instant>,
    pause: Duration,
    /// It is being tried.
    is_probed: bool,
}

/// How a server is to be treated now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Ask it.
    Alive,
    /// It was dead: see whether it still is, but don't rely on it.
    Probe,
    /// Only if there is no other.
    Dead,
}

/// What a server says of one name and one family.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Addresses(Vec<IpAddr>, Duration),
    /// The name stands for another one, whose addresses weren't told.
    Alias(Name, Duration),
    /// Nothing of this family; `exists`: but the name is there. `sure`: and whom to
    /// ask first says so.
    None {
        exists: bool,
        ttl: Option<Duration>,
        sure: bool,
    },
}

/// Why it said nothing of use.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    end: QueryEnd,
    /// The server didn't say anything at all.
    unanswered: bool,
    pub(crate) reason: Arc<str>,
}

// === impl NameServer ===

impl NameServer {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            health: Mutex::default(),
        }
    }

    /// How to treat it. Whoever is told to probe is the only one for a while.
    pub(crate) fn standing(&self, now: Instant) -> Standing {
        let mut health = self.health.lock();
        match health.retry_at {
            None => Standing::Alive,
            Some(at) if now < at => Standing::Dead,
            Some(_) => {
                health.retry_at = Some(now + health.pause);
                health.is_probed = true;
                Standing::Probe
            }
        }
    }

    pub(crate) fn report(&self) -> ServerReport {
        let health = self.health.lock();
        ServerReport {
            address: self.address,
            queries: health.queries,
            failures: health.failures,
            latency: health.latency,
            is_dead: health.retry_at.is_some(),
        }
    }

    /// Asks for the addresses of `name`: `ipv6` or else IPv4. Takes at most `timeout`.
    pub(crate) async fn ask(
        &self,
        name: &Name,
        ipv6: bool,
        timeout: Duration,
        observer: &dyn Observer,
    ) -> Result<Said, Failure> {
        let started = Instant::now();
        let mut tcp = false;
        let result = tokio::time::timeout(timeout, self.exchange(name, ipv6, timeout, &mut tcp))
            .await
            .unwrap_or_else(|_| Err(Failure::from(NetError::Timeout)))
            .map_err(|failure| failure.of(self.address));
        let now = Instant::now();
        self.health.lock().note(&result, started, now);
        observer.query(&Seen {
            server: self.address,
            ipv6,
            tcp,
            took: now - started,
            end: match &result {
                Ok(Said::Addresses(..) | Said::Alias(..)) => QueryEnd::Found,
                Ok(Said::None { .. }) => QueryEnd::Negative,
                Err(failure) => failure.end,
            },
        });
        result
    }

    async fn exchange(
        &self,
        name: &Name,
        ipv6: bool,
        timeout: Duration,
        tcp: &mut bool,
    ) -> Result<Said, Failure> {
        let kind = if ipv6 {
            RecordType::AAAA
        } else {
            RecordType::A
        };
        let question = Query::query(name.clone(), kind);
        let mut response = self.by_udp(&question, true, timeout).await?;
        let code = response.metadata.response_code;
        if matches!(code, ResponseCode::FormErr | ResponseCode::NotImp) {
            // A server from before EDNS (RFC 6891, 6.2.2).
            response = self.by_udp(&question, false, timeout).await?;
        }
        if !response.metadata.truncation {
            return said(&response, name, kind);
        }
        *tcp = true;
        match self.by_tcp(&question, timeout).await {
            Ok(whole) => said(&whole, name, kind),
            // A part of the addresses is better than none.
            Err(failure) => match said(&response, name, kind) {
                Ok(part @ Said::Addresses(..)) => Ok(part),
                _ => Err(failure),
            },
        }
    }

    async fn by_udp(
        &self,
        question: &Query,
        edns: bool,
        timeout: Duration,
    ) -> Result<DnsResponse, Failure> {
        let mut options = options(edns);
        // A datagram may be lost: three are sent while there is time.
        options.retry_interval = timeout / 3;
        let mut stream = UdpClientStream::builder(self.address, Connected::default())
            .with_timeout(Some(timeout))
            .with_os_port_selection(true)
            .build();
        let request = DnsRequest::from_query(question.clone(), options);
        Ok(stream.send_message(request).first_answer().await?)
    }

    async fn by_tcp(&self, question: &Query, timeout: Duration) -> Result<DnsResponse, Failure> {
        // The connection's task lives as long as this does.
        let runtime = TokioRuntimeProvider::new();
        let exchange =
            TcpClientStream::exchange(self.address, None, timeout, None, runtime.clone()).await?;
        let request = DnsRequest::from_query(question.clone(), options(true));
        let response = exchange.send(request).first_answer().await?;
        if response.queries != [question.clone()] {
            return Err(Failure::broken("it answers another question"));
        }
        Ok(response)
    }
}

fn options(edns: bool) -> DnsRequestOptions {
    let mut options = DnsRequestOptions::default();
    options.use_edns = edns;
    options.edns_payload_len = UDP_PAYLOAD_BYTES;
    options
}

/// Reads the answer: only records of the name itself and of what it stands for count.
fn said(response: &DnsResponse, name: &Name, kind: RecordType) -> Result<Said, Failure> {
    let code = response.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Err(Failure {
            end: QueryEnd::Refused,
            unanswered: false,
            reason: code.to_str().into(),
        });
    }
    let (mut owner, mut ttl) = (name, u32::MAX);
    let mut steps = 0;
    loop {
        let of_owner = || response.answers.iter().filter(|it| it.name == *owner);
        let mut addresses: Vec<IpAddr> = Vec::new();
        for record in of_owner() {
            match record.data {
                RData::A(it) if kind == RecordType::A => addresses.push(it.0.into()),
                RData::AAAA(it) if kind == RecordType::AAAA => addresses.push(it.0.into()),
                _ => continue,
            }
            ttl = ttl.min(record.ttl);
        }
        if !addresses.is_empty() {
            addresses.truncate(ADDRESSES_MAX);
            return Ok(Said::Addresses(addresses, seconds(ttl)));
        }
        let alias = of_owner().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, record.ttl)),
            _ => None,
        });
        let Some((target, alias_ttl)) = alias else {
            break;
        };
        (owner, ttl) = (target, ttl.min(alias_ttl));
        steps += 1;
        if steps > response.answers.len() {
            return Err(Failure::broken("its aliases go round in a circle"));
        }
    }
    let negative_ttl = response.negative_ttl();
    let exists = code == ResponseCode::NoError;
    if exists && negative_ttl.is_none() {
        if owner != name {
            return Ok(Said::Alias(owner.clone(), seconds(ttl)));
        }
        let referral = response.authorities.iter();
        if referral
            .clone()
            .any(|it| it.record_type() == RecordType::NS)
            && !response.metadata.recursion_available
        {
            return Err(Failure::broken("it only refers to others"));
        }
    }
    Ok(Said::None {
        exists,
        ttl: negative_ttl.map(seconds),
        sure: true,
    })
}

fn seconds(ttl: u32) -> Duration {
    // RFC 2181, 8: with the highest bit set it means 0. `u32::MAX` alone is "no record was seen".
    Duration::from_secs(if ttl > i32::MAX as u32 { 0 } else { ttl }.into())
}

// === impl Health ===

impl Health {
    fn note(&mut self, result: &Result<Said, Failure>, started: Instant, now: Instant) {
        self.queries += 1;
        self.failures += u64::from(result.is_err());
        let unanswered = result.as_ref().is_err_and(|failure| failure.unanswered);
        if !unanswered {
            let took = now - started;
            self.latency = Some(match self.latency {
                Some(before) => (before * 7 + took) / 8,
                None => took,
            });
            self.heard = Some(now);
            self.unanswered = 0;
            self.retry_at = None;
            self.is_probed = false;
            return;
        }
        // One that answered others meanwhile lives: it has nothing to say to this question.
        if self.heard.is_some_and(|heard| heard >= started) {
            return;
        }
        self.unanswered += 1;
        if self.retry_at.is_none() && self.unanswered >= DEAD_AFTER {
            self.pause = DEAD_PAUSE_MIN;
            self.retry_at = Some(now + self.pause);
        } else if std::mem::take(&mut self.is_probed) {
            self.pause = (self.pause * 2).min(DEAD_PAUSE_MAX);
            self.retry_at = Some(now + self.pause);
        }
    }
}

// === impl Failure ===

impl Failure {
    fn broken(reason: &str) -> Self {
        Self {
            end: QueryEnd::Broken,
            unanswered: false,
            reason: reason.into(),
        }
    }

    fn of(self, server: SocketAddr) -> Self {
        Self {
            reason: format!("{server}: {}", self.reason).into(),
            ..self
        }
    }
}

impl From<NetError> for Failure {
    fn from(cause: NetError) -> Self {
        let (end, unanswered) = match &cause {
            NetError::Timeout => (QueryEnd::Silent, true),
            NetError::Io(_) => (QueryEnd::Broken, true),
            _ => (QueryEnd::Broken, false),
        };
        let reason = match &cause {
            NetError::Timeout => "no answer in time".into(),
            NetError::Io(cause) => cause.to_string().into(),
            cause => cause.to_string().into(),
        };
        Self {
            end,
            unanswered,
            reason,
        }
    }
}

/// Sockets that are connected: the kernel passes over what others send, and tells at once where
/// nobody listens.
#[derive(Clone, Default)]
struct Connected(TokioRuntimeProvider);

struct ConnectedSocket {
    socket: UdpSocket,
    server: SocketAddr,
}

impl RuntimeProvider for Connected {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = ConnectedSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        self.0.connect_tcp(server, bind, timeout)
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        Box::pin(async move {
            let socket = UdpSocket::bind(local).await?;
            socket.connect(server).await?;
            Ok(ConnectedSocket { socket, server })
        })
    }
}

impl ConnectedSocket {
    /// The error that is pending; "would block" where there is none, as the runtime wants to hear.
    fn error(&self) -> io::Result<()> {
        Err(self
            .socket
            .take_error()?
            .unwrap_or_else(|| io::ErrorKind::WouldBlock.into()))
    }
}

impl DnsUdpSocket for ConnectedSocket {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buffer = ReadBuf::new(buffer);
        let received = self.socket.poll_recv(context, &mut buffer);
        received.map_ok(|()| (buffer.filled().len(), self.server))
    }

    // What `poll_recv_from` would do, but that an error alone doesn't wake it.
    fn recv_from<'socket, 'buffer, 'future>(
        &'socket self,
        buffer: &'buffer mut [u8],
    ) -> Pin<Box<dyn Future<Output = io::Result<(usize, SocketAddr)>> + Send + 'future>>
    where
        'socket: 'future,
        'buffer: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            loop {
                match self.socket.try_recv(buffer) {
                    Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                        let interest = Interest::READABLE | Interest::ERROR;
                        if self.socket.ready(interest).await?.is_error() {
                            match self.socket.try_io(Interest::ERROR, || self.error()) {
                                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                                told => told?,
                            }
                        }
                    }
                    received => return received.map(|bytes| (bytes, self.server)),
                }
            }
        })
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        bytes: &[u8],
        _: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_send(context, bytes)
    }
}
