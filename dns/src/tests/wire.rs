//! Over the wire: a resolver, hickory's sockets, and servers on loopback that say what a test wants.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use super::server::{A, AAAA, Question, Reply, Server};
use super::*;
use crate::transport::Servers;
use crate::{Observer, Query, QueryEnd};

/// Keeps what it is told of queries.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<Query>>);

impl Observer for Seen {
    fn query(&self, query: &Query) {
        self.0.lock().push(*query);
    }
}

impl Seen {
    fn count(&self, server: SocketAddr, end: QueryEnd) -> usize {
        let queries = self.0.lock();
        let of = queries
            .iter()
            .filter(|it| it.server == server && it.end == end);
        of.count()
    }
}

fn config(servers: &[&Server], timeout: Duration) -> Config {
    Config {
        servers: servers.iter().map(|it| it.address()).collect(),
        timeout,
        ..Config::default()
    }
}

fn transport(servers: &[&Server], timeout: Duration) -> Servers {
    Servers::new(&config(servers, timeout), Arc::new(())).expect("a transport")
}

fn resolver(servers: &[&Server]) -> Resolver {
    Resolver::new(config(servers, 2 * SECOND)).expect("a resolver")
}

async fn ask(server: &Server, name: &str) -> Outcome {
    transport(&[server], 2 * SECOND).ask(name).await
}

/// IPv4 only.
fn four(octets: &'static str, ttl: u32) -> impl Fn(&Question<'_>) -> Reply {
    move |question| match question.kind {
        A => Reply::Addresses(vec![octets], ttl),
        _ => Reply::Code(0),
    }
}

