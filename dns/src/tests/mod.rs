//! The resolver against a scripted transport on paused time, and against servers on loopback.

mod cost;
mod dnsmasq;
mod files;
mod lookups;
mod model;
pub(crate) mod server;
mod wire;

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::entry::Outcome;
use crate::transport::Transport;
use crate::{Answer, Config, Lookup, LookupError, Resolver, Source, Tally};

const SECOND: Duration = Duration::from_secs(1);

/// Says what it is told to, after a while, and counts.
#[derive(Clone, Debug, Default)]
struct Script(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    outcomes: VecDeque<(Duration, Outcome)>,
    /// When there are no lines left.
    at_last: Option<(Duration, Outcome)>,
    asked: Vec<String>,
}

impl Script {
    fn then(&self, delay: Duration, outcome: Outcome) -> &Self {
        self.0.lock().outcomes.push_back((delay, outcome));
        self
    }

    /// From here on, whatever is asked.
    fn always(&self, delay: Duration, outcome: Outcome) {
        self.0.lock().at_last = Some((delay, outcome));
    }

    fn asked(&self) -> usize {
        self.0.lock().asked.len()
    }
}

impl Transport for Script {
    fn ask<'a>(&'a self, key: &'a str) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move {
            let next = {
                let mut lines = self.0.lock();
                lines.asked.push(key.to_owned());
                let next = lines.outcomes.pop_front();
                next.or_else(|| lines.at_last.clone())
            };
            let (delay, outcome) = next.expect("a line for each query");
            // On a running clock even no time at all is a millisecond.
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            outcome
        })
    }
}

/// A resolver, what it is told, and what it tells.
struct Stage {
    resolver: Resolver,
    script: Script,
    tally: Arc<Tally>,
}

fn scripted(config: Config) -> Stage {
    let (script, tally) = (Script::default(), Arc::new(Tally::default()));
    let transport = Box::new(script.clone());
    let observer = Arc::clone(&tally) as _;
    Stage {
        resolver: Resolver::with(&config, "/nonexistent", transport, observer),
        script,
        tally,
    }
}

impl Stage {
    /// The last octet of the first address.
    async fn octet(&self, host: &str) -> u8 {
        last_octet(self.resolver.lookup(host).await)
    }

    /// Lookups by outcome, in the order of [`Lookup::ALL`].
    fn counts(&self) -> [u64; 5] {
        Lookup::ALL.map(|lookup| self.tally.lookups(lookup))
    }
}

fn found(last: u8, ttl: u32) -> Outcome {
    Outcome::Found {
        addresses: Arc::from([IpAddr::from([192, 0, 2, last])]),
        ttl: ttl * SECOND,
        source: Source::Dns,
        lost: None,
    }
}

fn missing() -> Outcome {
    Outcome::NotFound {
        ttl: None,
        sure: true,
    }
}

fn failed() -> Outcome {
    Outcome::Unavailable("SERVFAIL".into())
}

fn last_octet(result: Result<Answer, LookupError>) -> u8 {
    match result.expect("an answer")[0] {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => panic!("{address}"),
    }
}
