//! What a listener is told to do, and when its idle connections leave.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// This part of the spread passes before the first idle connection leaves: a client that asks more often
/// is told `Connection: close` with an answer and never meets a closed connection just as it sends.
const GRACE: f64 = 0.2;

/// What a listener does. Told to it by `app`, at any time and in any order; only a socket that was
/// closed can't be opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is accepted: not yet, or because others do. The socket is kept; connections go on.
    Paused,
    /// Connections are accepted.
    Accepting,
    /// Nothing is accepted, the socket is kept. Connections end with the request that they carry,
    /// and idle ones one by one.
    Draining,
    /// The same, and the socket is closed: what waits in its queue is accepted before.
    Closing,
}

impl Phase {
    /// Connections are on their way out.
    pub fn drains(self) -> bool {
        matches!(self, Self::Draining | Self::Closing)
    }
}

/// A connection's view of its listener's phase.
#[derive(Clone, Debug)]
pub struct Leave(watch::Receiver<Phase>);

impl Leave {
    /// Follows a listener.
    pub fn new(phase: watch::Receiver<Phase>) -> Self {
        Self(phase)
    }

    /// True when the connection is to end with its current request.
    pub fn is_due(&self) -> bool {
        self.0.borrow().drains()
    }

    /// Waits until it is an idle connection's turn to leave: a random moment within `spread` of the
    /// drain's begin, or of now where that is later, after the first fifth of it. A drain that is taken
    /// back sends nobody away.
    pub async fn turn(&mut self, spread: impl Fn() -> Duration) {
        loop {
            if !self.hears(Phase::drains).await {
                // Nobody is left to say so.
                return std::future::pending().await;
            }
            let share = GRACE + (1.0 - GRACE) * rand::random::<f64>();
            let moment = Instant::now() + spread().mul_f64(share);
            tokio::select! {
                biased;
                stays = self.hears(|phase| !phase.drains()) => if !stays {
                    return sleep_until(moment).await;
                },
                () = sleep_until(moment) => return,
            }
        }
    }

    /// Waits for a phase; `false` when none comes any more.
    async fn hears(&mut self, wanted: impl Fn(Phase) -> bool) -> bool {
        self.0.wait_for(|phase| wanted(*phase)).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPREAD: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn idle_connections_leave_one_by_one_over_the_spread_after_its_first_fifth() {
        let (phase, watch) = watch::channel(Phase::Accepting);
        let began = Instant::now();
        let leaving: Vec<_> = (0..200)
            .map(|_| {
                let mut leave = Leave::new(watch.clone());
                tokio::spawn(async move {
                    leave.turn(|| SPREAD).await;
                    began.elapsed()
                })
            })
            .collect();
        tokio::task::yield_now().await;
        phase.send_replace(Phase::Draining);
        let mut moments = Vec::new();
        for one in leaving {
            moments.push(one.await.unwrap());
        }
        assert!(
            moments.iter().all(|moment| *moment >= SPREAD / 5),
            "who asks every two seconds is told in time"
        );
        for tenth in 2..10 {
            let within = |moment: &&Duration| moment.as_secs() == tenth;
            // 25 expected; the chance of none in any of them is below one in ten billion.
            assert!(moments.iter().filter(within).count() > 0, "second {tenth}");
        }
        assert!(
            moments
                .iter()
                .all(|moment| *moment <= SPREAD + Duration::from_millis(1))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_is_taken_back_sends_nobody_away() {
        let (phase, watch) = watch::channel(Phase::Draining);
        let mut leave = Leave::new(watch);
        assert!(leave.is_due());
        let waiting = tokio::spawn(async move { leave.turn(|| SPREAD * 1_000_000).await });
        tokio::task::yield_now().await;
        phase.send_replace(Phase::Accepting);
        tokio::time::sleep(SPREAD * 2_000_000).await;
        assert!(!waiting.is_finished());
        waiting.abort();
    }
}
