//! The streams that are open, and since when: what an operator asks before an upgrade.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All open streams of events. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Streams(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// In the order of their numbers, which is that of their starts.
    open: BTreeMap<u64, Instant>,
    next: u64,
}

impl Streams {
    /// Counts one more, until the returned value is dropped.
    pub fn open(&self, now: Instant) -> OpenStream {
        let mut state = self.0.lock();
        let number = state.next;
        state.next += 1;
        state.open.insert(number, now);
        OpenStream {
            streams: self.clone(),
            number,
        }
    }

    /// How many are open, and the age of the oldest.
    pub fn look(&self, now: Instant) -> (usize, Option<Duration>) {
        let state = self.0.lock();
        let oldest = state.open.first_key_value();
        let age = oldest.map(|(_, since)| now.saturating_duration_since(*since));
        (state.open.len(), age)
    }
}

/// One stream's place among the open ones.
#[derive(Debug)]
pub struct OpenStream {
    streams: Streams,
    number: u64,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.streams.0.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_known_until_it_ends() {
        let streams = Streams::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(streams.look(start), (0, None));
        let first = streams.open(at(0));
        let second = streams.open(at(10));
        assert_eq!(streams.look(at(30)), (2, Some(Duration::from_secs(30))));
        drop(first);
        assert_eq!(streams.look(at(30)), (1, Some(Duration::from_secs(20))));
        drop(second);
        assert_eq!(streams.look(at(30)), (0, None));
    }
}
