//! How many connections there may be: in all, and of one client address. Shared by all listeners of
//! client traffic; an operator's reload changes the numbers while connections are open.

use crate::types::client_network;
use parking_lot::Mutex;
use prometheus::IntGauge;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// The caps. Clones share everything.
#[derive(Clone, Debug)]
pub struct Caps(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Places that are taken, by open connections and by a listener that waits for its next one.
    taken: AtomicUsize,
    max: AtomicUsize,
    per_client_max: AtomicUsize,
    /// Connections that other processes of this weir have open.
    elsewhere: AtomicUsize,
    freed: Notify,
    clients: Mutex<HashMap<IpAddr, usize, ahash::RandomState>>,
    open: IntGauge,
}

/// A place that is free for a connection.
#[derive(Debug)]
pub struct Room(Caps);

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    room: Room,
    client: Option<IpAddr>,
}

impl Caps {
    /// Caps without bounds; `open` is told the open connections.
    pub fn new(open: IntGauge) -> Self {
        Self(Arc::new(Shared {
            taken: AtomicUsize::new(0),
            max: AtomicUsize::new(usize::MAX),
            per_client_max: AtomicUsize::new(usize::MAX),
            elsewhere: AtomicUsize::new(0),
            freed: Notify::new(),
            clients: Mutex::default(),
            open,
        }))
    }

    /// Sets both caps; 0 = no cap. Connections that are open stay.
    pub fn set(&self, max: usize, per_client_max: usize) {
        let cap = |max| if max == 0 { usize::MAX } else { max };
        self.0.max.store(cap(max), Ordering::Relaxed);
        let per_client = cap(per_client_max);
        self.0.per_client_max.store(per_client, Ordering::Relaxed);
        self.0.freed.notify_waiters();
    }

    /// Says how many connections others have: the cap is the host's.
    pub fn set_elsewhere(&self, connections: usize) {
        self.0.elsewhere.store(connections, Ordering::Relaxed);
        self.0.freed.notify_waiters();
    }

    /// Open connections of this process.
    pub fn connections(&self) -> usize {
        usize::try_from(self.0.open.get()).unwrap_or_default()
    }

    /// Waits until there is room for one more.
    pub async fn room(&self) -> Room {
        loop {
            if let Some(room) = self.room_now() {
                return room;
            }
            let mut freed = std::pin::pin!(self.0.freed.notified());
            // From here on no news is missed; what was freed before shows now.
            freed.as_mut().enable();
            if let Some(room) = self.room_now() {
                return room;
            }
            freed.await;
        }
    }

    fn room_now(&self) -> Option<Room> {
        let max = self.0.max.load(Ordering::Relaxed);
        let free = max.saturating_sub(self.0.elsewhere.load(Ordering::Relaxed));
        let take = |taken| (taken < free).then_some(taken + 1);
        self.0
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .ok()
            .map(|_| Room(self.clone()))
    }

    /// Room beyond the cap, for a connection that nobody else will accept.
    pub fn room_beyond(&self) -> Room {
        self.0.taken.fetch_add(1, Ordering::Relaxed);
        Room(self.clone())
    }
}

impl Room {
    /// A connection came.
    pub fn take(self) -> Place {
        (self.0).0.open.inc();
        Place {
            room: self,
            client: None,
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let shared = &(self.0).0;
        shared.taken.fetch_sub(1, Ordering::Relaxed);
        shared.freed.notify_one();
    }
}

impl Place {
    /// Counts the connection among those of its client; `false` when that has too many already.
    pub fn claim(&mut self, client: IpAddr) -> bool {
        let shared = &(self.room.0).0;
        let max = shared.per_client_max.load(Ordering::Relaxed);
        let key = client_network(client);
        let mut clients = shared.clients.lock();
        let count = clients.entry(key).or_default();
        if *count >= max {
            return false;
        }
        *count += 1;
        self.client = Some(key);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &(self.room.0).0;
        shared.open.dec();
        let Some(client) = self.client else { return };
        let mut clients = shared.clients.lock();
        if let Entry::Occupied(mut count) = clients.entry(client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;

    fn caps(max: usize, per_client_max: usize) -> Caps {
        let caps = Caps::new(IntGauge::new("open", "open").unwrap());
        caps.set(max, per_client_max);
        caps
    }

    /// Whether there is room at once.
    async fn full(caps: &Caps) -> bool {
        let mut room = Box::pin(caps.room());
        poll_fn(|cx| Poll::Ready(room.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn at_the_cap_one_waits_until_another_leaves() {
        let caps = caps(2, 0);
        let first = caps.room().await.take();
        let second = caps.room().await;
        assert_eq!(caps.connections(), 1, "room is no connection");
        assert!(full(&caps).await);
        let (third, ()) = tokio::join!(caps.room(), async { drop(first) });
        assert!(full(&caps).await);
        drop((second, third));
        assert!(!full(&caps).await);
        assert_eq!(caps.connections(), 0);
    }

    #[tokio::test]
    async fn the_cap_is_shared_with_others_and_can_be_changed() {
        let caps = caps(2, 0);
        caps.set_elsewhere(5);
        assert!(full(&caps).await);
        let (room, ()) = tokio::join!(caps.room(), async { caps.set_elsewhere(1) });
        assert!(full(&caps).await);
        let (more, ()) = tokio::join!(caps.room(), async { caps.set(3, 0) });
        assert!(full(&caps).await);
        let beyond = caps.room_beyond();
        drop((room, more));
        assert!(!full(&caps).await);
        drop(beyond);
        caps.set(0, 0);
        caps.set_elsewhere(usize::MAX / 2);
        assert!(!full(&caps).await);
    }

    #[tokio::test]
    async fn a_client_has_its_own_cap_by_address_or_network() {
        let caps = caps(0, 2);
        let claim = async |address: &str| {
            let mut place = caps.room().await.take();
            place.claim(address.parse().unwrap()).then_some(place)
        };
        let first = claim("192.0.2.1").await;
        let second = claim("::ffff:192.0.2.1").await;
        assert!(first.is_some() && second.is_some());
        assert!(claim("192.0.2.1").await.is_none());
        assert!(claim("192.0.2.2").await.is_some());
        drop(second);
        assert!(claim("192.0.2.1").await.is_some());
        let six = [claim("2001:db8::1").await, claim("2001:db8::2:1").await];
        assert!(six.iter().all(Option::is_some));
        assert!(claim("2001:db8::3").await.is_none(), "the same /64");
        assert!(claim("2001:db8:0:1::1").await.is_some(), "another one");
        drop((first, six));
        assert!(caps.0.clients.lock().is_empty());
    }
}
