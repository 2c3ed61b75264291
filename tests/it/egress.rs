//! The road out: direct or through a proxy, by name or by address, and TLS at its end.

use crate::support::dns_server::Known;
use crate::support::forward_proxy::Reply;
use crate::support::gateway::Launch;
use crate::support::{Authority, DnsServer, ForwardProxy, Gateway, Provider, eventually};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// An address of the outside (RFC 5737): nobody may reach it directly.
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

/// A model server, a proxy, a name server, and how weir is told of them.
struct World {
    provider: Provider,
    proxy: ForwardProxy,
    dns: DnsServer,
}

impl World {
    fn new() -> Self {
        Self {
            provider: Provider::json("{}"),
            proxy: ForwardProxy::start(),
            dns: DnsServer::start(),
        }
    }

    /// The model server's URL by another name; the proxy knows the way to it.
    fn url(&self, host: &str) -> String {
        let target = format!("{host}:{}", self.provider.address().port());
        self.proxy.lead(&target, self.provider.address());
        format!("http://{target}")
    }

    /// weir with the proxy and the name server; `rest` is what the test is about.
    #[track_caller]
    fn gateway(&self, rest: &str) -> Gateway {
        Gateway::start(&format!(
            "proxy_url: \"{}\"\ndns: {{servers: [\"{}\"]}}\n{rest}",
            self.proxy.url(),
            self.dns.address()
        ))
    }

    /// Asks for `model` and says by which road it went.
    #[track_caller]
    fn road(&self, gateway: &Gateway, model: &str) -> String {
        let before = gateway.records_now().len();
        let answer = gateway.post(CHAT, ask(model));
        assert_eq!(answer.status(), 200, "{model}: {}", answer.text());
        gateway.records(before + 1)[before]["road"]
            .as_str()
            .expect("a road")
            .to_owned()
    }
}

fn ask(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[]}}"#)
}

// === direct or not ===

#[test]
fn an_external_name_is_left_to_the_proxy_and_an_intranet_one_is_not() {
    let world = World::new();
    world.dns.lead("outside.test", &[OUTSIDE]);
    world.dns.lead("models.corp.test", &[HERE]);
    world.dns.lead("near.test", &[HERE]);
    world.dns.lead("both.test", &[HERE, OUTSIDE]);
    let gateway = world.gateway(&format!(
        "egress: {{direct: [\".corp.test\"]}}\n\
         model_routes: {{unknown: \"{}\", outside: \"{}\", suffix: \"{}\", near: \"{}\", both: \"{}\"}}\n",
        world.url("unknown.test"),
        world.url("outside.test"),
        world.url("models.corp.test"),
        world.url("near.test"),
        world.url("both.test"),
    ));
    for (model, road, connects) in [
        ("suffix", "direct", 0),
        ("near", "direct", 0),
        ("unknown", "proxy", 1),
        ("outside", "proxy", 2),
        ("both", "proxy", 3),
    ] {
        assert_eq!(world.road(&gateway, model), road, "{model}");
        assert_eq!(world.proxy.connects().len(), connects, "{model}");
    }
    let port = world.provider.address().port();
    let connect = &world.proxy.connects()[0];
    assert_eq!(
        connect.target,
        format!("unknown.test:{port}"),
        "the proxy resolves"
    );
    assert_eq!(connect.header("host"), Some(&*connect.target));
    assert_eq!(connect.header("proxy-authorization"), None);
    let (to, from) = world.proxy.bytes();
    assert!(to > 0 && from > 0);
}

#[test]
fn what_is_forced_through_the_proxy_goes_there_even_if_it_is_near() {
    let world = World::new();
    world.dns.lead("secret.corp.test", &[HERE]);
    world.dns.lead("open.corp.test", &[HERE]);
    let gateway = world.gateway(&format!(
        "egress: {{direct: [\".corp.test\"], proxied: [secret.corp.test]}}\n\
         model_routes: {{secret: \"{}\", open: \"{}\"}}\n",
        world.url("secret.corp.test"),
        world.url("open.corp.test"),
    ));
    assert_eq!(world.road(&gateway, "secret"), "proxy");
    assert_eq!(world.road(&gateway, "open"), "direct");
}

