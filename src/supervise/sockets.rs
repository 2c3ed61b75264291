//! Listening sockets: opened as a configuration means them. Never accepts. The supervisor's table of
//! sockets calls it, and a weir that runs without a supervisor.

use crate::types::socket::{Address, Socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Group, User};
use socket2::{Domain, SockAddr, SockRef, Type};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Opens a listening socket: non-blocking, and closed in programs that this one starts. The rights of
/// a Unix socket are set before anybody can connect.
///
/// # Errors
/// Which address, and why.
pub fn open(socket: &Socket) -> io::Result<OwnedFd> {
    let opened = match &socket.address {
        Address::Tcp(address) => {
            let domain = Domain::for_address(*address);
            new_stream(domain).and_then(|stream| {
                stream.set_reuse_address(true)?;
                stream.bind(&(*address).into())?;
                Ok(stream)
            })
        }
        Address::Unix(path) => bound_unix(path, None),
    };
    opened
        .and_then(|stream| {
            let stream = OwnedFd::from(stream);
            // It was made here, and goes again if it can't be what it is to be.
            apply(socket, &stream).inspect_err(|_| remove_file(&socket.address))?;
            Ok(stream)
        })
        .map_err(|error| explained(&socket.address, &error))
}

/// Sets what may change while a socket stays open: backlog, options, rights. Also begins to listen.
///
/// # Errors
/// Which of them, and why.
pub fn apply(socket: &Socket, open: &OwnedFd) -> io::Result<()> {
    match &socket.address {
        Address::Tcp(_) => defer_accept(open, socket.defer_accept)?,
        Address::Unix(path) => give_rights(socket, path)?,
    }
    let backlog = i32::try_from(socket.backlog).unwrap_or(i32::MAX);
    SockRef::from(open).listen(backlog)
}

/// Where a socket is bound; `None` for what has no address that a configuration could name.
pub fn bound_address(socket: &impl AsFd) -> Option<Address> {
    let address = SockRef::from(socket).local_addr().ok()?;
    address.as_socket().map(Address::Tcp).or_else(|| {
        address
            .as_pathname()
            .map(|path| Address::Unix(path.to_owned()))
    })
}

/// Removes a Unix socket's file, where there is one.
pub fn remove_file(address: &Address) {
    if let Address::Unix(path) = address {
        let _ = std::fs::remove_file(path);
    }
}

/// As [`bound_address`], for a message; empty where it is unknown.
pub(super) fn told_address(socket: &OwnedFd) -> String {
    bound_address(socket).map_or_else(String::new, |address| address.to_string())
}

fn new_stream(domain: Domain) -> io::Result<socket2::Socket> {
    socket2::Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)
}

/// A Unix socket that doesn't listen yet. The file has `mode`, less the umask, from its beginning.
pub(super) fn bound_unix(path: &Path, mode: Option<Mode>) -> io::Result<socket2::Socket> {
    let address = SockAddr::unix(path)?;
    remove_stale(path, &address)?;
    let stream = new_stream(Domain::UNIX)?;
    if let Some(mode) = mode {
        // Linux takes the mode of the file from that of the socket.
        fchmod(&stream, mode)?;
    }
    stream.bind(&address)?;
    Ok(stream)
}

/// Removes a socket's file that nobody listens at.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket; it isn't touched",
        ));
    }
    // Never waits: it doesn't block, and a listener with a full queue says so.
    match new_stream(Domain::UNIX)?.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Looks whether this host has the user and the group that a Unix socket is to belong to.
///
/// # Errors
/// Which one it lacks.
pub fn check_owner(socket: &Socket) -> io::Result<()> {
    owner_ids(socket).map(drop)
}

fn owner_ids(socket: &Socket) -> io::Result<Option<(u32, Option<u32>)>> {
    let Some((user, group)) = &socket.owner else {
        return Ok(None);
    };
    let group = group.as_deref().map(group_id).transpose()?;
    Ok(Some((user_id(user)?, group)))
}

