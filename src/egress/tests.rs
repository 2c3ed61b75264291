//! Roads, pool keys, and connections over loopback through Pingora's own connector.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

const LIMITS: Limits = Limits {
    connect: Duration::from_secs(5),
    first_byte: Duration::from_secs(300),
    idle: Duration::from_secs(120),
    write: Duration::from_secs(60),
};

fn egress_with(settings: Settings) -> Egress {
    let resolver = Resolver::new(settings.dns.clone()).expect("a resolver");
    Egress::new(settings, resolver, Arc::default())
}

fn egress(proxy: Option<&str>) -> Egress {
    egress_with(Settings {
        proxies: proxy
            .iter()
            .map(|url| url.parse().expect("a URL"))
            .collect(),
        ..Settings::default()
    })
}

fn endpoint(scheme: Scheme, host: &str, port: u16, mode: Mode) -> Endpoint {
    Endpoint::new(scheme, host, port, mode, Tls::default()).expect("a host")
}

fn own(url: &str) -> Mode {
    Mode::Proxy(Some([Arc::new(url.parse().expect("a URL"))].into()))
}

#[tokio::test]
async fn the_providers_key_comes_first_then_the_rules() {
    let with = egress(Some("http://proxy.example:3128"));
    let without = egress(None);
    let chosen = async |egress: &Egress, host, mode| {
        let way = egress.way(&endpoint(Scheme::Https, host, 443, mode)).await;
        way.map(|way| (way.road, way.rule))
    };
    use Road::{Direct, Proxy};
    for (host, mode, road, rule) in [
        ("localhost", Mode::Auto, Direct, Rule::Intranet),
        ("localhost", Mode::Proxy(None), Proxy, Rule::Provider),
        ("10.0.0.1", Mode::Auto, Direct, Rule::Intranet),
        ("[fd00::1]", Mode::Auto, Direct, Rule::Intranet),
        ("192.0.2.1", Mode::Auto, Proxy, Rule::External),
        ("192.0.2.1", Mode::Direct, Direct, Rule::Provider),
        ("nowhere.invalid", Mode::Auto, Proxy, Rule::Unresolved),
        ("nowhere.invalid", own("http://p:1"), Proxy, Rule::Provider),
    ] {
        let got = chosen(&with, host, mode.clone()).await;
        assert_eq!(got, Ok((road, rule)), "{host} {mode:?}");
    }
    let got = chosen(&without, "192.0.2.1", Mode::Auto).await;
    assert_eq!(got, Ok((Direct, Rule::NoProxy)));
    let got = chosen(&without, "nowhere.invalid", Mode::Auto).await;
    assert!(matches!(got, Err(RoadError::NotFound { .. })), "{got:?}");
    let got = chosen(&with, "nowhere.invalid", Mode::Direct).await;
    assert!(matches!(got, Err(RoadError::NotFound { .. })), "{got:?}");
    let got = chosen(&without, "192.0.2.1", Mode::Proxy(None)).await;
    assert!(matches!(got, Err(RoadError::NoProxy { .. })), "{got:?}");
}

/// A road out that knows these names, and asks nobody for them.
fn knowing(proxy: Option<&str>, names: &[(&str, &[&str])]) -> Egress {
    let egress = egress(proxy);
    let known = names.iter().map(|(name, addresses)| weir_dns::Known {
        name: (*name).to_owned(),
        addresses: (addresses.iter())
            .map(|ip| ip.parse().expect("an IP"))
            .collect(),
        fresh: Duration::from_secs(3600),
        stale: Duration::from_secs(3600),
        missing_for: None,
    });
    egress.resolver.learn(known);
    egress
}

