//! Tokens: how many a request has, and what an answer used.
//!
//! [`meter`] follows an answer and knows what the upstream reports; [`count`] counts where nothing
//! was reported, [`prompt`] knows which texts of a request are to be counted, [`family`] knows models
//! by their names, and [`estimate`] is the quick answer for admission. Nothing here does I/O or knows
//! of money.

pub mod calibration;
pub mod count;
pub mod estimate;
pub mod family;
pub mod meter;
pub mod prompt;
