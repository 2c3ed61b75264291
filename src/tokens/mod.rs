//! Tokens: how many a request has, and what an answer used.
//!
//! [`meter`] follows an answer and knows what the upstream reports; [`count`] counts where nothing
//! was reported, [`prompt`] knows which texts of a request are to be counted, [`family`] knows models
//! by their names, [`estimate`] is the quick answer for admission, [`media`] the one for sound and pictures,
//! and [`price`] knows what all that costs.
//! Nothing here does I/O.

pub mod calibration;
pub mod count;
pub mod estimate;
pub mod family;
pub mod media;
pub mod meter;
pub mod price;
pub mod prompt;
pub mod settings;