/// The addresses that a connection would be made to; none for a tunnel.
fn dialled(way: &Way) -> Vec<String> {
    match &way.reach {
        Reach::Direct(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Reach::Proxy(_) => Vec::new(),
    }
}

#[tokio::test]
async fn an_address_that_no_upstream_may_have_is_refused_by_every_road() {
    const ROADS: [fn() -> Mode; 4] = [
        || Mode::Auto,
        || Mode::Direct,
        || Mode::Proxy(None),
        || own("http://own.example:1"),
    ];
    let names: &[(&str, &[&str])] = &[
        ("meta.example", &["169.254.169.254"]),
        ("six.example", &["fd00:ec2::254", "::ffff:169.254.169.254"]),
        ("listed.example", &["0.0.0.0"]),
    ];
    for proxy in [None, Some("http://proxy.example:3128")] {
        let egress = knowing(proxy, names);
        for host in [
            "meta.example",
            "six.example",
            "listed.example",
            "169.254.169.254",
            "[fd00:ec2::254]",
            "[::ffff:a9fe:a9fe]",
            "[64:ff9b::a9fe:a9fe]",
            "0xa9fea9fe",
            "2852039166",
            "169.254.169.254.",
            "metadata.google.internal",
            "Metadata.Google.Internal.",
            "instance-data.ec2.internal",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            for mode in ROADS {
                let (endpoint, mode) = (endpoint(Scheme::Http, host, 80, mode()), mode());
                let way = egress.way(&endpoint).await;
                // Without a proxy there is a second reason, which may come first.
                let refused = matches!(way, Err(RoadError::Forbidden { .. }))
                    || proxy.is_none() && matches!(way, Err(RoadError::NoProxy { .. }));
                assert!(refused, "{host} {mode:?} {proxy:?}: {way:?}");
            }
        }
    }
    let egress = knowing(None, names);
    let told = async |host| {
        let way = egress
            .way(&endpoint(Scheme::Http, host, 80, Mode::Auto))
            .await;
        way.expect_err("forbidden").to_string()
    };
    assert_eq!(
        told("meta.example").await,
        "meta.example resolves only to 169.254.169.254, which no upstream may have (the metadata \
         service of most clouds)"
    );
    assert_eq!(
        told("2852039166").await,
        "no upstream may have the address 169.254.169.254 (the metadata service of most clouds)"
    );
    assert_eq!(
        told("metadata.goog").await,
        "no upstream may have the name metadata.goog (the metadata service of Google Cloud)"
    );
}

#[tokio::test]
async fn a_proxied_host_is_refused_also_by_its_rule() {
    let egress = Egress {
        rules: Rules {
            proxied: vec![".example".parse().expect("a pattern")],
            ..Rules::default()
        },
        ..knowing(
            Some("http://proxy.example:3128"),
            &[("meta.example", &["169.254.169.254"])],
        )
    };
    let refused = endpoint(Scheme::Http, "meta.example", 80, Mode::Auto);
    let way = egress.way(&refused).await;
    assert!(matches!(way, Err(RoadError::Forbidden { .. })), "{way:?}");
    // What isn't known here can't be judged here.
    let unknown = endpoint(Scheme::Http, "unknown.invalid", 80, Mode::Proxy(None));
    let way = egress.way(&unknown).await.expect("a road");
    assert_eq!(way.road, Road::Proxy);
}

#[tokio::test]
async fn forbidden_addresses_are_left_out_before_anything_is_chosen_or_dialled() {
    let egress = knowing(
        Some("http://proxy.example:3128"),
        &[
            ("near.example", &["10.0.0.1", "169.254.169.254", "10.0.0.2"]),
            ("odd.example", &["10.0.0.1", "0.0.0.0"]),
            ("far.example", &["169.254.169.254", "192.0.2.1"]),
        ],
    );
    for (host, road, rule, addresses) in [
        (
            "near.example",
            Road::Direct,
            Rule::Intranet,
            &["10.0.0.1", "10.0.0.2"][..],
        ),
        ("odd.example", Road::Direct, Rule::Intranet, &["10.0.0.1"]),
        ("far.example", Road::Proxy, Rule::External, &[]),
    ] {
        let way = egress
            .way(&endpoint(Scheme::Http, host, 80, Mode::Auto))
            .await
            .expect("a road");
        assert_eq!((way.road, way.rule), (road, rule), "{host}");
        assert_eq!(dialled(&way), addresses, "{host}");
    }
    let far = endpoint(Scheme::Http, "far.example", 80, Mode::Direct);
    let way = egress.way(&far).await.expect("a road");
    assert_eq!(dialled(&way), ["192.0.2.1"]);
}

#[tokio::test]
async fn nothing_is_sent_to_weirs_own_listeners() {
    let own = Own::new(
        ["127.0.0.1:8080", "0.0.0.0:8443"].map(|address| address.parse().expect("an address")),
    );
    let egress = knowing(None, &[("me.example", &["127.0.0.1"])]).refusing(own);
    for (host, port, refused) in [
        ("127.0.0.1", 8080, true),
        ("localhost", 8080, true),
        ("me.example", 8080, true),
        ("[::ffff:127.0.0.1]", 8080, true),
        ("127.0.0.1", 8081, false),
        ("127.0.0.2", 8080, false),
        ("127.0.0.2", 8443, true),
        ("192.0.2.1", 8443, false),
    ] {
        let way = egress
            .way(&endpoint(Scheme::Http, host, port, Mode::Auto))
            .await;
        let is_own =
            |error: &RoadError| matches!(error, RoadError::Forbidden { why: Why::Own, .. });
        // `localhost` may be ::1 as well, where nobody listens.
        let got = match &way {
            Ok(way) => host == "localhost" && !dialled(way).contains(&"127.0.0.1".to_owned()),
            Err(error) => is_own(error),
        };
        assert_eq!(got, refused, "{host}:{port} {way:?}");
    }
}

#[tokio::test]
async fn a_host_whose_answers_change_stays_with_the_proxy_for_a_while() {
    let proxy = Some("http://proxy.example:3128");
    let mixed = knowing(proxy, &[("both.example", &["10.0.0.1", "192.0.2.1"])]);
    let near = Egress {
        memory: Arc::clone(&mixed.memory),
        ..knowing(proxy, &[("both.example", &["10.0.0.1"])])
    };
    // A new one each time, as after a reload.
    let both = || endpoint(Scheme::Http, "both.example", 80, Mode::Auto);
    let chosen = async |egress: &Egress| {
        let way = egress.way(&both()).await.expect("a road");
        (way.road, way.rule)
    };
    assert_eq!(chosen(&near).await, (Road::Direct, Rule::Intranet));
    assert_eq!(chosen(&mixed).await, (Road::Proxy, Rule::External));
    assert_eq!(chosen(&near).await, (Road::Proxy, Rule::Unsettled));
    // What a name was listed for doesn't depend on its answers.
    let listed = Egress {
        rules: Rules {
            direct: vec!["both.example".parse().expect("a pattern")],
            ..Rules::default()
        },
        ..knowing(proxy, &[("both.example", &["10.0.0.1"])])
    };
    assert_eq!(chosen(&listed).await, (Road::Direct, Rule::Direct(0)));
}

#[tokio::test]
async fn a_host_that_could_not_be_resolved_is_reached_directly_as_soon_as_it_can() {
    let proxy = Some("http://proxy.example:3128");
    let near = knowing(proxy, &[("late.invalid", &["10.0.0.1"])]);
    let late = endpoint(Scheme::Http, "late.invalid", 80, Mode::Auto);
    let way = egress(proxy).way(&late).await.expect("a road");
    assert_eq!((way.road, way.rule), (Road::Proxy, Rule::Unresolved));
    let way = near.way(&late).await.expect("a road");
    assert_eq!((way.road, way.rule), (Road::Direct, Rule::Intranet));
}

#[tokio::test]
async fn a_host_of_no_proxy_is_no_intranet_because_of_that() {
    let egress = Egress {
        rules: Rules {
            no_proxy: vec!["*".parse().expect("a pattern")],
            ..Rules::default()
        },
        ..egress(Some("http://proxy.example:3128"))
    };
    for (host, intranet) in [("192.0.2.1", false), ("10.0.0.1", true)] {
        let way = egress
            .way(&endpoint(Scheme::Http, host, 80, Mode::Auto))
            .await
            .expect("a road");
        assert_eq!((way.road, way.rule), (Road::Direct, Rule::Environment(0)));
        assert_eq!(way.is_intranet(), intranet, "{host}");
    }
}

#[tokio::test]
async fn a_host_that_must_be_proxied_never_goes_out_without_a_proxy() {
    let egress = egress_with(Settings {
        proxied: vec!["*.example".parse().expect("a pattern")],
        ..Settings::default()
    });
    let endpoint = endpoint(Scheme::Https, "api.example", 443, Mode::Auto);
    let error = egress.way(&endpoint).await.expect_err("no proxy");
    assert!(error.to_string().contains("set proxy_url"), "{error}");
}

#[tokio::test]
async fn with_a_proxy_a_silent_dns_server_costs_no_more_than_the_patience() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let egress = egress_with(Settings {
        proxies: vec!["http://127.0.0.1:1".parse().expect("a URL")],
        dns: weir_dns::Config {
            servers: vec![silent.local_addr().expect("bound")],
            timeout: Duration::from_millis(600),
            ..weir_dns::Config::default()
        },
        ..Settings::default()
    });
    let endpoint = endpoint(Scheme::Https, "api.example.com", 443, Mode::Auto);
    let started = Instant::now();
    let way = egress.way(&endpoint).await.expect("a road");
    assert_eq!((way.road, way.rule), (Road::Proxy, Rule::Unresolved));
    let waited = started.elapsed();
    assert!(waited >= PATIENCE && waited < 2 * PATIENCE, "{waited:?}");
}

