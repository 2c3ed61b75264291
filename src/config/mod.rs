//! The configuration: a file (or a few variables of the environment) read, checked, and handed out
//! as each room's settings, or all that is wrong with it.
//!
//! ```text
//! text ─ tree ─ secrets ─ shape ─ check ─▶ Settings
//!          └───────┴────────┴───────┴────▶ Mistakes: file, line, path, found, allowed
//! ```
//!
//! Never builds anything from the settings and never keeps them: that is done by whoever calls, at
//! the start and at each reload.

mod check;
mod environment;
mod file;
mod findings;
mod lines;
mod lists;
mod mistakes;
mod path;
mod secrets;
mod shape;
mod shown;
mod tree;
mod units;
pub mod watch;

pub use environment::from_env;
pub use mistakes::{Mistake, Mistakes, What};

use path::Path as Place;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// All that the configuration says, by room.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect.
    pub listen: crate::listen::settings::Settings,
    /// Rules of an upgrade.
    pub upgrade: crate::supervise::settings::Settings,
    /// The admin listener; `None` when it is off.
    pub admin: Option<crate::admin::settings::Settings>,
    /// What every request needs.
    pub proxy: crate::proxy::settings::Settings,
    /// What goes where.
    pub route: crate::route::settings::Settings,
    /// Who answers.
    pub upstream: crate::upstream::settings::Settings,
    /// The road out.
    pub egress: crate::egress::settings::Settings,
    /// Who may do how much.
    pub govern: crate::govern::settings::Settings,
    /// Who else shares that; `None`: nobody.
    pub shared_state: Option<crate::govern::shared::settings::SharedState>,
    /// What tokens cost.
    pub tokens: crate::tokens::settings::Settings,
    /// What is told.
    pub observe: crate::observe::settings::Settings,
    /// Worker threads, 1 or more.
    pub threads: usize,
    /// Folder for what must survive a restart.
    pub state_dir: PathBuf,
    /// How usage is kept; `None` when it isn't.
    pub usage: Option<crate::govern::ledger::settings::Settings>,
    /// Reload when the file changes.
    pub watch: bool,
    /// What is odd and doesn't keep weir from serving, in sentences without secrets.
    pub warnings: Vec<String>,
}

/// Reads the file at `path`; `env` looks up the variables that it names.
///
/// # Errors
/// All mistakes of the file, or why it can't be read.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings, Mistakes> {
    let origin = path.display().to_string();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            Mistakes::of_file(
                &origin,
                format!("no file to read ({error})"),
                "a readable file",
            )
        })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Mistakes::of_file(
            &origin,
            "more than 8 MiB",
            "a smaller file",
        ));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, &origin, env),
        Err(error) => {
            let sound = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + sound.iter().filter(|byte| **byte == b'\n').count();
            let found = format!("bytes on line {line} that aren't UTF-8");
            Err(Mistakes::of_file(&origin, found, "a text in UTF-8"))
        }
    }
}

const FILE_BYTES_MAX: u64 = 8 << 20;

/// Reads a configuration from its text; `origin` is what mistakes call it, and the folder of that
/// path is where relative paths begin.
///
/// # Errors
/// All mistakes of the text.
pub fn parse(
    text: &str,
    origin: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, Mistakes> {
    let (mut tree, mut findings) = tree::read(text, origin)?;
    secrets::fill_in(&mut tree, &Place::root(), env, &mut findings);
    let file = shape::read(tree, &mut findings);
    let folder = Path::new(origin).parent().unwrap_or(Path::new(""));
    let settings = check::settings(&file, &mut findings, folder, env);
    findings.result(settings)
}

/// A duration as the file writes it: `30s`, `24h`, `90d`; `None` for anything else.
pub fn span(text: &str) -> Option<Duration> {
    units::duration(&units::Scalar::Text(text))
}

/// A moment as the file writes it: a day in UTC, or as RFC 3339 has it; `None` for anything else.
pub fn moment(text: &str) -> Option<SystemTime> {
    check::moment(text)
}

/// The JSON schema of the file, as it stands in `conf/schema.json`.
pub fn schema() -> String {
    let schema = schemars::schema_for!(file::File);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
