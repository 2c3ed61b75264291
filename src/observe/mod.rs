//! What weir tells of itself: metrics, the access log, the program's own log. It decides nothing.
//! `proxy::settle` records each request once; changes outside requests use handles given at build.

pub mod access;
mod aside;
pub mod books;
pub mod breakers;
pub mod calls;
pub mod merge;
pub mod metrics;
pub mod names;
pub mod pool;
pub mod program_log;
mod rotated;
pub mod settings;
pub mod sharing;
pub mod sink;

pub use access::Record;
pub use aside::Room;
pub use books::Books;
pub use breakers::Breakers;
pub use calls::{Batched, Calls, Hedged};
pub use metrics::Metrics;
pub use pool::Pool;
pub use settings::Settings;
pub use sharing::Sharing;
pub use sink::Sink;

use aside::Aside;
use settings::Format;
use std::sync::Arc;
use std::time::Duration;

/// All places where weir tells something.
#[derive(Debug)]
pub struct Observer {
    /// Counters, gauges and histograms.
    pub metrics: Metrics,
    access: Sink,
    format: Format,
    aside: Aside,
}

impl Observer {
    /// Opens the access log and registers the metrics.
    ///
    /// # Errors
    /// When the log's file can't be opened for writing: says which and why.
    pub fn new(settings: &Settings) -> std::io::Result<Arc<Self>> {
        let metrics = Metrics::new();
        let access = Sink::open(settings.file.as_ref(), metrics.access_log_dropped.clone())?;
        Ok(Arc::new(Self {
            metrics,
            access,
            format: settings.format,
            aside: Aside::start()?,
        }))
    }

    /// Tells of one request: metrics and one line in the access log.
    pub fn request(&self, record: &Record<'_>) {
        self.metrics.request(record);
        self.access.write(|line| match self.format {
            Format::Json => record.write_json(line),
            Format::Text => record.write_text(line),
        });
    }

    /// Does a job that ends in [`Observer::request`] on a thread that serves nobody. The body that
    /// waits with it has so many `bytes`. Where too much waits, the job is done here and now, with
    /// [`Room::None`]: it must not count then.
    pub fn aside(&self, bytes: usize, job: impl FnOnce(Room) + Send + 'static) {
        self.aside.run(bytes, job);
    }

    /// Does a job on that thread if it has time to spare; drops it else.
    pub fn aside_if_idle(&self, bytes: usize, job: impl FnOnce() + Send + 'static) {
        self.aside.spare(bytes, job);
    }

    /// Opens the access log's file anew, as after a rotation by somebody else.
    pub fn reopen(&self) {
        self.access.reopen();
    }

    /// Says whether this process rotates the access log; see [`Sink::rotate`].
    pub fn rotate(&self, rotate: bool) {
        self.access.rotate(rotate);
    }

    /// Returns when all that was told so far is written, and what was left aside is told too.
    pub fn finish(&self) {
        const PATIENCE: Duration = Duration::from_secs(10);
        if !self.aside.finish(PATIENCE) {
            tracing::error!("some requests' tokens were not counted before the end");
        }
        if !self.access.flush(PATIENCE) {
            tracing::error!("the access log's output takes nothing; its last lines are lost");
        }
    }
}