/// A name server of intranet addresses that answers for one record type and fails for all others.
async fn half_a_server(kind: u16, address: &'static [u8]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let at = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut packet = [0; 1500];
        while let Ok((_, client)) = socket.recv_from(&mut packet).await {
            let labels = packet[12..].iter().position(|byte| *byte == 0);
            let end = 12 + labels.expect("a name") + 5;
            let asked = u16::from_be_bytes([packet[end - 4], packet[end - 3]]);
            let code = if asked == kind { 0x80 } else { 0x82 };
            let mut answer = packet[..end].to_vec();
            let count = u8::from(asked == kind);
            answer[2..12].copy_from_slice(&[0x81, code, 0, 1, 0, count, 0, 0, 0, 0]);
            if asked == kind {
                let [high, low] = kind.to_be_bytes();
                answer.extend([0xc0, 12, high, low, 0, 1, 0, 0, 0, 60, 0]);
                answer.push(address.len() as u8);
                answer.extend(address);
            }
            drop(socket.send_to(&answer, client).await);
        }
    });
    at
}

#[tokio::test]
async fn an_answer_without_the_ipv4_addresses_is_not_all_intranet() {
    const FOUR: &[u8] = &[10, 0, 0, 7];
    const SIX: &[u8] = &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    for (kind, address, road, rule) in [
        (28, SIX, Road::Proxy, Rule::Unresolved),
        // Some servers never answer for IPv6.
        (1, FOUR, Road::Direct, Rule::Intranet),
    ] {
        let egress = egress_with(Settings {
            proxies: vec!["http://127.0.0.1:1".parse().expect("a URL")],
            dns: weir_dns::Config {
                servers: vec![half_a_server(kind, address).await],
                ..weir_dns::Config::default()
            },
            ..Settings::default()
        });
        let endpoint = endpoint(Scheme::Https, "half.example.com", 443, Mode::Auto);
        // Waited for, as a slow machine may need more than the patience.
        let known = egress.resolver.lookup("half.example.com").await;
        assert_eq!(known.expect("an answer").len(), 1);
        let way = egress.way(&endpoint).await.expect("a road");
        assert_eq!((way.road, way.rule), (road, rule));
        let told = egress.explain(&endpoint).await.to_string();
        let says = told.contains("its IPv4 addresses can't be resolved here");
        assert_eq!(says, road == Road::Proxy, "{told}");
    }
}

