//! The process that systemd sees.

mod lines;
pub mod protocol;
pub mod settings;
pub mod sockets;
pub mod worker;
