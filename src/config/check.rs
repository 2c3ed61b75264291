//! The file as it is meant: each room's settings, with every mistake of meaning.
//!
//! Goes on after a mistake with whatever comes nearest, so that all are found; what it returns
//! counts only when nothing was found. What [`super::shape`] reported isn't reported again.
//! Resolves no names and connects to nothing; reads the files that `file:` and `tls:` name.

mod aliases;
mod allowance;
mod bounds;
mod calls;
mod dialect;
mod edits;
mod exits;
mod fallbacks;
mod from_env;
mod later;
mod listeners;
mod prices;
mod providers;
mod road;
mod routes;
mod sharing;
mod sockets;
mod teams;
mod telling;
mod tls;
mod usage;
mod watching;

use super::Settings;
use super::file::{File, Threads};
use super::findings::Findings;
use super::path::Path;
use super::secrets;
use super::units::Text;
use crate::egress::settings::Own;
use crate::types::{BaseUrl, Secret};
use crate::{listen::settings as listen, proxy::settings as proxy, upstream::settings as upstream};
use providers::Pool;
use std::path::PathBuf;
pub(super) use teams::moment;

/// Reads settings from a file; `folder` is where the file's relative paths begin, `env` looks up
/// variables.
pub(super) fn settings(
    file: &File,
    findings: &mut Findings,
    folder: &std::path::Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Settings {
    let mut check = Check {
        findings,
        folder,
        env,
        root: Path::root(),
        own: Own::default(),
        warnings: Vec::new(),
    };
    later::report(file, &mut check);
    let trusted = listeners::trusted(file, &mut check);
    let (listeners, admin) = listeners::listeners(file, &trusted, &mut check);
    check.own = exits::own(&listeners, admin.as_ref());
    let bounds = bounds::bounds(file, &mut check);
    let egress = road::road(file, &mut check);
    exits::lists(&egress, &mut check);
    let mut pool = Pool::new(file, !egress.proxies.is_empty(), &mut check);
    let route = routes::routes(file, &mut pool, &mut check);
    providers::places(file, &bounds.govern, &mut pool.providers);
    let state_dir = telling::state_dir(file, &mut check);
    let (request_headers, response_headers) = edits::general(file, &mut check);
    Settings {
        listen: listen::Settings {
            listeners,
            connections_max: bounds.connections_max,
            connections_per_client_max: bounds.connections_per_client_max,
            header_bytes_max: bounds.header_bytes_max,
            client_header: bounds.client_header,
            keepalive: bounds.keepalive,
            stall: bounds.timeouts.idle,
            drain: bounds.drain,
            idle_close_delay: bounds.idle_close_delay,
            trusted: trusted.clone(),
        },
        upgrade: bounds::upgrade(file, &mut check),
        admin,
        proxy: proxy::Settings {
            trusted_proxies: trusted,
            request_headers,
            response_headers,
            timeouts: bounds.timeouts,
            estimates: telling::estimates(file),
        },
        route,
        upstream: upstream::Settings {
            providers: pool.providers,
            hedges: calls::hedges(file, &mut check),
            batches: calls::batches(file, &mut check),
            retry_budget: bounds.retry_budget,
            all_open: routes::all_open(file),
        },
        egress,
        govern: bounds.govern,
        shared_state: sharing::sharing(file, &mut check),
        tokens: prices::prices(file, &mut check),
        observe: telling::logging(file, &mut check),
        threads: threads(file.threads),
        usage: usage::usage(file, &state_dir, &mut check),
        state_dir,
        watch: file.watch.is_some_and(|watch| watch.0),
        warnings: check.warnings,
    }
}

fn threads(threads: Option<Threads>) -> usize {
    match threads {
        Some(Threads::Count(count)) => usize::try_from(count).unwrap_or(usize::MAX),
        Some(Threads::Auto) | None => {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        }
    }
}

/// What every part of the check needs.
struct Check<'c> {
    findings: &'c mut Findings,
    folder: &'c std::path::Path,
    env: &'c dyn Fn(&str) -> Option<String>,
    root: Path,
    /// weir's own listeners.
    own: Own,
    /// See [`Settings::warnings`].
    warnings: Vec<String>,
}

impl Check<'_> {
    /// A key at the top of the file.
    fn key(&self, key: &str) -> Path {
        self.root.key(key)
    }

    /// Notes that something must stand at `path`, unless what stands there was reported already.
    fn missing(&mut self, path: &Path, allowed: &str) {
        if !self.findings.covers(path) {
            self.findings.wrong(path, allowed);
        }
    }

    /// A base URL; notes what is wrong with it, and an address that no upstream may have.
    fn url(&mut self, text: &str, path: &Path) -> Option<BaseUrl> {
        match text.parse() {
            Ok(url) => {
                exits::forbidden(&url, path, self);
                Some(url)
            }
            Err(allowed) => {
                // The parser names the scheme that it found, which may come from a variable.
                let allowed: String = allowed;
                let allowed = allowed.split(", not ").next().unwrap_or_default();
                self.findings.wrong(path, allowed);
                None
            }
        }
    }

    /// A secret; `None` when there is none or it can't be read.
    fn secret(&mut self, text: Option<&Text>, path: &Path) -> Option<Secret<String>> {
        match secrets::secret(&text?.0, self.folder) {
            Ok(secret) => secret,
            Err(why) => {
                let found = format!("{}, which {why}", self.findings.found(path));
                let allowed = "file:PATH of a readable file with one line of text";
                self.findings.wrong_because(path, found, allowed);
                None
            }
        }
    }

    /// A key or token that is sent or expected in a header.
    fn bearer(&mut self, text: Option<&Text>, path: &Path) -> Option<Secret<String>> {
        let secret = self.secret(text, path)?;
        let visible = secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
        if !visible {
            self.findings.wrong(path, "visible ASCII without spaces");
        }
        visible.then_some(secret)
    }

    /// A PEM file that can be read; relative to the configuration's folder.
    fn pem(&mut self, text: Option<&Text>, path: &Path) -> Option<PathBuf> {
        let text = &text?.0;
        let file = self.folder.join(text);
        let why = match std::fs::read(&file) {
            _ if text.is_empty() || text.contains('\n') => "is no path".to_owned(),
            Ok(content) if content.windows(11).any(|bytes| bytes == b"-----BEGIN ") => {
                return Some(file);
            }
            Ok(_) => "isn't PEM".to_owned(),
            Err(error) => format!("can't be read ({error})"),
        };
        let found = format!("{}, which {why}", self.findings.found(path));
        self.findings
            .wrong_because(path, found, "the path of a readable PEM file");
        None
    }
}
