//! `NO_PROXY`, as curl reads it, and what is odd about it.
//!
//! Programs disagree about this variable. What they all understand is taken as it is; what only some
//! do is taken as it was probably meant, or not at all, and told. Called by `config`.

use super::Pattern;
use super::pattern::Hosts;

/// Entries of the variable, at most; what follows is told and left out.
const ENTRIES_MAX: usize = 1024;

/// What `NO_PROXY` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy {
    /// Hosts that are reached directly.
    pub patterns: Vec<Pattern>,
    /// A sentence for each entry that is ambiguous or can't be used.
    pub warnings: Vec<String>,
}

impl NoProxy {
    /// Reads the variable's value.
    ///
    /// Entries stand between commas or blanks. A name, with or without a dot in front, takes itself
    /// and all below it; an address or a network takes the addresses in it, also those of names, as
    /// `egress.direct` does; `*` alone takes everything.
    pub fn read(text: &str) -> Self {
        let mut read = Self::default();
        let entries = || {
            text.split(|c: char| c == ',' || c.is_ascii_whitespace())
                .filter(|entry| !entry.is_empty())
        };
        if text.trim() == "*" {
            read.patterns.extend("*".parse());
            return read;
        }
        for entry in entries().take(ENTRIES_MAX) {
            read.add(entry);
        }
        let more = entries().skip(ENTRIES_MAX).count();
        if more > 0 {
            read.warnings.push(format!(
                "{more} more entries are left out: at most {ENTRIES_MAX} are read"
            ));
        }
        read
    }

    fn add(&mut self, entry: &str) {
        let shown: String = entry.chars().take(80).collect();
        let mut warn = |what: &str| self.warnings.push(format!("{shown:?} {what}"));
        let pattern = match entry.parse::<Pattern>() {
            Ok(pattern) => pattern,
            Err(_) if entry.contains("://") => {
                return warn("is left out: write the host without http://");
            }
            Err(_) => {
                return warn("is left out: it is no host, address or network such as 10.0.0.0/8");
            }
        };
        if pattern.port.is_some() {
            warn("is taken for this port only; curl leaves out entries with a port");
        }
        let hosts = match pattern.hosts {
            Hosts::Any => {
                return warn("is left out: `*` takes everything only where it stands alone");
            }
            Hosts::Exact(name) if is_cut_address(&name) => {
                return warn("is left out: networks are written such as 10.0.0.0/8");
            }
            Hosts::Exact(name) => Hosts::Suffix(name),
            Hosts::Below(name) => {
                warn("is taken for all names below it, as Go does; curl doesn't know `*.`");
                Hosts::Below(name)
            }
            other => other,
        };
        self.patterns.push(Pattern { hosts, ..pattern });
    }
}

/// `10.` or `192.168`, which some programs take for the beginning of addresses.
fn is_cut_address(name: &str) -> bool {
    name.split('.')
        .all(|label| label.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(text: &str, host: &str, port: u16) -> bool {
        let read = NoProxy::read(text);
        read.patterns.iter().any(|pattern| {
            let address = host.parse();
            pattern.takes_name(host, port)
                || address.is_ok_and(|address| pattern.takes_address(address, port))
        })
    }

    #[test]
    fn no_proxy_takes_what_curl_takes() {
        for (text, host, taken) in [
            ("example.com", "example.com", true),
            ("example.com", "www.example.com", true),
            ("example.com", "a.b.example.com", true),
            ("example.com", "notexample.com", false),
            ("example.com", "example.com.evil.test", false),
            ("example.com", "com", false),
            (".example.com", "example.com", true),
            (".example.com", "www.example.com", true),
            (".example.com", "notexample.com", false),
            ("example.com.", "www.example.com", true),
            ("EXAMPLE.com", "www.example.com", true),
            ("a.test,example.com", "example.com", true),
            ("a.test, example.com ,b.test", "example.com", true),
            ("a.test example.com", "example.com", true),
            ("localhost,127.0.0.1", "localhost", true),
            ("localhost,127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.10", false),
            ("192.168.0.0/16", "192.168.255.255", true),
            ("192.168.0.0/16", "192.169.0.0", false),
            ("192.168.7.7/16", "192.168.1.1", true),
            ("192.168.0.1/32", "192.168.0.1", true),
            ("192.168.0.1/32", "192.168.0.2", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::1", "::1", true),
            ("[::1]", "::1", true),
            ("*", "anything.test", true),
            (" * ", "anything.test", true),
            ("*,example.com", "other.test", false),
            ("*,example.com", "example.com", true),
            ("", "example.com", false),
            (",, ,", "example.com", false),
            ("10.", "10.0.0.1", false),
            ("192.168.*", "192.168.0.1", false),
        ] {
            assert_eq!(takes(text, host, 443), taken, "{text:?} {host}");
        }
    }

    #[test]
    fn what_programs_disagree_about_is_told() {
        for (text, count, word) in [
            ("a.test,.b.test,10.0.0.0/8,::1,localhost,*.c.test", 1, "Go"),
            ("a.test:8443", 1, "port only"),
            ("*,a.test", 1, "stands alone"),
            ("10.,192.168.*,172.16", 3, "such as 10.0.0.0/8"),
            ("http://a.test", 1, "without http://"),
            ("10.0.0.0/33", 1, "left out"),
            ("a.test,b.test", 0, ""),
            ("*", 0, ""),
        ] {
            let warnings = NoProxy::read(text).warnings;
            assert_eq!(warnings.len(), count, "{text:?}: {warnings:?}");
            assert!(
                warnings.iter().all(|warning| warning.contains(word)),
                "{text:?}: {warnings:?}"
            );
        }
        assert!(takes("a.test:8443", "a.test", 8443));
        assert!(!takes("a.test:8443", "a.test", 443));
        assert!(takes("*.c.test", "d.c.test", 443) && !takes("*.c.test", "c.test", 443));
    }

    #[test]
    fn no_more_entries_are_read_than_can_be_looked_at() {
        let many = vec!["a.test"; ENTRIES_MAX].join(",");
        assert!(NoProxy::read(&many).warnings.is_empty());
        let read = NoProxy::read(&(many + ",b.test"));
        assert_eq!((read.patterns.len(), read.warnings.len()), (ENTRIES_MAX, 1));
    }

    /// For any entry and any host: taken if and only if the host is the entry, or ends in a dot and
    /// the entry.
    #[test]
    fn a_name_takes_itself_and_what_is_below_it_and_nothing_else() {
        let labels = ["a", "b", "ab", "ba", "aa", "a-b", "com", "acom"];
        let mut names = Vec::new();
        for one in labels {
            names.push(one.to_owned());
            for two in labels {
                names.push(format!("{one}.{two}"));
                names.extend(labels.iter().map(|three| format!("{one}.{two}.{three}")));
            }
        }
        for entry in names.iter().step_by(5) {
            let read = NoProxy::read(entry);
            let [pattern] = &*read.patterns else {
                panic!("{entry}: {read:?}");
            };
            let below = format!(".{entry}");
            for host in &names {
                let expected = host == entry || host.ends_with(&below);
                assert_eq!(pattern.takes_name(host, 443), expected, "{entry} {host}");
            }
        }
    }
}
