//! A folder of a test's own, gone with it.

use std::path::PathBuf;

/// A temporary folder.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    /// An empty one; its name is that test's alone.
    pub(super) fn new(name: &str) -> Self {
        let folder = Self::missing(name);
        std::fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    /// One that isn't there yet.
    pub(super) fn missing(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
