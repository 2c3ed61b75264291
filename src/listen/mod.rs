//! Accepting clients: sockets, deadlines and caps before any HTTP is understood. Pingora's HTTP
//! service takes over once a request's head is complete. Called by `app`.

pub mod accept;
pub mod acme;
pub mod caps;
pub mod conn;
mod connection;
pub mod h2;
pub mod head;
pub mod listening;
pub mod phase;
pub mod proxy_protocol;
pub mod settings;
mod strict;
pub mod terms;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod transport;

pub use accept::{Acceptor, Refusal, Refused};
pub use caps::Caps;
pub use conn::{Conn, Secure, secured};
pub use listening::Listening;
pub use phase::Phase;
pub use settings::Settings;
pub use terms::Terms;
