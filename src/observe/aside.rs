//! Work that a finished request leaves behind: counting its tokens. One thread that serves nobody
//! does it in order, so that no stream waits for a count and no record is lost when weir ends.
//!
//! The queue is bounded, by number and by the bytes that wait in it. What finds no place is asked to
//! make do at once with what is known; so is what still waits when weir ends and time runs short.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Requests that may wait.
pub const WAITING_MAX: usize = 4096;
/// The bodies that may wait with them: some seconds of the thread's time at the worst. They are also
/// held among the buffered bytes, which all of weir shares.
pub const WAITING_BYTES_MAX: usize = 32 << 20;
/// Work that can be left undone is, where more than this waits.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// Whether there is time for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The thread has time.
    Enough,
    /// None: what is known must do.
    None,
}

type Job = Box<dyn FnOnce(Room) + Send>;

/// The thread's queue.
#[derive(Debug)]
pub struct Aside(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// Something came, or the queue was closed.
    more: Condvar,
    /// Nothing is left to do.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(usize, Job)>,
    bytes: usize,
    busy: bool,
    /// Time runs short.
    hurry: bool,
    closed: bool,
}

// === impl Aside ===

impl Aside {
    /// Starts the thread. It ends with the `Aside`, after what waits.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start() -> std::io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let own = Arc::clone(&queue);
        thread::Builder::new()
            .name("count".into())
            .spawn(move || own.work())?;
        Ok(Self(queue))
    }

    /// Does `job`, which holds so many `bytes`, later; now and with no room for work where too much
    /// waits.
    pub fn run(&self, bytes: usize, job: impl FnOnce(Room) + Send + 'static) {
        if let Err(job) = self.0.push(bytes, Box::new(job), WAITING_BYTES_MAX) {
            job(Room::None);
        }
    }

    /// Does `job` if there is time to spare.
    pub fn spare(&self, bytes: usize, job: impl FnOnce() + Send + 'static) {
        let job = move |room| {
            if room == Room::Enough {
                job();
            }
        };
        // Left undone else.
        drop(self.0.push(bytes, Box::new(job), SPARE_BYTES_MAX));
    }

    /// Waits until all that came so far is done; what isn't after half of `patience` is done in a
    /// hurry. `false` when even that takes longer.
    pub fn finish(&self, patience: Duration) -> bool {
        let start = Instant::now();
        if self.0.wait(start + patience / 2) {
            return true;
        }
        self.0.state.lock().hurry = true;
        let done = self.0.wait(start + patience);
        self.0.state.lock().hurry = false;
        done
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.more.notify_one();
    }
}

// === impl Queue ===

