//! Why there is no connection, in words for logs and for metrics; and whether another proxy may be
//! asked. Made by the dialler, read by `proxy/connect`.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use pingora::{Error, ErrorType};
use weir_dns::LookupError;

use super::settings::{Authority, ProxyUrl};

/// Why there is no connection. It is the cause inside the `pingora::Error` of a failed dial;
/// [`ConnectError::within`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The endpoint took no connection on any of its addresses.
    Endpoint {
        /// `host:port` of the endpoint.
        target: String,
        /// The last address that was tried.
        address: SocketAddr,
        /// What it did.
        cause: Cause,
    },
    /// The proxy's own name has no address.
    ProxyName {
        /// The proxy, without credentials.
        proxy: String,
        /// Why not.
        cause: LookupError,
    },
    /// The proxy took no connection.
    ProxyAddress {
        /// The proxy, without credentials.
        proxy: String,
        /// The last address that was tried.
        address: SocketAddr,
        /// What it did.
        cause: Cause,
    },
    /// There is no TLS with the proxy.
    ProxyTls {
        /// The proxy, without credentials.
        proxy: String,
        /// Why not.
        why: String,
    },
    /// The proxy wants credentials, or others: 407 or 401, or SOCKS' way to say so.
    ProxyCredentials {
        /// The proxy, without credentials.
        proxy: String,
        /// Whether it was given some.
        given: bool,
    },
    /// The proxy doesn't allow this endpoint: any other status that is neither 2xx nor 5xx, or
    /// SOCKS' "not allowed by ruleset".
    ProxyDenied {
        /// The proxy, without credentials.
        proxy: String,
        /// `host:port` of the endpoint.
        target: String,
        /// What the proxy answered.
        said: Said,
    },
    /// The proxy couldn't reach the endpoint: 5xx, or one of SOCKS' other failures.
    ProxyFailed {
        /// The proxy, without credentials.
        proxy: String,
        /// `host:port` of the endpoint.
        target: String,
        /// What the proxy answered.
        said: Said,
    },
    /// The proxy took the connection and didn't answer in time.
    ProxySilent {
        /// The proxy, without credentials.
        proxy: String,
        /// `host:port` of the endpoint.
        target: String,
        /// It had been asked for the endpoint, and so may be waiting for that one; if not, it didn't
        /// even answer what comes before.
        asked: bool,
    },
    /// The proxy closed the connection, or spoke something else than its protocol.
    ProxyBroken {
        /// The proxy, without credentials.
        proxy: String,
        /// What it did.
        what: &'static str,
    },
    /// weir itself has no descriptor left, or no memory: whoever was to be reached did nothing wrong.
    Local {
        /// `host:port` of the endpoint.
        target: String,
    },
    /// No failure: there is a connection that can carry the request, which the pool will have again
    /// in a moment.
    Shared,
}

/// A proxy's no, in its own terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// A status of HTTP.
    Status(u16),
    /// A reply of SOCKS (RFC 1928 section 6).
    Reply(u8),
}

/// What an address did instead of taking a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Refused it.
    Refused,
    /// Didn't answer in its share of the time.
    TimedOut,
    /// Can't be reached from here.
    NoRoute,
    /// May be nobody's: weir's own listener, an unspecified or a multicast address.
    Forbidden,
    /// Nothing: weir itself has no descriptor left, or no memory.
    Local,
    /// Something else.
    Other(io::ErrorKind),
}

/// Whose failure it was, and so what may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nobody's: the same again will do.
    Nobody,
    /// weir's own: another proxy won't help, and nobody is put last for it.
    Local,
    /// The endpoint's: another one may work.
    Endpoint,
    /// The proxy's: another proxy may work, for this endpoint and for all others.
    Proxy,
    /// Of this proxy together with this endpoint: another proxy may reach it, and this one others.
    Pair,
    /// A proxy's decision: what one refuses by its rules, or for want of credentials, isn't tried
    /// through another.
    Decision,
}

/// A proxy's no before it is known which proxy and which endpoint: what `tunnel` and `socks` tell
/// the dialler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It doesn't speak its protocol, or closed the connection.
    Broken(&'static str),
    /// It wants credentials, or others.
    Credentials,
    /// It doesn't allow this endpoint.
    Denied(Said),
    /// It couldn't reach the endpoint.
    Failed(Said),
}

