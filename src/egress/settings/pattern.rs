//! Which hosts an entry of `egress.direct` or `egress.proxied` means.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use super::{is_name, parse_port, split_port};

/// Hosts, as `egress.direct` and `egress.proxied` name them. All forms may end in `:port`.
///
/// | text | means |
/// | --- | --- |
/// | `api.example.com` | this name |
/// | `.example.com` | this name and all below it |
/// | `*.example.com` | all names below it |
/// | `10.0.0.7`, `fd00::7`, `[fd00::7]:443` | this address |
/// | `10.0.0.0/8`, `fd00::/8`, `[fd00::/8]:443` | addresses of this network |
/// | `<local>` | names without a dot |
/// | `*` | everything |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub(super) hosts: Hosts,
    pub(super) port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hosts {
    Any,
    /// Names without a dot.
    Local,
    Exact(String),
    /// Apex and below; without the dot in front.
    Suffix(String),
    /// Below only; without `*.` in front.
    Below(String),
    Net(IpNet),
}

/// Why a text isn't a [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// Nothing, or characters that host names don't have; also a `*` anywhere but in front.
    Host,
    /// The port isn't 1 to 65535.
    Port,
    /// Not a network, such as `10.0.0.0/33`.
    Net,
}

// === impl Pattern ===

impl Pattern {
    /// Whether a host written as a name is meant, by the name alone.
    pub(in crate::egress) fn takes_name(&self, host: &str, port: u16) -> bool {
        let hosts = match &self.hosts {
            Hosts::Any => true,
            // Colons are an address's.
            Hosts::Local => !host.contains(['.', ':']),
            Hosts::Exact(name) => host == name,
            Hosts::Suffix(suffix) => host == suffix || is_below(host, suffix),
            Hosts::Below(suffix) => is_below(host, suffix),
            Hosts::Net(_) => false,
        };
        hosts && self.takes_port(port)
    }

    /// Whether an address is in the network that is meant.
    pub(in crate::egress) fn takes_address(&self, address: IpAddr, port: u16) -> bool {
        match &self.hosts {
            Hosts::Net(net) => net.contains(&address.to_canonical()) && self.takes_port(port),
            _ => false,
        }
    }

    /// Whether all that `other` means is meant by this one, as far as the texts show it.
    pub fn covers(&self, other: &Self) -> bool {
        let hosts = match (&self.hosts, &other.hosts) {
            (Hosts::Any, _) | (Hosts::Local, Hosts::Local) => true,
            (Hosts::Net(all), Hosts::Net(some)) => all.contains(some),
            (_, Hosts::Exact(name)) => self.takes_name(name, self.port.unwrap_or_default()),
            (Hosts::Suffix(all), Hosts::Suffix(some) | Hosts::Below(some)) => {
                all == some || is_below(some, all)
            }
            (Hosts::Below(all), Hosts::Below(some)) => all == some || is_below(some, all),
            (Hosts::Below(all), Hosts::Suffix(some)) => is_below(some, all),
            _ => false,
        };
        hosts && (self.port.is_none() || self.port == other.port)
    }

    /// Whether only addresses can tell if a host is meant.
    pub(in crate::egress) fn needs_addresses(&self) -> bool {
        matches!(self.hosts, Hosts::Net(_))
    }

    /// Whether this port is meant.
    pub(in crate::egress) fn takes_port(&self, port: u16) -> bool {
        self.port.is_none_or(|only| only == port)
    }
}

/// `host` ends in `.suffix`; `notexample.com` isn't below `example.com`.
fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix)
        .is_some_and(|front| front.len() > 1 && front.ends_with('.'))
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (hosts, port) = split_port(text.trim());
        let port = match port {
            Some(port) => Some(parse_port(port).ok_or(PatternError::Port)?),
            None => None,
        };
        let hosts = Hosts::parse(&hosts.to_ascii_lowercase())?;
        Ok(Self { hosts, port })
    }
}

