//! A credential that lives for a while: whoever renews it writes it here, requests read it. Without a
//! lock, and without a request that waits for it.

use crate::types::Secret;
use arc_swap::ArcSwapOption;
use http::HeaderValue;
use std::time::{Duration, Instant};

/// What is got by a key file, for as long as it is good.
#[derive(Debug)]
pub struct Renewed {
    /// The key file's text.
    pub account: Secret<String>,
    current: ArcSwapOption<Current>,
}

#[derive(Debug)]
struct Current {
    value: HeaderValue,
    until: Instant,
}

// === impl Renewed ===

impl Renewed {
    /// One that has nothing yet.
    pub fn new(account: Secret<String>) -> Self {
        Self {
            account,
            current: ArcSwapOption::empty(),
        }
    }

    /// The value of `Authorization`; `None` before there is one, and after it is no good any more.
    pub fn value(&self, now: Instant) -> Option<HeaderValue> {
        let current = self.current.load();
        let current = current.as_ref().filter(|current| now < current.until);
        current.map(|current| current.value.clone())
    }

    /// How long it is still good.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let current = self.current.load();
        Some(current.as_ref()?.until.saturating_duration_since(now))
    }

    /// There is a new one.
    pub fn renew(&self, token: &str, until: Instant) {
        let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {token}")) else {
            return;
        };
        value.set_sensitive(true);
        self.current.store(Some(Current { value, until }.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_until_its_time_and_not_shown() {
        let now = Instant::now();
        let renewed = Renewed::new(Secret::new("{}".to_owned()));
        assert_eq!(renewed.value(now), None);
        let until = now + Duration::from_secs(1);
        renewed.renew("t0ken", until);
        let value = renewed.value(now).expect("a value");
        assert_eq!(value.to_str().ok(), Some("Bearer t0ken"));
        assert!(!format!("{renewed:?}").contains("t0ken"));
        assert_eq!(renewed.value(until), None);
        renewed.renew("line\nbreak", until + Duration::from_secs(9));
        assert_eq!(renewed.value(until), None, "no header carries it");
    }
}