#[test]
fn a_provider_may_choose_its_own_road() {
    let world = World::new();
    let other = ForwardProxy::start();
    let url = world.provider.url();
    let gateway = world.gateway(&format!(
        "providers:\n\
         - {{name: auto, base_url: \"{url}\", models: [auto], egress: auto}}\n\
         - {{name: direct, base_url: \"{url}\", models: [direct], egress: direct}}\n\
         - {{name: proxy, base_url: \"{url}\", models: [proxy], egress: proxy}}\n\
         - {{name: own, base_url: \"{url}\", models: [own], egress: \"http://me:pass@{}\"}}\n",
        other.address(),
    ));
    for (model, road, connects) in [
        ("auto", "direct", (0, 0)),
        ("direct", "direct", (0, 0)),
        ("proxy", "proxy", (1, 0)),
        ("own", "proxy", (1, 1)),
    ] {
        assert_eq!(world.road(&gateway, model), road, "{model}");
        let found = (world.proxy.connects().len(), other.connects().len());
        assert_eq!(found, connects, "{model}");
    }
    // "me:pass"
    let authorization = other.connects()[0]
        .header("proxy-authorization")
        .map(str::to_owned);
    assert_eq!(authorization.as_deref(), Some("Basic bWU6cGFzcw=="));
    for request in world.provider.requests() {
        assert_eq!(
            request.header("proxy-authorization"),
            None,
            "not for the model server"
        );
    }
}

#[test]
fn a_host_with_mixed_addresses_goes_by_proxy_and_is_told_once() {
    let world = World::new();
    world.dns.lead("both.test", &[HERE, OUTSIDE]);
    let gateway = world.gateway(&format!(
        "model_routes: {{both: \"{}\"}}\n",
        world.url("both.test"),
    ));
    for _ in 0..3 {
        assert_eq!(world.road(&gateway, "both"), "proxy");
    }
    let line = gateway
        .wait_log("so it is reached by proxy; list it in egress.direct or in egress.proxied");
    assert!(line.contains("both.test"), "{line}");
    let told = gateway.log().matches("not all addresses").count();
    assert_eq!(told, 1, "{}", gateway.log());
}

#[test]
fn a_name_without_a_dot_is_local_where_the_file_says_so() {
    let world = World::new();
    // Neither is intranet by its addresses.
    world.dns.lead("models", &[HERE, OUTSIDE]);
    world.dns.lead("models.test", &[HERE, OUTSIDE]);
    let gateway = world.gateway(&format!(
        "egress: {{direct: [<local>]}}\n\
         model_routes: {{local: \"{}\", dotted: \"{}\"}}\n",
        world.url("models"),
        world.url("models.test"),
    ));
    assert_eq!(world.road(&gateway, "local"), "direct");
    assert_eq!(world.proxy.connects().len(), 0);
    assert_eq!(world.road(&gateway, "dotted"), "proxy");
    assert_eq!(world.proxy.connects().len(), 1);
}

#[test]
fn the_environments_proxy_and_its_exceptions_count_where_the_file_says_so() {
    let world = World::new();
    for name in ["a.corp.test", "notcorp.test", "far.test"] {
        world.dns.lead(name, &[HERE, OUTSIDE]);
    }
    let yaml = |egress: &str| {
        format!(
            "dns: {{servers: [\"{}\"]}}\negress: {egress}\n\
             model_routes: {{corp: \"{}\", notcorp: \"{}\", far: \"{}\"}}\n",
            world.dns.address(),
            world.url("a.corp.test"),
            world.url("notcorp.test"),
            world.url("far.test"),
        )
    };
    let start = |egress: &str| {
        Launch::file(&yaml(egress))
            .env("HTTPS_PROXY", &world.proxy.url())
            .env("NO_PROXY", "localhost, corp.test,10.")
            .start()
    };
    let gateway = start("{from_env: true}");
    for (model, road, connects) in [
        ("corp", "direct", 0),
        ("notcorp", "proxy", 1),
        ("far", "proxy", 2),
    ] {
        assert_eq!(world.road(&gateway, model), road, "{model}");
        assert_eq!(world.proxy.connects().len(), connects, "{model}");
    }
    let line = gateway.wait_log("networks are written such as");
    assert!(line.contains("NO_PROXY") && line.contains("10."), "{line}");
    // The file's lists come before the environment's.
    let forced = start("{from_env: true, proxied: [.corp.test]}");
    assert_eq!(world.road(&forced, "corp"), "proxy");
    // Nothing of the environment counts where the file doesn't say so, and a reload may say so.
    let without = start("{from_env: false}");
    assert_eq!(world.road(&without, "far"), "direct");
    without.reload(&yaml("{from_env: true}"));
    assert_eq!(world.road(&without, "far"), "proxy");
    without.wait_log("networks are written such as");
}

