//! Sockets of listeners and of `admin`: where they are bound, and whose file a Unix socket is.
//!
//! Opens none, and doesn't ask the system for users: a file may be checked on another host.

use super::Check;
use crate::config::path::Path;
use crate::config::units::Text;
use crate::types::socket::{Address, Socket};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

/// What [`address`] takes.
pub(super) const ADDRESS: &str =
    "IP:PORT such as 0.0.0.0:8080 or [::]:8080, or unix:/absolute/path";

/// Reads an address.
pub(super) fn address(text: &str, path: &Path, check: &mut Check<'_>) -> Option<Address> {
    /// What fits into `sockaddr_un` with a zero behind it.
    const PATH_BYTES_MAX: usize = 107;
    let Ok(address) = text.parse() else {
        check.findings.wrong(path, ADDRESS);
        return None;
    };
    if let Address::Unix(file) = &address {
        let file = file.as_os_str().as_bytes();
        let is_name = !file.ends_with(b"/") && !file.iter().any(u8::is_ascii_control);
        if !is_name || file.len() > PATH_BYTES_MAX {
            let allowed = "unix: and the path of a file, at most 107 bytes long";
            check.findings.wrong(path, allowed);
            return None;
        }
    }
    Some(address)
}

/// Whether both can't be bound. Port 0 is any free one.
pub(super) fn clash(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Tcp(one), Address::Tcp(other)) => tcp_clash(*one, *other),
        (Address::Unix(one), Address::Unix(other)) => one == other,
        _ => false,
    }
}

fn tcp_clash(one: SocketAddr, other: SocketAddr) -> bool {
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

/// `mode` and `owner`, which stand beside `address` and are a Unix socket's alone.
#[derive(Default)]
pub(super) struct Owned {
    mode: Option<u32>,
    owner: Option<(String, Option<String>)>,
}

impl Owned {
    /// Reads both from `path`; `address` is `None` where it couldn't be read.
    pub(super) fn read(
        address: Option<&Address>,
        (mode, owner): (Option<&Text>, Option<&Text>),
        path: &Path,
        check: &mut Check<'_>,
    ) -> Self {
        if address.is_some_and(|it| it.tcp().is_some()) {
            for (used, key) in [(mode.is_some(), "mode"), (owner.is_some(), "owner")] {
                if used {
                    let allowed = format!("no `{key}`, which only a unix: address has");
                    check.findings.wrong(&path.key(key), allowed);
                }
            }
            return Self::default();
        }
        let mode = mode.and_then(|Text(text)| {
            let mode = self::mode(text);
            if mode.is_none() {
                let allowed = "a file mode in octal such as \"0660\", at most \"0777\"";
                check.findings.wrong(&path.key("mode"), allowed);
            }
            mode
        });
        let owner = owner.and_then(|Text(text)| {
            let owner = self::owner(text);
            if owner.is_none() {
                let allowed = "user or user:group, by name or by number";
                check.findings.wrong(&path.key("owner"), allowed);
            }
            owner
        });
        Self { mode, owner }
    }
}

/// A socket with the standard options. Unless a mode is given, a Unix socket is open to its owner and
/// its group.
pub(super) fn socket(address: Address, owned: Owned) -> Socket {
    const MODE: u32 = 0o660;
    let is_unix = address.tcp().is_none();
    Socket {
        mode: is_unix.then(|| owned.mode.unwrap_or(MODE)),
        owner: owned.owner,
        ..Socket::at(address)
    }
}

fn mode(text: &str) -> Option<u32> {
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| digits)?;
    (mode <= 0o777).then_some(mode)
}

fn owner(text: &str) -> Option<(String, Option<String>)> {
    const NAME_BYTES_MAX: usize = 255;
    let is_name = |name: &str| {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@$".contains(&byte);
        let length = (1..=NAME_BYTES_MAX).contains(&name.len());
        length && !name.starts_with('-') && name.bytes().all(letters)
    };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let sound = is_name(user) && group.is_none_or(is_name);
    sound.then(|| (user.to_owned(), group.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, value) in [
            ("0660", Some(0o660)),
            ("660", Some(0o660)),
            ("0777", Some(0o777)),
            ("000", Some(0)),
            ("1777", None),
            ("0888", None),
            ("66", None),
            ("+660", None),
            ("0o660", None),
            ("", None),
        ] {
            assert_eq!(mode(text), value, "{text}");
        }
    }

    #[test]
    fn owners_are_a_user_and_perhaps_a_group() {
        for (text, value) in [
            ("weir", Some(("weir", None))),
            ("weir:www-data", Some(("weir", Some("www-data")))),
            ("1000:0", Some(("1000", Some("0")))),
            (":weir", None),
            ("weir:", None),
            ("weir:a:b", None),
            ("we ir", None),
            ("", None),
        ] {
            let value = value.map(|(user, group): (&str, Option<&str>)| {
                (user.to_owned(), group.map(str::to_owned))
            });
            assert_eq!(owner(text), value, "{text}");
        }
    }
}
