//! `providers`, and the providers that bare URLs stand for.

use super::{Check, bounds, dialect, edits, road, watching};
use crate::config::file::{
    self, File, OnDisconnect, OneOrMore, Provider, ProviderTimeouts, ProviderTls,
};
use crate::config::findings::nearest;
use crate::config::lists::List;
use crate::config::path::Path;
use crate::config::units::Text;
use crate::govern::settings as govern;
use crate::route::settings::ProviderIndex;
use crate::types::{BaseUrl, is_name};
use crate::upstream::settings::{self, Egress, IncludeUsage, Timeouts, Tls};
use std::time::Duration;

/// All providers so far.
pub(super) struct Pool {
    pub(super) providers: Vec<settings::Provider>,
    /// Names of the file's providers.
    named: Vec<(String, ProviderIndex)>,
    /// The names among them that stand in the file as they are, and not as `${NAME}`.
    suggested: Vec<String>,
    /// Providers of bare URLs, by their sorted URLs.
    bare: Vec<(Vec<String>, ProviderIndex)>,
    /// Names that were refused, and what may be the name under a misspelt key: who uses one of
    /// them isn't told of it again.
    refused: Vec<String>,
    /// Whether all names could be read: else an unknown one proves nothing.
    complete: bool,
}

impl Pool {
    /// The file's own providers; `proxy` tells whether there is a `proxy_url`.
    pub(super) fn new(file: &File, proxy: bool, check: &mut Check<'_>) -> Self {
        let path = check.key("providers");
        let complete = match &file.providers {
            Some(list) => list.0.iter().enumerate().all(|(index, it)| {
                let name = path.index(index).key("name");
                match it {
                    Some(it) => it.name.is_some() || !check.findings.covers(&name),
                    None => false,
                }
            }),
            None => !check.findings.covers(&path),
        };
        let mut pool = Self {
            providers: Vec::new(),
            named: Vec::new(),
            suggested: Vec::new(),
            bare: Vec::new(),
            refused: Vec::new(),
            complete,
        };
        let no_proxy = !proxy && !check.findings.covers(&check.key("proxy_url"));
        for (index, provider) in file.providers.iter().flat_map(|list| list.items()) {
            pool.add(provider, no_proxy, &path.index(index), check);
        }
        pool
    }

    fn add(&mut self, provider: &Provider, no_proxy: bool, path: &Path, check: &mut Check<'_>) {
        let name = self.name(provider.name.as_ref(), &path.key("name"), check);
        let index = ProviderIndex(self.providers.len());
        self.named.extend(name.clone().map(|name| (name, index)));
        let urls = base_urls(provider, path, check);
        let account = dialect::service_account(
            provider.service_account.as_ref(),
            &path.key("service_account"),
            check,
        );
        let mut speaks = dialect::dialect(provider, &urls, path, check);
        if let (Some(speaks), Some(account)) = (&mut speaks, &account) {
            dialect::default_project(speaks, account);
        }
        self.providers.push(settings::Provider {
            name: name.unwrap_or_default(),
            urls,
            api_key: check.bearer(provider.api_key.as_ref(), &path.key("api_key")),
            dialect: speaks,
            aws: dialect::aws(provider.aws.as_ref(), &path.key("aws"), check),
            service_account: account,
            headers: edits::edits(provider.headers.as_ref(), &path.key("headers"), check),
            egress: egress(
                provider.egress.as_ref(),
                no_proxy,
                &path.key("egress"),
                check,
            ),
            tls: tls(provider.tls.as_ref(), &path.key("tls"), check),
            timeouts: timeouts(provider.timeouts.as_ref(), &path.key("timeouts"), check),
            include_usage: match provider.include_usage {
                None | Some(file::IncludeUsage::Auto) => IncludeUsage::Auto,
                Some(file::IncludeUsage::Always) => IncludeUsage::Always,
                Some(file::IncludeUsage::Never) => IncludeUsage::Never,
            },
            drain: drain(provider, path, check),
            // Known when all are; see `places`.
            places: settings::Places::default(),
            breaker: watching::breaker(provider.breaker.as_ref(), &path.key("breaker"), check),
            health: watching::health(provider.health.as_ref(), &path.key("health"), check),
            slow_start: provider
                .slow_start
                .map_or(settings::Provider::default().slow_start, |span| span.0),
        });
    }

