//! weir: an edge proxy for LLM traffic.
//!
//! The map of the house, in the order a request walks it:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`cli`] | one file a verb: `run`, `reload`, `upgrade`, `status`, `check`, `explain`, `demo` … |
//! | [`app`] | the composition root: settings → snapshot → services |
//! | [`supervise`] | the small parent that systemd sees: holds sockets, starts generations |
//! | [`config`] | the file as written, its mistakes, the settings it means |
//! | [`listen`] | sockets, deadlines and caps before any HTTP is understood |
//! | [`proxy`] | the corridor: Pingora's phases, one file a step |
//! | [`snapshot`] | all that a request needs, immutable, pinned at its start |
//! | [`govern`] | who may do how much: limits, permits, buffered bytes |
//! | [`route`] | which provider serves a path or a model |
//! | [`upstream`] | providers and endpoints, whose turn it is, one try |
//! | [`egress`] | the road out: direct or through a proxy |
//! | [`dialect`] | a crate of its own: what providers' bytes mean, and one dialect said in another's words |
//! | [`tokens`] | usage seen, else counted |
//! | [`observe`] | metrics, access log, program log |
//! | [`admin`] | health, metrics and the API for operators |
//! | [`types`] | nouns that more than one room uses |
//!
//! Rooms don't import rooms, but for `tokens → dialect` and `egress → weir_dns`; what the walls are
//! is written, and held, in `tests/it/arrows.rs`.
#![deny(rustdoc::broken_intra_doc_links)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub use weir_dialect as dialect;
pub mod egress;
pub mod govern;
pub mod listen;
pub mod observe;
pub mod proxy;
pub mod route;
pub mod snapshot;
pub mod supervise;
pub mod tokens;
pub mod types;
pub mod upstream;
