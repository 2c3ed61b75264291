//! What a configuration expects of the host that it is checked on: folders that can be written, users
//! that are there. `weir check` looks, and changes nothing: a weir that must replace what serves isn't
//! kept from it by a disk that is full of something else. Only the folder that teams can't do without is
//! made ready before anything is served.

use crate::config::Settings;
use crate::supervise::sockets;
use nix::unistd::{AccessFlags, eaccess, geteuid};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What can't work, whoever runs weir.
    pub(super) mistakes: Vec<String>,
    /// What can't work if weir runs as who checks.
    pub(super) warnings: Vec<String>,
}

/// Looks at users, at the folder of the access log, and at `state_dir` where something is kept there.
pub(super) fn look(settings: &Settings) -> Findings {
    let mut findings = Findings::default();
    let admin = settings.admin.iter().map(|it| &it.socket);
    let clients = settings.listen.listeners.iter().map(|it| &it.socket);
    for socket in clients.chain(admin) {
        if let Err(error) = sockets::check_owner(socket) {
            let address = &socket.address;
            findings.mistakes.push(format!("{address}: owner: {error}"));
        }
    }
    if let Some(file) = &settings.observe.file {
        const KEY: &str = "logging.file.path";
        let path = file.path.display();
        match Place::of(&file.path) {
            Place::Folder => {
                let mistake = format!("{KEY}: {path} is a folder; name a file");
                findings.mistakes.push(mistake);
            }
            Place::Closed(Closed::NoFolder(what)) => findings
                .mistakes
                .push(format!("{KEY}: {path} can't be made: {what} is no folder")),
            Place::Closed(Closed::Folder(what)) => findings.warnings.push(format!(
                "{KEY}: {path} can't be written by {}: {what}; check as the user that weir runs as",
                who()
            )),
            Place::Open => {}
        }
    }
    let mut tls = settings
        .listen
        .listeners
        .iter()
        .filter_map(|it| it.tls.as_ref());
    if tls.any(|tls| tls.acme.is_some()) {
        let what = "ACME keeps its account and certificates there";
        let mistake = unwritable(&settings.state_dir, "acme/account.json", what);
        findings.mistakes.extend(mistake);
    }
    if settings.usage.is_some() {
        let what = "usage is kept there, unless `usage: off` is said";
        let mistake = unwritable(&settings.state_dir, "usage/journal", what);
        findings.mistakes.extend(mistake);
    }
    if settings.govern.teams.is_some() {
        let mistake = unwritable(&settings.state_dir, "keys.json", TEAMS);
        findings.mistakes.extend(mistake);
    }
    findings
}

/// What teams need `state_dir` for.
const TEAMS: &str = "teams keep there what they use, and keys made at run time";

/// Makes `state_dir` where teams need it; to be called before anything is served.
///
/// # Errors
/// It can't be used.
pub(super) fn ready(settings: &Settings) -> Result<(), String> {
    if settings.govern.teams.is_none() {
        return Ok(());
    }
    let folder = &settings.state_dir;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let why = made.err().map(|error| {
        let path = folder.display();
        format!(
            "state_dir: {path} can't be made by {}: {error}; {TEAMS}",
            who()
        )
    });
    match why.or_else(|| unwritable(folder, "keys.json", TEAMS)) {
        None => Ok(()),
        Some(why) => Err(why),
    }
}

/// Why a file in `state_dir` can't be written.
fn unwritable(state_dir: &Path, file: &str, what: &str) -> Option<String> {
    let path = state_dir.display();
    let why = match Place::of(&state_dir.join(file)) {
        Place::Closed(Closed::NoFolder(what)) => format!("{what} is no folder"),
        Place::Closed(Closed::Folder(what)) => what,
        Place::Folder | Place::Open => return None,
    };
    Some(format!(
        "state_dir: {path} can't be written by {}: {why}; {what} (check as the user that weir runs as)",
        who()
    ))
}

fn who() -> String {
    format!("user {}", geteuid())
}

/// Whether a file can be made, or written, at a path, as far as that can be known without doing so.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Open,
    /// There is a folder where the file is to be.
    Folder,
    Closed(Closed),
}

#[derive(Debug, PartialEq, Eq)]
enum Closed {
    /// Something on the way is no folder: this.
    NoFolder(String),
    /// Something that is there can't be written: this, and why.
    Folder(String),
}

impl Place {
    fn of(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // The nearest that is there: what is missing below it will be made.
        let Some(there) = path.ancestors().find(|it| it.exists()) else {
            return Self::Open;
        };
        if there == path && there.is_dir() {
            return Self::Folder;
        }
        if there != path && !there.is_dir() {
            return Self::Closed(Closed::NoFolder(there.display().to_string()));
        }
        let wanted = if there.is_dir() {
            AccessFlags::W_OK | AccessFlags::X_OK
        } else {
            AccessFlags::W_OK
        };
        match eaccess(there, wanted) {
            Ok(()) => Self::Open,
            Err(error) => Self::Closed(Closed::Folder(format!(
                "{}: {}",
                there.display(),
                error.desc()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_looked_at_and_not_touched() {
        let folder = std::env::temp_dir().join(format!("weir-place-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(Place::of(&folder), Place::Folder);
        assert_eq!(Place::of(&file), Place::Open);
        assert_eq!(Place::of(&folder.join("a/b/c")), Place::Open);
        assert!(!folder.join("a").exists());
        let below = Place::of(&file.join("log"));
        let expected = Closed::NoFolder(file.display().to_string());
        assert_eq!(below, Place::Closed(expected));
        // Not even root may write there.
        let closed = Place::of(Path::new("/sys/kernel/weir/log"));
        if eaccess("/sys/kernel", AccessFlags::W_OK).is_err() {
            assert!(
                matches!(closed, Place::Closed(Closed::Folder(_))),
                "{closed:?}"
            );
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
