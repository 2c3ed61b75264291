//! A generation's side of the conversation with its supervisor: what it inherits, what it tells, what
//! it is told to do. It decides nothing but one thing: whether to look for another supervisor when its
//! own is gone. The composition root calls it.
//!
//! ```text
//!   told → Outbox → ┐             ┌→ Orders
//!                   └─ converse ──┘
//!   the stream ends: Inheritance::control? ── no ──→ the orders end
//!                        └── yes: connect there, offer this generation, go on conversing
//! ```

use super::lines::{CONVERSATION_BYTES_MAX, Lines, line_of};
use super::protocol::{Command, INHERITANCE, Inheritance, Order, Told};
use super::sockets;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// What a supervisor left to this process.
#[derive(Debug)]
pub struct Worker {
    number: u64,
    channel: OwnedFd,
    sockets: Vec<OwnedFd>,
    /// Where the sockets are bound: a new supervisor is told.
    addresses: Vec<String>,
    control: Option<PathBuf>,
}

impl Worker {
    /// Takes what a supervisor left; `None` where there is none. No program that this one starts gets
    /// any of it. To be called once, before there is a second thread: it changes the environment.
    ///
    /// # Errors
    /// The environment says what isn't so.
    pub fn inherit() -> Result<Option<Self>, String> {
        let Some(text) = std::env::var_os(INHERITANCE) else {
            return Ok(None);
        };
        // SAFETY: this is called before any other thread is started, as said above.
        unsafe { std::env::remove_var(INHERITANCE) };
        let said: Inheritance = text
            .to_str()
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| {
                format!(
                    "{INHERITANCE} in the environment is not what a supervisor writes; remove it"
                )
            })?;
        let channel = taken(said.channel)?;
        let sockets = said
            .sockets
            .into_iter()
            .map(taken)
            .collect::<Result<Vec<_>, _>>()?;
        let addresses = sockets.iter().map(sockets::told_address).collect();
        Ok(Some(Self {
            number: said.number,
            channel,
            sockets,
            addresses,
            control: said.control,
        }))
    }

    /// Which generation this is.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The listening sockets, in the order of the plan; a second call gets none.
    pub fn take_sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }

    /// Begins the conversation, on a task of the runtime that calls this.
    ///
    /// # Errors
    /// The inherited descriptor is no socket.
    pub fn connect(self) -> io::Result<(Teller, Orders)> {
        let stream = std::os::unix::net::UnixStream::from(self.channel);
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let outbox = Arc::new(Outbox::default());
        let (orders, receive) = mpsc::channel(ORDERS_MAX);
        let conversation = Conversation {
            outbox: Arc::clone(&outbox),
            orders,
            offer: self.control.map(|control| Offer {
                control,
                number: self.number,
                sockets: self.addresses,
            }),
        };
        tokio::spawn(conversation.run(stream));
        let orders = Orders {
            receive,
            drains_until: None,
        };
        Ok((Teller { outbox }, orders))
    }
}

/// Orders that wait until they are asked for; the supervisor's further ones wait in the socket.
const ORDERS_MAX: usize = 256;

/// A descriptor that the supervisor left open for this process alone.
fn taken(number: i32) -> Result<OwnedFd, String> {
    let wrong = |error: io::Error| {
        format!("{INHERITANCE} names descriptor {number}, which can't be used: {error}")
    };
    if number <= libc::STDERR_FILENO {
        return Err(wrong(io::ErrorKind::InvalidInput.into()));
    }
    // SAFETY: it is only asked for, and changed where it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| wrong(error.into()))?;
    // SAFETY: it is open, and the supervisor opened it for whoever reads this variable, which is gone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Tells the supervisor.
#[derive(Clone, Debug)]
pub struct Teller {
    outbox: Arc<Outbox>,
}

impl Teller {
    /// Puts it in the queue; never waits. A newer beat or report replaces one that still waits, so
    /// the queue stays short even when nobody reads.
    pub fn tell(&self, told: Told) {
        let mut queue = self.outbox.queue();
        if queue.over {
            return;
        }
        if matches!(told, Told::Beat { .. } | Told::Report { .. }) {
            let same = |it: &Told| std::mem::discriminant(it) == std::mem::discriminant(&told);
            queue.waiting.retain(|it| !same(it));
        }
        if let Told::Ready { .. } = told {
            queue.ready = Some(told.clone());
        }
        if queue.waiting.len() >= TOLD_MAX {
            tracing::warn!("the supervisor doesn't read what it is told");
            return;
        }
        queue.waiting.push_back(told);
        drop(queue);
        self.outbox.more.notify_one();
    }

    /// Nobody hears it now: the supervisor is gone, and another one is looked for.
    pub fn is_alone(&self) -> bool {
        let queue = self.outbox.queue();
        queue.alone || queue.over
    }

    /// Waits until all that was told is written, or can't be any more; five seconds at most.
    pub async fn finish(&self) {
        const LIMIT: Duration = Duration::from_secs(5);
        let written = async {
            loop {
                let less = self.outbox.less.notified();
                tokio::pin!(less);
                less.as_mut().enable();
                if self.outbox.queue().is_done() {
                    return;
                }
                less.await;
            }
        };
        if tokio::time::timeout(LIMIT, written).await.is_err() {
            tracing::warn!("the supervisor didn't read the last that it was told");
        }
    }
}

/// Told and not yet written; beats and reports count once each.
const TOLD_MAX: usize = 1024;

#[derive(Debug, Default)]
struct Outbox {
    queue: Mutex<Queue>,
    more: Notify,
    less: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Told>,
    /// The line that is being written.
    writing: Option<Vec<u8>>,
    /// Nobody reads now.
    alone: bool,
    /// Nobody will read any more.
    over: bool,
    /// Another supervisor must hear it too.
    ready: Option<Told>,
}

impl Queue {
    fn is_done(&self) -> bool {
        self.over || (self.waiting.is_empty() && self.writing.is_none())
    }
}

impl Outbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line to write now. It stays until [`Self::written`]: a new supervisor gets it whole.
    async fn next(&self) -> Vec<u8> {
        loop {
            {
                let mut queue = self.queue();
                if queue.writing.is_none()
                    && let Some(told) = queue.waiting.pop_front()
                {
                    queue.writing = line_of(&told)
                        .inspect_err(|error| tracing::error!(%error, "a message is no JSON"))
                        .ok();
                }
                if let Some(line) = &queue.writing {
                    return line.clone();
                }
            }
            self.more.notified().await;
        }
    }

    fn written(&self) {
        self.queue().writing = None;
        self.less.notify_waiters();
    }
}

