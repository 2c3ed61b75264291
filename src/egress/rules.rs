//! Direct, or through the proxy?
//!
//! Pure: names and addresses in, a road and the rule that chose it out. In this order: what the
//! provider's `egress` key says; `egress.proxied`; `egress.direct`; `NO_PROXY`; whether all addresses
//! are intranet; else the proxy where there is one. [`super::Egress`] calls it.

use std::fmt;
use std::net::IpAddr;

use super::settings::Pattern;

/// How an endpoint is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Road {
    /// A connection of our own to one of its addresses.
    Direct,
    /// A tunnel through a forward proxy.
    Proxy,
}

/// What chose the road. Positions count from 0 in the list of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The provider's own `egress` key.
    Provider,
    /// An entry of `egress.proxied`.
    Proxied(usize),
    /// An entry of `egress.direct`.
    Direct(usize),
    /// An entry of the variable `NO_PROXY`.
    Environment(usize),
    /// All addresses are loopback, private or link-local.
    Intranet,
    /// All addresses are intranet now, and weren't a moment ago.
    Unsettled,
    /// The name, or its IPv4 addresses, can't be resolved here, so the proxy is to.
    Unresolved,
    /// None of the others.
    External,
    /// There is no proxy.
    NoProxy,
}

/// The lists of the configuration.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) direct: Vec<Pattern>,
    pub(super) proxied: Vec<Pattern>,
    /// Those of the environment; as `direct`, and after it.
    pub(super) no_proxy: Vec<Pattern>,
}

// === impl Rules ===

impl Rules {
    /// The entry that a rule is about.
    pub(super) fn pattern(&self, rule: Rule) -> Option<&Pattern> {
        match rule {
            Rule::Proxied(at) => self.proxied.get(at),
            Rule::Direct(at) => self.direct.get(at),
            Rule::Environment(at) => self.no_proxy.get(at),
            _ => None,
        }
    }

    /// The choice where the addresses don't matter: by name, or because there is no proxy.
    pub(super) fn by_name(&self, host: &str, port: u16, has_proxy: bool) -> Option<(Road, Rule)> {
        if let Some(at) = named(&self.proxied, host, port) {
            return Some((Road::Proxy, Rule::Proxied(at)));
        }
        if self
            .proxied
            .iter()
            .any(|pattern| pattern.needs_addresses() && pattern.takes_port(port))
        {
            return None;
        }
        if let Some(rule) = self.direct_by_name(host, port) {
            return Some((Road::Direct, rule));
        }
        (!has_proxy).then_some((Road::Direct, Rule::NoProxy))
    }

    /// The choice by all that is known. `addresses` is empty where the name can't be resolved.
    pub(super) fn by_addresses(
        &self,
        host: &str,
        port: u16,
        addresses: &[IpAddr],
        has_proxy: bool,
    ) -> (Road, Rule) {
        // One address that must not be reached directly is enough.
        let proxied = named(&self.proxied, host, port).or_else(|| {
            addresses
                .iter()
                .find_map(|address| listed(&self.proxied, *address, port))
        });
        if let Some(at) = proxied {
            return (Road::Proxy, Rule::Proxied(at));
        }
        if let Some(rule) = self.direct_by_name(host, port) {
            return (Road::Direct, rule);
        }
        if !has_proxy {
            return (Road::Direct, Rule::NoProxy);
        }
        if addresses.is_empty() {
            return (Road::Proxy, Rule::Unresolved);
        }
        self.near(addresses, port)
            .map_or((Road::Proxy, Rule::External), |rule| (Road::Direct, rule))
    }

    /// Why all of these addresses are near, where they are.
    fn near(&self, addresses: &[IpAddr], port: u16) -> Option<Rule> {
        let mut rule = Rule::Intranet;
        for address in addresses {
            if !is_intranet(*address) {
                rule = self.direct_by_address(*address, port)?;
            }
        }
        Some(rule)
    }

    fn direct_by_name(&self, host: &str, port: u16) -> Option<Rule> {
        let in_file = named(&self.direct, host, port).map(Rule::Direct);
        in_file.or_else(|| named(&self.no_proxy, host, port).map(Rule::Environment))
    }

    fn direct_by_address(&self, address: IpAddr, port: u16) -> Option<Rule> {
        let in_file = listed(&self.direct, address, port).map(Rule::Direct);
        in_file.or_else(|| listed(&self.no_proxy, address, port).map(Rule::Environment))
    }

    /// Whether a rule of the direct road looked at addresses, which may be others a moment later.
    pub(super) fn is_by_address(&self, rule: Rule) -> bool {
        let needs = |pattern: &Pattern| pattern.needs_addresses();
        rule == Rule::Intranet || self.pattern(rule).is_some_and(needs)
    }
}

fn named(patterns: &[Pattern], host: &str, port: u16) -> Option<usize> {
    patterns
        .iter()
        .position(|pattern| pattern.takes_name(host, port))
}

fn listed(patterns: &[Pattern], address: IpAddr, port: u16) -> Option<usize> {
    patterns
        .iter()
        .position(|pattern| pattern.takes_address(address, port))
}

/// Loopback, private (RFC 1918, RFC 4193) and link-local addresses, also as IPv4-mapped ones.
pub(super) fn is_intranet(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

// === impl Display ===

impl Road {
    /// The word for logs, metrics and `weir explain`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Proxy => "proxy",
        }
    }
}

impl fmt::Display for Road {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Rule {
    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Proxied(_) => "egress.proxied",
            Self::Direct(_) => "egress.direct",
            Self::Environment(_) => "NO_PROXY",
            Self::Intranet => "intranet",
            Self::Unsettled => "unsettled",
            Self::Unresolved => "unresolved",
            Self::External => "external",
            Self::NoProxy => "no_proxy",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts
            .iter()
            .map(|text| text.parse().expect("a pattern"))
            .collect()
    }

