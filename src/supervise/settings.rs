//! What the supervisor must know of a configuration. It never reads the file itself: the program on
//! disk, which may be a newer one, says it (`weir serve --plan`), in JSON on one line.

use crate::types::socket::Socket;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a configuration asks of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of the program that made the plan.
    pub version: String,
    /// Tells one configuration from another; for people.
    pub config_hash: String,
    /// Sockets for clients, in the order of the file; then the admin listener's, if there is one.
    pub sockets: Vec<Socket>,
    /// Rules of an upgrade.
    pub upgrade: Settings,
    /// `timeouts.drain`: what a generation that drains has for its open requests.
    pub drain: Duration,
}

/// `upgrade:` of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `ready`: by when a new generation must have said that it is ready.
    pub ready: Duration,
    /// `probation`: how long it must then live, beside the old one, before the old one drains.
    pub probation: Duration,
    /// `generations`: how many may live at once, 2 or more; past it the oldest is ended.
    pub generations_max: usize,
}