/// What the supervisor wants.
#[derive(Debug)]
pub struct Orders {
    receive: mpsc::Receiver<Order>,
    /// When a drain that goes on ends: a supervisor that doesn't know of it may order another.
    drains_until: Option<Instant>,
}

impl Orders {
    /// The next order; `None` when there is no supervisor any more, and none is to be waited for.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Order> {
        let mut order = self.receive.recv().await?;
        match &mut order {
            Order::Drain { seconds, .. } => {
                let now = Instant::now();
                if let Some(until) = self.drains_until {
                    *seconds = (*seconds).min(until.saturating_duration_since(now).as_secs());
                }
                self.drains_until = now.checked_add(Duration::from_secs(*seconds));
            }
            Order::Resume => self.drains_until = None,
            _ => {}
        }
        Some(order)
    }
}

struct Conversation {
    outbox: Arc<Outbox>,
    orders: mpsc::Sender<Order>,
    offer: Option<Offer>,
}

/// What a new supervisor is told.
struct Offer {
    control: PathBuf,
    number: u64,
    sockets: Vec<String>,
}

impl Conversation {
    /// Converses until there is nobody to converse with.
    async fn run(self, stream: UnixStream) {
        /// How long another supervisor is looked for.
        const SEARCH: Duration = Duration::from_secs(60);
        const PAUSE: Duration = Duration::from_millis(50);
        self.converse(stream).await;
        if let Some(offer) = &self.offer {
            self.outbox.queue().alone = true;
            tracing::warn!("the supervisor is gone; looking for another");
            let mut until = Instant::now() + SEARCH;
            while Instant::now() < until && !self.orders.is_closed() {
                if let Some(stream) = offer.make().await {
                    self.repeat_ready();
                    self.outbox.queue().alone = false;
                    let heard = self.converse(stream).await;
                    self.outbox.queue().alone = true;
                    if heard {
                        tracing::warn!("the new supervisor is gone too; looking for another");
                        until = Instant::now() + SEARCH;
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        let mut queue = self.outbox.queue();
        queue.over = true;
        queue.waiting.clear();
        drop(queue);
        self.outbox.less.notify_waiters();
    }

    /// Until the supervisor's end is closed; whether it gave an order.
    async fn converse(&self, mut stream: UnixStream) -> bool {
        let (read, write) = stream.split();
        let mut heard = false;
        // What was sent before the stream broke is still read: only the reader ends this.
        tokio::select! {
            () = self.hear(read, &mut heard) => {}
            () = self.speak(write) => {}
        }
        heard
    }

    async fn hear(&self, from: ReadHalf<'_>, heard: &mut bool) {
        let mut lines = Lines::new(from, CONVERSATION_BYTES_MAX);
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "the supervisor can't be heard");
                    return;
                }
            };
            match serde_json::from_slice(&line) {
                Ok(order) => {
                    *heard = true;
                    // A generation that obeys no more still has its last report to tell.
                    drop(self.orders.send(order).await);
                }
                // A newer supervisor says what this program can't know.
                Err(error) => tracing::debug!(%error, "an order that is not known"),
            }
        }
    }

    /// Never returns: see [`Self::converse`].
    async fn speak(&self, mut to: WriteHalf<'_>) {
        loop {
            let line = self.outbox.next().await;
            if let Err(error) = to.write_all(&line).await {
                tracing::debug!(%error, "the supervisor can't be told");
                return std::future::pending().await;
            }
            self.outbox.written();
        }
    }

