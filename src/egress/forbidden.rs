//! Addresses and names that no upstream may have, whatever the configuration or DNS says.
//!
//! Pure: an address or a name in, the reason out. Behind these stand services that give credentials to whoever
//! asks from this host, or nobody that could be a model server. An IPv4 address is found inside the
//! forms of IPv6 that carry one, too. [`super::Egress`] takes them out of each answer before it
//! chooses a road, so that exactly what was checked is dialled; the check of the configuration asks
//! about literals. Names are looked at because a proxy may resolve what can't be resolved here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why no upstream may have an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The metadata service of this cloud: it gives away credentials.
    Metadata(&'static str),
    /// `0.0.0.0/8` (RFC 1122, section 3.2.1.3) or `::`: this host, or nobody.
    Unspecified,
    /// `224.0.0.0/4` (RFC 5771) or `ff00::/8` (RFC 4291).
    Multicast,
    /// `255.255.255.255` (RFC 919).
    Broadcast,
    /// `240.0.0.0/4` (RFC 1112), which belongs to nobody.
    Reserved,
    /// weir listens there: a request would come back to it.
    Own,
}

/// Why no upstream may have this address; `None` for all others. [`Why::Own`] isn't told here.
pub fn why(address: IpAddr) -> Option<Why> {
    match address {
        IpAddr::V4(ip) => why_v4(ip),
        IpAddr::V6(ip) => why_v6(ip).or_else(|| embedded(ip).find_map(why_v4)),
    }
}

/// Why no upstream may have this name (lower case, without a dot at its end): it is that of a metadata
/// service, whatever it resolves to here.
pub fn why_name(host: &str) -> Option<Why> {
    let known = METADATA_NAMES.iter().find(|(name, _)| *name == host);
    let of_ec2 = || {
        host.strip_prefix("instance-data.")
            .is_some_and(|region| region.ends_with(".compute.internal"))
            .then_some("of Amazon EC2")
    };
    known
        .map(|(_, cloud)| *cloud)
        .or_else(of_ec2)
        .map(Why::Metadata)
}

/// The address that a host is, where it is written as one: also in the forms of `inet_aton(3)`, such
/// as `0xa9fea9fe` or `169.254.43518`, which a proxy may understand.
pub fn literal(host: &str) -> Option<IpAddr> {
    host.parse().ok().or_else(|| aton(host).map(IpAddr::V4))
}

/// The address itself, and the IPv4 addresses inside it.
pub(super) fn forms(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(embedded(ip)),
    };
    std::iter::once(address).chain(inner.into_iter().flatten().map(IpAddr::V4))
}

/// Metadata services of clouds, by their documents: Amazon EC2 ("Use IMDS"), ECS ("Task IAM role"),
/// EKS ("Set up the EKS Pod Identity Agent"); Google Compute Engine ("About VM metadata"); Azure
/// ("Instance Metadata Service", "What is IP address 168.63.129.16?"); Alibaba ECS ("Obtain instance
/// metadata"); and cloud-init's data sources of OpenStack, Oracle, Scaleway and Akamai. Tencent's is
/// what `metadata.tencentyun.com` stands for.
const METADATA_V4: &[(Ipv4Addr, &str)] = &[
    (Ipv4Addr::new(169, 254, 169, 254), "of most clouds"),
    (Ipv4Addr::new(169, 254, 170, 2), "of Amazon ECS"),
    (Ipv4Addr::new(169, 254, 170, 23), "of Amazon EKS"),
    (Ipv4Addr::new(168, 63, 129, 16), "of Azure"),
    (Ipv4Addr::new(100, 100, 100, 200), "of Alibaba Cloud"),
    (Ipv4Addr::new(192, 0, 0, 192), "of Oracle Cloud"),
    (Ipv4Addr::new(169, 254, 42, 42), "of Scaleway"),
    (Ipv4Addr::new(169, 254, 0, 23), "of Tencent Cloud"),
];

