//! `shared_state`: whether other hosts share limits and budgets, and through what.

use super::Check;
use crate::config::file::{File, OnDown, SharedState, SharedStateForm};
use crate::config::path::Path;
use crate::config::units::Text;
use crate::govern::shared::settings;
use std::time::Duration;

/// Reads it; `None` where this host is by itself.
pub(super) fn sharing(file: &File, check: &mut Check<'_>) -> Option<settings::SharedState> {
    let path = check.key("shared_state");
    let on_down_path = check.key("on_shared_state_down");
    let none = SharedStateForm::default();
    let (form, url_path) = match &file.shared_state {
        Some(SharedState::Url(url)) if !url.is_empty() => (&none, path.clone()),
        Some(SharedState::Form(form)) => (&**form, path.key("url")),
        Some(SharedState::Url(_)) | None => {
            if file.on_shared_state_down.is_some() {
                check
                    .findings
                    .wrong(&on_down_path, "nothing without `shared_state`");
            }
            return None;
        }
    };
    let (own, short) = (form.on_down, file.on_shared_state_down);
    if own.zip(short).is_some_and(|(own, short)| own != short) {
        let allowed = "the same as `shared_state.on_down`, or nothing";
        check.findings.wrong(&on_down_path, allowed);
    }
    let url = match &file.shared_state {
        Some(SharedState::Url(url)) => Some(Text(url.clone())),
        _ => form.url.clone().filter(|url| !url.0.is_empty()),
    };
    let Some(url) = url else {
        check.missing(&url_path, "a URL such as redis://127.0.0.1:6379");
        return None;
    };
    let server = server(&url, &url_path, check)?;
    let on_down = match own.or(short) {
        Some(OnDown::Local) => settings::OnDown::Local,
        Some(OnDown::Refuse) | None => settings::OnDown::Refuse,
    };
    let prefix = form.prefix.as_ref().map_or("weir", |prefix| &prefix.0);
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
    if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX || !prefix.bytes().all(plain) {
        let path = path.key("prefix");
        check.findings.wrong(
            &path,
            "1 to 100 visible ASCII characters, none of them { or }",
        );
    }
    let lease = form.lease.map_or(Duration::from_secs(15), |lease| lease.0);
    if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
        check
            .findings
            .wrong(&path.key("lease"), "a duration from 3s to 1h");
    }
    Some(settings::SharedState {
        server,
        on_down,
        prefix: prefix.to_owned(),
        lease,
    })
}

const PREFIX_BYTES_MAX: usize = 100;
/// Several words of a host must find room in it.
const LEASE_MIN: Duration = Duration::from_secs(3);
const LEASE_MAX: Duration = Duration::from_secs(3600);

/// The URL, which may stand in a file of its own.
fn server(url: &Text, path: &Path, check: &mut Check<'_>) -> Option<settings::Server> {
    let url = check.secret(Some(url), path)?;
    match url.expose().parse() {
        Ok(server) => Some(server),
        Err(allowed) => {
            let allowed: &str = allowed;
            check.findings.wrong(path, allowed);
            None
        }
    }
}
