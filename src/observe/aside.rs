//! Work that a finished request leaves behind: counting its tokens. One thread that serves nobody
//! does it in order, so that no stream waits for a count and no count is lost when weir ends.
//!
//! The queue has no cap of its own: what waits in it is held among the buffered bytes, which have one.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// The thread's queue.
#[derive(Debug)]
pub struct Aside {
    jobs: Sender<Job>,
}

impl Aside {
    /// Starts the thread. It ends with the last `Aside`.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start() -> std::io::Result<Self> {
        let (jobs, queue) = channel();
        thread::Builder::new()
            .name("count".into())
            .spawn(move || work(&queue))?;
        Ok(Self { jobs })
    }

    /// Does `job` later; now, should the thread be gone.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(unsent) = self.jobs.send(Box::new(job)) {
            (unsent.0)();
        }
    }

    /// Waits until all jobs so far are done; `false` when that takes longer than `patience`.
    pub fn finish(&self, patience: Duration) -> bool {
        let (done, wait) = channel();
        self.run(move || {
            let _ = done.send(());
        });
        wait.recv_timeout(patience) != Err(RecvTimeoutError::Timeout)
    }
}

fn work(queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        // One record that can't be made must not cost all that follow.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!("a request's tokens could not be counted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn what_was_asked_for_is_done_before_the_end_even_after_a_panic() {
        let aside = Aside::start().unwrap();
        let done = Arc::new(AtomicU32::new(0));
        for n in 0..100 {
            let done = Arc::clone(&done);
            aside.run(move || {
                assert!(n != 50, "this one fails");
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(aside.finish(Duration::from_secs(60)));
        assert_eq!(done.load(Ordering::Relaxed), 99);
    }
}
