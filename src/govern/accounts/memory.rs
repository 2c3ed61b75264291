//! The table of accounts: rows of atomics, in a file that several processes map or in this one's own
//! memory.
//!
//! A row is found by its name's hash within a short stretch; a row whose time is over is used again.
//! Rows are made under a lock of the file, and read and changed without any. Each process has a
//! column, and a lock on its byte of the file as long as it lives: the kernel gives that back whatever
//! the process dies of.

use crate::govern::rate::Bucket;
use aws_lc_rs::digest;
use memmap2::MmapRaw;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The version is part of the name: programs of different versions share no layout by mistake.
const FILE: &str = "accounts.v1";
const MAGIC: u64 = 0x7765_6972_6163_6331;
/// Processes that can hold something at once; as many generations may live (`upgrade.generations`).
const COLUMNS: usize = 64;
/// Keys and teams with all their limits and budgets: some 5,000 keys with four each.
const ROWS: usize = 32 * 1024;
/// Places in which a row can be.
const STRETCH: usize = 128;
const HEADER_BYTES: usize = 4096;
/// Bytes of the file that are locked, one for each column, and one to make rows under.
const LOCK_OF_ROWS: i64 = COLUMNS as i64;

/// One account's numbers.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Row {
    /// Hash of its name; 0: free.
    id: AtomicU64,
    /// Not used again before this second (Unix time).
    until: AtomicU64,
    pub(super) total: AtomicI64,
    pub(super) granted: AtomicI64,
    pub(super) held: [AtomicI64; COLUMNS],
    /// Used by other hosts, as far as is known.
    pub(super) elsewhere: AtomicI64,
    /// The part of what is granted that this host took without asking, as nobody could be asked.
    pub(super) alone: AtomicI64,
    /// Of a rate; see [`Bucket`](crate::govern::rate::Bucket). Programs that don't know these two have
    /// the same rows, and leave them alone.
    pub(super) owed: AtomicI64,
    pub(super) given: AtomicI64,
}

/// Programs of other versions have the same rows.
const _: () = assert!(size_of::<Row>() == 576);

/// What stands before the rows.
#[repr(C)]
struct Header {
    magic: AtomicU64,
    /// Not 0: a process has, or had, this column.
    used: [AtomicU64; COLUMNS],
}

#[derive(Debug)]
pub(super) enum Memory {
    Private(Box<[Row]>, Mutex<()>),
    Mapped(Mapped),
}

#[derive(Debug)]
pub(super) struct Mapped {
    map: MmapRaw,
    /// Its locks are this process's.
    pub(super) file: File,
    column: usize,
    /// Threads of one process share the file's lock.
    making: Mutex<()>,
}

/// The hash by which a row is found; never 0.
pub(super) fn id(name: &str) -> u64 {
    let hash = digest::digest(&digest::SHA256, name.as_bytes());
    let (first, _) = hash.as_ref().split_at(8);
    u64::from_le_bytes(first.try_into().unwrap_or_default()).max(1)
}

pub(super) fn unix(time: SystemTime) -> u64 {
    (time.duration_since(UNIX_EPOCH)).map_or(0, |since| since.as_secs())
}

// === impl Memory ===

impl Memory {
    pub(super) fn private() -> Self {
        let rows = std::iter::repeat_with(Row::default).take(STRETCH * 8);
        Self::Private(rows.collect(), Mutex::default())
    }

    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let open = || {
            let mut how = OpenOptions::new();
            how.read(true).write(true).create(true).truncate(false);
            how.mode(0o600).open(state_dir.join(FILE))
        };
        let file = open()?;
        let bytes = HEADER_BYTES + ROWS * size_of::<Row>();
        {
            let _lock = Lock::wait(&file, LOCK_OF_ROWS)?;
            // All of it, for a page that finds no room on the disk later would end the process.
            let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
            match fallocate(&file, FallocateFlags::empty(), 0, length) {
                Ok(()) => {}
                // A file system that can't.
                Err(Errno::EOPNOTSUPP) => file.set_len(bytes as u64)?,
                Err(error) => return Err(error.into()),
            }
        }
        // Opened once more: a map keeps its file, and the locks with it.
        let map = MmapRaw::map_raw(&open()?)?;
        if map.len() < bytes {
            return Err(io::Error::other(format!("{FILE} is too short")));
        }
        let mut mapped = Mapped {
            map,
            file,
            column: 0,
            making: Mutex::default(),
        };
        let header = mapped.header();
        let magic = (header.magic).compare_exchange(0, MAGIC, Ordering::AcqRel, Ordering::Acquire);
        if magic.is_err_and(|found| found != MAGIC) {
            return Err(io::Error::other(format!(
                "{FILE} isn't a table of accounts"
            )));
        }
        mapped.column = mapped.join()?;
        Ok(Self::Mapped(mapped))
    }

    pub(super) fn column(&self) -> usize {
        match self {
            Self::Private(..) => 0,
            Self::Mapped(mapped) => mapped.column,
        }
    }

    pub(super) fn at(&self, row: usize) -> &Row {
        &self.rows()[row]
    }

    fn rows(&self) -> &[Row] {
        match self {
            Self::Private(rows, _) => rows,
            Self::Mapped(mapped) => mapped.rows(),
        }
    }

    /// The row with that id, made where there is none; `None` when its stretch is full.
    pub(super) fn row(&self, id: u64, until: u64, now: SystemTime) -> Option<usize> {
        if let Some(row) = self.find(id) {
            self.at(row).keep_until(until);
            return Some(row);
        }
        let _making = match self {
            Self::Private(_, making) => (making.lock(), None),
            Self::Mapped(mapped) => {
                let making = mapped.making.lock();
                let lock = Lock::wait(&mapped.file, LOCK_OF_ROWS)
                    .inspect_err(|error| tracing::error!(%error, "{FILE} can't be locked"));
                (making, Some(lock.ok()?))
            }
        };
        let row = self.find(id).or_else(|| {
            let free = self.stretch(id).find(|row| self.at(*row).is_free(now))?;
            self.at(free).begin(id);
            Some(free)
        })?;
        self.at(row).keep_until(until);
        Some(row)
    }

    pub(super) fn find(&self, id: u64) -> Option<usize> {
        (self.stretch(id)).find(|row| self.at(*row).id.load(Ordering::Acquire) == id)
    }

    fn stretch(&self, id: u64) -> impl Iterator<Item = usize> + use<> {
        let count = self.rows().len();
        let first = usize::try_from(id % count as u64).unwrap_or_default();
        (0..STRETCH).map(move |step| (first + step) % count)
    }

    /// Gives back what processes held that are gone.
    pub(super) fn sweep(&self) {
        let Self::Mapped(mapped) = self else { return };
        for column in 0..COLUMNS {
            let used = &mapped.header().used[column];
            if column == mapped.column || used.load(Ordering::Acquire) == 0 {
                continue;
            }
            // Whoever has the lock lives.
            if let Some(_lock) = Lock::take(&mapped.file, column) {
                mapped.clear(column);
                used.store(0, Ordering::Release);
            }
        }
    }
}

