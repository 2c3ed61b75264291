//! TLS of listeners.

pub mod settings;
