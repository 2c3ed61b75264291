//! `keys.json`: keys made at run time, on disk. It changes whole or not at all, under a lock; only its
//! owner may read it. Nothing here knows teams. Everything blocks.

use crate::govern::settings::{Allowance, Budget, Models, Period};
use crate::types::Money;
use crate::types::digest::{Digest, of_hex, to_hex};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

const NAME: &str = "keys.json";
const LOCK: &str = "keys.lock";
/// Some 10,000 keys with all that can be said of them.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// The form of the file. What a later form adds to it is skipped; what it changes has another number.
const VERSION: u32 = 1;

/// What the file says.
#[derive(Debug, Deserialize)]
struct Content {
    version: u32,
    keys: Vec<Entry>,
}

/// The same, to be written.
#[derive(Debug, Serialize)]
struct Written<'a> {
    version: u32,
    keys: &'a [Entry],
}

/// One key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) team: String,
    pub(super) name: String,
    #[serde(with = "digits")]
    pub(super) sha256: Digest,
    pub(super) created: Moment,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<Moment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) models: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub(super) limits: Limits,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) budgets: Vec<Spending>,
    /// Secrets that were replaced, each good for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) replaced: Vec<Replaced>,
}

/// A secret that was replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Replaced {
    #[serde(with = "digits")]
    pub(super) sha256: Digest,
    pub(super) until: Moment,
}

/// Limits of a key, as they are written; 0 = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Requests in a minute.
    pub requests_per_minute: u64,
    /// Tokens in a minute.
    pub tokens_per_minute: u64,
    /// Requests at once.
    pub in_flight: u64,
    /// Estimated tokens at once.
    pub in_flight_tokens: u64,
}

/// A budget, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spending {
    /// US dollars.
    pub usd: f64,
    /// When it begins anew.
    pub per: Period,
    /// Shares of it at which a warning is given.
    #[serde(default = "Budget::warn_at_default")]
    pub warn: Vec<f64>,
}

/// A moment; written as RFC 3339 has it, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub SystemTime);

/// Why the file can't be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is there, and isn't what weir writes.
    Corrupt(String),
    /// The system says no.
    System(String),
}

/// What tells one state of the file from another; the default is one that was never seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stamp {
    #[default]
    Unseen,
    Away,
    There {
        inode: (u64, u64),
        modified: (i64, i64),
        changed: (i64, i64),
        size_bytes: u64,
    },
}

/// While this lives, no other process changes the file.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "locked until it is dropped")] File);

// === reading ===

/// What the file looks like now; taken before it is read, so that no change is missed.
pub(super) fn stamp(folder: &Path) -> Stamp {
    stamp_other(folder, NAME)
}

/// The same of a file beside it.
pub(super) fn stamp_other(folder: &Path, name: &str) -> Stamp {
    match fs::metadata(folder.join(name)) {
        Ok(meta) => Stamp::There {
            inode: (meta.dev(), meta.ino()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            size_bytes: meta.len(),
        },
        Err(_) => Stamp::Away,
    }
}

/// All keys of the file; none where the folder is there and the file isn't.
pub(super) fn read(folder: &Path) -> Result<Vec<Entry>, Fault> {
    let path = folder.join(NAME);
    let corrupt = |what: String| Fault::Corrupt(format!("{} is damaged: {what}", path.display()));
    let Some(text) = text(folder, NAME)? else {
        return Ok(Vec::new());
    };
    let content = serde_json::from_slice::<Content>(&text);
    let version = match &content {
        Ok(content) => content.version,
        // What a later form means isn't guessed at.
        Err(_) => serde_json::from_slice::<Version>(&text).map_or(VERSION, |said| said.version),
    };
    if version != VERSION {
        return Err(corrupt(format!(
            "its version is {version}, and this weir knows {VERSION}"
        )));
    }
    let content = content.map_err(|error| corrupt(place(&error)))?;
    Ok(content.keys)
}

/// A file beside it, of a form that its reader knows; `None` where there is none.
pub(super) fn other<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>, Fault> {
    let damaged = |error: serde_json::Error| {
        let path = folder.join(name);
        Fault::Corrupt(format!("{} is damaged: {}", path.display(), place(&error)))
    };
    let text = text(folder, name)?;
    text.map(|text| serde_json::from_slice(&text).map_err(damaged))
        .transpose()
}

/// `None` where the folder is there and the file isn't.
fn text(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, Fault> {
    let path = folder.join(name);
    let system =
        |error: io::Error| Fault::System(format!("{} can't be read: {error}", path.display()));
    let mut text = Vec::new();
    match File::open(&path) {
        Ok(file) => file
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut text)
            .map_err(system)?,
        Err(error) if error.kind() == ErrorKind::NotFound && folder.is_dir() => return Ok(None),
        Err(error) => return Err(system(error)),
    };
    if text.len() as u64 > FILE_BYTES_MAX {
        let path = path.display();
        let what = format!("{path} is damaged: it is larger than anything that weir writes");
        return Err(Fault::Corrupt(what));
    }
    Ok(Some(text))
}

/// What every form of the file says.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Where it is damaged. What stands there isn't shown.
fn place(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Data => "a value that weir doesn't write",
        _ => "no JSON",
    };
    format!("{kind} at line {}, column {}", error.line(), error.column())
}

// === writing ===

