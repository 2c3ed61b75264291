//! `/etc/hosts`, and the names that need no server by RFC 6761.
//!
//! Asked from memory before any query; never sends one. The file is read when the resolver is made,
//! and again by [`Hosts::look_again`] when it has changed, on a thread that may block.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::Answer;
use crate::stamp::Stamp;

/// How long an answer of the file is kept before the file is asked again. A change of the file is
/// seen earlier, by those who look again.
pub(crate) const HOSTS_TTL: Duration = Duration::from_secs(5);

/// A larger file isn't a hosts file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The hosts file as last read.
#[derive(Debug)]
pub(crate) struct Hosts {
    path: PathBuf,
    names: ArcSwap<AHashMap<String, Answer>>,
    stamp: Mutex<Option<Stamp>>,
}

impl Hosts {
    /// The file at `path`; it needn't exist. Blocks while it is read.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        let hosts = Self {
            path: path.into(),
            names: ArcSwap::default(),
            stamp: Mutex::default(),
        };
        hosts.look_again();
        hosts
    }

    /// The addresses of `name` (in lower case), where no server need be asked.
    pub(crate) fn find(&self, name: &str) -> Option<Answer> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let listed = self.names.load().get(name).map(Arc::clone);
        listed.or_else(|| {
            let local = name == "localhost" || name.ends_with(".localhost");
            local.then(|| {
                Arc::from([
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ])
            })
        })
    }

    /// Reads the file where it has changed, and answers the names whose addresses came, went or
    /// became others. Blocks.
    pub(crate) fn look_again(&self) -> Vec<String> {
        let mut stamp = self.stamp.lock();
        let seen = Stamp::of(&self.path).filter(|seen| seen.bytes <= FILE_BYTES_MAX);
        if seen == *stamp {
            return Vec::new();
        }
        let text = match seen.map(|_| std::fs::read(&self.path)) {
            Some(Ok(text)) => text,
            // Between its being written and its being readable nothing is to be concluded.
            Some(Err(_)) => return Vec::new(),
            None => Vec::new(),
        };
        let names = parse(&String::from_utf8_lossy(&text));
        *stamp = seen;
        let before = self.names.load();
        let differs = |(name, answer): &(&String, &Answer)| before.get(*name) != Some(*answer);
        let came = names.iter().filter(differs).map(|(name, _)| name.clone());
        let went = before.keys().filter(|name| !names.contains_key(*name));
        let changed = came.chain(went.cloned()).collect();
        self.names.store(Arc::new(names));
        changed
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
    fn a_change_of_the_file_is_seen_and_told_by_name() {
        let path = std::env::temp_dir().join(format!("dns-hosts-{}", std::process::id()));
        let write = |text: &str| std::fs::write(&path, text).expect("a temporary file");
        write("192.0.2.1 a both\n");
        let hosts = Hosts::new(&path);
        assert!(hosts.find("a").is_some() && hosts.find("a.").is_some());
        assert!(hosts.look_again().is_empty(), "nothing has changed");
        write("192.0.2.1 both\n192.0.2.22 b\n");
        let mut changed = hosts.look_again();
        changed.sort_unstable();
        assert_eq!(changed, ["a", "b"]);
        assert!(hosts.find("a").is_none() && hosts.find("b").is_some());
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(hosts.look_again().len(), 2);
        assert!(hosts.find("b").is_none());
    }
}