    fn name(&mut self, name: Option<&Text>, path: &Path, check: &mut Check<'_>) -> Option<String> {
        let Some(Text(name)) = name else {
            let around = path
                .parent()
                .and_then(|provider| check.findings.written(&provider));
            let values = around.and_then(|it| it.as_mapping()).into_iter();
            let texts = values
                .flat_map(|it| it.values())
                .filter_map(|it| it.as_str());
            self.refused.extend(texts.map(str::to_owned));
            check.missing(path, NAME);
            return None;
        };
        if !is_name(name) {
            check.findings.wrong(path, NAME);
            self.refused.push(name.clone());
            return None;
        }
        if self.named.iter().any(|(other, _)| other == name) {
            check
                .findings
                .wrong(path, "a name that no other provider has");
        }
        if check.findings.found(path) == format!("{name:?}") {
            self.suggested.push(name.clone());
        }
        Some(name.clone())
    }

    /// The provider of that name; notes when there is none.
    pub(super) fn find(
        &self,
        name: &str,
        path: &Path,
        check: &mut Check<'_>,
    ) -> Option<ProviderIndex> {
        let found = self.named.iter().find(|(other, _)| other == name);
        let names = self.suggested.iter().map(String::as_str);
        // A name that resembles a known one is a slip, whatever the others are.
        let proven = self.complete || nearest(name, names.clone()).is_some();
        if found.is_none() && proven && !self.refused.iter().any(|other| other == name) {
            let allowed = match self.suggested.is_empty() {
                true => "the name of one of `providers`".to_owned(),
                false => format!("a provider: {}", self.suggested.join(", ")),
            };
            check.findings.wrong_word(path, allowed, names);
        }
        found.map(|(_, index)| *index)
    }

    /// The provider that these URLs stand for; the same ones again stand for the same provider.
    pub(super) fn bare(&mut self, urls: Vec<BaseUrl>) -> Option<ProviderIndex> {
        let mut key: Vec<String> = urls.iter().map(BaseUrl::to_string).collect();
        key.sort_unstable();
        if let Some((_, index)) = self.bare.iter().find(|(other, _)| *other == key) {
            return Some(*index);
        }
        let index = ProviderIndex(self.providers.len());
        self.providers.push(settings::Provider {
            name: urls.first()?.authority(),
            urls,
            ..settings::Provider::default()
        });
        self.bare.push((key, index));
        Some(index)
    }
}

/// How many requests each provider carries at once, and how many wait for it. Where there are several,
/// none may take all that the host has room for, unless the file says so.
pub(super) fn places(file: &File, bounds: &govern::Settings, all: &mut [settings::Provider]) {
    let several = all.len() > 1 && bounds.in_flight_max > 0;
    let share = match several {
        true => bounds.in_flight_max - bounds.in_flight_max / 4,
        false => 0,
    };
    let given = file.providers.iter().flat_map(|list| list.items());
    let mut given = given.map(|(_, provider)| provider);
    for provider in all {
        let given = given.next();
        let max = given.and_then(|it| it.max_in_flight);
        let queue = given.and_then(|it| it.queue.as_ref());
        let line = match several && max.is_none() {
            true => bounds.queue.size.min(bounds.in_flight_max / 8),
            false => bounds.queue.size,
        };
        provider.places = settings::Places {
            max: bounds::count(max, share),
            endpoint_max: bounds::count(given.and_then(|it| it.endpoint_max_in_flight), 0),
            queue_max: bounds::count(queue.and_then(|it| it.size), line),
            queue_timeout: (queue.and_then(|it| it.timeout))
                .map_or(bounds.queue.timeout, |span| span.0),
        };
    }
}

pub(super) const NAME: &str = "a name of 1 to 64 letters, digits and . _ - :";

fn base_urls(provider: &Provider, path: &Path, check: &mut Check<'_>) -> Vec<BaseUrl> {
    let (base_url, list) = (path.key("base_url"), path.key("urls"));
    match (&provider.base_url, &provider.urls) {
        (Some(_), Some(_)) => {
            check
                .findings
                .wrong(&base_url, "either `base_url` or `urls`, not both");
            Vec::new()
        }
        (Some(url), None) => check.url(&url.0, &base_url).into_iter().collect(),
        (None, Some(all)) => urls(all, &list, check),
        (None, None) => {
            if !check.findings.covers(&list) {
                check.missing(
                    &base_url,
                    "a URL such as https://host/v1, or several as `urls`",
                );
            }
            Vec::new()
        }
    }
}

