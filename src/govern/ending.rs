//! The end of what is in flight: a weir that drains lets requests finish for a while, then ends them
//! all at one moment, each with an error that says so.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Whether weir drains, and when it is over. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    draining: AtomicBool,
    over: AtomicBool,
    told: Arc<Notify>,
}

impl Ending {
    /// Says whether weir drains: connections aren't kept for further requests.
    pub fn set_draining(&self, draining: bool) {
        self.0.draining.store(draining, Ordering::Relaxed);
    }

    /// True while weir drains.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Ends all that is in flight.
    pub fn end(&self) {
        self.0.over.store(true, Ordering::Release);
        self.0.told.notify_waiters();
    }

    /// Waits for the end. Made once a request; what it costs until then is one look at each poll.
    pub fn over(&self) -> Over {
        Over {
            shared: Arc::clone(&self.0),
            told: None,
        }
    }
}

/// See [`Ending::over`].
#[derive(Debug)]
pub struct Over {
    shared: Arc<Shared>,
    told: Option<Pin<Box<OwnedNotified>>>,
}

impl Over {
    /// Ready when all that is in flight must end.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let told = self
            .told
            .get_or_insert_with(|| Box::pin(Arc::clone(&self.shared.told).notified_owned()));
        // From its first poll on it hears of an end; one from before shows in the flag.
        let heard = told.as_mut().poll(cx);
        if self.shared.over.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        ready!(heard);
        self.told = None;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn whoever_waits_is_told_and_whoever_comes_later_too() {
        let ending = Ending::default();
        let mut early = ending.over();
        let mut waits = false;
        poll_fn(|cx| {
            waits = early.poll(cx).is_pending();
            Poll::Ready(())
        })
        .await;
        assert!(waits);
        ending.end();
        poll_fn(|cx| early.poll(cx)).await;
        let mut late = ending.over();
        poll_fn(|cx| late.poll(cx)).await;
    }
}