// === impl Fault ===

impl Fault {
    /// Bytes before our own: forged, or another tunnel's.
    pub(super) const EARLY: Self = Self::Broken("it sent data before the tunnel was used");

    /// The whole story.
    pub(super) fn of(self, proxy: &ProxyUrl, target: &Authority<'_>) -> ConnectError {
        let (target, given) = (target.to_string(), proxy.login.is_some());
        let proxy = proxy.to_string();
        match self {
            Self::Broken(what) => ConnectError::ProxyBroken { proxy, what },
            Self::Credentials => ConnectError::ProxyCredentials { proxy, given },
            Self::Denied(said) => ConnectError::ProxyDenied {
                proxy,
                target,
                said,
            },
            Self::Failed(said) => ConnectError::ProxyFailed {
                proxy,
                target,
                said,
            },
        }
    }
}

// === impl ConnectError ===

impl ConnectError {
    /// The error of the dialler inside one of Pingora's, where there is one.
    pub fn within(error: &Error) -> Option<&Self> {
        let cause = error.cause.as_deref()?;
        if let Some(found) = cause.downcast_ref::<Self>() {
            return Some(found);
        }
        // Pingora wraps an error of its own with the box around it.
        let inner = cause
            .downcast_ref::<Error>()
            .or_else(|| cause.downcast_ref::<Box<Error>>().map(|inner| &**inner))?;
        Self::within(inner)
    }

    /// Whose failure it was.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Local { .. }
            | Self::Endpoint {
                cause: Cause::Local,
                ..
            }
            | Self::ProxyAddress {
                cause: Cause::Local,
                ..
            } => Blame::Local,
            Self::Endpoint { .. } => Blame::Endpoint,
            Self::Shared => Blame::Nobody,
            Self::ProxyName { .. }
            | Self::ProxyAddress { .. }
            | Self::ProxyTls { .. }
            | Self::ProxySilent { asked: false, .. }
            | Self::ProxyBroken { .. } => Blame::Proxy,
            // What a proxy says nothing to it may be waiting for.
            Self::ProxyFailed { .. } | Self::ProxySilent { asked: true, .. } => Blame::Pair,
            Self::ProxyCredentials { .. } | Self::ProxyDenied { .. } => Blame::Decision,
        }
    }

    /// The word for logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Endpoint { cause, .. } => match cause {
                Cause::Refused => "connect_refused",
                Cause::TimedOut => "connect_timeout",
                Cause::NoRoute | Cause::Forbidden => "connect_no_route",
                Cause::Local => "connect_local",
                Cause::Other(_) => "connect_error",
            },
            Self::Local { .. }
            | Self::ProxyAddress {
                cause: Cause::Local,
                ..
            } => "connect_local",
            Self::ProxyName { .. } => "proxy_name",
            Self::ProxyAddress { .. } => "proxy_unreachable",
            Self::ProxyTls { .. } => "proxy_tls",
            Self::ProxyCredentials { .. } => "proxy_credentials",
            Self::ProxyDenied { .. } => "proxy_denied",
            Self::ProxyFailed { .. } => "proxy_failed",
            Self::ProxySilent { .. } => "proxy_timeout",
            Self::ProxyBroken { .. } => "proxy_protocol",
            Self::Shared => "shared",
        }
    }

    fn kind(&self) -> ErrorType {
        match self {
            Self::Endpoint { cause, .. } => match cause {
                Cause::Refused => ErrorType::ConnectRefused,
                Cause::TimedOut => ErrorType::ConnectTimedout,
                Cause::NoRoute | Cause::Forbidden => ErrorType::ConnectNoRoute,
                Cause::Local | Cause::Other(_) => ErrorType::ConnectError,
            },
            Self::Local { .. } | Self::Shared => ErrorType::ConnectError,
            _ => ErrorType::ConnectProxyFailure,
        }
    }
}

impl From<ConnectError> for Box<Error> {
    fn from(cause: ConnectError) -> Self {
        let mut error = Error::because(cause.kind(), "", cause);
        error.as_up();
        error
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        /// Descriptors of the process, and of the system; buffers, and memory.
        const LOCAL: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        if error.raw_os_error().is_some_and(|it| LOCAL.contains(&it)) {
            return Self::Local;
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::AddrNotAvailable => Self::NoRoute,
            other => Self::Other(other),
        }
    }
}