#[tokio::test]
async fn connections_are_shared_only_where_everything_is_the_same() {
    let road = async |egress: &Egress, host: &str, port, mode, tls: Tls, scheme| {
        let endpoint = Endpoint::new(scheme, host, port, mode, tls).expect("a host");
        let way = egress.way(&endpoint).await.expect("a road");
        way.peer(&endpoint, &LIMITS, false).reuse_hash()
    };
    let auto = egress(Some("http://proxy.example:3128"));
    let (https, http) = (Scheme::Https, Scheme::Http);
    let tls = Tls::default;
    let unverified = Tls {
        verify: false,
        ..tls()
    };
    let renamed = Tls {
        server_name: Some("other.example".to_owned()),
        ..tls()
    };
    let ca = |authority: &Pem| Tls::load(None, true, Some(&authority.certificate), None);
    let known = |client: &Pem| {
        let client = (&*client.certificate, &*client.key);
        Tls::load(None, true, None, Some(client)).expect("a certificate and its key")
    };
    let (one, other) = (Pem::new("one"), Pem::new("other"));
    let proxied = own("https://proxy.example:3128");
    let named = own("socks5h://proxy.example:3128");
    let keys = [
        road(&auto, "192.0.2.1", 443, Mode::Auto, tls(), https).await,
        road(&auto, "192.0.2.1", 443, Mode::Direct, tls(), https).await,
        road(&auto, "192.0.2.1", 443, proxied, tls(), https).await,
        road(&auto, "192.0.2.1", 443, named, tls(), https).await,
        road(
            &auto,
            "192.0.2.1",
            443,
            Mode::Auto,
            ca(&one).unwrap(),
            https,
        )
        .await,
        road(
            &auto,
            "192.0.2.1",
            443,
            Mode::Auto,
            ca(&other).unwrap(),
            https,
        )
        .await,
        road(&auto, "192.0.2.1", 443, Mode::Auto, known(&one), https).await,
        road(&auto, "192.0.2.1", 443, Mode::Auto, known(&other), https).await,
        road(
            &auto,
            "192.0.2.1",
            443,
            own("http://u:p@proxy.example:3128"),
            tls(),
            https,
        )
        .await,
        road(
            &auto,
            "192.0.2.1",
            443,
            own("http://u:q@proxy.example:3128"),
            tls(),
            https,
        )
        .await,
        road(
            &auto,
            "192.0.2.1",
            443,
            own("http://proxy.example:3129"),
            tls(),
            https,
        )
        .await,
        road(
            &auto,
            "192.0.2.1",
            443,
            own("http://proxy2.example:3128"),
            tls(),
            https,
        )
        .await,
        road(&auto, "192.0.2.2", 443, Mode::Auto, tls(), https).await,
        road(&auto, "192.0.2.1", 444, Mode::Auto, tls(), https).await,
        road(&auto, "192.0.2.1", 443, Mode::Auto, tls(), http).await,
        road(&auto, "192.0.2.2", 443, Mode::Auto, tls(), http).await,
        road(&auto, "192.0.2.1", 443, Mode::Auto, unverified, https).await,
        road(&auto, "192.0.2.1", 443, Mode::Auto, renamed, https).await,
    ];
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(
            keys.iter().position(|other| other == key),
            Some(at),
            "row {at}"
        );
    }
    let again = road(
        &auto,
        "192.0.2.1",
        443,
        own("http://proxy.example:3128"),
        tls(),
        https,
    );
    assert_eq!(
        again.await,
        keys[0],
        "the same proxy, named by the provider"
    );
    let again = road(&auto, "192.0.2.1", 443, Mode::Auto, known(&one), https);
    assert_eq!(again.await, keys[6], "the same certificate, read again");
}

