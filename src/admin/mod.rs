//! The admin listener: health, metrics, and the API for operators. It turns questions into answers and
//! knows nothing itself: what it tells and does comes from [`Weir`], which `app` gives it.

pub mod api;
pub mod settings;

pub use api::{Admin, Known, Metrics, Weir};
pub use settings::Settings;
