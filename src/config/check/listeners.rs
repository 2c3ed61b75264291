//! `listen`, `port`, `admin`, `trusted_proxies`: who may connect where.

use super::sockets::Owned;
use super::{Check, bounds, sockets, tls};
use crate::admin::settings as admin_room;
use crate::config::file::{self, Admin, AdminListener, File, ListenEntry};
use crate::config::path::Path;
use crate::config::units::Whole;
use crate::listen::settings::Listener;
use crate::listen::tls::settings::Acme;
use crate::types::socket::{Address, Socket};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// All listeners and the admin listener; no two share an address.
pub(super) fn listeners(
    file: &File,
    trusted: &[IpNet],
    check: &mut Check<'_>,
) -> (Vec<Listener>, Option<admin_room::Settings>) {
    let mut listeners: Vec<Listener> = Vec::new();
    for (path, listener) in written(file, trusted, check) {
        let address = &listener.socket.address;
        if is_taken(address, &listeners) {
            let path = match check.findings.written(&path.key("address")) {
                Some(_) => path.key("address"),
                None => path.clone(),
            };
            check
                .findings
                .wrong(&path, "an address that no other listener has");
        }
        acme_twice(&listener, &listeners, &path, check);
        listeners.push(listener);
    }
    let admin = admin(file, &listeners, check);
    (listeners, admin)
}

fn is_taken(address: &Address, listeners: &[Listener]) -> bool {
    let mut others = listeners.iter().map(|other| &other.socket.address);
    others.any(|other| sockets::clash(other, address))
}

/// Certificates that ACME got are kept under their first name.
fn acme_twice(listener: &Listener, others: &[Listener], path: &Path, check: &mut Check<'_>) {
    let acme = |listener: &Listener| -> Option<Acme> { listener.tls.as_ref()?.acme.clone() };
    let Some(own) = acme(listener) else { return };
    let others = others.iter().filter_map(acme);
    let mut namesakes = others.filter(|other| other.domains.first() == own.domains.first());
    if !own.domains.is_empty() && namesakes.any(|other| other != own) {
        let path = path.key("tls").key("acme");
        let found = "the first domain of another listener's `acme` that differs from this one";
        let allowed = "the same `acme` throughout, or another first domain";
        check.findings.wrong_because(&path, found, allowed);
    }
}

const PORT_DEFAULT: u16 = 8080;

/// Listeners, and where each stands.
fn written(file: &File, trusted: &[IpNet], check: &mut Check<'_>) -> Vec<(Path, Listener)> {
    let path = check.key("port");
    if let Some(port) = file.port {
        if file.listen.is_some() {
            check
                .findings
                .wrong(&path, "either `port` or `listen`, not both");
        }
        return match u16::try_from(port.0) {
            Ok(port) => vec![(path, everywhere(port))],
            Err(_) => {
                check
                    .findings
                    .wrong(&path, "a port from 0 (any free one) to 65535");
                Vec::new()
            }
        };
    }
    let path = check.key("listen");
    let Some(entries) = &file.listen else {
        return vec![(path, everywhere(PORT_DEFAULT))];
    };
    if entries.0.is_empty() {
        check
            .findings
            .wrong_because(&path, "an empty list", "at least one address");
    }
    let mut listeners = Vec::new();
    for (index, entry) in entries.items() {
        let path = path.index(index);
        let listener = match entry {
            ListenEntry::Address(text) => {
                sockets::address(text, &path, check).map(|address| plain(address, Owned::default()))
            }
            ListenEntry::Full(full) => self::full(full, trusted, &path, check),
        };
        listeners.extend(listener.map(|listener| (path, listener)));
    }
    listeners
}

fn everywhere(port: u16) -> Listener {
    let address = Address::Tcp((Ipv4Addr::UNSPECIFIED, port).into());
    plain(address, Owned::default())
}

/// A plaintext listener with the standard options.
fn plain(address: Address, owned: Owned) -> Listener {
    /// As many minutes as a NAT keeps a silent connection.
    const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
    let tcp_keepalive = address.tcp().map_or(Duration::ZERO, |_| TCP_KEEPALIVE);
    Listener {
        socket: sockets::socket(address, owned),
        tls: None,
        h2: true,
        proxy_protocol: false,
        tcp_keepalive,
    }
}

