//! Happy Eyeballs (RFC 8305 section 5): a TCP connection to the first of several addresses that
//! takes one. `connect` calls it with addresses in order; it knows nothing of names.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::error::Cause;

/// A try gets this head start on the next one.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Who won, and who is to be tried last from now on.
#[derive(Debug)]
pub(super) struct Won {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// They failed, or had their head start and used it for nothing.
    pub(super) failed: Vec<SocketAddr>,
}

/// Nobody did.
#[derive(Debug)]
pub(super) struct Lost {
    /// The last address that was heard of, and what it did.
    pub(super) address: SocketAddr,
    pub(super) cause: Cause,
    /// All that were tried, and could be.
    pub(super) failed: Vec<SocketAddr>,
}

/// Tries the addresses one after the other: the next one as soon as one fails, and at the latest
/// 250 ms after the one before. The first connection wins, all other tries are dropped; so they are
/// when the future is dropped.
pub(super) async fn race(addresses: Vec<IpAddr>, port: u16, by: Instant) -> Result<Won, Box<Lost>> {
    if let [address] = addresses[..] {
        return alone(SocketAddr::new(address, port), by).await;
    }
    let race = Race {
        waiting: addresses
            .into_iter()
            .map(|it| SocketAddr::new(it, port))
            .collect(),
        running: Vec::new(),
        tries: JoinSet::new(),
        lost: Lost {
            // The resolver never answers with no address; this is for who calls without one.
            address: SocketAddr::from(([0, 0, 0, 0], port)),
            cause: Cause::NoRoute,
            failed: Vec::new(),
        },
    };
    race.run(by).await
}

async fn alone(address: SocketAddr, by: Instant) -> Result<Won, Box<Lost>> {
    let cause = match timeout_at(by, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            return Ok(Won {
                stream,
                address,
                failed: Vec::new(),
            });
        }
        Ok(Err(error)) => Cause::from(error),
        Err(_) => Cause::TimedOut,
    };
    let failed = match cause {
        Cause::Local => Vec::new(),
        _ => vec![address],
    };
    Err(Box::new(Lost {
        address,
        cause,
        failed,
    }))
}

struct Race {
    waiting: VecDeque<SocketAddr>,
    running: Vec<(SocketAddr, Instant)>,
    /// Dropped with the race, and all that still run with it.
    tries: JoinSet<(SocketAddr, io::Result<TcpStream>)>,
    lost: Lost,
}

impl Race {
    async fn run(mut self, by: Instant) -> Result<Won, Box<Lost>> {
        loop {
            if self.tries.is_empty() && !self.start() {
                return Err(Box::new(self.lost));
            }
            let next = self
                .running
                .last()
                .map_or(by, |(_, began)| *began + ATTEMPT_DELAY);
            tokio::select! {
                biased;
                Some(done) = self.tries.join_next() => match done {
                    Ok((address, Ok(stream))) => return Ok(self.won(address, stream)),
                    Ok((address, Err(error))) => {
                        self.give_up(address, Cause::from(error));
                        self.start();
                    }
                    // A connect doesn't panic, and nobody else can cancel it.
                    Err(error) => tracing::debug!(%error, "a try to connect was lost"),
                },
                () = sleep_until(by) => {
                    for (address, _) in std::mem::take(&mut self.running) {
                        self.give_up(address, Cause::TimedOut);
                    }
                    return Err(Box::new(self.lost));
                }
                () = sleep_until(next), if !self.waiting.is_empty() => {
                    self.start();
                }
            }
        }
    }

    /// Begins with the next address, if there is one.
    fn start(&mut self) -> bool {
        let Some(address) = self.waiting.pop_front() else {
            return false;
        };
        self.running.push((address, Instant::now()));
        self.tries
            .spawn(async move { (address, TcpStream::connect(address).await) });
        true
    }

    fn give_up(&mut self, address: SocketAddr, cause: Cause) {
        self.running.retain(|(running, _)| *running != address);
        if cause != Cause::Local {
            self.lost.failed.push(address);
        }
        (self.lost.address, self.lost.cause) = (address, cause);
    }

