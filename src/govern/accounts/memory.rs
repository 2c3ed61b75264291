//! The table of accounts: rows of atomics, in a file that several processes map or in this one's own
//! memory.
//!
//! A row is found by its name's hash within a short stretch; a row whose time is over is used again.
//! Where a stretch is full, the file gets one table more, as long as the first, in which the same stretch
//! is looked at too; so it is as large as it must be. Programs that know one table alone share that one.
//! Rows are made under a lock of the file, and read and changed without any. Each process has a
//! column, and a lock on its byte of the file as long as it lives: the kernel gives that back whatever
//! the process dies of.

use super::file::{self, FILE, Head, Lock, Opened};
use crate::govern::rate::Bucket;
use ahash::AHashMap;
use aws_lc_rs::digest;
use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC: u64 = 0x7765_6972_6163_6331;
/// Processes that can hold something at once; as many generations may live (`upgrade.generations`).
pub(super) const COLUMNS: usize = 64;
/// Rows of one table.
const ROWS: usize = 32 * 1024;
/// Tables at most: half a million rows, of 19 MB a table. Ten thousand keys that are made at run time, each
/// with four limits, two parts of them that other hosts share, and budgets of every period, of which the
/// last one is kept for two days, are 180,000; the others are for the file's.
const TABLES_MAX: usize = 16;
/// Places in which a row can be, in each table.
const STRETCH: usize = 128;
const HEADER_BYTES: usize = 4096;
const TABLE_BYTES: usize = ROWS * size_of::<Row>();
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

/// What stands before the rows; see [`Head`].
#[repr(C)]
struct Header {
    magic: AtomicU64,
    /// Not 0: a process has, or had, this column.
    used: [AtomicU64; COLUMNS],
    /// Tables beyond the first.
    more: AtomicU64,
    /// As `used`, for the tables beyond the first: programs that know one table alone clear but that.
    used_more: [AtomicU64; COLUMNS],
}

const _: () = assert!(size_of::<Header>() == size_of::<Head>());