#[test]
fn check_and_explain_tell_what_they_take_from_the_environment() {
    let yaml = "egress: {from_env: true}\n\
                model_routes: {near: \"http://203.0.113.7\", far: \"http://203.0.113.8\"}\n";
    let run = |arguments: &[&str]| {
        let mut launch = Launch::verb(&arguments[..1])
            .env("https_proxy", "user:hidden-word@proxy.test:3128")
            .env("no_proxy", "203.0.113.7,a.test:80");
        let file = launch.folder().write("weir.yaml", yaml);
        launch = launch.arg("-c").arg(file);
        for argument in &arguments[1..] {
            launch = launch.arg(argument);
        }
        let output = launch.output();
        assert!(output.status.success(), "{output:?}");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(!all.contains("hidden-word"), "{all}");
        all
    };
    let checked = run(&["check"]);
    assert!(
        checked
            .contains("warning: egress.from_env: no_proxy: \"a.test:80\" is taken for this port"),
        "{checked}"
    );
    let near = run(&["explain", "--model", "near"]);
    assert!(
        near.contains("203.0.113.7:80: direct, because NO_PROXY has 203.0.113.7"),
        "{near}"
    );
    let far = run(&["explain", "--model", "far"]);
    assert!(
        far.contains("203.0.113.8:80: proxy http://proxy.test:3128, because not all"),
        "{far}"
    );
}

// === addresses that no upstream may have ===

#[test]
fn the_metadata_service_of_a_cloud_is_reached_by_no_road() {
    let world = World::new();
    let metadata: IpAddr = "169.254.169.254".parse().expect("an IP");
    let hidden: IpAddr = "64:ff9b::a9fe:a9fe".parse().expect("an IP");
    world.dns.lead("meta.test", &[metadata]);
    world.dns.lead("hidden.test", &[hidden, metadata]);
    let gateway = world.gateway(&format!(
        "providers:\n\
         - {{name: auto, base_url: \"{meta}\", models: [auto], egress: auto}}\n\
         - {{name: direct, base_url: \"{meta}\", models: [direct], egress: direct}}\n\
         - {{name: proxy, base_url: \"{meta}\", models: [proxy], egress: proxy}}\n\
         - {{name: own, base_url: \"{meta}\", models: [own], egress: \"{own}\"}}\n\
         - {{name: hidden, base_url: \"{hidden}\", models: [hidden]}}\n",
        meta = world.url("meta.test"),
        own = world.proxy.url(),
        hidden = world.url("hidden.test"),
    ));
    let models = ["auto", "direct", "proxy", "own", "hidden"];
    for (at, model) in models.into_iter().enumerate() {
        let answer = gateway.post(CHAT, ask(model));
        answer.assert_refused(502, "upstream_failed");
        for secret in ["169.254", "meta.test", "hidden.test", "a9fe"] {
            assert!(
                !answer.text().contains(secret),
                "{model}: {}",
                answer.text()
            );
        }
        let record = &gateway.records(at + 1)[at];
        assert_eq!(record["attempts"], 1, "{model}: {record}");
    }
    let line = gateway.wait_log("which no upstream may have");
    assert!(
        line.contains("meta.test resolves only to 169.254.169.254"),
        "{line}"
    );
    let mut errors = 0.0;
    for model in models {
        let labels = [("provider", model), ("error_type", "forbidden_address")];
        errors += gateway
            .value("llm_upstream_error_total", &labels)
            .unwrap_or_default();
    }
    assert_eq!(errors, 5.0);
    assert_eq!(world.proxy.connects().len(), 0, "the proxy isn't asked");
    assert_eq!(world.provider.connections(), 0);
}