impl Hosts {
    fn parse(text: &str) -> Result<Self, PatternError> {
        match text {
            "*" => return Ok(Self::Any),
            "<local>" => return Ok(Self::Local),
            _ => {}
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.to_canonical().into()));
        }
        if text.contains('/') {
            let net = text.parse::<IpNet>().map_err(|_| PatternError::Net)?;
            return Ok(Self::Net(canonical(net)));
        }
        let (form, name): (fn(String) -> Self, &str) = if let Some(name) = text.strip_prefix("*.") {
            (Self::Below, name)
        } else if let Some(name) = text.strip_prefix('.') {
            (Self::Suffix, name)
        } else {
            (Self::Exact, text)
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_name(name) {
            return Err(PatternError::Host);
        }
        Ok(form(name.to_owned()))
    }
}

/// A network of mapped IPv4 addresses (`::ffff:0:0/96`) as that of IPv4: addresses are compared so.
fn canonical(net: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    if let (IpNet::V6(v6), Some(length)) = (net, net.prefix_len().checked_sub(MAPPED_BITS))
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Ok(v4) = Ipv4Net::new(v4, length)
    {
        return IpNet::V4(v4).trunc();
    }
    net.trunc()
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.hosts {
            Hosts::Any => f.write_str("*")?,
            Hosts::Local => f.write_str("<local>")?,
            Hosts::Exact(name) => f.write_str(name)?,
            Hosts::Suffix(name) => write!(f, ".{name}")?,
            Hosts::Below(name) => write!(f, "*.{name}")?,
            Hosts::Net(net) => {
                let one = net.prefix_len() == net.max_prefix_len();
                let bracket = port.is_some() && matches!(net, IpNet::V6(_));
                match (bracket, one) {
                    (true, true) => write!(f, "[{}]", net.addr())?,
                    (true, false) => write!(f, "[{net}]")?,
                    (false, true) => write!(f, "{}", net.addr())?,
                    (false, false) => write!(f, "{net}")?,
                }
            }
        }
        match port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => {
                "expected a host, .suffix, *.suffix, address, network (CIDR) or <local>, each with \
                 or without :port"
            }
            Self::Port => "the port must be 1 to 65535",
            Self::Net => "not a network; expected for example 10.0.0.0/8 or fd00::/8",
        })
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_take_the_names_they_say_and_no_others() {
        for (pattern, host, port, taken) in [
            ("example.com", "example.com", 443, true),
            ("example.com", "www.example.com", 443, false),
            (".example.com", "example.com", 443, true),
            (".example.com", "a.b.example.com", 443, true),
            (".example.com", "notexample.com", 443, false),
            (".example.com", ".example.com", 443, false),
            ("*.example.com", "example.com", 443, false),
            ("*.example.com", "www.example.com", 443, true),
            ("*.example.com", "notexample.com", 443, false),
            ("Example.COM", "example.com", 443, true),
            ("example.com:8443", "example.com", 8443, true),
            ("example.com:8443", "example.com", 443, false),
            ("*", "anything", 1, true),
            ("*:80", "anything", 80, true),
            ("*:80", "anything", 443, false),
            ("10.0.0.0/8", "10.example", 443, false),
            ("<local>", "models", 443, true),
            ("<LOCAL>", "localhost", 443, true),
            ("<local>", "models.corp.example", 443, false),
            ("<local>", "10.0.0.1", 443, false),
            ("<local>", "fd00::1", 443, false),
            ("<local>:80", "models", 80, true),
            ("<local>:80", "models", 443, false),
        ] {
            let read: Pattern = pattern.parse().expect(pattern);
            assert_eq!(
                read.takes_name(host, port),
                taken,
                "{pattern} {host}:{port}"
            );
        }
    }

    #[test]
    fn networks_take_the_addresses_they_say_also_mapped_ones() {
        for (pattern, address, port, taken) in [
            ("10.0.0.0/8", "10.255.0.1", 443, true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("10.0.0.0/8:80", "10.0.0.1", 443, false),
            ("10.0.0.0/8:80", "10.0.0.1", 80, true),
            ("10.0.0.7", "10.0.0.7", 443, true),
            ("10.0.0.7", "10.0.0.8", 443, false),
            ("::ffff:10.0.0.0/104", "10.0.0.1", 443, true),
            ("::ffff:10.0.0.0/104", "::ffff:10.0.0.1", 443, true),
            ("[::ffff:10.0.0.0/104]:443", "10.0.0.1", 443, true),
            ("::ffff:10.0.0.0/104", "11.0.0.1", 443, false),
            ("::ffff:0:0/96", "192.0.2.1", 443, true),
            ("fd00::/8", "fd12::1", 443, true),
            ("[fd00::/8]:443", "fd12::1", 443, true),
            ("[fd00::7]:443", "fd00::7", 80, false),
            (".example.com", "10.0.0.1", 443, false),
        ] {
            let read: Pattern = pattern.parse().expect(pattern);
            let address = address.parse().expect(address);
            assert_eq!(
                read.takes_address(address, port),
                taken,
                "{pattern} {address}:{port}"
            );
        }
    }

    #[test]
    fn a_pattern_covers_what_means_nothing_more() {
        for (all, some, covered) in [
            ("*", "a.test", true),
            ("*", "10.0.0.0/8", true),
            ("*:80", "a.test", false),
            ("*:80", "a.test:80", true),
            ("a.test", "a.test", true),
            ("a.test", "a.test:80", true),
            ("a.test:80", "a.test", false),
            ("a.test", ".a.test", false),
            (".a.test", "a.test", true),
            (".a.test:80", "b.a.test:80", true),
            (".a.test", "nota.test", false),
            (".a.test", "*.a.test", true),
            (".a.test", ".b.a.test", true),
            (".a.test", ".nota.test", false),
            ("*.a.test", ".a.test", false),
            ("*.a.test", "*.a.test", true),
            ("*.a.test", ".b.a.test", true),
            ("*.a.test", "a.test", false),
            ("<local>", "models", true),
            ("<local>", "a.test", false),
            ("<local>", "<local>:80", true),
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8", false),
            ("10.0.0.0/8", "a.test", false),
            ("a.test", "10.0.0.0/8", false),
        ] {
            let (one, other): (Pattern, Pattern) =
                (all.parse().expect(all), some.parse().expect(some));
            assert_eq!(one.covers(&other), covered, "{all} {some}");
        }
    }

    #[test]
    fn a_pattern_displays_as_it_is_written() {
        for text in [
            "*",
            "<local>",
            "<local>:80",
            "example.com",
            ".example.com",
            "*.example.com:8443",
            "10.0.0.0/8",
            "10.0.0.7:80",
            "fd00::/8",
            "fd00::7",
            "[fd00::7]:443",
            "[fd00::/8]:443",
        ] {
            assert_eq!(text.parse::<Pattern>().expect(text).to_string(), text);
        }
        let host_bits = "10.1.2.3/8".parse::<Pattern>().expect("a network");
        assert_eq!(host_bits.to_string(), "10.0.0.0/8");
        let mapped = "::ffff:10.1.2.3/104".parse::<Pattern>();
        assert_eq!(mapped.expect("a network").to_string(), "10.0.0.0/8");
    }

    #[test]
    fn what_is_not_a_pattern_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", PatternError::Host),
            (".", PatternError::Host),
            ("a*b.example", PatternError::Host),
            ("exa mple", PatternError::Host),
            ("<locals>", PatternError::Host),
            ("<local>.example", PatternError::Host),
            ("a..b", PatternError::Host),
            ("http://example.com", PatternError::Port),
            ("example.com:0", PatternError::Port),
            ("example.com:x", PatternError::Port),
            ("10.0.0.0/33", PatternError::Net),
            ("example.com/24", PatternError::Net),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(reason), "{text}");
        }
    }
}