/// Waits for its turn to change the file; makes the folder where it isn't there.
pub(super) fn lock(folder: &Path) -> Result<Lock, Fault> {
    const PATIENCE: Duration = Duration::from_secs(3);
    const PAUSE: Duration = Duration::from_millis(10);
    let path = folder.join(LOCK);
    let system =
        |error: io::Error| Fault::System(format!("{} can't be used: {error}", path.display()));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(system)?;
    let file = lock_file(&path, folder).map_err(system)?;
    let due = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < due => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {
                let what = format!("another process has {} locked; try again", path.display());
                return Err(Fault::System(what));
            }
            Err(TryLockError::Error(error)) => return Err(system(error)),
        }
    }
}

/// The lock's file. Who may write the folder may put a link there, and root gives nothing away for that:
/// links aren't followed, and only what was just made gets an owner.
fn lock_file(path: &Path, folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    match options.clone().create_new(true).open(path) {
        Ok(file) => own(&file, folder).map(|()| file),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            options.custom_flags(libc::O_NOFOLLOW).open(path)
        }
        Err(error) => Err(error),
    }
}

/// Puts these keys in place of those that are there. To be called under the lock, with what was read
/// under it.
pub(super) fn write(folder: &Path, keys: &[Entry], _lock: &Lock) -> Result<(), Fault> {
    let version = VERSION;
    write_other(folder, NAME, &Written { version, keys })
}

/// The same for a file beside it.
pub(super) fn write_other(
    folder: &Path,
    name: &str,
    content: &impl Serialize,
) -> Result<(), Fault> {
    let (path, fresh) = (folder.join(name), folder.join(format!(".{name}.new")));
    let system =
        |error: io::Error| Fault::System(format!("{} can't be written: {error}", path.display()));
    let mut text = serde_json::to_vec_pretty(content).map_err(|error| system(error.into()))?;
    text.push(b'\n');
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(system(io::Error::other("it would be too large")));
    }
    let written = new_file(&fresh, folder, &text).and_then(|()| fs::rename(&fresh, &path));
    if let Err(error) = written {
        let _ = fs::remove_file(&fresh);
        return Err(system(error));
    }
    // The name must outlive a power cut, too.
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(system)
}

fn new_file(path: &Path, folder: &Path, text: &[u8]) -> io::Result<()> {
    // One that a crash left behind.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    // `create_new` follows no link.
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    own(&file, folder)?;
    file.write_all(text)?;
    file.sync_all()
}

/// What root makes belongs to whom the folder belongs to, who must read it.
fn own(file: &File, folder: &Path) -> io::Result<()> {
    let (owner, current) = (fs::metadata(folder)?, file.metadata()?);
    if nix::unistd::geteuid().is_root() && owner.uid() != current.uid() {
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

// === forms ===

impl Limits {
    /// An allowance as it is written.
    pub fn of(allowance: &Allowance) -> (Self, Vec<Spending>) {
        let budgets = allowance.budgets.iter().map(|budget| Spending {
            usd: budget.limit.usd(),
            per: budget.per,
            warn: budget.warn_at.clone(),
        });
        let limits = Self {
            requests_per_minute: allowance.requests_per_minute,
            tokens_per_minute: allowance.tokens_per_minute,
            in_flight: allowance.in_flight,
            in_flight_tokens: allowance.in_flight_tokens,
        };
        (limits, budgets.collect())
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What a key may use: its limits and its budgets.
///
/// # Errors
/// A sentence that says what is wrong with a budget.
pub(super) fn allowance(limits: &Limits, budgets: &[Spending]) -> Result<Allowance, String> {
    let mut read = Vec::with_capacity(budgets.len());
    for budget in budgets {
        let limit = Money::from_usd(budget.usd).filter(|limit| *limit > Money::ZERO);
        let limit = limit.ok_or("a budget is more than 0 and less than 9 million US dollars")?;
        if read.iter().any(|other: &Budget| other.per == budget.per) {
            return Err("a key has one budget for each period".into());
        }
        if !budget.warn.iter().all(|share| *share > 0.0 && *share < 1.0) {
            return Err("a warning is given at a share from 0 to 1".into());
        }
        let mut warn_at = budget.warn.clone();
        warn_at.sort_by(f64::total_cmp);
        read.push(Budget {
            limit,
            per: budget.per,
            warn_at,
        });
    }
    Ok(Allowance {
        requests_per_minute: limits.requests_per_minute,
        tokens_per_minute: limits.tokens_per_minute,
        in_flight: limits.in_flight,
        in_flight_tokens: limits.in_flight_tokens,
        budgets: read,
        ..Allowance::default()
    })
}

/// Patterns of models.
///
/// # Errors
/// A sentence that says how they are written.
pub(super) fn models(patterns: Option<&[String]>) -> Result<Option<Models>, String> {
    const PATTERNS_MAX: usize = 256;
    const PATTERN_BYTES_MAX: usize = 256;
    let Some(patterns) = patterns else {
        return Ok(None);
    };
    let fits = |pattern: &String| {
        (1..=PATTERN_BYTES_MAX).contains(&pattern.len()) && !pattern.contains(char::is_control)
    };
    if !(1..=PATTERNS_MAX).contains(&patterns.len()) || !patterns.iter().all(fits) {
        return Err(format!(
            "models are 1 to {PATTERNS_MAX} names or globs of at most {PATTERN_BYTES_MAX} bytes"
        ));
    }
    let models = Models::new(patterns.to_vec()).map_err(|error| error.to_string())?;
    Ok(Some(models))
}

mod digits {
    //! A digest as hexadecimal digits.
    use super::*;

    pub fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&to_hex(digest))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(from)?;
        of_hex(&text).ok_or_else(|| de::Error::custom("not 64 hexadecimal digits"))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let moment = DateTime::parse_from_rfc3339(&text).map_err(de::Error::custom)?;
        Ok(Self(moment.into()))
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = DateTime::<Utc>::from(self.0);
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}