#[test]
fn a_forbidden_address_is_left_out_and_the_others_are_used() {
    let world = World::new();
    let metadata: IpAddr = "169.254.169.254".parse().expect("an IP");
    world.dns.lead("partly.test", &[metadata, HERE]);
    let gateway = world.gateway(&format!(
        "model_routes: {{m: \"{}\"}}\n",
        world.url("partly.test"),
    ));
    assert_eq!(world.road(&gateway, "m"), "direct");
    assert_eq!(world.road(&gateway, "m"), "direct");
    let told = "an address that no upstream may have is left out";
    let line = gateway.wait_log(told);
    assert!(line.contains("169.254.169.254"), "{line}");
    assert_eq!(gateway.log().matches(told).count(), 1, "once");
}

#[test]
fn no_request_comes_back_to_weir_itself() {
    let dns = DnsServer::start();
    dns.lead("me.test", &[HERE]);
    for all in ["127.0.0.1", "0.0.0.0", "[::]"] {
        let (port, admin) = (
            crate::support::provider::nobody().port(),
            crate::support::provider::nobody().port(),
        );
        let gateway = Gateway::start(&format!(
            "listen: [\"{all}:{port}\"]\nadmin: {{address: \"127.0.0.1:{admin}\"}}\n\
             dns: {{servers: [\"{}\"]}}\n\
             model_routes: {{me: \"http://me.test:{port}\", admin: \"http://me.test:{admin}\"}}\n",
            dns.address(),
        ));
        for (at, model) in ["me", "admin"].into_iter().enumerate() {
            let mut client = crate::support::Client::connect((HERE, port).into());
            client.post(CHAT, ask(model));
            client.answer().assert_refused(502, "upstream_failed");
            // The client's, and none that weir sent to itself.
            assert_eq!(gateway.records(at + 1).len(), at + 1, "{all} {model}");
        }
        let line = gateway.wait_log("weir itself listens there");
        assert!(line.contains("forbidden_address"), "{line}");
    }
}

#[test]
fn only_hosts_of_the_intranet_are_told_where_the_client_is() {
    let world = World::new();
    world.dns.lead("near.test", &[HERE]);
    let gateway = world.gateway(&format!(
        "model_routes: {{near: \"{}\", far: \"{}\"}}\n",
        world.url("near.test"),
        world.url("far.test"),
    ));
    let headers = [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-real-ip", "192.0.2.1"),
        ("forwarded", "for=192.0.2.1"),
        ("x-forwarded-host", "weir.corp.test"),
    ];
    gateway.post_with(CHAT, &headers, ask("near"));
    gateway.post_with(CHAT, &headers, ask("far"));
    let requests = world.provider.wait_requests(2);
    // The proxy that weir was asked by (here the test) is part of the chain.
    let chain = requests[0].header("x-forwarded-for");
    assert_eq!(chain, Some("192.0.2.1, 127.0.0.1"));
    for (name, _) in headers {
        assert_eq!(requests[1].header(name), None, "{name}");
    }
    let far = String::from_utf8_lossy(&requests[1].head).into_owned();
    assert!(
        !far.contains("192.0.2.1") && !far.contains("corp.test"),
        "{far}"
    );
}

// === connections ===

#[test]
fn a_thousand_requests_take_a_handful_of_tunnels() {
    const CLIENTS: usize = 4;
    const EACH: usize = 250;
    let world = World::new();
    let gateway = world.gateway(&format!(
        "model_routes: {{far: \"{}\"}}\n",
        world.url("far.test")
    ));
    let address = gateway.address();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = crate::support::Client::connect(address);
                for _ in 0..EACH {
                    client.post(CHAT, ask("far"));
                    assert_eq!(client.answer().status(), 200);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client");
    }
    assert_eq!(world.provider.requests().len(), CLIENTS * EACH);
    let connects = world.proxy.connects().len();
    println!("{} requests: {connects} CONNECTs", CLIENTS * EACH);
    assert!(connects <= 2 * CLIENTS, "{connects} CONNECTs");
}

