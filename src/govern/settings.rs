//! Who may do how much. Filled by `config::check`.

/// Limits of the host.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `rate_limit`: per client address; `None` = no limit.
    pub rate_limit: Option<RateLimit>,
    /// `limits.in_flight`: requests at once; 0 = no cap.
    pub in_flight_max: usize,
    /// `limits.drains`: answers that are read on after their clients have left; 0 = none.
    pub drains_max: usize,
    /// `limits.body_bytes`: largest request body, after decompression too.
    pub body_bytes_max: usize,
    /// `limits.buffered_bytes`: all bodies that are held at once, of all requests together.
    pub buffered_bytes_max: usize,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Tokens that come back in a second; above 0.
    pub per_second: f64,
    /// Size of the bucket; 1 or more.
    pub burst: u32,
}
