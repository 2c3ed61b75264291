//! The process that systemd sees.

pub mod protocol;
pub mod settings;
