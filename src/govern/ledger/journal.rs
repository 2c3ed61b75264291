//! The journal: one line a settled request, appended with one `write` to a file that no other process
//! writes to.
//!
//! Where the disk takes no line, lines wait in memory, up to [`WAITING_BYTES_MAX`]; beyond it the newest
//! are dropped, and counted. A request never waits for the disk to have room: a thread tries again.
//! What the system has taken survives the process; what `fsync` hasn't reached may be lost with the
//! machine.

use super::Fault;
use super::entry::Instance;
use super::segment::Name;
use super::settings::Settings;
use crate::observe::Books;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Lines that wait for the disk.
pub(super) const WAITING_BYTES_MAX: usize = 64 << 20;
/// How often the thread looks.
const TICK: Duration = Duration::from_secs(1);
/// The same, while lines wait.
const RETRY: Duration = Duration::from_millis(200);

/// The journal of this process.
#[derive(Debug)]
pub(super) struct Journal {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    segment_bytes_max: u64,
    segment_age_max: Duration,
    fsync: Option<Duration>,
    books: Books,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    segment: Segment,
    waiting: Waiting,
    /// The disk takes nothing: it is known, and was told of.
    failing: bool,
    stopped: bool,
}

/// The file that lines go to.
#[derive(Debug)]
struct Segment {
    name: Name,
    file: Arc<File>,
    bytes: u64,
    /// How much of it is durable.
    durable: u64,
    opened: Instant,
    /// It ends in a piece of a line that couldn't be taken back.
    torn: bool,
}

/// Lines in memory, in blocks of many.
#[derive(Debug, Default)]
struct Waiting {
    blocks: VecDeque<Vec<u8>>,
    bytes: usize,
}

// === impl Journal ===