const METADATA_V6: &[(Ipv6Addr, &str)] = &[
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]), "of Amazon EC2"),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23]), "of Amazon EKS"),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]), "of Google Cloud"),
    (
        v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]),
        "of Oracle Cloud",
    ),
    (
        v6([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200]),
        "of Alibaba Cloud",
    ),
    (v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]), "of Scaleway"),
    (v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1]), "of Akamai"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe]), "of OpenStack"),
];

/// The names that the same clouds give them. In each region of Amazon's there is one more, below
/// `compute.internal`.
const METADATA_NAMES: &[(&str, &str)] = &[
    ("metadata.google.internal", "of Google Cloud"),
    ("metadata.goog", "of Google Cloud"),
    ("metadata", "of Google Cloud"),
    ("instance-data", "of Amazon EC2"),
    ("instance-data.ec2.internal", "of Amazon EC2"),
    ("metadata.tencentyun.com", "of Tencent Cloud"),
];

const fn v6(segments: [u16; 8]) -> Ipv6Addr {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Addr::new(a, b, c, d, e, f, g, h)
}

fn why_v4(ip: Ipv4Addr) -> Option<Why> {
    match ip.octets()[0] {
        0 => Some(Why::Unspecified),
        224..=239 => Some(Why::Multicast),
        240..=255 if ip.is_broadcast() => Some(Why::Broadcast),
        240..=255 => Some(Why::Reserved),
        _ => METADATA_V4
            .iter()
            .find(|(metadata, _)| *metadata == ip)
            .map(|(_, cloud)| Why::Metadata(cloud)),
    }
}

fn why_v6(ip: Ipv6Addr) -> Option<Why> {
    if ip.is_unspecified() {
        return Some(Why::Unspecified);
    }
    if ip.is_multicast() {
        return Some(Why::Multicast);
    }
    METADATA_V6
        .iter()
        .find(|(metadata, _)| *metadata == ip)
        .map(|(_, cloud)| Why::Metadata(cloud))
}

/// The IPv4 addresses that an IPv6 address may stand for.
///
/// | prefix | form |
/// | --- | --- |
/// | `::ffff:0:0/96` | mapped (RFC 4291, section 2.5.5.2) |
/// | `::ffff:0:0:0/96` | translated (RFC 2765) |
/// | `::/96` | compatible (RFC 4291, section 2.5.5.1), but for `::` and `::1` |
/// | `64:ff9b::/96` | NAT64 (RFC 6052) |
/// | `64:ff9b:1::/48` | NAT64 of this network (RFC 8215), with each length of RFC 6052 |
/// | `2002::/16` | 6to4 (RFC 3056) |
/// | `2001::/32` | Teredo (RFC 4380): the server, and the client with its bits turned over |
/// | `…:0:5efe:a.b.c.d` | ISATAP (RFC 5214) |
fn embedded(ip: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let o = ip.octets();
    let at = |a: usize, b: usize, c: usize, d: usize| Ipv4Addr::new(o[a], o[b], o[c], o[d]);
    let tail = at(12, 13, 14, 15);
    let mut found = [None; 3];
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => {}
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => found[0] = Some(tail),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => found[0] = Some(tail),
        [0x64, 0xff9b, 1, ..] => {
            // How long the network's prefix is can't be seen; what follows a shorter one is zero.
            let ends = |from: usize| o[8] == 0 && o[from..].iter().all(|byte| *byte == 0);
            found[0] = Some(tail);
            found[1] = if ends(11) {
                Some(at(6, 7, 9, 10))
            } else if ends(12) {
                Some(at(7, 9, 10, 11))
            } else if ends(13) {
                Some(at(9, 10, 11, 12))
            } else {
                None
            };
            // The tail of a shorter prefix is no address.
            if found[1].is_some() {
                found[0] = None;
            }
        }
        [0x2002, ..] => found[0] = Some(at(2, 3, 4, 5)),
        [0x2001, 0, ..] => {
            found[0] = Some(at(4, 5, 6, 7));
            found[1] = Some(Ipv4Addr::from_bits(!tail.to_bits()));
        }
        _ => {}
    }
    if let [.., 0 | 0x200, 0x5efe, _, _] = ip.segments() {
        found[2] = Some(tail);
    }
    found.into_iter().flatten()
}

