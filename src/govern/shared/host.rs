//! What this host is to others: a name of its own, and the number of its last exchange. Both are kept
//! in a file that all its processes use, one at a time; so of several generations each may speak for
//! the host, and an exchange that is heard late is known to be old.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The version is part of the name.
const FILE: &str = "shared.v1";

/// The file; a lock on it is the right to speak for the host.
#[derive(Debug)]
pub(super) struct Host {
    file: File,
    name: String,
}

/// The right to speak for the host. Dropping it gives it back.
pub(super) struct Speaking<'h> {
    host: &'h Host,
    noted: Noted,
}

/// Numbers in the file, after the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// The last exchange that was begun.
    pub(super) number: i64,
    /// The last that was answered.
    pub(super) heard: i64,
    /// When that one was begun: since the machine was started, and by the wall clock; ms.
    up_ms: i64,
    wall_ms: i64,
    /// How many hosts there were then.
    pub(super) hosts: i64,
}

const NAME_BYTES: usize = 32;
const NUMBERS: usize = 5;

// === impl Host ===

impl Host {
    /// Opens the file, and gives the host a name where it has none.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(true).truncate(false);
        let file = how.mode(0o600).open(state_dir.join(FILE))?;
        file.lock()?;
        let name = name(&file);
        file.unlock()?;
        Ok(Self { file, name: name? })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// `None` while another process of the host speaks.
    pub(super) fn speak(&self) -> Option<Speaking<'_>> {
        self.file.try_lock().ok()?;
        Some(Speaking {
            host: self,
            noted: self.noted(),
        })
    }

    pub(super) fn noted(&self) -> Noted {
        let mut bytes = [0; NUMBERS * 8];
        if self
            .file
            .read_exact_at(&mut bytes, NAME_BYTES as u64)
            .is_err()
        {
            return Noted::default();
        }
        let (words, _) = bytes.as_chunks::<8>();
        let [number, heard, up_ms, wall_ms, hosts] =
            std::array::from_fn(|at| i64::from_le_bytes(words[at]));
        Noted {
            number,
            heard,
            up_ms,
            wall_ms,
            hosts,
        }
    }
}

fn name(file: &File) -> io::Result<String> {
    let mut bytes = [0; NAME_BYTES];
    if file.read_exact_at(&mut bytes, 0).is_ok()
        && let Ok(name) = std::str::from_utf8(&bytes)
        && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok(name.to_owned());
    }
    let name = format!("{:032x}", rand::random::<u128>());
    file.set_len(0)?;
    file.write_all_at(name.as_bytes(), 0)?;
    file.write_all_at(&[0; NUMBERS * 8], NAME_BYTES as u64)?;
    Ok(name)
}

// === impl Speaking ===

impl Speaking<'_> {
    pub(super) fn noted(&self) -> Noted {
        self.noted
    }

    /// The number of the next exchange: above all before, also when the file was lost to a power cut.
    pub(super) fn begin(&mut self, now: Now) -> io::Result<i64> {
        let by_the_clock = now.wall_ms.saturating_mul(1000);
        self.noted.number = self.noted.number.saturating_add(1).max(by_the_clock);
        self.write()?;
        Ok(self.noted.number)
    }

    /// Somebody has heard a younger one.
    pub(super) fn pass(&mut self, last: i64) -> io::Result<()> {
        self.noted.number = self.noted.number.max(last);
        self.write()
    }

    /// The exchange that was begun at `now` was answered.
    pub(super) fn heard(&mut self, now: Now, hosts: i64) -> io::Result<()> {
        self.noted.heard = self.noted.number;
        self.noted.up_ms = now.up_ms;
        self.noted.wall_ms = now.wall_ms;
        self.noted.hosts = hosts;
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let noted = self.noted;
        let numbers = [
            noted.number,
            noted.heard,
            noted.up_ms,
            noted.wall_ms,
            noted.hosts,
        ];
        let bytes: Vec<u8> = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        self.host.file.write_all_at(&bytes, NAME_BYTES as u64)
    }
}

impl Drop for Speaking<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.host.file.unlock() {
            tracing::error!(%error, "{FILE} can't be unlocked");
        }
    }
}

// === impl Noted ===

impl Noted {
    /// How long ago this host was last answered; `None`: longer than anybody can say.
    pub(super) fn silence(&self, now: Now) -> Option<Duration> {
        /// A wall clock may be set back by that much while weir runs.
        const STEP_MS: i64 = 60_000;
        let since = |now: i64, then: i64| u64::try_from(now - then).ok().map(Duration::from_millis);
        // The one doesn't see that the machine was started anew, the other that its clock was set.
        let up = since(now.up_ms, self.up_ms)?;
        let wall = since(now.wall_ms + STEP_MS, self.wall_ms)?;
        let wall = wall.saturating_sub(Duration::from_millis(STEP_MS.unsigned_abs()));
        (self.heard != 0).then_some(up.max(wall))
    }
}

/// A moment, by two clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    up_ms: i64,
    wall_ms: i64,
}

impl Now {
    pub(super) fn read() -> Self {
        use nix::time::{ClockId, clock_gettime};
        let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self {
            up_ms: ms(up),
            wall_ms: ms(wall),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Now {
        Now {
            up_ms: ms,
            wall_ms: ms,
        }
    }

    #[test]
    fn processes_of_a_host_share_its_name_and_speak_one_at_a_time() {
        let folder = std::env::temp_dir().join(format!("weir-host-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (one, two) = (Host::open(&folder).unwrap(), Host::open(&folder).unwrap());
        assert_eq!(one.name(), two.name());
        let mut speaking = one.speak().unwrap();
        assert!(two.speak().is_none());
        let first = speaking.begin(at(5)).unwrap();
        speaking.heard(at(5), 3).unwrap();
        drop(speaking);
        let mut speaking = two.speak().unwrap();
        assert_eq!((speaking.noted().heard, speaking.noted().hosts), (first, 3));
        assert!(
            speaking.begin(at(2)).unwrap() > first,
            "a clock that was set back"
        );
        speaking.pass(first + 1000).unwrap();
        assert!(speaking.begin(at(2)).unwrap() > first + 1000);
        drop(speaking);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_silence_that_nobody_can_measure_is_none() {
        let noted = Noted {
            heard: 1,
            up_ms: 100,
            wall_ms: 100,
            ..Noted::default()
        };
        assert_eq!(noted.silence(at(350)), Some(Duration::from_millis(250)));
        assert_eq!(noted.silence(at(50)), None, "another start of the machine");
        assert_eq!(Noted::default().silence(at(50)), None, "never heard");
    }
}
