//! A real server once: Debian's dnsmasq, on a port of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;

const DNSMASQ: &str = "/usr/sbin/dnsmasq";

/// Ends with the test.
struct Dnsmasq {
    child: Child,
    address: SocketAddr,
}

impl Dnsmasq {
    /// `None` where it isn't installed.
    async fn start(arguments: &[&str]) -> Option<Self> {
        if !Path::new(DNSMASQ).exists() {
            eprintln!("skipped: {DNSMASQ} isn't installed");
            return None;
        }
        let port = {
            let free = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
            free.local_addr().expect("bound").port()
        };
        let child = Command::new(DNSMASQ)
            .args([
                "--no-daemon",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
            ])
            .args([
                "--listen-address=127.0.0.1",
                "--bind-interfaces",
                "--user=root",
            ])
            .args(["--pid-file=", "--log-facility=-"])
            .arg(format!("--port={port}"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq starts");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut server = Self { child, address };
        // It takes TCP as soon as it takes UDP.
        while tokio::net::TcpStream::connect(address).await.is_err() {
            let ended = server.child.try_wait().expect("a child");
            assert_eq!(ended, None, "dnsmasq ended");
            tokio::time::sleep(SECOND / 100).await;
        }
        Some(server)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn a_real_dnsmasq_is_understood() {
    let many: Vec<String> = (0..120)
        .map(|number| format!("--host-record=many.test,10.9.8.{number}"))
        .collect();
    let mut arguments = vec![
        "--host-record=both.test,192.0.2.1,2001:db8::1,60",
        "--host-record=db.corp.test,192.0.2.2",
        "--cname=alias.test,both.test,30",
        "--local=/test/",
    ];
    arguments.extend(many.iter().map(String::as_str));
    let Some(dnsmasq) = Dnsmasq::start(&arguments).await else {
        return;
    };
    let resolver = Resolver::new(Config {
        servers: vec![dnsmasq.address],
        search: Some(vec!["corp.test".into()]),
        ..Config::default()
    })
    .expect("a resolver");
    let texts = async |name: &str| -> Vec<String> {
        let answer = resolver.lookup(name).await.expect("an answer");
        answer.iter().map(ToString::to_string).collect()
    };
    assert_eq!(texts("both.test").await, ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(texts("Alias.test.").await, ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(texts("db").await, ["192.0.2.2"]);
    // 120 addresses take 1,9 kB: by TCP, and the first of them are kept.
    assert_eq!(texts("many.test").await.len(), 32);
    let error = resolver.lookup("missing.test").await;
    assert!(
        matches!(error, Err(LookupError::NotFound { .. })),
        "{error:?}"
    );
    // It has nobody to ask for others, and refuses.
    let error = resolver.lookup("api.example").await;
    assert!(
        matches!(error, Err(LookupError::Unavailable { .. })),
        "{error:?}"
    );
    let listing = resolver.dump();
    let fresh = listing.iter().find(|it| it.name == "alias.test");
    let fresh = fresh.map(|it| it.fresh.as_secs());
    assert!(fresh.is_some_and(|it| it <= 60), "{fresh:?}");

    drop(dnsmasq);
    let error = resolver.lookup("new.test").await;
    assert!(
        matches!(error, Err(LookupError::Unavailable { .. })),
        "{error:?}"
    );
    assert_eq!(texts("both.test").await.len(), 2, "what is known serves on");
}
