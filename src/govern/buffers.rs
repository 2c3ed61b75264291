//! One cap for all that is buffered, of all requests together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The host-wide counter of buffered bytes.
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    held: AtomicUsize,
    max: AtomicUsize,
    /// Held by other processes of this host.
    elsewhere: AtomicUsize,
}

impl Buffers {
    /// A counter with nothing held.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Shared {
            held: AtomicUsize::new(0),
            max: AtomicUsize::new(bytes_max),
            elsewhere: AtomicUsize::new(0),
        }))
    }

    /// Changes the cap; what is held stays held.
    pub fn set_max(&self, bytes_max: usize) {
        self.0.max.store(bytes_max, Ordering::Relaxed);
    }

    /// Says what other processes of this host hold; it counts against the cap.
    pub fn set_elsewhere(&self, bytes: usize) {
        self.0.elsewhere.store(bytes, Ordering::Relaxed);
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// A hold of nothing, to be grown.
    pub fn hold(&self) -> Hold {
        Hold {
            shared: Arc::clone(&self.0),
            bytes: 0,
        }
    }
}

/// Bytes that one request holds. Dropping it gives them back.
#[derive(Debug)]
pub struct Hold {
    shared: Arc<Shared>,
    bytes: usize,
}

/// The cap is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Hold {
    /// Makes the hold at least `bytes` large.
    ///
    /// # Errors
    /// When the cap leaves no room; the hold stays as it was.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let before = self.shared.held.fetch_add(more, Ordering::Relaxed);
        let elsewhere = self.shared.elsewhere.load(Ordering::Relaxed);
        let all = before.saturating_add(more).saturating_add(elsewhere);
        if all > self.shared.max.load(Ordering::Relaxed) {
            self.shared.held.fetch_sub(more, Ordering::Relaxed);
            return Err(Full);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Whether `bytes` would fit now; they are not held.
    pub fn has_room(&self, bytes: usize) -> bool {
        let held = self.shared.held.load(Ordering::Relaxed);
        let elsewhere = self.shared.elsewhere.load(Ordering::Relaxed);
        let all = held.saturating_add(bytes).saturating_add(elsewhere);
        all <= self.shared.max.load(Ordering::Relaxed)
    }

    /// Makes the hold at least `bytes` large, whatever the cap says: for what is there already, and leaves
    /// no room for others.
    pub fn take(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes);
        self.shared.held.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
    }

    /// Gives back what is above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.shared.held.fetch_sub(less, Ordering::Relaxed);
        self.bytes -= less;
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_is_shared_and_exact() {
        let buffers = Buffers::new(100);
        let mut over = buffers.hold();
        over.take(150);
        assert_eq!(buffers.hold().grow_to(1), Err(Full), "no room is left");
        drop(over);
        let asks = buffers.hold();
        assert!(asks.has_room(100) && !asks.has_room(101));
        let mut a = buffers.hold();
        let mut b = buffers.hold();
        assert_eq!(a.grow_to(60), Ok(()));
        assert_eq!(b.grow_to(40), Ok(()), "exactly at the cap");
        assert_eq!(b.grow_to(41), Err(Full), "one past it");
        assert_eq!(buffers.held(), 100, "a refusal holds nothing");
        drop(a);
        assert_eq!(b.grow_to(100), Ok(()));
        b.shrink_to(30);
        b.shrink_to(40);
        assert_eq!(buffers.held(), 30);
        drop(b);
        assert_eq!(buffers.held(), 0);
    }

    #[test]
    fn a_lowered_cap_refuses_the_next_but_keeps_what_is_held() {
        let buffers = Buffers::new(100);
        let mut a = buffers.hold();
        assert_eq!(a.grow_to(80), Ok(()));
        buffers.set_max(50);
        assert_eq!(a.grow_to(81), Err(Full));
        assert_eq!(buffers.held(), 80);
    }
}