fn full(
    given: &file::Listener,
    trusted: &[IpNet],
    path: &Path,
    check: &mut Check<'_>,
) -> Option<Listener> {
    let place = path.key("address");
    let address = match &given.address {
        Some(text) => sockets::address(&text.0, &place, check),
        None => {
            check.missing(&place, sockets::ADDRESS);
            None
        }
    };
    let proxy_protocol = given.proxy_protocol.is_some_and(|on| on.0);
    let defer_accept = given.defer_accept.is_some_and(|on| on.0);
    let is_unix = address.as_ref().is_some_and(|it| it.tcp().is_none());
    if is_unix {
        for (used, key) in [
            (given.tls.is_some(), "tls"),
            (
                given.keepalive.is_some_and(|it| !it.0.is_zero()),
                "keepalive",
            ),
            (defer_accept, "defer_accept"),
        ] {
            if used {
                let allowed = format!("no `{key}`, which a unix: address can't have");
                check.findings.wrong(&path.key(key), allowed);
            }
        }
    }
    // Whoever connects to a Unix socket is trusted: its mode and owner say who can.
    let needs_trust = proxy_protocol && address.is_some() && !is_unix;
    if needs_trust && trusted.is_empty() && !check.findings.covers(&check.key("trusted_proxies")) {
        let allowed = "false, or `trusted_proxies` that may speak it (nobody could connect)";
        check.findings.wrong(&path.key("proxy_protocol"), allowed);
    }
    let backlog = backlog(given.backlog, &path.key("backlog"), check);
    let tcp_keepalive = given.keepalive.filter(|_| !is_unix).map(|span| {
        /// A little less than `TCP_KEEPIDLE` can be.
        const MAX: Duration = Duration::from_secs(9 * 3600);
        bounds::seconds(span, "never", MAX, &path.key("keepalive"), check)
    });
    let tls = given.tls.as_ref().filter(|_| !is_unix);
    let tls = tls.map(|it| tls::tls(it, &path.key("tls"), check));
    let owned = (given.mode.as_ref(), given.owner.as_ref());
    let owned = Owned::read(address.as_ref(), owned, path, check);
    let standard = plain(address?, owned);
    Some(Listener {
        tls,
        h2: given.h2.is_none_or(|h2| h2.0),
        proxy_protocol,
        tcp_keepalive: tcp_keepalive.unwrap_or(standard.tcp_keepalive),
        socket: Socket {
            backlog: backlog.unwrap_or(standard.socket.backlog),
            defer_accept,
            ..standard.socket
        },
    })
}

fn backlog(backlog: Option<Whole>, path: &Path, check: &mut Check<'_>) -> Option<u32> {
    let fitting = u16::try_from(backlog?.0).ok().filter(|it| *it > 0);
    if fitting.is_none() {
        check.findings.wrong(path, "a number from 1 to 65535");
    }
    fitting.map(u32::from)
}

fn admin(
    file: &File,
    listeners: &[Listener],
    check: &mut Check<'_>,
) -> Option<admin_room::Settings> {
    let path = check.key("admin");
    let nothing = AdminListener::default();
    let given = match &file.admin {
        Some(Admin::Off) => return None,
        Some(Admin::On(admin)) => admin,
        None => &nothing,
    };
    let token = check.bearer(given.token.as_ref(), &path.key("token"));
    let address = match &given.address {
        Some(text) => sockets::address(&text.0, &path.key("address"), check),
        None => Some(Address::Tcp(
            (Ipv4Addr::LOCALHOST, ADMIN_PORT_DEFAULT).into(),
        )),
    };
    let owned = (given.mode.as_ref(), given.owner.as_ref());
    let owned = Owned::read(address.as_ref(), owned, &path, check);
    let address = address?;
    if is_taken(&address, listeners) {
        let found = "an address where clients connect";
        let allowed = "an admin address of its own, or `admin: off`";
        check
            .findings
            .wrong_because(&path.key("address"), found, allowed);
    }
    Some(admin_room::Settings {
        socket: sockets::socket(address, owned),
        token,
    })
}

const ADMIN_PORT_DEFAULT: u16 = 9900;

/// `trusted_proxies`.
pub(super) fn trusted(file: &File, check: &mut Check<'_>) -> Vec<IpNet> {
    let path = check.key("trusted_proxies");
    let Some(list) = &file.trusted_proxies else {
        let loopback_v4 = IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8);
        return vec![loopback_v4, IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST))];
    };
    let mut nets = Vec::new();
    for (index, text) in list.items() {
        match network(&text.0) {
            Some(net) => nets.push(net),
            None => check.findings.wrong(
                &path.index(index),
                "an IP address or a network such as 10.0.0.0/8",
            ),
        }
    }
    nets
}

fn network(text: &str) -> Option<IpNet> {
    let net = text
        .parse()
        .or_else(|_| text.parse().map(|ip: IpAddr| IpNet::from(ip)));
    net.ok().map(|net: IpNet| net.trunc())
}
