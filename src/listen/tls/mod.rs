//! TLS of listeners: certificates read and checked, and handshakes with clients.
//!
//! [`load()`] turns settings into a [`Tls`], which never changes: a reload loads another, and the
//! caller swaps it in. [`handshake()`] makes a connection secure and says with whom. Tickets and
//! challenges outlive both and go from one process to the next. No early data (a replayed request
//! is paid twice), no OCSP, no session cache. Called by the accept loop, `app` and `weir check`.

mod chain;
pub mod challenges;
pub mod handshake;
mod identity;
pub mod load;
mod pem;
mod resolver;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod tickets;

pub use challenges::Challenges;
pub use handshake::{Fault, Secured, handshake};
pub use load::{Info, Loaded, Mistake, Tls, acme_certificate, load};
pub use settings::Settings;
pub use tickets::Tickets;
