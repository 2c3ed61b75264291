//! Waits until the configuration's file has become another one.
//!
//! Looks once a second instead of being told: that works on every file system, and however the file
//! is replaced: written in place, renamed over, or swapped by a symbolic link as Kubernetes does.
//! Never reads the configuration; whoever waits here loads it.

use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// A file's state, as far as it tells one content from another; the default is a file that was
/// never seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Option<Seen>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    size_bytes: u64,
    content: u64,
}

impl Stamp {
    /// The file as it is now, links followed. Blocks for as long as reading it takes.
    pub fn of(path: &Path) -> Self {
        let seen = || -> std::io::Result<Seen> {
            let mut file = std::fs::File::open(path)?;
            let meta = file.metadata()?;
            let mut content = Vec::new();
            file.by_ref()
                .take(CONTENT_BYTES_MAX)
                .read_to_end(&mut content)?;
            let mut hasher = DefaultHasher::new();
            hasher.write(&content);
            Ok(Seen {
                device: meta.dev(),
                inode: meta.ino(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
                size_bytes: meta.len(),
                content: hasher.finish(),
            })
        };
        Self(seen().ok())
    }

    /// What tells whether there is something new to load; `None` while the file is away.
    fn content(self) -> Option<(u64, u64)> {
        self.0.map(|seen| (seen.size_bytes, seen.content))
    }
}

/// What is longer is refused by whoever loads it.
const CONTENT_BYTES_MAX: u64 = 16 << 20;

/// Completes when the file at `path` has another content than `since`, and rests: two looks in a
/// row saw the same. `since` is then the new state. A file that is away is waited for.
///
/// Cancel safe: nothing is lost when the future is dropped.
pub async fn changed(path: &Path, since: &mut Stamp) {
    let mut watcher = Watcher::new(*since);
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let path = path.to_owned();
        let Ok(seen) = tokio::task::spawn_blocking(move || Stamp::of(&path)).await else {
            continue;
        };
        let new = watcher.look(seen);
        // A touched file isn't a changed one, but its new times are known from now on.
        *since = watcher.served;
        if new {
            return;
        }
    }
}

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What was seen so far.
struct Watcher {
    /// The state whose content is in use.
    served: Stamp,
    /// What the last look saw.
    last: Stamp,
}

impl Watcher {
    fn new(served: Stamp) -> Self {
        Self {
            served,
            last: Stamp::default(),
        }
    }

    /// Takes what a look saw; true when there is a new content that rests.
    fn look(&mut self, seen: Stamp) -> bool {
        let rests = seen.0.is_some() && seen == self.last;
        self.last = seen;
        if !rests || seen == self.served {
            return false;
        }
        let new = seen.content() != self.served.content();
        self.served = seen;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A folder that is removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let id = std::process::id();
            let folder = std::env::temp_dir().join(format!("weir-watch-{name}-{id}"));
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_change_is_told_once_when_it_rests() {
        let folder = Folder::new("rests");
        let path = folder.write("a", "port: 1");
        let mut watcher = Watcher::new(Stamp::of(&path));
        assert!(!watcher.look(Stamp::of(&path)));
        assert!(!watcher.look(Stamp::of(&path)), "nothing changed");
        folder.write("a", "port: 22");
        assert!(!watcher.look(Stamp::of(&path)), "may be half written");
        folder.write("a", "port: 333");
        assert!(!watcher.look(Stamp::of(&path)), "was half written");
        assert!(watcher.look(Stamp::of(&path)), "rests");
        assert!(!watcher.look(Stamp::of(&path)), "told already");
    }

    #[test]
    fn a_touched_file_is_no_change() {
        let folder = Folder::new("touched");
        let path = folder.write("a", "port: 1");
        let mut watcher = Watcher::new(Stamp::of(&path));
        let fresh = folder.write("b", "port: 1");
        std::fs::rename(fresh, &path).unwrap();
        for _ in 0..3 {
            assert!(!watcher.look(Stamp::of(&path)));
        }
    }

    #[test]
    fn a_file_that_was_away_is_compared_when_it_is_back() {
        let folder = Folder::new("away");
        let path = folder.write("a", "port: 1");
        let mut watcher = Watcher::new(Stamp::of(&path));
        std::fs::remove_file(&path).unwrap();
        for _ in 0..3 {
            assert!(!watcher.look(Stamp::of(&path)), "away");
        }
        folder.write("a", "port: 2");
        assert!(!watcher.look(Stamp::of(&path)));
        assert!(watcher.look(Stamp::of(&path)));
    }

    #[test]
    fn a_swapped_link_is_a_change() {
        let folder = Folder::new("link");
        folder.write("one", "port: 1");
        folder.write("two", "port: 2");
        let path = folder.0.join("link");
        std::os::unix::fs::symlink("one", &path).unwrap();
        let mut watcher = Watcher::new(Stamp::of(&path));
        let fresh = folder.0.join("fresh");
        std::os::unix::fs::symlink("two", &fresh).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        assert!(!watcher.look(Stamp::of(&path)));
        assert!(watcher.look(Stamp::of(&path)));
    }
}
