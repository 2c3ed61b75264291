//! Certificates that weir gets for itself (ACME, RFC 8555): which are needed and when ([`due`]), the
//! conversation with the server, the proofs that listeners show to it, and the files. It never loads
//! what it has written into a listener, and never touches a certificate that it can't replace with a
//! better one. Called by `app`.

mod account;
mod aside;
mod certificate;
mod challenge;
mod client;
pub mod due;
mod error;
mod order;
mod pause;
mod refusal;
mod renewal;
mod store;

pub use challenge::Kind;
pub use error::Error;
pub use renewal::{Clock, Event, Renewal};