/// A certificate and its key in files that go with the test.
struct Pem {
    certificate: std::path::PathBuf,
    key: std::path::PathBuf,
}

impl Pem {
    fn new(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let write = |end: &str, text: String| {
            let name = format!("weir-egress-{}-{name}.{end}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, text).expect("a temporary file");
            path
        };
        Self {
            certificate: write("pem", made.cert.pem()),
            key: write("key", made.signing_key.serialize_pem()),
        }
    }
}

impl Drop for Pem {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.certificate));
        drop(std::fs::remove_file(&self.key));
    }
}

#[tokio::test]
async fn tls_never_goes_without_a_name_to_verify() {
    let egress = egress(None);
    for (host, server_name, name) in [
        ("127.0.0.1", None, "127.0.0.1"),
        ("[::1]", None, "::1"),
        ("LocalHost.", None, "localhost"),
        ("localhost", Some("api.example"), "api.example"),
    ] {
        let tls = Tls {
            server_name: server_name.map(str::to_owned),
            ..Tls::default()
        };
        let endpoint = Endpoint::new(Scheme::Https, host, 443, Mode::Auto, tls).expect(host);
        let way = egress.way(&endpoint).await.expect("a road");
        let peer = way.peer(&endpoint, &LIMITS, false);
        assert_eq!(peer.sni, name);
        assert!(peer.options.verify_cert && peer.options.verify_hostname);
    }
    for (host, server_name) in [("", None), ("a b", None), ("a", Some("")), ("[a]b", None)] {
        let tls = Tls {
            server_name: server_name.map(str::to_owned),
            ..Tls::default()
        };
        let made = Endpoint::new(Scheme::Https, host, 443, Mode::Auto, tls);
        assert!(made.is_err(), "{host:?} {server_name:?}");
    }
}

