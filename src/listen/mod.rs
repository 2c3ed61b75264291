//! Accepting clients: sockets, deadlines and caps before any HTTP is understood. Pingora's HTTP
//! service takes over once a request's head is complete. Called by `app`.

pub mod accept;
pub mod conn;
pub mod h2;
pub mod head;
pub mod settings;
mod strict;
pub mod tls;

pub use accept::{Acceptor, bind};
pub use conn::Conn;
pub use settings::Settings;