/// A list of URLs with at least one.
pub(super) fn urls(list: &List<Text>, path: &Path, check: &mut Check<'_>) -> Vec<BaseUrl> {
    if list.0.is_empty() {
        check
            .findings
            .wrong_because(path, "an empty list", "at least one URL");
    }
    let url = |(index, text): (usize, &Text)| check.url(&text.0, &path.index(index));
    list.items().filter_map(url).collect()
}

fn egress(given: Option<&OneOrMore>, no_proxy: bool, path: &Path, check: &mut Check<'_>) -> Egress {
    let text = match given {
        None => None,
        Some(OneOrMore::One(text)) => Some(text),
        Some(OneOrMore::More(list)) => {
            return Egress::Urls(road::proxy_texts(list, path, check));
        }
    };
    match text.map(|text| text.0.as_str()) {
        None | Some("auto") => Egress::Auto,
        Some("direct") => Egress::Direct,
        Some("proxy") => {
            if no_proxy {
                check.findings.wrong(
                    path,
                    "auto, direct or a proxy's URL (there is no `proxy_url`)",
                );
            }
            Egress::Proxy
        }
        Some(url) if url.contains(':') => {
            let secret = check.secret(text, path).unwrap_or_default();
            road::proxy(secret.expose(), path, check);
            Egress::Urls(vec![secret])
        }
        Some(_) => {
            let allowed =
                "auto, direct, proxy, http://[user:password@]host:port, or a list of such URLs";
            check
                .findings
                .wrong_word(path, allowed, ["auto", "direct", "proxy"]);
            Egress::Auto
        }
    }
}

fn tls(tls: Option<&ProviderTls>, path: &Path, check: &mut Check<'_>) -> Tls {
    let Some(tls) = tls else {
        return Tls::default();
    };
    let (cert_path, key_path) = (path.key("client_cert"), path.key("client_key"));
    let cert = check.pem(tls.client_cert.as_ref(), &cert_path);
    let key = check.pem(tls.client_key.as_ref(), &key_path);
    match (&tls.client_cert, &tls.client_key) {
        (Some(_), None) => check.missing(&key_path, "the key of `client_cert`"),
        (None, Some(_)) => check.missing(&cert_path, "the certificate of `client_key`"),
        _ => {}
    }
    if let Some(Text(name)) = &tls.server_name {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if name.is_empty() || name.len() > 253 || !name.bytes().all(letters) {
            check
                .findings
                .wrong(&path.key("server_name"), "a host's name");
        }
    }
    Tls {
        ca: check.pem(tls.ca.as_ref(), &path.key("ca")),
        client: cert.zip(key),
        server_name: tls.server_name.as_ref().map(|name| name.0.clone()),
        verify: tls.verify.is_none_or(|verify| verify.0),
    }
}

/// How long an answer is read on without its client.
fn drain(provider: &Provider, path: &Path, check: &mut Check<'_>) -> Option<Duration> {
    const STANDARD: Duration = Duration::from_secs(10);
    const MAX: Duration = Duration::from_secs(600);
    let path = path.key("drain_timeout");
    let drains = matches!(provider.on_disconnect, Some(OnDisconnect::Drain));
    let given = provider.drain_timeout;
    if given.is_some_and(|span| span.0.is_zero() || span.0 > MAX) {
        check
            .findings
            .wrong(&path, "a duration above zero, up to 10m");
    } else if given.is_some() && !drains {
        let allowed = "nothing, unless `on_disconnect: drain`";
        check.findings.wrong(&path, allowed);
    }
    drains.then(|| given.map_or(STANDARD, |span| span.0))
}

fn timeouts(given: Option<&ProviderTimeouts>, path: &Path, check: &mut Check<'_>) -> Timeouts {
    let Some(given) = given else {
        return Timeouts::default();
    };
    Timeouts {
        connect: bounds::positive(given.connect, &path.key("connect"), check),
        first_byte: bounds::positive(given.first_byte, &path.key("first_byte"), check),
        idle: bounds::positive(given.idle, &path.key("idle"), check),
    }
}
