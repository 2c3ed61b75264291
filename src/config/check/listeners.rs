//! `listen`, `port`, `admin`, `trusted_proxies`: who may connect where.

use super::Check;
use crate::admin::settings as admin_room;
use crate::config::file::{Admin, File, ListenEntry};
use crate::config::path::Path;
use crate::listen::settings::Listener;
use crate::types::socket::{Address, Socket};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// All listeners and the admin listener; no two share an address.
pub(super) fn listeners(
    file: &File,
    check: &mut Check<'_>,
) -> (Vec<Listener>, Option<admin_room::Settings>) {
    let mut taken: Vec<SocketAddr> = Vec::new();
    let mut listeners = Vec::new();
    for (path, listener) in written(file, check) {
        let Some(address) = listener.socket.address.tcp() else {
            continue;
        };
        if taken.iter().any(|other| clash(*other, address)) {
            check
                .findings
                .wrong(&path, "an address that no other listener has");
        }
        taken.push(address);
        listeners.push(listener);
    }
    let admin = admin(file, &taken, check);
    (listeners, admin)
}

const PORT_DEFAULT: u16 = 8080;

fn written(file: &File, check: &mut Check<'_>) -> Vec<(Path, Listener)> {
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
    let entry = |(index, entry)| one(entry, &path.index(index), check);
    entries.items().filter_map(entry).collect()
}

fn everywhere(port: u16) -> Listener {
    plain((Ipv4Addr::UNSPECIFIED, port).into(), true)
}

fn plain(address: SocketAddr, h2: bool) -> Listener {
    /// As many minutes as a NAT keeps a silent connection.
    const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
    Listener {
        socket: Socket::at(Address::Tcp(address)),
        tls: None,
        h2,
        proxy_protocol: false,
        tcp_keepalive: TCP_KEEPALIVE,
    }
}

fn one(entry: &ListenEntry, path: &Path, check: &mut Check<'_>) -> Option<(Path, Listener)> {
    let (text, path, h2) = match entry {
        ListenEntry::Address(text) => (text, path.clone(), true),
        ListenEntry::Full(listener) => {
            let path = path.key("address");
            let Some(address) = &listener.address else {
                check.missing(&path, ADDRESS);
                return None;
            };
            (&address.0, path, listener.h2.is_none_or(|h2| h2.0))
        }
    };
    let address = address(text, &path, check)?;
    Some((path, plain(address, h2)))
}

const ADDRESS: &str = "IP:PORT such as 0.0.0.0:8080 or [::]:8080";

fn address(text: &str, path: &Path, check: &mut Check<'_>) -> Option<SocketAddr> {
    if text.starts_with("unix:") {
        // Answered as not built yet.
        return None;
    }
    let address = text.parse().ok();
    if address.is_none() {
        check.findings.wrong(path, ADDRESS);
    }
    address
}

/// Whether both can't be bound. Port 0 is any free one.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let wild = |wild: IpAddr, ip: IpAddr| match wild {
        IpAddr::V4(wild) => wild.is_unspecified() && ip.is_ipv4(),
        // Takes IPv4 too.
        IpAddr::V6(wild) => wild.is_unspecified(),
    };
    let ips = (one.ip(), other.ip());
    one.port() == other.port()
        && one.port() != 0
        && (ips.0 == ips.1 || wild(ips.0, ips.1) || wild(ips.1, ips.0))
}

fn admin(file: &File, taken: &[SocketAddr], check: &mut Check<'_>) -> Option<admin_room::Settings> {
    let path = check.key("admin");
    let standard = SocketAddr::from((Ipv4Addr::LOCALHOST, 9900));
    let (address, token) = match &file.admin {
        Some(Admin::Off) => return None,
        None => (Some(standard), None),
        Some(Admin::On(admin)) => {
            let address = match &admin.address {
                Some(text) => address(&text.0, &path.key("address"), check),
                None => Some(standard),
            };
            (
                address,
                check.bearer(admin.token.as_ref(), &path.key("token")),
            )
        }
    };
    let address = address?;
    if taken.iter().any(|other| clash(*other, address)) {
        let found = "an address where clients connect";
        let allowed = "an admin address of its own, or `admin: off`";
        check
            .findings
            .wrong_because(&path.key("address"), found, allowed);
    }
    Some(admin_room::Settings {
        socket: Socket::at(Address::Tcp(address)),
        token,
    })
}

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