/// What each account stood at at that moment, when this process came and no other was there.
pub(super) type Found = (SystemTime, AHashMap<u64, i64>);

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

    /// With what was found, where no other process had the file.
    pub(super) fn open(state_dir: &Path) -> io::Result<(Self, Option<Found>)> {
        let is_sound = |head: &Head| head[0] == MAGIC && head[1 + COLUMNS] < TABLES_MAX as u64;
        let begin = |opened: Opened| {
            let Opened { file, to_map } = opened;
            let whole = file.metadata()?.len();
            file::make_room(&file, 0, HEADER_BYTES + TABLE_BYTES)?;
            // What the file doesn't have yet isn't looked at before it does.
            let length = HEADER_BYTES + TABLES_MAX * TABLE_BYTES;
            let map = MmapOptions::new().len(length).map_raw(&to_map)?;
            let mut mapped = Mapped {
                map,
                file,
                column: 0,
                making: Mutex::default(),
            };
            mapped.header().magic.store(MAGIC, Ordering::Release);
            let bytes = HEADER_BYTES + mapped.tables() * TABLE_BYTES;
            if whole > 0 && whole < bytes as u64 {
                tracing::error!(
                    "{FILE} was cut to {whole} bytes of {bytes}: what is missing is taken from the books \
                     of usage"
                );
                file::make_room(&mapped.file, 0, bytes)?;
            }
            mapped.column = mapped.join()?;
            mapped.sweep();
            let found = mapped.is_alone().then(|| mapped.found());
            Ok((Self::Mapped(mapped), found))
        };
        file::open(state_dir, LOCK_OF_ROWS, is_sound, begin)
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
        let free = || self.stretch(id).find(|row| self.at(*row).is_free(now));
        let row = self.find(id).or_else(|| {
            let free = free().or_else(|| self.make_longer().then(free).flatten())?;
            self.at(free).begin(id);
            Some(free)
        })?;
        self.at(row).keep_until(until);
        Some(row)
    }

    /// Adds a table; false where it can't be. Under the lock.
    fn make_longer(&self) -> bool {
        let Self::Mapped(mapped) = self else {
            return false;
        };
        let tables = mapped.tables();
        if tables == TABLES_MAX {
            return false;
        }
        let end = HEADER_BYTES + tables * TABLE_BYTES;
        if let Err(error) = file::make_room(&mapped.file, end, TABLE_BYTES) {
            tracing::error!(%error, "{FILE} can't be made longer: make room on the disk of state_dir");
            return false;
        }
        mapped.header().more.store(tables as u64, Ordering::Release);
        true
    }

    pub(super) fn find(&self, id: u64) -> Option<usize> {
        (self.stretch(id)).find(|row| self.at(*row).id.load(Ordering::Acquire) == id)
    }

    fn stretch(&self, id: u64) -> impl Iterator<Item = usize> + use<> {
        let all = self.rows().len();
        let count = all.min(ROWS);
        let first = usize::try_from(id % count as u64).unwrap_or_default();
        let steps = move |table: usize| (0..STRETCH).map(move |it| table + (first + it) % count);
        (0..all).step_by(count).flat_map(steps)
    }

    /// See [`Accounts::take_back_grants`](super::Accounts::take_back_grants).
    pub(super) fn take_back_grants(&self) {
        for row in self.rows() {
            let total = row.total.load(Ordering::SeqCst);
            let granted = row.granted.load(Ordering::SeqCst);
            let is_shared = granted != i64::MAX && row.alone.load(Ordering::Relaxed) == 0;
            if is_shared && granted > total {
                row.granted.store(total, Ordering::SeqCst);
            }
        }
    }

    /// Gives back what processes held that are gone.
    pub(super) fn sweep(&self) {
        if let Self::Mapped(mapped) = self {
            mapped.sweep();
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
                self.header().used_more[column].store(1, Ordering::Release);
                return Ok(column);
            }
        }
        Err(io::Error::other(format!(
            "{COLUMNS} processes use {FILE} already"
        )))
    }

    fn sweep(&self) {
        for column in (0..COLUMNS).filter(|it| *it != self.column) {
            let header = self.header();
            let used = [&header.used[column], &header.used_more[column]];
            if used.iter().all(|it| it.load(Ordering::Acquire) == 0) {
                continue;
            }
            // Whoever has the lock lives.
            if let Some(_lock) = Lock::take(&self.file, column) {
                self.clear(column);
                used.iter().for_each(|it| it.store(0, Ordering::Release));
            }
        }
    }

    fn clear(&self, column: usize) {
        for row in self.rows() {
            let held = &row.held[column];
            // Looked at first: what is only read needs no page of the disk.
            if held.load(Ordering::Relaxed) != 0 {
                row.change(-i128::from(held.swap(0, Ordering::Relaxed)));
            }
        }
    }

    /// True where no other process has a column.
    fn is_alone(&self) -> bool {
        (0..COLUMNS).all(|it| it == self.column || Lock::take(&self.file, it).is_some())
    }

    /// What is there, of a process that is alone.
    fn found(&self) -> Found {
        let rows = self.rows().iter();
        let totals = rows
            .map(|row| {
                row.bucket().forget_mover();
                let total = row.total.load(Ordering::Relaxed);
                (row.id.load(Ordering::Acquire), total)
            })
            .filter(|(id, total)| *id != 0 && *total != 0)
            .collect();
        (SystemTime::now(), totals)
    }

    fn tables(&self) -> usize {
        let more = self.header().more.load(Ordering::Acquire);
        usize::try_from(more).map_or(1, |more| more.min(TABLES_MAX - 1) + 1)
    }

    fn header(&self) -> &Header {
        // SAFETY: the map is page-aligned, longer than a header, writable and lives as long as `self`;
        // every bit pattern is a sound `Header`, which consists of atomics alone.
        unsafe { &*self.map.as_ptr().cast::<Header>() }
    }

    fn rows(&self) -> &[Row] {
        // SAFETY: the map holds all tables that can be after the header, whose length is a multiple of a
        // row's alignment, and whoever counts one more has made the file as long; rows consist of
        // atomics, so others may change them.
        unsafe {
            let first = self.map.as_ptr().add(HEADER_BYTES).cast::<Row>();
            std::slice::from_raw_parts(first, self.tables() * ROWS)
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
        let held = self.held.iter().map(|it| it.load(Ordering::Relaxed));
        held.fold(0, i64::saturating_add)
    }

    /// Adds to the total, which stays in range.
    pub(super) fn change(&self, by: i128) {
        let next = |total: i64| {
            let sum = (i128::from(total) + by).clamp(i64::MIN.into(), i64::MAX.into());
            i64::try_from(sum).ok()
        };
        // The sum is in range: there is always an answer.
        let _ = (self.total).fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
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