// === texts ===

const NO_MEANS: &str = "weir has no descriptor left, or no memory; see its limit of open files";

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("it refused the connection"),
            Self::TimedOut => f.write_str("it didn't answer in time"),
            Self::NoRoute => f.write_str("there is no route to it"),
            Self::Forbidden => f.write_str("it is weir's own, or nobody's"),
            Self::Local => f.write_str(NO_MEANS),
            Self::Other(kind) => write!(f, "{kind}"),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Reply(reply) => {
                let meaning = match reply {
                    1 => "general failure",
                    2 => "not allowed by its rules",
                    3 => "network unreachable",
                    4 => "host unreachable",
                    5 => "connection refused",
                    6 => "TTL expired",
                    7 => "CONNECT isn't supported",
                    8 => "this type of address isn't supported",
                    _ => "unknown",
                };
                write!(f, "SOCKS reply {reply}: {meaning}")
            }
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint {
                target,
                address,
                cause,
            } => write!(f, "no connection to {target} at {address}: {cause}"),
            Self::ProxyName { proxy, cause } => write!(f, "no way to the proxy {proxy}: {cause}"),
            Self::ProxyAddress {
                proxy,
                address,
                cause,
            } => write!(
                f,
                "no connection to the proxy {proxy} at {address}: {cause}"
            ),
            Self::ProxyTls { proxy, why } => write!(
                f,
                "no TLS with the proxy {proxy}: {why}; its certificate must name its host and come \
                 from an authority that the system trusts"
            ),
            Self::ProxyCredentials { proxy, given: true } => write!(
                f,
                "the proxy {proxy} doesn't accept the credentials of its URL"
            ),
            Self::ProxyCredentials { proxy, .. } => write!(
                f,
                "the proxy {proxy} wants credentials: write them in its URL"
            ),
            Self::ProxyDenied {
                proxy,
                target,
                said,
            } => write!(f, "the proxy {proxy} doesn't allow {target} ({said})"),
            Self::ProxyFailed {
                proxy,
                target,
                said,
            } => write!(f, "the proxy {proxy} can't reach {target} ({said})"),
            Self::ProxySilent { proxy, target, .. } => write!(
                f,
                "the proxy {proxy} didn't open a tunnel to {target} in time"
            ),
            Self::Local { target } => write!(f, "no connection to {target}: {NO_MEANS}"),
            Self::ProxyBroken { proxy, what } => write!(f, "the proxy {proxy}: {what}"),
            Self::Shared => f.write_str("another connection can carry it"),
        }
    }
}

impl std::error::Error for ConnectError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_weir_itself_lacks_is_no_ones_fault() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        for (number, local) in [
            (libc::EMFILE, true),
            (libc::ENFILE, true),
            (libc::ENOBUFS, true),
            (libc::ENOMEM, true),
            (libc::ECONNREFUSED, false),
            (libc::EADDRNOTAVAIL, false),
        ] {
            let cause = Cause::from(io::Error::from_raw_os_error(number));
            assert_eq!(cause == Cause::Local, local, "{number}");
            let (target, proxy) = (String::new(), String::new());
            let direct = ConnectError::Endpoint {
                target,
                address,
                cause,
            };
            let proxied = ConnectError::ProxyAddress {
                proxy,
                address,
                cause,
            };
            for (error, blame) in [(direct, Blame::Endpoint), (proxied, Blame::Proxy)] {
                let blame = if local { Blame::Local } else { blame };
                assert_eq!(error.blame(), blame, "{error}");
                assert_eq!(error.as_str() == "connect_local", local, "{error}");
            }
        }
    }

    #[test]
    fn our_cause_is_found_below_contexts_too() {
        let cause = ConnectError::ProxyBroken {
            proxy: String::new(),
            what: "x",
        };
        let inner: Box<Error> = cause.clone().into();
        let outer = Error::because(
            ErrorType::ConnectError,
            "around",
            inner.more_context("more"),
        );
        assert_eq!(ConnectError::within(&outer), Some(&cause));
        assert_eq!(
            ConnectError::within(&Error::new(ErrorType::ConnectError)),
            None
        );
    }
}
