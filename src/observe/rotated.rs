//! A log file that is rotated by size: `access.log`, `access.log.1`, `access.log.2`, … or, compressed,
//! `access.log.1.gz`, …; the highest number is the oldest.
//!
//! A rotated file is compressed by a thread of its own while lines go on being written, into a file with
//! another name (`.gz.part`) that gets its own only when it is whole and on the disk. So what ends in
//! `.gz` can be read, and whatever ends the process costs no line. A rotation and a compression hold a
//! lock on the folder; a rotation that finds it taken (this process or another generation still
//! compresses) is put off. [`super::sink`] calls it; it never loses a line that could be written.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::settings::LogFile;

/// The file that is written, and how it is rotated.
#[derive(Debug)]
pub(super) struct Rotated {
    settings: LogFile,
    file: File,
    bytes: u64,
    /// The last rotation failed; it was said once.
    failing: bool,
}

impl Rotated {
    /// Opens the file to append to it; makes it, and its folder, where there is none.
    ///
    /// # Errors
    /// When the folder or the file can't be made or written.
    pub(super) fn open(settings: &LogFile) -> io::Result<Self> {
        let file = appended(&settings.path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            settings: settings.clone(),
            file,
            bytes,
            failing: false,
        })
    }

    /// Appends whole lines, in a new file where the old one has grown past its size. A rotation that
    /// fails is logged, and the lines go on into the old file.
    ///
    /// # Errors
    /// When the lines can't be written.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.bytes > self.settings.size_bytes_max as u64 {
            match self.rotate() {
                Ok(()) => self.failing = false,
                Err(_) if self.failing => {}
                Err(error) => {
                    tracing::error!(%error, file = %self.settings.path.display(), "the access log can't be rotated");
                    self.failing = true;
                }
            }
        }
        let written = self.file.write_all(lines);
        self.bytes = match &written {
            Ok(()) => self.bytes + lines.len() as u64,
            Err(_) => self.file.metadata()?.len(),
        };
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.settings.path;
        fs::create_dir_all(folder(path))?;
        let Some(lock) = locked(folder(path))? else {
            return Ok(());
        };
        make_room(path, self.settings.keep)?;
        let first = numbered(path, 1, false);
        match fs::rename(path, &first) {
            Ok(()) => {}
            // Somebody else moved or removed it: there is nothing to keep.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let new = appended(path).inspect_err(|_| {
            // Lines go on into the old file, which gets its name back.
            drop(fs::rename(&first, path));
        })?;
        self.bytes = new.metadata()?.len();
        self.file = new;
        if self.settings.keep == 0 {
            return remove(&first);
        }
        if self.settings.compress {
            let path = path.clone();
            thread::Builder::new()
                .name("log-compress".into())
                .spawn(move || compress_all(&path, &lock))?;
        }
        Ok(())
    }
}

/// Opens `path` for appending, with its folder.
fn appended(path: &Path) -> io::Result<File> {
    fs::create_dir_all(folder(path))?;
    OpenOptions::new().append(true).create(true).open(path)
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
            && parsed.to_string() == number
        {
            found.push((parsed, compressed));
        }
    }
    found.sort_unstable_by_key(|(number, compressed)| (*number, !compressed));
    Ok(found)
}

