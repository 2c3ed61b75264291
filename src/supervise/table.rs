//! The sockets that the supervisor holds open for its generations: those that stay stay, new ones are
//! opened before anything is changed, and what is gone is closed only when the new plan is in force.

use super::notify::{Handed, Notifier};
use super::sockets::{self, Rights, apply, bound_address, open, told_address};
use crate::types::socket::{Address, Socket};
use socket2::SockRef;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// The open sockets.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
    /// From systemd, and not yet asked for.
    handed: Vec<Handed>,
    /// Ever opened; makes names unique.
    pub(super) opened: u64,
    /// Open sockets that have their new options and rights already, for a plan that isn't in force yet.
    changed: Vec<Changed>,
}

/// How a socket was before.
#[derive(Debug)]
struct Changed {
    before: Entry,
    rights: Option<Rights>,
}

/// One open socket.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) socket: Socket,
    pub(super) descriptor: Rc<OwnedFd>,
    /// What systemd keeps it under.
    pub(super) name: String,
}

impl Table {
    pub(super) fn new(handed: Vec<Handed>) -> Self {
        let handed = handed
            .into_iter()
            .filter(|it| {
                let listens = SockRef::from(&it.descriptor).is_listener().unwrap_or(false);
                let usable = listens && SockRef::from(&it.descriptor).set_nonblocking(true).is_ok();
                if !usable {
                    tracing::warn!(
                        name = it.name,
                        "systemd handed over what is no listening socket; closed"
                    );
                }
                usable
            })
            .collect();
        let mut table = Self {
            handed,
            ..Self::default()
        };
        let number = |it: &Handed| {
            it.name
                .strip_prefix(STORED)?
                .split('.')
                .next()?
                .parse()
                .ok()
        };
        table.opened = table.handed.iter().filter_map(number).max().unwrap_or(0);
        table
    }

    /// Whether a supervisor before this one left sockets with systemd.
    pub(super) fn was_kept(&self) -> bool {
        self.handed.iter().any(|it| it.name.starts_with(STORED))
    }