fn texts(outcome: Outcome) -> (Vec<String>, u64) {
    match outcome {
        Outcome::Found { addresses, ttl, .. } => {
            let texts = addresses.iter().map(ToString::to_string).collect();
            (texts, ttl.as_secs())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_families_are_asked_and_the_smaller_ttl_wins() {
    let server = Server::start(|question| match (question.name, question.kind) {
        ("api.example.com", A) => Reply::Addresses(vec!["192.0.2.1", "192.0.2.2"], 60),
        ("api.example.com", AAAA) => Reply::Addresses(vec!["2001:db8::1"], 30),
        _ => Reply::Code(3),
    })
    .await;
    let (addresses, ttl) = texts(ask(&server, "api.example.com").await);
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    assert_eq!(ttl, 30);
    assert_eq!(server.queries(), 2);
}

#[tokio::test]
async fn odd_names_are_sent_as_they_must_be() {
    let server = Server::start(|question| match question.name {
        "_svc.a_b.example" | "xn--bcher-kva.example" => Reply::Addresses(vec!["192.0.2.1"], 60),
        other => panic!("{other}"),
    })
    .await;
    for name in ["_svc.a_b.example", "bücher.example"] {
        let outcome = ask(&server, name).await;
        assert!(
            matches!(outcome, Outcome::Found { .. }),
            "{name}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_name_without_addresses_and_a_missing_one_are_not_found_for_as_long_as_the_zone_says() {
    let server = Server::start(|question| match question.name {
        "empty.example" => Reply::Code(0),
        "empty-for.example" => Reply::Gone(0, 3),
        "missing-for.example" => Reply::Gone(3, 7),
        _ => Reply::Code(3),
    })
    .await;
    for (name, seconds) in [
        ("empty.example", None),
        ("missing.example", None),
        ("empty-for.example", Some(3)),
        ("missing-for.example", Some(7)),
    ] {
        let outcome = ask(&server, name).await;
        let expected = seconds.map(Duration::from_secs);
        assert!(
            matches!(outcome, Outcome::NotFound { ttl, sure: true } if ttl == expected),
            "{name}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn no_such_name_for_ipv6_alone_is_not_believed() {
    let server = Server::start(|question| match question.kind {
        A => Reply::Late(
            SECOND / 10,
            Box::new(Reply::Addresses(vec!["192.0.2.1"], 60)),
        ),
        _ => Reply::Code(3),
    })
    .await;
    assert_eq!(texts(ask(&server, "a.example").await).0, ["192.0.2.1"]);
}

#[tokio::test]
async fn a_server_that_fails_or_refuses_makes_the_name_unavailable_at_once() {
    let server = Server::start(|question| match question.name {
        "servfail.example" => Reply::Code(2),
        "rubbish.example" => Reply::Rubbish,
        _ => Reply::Code(5),
    })
    .await;
    let transport = transport(&[&server], 60 * SECOND);
    for name in ["servfail.example", "refused.example", "rubbish.example"] {
        let begun = Instant::now();
        let outcome = transport.ask(name).await;
        assert!(
            matches!(outcome, Outcome::Unavailable(_)),
            "{name}: {outcome:?}"
        );
        assert!(
            begun.elapsed() < 30 * SECOND,
            "nobody waited for the timeout"
        );
    }
}

#[tokio::test]
async fn one_family_that_cannot_be_had_shortens_the_ttl_of_the_other() {
    let server = Server::start(|question| match question.kind {
        A => Reply::Addresses(vec!["192.0.2.1"], 300),
        _ => Reply::Code(2),
    })
    .await;
    assert_eq!(
        texts(ask(&server, "a.example").await),
        (vec!["192.0.2.1".into()], 5)
    );
}

#[tokio::test]
async fn a_server_that_is_silent_on_ipv6_does_not_cost_the_ipv4_answer_nor_is_it_dead() {
    let server = Server::start(|question| match question.kind {
        A => Reply::Addresses(vec!["192.0.2.1"], 300),
        _ => Reply::Silence,
    })
    .await;
    let transport = transport(&[&server], SECOND);
    for name in ["a.example", "b.example", "c.example", "d.example"] {
        texts(transport.ask(name).await);
    }
    // Four questions for IPv6 end unanswered.
    while transport.servers()[0].failures < 4 {
        tokio::time::sleep(SECOND / 20).await;
        texts(transport.ask("alive.example").await);
    }
    assert!(!transport.servers()[0].is_dead);
}

#[tokio::test]
async fn a_missing_name_is_missing_though_the_server_is_silent_on_ipv6() {
    let server = Server::start(|question| match question.kind {
        A => Reply::Code(3),
        _ => Reply::Silence,
    })
    .await;
    let outcome = transport(&[&server], 60 * SECOND).ask("a.example").await;
    assert!(matches!(outcome, Outcome::NotFound { .. }), "{outcome:?}");
}

#[tokio::test]
async fn aliases_are_followed_in_the_answer_and_beyond_and_their_ttl_counts() {
    let server = Server::start(|question| match (question.name, question.kind) {
        ("www.example", A) => Reply::Alias("target.example", 7, vec!["192.0.2.9"], 60),
        ("far.example", A) => Reply::Alias("away.example", 9, vec![], 0),
        ("away.example", A) => Reply::Addresses(vec!["192.0.2.10"], 60),
        ("circle.example", A) => Reply::Alias("circle.example", 9, vec![], 0),
        ("round.example", A) => Reply::Alias("about.example", 9, vec![], 0),
        ("about.example", A) => Reply::Alias("round.example", 9, vec![], 0),
        _ => Reply::Code(0),
    })
    .await;
    assert_eq!(
        texts(ask(&server, "www.example").await),
        (vec!["192.0.2.9".into()], 7)
    );
    assert_eq!(
        texts(ask(&server, "far.example").await),
        (vec!["192.0.2.10".into()], 9)
    );
    for name in ["circle.example", "round.example"] {
        let outcome = ask(&server, name).await;
        assert!(
            matches!(outcome, Outcome::Unavailable(_)),
            "{name}: {outcome:?}"
        );
    }
    assert!(server.queries() < 60, "{}", server.queries());
}

#[tokio::test]
async fn an_answer_that_does_not_fit_comes_by_tcp() {
    let server = Server::start(|question| match (question.kind, question.tcp) {
        (A, false) => {
            assert_eq!(question.payload, Some(1232));
            Reply::Truncated
        }
        (A, true) => Reply::Addresses(vec!["192.0.2.1", "192.0.2.2"], 60),
        _ => Reply::Code(0),
    })
    .await;
    let seen = Arc::new(Seen::default());
    let observer = Arc::clone(&seen) as _;
    let resolver = Resolver::with_observer(config(&[&server], 2 * SECOND), observer);
    let answer = resolver.expect("a resolver").lookup("big.example").await;
    assert_eq!(answer.expect("an answer").len(), 2);
    let by_tcp = |query: &&Query| query.tcp;
    assert_eq!(seen.0.lock().iter().filter(by_tcp).count(), 1);
}

#[tokio::test]
async fn a_part_of_the_addresses_serves_where_tcp_brings_nothing() {
    let server = Server::start(|question| match (question.kind, question.tcp) {
        (A, false) => Reply::Part(vec!["192.0.2.1"], 60),
        (A, true) => Reply::WrongQuestion(vec!["192.0.2.66"]),
        _ => Reply::Code(0),
    })
    .await;
    assert_eq!(texts(ask(&server, "big.example").await).0, ["192.0.2.1"]);
}

#[tokio::test]
async fn a_server_from_before_edns_is_asked_without_it() {
    let server = Server::start(|question| match (question.payload, question.kind) {
        (Some(_), _) => Reply::Code(1),
        (None, A) => Reply::Addresses(vec!["192.0.2.1"], 60),
        _ => Reply::Code(0),
    })
    .await;
    assert_eq!(texts(ask(&server, "a.example").await).0, ["192.0.2.1"]);
}

#[tokio::test]
async fn lies_are_passed_over_and_the_truth_that_follows_is_taken() {
    let lie = vec!["192.0.2.66"];
    for lie in [Reply::WrongId(lie.clone()), Reply::WrongQuestion(lie)] {
        let server = Server::start(move |question| match question.kind {
            A => {
                let truth = Reply::Addresses(vec!["192.0.2.1"], 60);
                Reply::Several(vec![lie.clone(), lie.clone(), truth])
            }
            _ => Reply::Code(0),
        })
        .await;
        assert_eq!(texts(ask(&server, "a.example").await).0, ["192.0.2.1"]);
    }
}

#[tokio::test]
async fn a_server_that_only_lies_is_unavailable() {
    let server = Server::start(|question| match question.name {
        "id.example" => Reply::WrongId(vec!["192.0.2.66"]),
        _ => Reply::WrongQuestion(vec!["192.0.2.66"]),
    })
    .await;
    let transport = transport(&[&server], SECOND / 2);
    for name in ["id.example", "question.example"] {
        let outcome = transport.ask(name).await;
        assert!(
            matches!(outcome, Outcome::Unavailable(_)),
            "{name}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn addresses_of_names_that_were_not_asked_for_do_not_count() {
    let server = Server::start(|_| Reply::Unasked("other.example", "192.0.2.66")).await;
    let outcome = ask(&server, "a.example").await;
    assert!(matches!(outcome, Outcome::NotFound { .. }), "{outcome:?}");
}

#[tokio::test]
async fn what_another_host_sends_is_passed_over() {
    // Knows the number of the question, but not from which port the server would answer.
    let liar = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let server = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = server.local_addr().expect("bound");
    let task = tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, client)) = server.recv_from(&mut buffer).await {
            let answer = |last| {
                let mut message = buffer[..length - 11].to_vec();
                message[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
                message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last]);
                message
            };
            drop(liar.send_to(&answer(66), client).await);
            drop(server.send_to(&answer(1), client).await);
        }
    });
    let config = Config {
        servers: vec![address],
        ..Config::default()
    };
    let transport = Servers::new(&config, Arc::new(())).expect("a transport");
    let (addresses, _) = texts(transport.ask("a.example").await);
    assert_eq!(addresses, ["192.0.2.1"]);
    task.abort();
}

#[tokio::test]
async fn a_datagram_that_is_lost_is_sent_again() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |question| match question.kind {
        A if asked.fetch_add(1, Ordering::SeqCst) == 0 => Reply::Silence,
        A => Reply::Addresses(vec!["192.0.2.1"], 60),
        _ => Reply::Code(0),
    })
    .await;
    let outcome = transport(&[&server], 10 * SECOND).ask("a.example").await;
    assert_eq!(texts(outcome).0, ["192.0.2.1"]);
}

#[tokio::test]
async fn where_nobody_listens_is_known_at_once() {
    let gone = {
        let server = Server::start(|_| Reply::Silence).await;
        server.address()
    };
    tokio::task::yield_now().await; // its sockets go with its tasks
    let config = Config {
        servers: vec![gone],
        timeout: 60 * SECOND,
        ..Config::default()
    };
    let transport = Servers::new(&config, Arc::new(())).expect("a transport");
    let begun = Instant::now();
    let outcome = transport.ask("a.example").await;
    assert!(matches!(outcome, Outcome::Unavailable(_)), "{outcome:?}");
    assert!(begun.elapsed() < 30 * SECOND);
}

#[tokio::test]
async fn the_next_server_is_asked_where_the_first_fails_refuses_or_is_silent() {
    let good = Server::start(four("192.0.2.1", 60)).await;
    for reply in [
        Reply::Code(2),
        Reply::Code(5),
        Reply::Rubbish,
        Reply::Silence,
    ] {
        let bad = Server::start(move |_| reply.clone()).await;
        let outcome = transport(&[&bad, &good], 10 * SECOND)
            .ask("a.example")
            .await;
        assert_eq!(texts(outcome).0, ["192.0.2.1"]);
    }
}

#[tokio::test]
async fn no_such_name_of_the_second_server_does_not_overtake_the_first() {
    let slow = Server::start(|question| {
        let answer = match question.kind {
            A => Reply::Addresses(vec!["192.0.2.1"], 60),
            _ => Reply::Code(0),
        };
        Reply::Late(SECOND, Box::new(answer))
    })
    .await;
    let public = Server::start(|_| Reply::Code(3)).await;
    let outcome = transport(&[&slow, &public], 20 * SECOND)
        .ask("db.internal")
        .await;
    assert_eq!(texts(outcome).0, ["192.0.2.1"]);
    assert!(public.queries() > 0, "it was asked as well");
}

#[tokio::test]
async fn no_such_name_is_sure_only_where_the_first_server_says_so() {
    let public = Server::start(|_| Reply::Code(3)).await;
    for (reply, expected) in [
        (Reply::Code(3), true),
        (Reply::Code(2), false),
        (Reply::Silence, false),
    ] {
        let is_silent = matches!(reply, Reply::Silence);
        let first = Server::start(move |_| reply.clone()).await;
        let transport = transport(&[&first, &public], SECOND);
        while is_silent && !transport.servers()[0].is_dead {
            drop(tokio::time::timeout(SECOND / 10, transport.ask("a.example")).await);
        }
        let outcome = transport.ask("db.internal").await;
        assert!(
            matches!(outcome, Outcome::NotFound { sure, .. } if sure == expected),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn one_dead_server_of_two_is_soon_asked_last_and_seen_when_it_lives_again() {
    let lives = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_alive = Arc::clone(&lives);
    let first = Server::start(move |question| {
        if is_alive.load(Ordering::SeqCst) {
            four("192.0.2.1", 60)(question)
        } else {
            Reply::Silence
        }
    })
    .await;
    let second = Server::start(four("192.0.2.2", 60)).await;
    let seen = Arc::new(Seen::default());
    let transport = Servers::new(&config(&[&first, &second], SECOND), Arc::clone(&seen) as _);
    let transport = transport.expect("a transport");
    texts(transport.ask("a.example").await);
    while !transport.servers()[0].is_dead {
        tokio::time::sleep(SECOND / 20).await;
    }
    let (asked, waited) = (first.queries(), Instant::now());
    for number in 0..100 {
        let (addresses, _) = texts(transport.ask(&format!("n{number}.example")).await);
        assert_eq!(addresses, ["192.0.2.2"]);
    }
    let waited = waited.elapsed();
    let more = first.queries() - asked;
    assert!(
        more <= 12,
        "a try now and then: {more} datagrams in {waited:?}"
    );
    let [one, two] = [&transport.servers()[0], &transport.servers()[1]].map(|it| {
        assert_eq!(it.latency.is_some(), it.address == second.address());
        (it.queries, it.failures)
    });
    assert!(one.0 >= 2 && one.0 == one.1, "{one:?}");
    assert_eq!(two, (202, 0));
    assert_eq!(seen.count(second.address(), QueryEnd::Found), 101);
    assert_eq!(seen.count(second.address(), QueryEnd::Negative), 101);
    assert_eq!(seen.count(first.address(), QueryEnd::Silent) as u64, one.1);

    lives.store(true, Ordering::SeqCst);
    for number in 0.. {
        let (addresses, _) = texts(transport.ask(&format!("m{number}.example")).await);
        if addresses == ["192.0.2.1"] {
            break;
        }
        tokio::time::sleep(SECOND / 20).await;
    }
    assert!(!transport.servers()[0].is_dead);
}

#[tokio::test]
async fn servers_that_all_failed_for_long_are_taken_anew() {
    let server = Server::start(|_| Reply::Code(2)).await;
    let transport = transport(&[&server], 2 * SECOND);
    for number in 0..4 {
        transport.ask(&format!("n{number}.example")).await;
    }
    assert_eq!(transport.servers()[0].queries, 8);
    assert!(
        !transport.look_again(),
        "but the answers of before still hold"
    );
    assert_eq!(transport.servers()[0].queries, 0);
}

#[tokio::test]
async fn addresses_that_change_are_followed_with_a_ttl_of_none_and_one_of_days_is_kept() {
    let octet = Arc::new(AtomicU32::new(1));
    let now = Arc::clone(&octet);
    let server = Server::start(move |question| match question.kind {
        A => {
            let address = ["192.0.2.0", "192.0.2.1", "192.0.2.2"];
            let address = address[now.load(Ordering::SeqCst) as usize];
            let days = question.name == "days.example";
            Reply::Addresses(vec![address], if days { 864_000 } else { 0 })
        }
        _ => Reply::Code(0),
    })
    .await;
    let resolver = resolver(&[&server]);
    for name in ["none.example", "days.example"] {
        assert_eq!(last_octet(resolver.lookup(name).await), 1);
    }
    octet.store(2, Ordering::SeqCst);
    let (changed, mut last) = (Instant::now(), 1);
    while last == 1 {
        last = last_octet(resolver.lookup("none.example").await);
        tokio::time::sleep(SECOND / 100).await;
    }
    println!("the change was seen after {:?}", changed.elapsed());
    assert_eq!(last_octet(resolver.lookup("days.example").await), 1);
    let listing = &resolver.dump()[0];
    assert_eq!(listing.name, "days.example");
    assert!(
        listing.fresh.as_secs().abs_diff(300) < 100,
        "max_ttl: {listing:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_names_at_once_are_all_answered() {
    let server = Server::start(four("192.0.2.1", 60)).await;
    let config = config(&[&server], 20 * SECOND);
    let resolver = Resolver::new(config).expect("a resolver");
    let tasks: Vec<_> = (0..1000)
        .map(|number| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.lookup(&format!("n{number}.example")).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(last_octet(task.await.expect("joined")), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_lookups_cost_one_query_a_family() {
    let server = Server::start(four("192.0.2.1", 60)).await;
    let resolver = resolver(&[&server]);
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let resolver = resolver.clone();
            tokio::spawn(async move { last_octet(resolver.lookup("wire.example").await) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.expect("joined"), 1);
    }
    assert_eq!(server.queries(), 2);
}

#[test]
fn a_resolver_outlives_the_runtime_it_was_first_used_on() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let (first, second) = (runtime(), runtime());
    // Runs by itself, whichever of the two is used.
    let dns = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let server = dns.block_on(Server::start(|question| match question.kind {
        A if !question.tcp => Reply::Truncated,
        A => Reply::Addresses(vec!["192.0.2.1"], 60),
        _ => Reply::Code(0),
    }));
    let resolver = resolver(&[&server]);
    let octet = async |name: &str| last_octet(resolver.lookup(name).await);
    assert_eq!(first.block_on(octet("one.example")), 1);
    drop(first);
    assert_eq!(second.block_on(octet("two.example")), 1);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_unavailable_in_time() {
    let server = Server::start(|_| Reply::Silence).await;
    let timeout = Duration::from_millis(200);
    let resolver = Resolver::new(config(&[&server], timeout)).expect("a resolver");
    let asked = Instant::now();
    let error = resolver.lookup("silent.example").await;
    assert!(
        matches!(error, Err(LookupError::Unavailable { .. })),
        "{error:?}"
    );
    assert!(asked.elapsed() < 50 * timeout, "{:?}", asked.elapsed());
}