impl Journal {
    /// Makes the folder and the first segment.
    pub(super) fn open(settings: &Settings, books: Books) -> Result<Arc<Self>, Fault> {
        let folder = settings.journal();
        make_folder(&folder)
            .map_err(|error| Fault::of("usage is kept in state_dir, but", &folder, error))?;
        let name = Name {
            instance: Instance::new(SystemTime::now()),
            part: 1,
        };
        let segment = Segment::open(name, &folder)
            .map_err(|error| Fault::of("usage can't be written to", &name.path(&folder), error))?;
        let shared = Arc::new(Shared {
            folder,
            segment_bytes_max: settings.segment_bytes_max,
            segment_age_max: settings.segment_age_max,
            fsync: settings.fsync,
            books,
            state: Mutex::new(State {
                segment,
                waiting: Waiting::default(),
                failing: false,
                stopped: false,
            }),
            wake: Condvar::new(),
        });
        let work = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || work.tend())
            .map_err(|error| Fault(format!("no thread for the journal of usage: {error}")))?;
        Ok(Arc::new(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Appends a line, which ends in `\n`.
    pub(super) fn append(&self, line: &[u8]) {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        shared.books.appended.inc();
        if state.waiting.bytes == 0 {
            match state.segment.write(line) {
                Ok(()) => {
                    if state.segment.bytes >= shared.segment_bytes_max {
                        shared.rotate(&mut state);
                    }
                    return;
                }
                Err(error) => shared.failed(&mut state, &error),
            }
        }
        if state.waiting.bytes + line.len() > WAITING_BYTES_MAX {
            shared.books.dropped.inc();
            return;
        }
        state.waiting.push(line);
        shared.books.waiting(state.waiting.bytes);
    }

    /// Ends the thread, writes what waits and makes it durable. Lines may still be appended.
    pub(super) fn finish(&self) {
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        self.shared.state.lock().stopped = true;
        self.shared.wake.notify_all();
        if thread.join().is_err() {
            tracing::error!("the journal's thread ended too early");
        }
        let mut state = self.shared.state.lock();
        self.shared.write_waiting(&mut state);
        if state.waiting.bytes > 0 {
            let bytes = state.waiting.bytes;
            tracing::error!(bytes, "the disk takes no usage: what waits is lost");
        }
        drop(state);
        if self.shared.fsync.is_some() {
            self.shared.make_durable();
        }
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

// === impl Shared ===

impl Shared {
    /// What the thread does: tries the disk again, makes lines durable, closes segments by age.
    fn tend(&self) {
        let mut synced = Instant::now();
        loop {
            let mut state = self.state.lock();
            if !state.stopped {
                let patience = match (state.waiting.bytes, self.fsync) {
                    (0, Some(fsync)) => TICK.min(fsync),
                    (0, None) => TICK,
                    _ => RETRY,
                };
                self.wake.wait_for(&mut state, patience);
            }
            if state.stopped {
                return;
            }
            self.write_waiting(&mut state);
            let age = state.segment.opened.elapsed();
            if age >= self.segment_age_max && state.segment.bytes > 0 {
                self.rotate(&mut state);
            }
            drop(state);
            if self.fsync.is_some_and(|every| synced.elapsed() >= every) {
                self.make_durable();
                synced = Instant::now();
            }
        }
    }

    fn write_waiting(&self, state: &mut State) {
        while let Some(block) = state.waiting.blocks.front() {
            if let Err(error) = state.segment.write(block) {
                self.failed(state, &error);
                break;
            }
            state.waiting.pop();
            if state.segment.bytes >= self.segment_bytes_max {
                self.rotate(state);
            }
        }
        self.books.waiting(state.waiting.bytes);
        if state.waiting.bytes == 0 && std::mem::take(&mut state.failing) {
            tracing::info!("the disk takes usage again: nothing waits");
        }
    }

    fn failed(&self, state: &mut State, error: &io::Error) {
        self.books.failed("journal");
        if !std::mem::replace(&mut state.failing, true) {
            tracing::error!(
                %error,
                folder = %self.folder.display(),
                "usage can't be written: it waits in memory, and is lost with this process; make room \
                 on the disk"
            );
        }
    }

    fn rotate(&self, state: &mut State) {
        let name = Name {
            part: state.segment.name.part + 1,
            ..state.segment.name
        };
        // Said once more by each line that is too many.
        match Segment::open(name, &self.folder) {
            Ok(next) => {
                let last = std::mem::replace(&mut state.segment, next);
                // Durable before it is given up: nobody looks after it any more.
                if self.fsync.is_some() && last.durable < last.bytes {
                    let _ = last.file.sync_data();
                }
            }
            Err(error) => {
                // It goes on with the one that it has.
                state.segment.opened = Instant::now();
                self.failed(state, &error);
            }
        }
    }

    fn make_durable(&self) {
        let (name, file, bytes, is_new) = {
            let segment = &self.state.lock().segment;
            if segment.durable == segment.bytes {
                return;
            }
            let is_new = segment.durable == 0;
            (
                segment.name,
                Arc::clone(&segment.file),
                segment.bytes,
                is_new,
            )
        };
        // A file is found after a power cut only when its folder knows of it.
        let folder = || File::open(&self.folder)?.sync_all();
        let done = (file.sync_data()).and_then(|()| if is_new { folder() } else { Ok(()) });
        let mut state = self.state.lock();
        match done {
            Ok(()) if state.segment.name == name => state.segment.durable = bytes,
            Ok(()) => {}
            Err(error) => self.failed(&mut state, &error),
        }
    }
}

// === impl Segment ===

impl Segment {
    fn open(name: Name, folder: &Path) -> io::Result<Self> {
        let file = name.create(folder)?;
        Ok(Self {
            name,
            bytes: file.metadata()?.len(),
            durable: 0,
            file: Arc::new(file),
            opened: Instant::now(),
            torn: false,
        })
    }

    /// Writes whole lines, or nothing.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut file = &*self.file;
        if self.torn {
            file.write_all(b"\n")?;
            self.bytes += 1;
            self.torn = false;
        }
        loop {
            match file.write(lines) {
                Ok(count) if count == lines.len() => {
                    self.bytes += count as u64;
                    return Ok(());
                }
                Ok(count) => {
                    // There was room for a piece.
                    if file.set_len(self.bytes).is_err() {
                        self.bytes += count as u64;
                        self.torn = count > 0;
                    }
                    return Err(io::ErrorKind::StorageFull.into());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

// === impl Waiting ===

impl Waiting {
    const BLOCK_BYTES: usize = 64 << 10;

    fn push(&mut self, line: &[u8]) {
        self.bytes += line.len();
        match self.blocks.back_mut() {
            Some(block) if block.len() + line.len() <= Self::BLOCK_BYTES => {
                block.extend_from_slice(line);
            }
            _ => {
                let mut block = Vec::with_capacity(Self::BLOCK_BYTES.max(line.len()));
                block.extend_from_slice(line);
                self.blocks.push_back(block);
            }
        }
    }

    fn pop(&mut self) {
        if let Some(block) = self.blocks.pop_front() {
            self.bytes -= block.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::govern::folder::Folder;
    use crate::govern::ledger::settings::Store;

    fn journal(name: &str) -> (Arc<Journal>, Books, Folder) {
        let folder = Folder::missing(&format!("journal-{name}"));
        let books = Books::default();
        let settings = Settings {
            state_dir: folder.0.clone(),
            store: Store::Sqlite,
            retain: Duration::from_secs(86_400),
            fsync: None,
            segment_bytes_max: 1000,
            // Its thread has nothing to do by itself.
            segment_age_max: Duration::MAX,
        };
        let journal = Journal::open(&settings, books.clone()).unwrap();
        (journal, books, folder)
    }

    /// Lets the disk be full.
    fn fill_disk(journal: &Journal) -> Arc<File> {
        let full = File::options().append(true).open("/dev/full").unwrap();
        let mut state = journal.shared.state.lock();
        std::mem::replace(&mut state.segment.file, Arc::new(full))
    }

    fn lines(folder: &Folder) -> Vec<u8> {
        let folder = folder.0.join("usage");
        let all = Name::all(&folder).unwrap().into_iter();
        all.flat_map(|name| std::fs::read(name.path(&folder)).unwrap())
            .collect()
    }

    #[test]
    fn a_segment_is_closed_past_its_size_and_no_line_is_cut() {
        let (journal, _, folder) = journal("size");
        let line = [[b'x'; 299].as_slice(), b"\n"].concat();
        // The fourth passes 1000 bytes.
        for _ in 0..9 {
            journal.append(&line);
        }
        let usage = folder.0.join("usage");
        let sizes: Vec<_> = Name::all(&usage)
            .unwrap()
            .into_iter()
            .map(|name| std::fs::metadata(name.path(&usage)).unwrap().len())
            .collect();
        assert_eq!(sizes, [1200, 1200, 300]);
    }

    #[test]
    fn what_the_disk_does_not_take_waits_and_is_written_in_order() {
        let (journal, books, folder) = journal("full");
        journal.append(b"1\n");
        let disk = fill_disk(&journal);
        for line in ["2\n", "3\n"] {
            journal.append(line.as_bytes());
        }
        assert_eq!(journal.shared.state.lock().waiting.bytes, 4);
        assert_eq!(lines(&folder), b"1\n");
        journal.shared.state.lock().segment.file = disk;
        journal.finish();
        journal.append(b"4\n");
        assert_eq!(lines(&folder), b"1\n2\n3\n4\n");
        assert_eq!((books.appended.get(), books.dropped.get()), (4, 0));
    }

    #[test]
    fn no_more_waits_than_the_bound_and_what_is_dropped_is_counted() {
        let (journal, books, folder) = journal("bound");
        let disk = fill_disk(&journal);
        let line = vec![b'x'; 1 << 20];
        let fitting = WAITING_BYTES_MAX / line.len();
        for _ in 0..fitting {
            journal.append(&line);
        }
        assert_eq!(books.dropped.get(), 0);
        assert_eq!(journal.shared.state.lock().waiting.bytes, WAITING_BYTES_MAX);
        journal.append(b"\n");
        assert_eq!(books.dropped.get(), 1);
        journal.shared.state.lock().segment.file = disk;
        journal.finish();
        assert_eq!(lines(&folder).len(), WAITING_BYTES_MAX);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let settings = Settings {
            state_dir: "/dev/null/weir".into(),
            store: Store::Sqlite,
            retain: Duration::from_secs(86_400),
            fsync: None,
            segment_bytes_max: 1000,
            segment_age_max: Duration::MAX,
        };
        let Err(fault) = Journal::open(&settings, Books::default()) else {
            panic!("it was opened");
        };
        assert!(
            fault.to_string().contains("/dev/null/weir/usage"),
            "{fault}"
        );
    }
}