#[test]
fn direct_and_proxied_requests_never_share_a_connection() {
    let world = World::new();
    let other = ForwardProxy::start();
    let url = world.provider.url();
    let gateway = world.gateway(&format!(
        "providers:\n\
         - {{name: direct, base_url: \"{url}\", models: [direct], egress: direct}}\n\
         - {{name: proxy, base_url: \"{url}\", models: [proxy], egress: proxy}}\n\
         - {{name: other, base_url: \"{url}\", models: [other], egress: \"{}\"}}\n\
         - {{name: known, base_url: \"{url}\", models: [known], egress: \"http://u:p@{}\"}}\n",
        other.url(),
        other.address(),
    ));
    let models = ["direct", "proxy", "other", "known"];
    let mut client = gateway.client();
    for _ in 0..5 {
        for model in models {
            client.post(CHAT, ask(model));
            assert_eq!(client.answer().status(), 200);
        }
    }
    let mut taken = BTreeSet::new();
    for model in models {
        let requests = world.provider.requests();
        let own: BTreeSet<usize> = requests
            .iter()
            .filter(|request| request.text().contains(&format!("\"{model}\"")))
            .map(|request| request.connection)
            .collect();
        assert_eq!(own.len(), 1, "{model} keeps its connection");
        assert!(
            own.is_disjoint(&taken),
            "{model} has a connection of another road"
        );
        taken.extend(own);
    }
}

// === proxies that refuse ===

#[test]
fn each_way_that_a_proxy_can_refuse_has_its_own_name() {
    let answer = |text: &str| Reply::Bytes(text.as_bytes().to_vec());
    for (reply, kind) in [
        (
            answer("HTTP/1.1 407 Auth\r\nproxy-authenticate: Basic\r\n\r\n"),
            "proxy_credentials",
        ),
        (
            answer("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"),
            "proxy_denied",
        ),
        (answer("HTTP/1.1 502 Bad Gateway\r\n\r\n"), "proxy_failed"),
        (
            answer("HTTP/1.1 504 Gateway Timeout\r\n\r\n"),
            "proxy_failed",
        ),
        (answer("SSH-2.0-OpenSSH_9.9\r\n"), "proxy_protocol"),
        (
            answer("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\nforged"),
            "proxy_protocol",
        ),
        (Reply::Close, "proxy_protocol"),
        (Reply::Silence, "proxy_timeout"),
    ] {
        let world = World::new();
        world.proxy.reply(reply.clone());
        let gateway = world.gateway(&format!(
            "timeouts: {{connect: 2s}}\nmodel_routes: {{far: {{url: \"{}\", retries: 0}}}}\n",
            world.url("far.test")
        ));
        let began = Instant::now();
        let answer = gateway.post(CHAT, ask("far"));
        answer.assert_refused(502, "upstream_failed");
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{reply:?}: {:?}",
            began.elapsed()
        );
        let text = answer.text();
        let proxy = world.proxy.address().to_string();
        for secret in [&*proxy, "far.test"] {
            assert!(
                !text.contains(secret),
                "{reply:?}: the client is told {secret}: {text}"
            );
        }
        let labels = [("error_type", kind)];
        assert_eq!(
            gateway.value("llm_upstream_error_total", &labels),
            Some(1.0),
            "{reply:?}"
        );
        assert!(
            gateway
                .wait_log("a try at an upstream failed")
                .contains(&proxy),
            "{reply:?}"
        );
        assert!(world.provider.requests().is_empty(), "{reply:?}");
        let record = &gateway.records(1)[0];
        assert_eq!(
            record["end"], "refused:upstream_failed",
            "{reply:?}: {record}"
        );
    }
}

