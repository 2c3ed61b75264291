//! All tests that go through weir's front door: one binary, one module a subject.
//!
//! Most of them start the real program ([`support::gateway`]) in front of a scripted model server
//! ([`support::provider`]).

#[path = "../support/mod.rs"]
mod support;

mod acme;
mod admin;
mod arrows;
mod asking;
mod backpressure;
mod balance;
mod balancing;
mod batching;
mod bodies;
mod breaking;
mod budgets;
mod cli;
mod config;
mod costs;
mod counting;
mod dialects;
mod dialling;
mod dns;
mod edge;
mod egress;
mod evading;
mod failover;
mod fixtures;
mod forwarding;
mod grpc;
mod h2_hostile;
mod heartbeat;
mod hedging;
mod hostile;
mod hostile_upstreams;
mod keys;
mod leaving;
mod ledger;
mod limits;
mod listeners;
mod metering;
mod noon;
mod operators;
mod passing;
mod pricing;
mod proxies;
mod proxy_failover;
mod queueing;
mod regression;
mod reload;
mod resolving;
mod routing;
mod sdk;
mod sdks;
mod settling;
mod shared_state;
mod streaming;
mod supervise;
mod telling;
mod tls;
mod translating;
mod upgrade;
