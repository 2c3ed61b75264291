//! The chaos run: the real weir between model servers that fail and clients that misbehave, and what
//! must hold all the same. `perf/chaos` starts it; `bin/chaos.rs` reads its command line.
//!
//! - [`dice`] and [`plan`]: what is done, drawn from a seed.
//! - [`fault`], [`provider`], [`words`]: model servers, how they fail and what they say.
//! - [`user`]: clients, and what they see. [`world`] is what they share with the servers.
//! - [`gateway`]: weir. [`records`]: its access log.
//! - [`judge`]: what must hold of one request. [`court`]: of all. [`run`]: of weir as a whole.
//! - [`report`]: what is told in the end.

pub mod court;
pub mod dice;
pub mod fault;
pub mod gateway;
pub mod judge;
pub mod plan;
pub mod provider;
pub mod records;
pub mod report;
pub mod run;
pub mod user;
pub mod wire;
pub mod words;
pub mod world;