#[test]
fn a_proxy_that_is_not_there_is_named_in_the_log_without_its_password() {
    let nobody = crate::support::provider::nobody();
    let gateway = Gateway::start(&format!(
        "proxy_url: \"http://user:pass-word@{nobody}\"\n\
         egress: {{proxied: [far.test]}}\nmodel_routes: {{far: \"http://far.test\"}}\n"
    ));
    gateway
        .post(CHAT, ask("far"))
        .assert_refused(502, "upstream_failed");
    let line = gateway.wait_log("proxy_unreachable");
    assert!(line.contains(&nobody.to_string()), "{line}");
    assert!(!gateway.log().contains("pass-word"), "{}", gateway.log());
}

// === names ===

#[test]
fn a_name_is_asked_for_once_as_long_as_its_answer_lasts() {
    let world = World::new();
    world.dns.lead("near.test", &[HERE]);
    let gateway = world.gateway(&format!(
        "model_routes: {{near: \"{}\"}}\n",
        world.url("near.test")
    ));
    for _ in 0..20 {
        // A connection of its own for each request would be kept too: what counts is the name.
        assert_eq!(gateway.post(CHAT, ask("near")).status(), 200);
    }
    let asked = world.dns.asked("near.test");
    assert!((1..=2).contains(&asked), "{asked} questions (A and AAAA)");
}

#[test]
fn a_name_is_asked_for_again_when_its_time_is_over() {
    let world = World::new();
    world.dns.know("near.test", Known::Addresses(vec![HERE], 1));
    let gateway = world.gateway(&format!(
        "model_routes: {{near: \"{}\"}}\n",
        world.url("near.test")
    ));
    assert_eq!(gateway.post(CHAT, ask("near")).status(), 200);
    let before = world.dns.asked("near.test");
    eventually("another question", || {
        assert_eq!(gateway.post(CHAT, ask("near")).status(), 200);
        (world.dns.asked("near.test") > before).then_some(())
    });
}

#[test]
fn an_unknown_name_without_a_proxy_is_502_and_says_what_to_do() {
    let dns = DnsServer::start();
    let gateway = Gateway::start(&format!(
        "dns: {{servers: [\"{}\"]}}\nmodel_routes: {{far: \"http://nowhere.test\"}}\n",
        dns.address()
    ));
    for _ in 0..5 {
        let answer = gateway.post(CHAT, ask("far"));
        answer.assert_refused(502, "upstream_failed");
        assert!(!answer.text().contains("nowhere.test"), "{}", answer.text());
    }
    let line = gateway.wait_log("a try at an upstream failed");
    assert!(
        line.contains("nowhere.test") && line.contains("DNS"),
        "{line}"
    );
    gateway.wait_value("llm_upstream_error_total", &[("error_type", "dns")], 5.0);
    let asked = dns.asked("nowhere.test");
    assert!(
        asked <= 4,
        "{asked} questions: that there is no such name is kept too"
    );
}

#[test]
fn a_name_server_that_fails_is_502_and_told_apart_from_an_unknown_name() {
    for known in [Known::Failure, Known::Silence] {
        let dns = DnsServer::start();
        dns.know("near.test", known.clone());
        let gateway = Gateway::start(&format!(
            "dns: {{servers: [\"{}\"], timeout: 500ms}}\nmodel_routes: {{m: \"http://near.test\"}}\n",
            dns.address()
        ));
        let began = Instant::now();
        gateway
            .post(CHAT, ask("m"))
            .assert_refused(502, "upstream_failed");
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{known:?}: {:?}",
            began.elapsed()
        );
        let line = gateway.wait_log("a try at an upstream failed");
        assert!(line.contains("can't be resolved"), "{known:?}: {line}");
    }
}

