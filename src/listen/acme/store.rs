//! Accounts and certificates on disk, below `<state_dir>/acme`, and the lock that lets only one
//! process talk to the servers. Files change whole or not at all; nothing here knows ACME. Called by
//! the renewal; `tls` says where certificates are, and loads them.
//!
//! Everything blocks: call it aside from the threads that serve.

use super::error::Error;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Nothing that weir keeps here is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The folder of it all.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

/// While this lives, no other process talks to the servers.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "locked until it is dropped")] File);

impl Store {
    /// Below this `state_dir`; touches nothing yet.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            folder: state_dir.join("acme"),
        }
    }

    /// Where the account at this directory is.
    pub fn account(&self, directory: &str) -> PathBuf {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, directory.as_bytes());
        let hash: String = digest.as_ref()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.folder.join(format!("account-{hash}.json"))
    }

    /// Where the last failure to get the certificate for these domains is.
    pub fn pause(&self, first_domain: &str) -> PathBuf {
        self.folder.join(format!("pause-{first_domain}.json"))
    }

    /// Takes the lock; `None` while another process has it.
    ///
    /// # Errors
    /// The folder or the file can't be made.
    pub fn lock(&self) -> Result<Option<Lock>, Error> {
        make_folder(&self.folder)?;
        let path = self.folder.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| state(&path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(state(&path, &error)),
        }
    }
}

/// The file's text; `None` where there is no file.
///
/// # Errors
/// It is there and can't be read.
pub(super) fn read(path: &Path) -> Result<Option<String>, Error> {
    let length = match fs::metadata(path) {
        Ok(about) => about.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(state(path, &error)),
    };
    if length > FILE_BYTES_MAX {
        let error = io::Error::other("longer than anything that weir writes");
        return Err(state(path, &error));
    }
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) => Err(state(path, &error)),
    }
}

/// Puts a file in place of the one there is: whoever reads finds either the old or the new one, also
/// after a crash. Only its owner may read it.
///
/// # Errors
/// The old file stays as it was.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make_folder(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.new"));
    let written = write(&new, text).and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&new);
        return Err(state(path, &error));
    }
    // The name's change must last, too.
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| state(folder, &error))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    // One that a crash left may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn make_folder(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| state(path, &error))
}

fn state(path: &Path, error: &io::Error) -> Error {
    Error::State {
        path: path.to_owned(),
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("weir-acme-{}", uuid::Uuid::now_v7()));
            fs::create_dir(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        let about = fs::metadata(path).expect("it is there");
        about.permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_whole_and_only_its_owner_reads_it() {
        let folder = Folder::new();
        let store = Store::new(&folder.0.join("state"));
        let path = store.folder.join("certificates/a.test.pem");
        assert_eq!(read(&path), Ok(None));
        replace(&path, "one").expect("written");
        assert_eq!(read(&path), Ok(Some("one".to_owned())));
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().expect("a folder")), 0o700);
        assert_eq!(mode(&folder.0.join("state/acme")), 0o700);
        replace(&path, "two").expect("written");
        assert_eq!(read(&path), Ok(Some("two".to_owned())));
    }

    #[test]
    fn what_a_crash_left_is_in_nobodys_way() {
        let folder = Folder::new();
        let left = folder.0.join(".a.pem.new");
        fs::write(&left, "half of a").expect("written");
        fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).expect("open to all");
        let path = folder.0.join("a.pem");
        replace(&path, "whole").expect("written");
        assert_eq!(read(&path), Ok(Some("whole".to_owned())));
        assert_eq!(mode(&path), 0o600);
        assert!(!left.exists(), "it is still there");
    }

    #[test]
    fn the_old_file_stays_where_the_new_one_cannot_be_written() {
        let folder = Folder::new();
        let path = folder.0.join("a.pem");
        replace(&path, "old").expect("written");
        // A folder in the way stands for a disk that takes nothing; it stops root as well.
        fs::create_dir(folder.0.join(".a.pem.new")).expect("in the way");
        let error = replace(&path, "new").expect_err("a folder is in the way");
        assert!(matches!(&error, Error::State { path: at, .. } if *at == path));
        assert!(error.to_string().contains("state_dir"), "{error}");
        assert_eq!(read(&path), Ok(Some("old".to_owned())));
    }

    #[test]
    fn one_at_a_time_has_the_lock() {
        let folder = Folder::new();
        let store = Store::new(&folder.0);
        let first = store.lock().expect("a lock").expect("it is free");
        assert!(store.lock().expect("a lock").is_none());
        drop(first);
        assert!(store.lock().expect("a lock").is_some());
    }

    #[test]
    fn every_directory_has_an_account_of_its_own() {
        let store = Store::new(Path::new("/var/lib/weir"));
        let path = store.account("https://acme.test/directory");
        assert_eq!(path, store.account("https://acme.test/directory"));
        assert_ne!(path, store.account("https://acme.test/other"));
        let name = path.file_name().expect("a name").to_string_lossy();
        assert_eq!(name.len(), "account-0123456789abcdef.json".len());
    }

    #[test]
    fn what_is_far_too_long_is_not_read() {
        let folder = Folder::new();
        let path = folder.0.join("long");
        for (bytes, fine) in [(FILE_BYTES_MAX, true), (FILE_BYTES_MAX + 1, false)] {
            let file = File::create(&path).expect("a file");
            file.set_len(bytes).expect("a length");
            assert_eq!(read(&path).is_ok(), fine, "{bytes}");
        }
    }
}