    fn repeat_ready(&self) {
        let mut queue = self.outbox.queue();
        queue.waiting.retain(|it| !matches!(it, Told::Ready { .. }));
        if let Some(ready) = queue.ready.clone() {
            queue.waiting.push_front(ready);
        }
    }
}

impl Offer {
    /// A stream to whoever holds the control socket now, with the offer sent.
    async fn make(&self) -> Option<UnixStream> {
        let mut stream = connected(&self.control).await?;
        let line = line_of(&Command::Adopt {
            number: self.number,
            pid: i32::try_from(std::process::id()).ok()?,
            sockets: self.sockets.clone(),
        });
        stream.write_all(&line.ok()?).await.ok()?;
        Some(stream)
    }
}

async fn connected(path: &Path) -> Option<UnixStream> {
    UnixStream::connect(path).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::protocol::{Report, Summary};
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixListener;

    fn worker(channel: UnixStream, control: Option<PathBuf>) -> Worker {
        Worker {
            number: 3,
            channel: channel.into_std().unwrap().into(),
            sockets: Vec::new(),
            addresses: vec!["127.0.0.1:80".into()],
            control,
        }
    }

    fn beat(connections: u64) -> Told {
        let summary = Summary {
            connections,
            ..Summary::default()
        };
        Told::Beat { summary }
    }

    #[tokio::test]
    async fn who_obeys_no_more_is_still_heard() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (teller, orders) = worker(ours, None).connect().unwrap();
        drop(orders);
        let order = line_of(&Order::Lead).unwrap();
        theirs.write_all(&order).await.unwrap();
        // The order has been read when the first line comes.
        let mut told = Lines::new(&mut theirs, CONVERSATION_BYTES_MAX);
        for connections in 0..3 {
            teller.tell(beat(connections));
            let line = told.next().await.unwrap().expect("a line");
            let heard: Told = serde_json::from_slice(&line).unwrap();
            assert_eq!(heard, beat(connections));
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_waits_is_the_newest_and_all_is_written_in_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (teller, mut orders) = worker(ours, None).connect().unwrap();
        for connections in 0..10_000 {
            teller.tell(beat(connections));
            let report = Box::new(Report::default());
            teller.tell(Told::Report { report });
        }
        let failed = Told::Failed {
            reason: "no".into(),
        };
        teller.tell(failed.clone());
        teller.finish().await;
        let order = line_of(&Order::Lead).unwrap();
        theirs
            .write_all(b"{\"kind\":\"of tomorrow\"}\n")
            .await
            .unwrap();
        theirs.write_all(&order).await.unwrap();
        assert_eq!(orders.next().await, Some(Order::Lead));
        theirs.shutdown().await.unwrap();
        assert_eq!(orders.next().await, None);
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.unwrap();
        let told: Vec<Told> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(told.len(), 3, "{text}");
        assert_eq!(told[0], beat(9_999));
        assert_eq!(told[2], failed);
        teller.tell(beat(0));
        teller.finish().await;
    }

    #[tokio::test]
    async fn a_second_drain_does_not_give_more_time() {
        let (send, receive) = mpsc::channel(8);
        let mut orders = Orders {
            receive,
            drains_until: None,
        };
        for seconds in [100, 500] {
            let close = Vec::new();
            let _ = send.send(Order::Drain { seconds, close }).await;
            let order = orders.next().await.unwrap();
            assert!(matches!(order, Order::Drain { seconds, .. } if seconds <= 100));
        }
        let again = Order::Drain {
            seconds: 500,
            close: Vec::new(),
        };
        send.send(Order::Resume).await.unwrap();
        send.send(again.clone()).await.unwrap();
        assert_eq!(orders.next().await, Some(Order::Resume));
        assert_eq!(orders.next().await, Some(again));
    }

    #[tokio::test]
    async fn an_orphan_offers_itself_at_the_control_socket() {
        let folder = std::env::temp_dir().join(format!("weir-worker-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("control.sock");
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (teller, mut orders) = worker(ours, Some(path.clone())).connect().unwrap();
        let ready = Told::Ready {
            version: "1".into(),
        };
        teller.tell(ready.clone());
        teller.finish().await;
        drop(theirs);
        let control = UnixListener::bind(&path).unwrap();
        let (stream, _) = control.accept().await.unwrap();
        let mut lines = Lines::new(stream, CONVERSATION_BYTES_MAX);
        let offer = lines.next().await.unwrap().unwrap();
        let expected = Command::Adopt {
            number: 3,
            pid: i32::try_from(std::process::id()).unwrap(),
            sockets: vec!["127.0.0.1:80".into()],
        };
        assert_eq!(serde_json::from_slice::<Command>(&offer).unwrap(), expected);
        let again = lines.next().await.unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Told>(&again).unwrap(), ready);
        let (mut stream, _) = lines.into_parts();
        let order = line_of(&Order::Lead).unwrap();
        stream.write_all(&order).await.unwrap();
        assert_eq!(orders.next().await, Some(Order::Lead));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
