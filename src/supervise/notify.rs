//! What systemd is told (`sd_notify`), and what it hands over (`LISTEN_FDS`). Never waits, and does
//! nothing where there is no systemd. The supervisor calls it.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Variables that speak to this process alone: the programs it starts must not see them.
pub(super) const OWN_VARIABLES: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// The way to systemd.
#[derive(Debug)]
pub(super) struct Notifier {
    to: Option<(OwnedFd, UnixAddr)>,
    /// How often systemd wants to hear that this process lives.
    pub(super) watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says.
    pub(super) fn from_environment() -> Self {
        let to = std::env::var_os("NOTIFY_SOCKET").and_then(|path| {
            reached(&path)
                .inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET can't be used"))
                .ok()
        });
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC")
            .filter(|micros| meant && *micros > 0)
            .map(|micros| Duration::from_micros(micros) / 2);
        Self { to, watchdog }
    }

    /// Whether anybody hears.
    pub(super) fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// Tells lines such as `READY=1`.
    pub(super) fn tell(&self, lines: &str) {
        self.send(lines, &[]);
    }

    /// A reload begins; `READY=1` ends it.
    pub(super) fn reloading(&self) {
        let micros = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map(|now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000)
            .unwrap_or_default();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Gives a descriptor to be kept over a restart.
    pub(super) fn store(&self, name: &str, descriptor: &OwnedFd) {
        let lines = format!("FDSTORE=1\nFDNAME={name}");
        self.send(&lines, &[descriptor.as_raw_fd()]);
    }

    /// Has a descriptor forgotten.
    pub(super) fn forget(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    }

    fn send(&self, lines: &str, descriptors: &[i32]) {
        let Some((from, to)) = &self.to else { return };
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() {
            &[][..]
        } else {
            &rights
        };
        let text = [IoSlice::new(lines.as_bytes())];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        if let Err(error) = sendmsg(from.as_raw_fd(), &text, control, flags, Some(to)) {
            tracing::debug!(%error, lines, "systemd could not be told");
        }
    }
}

fn reached(path: &std::ffi::OsStr) -> io::Result<(OwnedFd, UnixAddr)> {
    let bytes = path.as_encoded_bytes();
    let to = match bytes.split_first() {
        Some((b'@', name)) => UnixAddr::new_abstract(name)?,
        Some((b'/', _)) => UnixAddr::new(path)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let from = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    Ok((from, to))
}

/// A descriptor that systemd handed over.
#[derive(Debug)]
pub(super) struct Handed {
    /// `FileDescriptorName=` of the unit, or what [`Notifier::store`] said.
    pub(super) name: String,
    pub(super) descriptor: OwnedFd,
}

/// Takes the descriptors that systemd handed to this process. To be called once, before any other
/// descriptor is opened here.
pub(super) fn handed_over() -> Vec<Handed> {
    /// The number of the first (`SD_LISTEN_FDS_START`).
    const FIRST: i32 = 3;
    const HANDED_MAX: i32 = 4096;
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID").parse() != Ok(std::process::id()) {
        return Vec::new();
    }
    let count: i32 = variable("LISTEN_FDS").parse().unwrap_or(0);
    let names = variable("LISTEN_FDNAMES");
    let mut names = names.split(':');
    (FIRST..FIRST + count.clamp(0, HANDED_MAX))
        .filter_map(|number| {
            let name = names.next().unwrap_or_default().to_owned();
            // SAFETY: it is only asked for, and changed where it is open.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
            // SAFETY: it is open, and LISTEN_PID says that it was opened for this process.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            Some(Handed { name, descriptor })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn systemd_hears_lines_and_nobody_is_no_error() {
        let path = std::env::temp_dir().join(format!("weir-notify-{}", std::process::id()));
        let systemd = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier {
            to: Some(reached(path.as_os_str()).unwrap()),
            watchdog: None,
        };
        notifier.tell("READY=1");
        notifier.store("weir.1", &systemd.try_clone().unwrap().into());
        let mut buffer = [0; 64];
        let count = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"READY=1");
        let count = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"FDSTORE=1\nFDNAME=weir.1");
        drop(systemd);
        notifier.tell("STOPPING=1");
        std::fs::remove_file(path).unwrap();
    }
}