    fn won(mut self, address: SocketAddr, stream: TcpStream) -> Won {
        let now = Instant::now();
        let slow = self.running.iter().filter(|(running, began)| {
            *running != address && now.duration_since(*began) >= ATTEMPT_DELAY
        });
        self.lost.failed.extend(slow.map(|(slow, _)| *slow));
        Won {
            stream,
            address,
            failed: self.lost.failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::net::TcpListener;

    const GOOD: [u8; 4] = [127, 0, 0, 1];
    /// Hangs: its queue of connections is full.
    const DEAF: [u8; 4] = [127, 0, 0, 2];
    /// Refuses: nobody listens.
    const CLOSED: [u8; 4] = [127, 0, 0, 3];

    /// The sockets of one port; they close with it.
    struct Port {
        number: u16,
        _good: TcpListener,
        _deaf: (Socket, Vec<Socket>),
    }

    impl Port {
        fn new() -> Self {
            loop {
                let good = TcpListener::bind(SocketAddr::from((GOOD, 0))).expect("a port");
                let number = good.local_addr().expect("bound").port();
                // Somebody may have the same number there.
                if let Some(deaf) = deaf(SocketAddr::from((DEAF, number))) {
                    let _deaf = deaf;
                    return Self {
                        number,
                        _good: good,
                        _deaf,
                    };
                }
            }
        }

        async fn race(&self, hosts: &[[u8; 4]], by: Duration) -> Result<Won, Box<Lost>> {
            let addresses = hosts.iter().map(|host| IpAddr::from(*host)).collect();
            race(addresses, self.number, Instant::now() + by).await
        }

        fn at(&self, host: [u8; 4]) -> SocketAddr {
            SocketAddr::from((host, self.number))
        }
    }

    fn deaf(address: SocketAddr) -> Option<(Socket, Vec<Socket>)> {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let listener = socket();
        listener.bind(&address.into()).ok()?;
        listener.listen(0).expect("listening");
        let waiting = (0..4).map(|_| {
            let waiting = socket();
            waiting.set_nonblocking(true).expect("a socket");
            // Under way, or waiting in the queue: both fill it.
            drop(waiting.connect(&address.into()));
            waiting
        });
        Some((listener, waiting.collect()))
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_next_address_begins_when_one_hangs_for_a_quarter_of_a_second() {
        let port = Port::new();
        let began = Instant::now();
        let won = port.race(&[DEAF, GOOD], SECOND).await.expect("a winner");
        assert_eq!(won.address, port.at(GOOD));
        assert_eq!(began.elapsed(), ATTEMPT_DELAY);
        assert_eq!(won.failed, [port.at(DEAF)], "it had its head start");
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_begins_at_once_when_one_refuses() {
        let port = Port::new();
        let began = Instant::now();
        let hosts = [CLOSED, CLOSED, GOOD, DEAF];
        let won = port.race(&hosts, SECOND).await.expect("a winner");
        assert_eq!(won.address, port.at(GOOD));
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(won.failed, [port.at(CLOSED); 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_does_not_wait_for_those_that_hang() {
        let port = Port::new();
        let began = Instant::now();
        let hosts = [DEAF, CLOSED, GOOD];
        let won = port.race(&hosts, SECOND).await.expect("a winner");
        assert_eq!(won.address, port.at(GOOD));
        assert_eq!(began.elapsed(), ATTEMPT_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_hang_the_end_is_on_time() {
        let port = Port::new();
        let began = Instant::now();
        let lost = port.race(&[DEAF; 10], SECOND).await.expect_err("nobody");
        assert_eq!(began.elapsed(), SECOND);
        assert_eq!(lost.cause, Cause::TimedOut);
        assert_eq!(lost.failed.len(), 4, "one each quarter of a second");
        let lost = port.race(&[DEAF], SECOND).await.expect_err("nobody");
        assert_eq!(
            (lost.cause, lost.failed),
            (Cause::TimedOut, vec![port.at(DEAF)])
        );
        assert_eq!(began.elapsed(), 2 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_refuse_there_is_nothing_to_wait_for() {
        let port = Port::new();
        let began = Instant::now();
        for hosts in [&[CLOSED][..], &[CLOSED; 3]] {
            let lost = port.race(hosts, SECOND).await.expect_err("nobody");
            assert_eq!(
                (lost.address, lost.cause),
                (port.at(CLOSED), Cause::Refused)
            );
            assert_eq!(lost.failed.len(), hosts.len());
        }
        let lost = port.race(&[], SECOND).await.expect_err("nobody");
        assert_eq!(lost.cause, Cause::NoRoute);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_else_is_tried_when_the_first_takes_the_connection() {
        let port = Port::new();
        let began = Instant::now();
        let won = port.race(&[GOOD, DEAF], SECOND).await.expect("a winner");
        assert_eq!((won.address, won.failed), (port.at(GOOD), vec![]));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