/// Frees the number 1: each file gets the next number, and those past `keep` go.
fn make_room(path: &Path, keep: usize) -> io::Result<()> {
    for (number, compressed) in rotated(path)?.into_iter().rev() {
        let old = numbered(path, number, compressed);
        // Compressed already, and the process ended before it removed the plain file.
        let twice = !compressed && numbered(path, number, true).exists();
        if number >= keep || twice {
            remove(&old)?;
        } else {
            fs::rename(old, numbered(path, number + 1, compressed))?;
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

/// Compresses all rotated files that aren't, also those that an earlier process left behind. `_lock`
/// is held meanwhile.
fn compress_all(path: &Path, _lock: &File) {
    let plain = rotated(path).unwrap_or_default();
    for (number, _) in plain.into_iter().filter(|(_, compressed)| !compressed) {
        let (from, to) = (numbered(path, number, false), numbered(path, number, true));
        if let Err(error) = compress(&from, &to) {
            tracing::error!(%error, file = %from.display(), "a rotated log stays uncompressed");
        }
    }
}

/// Compresses `from` to `to`, which is whole and on the disk before it has its name.
fn compress(from: &Path, to: &Path) -> io::Result<()> {
    let part = with_end(to, ".part");
    let written = (|| {
        let mut source = File::open(from)?;
        let target = File::create(&part)?;
        target.set_permissions(source.metadata()?.permissions())?;
        let mut encoder = GzEncoder::new(target, Compression::default());
        io::copy(&mut source, &mut encoder)?;
        encoder.finish()?.sync_all()
    })();
    match written {
        Ok(()) => {
            fs::rename(&part, to)?;
            fs::remove_file(from)
        }
        Err(error) => {
            drop(fs::remove_file(&part));
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::{Duration, Instant};

    use super::*;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&path));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn log(&self, keep: usize, compress: bool) -> LogFile {
            LogFile {
                path: self.0.join("access.log"),
                size_bytes_max: 10,
                keep,
                compress,
            }
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap()
        }

        /// Waits until no compression is under way.
        fn settle(&self) {
            let until = Instant::now() + Duration::from_secs(20);
            while locked(&self.0).unwrap().is_none() {
                assert!(Instant::now() < until, "the lock is never given back");
                thread::yield_now();
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn unzipped(path: &Path) -> String {
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(path).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    #[test]
    fn a_file_is_rotated_when_it_has_grown_past_its_size_and_not_at_it() {
        let folder = Folder::new("rotated-size");
        let mut log = Rotated::open(&folder.log(2, false)).unwrap();
        log.write(b"123456789\n").unwrap();
        log.write(b"a\n").unwrap();
        assert_eq!(folder.names(), ["access.log"], "at its size it goes on");
        log.write(b"b\n").unwrap();
        assert_eq!(folder.names(), ["access.log", "access.log.1"]);
        assert_eq!(folder.read("access.log.1"), "123456789\na\n");
        assert_eq!(folder.read("access.log"), "b\n");
    }

    #[test]
    fn the_oldest_goes_and_none_is_kept_where_none_is_wanted() {
        for (keep, names) in [
            (2, &["access.log", "access.log.1", "access.log.2"][..]),
            (1, &["access.log", "access.log.1"]),
            (0, &["access.log"]),
        ] {
            let folder = Folder::new(&format!("rotated-keep-{keep}"));
            let mut log = Rotated::open(&folder.log(keep, false)).unwrap();
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
    fn what_an_earlier_process_left_half_done_is_brought_to_its_end() {
        let folder = Folder::new("rotated-left");
        let path = folder.0.join("access.log");
        fs::write(&path, "a long line of now\n").unwrap();
        fs::write(folder.0.join("access.log.1"), "plain\n").unwrap();
        fs::write(folder.0.join("access.log.1.gz.part"), "torn, and longer").unwrap();
        // Compressed, but the plain one is still there.
        fs::write(folder.0.join("access.log.2"), "twice\n").unwrap();
        compress(
            &folder.0.join("access.log.2"),
            &folder.0.join("access.log.2.gz"),
        )
        .unwrap();
        fs::write(folder.0.join("access.log.2"), "twice\n").unwrap();
        for foreign in [
            "access.log.01",
            "access.log.x",
            "access.log2",
            "access.log.3.bak",
        ] {
            fs::write(folder.0.join(foreign), "not ours").unwrap();
        }
        let mut log = Rotated::open(&folder.log(5, true)).unwrap();
        log.write(b"new\n").unwrap();
        folder.settle();
        let text = |number| unzipped(&numbered(&path, number, true));
        assert_eq!(text(1), "a long line of now\n");
        assert_eq!(text(2), "plain\n");
        assert_eq!(text(3), "twice\n");
        for foreign in [
            "access.log.01",
            "access.log.x",
            "access.log2",
            "access.log.3.bak",
        ] {
            assert_eq!(folder.read(foreign), "not ours");
        }
        assert!(!folder.names().contains(&"access.log.2.gz.part".into()));
    }

    #[test]
    fn a_file_that_cannot_be_compressed_stays_as_it_is_and_is_tried_again() {
        let folder = Folder::new("rotated-failed");
        let part = folder.0.join("access.log.1.gz.part");
        fs::create_dir(&part).unwrap();
        let mut log = Rotated::open(&folder.log(5, true)).unwrap();
        log.write(b"the first line\n").unwrap();
        log.write(b"the second line\n").unwrap();
        folder.settle();
        assert_eq!(folder.read("access.log.1"), "the first line\n");
        assert!(!folder.0.join("access.log.1.gz").exists());
        fs::remove_dir(&part).unwrap();
        log.write(b"3\n").unwrap();
        folder.settle();
        assert_eq!(
            unzipped(&folder.0.join("access.log.2.gz")),
            "the first line\n"
        );
        assert_eq!(
            unzipped(&folder.0.join("access.log.1.gz")),
            "the second line\n"
        );
    }

    #[test]
    fn a_rotation_is_put_off_while_another_process_compresses() {
        let folder = Folder::new("rotated-locked");
        let mut log = Rotated::open(&folder.log(5, false)).unwrap();
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
    fn lines_go_on_where_the_file_cannot_be_rotated() {
        let folder = Folder::new("rotated-stuck");
        // A folder where the rotated file should be.
        fs::create_dir_all(folder.0.join("access.log.1/x")).unwrap();
        let mut log = Rotated::open(&folder.log(1, false)).unwrap();
        log.write(b"the first line\n").unwrap();
        log.write(b"the second line\n").unwrap();
        assert_eq!(
            folder.read("access.log"),
            "the first line\nthe second line\n"
        );
    }

    #[test]
    fn a_folder_that_was_removed_is_made_again() {
        let folder = Folder::new("rotated-gone");
        let mut log = Rotated::open(&folder.log(5, false)).unwrap();
        log.write(b"the first line\n").unwrap();
        fs::remove_dir_all(&folder.0).unwrap();
        log.write(b"the second line\n").unwrap();
        assert_eq!(folder.read("access.log"), "the second line\n");
    }
}