#[tokio::test]
async fn an_http2_connection_is_bounded_and_asked_for_a_sign_of_life() {
    let egress = egress(None);
    let endpoint = endpoint(Scheme::Https, "127.0.0.1", 443, Mode::Auto);
    let way = egress.way(&endpoint).await.expect("a road");
    let options = way.peer(&endpoint, &LIMITS, true).options;
    assert_eq!(options.max_h2_streams, 100);
    assert_eq!(options.h2_ping_interval, Some(Duration::from_secs(30)));
    let windows = (
        options.h2_stream_window_size,
        options.h2_connection_window_size,
    );
    assert_eq!(windows, (Some(160 << 10), Some(16 << 20)));
}

#[tokio::test]
async fn a_tunnel_is_opened_once_and_reused_and_never_shared_with_the_direct_road() {
    let origin = Origin::start().await;
    let proxy = ForwardProxy::start(origin.address).await;
    let egress = egress(Some(&format!("http://me:pw@{}", proxy.address)));
    let port = origin.address.port();
    // The proxy resolves the name; the direct road needs an address.
    let tunnelled = endpoint(Scheme::Http, "models.invalid", port, Mode::Auto);
    let other = endpoint(Scheme::Http, "others.invalid", port, Mode::Auto);
    let forced = endpoint(Scheme::Http, "127.0.0.1", port, Mode::Proxy(None));
    let direct = endpoint(Scheme::Http, "127.0.0.1", port, Mode::Auto);
    let connector = Connector::new(None);
    for (endpoint, connects, connections) in [
        (&tunnelled, 1, 1),
        (&tunnelled, 1, 1),
        (&tunnelled, 1, 1),
        (&direct, 1, 2),
        (&direct, 1, 2),
        (&forced, 2, 3),
        (&tunnelled, 2, 3),
        (&other, 3, 4),
        (&direct, 3, 4),
        (&forced, 3, 4),
    ] {
        let way = egress.way(endpoint).await.expect("a road");
        request(&connector, &way.peer(endpoint, &LIMITS, false)).await;
        let counts = (proxy.count(), origin.count());
        assert_eq!(counts, (connects, connections), "{}", endpoint.host());
    }
}

#[tokio::test]
async fn explain_names_the_entry_that_decided() {
    let egress = egress_with(Settings {
        proxies: vec!["http://me:pw@proxy.example:3128".parse().expect("a URL")],
        direct: vec![
            "a.example".parse().expect("a pattern"),
            ".invalid".parse().expect("one"),
        ],
        ..Settings::default()
    });
    let text = async |host, mode| {
        egress
            .explain(&endpoint(Scheme::Https, host, 443, mode))
            .await
            .to_string()
    };
    assert_eq!(
        text("192.0.2.1", Mode::Auto).await,
        "192.0.2.1:443: proxy http://proxy.example:3128, because not all its addresses are \
         intranet (192.0.2.1)"
    );
    assert_eq!(
        text("fd00::1", Mode::Auto).await,
        "[fd00::1]:443: direct, because all its addresses are intranet (fd00::1)"
    );
    let listed = egress_with(Settings {
        proxied: vec![
            "a.example".parse().expect("a pattern"),
            "10.9.0.0/16".parse().expect("one"),
        ],
        proxies: vec!["http://proxy.example:3128".parse().expect("a URL")],
        ..Settings::default()
    });
    let endpoint = endpoint(Scheme::Https, "10.9.1.1", 443, Mode::Auto);
    assert_eq!(
        listed.explain(&endpoint).await.to_string(),
        "10.9.1.1:443: proxy http://proxy.example:3128, because egress.proxied has 10.9.0.0/16 \
         (10.9.1.1)"
    );
    let several = Egress {
        proxies: ["http://u:p@one.example:1", "http://two.example:2"]
            .map(|url| Arc::new(url.parse().expect("a URL")))
            .into(),
        rules: Rules {
            no_proxy: vec![".corp.example".parse().expect("a pattern")],
            ..Rules::default()
        },
        ..knowing(
            None,
            &[
                ("far.example", &["192.0.2.1", "169.254.169.254"]),
                ("a.corp.example", &["192.0.2.1"]),
                ("meta.corp.example", &["169.254.169.254"]),
            ],
        )
    };
    for (host, told) in [
        (
            "far.example",
            "far.example:443: proxy http://one.example:1, else http://two.example:2, because not \
             all its addresses are intranet (192.0.2.1, 169.254.169.254 refused: the metadata \
             service of most clouds)",
        ),
        (
            "a.corp.example",
            "a.corp.example:443: direct, because NO_PROXY has .corp.example (192.0.2.1)",
        ),
        (
            "meta.corp.example",
            "meta.corp.example:443: no road: meta.corp.example resolves only to 169.254.169.254, \
             which no upstream may have (the metadata service of most clouds)",
        ),
    ] {
        let endpoint = Endpoint::new(Scheme::Https, host, 443, Mode::Auto, Tls::default());
        let explanation = several.explain(&endpoint.expect("a host")).await;
        assert_eq!(explanation.to_string(), told);
    }
    let unresolved = text("x.invalid", Mode::Auto).await;
    assert!(unresolved.starts_with("x.invalid:443: no road: x.invalid doesn't exist in DNS"));
    let forced = text("x.invalid", Mode::Proxy(None)).await;
    assert!(
        forced.contains("because the provider's egress says so"),
        "{forced}"
    );
}

