//! OpenAI's dialect: what a client asks for, and the tables of what each API answers.
//!
//! - [`request`]: what a client asks for, and the two edits that weir makes to it
//! - [`chat`]: chat, completions and embeddings, of the many servers that speak them
//! - [`responses`] of the API of that name
//! - [`media`]: sound and images
//! - [`opening`]: how a request begins, and for whom it asks
//! - [`embeddings`]: requests for one that become one request for several
//! - [`glance`]: the usage of a body that is there in one piece

pub mod chat;
mod chunks;
pub mod completions;
pub mod embed_in;
pub mod embed_out;
#[cfg(test)]
mod embed_tests;
pub mod embeddings;
pub mod glance;
pub mod media;
pub mod opening;
pub mod request;
pub mod responses;
