//! `/etc/resolv.conf`, as far as it says whom to ask and for what.
//!
//! As in the C library a line that isn't understood is passed over. [`crate::transport`] reads the
//! file and decides what to make of one that lists no server.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

const DNS_PORT: u16 = 53;

/// Servers taken at most. The C library takes three.
const SERVERS_MAX: usize = 8;

/// Domains of the search list taken at most.
const SEARCH_MAX: usize = 32;

/// The C library's bound for `ndots`.
const NDOTS_MAX: u8 = 15;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    pub(crate) servers: Vec<SocketAddr>,
    /// Domains in lower case, without a dot at the end; the root is "".
    pub(crate) search: Vec<String>,
    pub(crate) ndots: u8,
}

impl ResolvConf {
    pub(crate) fn parse(text: &str) -> Self {
        let mut conf = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or("");
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(server);
                    let room = conf.servers.len() < SERVERS_MAX;
                    conf.servers
                        .extend(server.filter(|it| room && !conf.servers.contains(it)));
                }
                // The last of either wins, whole.
                Some("search") => conf.search = words.map(domain).take(SEARCH_MAX).collect(),
                Some("domain") => conf.search = words.map(domain).take(1).collect(),
                Some("options") => {
                    let ndots = words.filter_map(|word| word.strip_prefix("ndots:"));
                    let last = ndots
                        .filter_map(|value| value.parse::<u8>().ok())
                        .next_back();
                    conf.ndots = last.map_or(conf.ndots, |ndots| ndots.min(NDOTS_MAX));
                }
                _ => {}
            }
        }
        conf
    }
}

/// A domain of a search list, as [`ResolvConf::search`] writes it.
pub(crate) fn domain(text: &str) -> String {
    text.trim_matches('.').to_ascii_lowercase()
}

/// An address, for IPv6 with a zone by number or by the name of its interface.
fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip, DNS_PORT).into());
    }
    let (ip, zone) = text.split_once('%')?;
    let ip: Ipv6Addr = ip.parse().ok()?;
    let zone = zone.parse().ok().or_else(|| interface(zone))?;
    Some(SocketAddrV6::new(ip, DNS_PORT, 0, zone).into())
}

fn interface(name: &str) -> Option<u32> {
    let plain = !name.contains('/') && !name.starts_with('.');
    let text = plain.then(|| std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")));
    text?.ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_search_list_and_ndots_are_read_and_all_else_is_passed_over() {
        let conf = ResolvConf::parse(
            "# by hand\nnameserver 192.0.2.53 ; first\nnameserver 2001:db8::53\n\
             nameserver fe80::1%3\nnameserver rubbish\nnameserver 192.0.2.53\nrubbish\n\
             options edns0 ndots:5 rotate\nsearch Corp.Example. example .\n",
        );
        let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            servers,
            ["192.0.2.53:53", "[2001:db8::53]:53", "[fe80::1%3]:53"]
        );
        assert_eq!(conf.search, ["corp.example", "example", ""]);
        assert_eq!(conf.ndots, 5);
    }

    #[test]
    fn the_last_of_search_and_domain_wins_and_bounds_hold() {
        let conf = ResolvConf::parse("search a b\ndomain c\noptions ndots:99\n");
        assert_eq!((conf.search, conf.ndots), (vec!["c".to_owned()], NDOTS_MAX));
        let many: String = (0..20)
            .map(|n| format!("nameserver 10.0.0.{n}\n"))
            .collect();
        assert_eq!(ResolvConf::parse(&many).servers.len(), SERVERS_MAX);
        let conf = ResolvConf::parse("");
        assert_eq!((conf.servers.len(), conf.ndots), (0, 1));
    }

    #[test]
    fn an_interface_is_known_by_its_name() {
        assert_eq!(
            server("fe80::1%lo").map(|it| it.to_string()),
            interface("lo").map(|index| format!("[fe80::1%{index}]:53"))
        );
        assert_eq!(server("fe80::1%../../etc/passwd"), None);
        assert_eq!(server("192.0.2.1%lo"), None);
    }
}
