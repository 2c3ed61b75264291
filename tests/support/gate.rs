//! Signals between a test and the threads that play its other parties.

use super::DEADLINE;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A gate that a script waits at until the test opens it. It opens once, for all.
#[derive(Clone, Default)]
pub struct Gate(Arc<Board<bool>>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.0.change(|open| *open = true);
    }

    /// True once it was opened.
    pub fn is_open(&self) -> bool {
        *self.0.lock()
    }

    /// True when the gate is open, or opens in this time.
    pub fn opens_within(&self, time: Duration) -> bool {
        self.0
            .wait_within(time, |open| open.then_some(()))
            .is_some()
    }

    /// Waits until the gate is open.
    #[track_caller]
    pub fn wait(&self) {
        self.0
            .wait("a gate to be opened", |open| open.then_some(()));
    }
}

/// Steps that a script waits for, one at a time.
#[derive(Clone, Default)]
pub struct Steps(Arc<Board<usize>>);

impl Steps {
    /// Allows one more.
    pub fn allow(&self) {
        self.0.change(|steps| *steps += 1);
    }

    /// Waits until the next one is allowed.
    pub fn wait(&self) {
        self.0.wait("the next step", |steps| {
            *steps = steps.checked_sub(1)?;
            Some(())
        });
    }
}

/// A value that several threads look at, and wait for.
#[derive(Default)]
pub struct Board<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Board<T> {
    /// The value, locked. A thread that panicked with it is no reason to panic here too.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value and wakes whoever waits for it.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until `ready` finds what it looks for.
    #[track_caller]
    pub fn wait<R>(&self, what: &str, ready: impl FnMut(&mut T) -> Option<R>) -> R {
        self.wait_within(DEADLINE, ready)
            .unwrap_or_else(|| panic!("waited {DEADLINE:?} in vain for {what}"))
    }

    /// The same with another bound; `None` when it is over.
    pub fn wait_within<R>(
        &self,
        bound: Duration,
        mut ready: impl FnMut(&mut T) -> Option<R>,
    ) -> Option<R> {
        let due = Instant::now() + bound;
        let mut value = self.lock();
        loop {
            if let Some(result) = ready(&mut value) {
                return Some(result);
            }
            let left = due.checked_duration_since(Instant::now())?;
            (value, _) = self
                .changed
                .wait_timeout(value, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Asks again until there is an answer: for what can only be looked at from outside.
#[track_caller]
pub fn eventually<R>(what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    const PAUSE: Duration = Duration::from_millis(5);
    let due = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < due,
            "waited {DEADLINE:?} in vain for {what}"
        );
        std::thread::sleep(PAUSE);
    }
}