/// One to four numbers, each decimal, octal (`0…`) or hexadecimal (`0x…`); the last one fills what
/// is left.
fn aton(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, front) = parts.split_last()?;
    if front.len() > 3 || front.iter().any(|part| *part > 255) {
        return None;
    }
    let left_bits = 32 - 8 * front.len() as u32;
    if u64::from(*last) >> left_bits > 0 {
        return None;
    }
    let head = front
        .iter()
        .enumerate()
        .fold(0, |sum, (at, part)| sum | part << (24 - 8 * at));
    Some(Ipv4Addr::from_bits(head | last))
}

fn number(text: &str) -> Option<u32> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // `from_str_radix` would take a sign too.
    let plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    u32::from_str_radix(digits, radix).ok().filter(|_| plain)
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metadata(cloud) => return write!(f, "the metadata service {cloud}"),
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Reserved => "a reserved address",
            Self::Own => "weir itself listens there",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Why> {
        why(text.parse().expect(text))
    }

    #[test]
    fn each_metadata_service_is_forbidden_and_its_neighbours_are_not() {
        for (ip, _) in METADATA_V4 {
            assert!(matches!(why((*ip).into()), Some(Why::Metadata(_))), "{ip}");
            for near in [ip.to_bits() - 1, ip.to_bits() + 1] {
                let near = Ipv4Addr::from_bits(near);
                assert_eq!(why(near.into()), None, "{near}");
            }
        }
        for (ip, _) in METADATA_V6 {
            assert!(matches!(why((*ip).into()), Some(Why::Metadata(_))), "{ip}");
            for near in [ip.to_bits() - 1, ip.to_bits() + 1] {
                let near = Ipv6Addr::from_bits(near);
                assert_eq!(why(near.into()), None, "{near}");
            }
        }
        for text in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
        ] {
            assert!(matches!(of(text), Some(Why::Metadata(_))), "{text}");
        }
    }

    #[test]
    fn the_names_of_metadata_services_are_forbidden_and_no_others() {
        for (name, _) in METADATA_NAMES {
            assert!(matches!(why_name(name), Some(Why::Metadata(_))), "{name}");
            assert_eq!(why_name(&format!("my{name}")), None, "my{name}");
            assert_eq!(why_name(&format!("{name}.example")), None, "{name}.example");
        }
        let of_a_region = "instance-data.eu-west-1.compute.internal";
        assert!(matches!(why_name(of_a_region), Some(Why::Metadata(_))));
        for name in ["compute.internal", "api.eu-west-1.compute.internal", ""] {
            assert_eq!(why_name(name), None, "{name}");
        }
    }

    #[test]
    fn ranges_are_forbidden_to_their_very_edges() {
        for (text, expected) in [
            ("0.0.0.0", Some(Why::Unspecified)),
            ("0.255.255.255", Some(Why::Unspecified)),
            ("1.0.0.0", None),
            ("223.255.255.255", None),
            ("224.0.0.0", Some(Why::Multicast)),
            ("239.255.255.255", Some(Why::Multicast)),
            ("240.0.0.0", Some(Why::Reserved)),
            ("255.255.255.254", Some(Why::Reserved)),
            ("255.255.255.255", Some(Why::Broadcast)),
            ("127.0.0.1", None),
            ("10.0.0.1", None),
            ("192.168.1.1", None),
            ("169.254.1.1", None),
            ("100.64.0.1", None),
            ("8.8.8.8", None),
            ("::", Some(Why::Unspecified)),
            ("::1", None),
            ("fe80::1", None),
            ("fd00::1", None),
            ("2001:db8::1", None),
            ("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
            ("ff00::", Some(Why::Multicast)),
            (
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                Some(Why::Multicast),
            ),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_is_found_in_each_form_of_ipv6_that_carries_one() {
        let metadata = Some(Why::Metadata("of most clouds"));
        for (text, expected) in [
            // Mapped, translated, compatible.
            ("::ffff:169.254.169.254", metadata),
            ("::ffff:0.0.0.0", Some(Why::Unspecified)),
            ("::ffff:255.255.255.255", Some(Why::Broadcast)),
            ("::ffff:10.0.0.1", None),
            ("::fffe:169.254.169.254", None),
            ("::1:ffff:169.254.169.254", None),
            ("::ffff:0:169.254.169.254", metadata),
            ("::ffff:0:10.0.0.1", None),
            ("::169.254.169.254", metadata),
            ("::2", Some(Why::Unspecified)),
            ("::10.0.0.1", None),
            // NAT64.
            ("64:ff9b::169.254.169.254", metadata),
            ("64:ff9b::8.8.8.8", None),
            ("64:ff9b::1:169.254.169.254", None),
            ("64:ff9a::169.254.169.254", None),
            ("64:ff9b:1::169.254.169.254", metadata),
            ("64:ff9b:1:ffff:ffff:ffff:169.254.169.254", metadata),
            ("64:ff9b:2::169.254.169.254", None),
            ("64:ff9b:1::8.8.8.8", None),
            // With a prefix of 48, 56 and 64 bits.
            ("64:ff9b:1:a9fe:00a9:fe00::", metadata),
            ("64:ff9b:1:12a9:00fe:a9fe::", metadata),
            ("64:ff9b:1:1234:00a9:fea9:fe00:0", metadata),
            ("64:ff9b:1:0808:0008:0800::", None),
            // 6to4.
            ("2002:a9fe:a9fe::", metadata),
            ("2002:a9fe:a9fe:ffff:ffff:ffff:ffff:ffff", metadata),
            ("2003:a9fe:a9fe::", None),
            ("2002:a9fe:a9fd::", None),
            ("2002:e000:1::1", Some(Why::Multicast)),
            // Teredo: the server, then the client, whose bits are turned over.
            ("2001:0:a9fe:a9fe:0:0:f7f7:f7f7", metadata),
            ("2001:0:808:808:0:0:5601:5601", metadata),
            ("2001:0:808:808:0:0:f7f7:f7f7", None),
            ("2001:1:a9fe:a9fe:0:0:5601:5601", None),
            // ISATAP.
            ("2001:db8::5efe:169.254.169.254", metadata),
            ("2001:db8::200:5efe:169.254.169.254", metadata),
            ("fe80::5efe:10.0.0.1", None),
            ("2001:db8::5eff:169.254.169.254", None),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_host_that_is_a_number_is_the_address_that_others_take_it_for() {
        for (host, address) in [
            ("169.254.169.254", Some("169.254.169.254")),
            ("2852039166", Some("169.254.169.254")),
            ("0xa9fea9fe", Some("169.254.169.254")),
            ("0xA9.0xFE.43518", Some("169.254.169.254")),
            ("169.16689662", Some("169.254.169.254")),
            ("0251.0376.0251.0376", Some("169.254.169.254")),
            ("127.1", Some("127.0.0.1")),
            ("0", Some("0.0.0.0")),
            ("fd00:ec2::254", Some("fd00:ec2::254")),
            ("4294967295", Some("255.255.255.255")),
            ("4294967296", None),
            ("256.1", None),
            ("1.16777216", None),
            ("1.2.3.256", None),
            ("1.2.3.4.5", None),
            ("1..2", None),
            ("08", None),
            ("0x", None),
            ("+1", None),
            ("1.2.3.a", None),
            ("api.example", None),
            ("", None),
        ] {
            let address = address.map(|text| text.parse::<IpAddr>().expect(text));
            assert_eq!(literal(host), address, "{host:?}");
        }
    }

    #[test]
    fn all_forms_of_an_address_are_told() {
        let all = |text: &str| -> Vec<String> {
            let address = text.parse().expect(text);
            forms(address).map(|form| form.to_string()).collect()
        };
        assert_eq!(all("10.0.0.1"), ["10.0.0.1"]);
        assert_eq!(all("::1"), ["::1"]);
        assert_eq!(all("::ffff:127.0.0.1"), ["::ffff:127.0.0.1", "127.0.0.1"]);
    }
}