#[test]
fn while_the_name_servers_are_dead_the_old_answer_is_used() {
    let provider = Provider::start(|exchange| {
        exchange.json(200, "{}");
        // Each request needs a new connection, and so the address.
        exchange.close();
    });
    let dns = DnsServer::start();
    dns.know("near.test", Known::Addresses(vec![HERE], 1));
    let gateway = Gateway::start(&format!(
        "dns: {{servers: [\"{}\"], timeout: 500ms}}\n\
         model_routes: {{m: \"http://near.test:{}\"}}\n",
        dns.address(),
        provider.address().port()
    ));
    assert_eq!(gateway.post(CHAT, ask("m")).status(), 200);
    dns.know("near.test", Known::Silence);
    let before = dns.asked("near.test");
    let began = Instant::now();
    // Until it was asked in vain for a while, and its time is over for long.
    while dns.asked("near.test") < before + 2 || began.elapsed() < Duration::from_millis(2500) {
        let answer = gateway.post(CHAT, ask("m"));
        assert_eq!(
            answer.status(),
            200,
            "after {:?}: {}",
            began.elapsed(),
            answer.text()
        );
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "nobody was asked again"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(provider.connections() > 2);
}

#[test]
fn a_dead_name_server_hardly_delays_what_goes_through_the_proxy_anyway() {
    let world = World::new();
    world.dns.know("far.test", Known::Silence);
    let gateway = world.gateway(&format!(
        "model_routes: {{far: \"{}\"}}\n",
        world.url("far.test")
    ));
    let began = Instant::now();
    assert_eq!(world.road(&gateway, "far"), "proxy");
    let first = began.elapsed();
    for _ in 0..10 {
        assert_eq!(world.road(&gateway, "far"), "proxy");
    }
    println!(
        "the first after {first:?}, ten more in {:?}",
        began.elapsed() - first
    );
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn the_next_address_of_a_name_is_tried_when_the_first_takes_no_connection() {
    let world = World::new();
    let deaf = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99));
    world.dns.lead("two.test", &[deaf, HERE]);
    let gateway = world.gateway(&format!(
        "model_routes: {{m: \"{}\"}}\n",
        world.url("two.test")
    ));
    for _ in 0..4 {
        let answer = gateway.post(CHAT, ask("m"));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(answer.header("x-weir-attempts"), Some("1"));
    }
}

// === TLS ===

/// weir with one provider at `url` and these keys more.
#[track_caller]
fn tls_gateway(url: &str, keys: &str) -> Gateway {
    Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{url}\", models: [m]{keys}}}]\n"
    ))
}

#[test]
fn a_certificate_is_verified_against_the_authority_of_the_provider() {
    let provider = Provider::json("{}");
    let authority = Authority::new();
    let front = authority.front("IP:127.0.0.1", &["http/1.1"], provider.address());
    let url = format!("https://{}", front.address());
    let trusting = tls_gateway(&url, &format!(", tls: {{ca: {:?}}}", authority.ca()));
    assert_eq!(trusting.post(CHAT, ask("m")).status(), 200);
    assert_eq!(provider.requests().len(), 1);
    let handshake = &front.handshakes()[0];
    assert_eq!(handshake.protocol.as_deref(), Some("http/1.1"));

    // The system's authorities don't know the tests' own.
    let strict = tls_gateway(&url, "");
    let refused = strict.post(CHAT, ask("m"));
    refused.assert_refused(502, "upstream_failed");
    assert!(refused.text().contains("TLS") || refused.text().contains("certificate"));
    strict.wait_value("llm_upstream_error_total", &[("error_type", "tls")], 1.0);
    let other = Authority::new();
    let mistaken = tls_gateway(&url, &format!(", tls: {{ca: {:?}}}", other.ca()));
    mistaken
        .post(CHAT, ask("m"))
        .assert_refused(502, "upstream_failed");
    assert_eq!(
        provider.requests().len(),
        1,
        "nothing goes to whom nobody trusts"
    );

    let careless = tls_gateway(&url, ", tls: {verify: false}");
    assert_eq!(careless.post(CHAT, ask("m")).status(), 200);
}