impl Queue {
    fn push(&self, bytes: usize, job: Job, bytes_max: usize) -> Result<(), Job> {
        let mut state = self.state.lock();
        // One by itself is always taken, whatever its size.
        let full = !state.jobs.is_empty() && state.bytes.saturating_add(bytes) > bytes_max;
        if full || state.jobs.len() >= WAITING_MAX {
            return Err(job);
        }
        state.bytes += bytes;
        state.jobs.push_back((bytes, job));
        drop(state);
        self.more.notify_one();
        Ok(())
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            let Some((bytes, job)) = state.jobs.pop_front() else {
                state.busy = false;
                self.idle.notify_all();
                if state.closed {
                    return;
                }
                self.more.wait(&mut state);
                continue;
            };
            state.busy = true;
            state.bytes -= bytes;
            let room = if state.hurry {
                Room::None
            } else {
                Room::Enough
            };
            drop(state);
            // One record that can't be made must not cost all that follow.
            let job = std::panic::AssertUnwindSafe(move || job(room));
            if std::panic::catch_unwind(job).is_err() {
                tracing::error!("a request's tokens could not be counted");
            }
            state = self.state.lock();
        }
    }

    /// Waits until nothing is left to do; `false` when it isn't by `deadline`.
    fn wait(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while state.busy || !state.jobs.is_empty() {
            if self.idle.wait_until(&mut state, deadline).timed_out() {
                return !state.busy && state.jobs.is_empty();
            }
        }
        true
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("jobs", &self.jobs.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::{Sender, channel};

    const LONG: Duration = Duration::from_secs(60);

    /// An aside whose thread is at work until the sender is dropped.
    fn busy() -> (Aside, Sender<()>) {
        let aside = Aside::start().unwrap();
        let (open, gate) = channel::<()>();
        let (began, wait) = channel();
        aside.run(0, move |_| {
            began.send(()).unwrap();
            let _ = gate.recv();
        });
        wait.recv().unwrap();
        (aside, open)
    }

    /// A job that counts which room it got.
    fn counts(rooms: &Arc<[AtomicU32; 2]>) -> impl FnOnce(Room) + Send + 'static {
        let rooms = Arc::clone(rooms);
        move |room| {
            rooms[usize::from(room == Room::None)].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn seen(rooms: &[AtomicU32; 2]) -> [u32; 2] {
        [0, 1].map(|at: usize| rooms[at].load(Ordering::Relaxed))
    }

    #[test]
    fn what_was_asked_for_is_done_before_the_end_even_after_a_panic() {
        let aside = Aside::start().unwrap();
        let done = Arc::new(AtomicU32::new(0));
        for n in 0..100 {
            let done = Arc::clone(&done);
            aside.run(n, move |room| {
                assert!(n != 50, "this one fails");
                assert_eq!(room, Room::Enough);
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(aside.finish(LONG));
        assert_eq!(done.load(Ordering::Relaxed), 99);
    }

    #[test]
    fn what_finds_no_place_by_its_bytes_makes_do_at_once() {
        let (aside, open) = busy();
        let rooms = Arc::default();
        aside.run(WAITING_BYTES_MAX - 1, counts(&rooms));
        aside.run(1, counts(&rooms));
        assert_eq!(seen(&rooms), [0, 0]);
        aside.run(1, counts(&rooms));
        assert_eq!(seen(&rooms), [0, 1]);
        drop(open);
        assert!(aside.finish(LONG));
        assert_eq!(seen(&rooms), [2, 1]);
        aside.run(2 * WAITING_BYTES_MAX, counts(&rooms));
        assert!(aside.finish(LONG));
        assert_eq!(seen(&rooms), [3, 1]);
    }

    #[test]
    fn what_finds_no_place_by_number_makes_do_at_once() {
        let (aside, open) = busy();
        let rooms = Arc::default();
        for _ in 0..WAITING_MAX + 1 {
            aside.run(0, counts(&rooms));
        }
        assert_eq!(seen(&rooms), [0, 1]);
        drop(open);
        assert!(aside.finish(LONG));
        assert_eq!(seen(&rooms), [WAITING_MAX as u32, 1]);
    }

    #[test]
    fn what_can_be_left_is_where_much_waits() {
        let (aside, open) = busy();
        let done = Arc::new(AtomicU32::new(0));
        let spare = |bytes| {
            let done = Arc::clone(&done);
            aside.spare(bytes, move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        };
        spare(SPARE_BYTES_MAX);
        spare(1);
        drop(open);
        assert!(aside.finish(LONG));
        assert_eq!(done.load(Ordering::Relaxed), 1);
        spare(1);
        assert!(aside.finish(LONG));
        assert_eq!(done.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn at_the_end_what_still_waits_is_done_in_a_hurry() {
        let aside = Aside::start().unwrap();
        let (hurried, wait) = channel();
        // Each takes until it is told to hurry; only the first has to be waited for.
        let queue = Arc::clone(&aside.0);
        aside.run(0, move |_| {
            while !queue.state.lock().hurry {
                thread::yield_now();
            }
        });
        aside.run(0, move |room| hurried.send(room).unwrap());
        assert!(aside.finish(Duration::from_secs(2)));
        assert_eq!(wait.recv().unwrap(), Room::None);
    }
}
