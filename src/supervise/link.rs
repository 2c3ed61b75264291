//! The supervisor's end of one conversation. Never waits for the other side: what can't be written now
//! is kept, up to a bound past which the other side counts as hung. All of it can be carried over to
//! another program, half lines included.

use super::lines::{CONVERSATION_BYTES_MAX, line_of};
use super::protocol::Order;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// A stream and what waits on both sides of it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: UnixStream,
    pub(super) outgoing: RefCell<VecDeque<u8>>,
    /// Read, and not yet a whole line.
    pub(super) incoming: RefCell<Vec<u8>>,
    more: Notify,
    overfull: Cell<bool>,
}

impl Link {
    pub(super) fn new(stream: UnixStream, incoming: Vec<u8>, outgoing: Vec<u8>) -> Self {
        Self {
            stream,
            outgoing: RefCell::new(outgoing.into()),
            incoming: RefCell::new(incoming),
            more: Notify::new(),
            overfull: Cell::new(false),
        }
    }

    /// Sends when the other side reads.
    pub(super) fn send(&self, order: &Order) {
        let line = match line_of(order) {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(%error, "an order is no JSON");
                return;
            }
        };
        let mut outgoing = self.outgoing.borrow_mut();
        // One line may be as long as the bound, on top of what waits.
        if outgoing.len() > CONVERSATION_BYTES_MAX {
            self.overfull.set(true);
            return;
        }
        outgoing.extend(line);
        self.more.notify_one();
    }

    /// The other side hasn't read for so long that an order was lost.
    pub(super) fn is_overfull(&self) -> bool {
        self.overfull.get()
    }

    /// Reads and writes until the stream ends.
    pub(super) async fn run(&self, mut on_line: impl FnMut(&[u8])) {
        let mut chunk = vec![0; 64 << 10];
        // What another program had read already may hold whole lines.
        if self.split(0, &mut on_line).is_err() {
            return;
        }
        loop {
            let interest = if self.outgoing.borrow().is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let ready = tokio::select! {
                ready = self.stream.ready(interest) => ready,
                () = self.more.notified() => continue,
            };
            let Ok(ready) = ready else { return };
            // What can't be written doesn't end it: there may be more to read.
            if ready.is_writable() && self.write().is_err() {
                self.outgoing.borrow_mut().clear();
            }
            if ready.is_readable() || ready.is_read_closed() {
                match self.stream.try_read(&mut chunk) {
                    Ok(0) => return,
                    Ok(count) => {
                        let before = self.incoming.borrow().len();
                        self.incoming
                            .borrow_mut()
                            .extend_from_slice(&chunk[..count]);
                        if let Err(error) = self.split(before, &mut on_line) {
                            tracing::warn!(%error, "a generation said too much");
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        }
    }

    fn write(&self) -> io::Result<()> {
        let mut outgoing = self.outgoing.borrow_mut();
        while !outgoing.is_empty() {
            match self.stream.try_write(outgoing.as_slices().0) {
                Ok(count) => drop(outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Hands out the whole lines; up to `searched` there is no end of one.
    fn split(&self, searched: usize, on_line: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let mut all = std::mem::take(&mut *self.incoming.borrow_mut());
        let (mut start, mut from) = (0, searched);
        while let Some(end) = memchr::memchr(b'\n', &all[from..]) {
            on_line(&all[start..from + end]);
            start = from + end + 1;
            from = start;
        }
        all.drain(..start);
        if all.len() > CONVERSATION_BYTES_MAX {
            return Err(io::Error::other("a line without an end"));
        }
        *self.incoming.borrow_mut() = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_half_read_and_half_written_goes_on() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let link = Link::new(ours, b"one\ntw".to_vec(), b"{\"half".to_vec());
        theirs.try_write(b"o\nthree").unwrap();
        link.send(&Order::Lead);
        theirs.writable().await.unwrap();
        let heard = RefCell::new(Vec::new());
        let run = link.run(|line| heard.borrow_mut().push(line.to_vec()));
        let other = async {
            let mut buffer = [0; 64];
            let mut all = Vec::new();
            while !all.ends_with(b"\n") {
                theirs.readable().await.unwrap();
                if let Ok(count) = theirs.try_read(&mut buffer) {
                    all.extend_from_slice(&buffer[..count]);
                }
            }
            drop(theirs);
            all
        };
        let ((), written) = tokio::join!(run, other);
        assert_eq!(*heard.borrow(), [b"one".to_vec(), b"two".to_vec()]);
        assert_eq!(written, b"{\"half{\"kind\":\"lead\"}\n");
        assert_eq!(*link.incoming.borrow(), b"three");
    }
}
