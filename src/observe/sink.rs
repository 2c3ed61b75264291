//! Where log lines go: standard output, or a file that is rotated and compressed.
//!
//! A request only appends to a buffer; one thread writes, at most once in `PAUSE`, so that a
//! request never waits for a disk and a busy host makes few system calls. A full disk costs log
//! lines (counted), never traffic.

use super::rotated::Rotated;
use super::settings::LogFile;
use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Between two writes: how late a line may be.
const PAUSE: Duration = Duration::from_millis(20);
/// How long an end waits for the last lines.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lines that wait for a slow disk may take this much.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// The request's end of a log.
#[derive(Debug)]
pub struct Sink {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something to write, or to do.
    work: Condvar,
    /// All that was there has been written.
    idle: Condvar,
    dropped: IntCounter,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    lines: u64,
    writing: bool,
    parked: bool,
    hurry: bool,
    reopen: bool,
    /// Another process rotates the file.
    follows: bool,
    closed: bool,
}

impl Sink {
    /// Opens the file, or standard output, and starts the writing thread.
    ///
    /// # Errors
    /// When the file's folder or the file can't be made or written.
    pub fn open(file: Option<&LogFile>, dropped: IntCounter) -> io::Result<Self> {
        let output = Output::open(file, false)?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            dropped,
        });
        let writer = Arc::clone(&shared);
        let file = file.cloned();
        let thread = thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer.run(output, file.as_ref()))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Appends what `line` writes; it must end with a newline.
    pub fn write(&self, line: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.shared.state.lock();
        if state.waiting.len() > WAITING_BYTES_MAX {
            self.shared.dropped.inc();
            return;
        }
        let wake = std::mem::take(&mut state.parked);
        line(&mut state.waiting);
        state.lines += 1;
        drop(state);
        if wake {
            self.shared.work.notify_one();
        }
    }

    /// Opens the file anew before the next line.
    pub fn reopen(&self) {
        self.shared.state.lock().reopen = true;
        self.shared.work.notify_one();
    }

    /// Says whether this process rotates the file. Where several write to it only one may: the others
    /// find it anew for each batch of lines, so that a line never goes to a file that was rotated.
    pub fn rotate(&self, rotate: bool) {
        let mut state = self.shared.state.lock();
        if state.follows == rotate {
            (state.follows, state.reopen) = (!rotate, true);
            self.shared.work.notify_one();
        }
    }

    /// Returns when all lines so far are written; `false` when the output takes nothing for longer
    /// than `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.shared.state.lock();
        state.hurry = true;
        self.shared.work.notify_one();
        while !state.waiting.is_empty() || state.writing {
            if self.shared.idle.wait_until(&mut state, until).timed_out() {
                return false;
            }
        }
        state.hurry = false;
        true
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let written = self.flush(PATIENCE);
        self.shared.state.lock().closed = true;
        self.shared.work.notify_one();
        // A thread that hangs in its output is left behind: weir must be able to end.
        if let Some(thread) = self.thread.take().filter(|_| written)
            && thread.join().is_err()
        {
            tracing::error!("the access log's thread had panicked");
        }
    }
}

impl Shared {
    fn run(&self, mut output: Output, file: Option<&LogFile>) {
        let mut batch = Vec::new();
        let mut failing = false;
        loop {
            let mut state = self.state.lock();
            while state.waiting.is_empty() && !state.reopen && !state.closed {
                state.parked = true;
                self.work.wait(&mut state);
            }
            state.parked = false;
            if state.closed && state.waiting.is_empty() {
                return;
            }
            let reopen = std::mem::take(&mut state.reopen);
            let follows = state.follows;
            let lines = std::mem::take(&mut state.lines);
            std::mem::swap(&mut state.waiting, &mut batch);
            state.writing = true;
            drop(state);

            if reopen {
                match Output::open(file, follows) {
                    Ok(opened) => output = opened,
                    Err(error) => tracing::error!(%error, "the access log could not be reopened"),
                }
            }
            match output.write(&batch) {
                Ok(()) => failing = false,
                Err(error) => {
                    self.dropped.inc_by(lines);
                    if !failing {
                        tracing::error!(%error, lines, "access log lines are being lost");
                    }
                    failing = true;
                }
            }
            batch.clear();
            batch.shrink_to(1 << 20);

            let mut state = self.state.lock();
            state.writing = false;
            self.idle.notify_all();
            if !state.hurry && !state.closed {
                self.work.wait_for(&mut state, PAUSE);
            }
        }
    }
}

enum Output {
    Stdout,
    File(Rotated),
    /// A file that another process rotates.
    Shared(std::path::PathBuf),
}

impl Output {
    fn open(file: Option<&LogFile>, follows: bool) -> io::Result<Self> {
        let Some(file) = file else {
            return Ok(Self::Stdout);
        };
        let opened = Rotated::open(file).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", file.path.display()))
        })?;
        Ok(if follows {
            Self::Shared(file.path.clone())
        } else {
            Self::File(opened)
        })
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(batch)?;
                stdout.flush()
            }
            Self::File(file) => file.write(batch),
            Self::Shared(path) => {
                let mut options = std::fs::OpenOptions::new();
                let mut file = options.append(true).create(true).open(path)?;
                file.write_all(batch)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn a_reopened_log_goes_on_in_the_file_of_that_name() {
        let folder = folder("reopen");
        let file = LogFile {
            path: folder.join("access.log"),
            size_bytes_max: 1 << 20,
            keep: 2,
            compress: false,
        };
        let sink = Sink::open(Some(&file), counter()).unwrap();
        sink.write(|line| line.extend_from_slice(b"one\n"));
        assert!(sink.flush(PATIENCE));
        std::fs::rename(&file.path, folder.join("moved")).unwrap();
        sink.reopen();
        sink.write(|line| line.extend_from_slice(b"two\n"));
        drop(sink);
        assert_eq!(
            std::fs::read_to_string(folder.join("moved")).unwrap(),
            "one\n"
        );
        assert_eq!(std::fs::read_to_string(&file.path).unwrap(), "two\n");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_log_that_cannot_be_opened_says_which() {
        let file = LogFile {
            path: "/proc/nowhere/access.log".into(),
            size_bytes_max: 1,
            keep: 1,
            compress: false,
        };
        let error = Sink::open(Some(&file), counter()).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere/access.log"));
    }
}