#[test]
fn the_name_that_is_verified_and_asked_for_can_be_another_than_the_urls() {
    let provider = Provider::json("{}");
    let authority = Authority::new();
    let front = authority.front("DNS:models.test", &["http/1.1"], provider.address());
    let url = format!("https://{}", front.address());
    let ca = authority.ca();
    let named = tls_gateway(
        &url,
        &format!(", tls: {{ca: {ca:?}, server_name: models.test}}"),
    );
    assert_eq!(named.post(CHAT, ask("m")).status(), 200);
    assert_eq!(
        front.handshakes()[0].server_name.as_deref(),
        Some("models.test")
    );
    let host = provider.only_request().header("host").map(str::to_owned);
    assert_eq!(
        host,
        Some(front.address().to_string()),
        "the URL's host is still the host"
    );

    let plain = tls_gateway(&url, &format!(", tls: {{ca: {ca:?}}}"));
    plain
        .post(CHAT, ask("m"))
        .assert_refused(502, "upstream_failed");
    let wrong = tls_gateway(
        &url,
        &format!(", tls: {{ca: {ca:?}, server_name: other.test}}"),
    );
    wrong
        .post(CHAT, ask("m"))
        .assert_refused(502, "upstream_failed");
    assert_eq!(provider.requests().len(), 1);
}

#[test]
fn tls_goes_through_the_tunnel_to_the_model_server_and_not_to_the_proxy() {
    let provider = Provider::json("{}");
    let authority = Authority::new();
    let front = authority.front("DNS:api.test", &["http/1.1"], provider.address());
    let (proxy, dns) = (ForwardProxy::start(), DnsServer::start());
    proxy.lead("api.test:443", front.address());
    let gateway = Gateway::start(&format!(
        "proxy_url: \"{}\"\ndns: {{servers: [\"{}\"]}}\n\
         providers: [{{name: p, base_url: \"https://api.test/v9\", models: [m], tls: {{ca: {:?}}}}}]\n",
        proxy.url(),
        dns.address(),
        authority.ca(),
    ));
    let mut client = gateway.client();
    for _ in 0..3 {
        client.post(CHAT, ask("m"));
        assert_eq!(client.answer().status(), 200);
    }
    assert_eq!(proxy.connects().len(), 1);
    assert_eq!(proxy.connects()[0].target, "api.test:443");
    assert_eq!(
        front.handshakes()[0].server_name.as_deref(),
        Some("api.test")
    );
    let request = &provider.requests()[0];
    assert_eq!(request.target, "/v9/chat/completions");
    assert_eq!(request.header("host"), Some("api.test"));
    assert_eq!(gateway.records(1)[0]["road"], "proxy");
}

#[test]
fn a_connection_that_was_not_verified_is_never_used_for_who_wants_it_verified() {
    let provider = Provider::json("{}");
    let authority = Authority::new();
    let front = authority.front("IP:127.0.0.1", &["http/1.1"], provider.address());
    let url = format!("https://{}", front.address());
    let other = Authority::new();
    let gateway = Gateway::start(&format!(
        "providers:\n\
         - {{name: a, base_url: \"{url}\", models: [careless], tls: {{verify: false}}}}\n\
         - {{name: b, base_url: \"{url}\", models: [strict]}}\n\
         - {{name: c, base_url: \"{url}\", models: [mistaken], tls: {{ca: {other:?}}}}}\n\
         - {{name: d, base_url: \"{url}\", models: [trusting], tls: {{ca: {ca:?}}}}}\n\
         - {{name: e, base_url: \"{url}\", models: [misnamed], \
            tls: {{ca: {ca:?}, server_name: other.test}}}}\n",
        other = other.ca(),
        ca = authority.ca(),
    ));
    for _ in 0..3 {
        for (model, status) in [
            ("careless", 200),
            ("strict", 502),
            ("mistaken", 502),
            ("trusting", 200),
            ("misnamed", 502),
        ] {
            assert_eq!(gateway.post(CHAT, ask(model)).status(), status, "{model}");
        }
    }
    assert_eq!(
        front.handshakes().len(),
        2,
        "one connection for each who may"
    );
}

#[test]
fn a_plaintext_server_behind_an_https_url_is_502() {
    let provider = Provider::raw(|mut stream| {
        use std::io::{Read, Write};
        let _ = stream.read(&mut [0; 512]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let gateway = tls_gateway(&format!("https://{}", provider.address()), "");
    gateway
        .post(CHAT, ask("m"))
        .assert_refused(502, "upstream_failed");
}
