//! Work that waits for a disk or a database, for operators. Threads that may wait are few, and requests
//! need them, too: of one kind of work only so much goes on at once, and nobody waits for it for ever.

use crate::admin::api::Trouble;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// One kind of work.
pub(super) struct Aside {
    threads: Arc<Semaphore>,
    patience: Duration,
}

/// Of one kind.
const THREADS_MAX: usize = 2;
/// Until the work is done, its turn included.
const PATIENCE: Duration = Duration::from_secs(30);

impl Aside {
    pub(super) fn new() -> Self {
        Self {
            threads: Arc::new(Semaphore::new(THREADS_MAX)),
            patience: PATIENCE,
        }
    }

    /// Does it where waiting is allowed. Whoever isn't waited for any more goes on to its end, and keeps
    /// its thread until then.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        let threads = Arc::clone(&self.threads);
        let done = timeout(self.patience, async {
            let thread = threads.acquire_owned().await;
            let working = spawn_blocking(move || {
                let _thread = thread;
                work()
            });
            working.await
        });
        match done.await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(Trouble::Failed(format!("it was not finished: {error}"))),
            Err(_) => Err(Trouble::Failed(format!(
                "no answer within {} seconds: what is kept on a disk or in a database can't be reached",
                self.patience.as_secs()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn work_that_hangs_is_not_waited_for_and_keeps_its_place() {
        let aside = Aside {
            patience: Duration::from_millis(20),
            ..Aside::new()
        };
        let (ends, hangs) = (0..THREADS_MAX)
            .map(|_| mpsc::channel::<()>())
            .unzip::<_, _, Vec<_>, Vec<_>>();
        for hang in hangs {
            let hung = aside.work(move || Ok(hang.recv().is_ok())).await;
            assert!(matches!(hung, Err(Trouble::Failed(_))), "{hung:?}");
        }
        let next = aside.work(|| Ok(())).await;
        assert!(
            matches!(next, Err(Trouble::Failed(_))),
            "there was no place"
        );
        drop(ends);
        let patient = Aside {
            patience: PATIENCE,
            threads: Arc::clone(&aside.threads),
        };
        assert_eq!(patient.work(|| Ok(7)).await, Ok(7));
    }
}
