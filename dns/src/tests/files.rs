//! `/etc/hosts` and `/etc/resolv.conf`, and their changes.

use std::path::PathBuf;

use super::server::{A, Reply, Server};
use super::*;
use crate::transport::Servers;

/// A file of a test, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dns-{name}-{}", std::process::id()));
        let scratch = Self(path);
        scratch.write(text);
        scratch
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("a temporary file");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

#[tokio::test(start_paused = true)]
async fn names_of_the_hosts_file_are_not_asked_for_and_its_changes_are_seen() {
    let hosts = Scratch::new("hosts-lookup", "10.1.2.3 db.internal\n");
    let script = Script::default();
    let transport = Box::new(script.clone());
    let resolver = Resolver::with(&Config::default(), &hosts.0, transport, Arc::new(()));
    let octet = async |name: &str| last_octet(resolver.lookup(name).await);
    assert_eq!(octet("db.internal").await, 3);
    let answer = resolver.lookup("localhost").await.expect("an answer");
    assert_eq!(answer[0].to_string(), "127.0.0.1");
    assert_eq!(resolver.dump()[0].source, Source::Hosts);
    assert_eq!(script.asked(), 0);

    script.then(Duration::ZERO, found(7, 300));
    assert_eq!(octet("other.internal").await, 7);
    hosts.write("10.1.2.33 db.internal\n10.1.2.44 other.internal\n");
    tokio::time::sleep(7 * SECOND).await;
    assert_eq!(octet("db.internal").await, 33);
    assert_eq!(
        octet("other.internal").await,
        44,
        "though its TTL isn't over"
    );

    hosts.write("\n");
    tokio::time::sleep(7 * SECOND).await;
    script.then(Duration::ZERO, missing());
    let error = resolver.lookup("db.internal").await;
    assert!(
        matches!(error, Err(LookupError::NotFound { .. })),
        "{error:?}"
    );
    assert_eq!(script.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_handed_over_does_not_hide_the_hosts_file() {
    let hosts = Scratch::new("hosts-learn", "10.1.2.3 db.internal\n");
    let transport = Box::new(Script::default());
    let resolver = Resolver::with(&Config::default(), &hosts.0, transport, Arc::new(()));
    resolver.learn([crate::Known {
        name: "db.internal".into(),
        addresses: vec![IpAddr::from([192, 0, 2, 99])],
        fresh: 60 * SECOND,
        stale: 60 * SECOND,
        missing_for: None,
    }]);
    assert_eq!(last_octet(resolver.lookup("db.internal").await), 3);
}

/// Servers of a file, without the port that only the superuser may have: the test asks what they
/// are, and doesn't ask them.
fn servers(conf: &Scratch, config: &Config) -> Servers {
    Servers::of(config, &conf.0, Arc::new(())).expect("a configuration")
}

fn addresses(servers: &Servers) -> Vec<String> {
    let reports = servers.servers().into_iter();
    reports.map(|it| it.address.to_string()).collect()
}

#[test]
fn a_change_of_resolv_conf_is_seen_and_a_broken_one_is_not_believed() {
    let conf = Scratch::new("resolv-change", "nameserver 192.0.2.1\n");
    let servers = servers(&conf, &Config::default());
    assert!(!servers.look_again(), "nothing has changed");
    conf.write("nameserver 192.0.2.1\nnameserver 192.0.2.22\noptions ndots:3\n");
    assert!(servers.look_again());
    assert_eq!(addresses(&servers), ["192.0.2.1:53", "192.0.2.22:53"]);
    assert_eq!(servers.ndots(), 3);
    conf.write("nameserver 192.0.2.1\nnameserver 192.0.2.22\n options ndots:3\n# x\n");
    assert!(!servers.look_again(), "another file that says the same");
    for broken in ["", "# being written\n", "nameserver \n"] {
        conf.write(broken);
        assert!(!servers.look_again(), "{broken:?}");
    }
    std::fs::remove_file(&conf.0).expect("removed");
    assert!(!servers.look_again());
    // As a directory it is there and can't be read.
    std::fs::create_dir(&conf.0).expect("a directory");
    assert!(!servers.look_again());
    assert_eq!(addresses(&servers).len(), 2, "the old ones serve on");
    assert!(Servers::of(&Config::default(), &conf.0, Arc::new(())).is_err());
    std::fs::remove_dir(&conf.0).expect("removed");
    conf.write("nameserver 192.0.2.3\n");
    assert!(servers.look_again());
    assert_eq!(addresses(&servers), ["192.0.2.3:53"]);
}

#[test]
fn without_a_resolv_conf_the_server_of_this_machine_is_asked() {
    let conf = Scratch::new("resolv-empty", "# nothing\n");
    assert_eq!(
        addresses(&servers(&conf, &Config::default())),
        ["127.0.0.1:53"]
    );
    std::fs::remove_file(&conf.0).expect("removed");
    assert_eq!(
        addresses(&servers(&conf, &Config::default())),
        ["127.0.0.1:53"]
    );
}

#[test]
fn the_configuration_wins_over_the_file() {
    let conf = Scratch::new("resolv-wins", "nameserver 192.0.2.1\noptions ndots:3\n");
    let config = Config {
        ndots: Some(2),
        ..Config::default()
    };
    assert_eq!(servers(&conf, &config).ndots(), 2);
    let config = Config {
        servers: vec!["192.0.2.9:5353".parse().expect("an address")],
        ..Config::default()
    };
    let given = servers(&conf, &config);
    assert_eq!(
        (addresses(&given), given.ndots()),
        (vec!["192.0.2.9:5353".to_owned()], 1)
    );
    conf.write("nameserver 192.0.2.77\n");
    assert!(!given.look_again(), "it isn't asked");
}

#[tokio::test]
async fn names_are_searched_for_as_the_list_says() {
    let server = Server::start(|question| match (question.name, question.kind) {
        ("db.two.example", A) => Reply::Addresses(vec!["192.0.2.2"], 60),
        ("db", A) => Reply::Addresses(vec!["192.0.2.3"], 60),
        ("last", A) => Reply::Addresses(vec!["192.0.2.4"], 60),
        ("bad.one.example", _) => Reply::Code(2),
        ("bad.two.example", A) => Reply::Addresses(vec!["192.0.2.6"], 60),
        ("a.b", A) => Reply::Addresses(vec!["192.0.2.5"], 60),
        ("nodata.one.example", _) => Reply::Code(0),
        ("nodata.two.example", A) => Reply::Addresses(vec!["192.0.2.7"], 60),
        ("a.b.one.example" | "a.b.two.example", _) => panic!("searched for a whole name"),
        _ => Reply::Code(3),
    })
    .await;
    let resolver = Resolver::new(Config {
        servers: vec![server.address()],
        search: Some(vec!["one.example".into(), "Two.Example.".into()]),
        ..Config::default()
    })
    .expect("a resolver");
    let octet = async |name: &str| last_octet(resolver.lookup(name).await);
    assert_eq!(octet("db").await, 2);
    assert_eq!(octet("db.").await, 3, "never searched for");
    assert_eq!(octet("last").await, 4, "as it is in the end");
    assert_eq!(octet("a.b").await, 5, "as it is only");
    assert_eq!(octet("nodata").await, 7);
    let error = resolver.lookup("bad").await;
    assert!(
        matches!(error, Err(LookupError::Unavailable { .. })),
        "the next domain's is another host: {error:?}"
    );
    let error = resolver.lookup("nowhere").await;
    assert!(
        matches!(error, Err(LookupError::NotFound { .. })),
        "{error:?}"
    );
}