/// `cargo test --release -- --ignored --nocapture cost` prints what a road costs.
#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_road() {
    let egress = egress(Some("http://me:pw@proxy.example:3128"));
    let rounds = 1_000_000_u32;
    for (what, endpoint) in [
        (
            "direct by name, http",
            endpoint(Scheme::Http, "localhost", 80, Mode::Auto),
        ),
        (
            "direct by literal, https",
            endpoint(Scheme::Https, "10.0.0.1", 443, Mode::Auto),
        ),
        (
            "direct given, https",
            endpoint(Scheme::Https, "localhost", 443, Mode::Direct),
        ),
        (
            "proxy by literal, https",
            endpoint(Scheme::Https, "192.0.2.1", 443, Mode::Auto),
        ),
        (
            "proxy given, https",
            endpoint(Scheme::Https, "a.invalid", 443, Mode::Proxy(None)),
        ),
    ] {
        let started = Instant::now();
        for _ in 0..rounds {
            let way = egress.way(std::hint::black_box(&endpoint)).await;
            assert!(std::hint::black_box(way).is_ok());
        }
        let way_cost = started.elapsed() / rounds;
        let way = egress.way(&endpoint).await.expect("a road");
        let started = Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(way.peer(std::hint::black_box(&endpoint), &LIMITS, false));
        }
        println!(
            "{what}: way {way_cost:?}, peer {:?}",
            started.elapsed() / rounds
        );
    }
}

// === loopback ===

async fn request(connector: &Connector, peer: &HttpPeer) {
    let (mut session, _) = connector
        .get_http_session(peer)
        .await
        .expect("a connection");
    let mut header = RequestHeader::build("GET", b"/", None).expect("a header");
    header.insert_header("host", "x").expect("a value");
    session
        .write_request_header(Box::new(header))
        .await
        .expect("written");
    session.finish_request_body().await.expect("written");
    session.read_response_header().await.expect("an answer");
    while session
        .read_response_body()
        .await
        .expect("a body")
        .is_some()
    {}
    let HttpSession::H1(_) = &session else {
        panic!("HTTP/1.1 is what the origin speaks");
    };
    connector
        .release_http_session(session, peer, Some(Duration::from_secs(60)))
        .await;
}

/// Answers each request with two bytes and keeps the connection.
struct Origin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    while head(&mut stream).await.is_some() {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        stream.write_all(answer).await.expect("written");
                    }
                });
            }
        });
        Self {
            address,
            connections,
        }
    }

    fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Opens tunnels, all to the same origin, for who shows the credentials `me:pw`.
struct ForwardProxy {
    address: SocketAddr,
    connects: Arc<AtomicUsize>,
}

impl ForwardProxy {
    async fn start(origin: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let connects = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connects);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let asked = head(&mut client).await.expect("a request");
                    assert!(asked.starts_with("CONNECT "), "{asked}");
                    assert!(
                        asked.contains("Proxy-Authorization: Basic bWU6cHc="),
                        "{asked}"
                    );
                    let mut server = TcpStream::connect(origin).await.expect("the origin");
                    client
                        .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
                        .await
                        .expect("written");
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                });
            }
        });
        Self { address, connects }
    }

    fn count(&self) -> usize {
        self.connects.load(Ordering::SeqCst)
    }
}

/// One head, read byte by byte; `None` where the other side has closed.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}
