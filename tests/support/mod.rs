//! What the tests stand on: the real program, and everything around it that can misbehave on demand.
//!
//! Nothing here waits without a bound: after [`DEADLINE`] a test fails and says what it waited for.
#![allow(
    dead_code,
    unused_imports,
    reason = "a toolbox: not every tool is in use at every moment"
)]

pub mod acme_server;
pub mod client;
pub mod daemon;
pub mod dns_server;
pub mod dnsmasq;
pub mod faults;
pub mod folder;
pub mod forward_proxy;
pub mod gate;
pub mod gateway;
pub mod grpc_worker;
pub mod h2_provider;
pub mod h2c;
pub mod load;
pub mod postgres;
pub mod provider;
pub mod real_proxy;
pub mod redis;
pub mod relay;
pub mod simulated;
pub mod socks_proxy;
pub mod steady;
pub mod supervised;
pub mod tls;
pub mod tls_client;

pub use acme_server::AcmeServer;
pub use client::{Answer, Client, get, post};
pub use daemon::Daemon;
pub use dns_server::DnsServer;
pub use faults::Fault;
pub use folder::Folder;
pub use forward_proxy::ForwardProxy;
pub use gate::{Board, Gate, eventually};
pub use gateway::{Gateway, Launch};
pub use h2_provider::H2Provider;
pub use provider::{Exchange, Provider};
pub use real_proxy::RealProxy;
pub use redis::Redis;
pub use socks_proxy::SocksProxy;
pub use tls::Authority;

use std::time::Duration;

/// No single event takes longer, even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// The first of these headers with this name.
fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let named = |(given, _): &&(String, String)| given.eq_ignore_ascii_case(name);
    headers.iter().find(named).map(|(_, value)| value.as_str())
}
