//! `egress.from_env`: the proxy and the hosts without one, as the environment names them.
//!
//! The variables are read at each reading of the file, so a reload sees what this process was started
//! with. A proxy that can't be used is a mistake: without it all would go out directly. What programs
//! disagree about is a warning.

use super::{Check, exits, road};
use crate::config::path::Path;
use crate::egress::settings::{NoProxy, Pattern, ProxyKind, ProxyUrl};

/// By preference: curl takes the lower case first. weir has one proxy for all upstreams, and most are
/// `https`.
const PROXY_NAMES: [&str; 6] = [
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "http_proxy",
    "HTTP_PROXY",
];

/// A variable that is set, and its value.
type Variable = (&'static str, String);

/// `HTTPS_PROXY` and its relatives; `path` is that of `egress.from_env`.
pub(super) fn proxies(path: &Path, check: &mut Check<'_>) -> Vec<ProxyUrl> {
    let set: Vec<Variable> = PROXY_NAMES
        .into_iter()
        .filter_map(|name| variable(name, check))
        .collect();
    let Some(((name, value), others)) = set.split_first() else {
        return Vec::new();
    };
    let differs = |(_, other): &&Variable| other != value;
    for (other, _) in others.iter().filter(differs) {
        check.warnings.push(format!(
            "egress.from_env: {name} is the proxy for all upstreams; {other} names another one and \
             isn't used"
        ));
    }
    if name.eq_ignore_ascii_case("http_proxy") {
        check.warnings.push(format!(
            "egress.from_env: {name} is the proxy for https upstreams, too; set HTTPS_PROXY to say \
             so"
        ));
    }
    // curl and others take a bare host and port.
    let url: Result<ProxyUrl, _> = match value.contains("://") {
        true => value.parse(),
        false => format!("http://{value}").parse(),
    };
    match url {
        Ok(url) => {
            if url.kind == ProxyKind::Http && !has_port(value) {
                check.warnings.push(format!(
                    "egress.from_env: {name} has no port, so that of the proxy is {}; others, such \
                     as curl, take 1080: write which it is",
                    url.port
                ));
            }
            if let Some(why) = exits::why_no_proxy(&url, check) {
                let found = format!("the variable {name}, which names no proxy ({why})");
                check.findings.wrong_because(path, found, road::PROXY_PLACE);
            }
            return vec![url];
        }
        Err(_) => {
            let found = format!("the variable {name}, which is no proxy's URL");
            check.findings.wrong_because(path, found, road::PROXY);
        }
    }
    Vec::new()
}

/// Whether a proxy's URL, or what is written in its place, says the port.
fn has_port(value: &str) -> bool {
    let place = value.rsplit_once("://").map_or(value, |(_, rest)| rest);
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    // Colons within brackets are an address's.
    place
        .rsplit_once(']')
        .map_or(place, |(_, port)| port)
        .contains(':')
}

/// `no_proxy`, or `NO_PROXY`.
pub(super) fn no_proxy(check: &mut Check<'_>) -> Vec<Pattern> {
    let lower = variable("no_proxy", check);
    let upper = variable("NO_PROXY", check);
    if let (Some((_, lower)), Some((_, upper))) = (&lower, &upper)
        && lower != upper
    {
        let told = "egress.from_env: no_proxy is used, and NO_PROXY, which differs, isn't";
        check.warnings.push(told.to_owned());
    }
    let Some((name, text)) = lower.or(upper) else {
        return Vec::new();
    };
    let read = NoProxy::read(&text);
    let told = |warning| format!("egress.from_env: {name}: {warning}");
    check.warnings.extend(read.warnings.into_iter().map(told));
    read.patterns
}

/// One that is set to something.
fn variable(name: &'static str, check: &Check<'_>) -> Option<Variable> {
    let value = (check.env)(name)?.trim().to_owned();
    // A CGI program has its client's `Proxy` header in there.
    let is_header = name == "HTTP_PROXY" && (check.env)("REQUEST_METHOD").is_some();
    (!value.is_empty() && !is_header).then_some((name, value))
}
