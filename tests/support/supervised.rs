//! A supervised weir from its operator's side: its program on disk, its control socket, and the
//! processes of its generations.

use super::folder::Folder;
use super::gate::eventually;
use super::{DEADLINE, header};
use serde_json::Value;
use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A supervisor's files. Nothing of it is found by a name that another test could have too.
pub struct Supervised {
    folder: PathBuf,
    program: PathBuf,
    control: PathBuf,
}

/// A living generation, as `weir status` tells of it.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// Its process.
    pub pid: i32,
    /// `starting`, `probation`, `serving`, `draining` or `stopping`.
    pub state: String,
    /// Its last beat.
    pub summary: Value,
}

/// Memory of a process that is in use.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All of it, with the pages of the program's file that were touched.
    pub resident_kib: u64,
    /// What is no file's.
    pub own_kib: u64,
}

impl Supervised {
    /// Makes the program in a test's folder.
    pub fn program(folder: &Folder) -> PathBuf {
        let (original, program) = (env!("CARGO_BIN_EXE_weir"), folder.join("weir"));
        // It is only ever replaced, never written to: a link is as good as a copy.
        if std::fs::hard_link(original, &program).is_err() {
            copy(Path::new(original), &program);
        }
        program
    }

    /// Where its control socket is to be.
    pub fn control(folder: &Folder) -> PathBuf {
        folder.join("control.sock")
    }

    pub(super) fn of(folder: &Folder) -> Self {
        Self {
            folder: folder.path().to_owned(),
            program: folder.join("weir"),
            control: Self::control(folder),
        }
    }

    // === the program on disk ===

    /// Puts another file with the same content where the program is.
    #[track_caller]
    pub fn replace(&self) {
        let other = self.folder.join("weir.other");
        if !other.exists() {
            copy(&self.program, &other);
        }
        let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("a path");
        let (one, two) = (name(&self.program), name(&other));
        // SAFETY: both names are C strings that live through the call.
        let done = unsafe {
            libc::renameat2(
                libc::AT_FDCWD,
                one.as_ptr(),
                libc::AT_FDCWD,
                two.as_ptr(),
                libc::RENAME_EXCHANGE,
            )
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    /// Puts a copy of this file where the program is.
    #[track_caller]
    pub fn replace_with(&self, file: &Path) {
        let fresh = self.folder.join("weir.new");
        copy(file, &fresh);
        std::fs::rename(&fresh, &self.program).expect("a file in the test's folder");
    }

    // === the supervisor ===

    /// A verb of the command line that asks the supervisor, to its end.
    #[track_caller]
    pub fn command(&self, verb: &str, arguments: &[&str]) -> Output {
        // The program in the folder may be none; one that hangs is a failure and not the test's end.
        Command::new("timeout")
            .args(["120", env!("CARGO_BIN_EXE_weir"), verb])
            .arg("--control")
            .arg(&self.control)
            .args(arguments)
            .env_clear()
            .current_dir(&self.folder)
            .output()
            .expect("weir's binary")
    }

    /// What `weir status --json` prints.
    #[track_caller]
    pub fn status(&self) -> Value {
        let output = self.command("status", &["--json"]);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).expect("the status is JSON")
    }

    /// The living generations, the newest last.
    #[track_caller]
    pub fn generations(&self) -> Vec<Generation> {
        self.try_generations()
            .expect("an answer on the control socket")
    }

    /// The same, asked on the control socket itself: quick enough to be asked again and again.
    pub fn try_generations(&self) -> Option<Vec<Generation>> {
        let mut stream = UnixStream::connect(&self.control).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream.write_all(b"{\"command\":\"status\"}\n").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        let outcome: Value = serde_json::from_str(&line).ok()?;
        let generations = outcome["status"]["generations"].as_array()?;
        generations.iter().map(Generation::of).collect()
    }

    /// Waits until the living generations are as wanted.
    #[track_caller]
    pub fn wait_generations(&self, what: &str, fits: impl Fn(&[Generation]) -> bool) {
        eventually(what, || {
            let generations = self.try_generations()?;
            fits(&generations).then_some(())
        });
    }

    // === processes ===

    /// Kills a generation, without a warning.
    #[track_caller]
    pub fn kill_generation(&self, number: u64) {
        let all = self.generations();
        let found = all.iter().find(|it| it.number == number);
        let Some(found) = found else {
            panic!("there is no generation {number} in {all:?}");
        };
        kill(found.pid);
    }

    /// Kills every process whose command line names a file of the test's folder, until there is none.
    pub fn kill_all(&self) {
        // One that is just being started is found the next time.
        let mut clean = 0;
        while clean < 2 {
            let processes = self.processes();
            clean = if processes.is_empty() { clean + 1 } else { 0 };
            processes.into_iter().for_each(kill);
            std::thread::yield_now();
        }
    }

    /// Processes that live and whose command line names a file of the test's folder.
    pub fn processes(&self) -> Vec<i32> {
        let mut sign = self.folder.as_os_str().as_bytes().to_vec();
        sign.push(b'/');
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        pids.filter(|pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            *pid != own && memchr::memmem::find(&line, &sign).is_some()
        })
        .collect()
    }
}

impl Generation {
    fn of(value: &Value) -> Option<Self> {
        Some(Self {
            number: value["number"].as_u64()?,
            pid: value["pid"].as_i64()?.try_into().ok()?,
            state: value["state"].as_str()?.to_owned(),
            summary: value["summary"].clone(),
        })
    }

    /// One of the numbers of its last beat.
    pub fn count(&self, name: &str) -> u64 {
        self.summary[name].as_u64().unwrap_or_default()
    }
}

/// Open descriptors of a process.
pub fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

impl Memory {
    /// Of a process; nothing where it is gone.
    pub fn of(pid: i32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let lines: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let number = |name| {
            let value = header(&lines, name)?;
            value.split(' ').next()?.parse().ok()
        };
        Self {
            resident_kib: number("VmRSS").unwrap_or_default(),
            own_kib: number("RssAnon").unwrap_or_default(),
        }
    }
}

/// What a command printed.
pub fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|it| String::from_utf8_lossy(it).into_owned())
        .concat()
}

/// Sends a process a signal; it may be gone.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: kill reads its two numbers.
    unsafe { libc::kill(pid, signal) };
}

fn kill(pid: i32) {
    signal(pid, libc::SIGKILL);
}

/// Another process writes the copy: a descriptor of ours that writes could be inherited by whatever
/// another thread starts at that moment, and the system runs no program that is open for writing.
#[track_caller]
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args([from, to]).status();
    assert!(copied.is_ok_and(|it| it.success()), "{from:?} to {to:?}");
}