    /// The road to `host:443` by both steps, as the caller takes them.
    fn road(rules: &Rules, host: &str, addresses: &[&str], has_proxy: bool) -> (Road, Rule) {
        let addresses: Vec<IpAddr> = addresses
            .iter()
            .map(|ip| ip.parse().expect("an IP"))
            .collect();
        rules
            .by_name(host, 443, has_proxy)
            .unwrap_or_else(|| rules.by_addresses(host, 443, &addresses, has_proxy))
    }

    #[test]
    fn the_table_of_roads() {
        let rules = Rules {
            direct: patterns(&[
                ".corp.example",
                "100.64.0.0/10",
                "odd.example:8443",
                "<local>",
            ]),
            proxied: patterns(&["out.corp.example", "10.9.0.0/16", "far"]),
            no_proxy: patterns(&[".env.example", ".corp.example", "198.51.100.0/24"]),
        };
        use Road::{Direct, Proxy};
        for (host, addresses, road_, rule) in [
            ("api.example", &["192.0.2.1"][..], Proxy, Rule::External),
            ("in.example", &["10.0.0.1"], Direct, Rule::Intranet),
            (
                "in.example",
                &["10.0.0.1", "fd00::1"],
                Direct,
                Rule::Intranet,
            ),
            ("in.example", &["127.0.0.1", "::1"], Direct, Rule::Intranet),
            (
                "in.example",
                &["169.254.1.1", "fe80::1"],
                Direct,
                Rule::Intranet,
            ),
            (
                "in.example",
                &["::ffff:192.168.0.1"],
                Direct,
                Rule::Intranet,
            ),
            (
                "mixed.example",
                &["10.0.0.1", "192.0.2.1"],
                Proxy,
                Rule::External,
            ),
            (
                "mixed.example",
                &["10.0.0.1", "2001:db8::1"],
                Proxy,
                Rule::External,
            ),
            (
                "cgnat.example",
                &["100.64.0.1", "10.0.0.1"],
                Direct,
                Rule::Direct(1),
            ),
            (
                "cgnat.example",
                &["100.64.0.1", "192.0.2.1"],
                Proxy,
                Rule::External,
            ),
            ("edge.example", &["172.15.255.255"], Proxy, Rule::External),
            ("edge.example", &["172.31.255.255"], Direct, Rule::Intranet),
            ("edge.example", &["172.32.0.0"], Proxy, Rule::External),
            ("a.corp.example", &["192.0.2.1"], Direct, Rule::Direct(0)),
            ("a.corp.example", &[], Direct, Rule::Direct(0)),
            ("notcorp.example", &["192.0.2.1"], Proxy, Rule::External),
            ("out.corp.example", &["10.0.0.1"], Proxy, Rule::Proxied(0)),
            ("a.corp.example", &["10.9.1.1"], Proxy, Rule::Proxied(1)),
            (
                "b.example",
                &["10.0.0.1", "10.9.1.1"],
                Proxy,
                Rule::Proxied(1),
            ),
            ("odd.example", &["192.0.2.1"], Proxy, Rule::External),
            ("nowhere.example", &[], Proxy, Rule::Unresolved),
            ("near", &["192.0.2.1"], Direct, Rule::Direct(3)),
            ("near", &[], Direct, Rule::Direct(3)),
            ("far", &["10.0.0.1"], Proxy, Rule::Proxied(2)),
            ("env.example", &["192.0.2.1"], Direct, Rule::Environment(0)),
            ("a.env.example", &[], Direct, Rule::Environment(0)),
            ("notenv.example", &["192.0.2.1"], Proxy, Rule::External),
            ("a.env.example", &["10.9.1.1"], Proxy, Rule::Proxied(1)),
            (
                "test.example",
                &["198.51.100.1", "10.0.0.1"],
                Direct,
                Rule::Environment(2),
            ),
            (
                "test.example",
                &["198.51.100.1", "192.0.2.1"],
                Proxy,
                Rule::External,
            ),
        ] {
            let got = road(&rules, host, addresses, true);
            assert_eq!(got, (road_, rule), "{host} {addresses:?}");
        }
    }

    #[test]
    fn without_a_proxy_all_is_direct_save_what_must_not_be() {
        let rules = Rules {
            proxied: patterns(&["out.example", "10.9.0.0/16"]),
            ..Rules::default()
        };
        let cases = [
            (
                "api.example",
                &["192.0.2.1"][..],
                Road::Direct,
                Rule::NoProxy,
            ),
            ("nowhere.example", &[], Road::Direct, Rule::NoProxy),
            ("out.example", &["192.0.2.1"], Road::Proxy, Rule::Proxied(0)),
            ("b.example", &["10.9.1.1"], Road::Proxy, Rule::Proxied(1)),
        ];
        for (host, addresses, road_, rule) in cases {
            assert_eq!(
                road(&rules, host, addresses, false),
                (road_, rule),
                "{host}"
            );
        }
    }

    #[test]
    fn names_alone_decide_where_no_list_needs_addresses() {
        let rules = Rules {
            direct: patterns(&[".corp.example"]),
            ..Rules::default()
        };
        assert_eq!(
            rules.by_name("a.corp.example", 443, true),
            Some((Road::Direct, Rule::Direct(0)))
        );
        assert_eq!(rules.by_name("api.example", 443, true), None);
        let rules = Rules {
            proxied: patterns(&["10.9.0.0/16:80"]),
            ..rules
        };
        assert!(rules.by_name("a.corp.example", 443, true).is_some());
        assert_eq!(rules.by_name("a.corp.example", 80, true), None);
    }
}
