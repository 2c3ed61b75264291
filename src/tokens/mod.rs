//! Tokens: how many a request has, and what an answer used.
//!
//! [`meter`] follows an answer and knows what the upstream reports; [`count`] counts where nothing
//! was reported, [`prompt`] knows which texts of a request are to be counted, and [`estimate`] is
//! the quick guess for admission. Nothing here does I/O or knows of money.

pub mod count;
pub mod estimate;
pub mod meter;
pub mod prompt;
