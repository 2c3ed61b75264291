//! `/etc/hosts`, and the names that need no server by RFC 6761.
//!
//! Read again when the file's time of change moves. [`crate::Resolver`] asks it before any
//! query; it never sends one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ahash::AHashMap;
use parking_lot::Mutex;

use crate::Answer;

/// How long an answer of the file is kept before the file is looked at again.
pub(crate) const HOSTS_TTL: Duration = Duration::from_secs(5);

/// A larger file isn't a hosts file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The hosts file as last read.
#[derive(Debug)]
pub(crate) struct Hosts {
    path: PathBuf,
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    changed: Option<SystemTime>,
    names: AHashMap<String, Answer>,
}

impl Hosts {
    /// The file at `path`; it needn't exist.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read: Mutex::default(),
        }
    }

    /// The addresses of `name` (in lower case, no dot at its end), where no server need be asked.
    pub(crate) fn find(&self, name: &str) -> Option<Answer> {
        self.listed(name).or_else(|| {
            let local = name == "localhost" || name.ends_with(".localhost");
            local.then(|| {
                Arc::from([
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ])
            })
        })
    }

    fn listed(&self, name: &str) -> Option<Answer> {
        let mut read = self.read.lock();
        let changed = std::fs::metadata(&self.path)
            .ok()
            .filter(|file| file.len() <= FILE_BYTES_MAX)
            .and_then(|file| file.modified().ok());
        if changed != read.changed {
            let text = changed.and_then(|_| std::fs::read(&self.path).ok());
            read.names = parse(&String::from_utf8_lossy(&text.unwrap_or_default()));
            read.changed = changed;
        }
        read.names.get(name).map(Arc::clone)
    }
}

/// `address name [name …] [# comment]` lines; a line that isn't one is passed over. IPv4 first.
fn parse(text: &str) -> AHashMap<String, Answer> {
    let mut lists: AHashMap<String, Vec<IpAddr>> = AHashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
            continue;
        };
        for name in words {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let list = lists.entry(name).or_default();
            if !list.contains(&address) {
                list.push(address);
            }
        }
    }
    lists
        .into_iter()
        .map(|(name, mut list)| {
            list.sort_by_key(IpAddr::is_ipv6);
            (name, Answer::from(list))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_comments_case_and_several_addresses_are_understood() {
        let names = parse(
            "# c\n::1 Both\n127.0.0.1\tboth other # x\n127.0.0.1 both\nrubbish both\n10.0.0.1\n",
        );
        let both: Vec<String> = names["both"].iter().map(ToString::to_string).collect();
        assert_eq!(both, ["127.0.0.1", "::1"]);
        assert_eq!(names["other"].len(), 1);
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn localhost_needs_no_file() {
        let hosts = Hosts::new("/nonexistent");
        assert_eq!(hosts.find("localhost").map(|found| found.len()), Some(2));
        assert_eq!(hosts.find("a.localhost").map(|found| found.len()), Some(2));
        assert_eq!(hosts.find("notlocalhost"), None);
    }

    #[test]
    fn a_change_of_the_file_is_seen() {
        let path = std::env::temp_dir().join(format!("weir-hosts-{}", std::process::id()));
        let write = |text: &str, seconds| {
            let file = std::fs::File::create(&path).expect("a temporary file");
            std::io::Write::write_all(&mut &file, text.as_bytes()).expect("written");
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            file.set_modified(time).expect("time set");
        };
        let hosts = Hosts::new(&path);
        write("192.0.2.1 a\n", 1000);
        assert!(hosts.find("a").is_some());
        write("192.0.2.1 b\n", 2000);
        assert!(hosts.find("a").is_none());
        assert!(hosts.find("b").is_some());
        std::fs::remove_file(&path).expect("removed");
        assert!(hosts.find("b").is_none());
    }
}