    /// One entry for each socket of a plan, in its order: what is open already where it can be used,
    /// else new. The table is the same until [`Self::commit`]; what was done for a plan that won't be
    /// in force is taken back by [`Self::discard`].
    ///
    /// # Errors
    /// The first that can't be opened, or can't be as the plan says.
    pub(super) fn prepare(&mut self, wanted: &[Socket]) -> std::io::Result<Vec<Entry>> {
        // One whose file is gone is reached by nobody: it gives way to a new one.
        let there = self.entries.iter().filter(|it| !it.has_lost_its_file());
        let mut left: Vec<Entry> = there.cloned().collect();
        let mut take = |fits: &dyn Fn(&Socket) -> bool| {
            let at = left.iter().position(|it| fits(&it.socket))?;
            Some(left.remove(at))
        };
        // Exactly the same ones first, or one with other options could take the place of another.
        let mut found: Vec<Option<Entry>> = wanted
            .iter()
            .map(|socket| take(&|it| it == socket))
            .collect();
        for (socket, entry) in wanted.iter().zip(&mut found) {
            if entry.is_none() {
                *entry = take(&|it| it.address == socket.address).map(|old| Entry {
                    socket: socket.clone(),
                    ..old
                });
            }
        }
        let mut entries = Vec::new();
        for (socket, entry) in wanted.iter().zip(found) {
            let entry = match entry {
                Some(entry) => self.change(entry),
                None => self.new_entry(socket),
            };
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    self.discard(&entries);
                    return Err(error);
                }
            }
        }
        Ok(entries)
    }

    /// Gives an open socket what its new options and rights are.
    fn change(&mut self, entry: Entry) -> std::io::Result<Entry> {
        let before = self.entries.iter().find(|it| is_same(it, &entry));
        let Some(before) = before.filter(|it| it.socket != entry.socket).cloned() else {
            return Ok(entry);
        };
        let address = &entry.socket.address;
        let rights = Rights::of(address);
        self.changed.push(Changed { before, rights });
        apply(&entry.socket, &entry.descriptor).map_err(|error| {
            let text = format!("{address} can't be changed: {error}");
            std::io::Error::new(error.kind(), text)
        })?;
        Ok(entry)
    }

    /// What was prepared is not wanted after all.
    pub(super) fn discard(&mut self, entries: &[Entry]) {
        for Changed { before, rights } in self.changed.drain(..).rev() {
            let done = apply(&before.socket, &before.descriptor);
            let done = done.and_then(|()| rights.map_or(Ok(()), |rights| rights.restore()));
            if let Err(error) = done {
                tracing::warn!(%error, address = %before.socket.address, "a listening socket couldn't be changed back");
            }
        }
        let is_new = |entry: &&Entry| !self.entries.iter().any(|it| is_same(it, entry));
        for entry in entries.iter().filter(is_new) {
            entry.remove_file();
        }
    }

    fn new_entry(&mut self, socket: &Socket) -> std::io::Result<Entry> {
        let handed = self.handed.iter().position(|it| is_for(it, socket));
        let (descriptor, name) = match handed {
            Some(at) => {
                apply(socket, &self.handed[at].descriptor)?;
                let Handed { name, descriptor } = self.handed.remove(at);
                (descriptor, name)
            }
            None => {
                self.opened += 1;
                let address = portable(&socket.address);
                (open(socket)?, format!("{STORED}{}.{address}", self.opened))
            }
        };
        Ok(Entry {
            socket: socket.clone(),
            descriptor: Rc::new(descriptor),
            name,
        })
    }

    /// The plan that these were prepared for is in force: the others are closed.
    pub(super) fn commit(&mut self, entries: Vec<Entry>, notifier: &Notifier) {
        for handed in self.handed.drain(..) {
            let address = bound_address(&handed.descriptor).map(|it| it.to_string());
            tracing::warn!(
                name = handed.name,
                address,
                "systemd handed over a socket that the configuration doesn't name; closed"
            );
            notifier.forget(&handed.name);
        }
        self.changed.clear();
        for entry in &entries {
            let is_new = !self.entries.iter().any(|it| is_same(it, entry));
            if is_new && entry.is_ours() {
                notifier.store(&entry.name, &entry.descriptor);
            }
        }
        for gone in &self.entries {
            if entries.iter().any(|it| is_same(it, gone)) {
                continue;
            }
            tracing::info!(address = %gone.socket.address, "closed");
            let address = &gone.socket.address;
            if gone.is_ours() && entries.iter().any(|it| it.socket.address == *address) {
                // The file, if there is one, is its successor's.
                notifier.forget(&gone.name);
            } else {
                gone.give_up(notifier);
            }
        }
        self.entries = entries;
    }

    /// Whether somebody removed the file of a Unix listener.
    pub(super) fn has_lost_a_file(&self) -> bool {
        self.entries.iter().any(Entry::has_lost_its_file)
    }

    /// Where the sockets are bound.
    pub(super) fn addresses(&self) -> Vec<String> {
        let entries = self.entries.iter();
        entries.map(|it| told_address(&it.descriptor)).collect()
    }

    /// The table as another supervisor's program left it.
    pub(super) fn restored(entries: Vec<Entry>, opened: u64) -> Self {
        Self {
            entries,
            opened,
            ..Self::default()
        }
    }

    /// weir stops for good.
    pub(super) fn close(&mut self, notifier: &Notifier) {
        for entry in self.entries.drain(..) {
            entry.give_up(notifier);
        }
    }
}

/// Names of sockets in systemd's store begin so.
const STORED: &str = "weir.";

/// Whether two entries stand for one descriptor.
pub(super) fn is_same(one: &Entry, other: &Entry) -> bool {
    Rc::ptr_eq(&one.descriptor, &other.descriptor)
}

impl Entry {
    /// Opened by a weir, not by a unit of systemd's.
    fn is_ours(&self) -> bool {
        self.name.starts_with(STORED)
    }

    fn has_lost_its_file(&self) -> bool {
        self.is_ours() && is_lost(&self.socket.address)
    }

    fn give_up(&self, notifier: &Notifier) {
        if !self.is_ours() {
            return;
        }
        notifier.forget(&self.name);
        self.remove_file();
    }

    fn remove_file(&self) {
        if self.is_ours() {
            sockets::remove_file(&self.socket.address);
        }
    }
}

