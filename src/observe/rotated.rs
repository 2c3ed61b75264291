//! A log file that is rotated by size: `access.log`, `access.log.1`, `access.log.2`, … or, compressed,
//! `access.log.1.gz`, …; the highest number is the oldest.
//!
//! Several processes write to one file while one generation of weir takes over from another, and any of
//! them may end at any moment. So:
//!
//! - each batch of lines goes to the file that has the name now, whoever made it;
//! - a rotation takes the old file away (`access.log.rotating`), makes the new one, and only then moves
//!   the numbered ones; what fails on the way leaves every line where it can be found;
//! - a rotated file is compressed by a thread of its own, when nobody has written to it for a while, to
//!   `.gz.part`, which gets its name when it is whole and on the disk: what ends in `.gz` can be read;
//! - a rotation and a compression hold a lock on the folder; a rotation that finds it taken is put off.
//!
//! Only regular files are rotated. [`super::sink`] calls it; it never waits for a compression.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;

use super::settings::LogFile;

/// A rotated file is compressed when nobody has written to it for so long: another process may have
/// opened it just before it was rotated.
const QUIET: Duration = Duration::from_secs(1);

/// Between a rotation that failed and the next try.
const PAUSE: Duration = Duration::from_secs(30);

/// Files with higher numbers aren't ours, but somebody's with a date.
const NUMBER_MAX: usize = 10_000;

/// The file that is written, and how it is rotated.
#[derive(Debug)]
pub(super) struct Rotated {
    settings: LogFile,
    file: File,
    /// A write ended within a line.
    torn: bool,
    /// No rotation before this.
    not_before: Option<Instant>,
    /// The last rotation failed, which was said.
    failing: bool,
    compressor: Arc<Compressor>,
}

/// Compresses rotated files, one thread at a time.
#[derive(Debug)]
struct Compressor {
    path: PathBuf,
    quiet: Duration,
    /// Whether the thread runs. Locked while files are renamed or compressed: a file system may have no
    /// locks of its own.
    running: Mutex<bool>,
}

impl Rotated {
    /// Opens the file to append to it; makes it, and its folder, where there is none. A link is followed
    /// once, here.
    ///
    /// # Errors
    /// When the folder or the file can't be made or written.
    pub(super) fn open(settings: &LogFile) -> io::Result<Self> {
        Self::with(settings, QUIET)
    }

    fn with(settings: &LogFile, quiet: Duration) -> io::Result<Self> {
        let file = appended(&settings.path)?;
        let mut settings = settings.clone();
        if let Ok(path) = fs::canonicalize(&settings.path) {
            settings.path = path;
        }
        let compressor = Compressor {
            path: settings.path.clone(),
            quiet,
            running: Mutex::new(false),
        };
        Ok(Self {
            settings,
            file,
            torn: false,
            not_before: None,
            failing: false,
            compressor: Arc::new(compressor),
        })
    }

