//! When an answer is overdue: its first byte, the next one, all of it; and when weir itself ends.

use super::Deadlines;
use crate::govern::ending::Over;
use crate::proxy::settings::Timeouts;
use pingora::ErrorType;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// The upstream was silent until its first byte was due.
pub const FIRST_BYTE_LATE: ErrorType = ErrorType::Custom("FirstByteLate");
/// The upstream fell silent in the middle of its answer.
pub const IDLE: ErrorType = ErrorType::Custom("Idle");
/// The request as a whole took too long.
pub const TOTAL: ErrorType = ErrorType::Custom("Total");

/// weir ends, and with it all that is in flight.
pub const ENDING: ErrorType = ErrorType::Custom("Ending");

/// The client took longer than it may to send its body.
pub const BODY_LATE: ErrorType = ErrorType::Custom("BodyLate");

/// The client left, and the time is over in which its answer was to be read on.
pub const DRAINED: ErrorType = ErrorType::Custom("Drained");

/// A heartbeat is due: no deadline.
pub(super) const BEAT: ErrorType = ErrorType::Custom("Beat");

/// Deadlines of an answer. One timer that is moved only when it fires: a stream's events cost a
/// look at the clock each, not a timer.
pub(super) struct Clock {
    timeouts: Timeouts,
    began: Instant,
    /// When the current wait began: a try's start, or the last byte to the client.
    since: Instant,
    answering: bool,
    /// By when the client's body must be whole, while it isn't.
    upload_due: Option<Instant>,
    /// Since when nothing is asked of the client, as the upstream hasn't taken what it sent.
    unasked: Option<Instant>,
    /// When an answer that nobody waits for ends.
    end_due: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    ending: Over,
}

impl Clock {
    pub(super) fn new(deadlines: Deadlines, streamed: bool) -> Self {
        let began = Instant::from_std(deadlines.began);
        let uploads = streamed && deadlines.upload;
        Self {
            timeouts: deadlines.timeouts,
            began,
            since: Instant::now(),
            answering: false,
            upload_due: uploads.then(|| began + deadlines.timeouts.client_body),
            unasked: None,
            end_due: None,
            timer: None,
            ending: deadlines.ending.over(),
        }
    }

    /// A try begins.
    pub(super) fn restart(&mut self, first_byte: Duration, idle: Duration) {
        self.timeouts.first_byte = first_byte;
        self.timeouts.idle = idle;
        self.since = Instant::now();
        self.answering = false;
    }

    /// No try is under way.
    pub(super) fn rest(&mut self) {
        const LONG: Duration = Duration::from_secs(30 * 24 * 3600);
        self.restart(LONG, LONG);
    }

    /// A piece of the request came.
    pub(super) fn heard(&mut self) {
        self.since = Instant::now();
        self.unasked = Some(self.since);
    }

    /// The next piece of the request is asked for. What passed since the last one came is the upstream's
    /// time, not the client's.
    pub(super) fn asks(&mut self) {
        if let (Some(since), Some(due)) = (self.unasked.take(), &mut self.upload_due) {
            *due += since.elapsed();
        }
    }

    /// The request's body is whole.
    pub(super) fn uploaded(&mut self) {
        self.upload_due = None;
    }

    /// The client has left; its answer may take this long.
    pub(super) fn end_in(&mut self, time: Duration) {
        self.end_due = Some(Instant::now() + time);
    }

    /// Something went to the client.
    pub(super) fn moved(&mut self) {
        self.since = Instant::now();
        self.answering = true;
    }

    fn due(&self) -> (Instant, ErrorType) {
        let (wait, late) = if self.answering {
            (self.timeouts.idle, IDLE)
        } else {
            (self.timeouts.first_byte, FIRST_BYTE_LATE)
        };
        let mut soonest = (self.since + wait, late);
        if self.timeouts.total > Duration::ZERO {
            soonest = sooner(soonest, (self.began + self.timeouts.total, TOTAL));
        }
        if let Some(due) = self.upload_due {
            soonest = sooner(soonest, (due, BODY_LATE));
        }
        match self.end_due {
            Some(due) => sooner(soonest, (due, DRAINED)),
            None => soonest,
        }
    }

    /// The deadline that is over; it looks at the clock only, and sees the end of weir too.
    pub(super) fn is_over(&mut self) -> Option<ErrorType> {
        let mut now = Context::from_waker(Waker::noop());
        if self.ending.poll(&mut now).is_ready() {
            return Some(ENDING);
        }
        let (due, late) = self.due();
        (due <= Instant::now()).then_some(late)
    }

    /// Resolves when a deadline is over, or at `beat`.
    pub(super) async fn over(&mut self, beat: Option<Instant>) -> ErrorType {
        loop {
            let mut soonest = self.due();
            if let Some(beat) = beat {
                soonest = sooner(soonest, (beat, BEAT));
            }
            let (due, late) = soonest;
            if due <= Instant::now() {
                return late;
            }
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.is_elapsed() || timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            let ended = std::future::poll_fn(|cx| {
                if self.ending.poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                timer.as_mut().poll(cx).map(|()| false)
            });
            if ended.await {
                return ENDING;
            }
        }
    }
}

fn sooner(a: (Instant, ErrorType), b: (Instant, ErrorType)) -> (Instant, ErrorType) {
    if b.0 < a.0 { b } else { a }
}