/// No client finds it any more.
fn is_lost(address: &Address) -> bool {
    match address {
        Address::Tcp(_) => false,
        Address::Unix(path) => matches!(
            std::fs::symlink_metadata(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound
        ),
    }
}

fn is_for(handed: &Handed, socket: &Socket) -> bool {
    // What a weir has left with systemd; a socket of a unit is systemd's to make.
    if handed.name.starts_with(STORED) && is_lost(&socket.address) {
        return false;
    }
    let Some(bound) = bound_address(&handed.descriptor.as_fd()) else {
        return false;
    };
    if let (Some(bound), Some(wanted)) = (bound.tcp(), socket.address.tcp()) {
        // `ListenStream=443` of a unit is bound to [::]:443, which takes IPv4 too.
        let everywhere = bound.ip().is_unspecified() && wanted.ip().is_unspecified();
        let any_port = wanted.port() == 0 && handed.name.ends_with(&portable(&socket.address));
        let ports = bound.port() == wanted.port() || any_port;
        return ports && (bound.ip() == wanted.ip() || everywhere);
    }
    bound == socket.address
}

/// The address in letters that a name of systemd's may have.
fn portable(address: &Address) -> String {
    const LENGTH_MAX: usize = 200;
    let text = address.to_string();
    let letters = text.chars().map(|letter| {
        let plain = letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-');
        if plain { letter } else { '_' }
    });
    letters.take(LENGTH_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Socket {
        Socket::at(address.parse().unwrap())
    }

    fn silent() -> Notifier {
        Notifier::from_environment()
    }

    #[test]
    fn sockets_stay_while_they_are_wanted() {
        let mut table = Table::default();
        let wanted = [at("127.0.0.1:0"), at("127.0.0.1:0")];
        let first = table.prepare(&wanted).unwrap();
        table.commit(first.clone(), &silent());
        let mut slower = at("127.0.0.1:0");
        slower.backlog = 7;
        let second = table.prepare(&[slower, at("127.0.0.1:0")]).unwrap();
        assert!(is_same(&first[0], &second[1]), "the equal one first");
        assert!(is_same(&first[1], &second[0]), "then one of that address");
        table.commit(second, &silent());
        let address = bound_address(&*first[1].descriptor).unwrap();
        drop(first);
        let third = table.prepare(&[at("127.0.0.1:0")]).unwrap();
        table.commit(third, &silent());
        open(&Socket::at(address)).expect("the one that isn't wanted is closed");
    }

    #[test]
    fn nothing_changes_when_one_can_not_be_opened() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut table = Table::default();
        let first = table.prepare(&[at("127.0.0.1:0")]).unwrap();
        table.commit(first.clone(), &silent());
        let wanted = [
            at("127.0.0.1:0"),
            Socket::at(Address::Tcp(taken.local_addr().unwrap())),
        ];
        assert!(table.prepare(&wanted).is_err());
        assert_eq!(table.entries.len(), 1);
        assert!(is_same(&table.entries[0], &first[0]));
    }

    #[test]
    fn rights_that_can_not_be_given_change_nothing_and_those_of_a_failed_plan_are_taken_back() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("weir-table-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.sock");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let with = |mode: u32, owner: Option<&str>| Socket {
            mode: Some(mode),
            owner: owner.map(|user| (user.to_owned(), None)),
            ..Socket::at(Address::Unix(path.clone()))
        };
        let mut table = Table::default();
        let first = table.prepare(&[with(0o660, None)]).unwrap();
        table.commit(first, &silent());
        let wrong = [with(0o600, Some("nobody-of-that-name"))];
        let error = table.prepare(&wrong).unwrap_err().to_string();
        assert!(error.contains("there is no user nobody-of"), "{error}");
        assert!(!error.contains("folder"), "{error}");
        assert_eq!(mode(), 0o660);
        let second = table.prepare(&[with(0o600, None)]).unwrap();
        assert_eq!(mode(), 0o600);
        table.discard(&second);
        assert_eq!(mode(), 0o660);
        let third = table.prepare(&[with(0o600, None)]).unwrap();
        table.commit(third, &silent());
        assert_eq!(mode(), 0o600);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_was_removed_is_made_again_and_stays() {
        let folder = std::env::temp_dir().join(format!("weir-removed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.sock");
        let wanted = [Socket::at(Address::Unix(path.clone()))];
        let mut table = Table::default();
        let first = table.prepare(&wanted).unwrap();
        table.commit(first, &silent());
        assert!(!table.has_lost_a_file());
        std::fs::remove_file(&path).unwrap();
        assert!(table.has_lost_a_file());
        let second = table.prepare(&wanted).unwrap();
        table.discard(&second);
        assert!(!path.exists(), "as before");
        let third = table.prepare(&wanted).unwrap();
        table.commit(third, &silent());
        std::os::unix::net::UnixStream::connect(&path).expect("somebody listens");
        table.close(&silent());
        assert!(!path.exists());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_socket_from_systemd_is_taken_by_its_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let other_address = other.local_addr().unwrap();
        let handed = |name: &str, listener: std::net::TcpListener| Handed {
            name: name.into(),
            descriptor: listener.into(),
        };
        let mut table = Table::new(vec![handed("x", other), handed("http", listener)]);
        let entries = table.prepare(&[Socket::at(Address::Tcp(address))]).unwrap();
        table.commit(entries, &silent());
        std::net::TcpStream::connect(address).unwrap();
        open(&Socket::at(Address::Tcp(other_address))).expect("the unwanted one is closed");
    }
}