    /// Appends whole lines, in a new file where the old one has grown past its size. A rotation that
    /// fails is logged, and the lines go on into the old file.
    ///
    /// # Errors
    /// When the lines can't be written.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut found = self.follow()?;
        if found.is_file() && found.len() > self.settings.size_bytes_max as u64 && self.may() {
            match self.rotate() {
                Ok(()) => self.failing = false,
                Err(error) => self.put_off(&error),
            }
            found = self.file.metadata()?;
        }
        if self.torn {
            self.file.write_all(b"\n")?;
        }
        let written = self.file.write_all(lines);
        self.torn = match &written {
            Ok(()) => false,
            Err(_) => self.torn || self.file.metadata()?.len() != found.len(),
        };
        written
    }

    /// Goes on in the file that has the name now, where another process rotated or somebody put a new one
    /// there. One that was only moved is written to until [`super::Sink::reopen`], as others that rotate
    /// logs expect; one that is gone isn't.
    fn follow(&mut self) -> io::Result<Metadata> {
        let open = self.file.metadata()?;
        if !open.is_file() {
            return Ok(open);
        }
        match fs::metadata(&self.settings.path) {
            Ok(named) if is_same(&open, &named) => return Ok(named),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && open.nlink() > 0 => {
                return Ok(open);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.file = appended(&self.settings.path)?;
        self.torn = false;
        self.file.metadata()
    }

    fn may(&self) -> bool {
        self.not_before
            .is_none_or(|moment| Instant::now() >= moment)
    }

    fn put_off(&mut self, error: &io::Error) {
        if !self.failing {
            let file = self.settings.path.display();
            tracing::error!(%error, %file, "the access log can't be rotated; it grows on");
        }
        self.failing = true;
        self.not_before = Some(Instant::now() + PAUSE);
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.settings.path;
        let Some(mut compressing) = self.compressor.running.try_lock() else {
            return Ok(());
        };
        let Some(_lock) = locked(folder(path))? else {
            return Ok(());
        };
        let open = self.file.metadata()?;
        let is_there = fs::symlink_metadata(path).is_ok_and(|named| is_same(&open, &named));
        if !is_there {
            // Somebody else was quicker; the next batch finds the new file.
            return Ok(());
        }
        let away = with_end(path, ".rotating");
        if !fs::symlink_metadata(&away).is_ok_and(|it| it.is_file()) {
            fs::rename(path, &away)?;
            self.file = renewed(path, open.permissions()).inspect_err(|_| {
                drop(fs::rename(&away, path));
            })?;
        }
        make_room(path, self.settings.keep)?;
        if self.settings.keep == 0 {
            return remove(&away);
        }
        fs::rename(&away, numbered(path, 1, false))?;
        if self.settings.compress && !*compressing {
            let compressor = Arc::clone(&self.compressor);
            thread::Builder::new()
                .name("log-compress".into())
                .spawn(move || compressor.run())?;
            *compressing = true;
        }
        Ok(())
    }
}

impl Compressor {
    /// Compresses what is there to be compressed, then ends.
    fn run(&self) {
        loop {
            thread::sleep(self.quiet);
            let mut running = self.running.lock();
            match locked(folder(&self.path)) {
                // Another process rotates or compresses.
                Ok(None) => continue,
                Ok(Some(_lock)) if self.compress_all() => continue,
                Ok(Some(_)) => {}
                Err(error) => tracing::error!(%error, "rotated logs stay uncompressed"),
            }
            *running = false;
            return;
        }
    }

    /// Compresses all rotated files that aren't, also those that an earlier process left behind; true
    /// when there are some that may still be written to.
    fn compress_all(&self) -> bool {
        let mut again = false;
        let Ok(all) = rotated(&self.path) else {
            return false;
        };
        for (number, compressed) in all {
            let to = numbered(&self.path, number, true);
            // Nobody else compresses now: it was left by a process that ended.
            drop(fs::remove_file(with_end(&to, ".part")));
            if compressed {
                continue;
            }
            let from = numbered(&self.path, number, false);
            match compress(&from, &to, self.quiet) {
                Ok(true) => {}
                Ok(false) => again = true,
                Err(error) => {
                    let file = from.display();
                    tracing::error!(%error, %file, "a rotated log stays uncompressed");
                }
            }
        }
        again
    }
}

/// Opens `path` for appending, with its folder.
fn appended(path: &Path) -> io::Result<File> {
    fs::create_dir_all(folder(path))?;
    OpenOptions::new().append(true).create(true).open(path)
}

/// The new file at `path`, with the permissions of the old one.
fn renewed(path: &Path, permissions: Permissions) -> io::Result<File> {
    let file = appended(path)?;
    // An owner who may write but not change the mode loses only the mode.
    drop(file.set_permissions(permissions));
    Ok(file)
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The lock on a folder, until the file is dropped; `None` while somebody else has it.
fn locked(folder: &Path) -> io::Result<Option<File>> {
    let file = File::open(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        // A file system without locks: then nobody else has one either.
        Err(TryLockError::Error(_)) => Ok(Some(file)),
    }
}

/// `access.log.7` or `access.log.7.gz`.
fn numbered(path: &Path, number: usize, compressed: bool) -> PathBuf {
    let end = if compressed { ".gz" } else { "" };
    with_end(path, &format!(".{number}{end}"))
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

/// The rotated files of `path`, newest first, each with whether it is compressed; of two with one number
/// the compressed one first.
fn rotated(path: &Path) -> io::Result<Vec<(usize, bool)>> {
    let mut found = Vec::new();
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(found);
    };
    for entry in fs::read_dir(folder(path))? {
        let entry = entry?.file_name();
        let Some(rest) = entry.to_str().and_then(|entry| entry.strip_prefix(name)) else {
            continue;
        };
        let Some(number) = rest.strip_prefix('.') else {
            continue;
        };
        let (number, compressed) = match number.strip_suffix(".gz") {
            Some(number) => (number, true),
            None => (number, false),
        };
        // Only numbers as they are written here: no sign, no zero in front.
        if let Ok(parsed) = number.parse::<usize>()
            && (1..=NUMBER_MAX).contains(&parsed)
            && parsed.to_string() == number
        {
            found.push((parsed, compressed));
        }
    }
    found.sort_unstable_by_key(|(number, compressed)| (*number, !compressed));
    Ok(found)
}

/// Frees the number 1: the files from there up to the first gap get the next number each. Those past
/// `keep` go.
fn make_room(path: &Path, keep: usize) -> io::Result<()> {
    let all = rotated(path)?;
    let gap = (1..).find(|number| all.iter().all(|(other, _)| other != number));
    let gap = gap.unwrap_or(usize::MAX);
    for (number, compressed) in all.into_iter().rev() {
        let old = numbered(path, number, compressed);
        let next = if number < gap { number + 1 } else { number };
        // Compressed already, and the process ended before it removed the plain file.
        let twice = !compressed && numbered(path, number, true).exists();
        if next > keep || twice {
            remove(&old)?;
        } else if next != number {
            fs::rename(old, numbered(path, next, compressed))?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Compresses `from` to `to`, which is whole and on the disk before it has its name; `false` when
/// somebody has written to `from` just now.
fn compress(from: &Path, to: &Path, quiet: Duration) -> io::Result<bool> {
    let part = with_end(to, ".part");
    let written = (|| {
        let mut source = File::open(from)?;
        let before = source.metadata()?;
        // A clock that was set back makes nobody wait.
        if before.modified()?.elapsed().is_ok_and(|age| age < quiet) {
            return Ok(false);
        }
        let target = File::create(&part)?;
        target.set_permissions(before.permissions())?;
        let mut encoder = GzEncoder::new(target, Compression::default());
        let read = io::copy(&mut source, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        Ok(source.metadata()?.len() == read)
    })();
    if let Ok(true) = written {
        fs::rename(&part, to)?;
        fs::remove_file(from)?;
    } else {
        drop(fs::remove_file(&part));
    }
    written
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&path));
            fs::create_dir_all(&path).unwrap();
            Self(fs::canonicalize(path).unwrap())
        }

        /// A log that is rotated past 10 bytes and compressed at once.
        fn log(&self, keep: usize, compress: bool) -> Rotated {
            let settings = LogFile {
                path: self.0.join("access.log"),
                size_bytes_max: 10,
                keep,
                compress,
            };
            Rotated::with(&settings, Duration::ZERO).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }

        fn put(&self, name: &str, text: &str) {
            fs::write(self.0.join(name), text).unwrap();
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap()
        }

        fn unzipped(&self, name: &str) -> String {
            let mut text = String::new();
            flate2::read::GzDecoder::new(File::open(self.0.join(name)).unwrap())
                .read_to_string(&mut text)
                .unwrap();
            text
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    /// Waits until nothing is left to be compressed.
    fn settle(log: &Rotated) {
        let until = Instant::now() + Duration::from_secs(20);
        while *log.compressor.running.lock() {
            assert!(Instant::now() < until, "it compresses for ever");
            thread::yield_now();
        }
    }

    #[test]
    fn a_file_is_rotated_when_it_has_grown_past_its_size_and_not_at_it() {
        let folder = Folder::new("rotated-size");
        let mut log = folder.log(2, false);
        log.write(b"12345678\n").unwrap();
        log.write(b"\n").unwrap();
        log.write(b"at\n").unwrap();
        assert_eq!(folder.names(), ["access.log"], "at its size it goes on");
        log.write(b"past\n").unwrap();
        assert_eq!(folder.names(), ["access.log", "access.log.1"]);
        assert_eq!(folder.read("access.log.1"), "12345678\n\nat\n");
        assert_eq!(folder.read("access.log"), "past\n");
    }

    #[test]
    fn the_oldest_goes_and_none_is_kept_where_none_is_wanted() {
        for (keep, names) in [
            (2, &["access.log", "access.log.1", "access.log.2"][..]),
            (1, &["access.log", "access.log.1"]),
            (0, &["access.log"]),
        ] {
            let folder = Folder::new(&format!("rotated-keep-{keep}"));
            let mut log = folder.log(keep, false);
            for number in 0..6 {
                log.write(format!("number {number} is it\n").as_bytes())
                    .unwrap();
            }
            assert_eq!(folder.names(), names);
            for (age, name) in names.iter().enumerate() {
                assert_eq!(folder.read(name), format!("number {} is it\n", 5 - age));
            }
        }
    }

    #[test]
    fn several_processes_rotate_one_file_and_lose_no_line() {
        let folder = Folder::new("rotated-two");
        let (mut one, mut other) = (folder.log(9, false), folder.log(9, false));
        one.write(b"one is past its size\n").unwrap();
        one.write(b"two\n").unwrap();
        // The other one still had the file that is access.log.1 now.
        other.write(b"three is long enough\n").unwrap();
        other.write(b"four\n").unwrap();
        one.write(b"five\n").unwrap();
        assert_eq!(folder.read("access.log.2"), "one is past its size\n");
        assert_eq!(folder.read("access.log.1"), "two\nthree is long enough\n");
        assert_eq!(folder.read("access.log"), "four\nfive\n");
    }

    #[test]
    fn a_rotated_file_is_compressed_when_nobody_writes_to_it_any_more() {
        let folder = Folder::new("rotated-quiet");
        let (from, to) = (folder.0.join("a"), folder.0.join("a.gz"));
        let hour = Duration::from_secs(3600);
        folder.put("a", "just now");
        assert!(!compress(&from, &to, hour).unwrap());
        assert_eq!(folder.names(), ["a"]);
        let before = std::time::SystemTime::now() - hour;
        File::options()
            .append(true)
            .open(&from)
            .unwrap()
            .set_modified(before)
            .unwrap();
        assert!(compress(&from, &to, hour).unwrap());
        assert_eq!(folder.names(), ["a.gz"]);
        assert_eq!(folder.unzipped("a.gz"), "just now");
    }

    #[test]
    fn what_an_earlier_process_left_half_done_is_brought_to_its_end() {
        let folder = Folder::new("rotated-left");
        folder.put("access.log.rotating", "on its way\n");
        folder.put("access.log", "a long line of now\n");
        folder.put("access.log.1", "plain\n");
        folder.put("access.log.4.gz.part", "torn");
        // Compressed, but the plain one is still there.
        folder.put("access.log.2", "twice\n");
        let two = folder.0.join("access.log.2");
        compress(&two, &with_end(&two, ".gz"), Duration::ZERO).unwrap();
        folder.put("access.log.2", "twice\n");
        let foreign = [
            "access.log.0",
            "access.log.01",
            "access.log.20240101",
            "access.log.x",
            "access.log2",
            "access.log.3.bak",
        ];
        foreign.iter().for_each(|name| folder.put(name, "not ours"));
        let mut log = folder.log(9, true);
        log.write(b"first\n").unwrap();
        settle(&log);
        log.write(b"second\n").unwrap();
        settle(&log);
        assert_eq!(folder.read("access.log"), "second\n");
        let texts = [
            "a long line of now\nfirst\n",
            "on its way\n",
            "plain\n",
            "twice\n",
        ];
        for (number, text) in (1..).zip(texts) {
            assert_eq!(folder.unzipped(&format!("access.log.{number}.gz")), text);
        }
        foreign
            .iter()
            .for_each(|name| assert_eq!(folder.read(name), "not ours"));
        assert_eq!(folder.names().len(), 1 + texts.len() + foreign.len());
    }

    #[test]
    fn a_file_that_cannot_be_compressed_stays_as_it_is_and_is_tried_again() {
        let folder = Folder::new("rotated-failed");
        let part = folder.0.join("access.log.1.gz.part");
        fs::create_dir(&part).unwrap();
        let mut log = folder.log(5, true);
        log.write(b"the first line\n").unwrap();
        log.write(b"the second line\n").unwrap();
        settle(&log);
        assert_eq!(folder.read("access.log.1"), "the first line\n");
        assert!(!folder.0.join("access.log.1.gz").exists());
        fs::remove_dir(&part).unwrap();
        log.write(b"3\n").unwrap();
        settle(&log);
        assert_eq!(folder.unzipped("access.log.2.gz"), "the first line\n");
        assert_eq!(folder.unzipped("access.log.1.gz"), "the second line\n");
    }

    #[test]
    fn a_rotation_is_put_off_while_another_process_compresses() {
        let folder = Folder::new("rotated-locked");
        let mut log = folder.log(5, false);
        log.write(b"the first line\n").unwrap();
        let other = locked(&folder.0).unwrap().expect("nobody has it");
        log.write(b"2\n").unwrap();
        assert_eq!(folder.names(), ["access.log"]);
        drop(other);
        log.write(b"3\n").unwrap();
        assert_eq!(folder.read("access.log.1"), "the first line\n2\n");
        assert_eq!(folder.read("access.log"), "3\n");
    }

    #[test]
    fn a_rotation_that_fails_costs_no_line_and_no_older_file() {
        let folder = Folder::new("rotated-stuck");
        fs::create_dir_all(folder.0.join("access.log.rotating/x")).unwrap();
        for number in 1..=3 {
            folder.put(&format!("access.log.{number}"), "old");
        }
        let before = folder.names();
        let mut log = folder.log(3, false);
        for _ in 0..4 {
            log.write(b"a line past the size\n").unwrap();
            // The next try may come at once.
            log.not_before = None;
        }
        assert_eq!(
            folder.read("access.log"),
            "a line past the size\n".repeat(4)
        );
        let mut after = folder.names();
        after.retain(|name| name != "access.log");
        assert_eq!(after, before);
        (1..=3).for_each(|number| assert_eq!(folder.read(&format!("access.log.{number}")), "old"));
        // Until then it isn't tried again.
        log.write(b"a line past the size\n").unwrap();
        fs::remove_dir_all(folder.0.join("access.log.rotating")).unwrap();
        log.write(b"while it waits\n").unwrap();
        assert!(!folder.names().contains(&"access.log.rotating".into()));
        assert!(folder.read("access.log").ends_with("while it waits\n"));
    }

    #[test]
    fn a_gap_in_the_numbers_ends_what_is_moved() {
        let folder = Folder::new("rotated-gap");
        folder.put("access.log.1", "one");
        folder.put("access.log.3", "three");
        folder.put("access.log.7", "seven");
        let mut log = folder.log(5, false);
        log.write(b"a line past the size\n").unwrap();
        log.write(b"new\n").unwrap();
        let names = ["access.log", "access.log.1", "access.log.2", "access.log.3"];
        assert_eq!(folder.names(), names, "past what is kept it goes");
        assert_eq!(folder.read("access.log.2"), "one");
        assert_eq!(folder.read("access.log.3"), "three");
    }

    #[test]
    fn a_file_or_folder_that_was_removed_is_made_again() {
        let folder = Folder::new("rotated-gone");
        let mut log = folder.log(5, false);
        log.write(b"1\n").unwrap();
        fs::remove_file(folder.0.join("access.log")).unwrap();
        log.write(b"2\n").unwrap();
        assert_eq!(folder.read("access.log"), "2\n");
        fs::remove_dir_all(&folder.0).unwrap();
        log.write(b"3\n").unwrap();
        assert_eq!(folder.read("access.log"), "3\n");
    }

    #[test]
    fn a_new_file_has_the_permissions_of_the_old_one() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new("rotated-mode");
        let mut log = folder.log(5, false);
        let mode = Permissions::from_mode(0o604);
        fs::set_permissions(folder.0.join("access.log"), mode).unwrap();
        log.write(b"a line past the size\n").unwrap();
        log.write(b"new\n").unwrap();
        for name in folder.names() {
            let mode = fs::metadata(folder.0.join(&name)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o604, "{name}");
        }
    }

    #[test]
    fn a_link_stays_and_its_file_is_rotated_where_it_is() {
        let folder = Folder::new("rotated-link");
        fs::create_dir(folder.0.join("there")).unwrap();
        folder.put("there/real", "");
        std::os::unix::fs::symlink("there/real", folder.0.join("access.log")).unwrap();
        let mut log = folder.log(5, false);
        log.write(b"a line past the size\n").unwrap();
        log.write(b"new\n").unwrap();
        assert_eq!(folder.names(), ["access.log", "there"]);
        assert_eq!(folder.read("access.log"), "new\n");
        assert_eq!(folder.read("there/real.1"), "a line past the size\n");
    }

    #[test]
    fn what_is_no_file_is_written_to_and_never_rotated() {
        let folder = Folder::new("rotated-pipe");
        let path = folder.0.join("access.log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut reader = File::options().read(true).write(true).open(&path).unwrap();
        let mut log = folder.log(5, false);
        for _ in 0..2 {
            log.write(b"a line past the size\n").unwrap();
        }
        let mut text = [0; 42];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(text.as_slice(), b"a line past the size\n".repeat(2));
        assert_eq!(folder.names(), ["access.log"]);
    }

    #[test]
    fn after_half_a_line_the_next_one_is_whole() {
        let folder = Folder::new("rotated-torn");
        let mut log = folder.log(5, false);
        log.write(b"half").unwrap();
        log.torn = true;
        log.write(b"whole\n").unwrap();
        assert_eq!(folder.read("access.log"), "half\nwhole\n");
    }
}
