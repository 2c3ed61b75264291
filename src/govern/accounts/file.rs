//! The file of accounts: how it is found, made, made longer and locked. What can't be a table of accounts
//! is moved aside, so that it keeps nobody from starting.

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The version is part of the name: programs that share it share their rows.
pub(super) const FILE: &str = "accounts.v1";
/// Where one that can't be read is moved to; the last one is kept.
const DAMAGED: &str = "accounts.v1.damaged";

/// A file of accounts, open twice: a map keeps its file, and the locks with it, and the locks are to go
/// with the first one.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) to_map: File,
}

/// What stands at the beginning of the file.
pub(super) type Head = [u64; 2 + 2 * super::memory::COLUMNS];

/// Opens the file, and calls `begin` with it while no other process does the same. One that has bytes of
/// which `is_sound` says no is moved aside, and there is a new one.
///
/// # Errors
/// Why it can't be made, locked or moved.
pub(super) fn open<T>(
    state_dir: &Path,
    lock_at: i64,
    is_sound: impl Fn(&Head) -> bool,
    begin: impl FnOnce(Opened) -> io::Result<T>,
) -> io::Result<T> {
    let path = state_dir.join(FILE);
    let open = || {
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(true).truncate(false);
        how.mode(0o600).open(&path)
    };
    loop {
        let file = open()?;
        let locked = file.try_clone()?;
        let _lock = Lock::wait(&locked, lock_at)?;
        let to_map = open()?;
        let (one, other) = (file.metadata()?, to_map.metadata()?);
        if (one.dev(), one.ino()) != (other.dev(), other.ino()) {
            // Somebody has moved it aside meanwhile.
            continue;
        }
        if one.len() == 0 || is_sound(&head(&file)?) {
            return begin(Opened { file, to_map });
        }
        tracing::error!(
            path = %path.display(),
            "{FILE} can't be read: it isn't a table of accounts, and is moved to {DAMAGED}; what was \
             spent is taken from the books of usage"
        );
        std::fs::rename(&path, state_dir.join(DAMAGED))?;
    }
}

fn head(file: &File) -> io::Result<Head> {
    let mut head: Head = [0; _];
    for (word, at) in head.iter_mut().zip((0..).step_by(8)) {
        let mut bytes = [0; 8];
        // Beyond its end there is nothing, as in one that was cut.
        let count = file.read_at(&mut bytes, at)?;
        bytes[count..].fill(0);
        *word = u64::from_ne_bytes(bytes);
    }
    Ok(head)
}

/// Makes sure that the file has these bytes, on the disk: a page that finds no room there later would end
/// the process that writes to it.
pub(super) fn make_room(file: &File, from: usize, bytes: usize) -> io::Result<()> {
    let from = libc::off_t::try_from(from).map_err(io::Error::other)?;
    let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    match fallocate(file, FallocateFlags::empty(), from, length) {
        Ok(()) => Ok(()),
        // A file system that can't.
        Err(Errno::EOPNOTSUPP) => {
            let end = (from + length).unsigned_abs();
            if file.metadata()?.len() < end {
                file.set_len(end)?;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// A lock on one byte of the file; of the open file, so that the kernel takes it back when the process
/// ends, and no other part of the process can lose it.
pub(super) struct Lock<'a> {
    file: &'a File,
    at: i64,
}

impl<'a> Lock<'a> {
    /// `None` when somebody has it.
    pub(super) fn take(file: &'a File, at: usize) -> Option<Self> {
        let at = i64::try_from(at).ok()?;
        fcntl(file, FcntlArg::F_OFD_SETLK(&flock(libc::F_WRLCK, at))).ok()?;
        Some(Self { file, at })
    }

    pub(super) fn wait(file: &'a File, at: i64) -> io::Result<Self> {
        loop {
            match fcntl(file, FcntlArg::F_OFD_SETLKW(&flock(libc::F_WRLCK, at))) {
                Ok(_) => return Ok(Self { file, at }),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let unlock = flock(libc::F_UNLCK, self.at);
        let _ = fcntl(self.file, FcntlArg::F_OFD_SETLK(&unlock));
    }
}

fn flock(kind: libc::c_int, at: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}
