//! Segments of the journal: files of lines, each written by one process, which holds a lock on it as
//! long as it may write.
//!
//! Whoever gets the lock knows that nothing more will come: what stands at the end without a line's end
//! was torn by a power cut, and a segment that is carried whole can go.

use super::entry::{Entry, Instance};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A segment's name: `INSTANCE.PART.ndjson`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) instance: Instance,
    pub(super) part: u32,
}

/// Lines of a segment from some place on.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) entries: Vec<Entry<'static>>,
    /// Lines that are no entries, as they stand.
    pub(super) torn: Vec<Vec<u8>>,
    /// Where the next line begins.
    pub(super) end: u64,
}

/// Bytes that are read at once. A line is never nearly as long.
const READ_BYTES_MAX: usize = 1 << 20;

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}.ndjson", self.instance, self.part)
    }
}

impl Name {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.strip_suffix(".ndjson")?.split('.');
        let instance = parts.next()?.parse().ok()?;
        let part = parts.next()?.parse().ok()?;
        (parts.next().is_none()).then_some(Self { instance, part })
    }

    pub(super) fn path(self, folder: &Path) -> PathBuf {
        folder.join(self.to_string())
    }

    /// All segments of a folder, the oldest first; none where there is no folder.
    pub(super) fn all(folder: &Path) -> io::Result<Vec<Self>> {
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut all = Vec::new();
        for entry in entries {
            all.extend(entry?.file_name().to_str().and_then(Self::read));
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Makes the segment and takes its lock.
    pub(super) fn create(self, folder: &Path) -> io::Result<File> {
        let mut how = OpenOptions::new();
        how.append(true).create(true).mode(0o600);
        loop {
            let file = how.open(self.path(folder))?;
            file.lock_shared()?;
            // A carrier that came before the lock took it for one that is left, and it went.
            if file.metadata()?.nlink() > 0 {
                return Ok(file);
            }
        }
    }

    /// Puts lines that are no entries beside the segment.
    pub(super) fn set_aside(self, folder: &Path, torn: &[Vec<u8>]) -> io::Result<()> {
        let mut how = OpenOptions::new();
        how.append(true).create(true).mode(0o600);
        let mut file = how.open(folder.join(format!("{self}.torn")))?;
        torn.iter().try_for_each(|line| {
            io::Write::write_all(&mut file, line)?;
            io::Write::write_all(&mut file, b"\n")
        })
    }
}

/// True when nobody writes to it any more, as long as `file` is open.
pub(super) fn is_closed(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The whole lines from `from` on, as many as are read at once; none where there is no whole line.
/// With `closed` the end of the file ends a line too.
pub(super) fn read(file: &File, from: u64, closed: bool) -> io::Result<Lines> {
    let mut bytes = vec![0; READ_BYTES_MAX];
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], from + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    let whole = match memchr::memrchr(b'\n', &bytes) {
        // What is as long and no line will never be one.
        _ if closed && length < READ_BYTES_MAX => length,
        None if length == READ_BYTES_MAX => length,
        None => 0,
        Some(last) => last + 1,
    };
    let mut lines = Lines {
        end: from + whole as u64,
        ..Lines::default()
    };
    for line in bytes[..whole].split(|byte| *byte == b'\n') {
        match Entry::read(line) {
            _ if line.is_empty() => {}
            Ok(entry) => lines.entries.push(entry),
            Err(_) => lines.torn.push(line.to_vec()),
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::entry;
    use super::*;
    use crate::govern::folder::Folder;
    use std::io::Write;

    fn line(number: u64) -> Vec<u8> {
        let mut line = Vec::new();
        entry(number).write(&mut line);
        line
    }

    fn name(part: u32) -> Name {
        let instance = "0123456789abcdef".parse().unwrap();
        Name { instance, part }
    }

    #[test]
    fn names_sort_by_age_and_read_back() {
        let folder = Folder::new("segment-names");
        for part in [10, 2, 1] {
            name(part).create(&folder.0).unwrap();
        }
        std::fs::write(folder.0.join("carrier.lock"), "").unwrap();
        name(1).set_aside(&folder.0, &[b"x".to_vec()]).unwrap();
        let all = Name::all(&folder.0).unwrap();
        assert_eq!(all, [name(1), name(2), name(10)]);
    }

    #[test]
    fn a_segment_is_closed_when_its_writer_is_gone() {
        let folder = Folder::new("segment-lock");
        let writer = name(1).create(&folder.0).unwrap();
        let reader = File::open(name(1).path(&folder.0)).unwrap();
        assert!(!is_closed(&reader).unwrap());
        drop(writer);
        assert!(is_closed(&reader).unwrap());
    }

    #[test]
    fn a_torn_end_is_left_while_somebody_writes_and_set_aside_after() {
        let folder = Folder::new("segment-torn");
        let mut writer = name(1).create(&folder.0).unwrap();
        let half = &line(2)[..40];
        writer.write_all(&line(1)).unwrap();
        writer.write_all(half).unwrap();
        let file = File::open(name(1).path(&folder.0)).unwrap();
        let open = read(&file, 0, false).unwrap();
        assert_eq!((open.entries.len(), open.torn.len()), (1, 0));
        assert_eq!(open.end, line(1).len() as u64);
        let closed = read(&file, open.end, true).unwrap();
        assert_eq!(closed.torn, [half.to_vec()]);
        assert_eq!(closed.end, file.metadata().unwrap().len());
    }

    #[test]
    fn a_bad_line_in_the_middle_costs_itself_alone() {
        let folder = Folder::new("segment-middle");
        let mut writer = name(1).create(&folder.0).unwrap();
        for text in [line(1), b"\0\0\0\0\n".to_vec(), line(2)] {
            writer.write_all(&text).unwrap();
        }
        let file = File::open(name(1).path(&folder.0)).unwrap();
        let lines = read(&file, 0, false).unwrap();
        let numbers: Vec<_> = lines.entries.iter().map(|it| it.number).collect();
        assert_eq!((numbers, lines.torn.len()), (vec![1, 2], 1));
    }

    #[test]
    fn a_longer_segment_is_read_in_pieces_of_whole_lines() {
        let folder = Folder::new("segment-long");
        let mut writer = name(1).create(&folder.0).unwrap();
        let count = 3 * READ_BYTES_MAX / line(1).len();
        for number in 0..count {
            writer.write_all(&line(number as u64)).unwrap();
        }
        let file = File::open(name(1).path(&folder.0)).unwrap();
        let (mut from, mut found) = (0, Vec::new());
        loop {
            let lines = read(&file, from, true).unwrap();
            assert!(lines.torn.is_empty());
            found.extend(lines.entries.into_iter().map(|it| it.number));
            if lines.end == from {
                break;
            }
            from = lines.end;
        }
        assert!(found.into_iter().eq(0..count as u64));
    }
}