// === impl Mapped ===

impl Mapped {
    /// Takes a column that nobody has.
    fn join(&self) -> io::Result<usize> {
        for column in 0..COLUMNS {
            if let Some(lock) = Lock::take(&self.file, column) {
                // Kept as long as the file is open.
                std::mem::forget(lock);
                self.clear(column);
                self.header().used[column].store(1, Ordering::Release);
                return Ok(column);
            }
        }
        Err(io::Error::other(format!(
            "{COLUMNS} processes use {FILE} already"
        )))
    }

    fn clear(&self, column: usize) {
        for row in self.rows() {
            let held = row.held[column].swap(0, Ordering::Relaxed);
            if held != 0 {
                row.total.fetch_sub(held, Ordering::Relaxed);
            }
        }
    }

    fn header(&self) -> &Header {
        // SAFETY: the map is page-aligned, longer than a header, writable and lives as long as `self`;
        // every bit pattern is a sound `Header`, which consists of atomics alone.
        unsafe { &*self.map.as_ptr().cast::<Header>() }
    }

    fn rows(&self) -> &[Row] {
        // SAFETY: `open` made sure that the map holds this many rows after the header, whose length is
        // a multiple of a row's alignment; rows consist of atomics, so others may change them.
        unsafe {
            let first = self.map.as_ptr().add(HEADER_BYTES).cast::<Row>();
            std::slice::from_raw_parts(first, ROWS)
        }
    }
}

// === impl Row ===

impl Default for Row {
    fn default() -> Self {
        Self {
            id: AtomicU64::new(0),
            until: AtomicU64::new(0),
            total: AtomicI64::new(0),
            granted: AtomicI64::new(i64::MAX),
            held: [const { AtomicI64::new(0) }; COLUMNS],
            elsewhere: AtomicI64::new(0),
            alone: AtomicI64::new(0),
            owed: AtomicI64::new(0),
            given: AtomicI64::new(0),
        }
    }
}

impl Row {
    pub(super) fn keep_until(&self, until: u64) {
        self.until.fetch_max(until, Ordering::Relaxed);
    }

    pub(super) fn bucket(&self) -> Bucket<'_> {
        Bucket {
            full_at: &self.total,
            owed: &self.owed,
            given: &self.given,
        }
    }

    pub(super) fn held_by_all(&self) -> i64 {
        self.held.iter().map(|it| it.load(Ordering::Relaxed)).sum()
    }

    fn is_free(&self, now: SystemTime) -> bool {
        let over = || self.until.load(Ordering::Relaxed) < unix(now);
        self.id.load(Ordering::Acquire) == 0 || over() && self.held_by_all() == 0
    }

    fn begin(&self, id: u64) {
        self.id.store(0, Ordering::Release);
        self.until.store(0, Ordering::Relaxed);
        self.total.store(0, Ordering::Relaxed);
        self.granted.store(i64::MAX, Ordering::Relaxed);
        self.elsewhere.store(0, Ordering::Relaxed);
        self.alone.store(0, Ordering::Relaxed);
        self.owed.store(0, Ordering::Relaxed);
        self.given.store(0, Ordering::Relaxed);
        self.id.store(id, Ordering::Release);
    }
}

/// A lock on one byte of the file; of the open file, so that the kernel takes it back when the process
/// ends, and no other part of the process can lose it.
struct Lock<'a> {
    file: &'a File,
    at: i64,
}

impl<'a> Lock<'a> {
    /// `None` when somebody has it.
    fn take(file: &'a File, at: usize) -> Option<Self> {
        let at = i64::try_from(at).ok()?;
        fcntl(file, FcntlArg::F_OFD_SETLK(&flock(libc::F_WRLCK, at))).ok()?;
        Some(Self { file, at })
    }

    fn wait(file: &'a File, at: i64) -> io::Result<Self> {
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
