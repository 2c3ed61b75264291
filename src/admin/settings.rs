//! The admin listener. Filled by `config::check`.

use crate::types::Secret;
use crate::types::socket::Socket;

/// `admin:` of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub socket: Socket,
    /// Asked for as `Authorization: Bearer` by everything but the health checks.
    pub token: Option<Secret<String>>,
}
