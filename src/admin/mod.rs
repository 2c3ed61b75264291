//! The admin listener: health and metrics. It reads what others know and changes nothing.

pub mod api;
pub mod settings;

pub use api::{Admin, Metrics};
pub use settings::Settings;
