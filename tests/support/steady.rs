//! Clients that ask all the time while a test does things to what lies behind weir. Each has one
//! connection that is kept; whatever isn't a whole 200 is kept too, with its text.

use super::client::Client;
use super::gate::Board;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients at work.
pub struct Steady {
    tally: Arc<Board<Tally>>,
    clients: Vec<JoinHandle<()>>,
}

/// What they have got.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answers that were 200, and whole.
    pub done: usize,
    /// All other answers, with when they came.
    pub failed: Vec<(Instant, String)>,
    /// The longest that one took.
    pub slowest: Duration,
    stop: bool,
}

/// Between two requests of a client, so that many of them leave the machine to others too.
const PAUSE: Duration = Duration::from_millis(5);

impl Steady {
    /// As many clients of an address; `body` makes the body of each one's n-th request.
    pub fn on(
        address: SocketAddr,
        clients: usize,
        path: &'static str,
        body: impl Fn(usize) -> String + Send + Sync + 'static,
    ) -> Self {
        let (tally, body) = (Arc::<Board<Tally>>::default(), Arc::new(body));
        let clients = (0..clients)
            .map(|_| {
                let (tally, body) = (Arc::clone(&tally), Arc::clone(&body));
                std::thread::spawn(move || {
                    let mut client = Client::connect(address);
                    for number in 0.. {
                        if tally.lock().stop {
                            return;
                        }
                        let began = Instant::now();
                        client.post(path, body(number));
                        let answer = client.answer();
                        let took = began.elapsed();
                        tally.change(|tally| {
                            tally.slowest = tally.slowest.max(took);
                            match answer.status() {
                                200 if answer.whole => tally.done += 1,
                                status => {
                                    let text = format!("{status} {}", answer.text());
                                    tally.failed.push((Instant::now(), text));
                                }
                            }
                        });
                        if answer.header("connection") == Some("close") {
                            client = Client::connect(address);
                        }
                        std::thread::sleep(PAUSE);
                    }
                })
            })
            .collect();
        Self { tally, clients }
    }

    /// Waits until as many more requests have come to an end.
    #[track_caller]
    pub fn wait_more(&self, count: usize) {
        let all = |tally: &Tally| tally.done + tally.failed.len();
        let before = all(&self.tally.lock());
        self.tally.wait(&format!("{count} more answers"), |tally| {
            (all(tally) >= before + count).then_some(())
        });
    }

    /// What they have got so far.
    pub fn now(&self) -> Tally {
        self.tally.lock().clone()
    }

    /// Ends them.
    #[track_caller]
    pub fn finish(self) -> Tally {
        self.tally.change(|tally| tally.stop = true);
        for client in self.clients {
            assert!(client.join().is_ok(), "a client broke");
        }
        self.tally.lock().clone()
    }
}

impl Tally {
    /// Nothing but answers.
    #[track_caller]
    pub fn assert_all_done(&self) {
        let failed = self.failed.len();
        assert!(
            failed == 0 && self.done > 0,
            "{} done, {failed} failed, such as {:?}",
            self.done,
            self.failed.first()
        );
    }
}
