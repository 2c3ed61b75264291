//! Work on files, away from the threads that serve. What has begun is brought to its end even when
//! nobody waits for it any more, and until then nobody else gets the lock.

use super::error::Error;
use super::store::{Lock, Store};
use std::path::Path;
use std::sync::Arc;

/// The files of one process that holds the lock.
#[derive(Clone)]
pub(super) struct Aside {
    store: Store,
    lock: Arc<Lock>,
}

impl Aside {
    /// The lock is given up when this and all its work are gone.
    pub(super) fn new(store: Store, lock: Lock) -> Self {
        Self {
            store,
            lock: Arc::new(lock),
        }
    }

    /// Where the files are.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Does it, on a thread for such work.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let lock = Arc::clone(&self.lock);
        run(move || {
            let _until_done = lock;
            work()
        })
        .await
    }
}

/// The same, without the lock.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::State {
            path: Path::new("state_dir").to_owned(),
            why: error.to_string(),
        }),
    }
}
