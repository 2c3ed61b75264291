//! By what a change of a file is seen without reading it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

/// A file's time of change, number and length. A file that is replaced has another number, also
/// where its time and length are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    changed: Option<SystemTime>,
    device: u64,
    inode: u64,
    pub(crate) bytes: u64,
}

impl Stamp {
    /// The stamp of the file that `path` leads to. Blocks.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self {
            changed: file.modified().ok(),
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
        })
    }
}
