//! Tokens: how many a request has, and what an answer used.
//!
//! [`meter`] follows an answer and knows what the upstream reports; [`count`] counts where nothing
//! was reported, [`prompt`] knows which texts of a request are to be counted, and [`estimate`] is
//! the quick guess for admission. [`price`] knows what they cost. Nothing here does I/O.

pub mod count;
pub mod estimate;
pub mod meter;
pub mod price;
pub mod prompt;
pub mod settings;