fn give_rights(socket: &Socket, path: &Path) -> io::Result<()> {
    if let Some((user, group)) = owner_ids(socket)? {
        std::os::unix::fs::lchown(path, Some(user), group).map_err(|error| {
            let text = format!("its file can't be given to that owner: {error}");
            io::Error::new(error.kind(), text)
        })?;
    }
    if let Some(mode) = socket.mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Whose a Unix socket's file is, and who may connect; to be given back.
#[derive(Debug)]
pub(super) struct Rights {
    path: PathBuf,
    user: u32,
    group: u32,
    mode: u32,
}

impl Rights {
    /// As they are now; `None` where there is no such file.
    pub(super) fn of(address: &Address) -> Option<Self> {
        let Address::Unix(path) = address else {
            return None;
        };
        let found = std::fs::symlink_metadata(path).ok()?;
        Some(Self {
            path: path.clone(),
            user: found.uid(),
            group: found.gid(),
            mode: found.mode() & 0o7777,
        })
    }

    /// # Errors
    /// They can't be given back.
    pub(super) fn restore(&self) -> io::Result<()> {
        std::os::unix::fs::lchown(&self.path, Some(self.user), Some(self.group))?;
        let mode = std::fs::Permissions::from_mode(self.mode);
        std::fs::set_permissions(&self.path, mode)
    }
}

fn user_id(name: &str) -> io::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let user = User::from_name(name)?;
    user.map(|user| user.uid.as_raw())
        .ok_or_else(|| io::Error::other(format!("there is no user {name}")))
}

fn group_id(name: &str) -> io::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let group = Group::from_name(name)?;
    group
        .map(|group| group.gid.as_raw())
        .ok_or_else(|| io::Error::other(format!("there is no group {name}")))
}

fn defer_accept(open: &OwnedFd, on: bool) -> io::Result<()> {
    /// After this many seconds the connection is handed over all the same.
    const SECONDS: libc::c_int = 5;
    let seconds = if on { SECONDS } else { 0 };
    // SAFETY: the pointer and the length describe one int that lives through the call.
    let set = unsafe {
        libc::setsockopt(
            open.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            std::mem::size_of_val(&seconds) as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn explained(address: &Address, error: &io::Error) -> io::Error {
    let advice = match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, _) => "; another program listens there",
        (io::ErrorKind::PermissionDenied, Address::Tcp(tcp)) if tcp.port() < 1024 => {
            "; ports below 1024 need the capability CAP_NET_BIND_SERVICE"
        }
        (io::ErrorKind::AddrNotAvailable, _) => "; no interface of this host has that address",
        (io::ErrorKind::NotFound, Address::Unix(path))
            if path.parent().is_some_and(|folder| !folder.exists()) =>
        {
            "; its folder must be there"
        }
        _ => "",
    };
    io::Error::new(
        error.kind(),
        format!("can't listen on {address}: {error}{advice}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn folder(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("weir-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_tcp_socket_listens_and_a_second_one_is_refused_with_its_address() {
        let mut socket = Socket::at("127.0.0.1:0".parse().unwrap());
        socket.defer_accept = true;
        let first = open(&socket).unwrap();
        let address = bound_address(&first).unwrap();
        std::net::TcpStream::connect(address.tcp().unwrap()).unwrap();
        let error = open(&Socket::at(address.clone())).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("another program"), "{error}");
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let folder = folder("stale");
        let path = folder.join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        let mut socket = Socket::at(Address::Unix(path.clone()));
        socket.mode = Some(0o600);
        let first = open(&socket).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        let error = open(&socket).unwrap_err().to_string();
        assert!(error.contains("another program"), "{error}");
        drop(first);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert!(open(&socket).is_err(), "a plain file is not replaced");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn an_owner_that_is_not_there_is_named() {
        let folder = folder("owner");
        let mut socket = Socket::at(Address::Unix(folder.join("a.sock")));
        socket.owner = Some(("nobody-of-that-name".into(), None));
        let error = open(&socket).unwrap_err().to_string();
        assert!(error.contains("nobody-of-that-name"), "{error}");
        assert!(!error.contains("folder must"), "{error}");
        assert!(!folder.join("a.sock").exists(), "nothing is left behind");
        let lost = Socket::at(Address::Unix(folder.join("no/a.sock")));
        let error = open(&lost).unwrap_err().to_string();
        assert!(error.contains("its folder must be there"), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
