//! The dialects crossed with each other: golden pairs, real recordings, arbitrary bytes.
//!
//! - [`matrix`]: each client's API with each upstream's, by our own golden files
//! - [`recordings`]: what real providers answered, as each client reads it
//! - [`embeddings`]: the same for embeddings
//! - [`fuzz`]: arbitrary requests and answers, in any cut
//! - [`lost`]: what is unknown isn't lost silently
//! - [`broken`]: streams that fail or end early
//! - [`converse`], [`responses`]: what only these APIs have
//! - [`costs`]: allocations and time of one event
//!
//! What answers say is read here a second time ([`seen`]), by the providers' references and without the
//! crate's own readers, so that a mistake in those is no mistake in both.

mod broken;
mod converse;
mod costs;
mod embeddings;
mod fuzz;
mod golden;
mod lost;
mod matrix;
mod mutate;
mod recordings;
mod requests;
mod responses;
mod seen;
mod story;
