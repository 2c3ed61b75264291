//! The program on disk: where it is, whether it was replaced, what it asks for, and how it is started.
//! Doesn't wait for the processes that it starts, and never reads the configuration.

use super::notify::OWN_VARIABLES;
use super::protocol::{INHERITANCE, Inheritance};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program that generations are made of, and the arguments that name its configuration.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    arguments: Vec<OsString>,
}

/// Tells one file from another that took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Program {
    /// The program that was started with this name; `arguments` name the configuration.
    ///
    /// Links in the path aren't followed now: where a package replaces the file, or an operator the
    /// link, the new one is meant.
    pub(super) fn started_as(name: Option<&Path>, arguments: Vec<OsString>) -> io::Result<Self> {
        let named = name.and_then(|name| {
            if name.components().count() > 1 {
                return std::path::absolute(name).ok();
            }
            let folders = std::env::var_os("PATH")?;
            std::env::split_paths(&folders)
                .map(|folder| folder.join(name))
                .find(|path| path.is_absolute() && is_program(path))
        });
        let path = match named.filter(|path| path.exists()) {
            Some(path) => path,
            None => std::env::current_exe()?,
        };
        Ok(Self { path, arguments })
    }

    /// `None` where there is no such file now.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        stamp_of(&self.path)
    }

    /// The same, started from the file that this process runs, even where another took its place.
    pub(super) fn of_this_process(&self) -> Self {
        Self {
            path: "/proc/self/exe".into(),
            arguments: self.arguments.clone(),
        }
    }

    /// Starts the program to say its plan: its process and its two outputs.
    pub(super) fn ask_plan(&self) -> io::Result<(i32, OwnedFd, OwnedFd)> {
        let mut command = self.command();
        command.arg("--plan");
        command.args(&self.arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let missing = || io::Error::other("no pipe");
        let out = child.stdout.take().ok_or_else(missing)?;
        let err = child.stderr.take().ok_or_else(missing)?;
        Ok((pid(&child)?, out.into(), err.into()))
    }

    /// Starts a generation with these sockets, and its end of the conversation.
    pub(super) fn start(
        &self,
        number: u64,
        sockets: &[BorrowedFd],
        channel: &OwnedFd,
        control: Option<PathBuf>,
    ) -> io::Result<i32> {
        let mut kept: Vec<i32> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        let inheritance = Inheritance {
            number,
            channel: channel.as_raw_fd(),
            sockets: kept.clone(),
            control,
        };
        kept.push(channel.as_raw_fd());
        let mut command = self.command();
        command.arg("--generation").arg(number.to_string());
        command.args(&self.arguments);
        command.env(
            INHERITANCE,
            serde_json::to_string(&inheritance).map_err(io::Error::other)?,
        );
        // SAFETY: between fork and exec only fcntl is called, which may be; nothing is allocated.
        unsafe { command.pre_exec(move || kept.iter().try_for_each(|number| inherit(*number))) };
        pid(&command.spawn()?)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(name) = std::env::args_os().next() {
            command.arg0(name);
        }
        command.arg("serve").stdin(Stdio::null());
        for name in OWN_VARIABLES {
            command.env_remove(name);
        }
        command
    }
}

/// Lets the next program have a descriptor.
fn inherit(number: i32) -> io::Result<()> {
    // SAFETY: it is open: whoever calls this holds it.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    set_inherited(&descriptor, true)
}

/// Whether the program that takes this one's place, or is started next, gets the descriptor.
pub(super) fn set_inherited(descriptor: &impl AsFd, inherited: bool) -> io::Result<()> {
    let flags = if inherited {
        FdFlag::empty()
    } else {
        FdFlag::FD_CLOEXEC
    };
    fcntl(descriptor, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

pub(super) fn stamp_of(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: found.dev(),
        inode: found.ino(),
        bytes: found.size(),
        changed: (found.mtime(), found.mtime_nsec()),
    })
}

fn is_program(path: &Path) -> bool {
    let found = std::fs::metadata(path);
    found.is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}

fn pid(child: &std::process::Child) -> io::Result<i32> {
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Reads a memory file to its end.
pub(super) fn whole(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(file);
    io::Seek::rewind(&mut file)?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How a process ended, in words.
pub(super) fn ending(status: nix::sys::wait::WaitStatus) -> String {
    use nix::sys::wait::WaitStatus;
    match status {
        WaitStatus::Exited(_, code) => format!("exited with status {code}"),
        WaitStatus::Signaled(_, signal, _) => {
            let name = signal.as_str().trim_start_matches("SIG");
            format!("was killed by signal {} ({name})", signal as i32)
        }
        _ => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;
    use nix::sys::wait::WaitStatus;
    use nix::unistd::Pid;

    #[test]
    fn an_end_is_told_in_words() {
        let pid = Pid::from_raw(1);
        assert_eq!(ending(WaitStatus::Exited(pid, 3)), "exited with status 3");
        assert_eq!(
            ending(WaitStatus::Signaled(pid, Signal::SIGKILL, false)),
            "was killed by signal 9 (KILL)"
        );
    }

    #[test]
    fn a_link_is_not_followed_and_a_replaced_file_has_another_stamp() {
        let folder = std::env::temp_dir().join(format!("weir-program-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (one, two, link) = (folder.join("one"), folder.join("two"), folder.join("link"));
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&two, "2").unwrap();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        let program = Program::started_as(Some(&link), Vec::new()).unwrap();
        assert_eq!(program.path, link);
        let before = program.stamp().unwrap();
        assert_eq!(program.stamp(), Some(before));
        std::fs::remove_file(&link).unwrap();
        assert_eq!(program.stamp(), None);
        std::os::unix::fs::symlink(&two, &link).unwrap();
        assert_ne!(program.stamp(), Some(before));
        let gone = Program::started_as(Some(Path::new("weir-that-is-not-there")), Vec::new());
        assert_eq!(gone.unwrap().path, std::env::current_exe().unwrap());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
