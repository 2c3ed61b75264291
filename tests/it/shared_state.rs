//! Allowances that hosts share through a real Redis.
//!
//! First hosts as the library has them, many requests each; then whole weirs.

use crate::keys::{directly, made, sha256, status};
use crate::support::{
    Answer, Authority, Client, DEADLINE, Folder, Gate, Gateway, Launch, Provider, Redis, eventually,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use weir::govern::Accounts;
use weir::govern::accounts::{Held, Keep};
use weir::govern::shared::{
    Dial, Keeper, Kind, OnDown, PATIENCE, SharedState, Sharing, State, Stock, Stream,
};
use weir::observe;

/// One host: its memory, and the task that shares.
struct Host {
    sharing: Sharing,
    accounts: Accounts,
    keeper: JoinHandle<()>,
    end: Option<oneshot::Sender<bool>>,
    _folder: Arc<Folder>,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn settings(redis: &Redis, on_down: OnDown) -> SharedState {
    SharedState {
        server: redis.url().parse().expect("a URL"),
        on_down,
        prefix: "weir".into(),
        lease: Duration::from_secs(3),
    }
}

fn dial() -> Dial {
    Arc::new(|server| {
        let to = (server.host.clone(), server.port);
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    })
}

impl Host {
    fn start(settings: SharedState) -> Self {
        Self::with(settings, Arc::new(Folder::new()))
    }

    /// In a folder that another process of the same host may use too.
    fn with(settings: SharedState, folder: Arc<Folder>) -> Self {
        let sharing = Sharing::open(folder.path()).expect("a host's file");
        let keeper = Keeper::new(
            sharing.clone(),
            settings,
            dial(),
            observe::Sharing::default(),
        );
        let (end, ended) = oneshot::channel();
        Self {
            accounts: Accounts::open(folder.path()).expect("accounts"),
            sharing,
            keeper: tokio::spawn(keeper.run(ended)),
            end: Some(end),
            _folder: folder,
        }
    }

    fn stock(&self, kind: Kind, limit: i64) -> Stock {
        let account = self.accounts.account("a", Keep::Weeks);
        self.sharing.stock("a", kind, limit, account, Keep::Weeks)
    }

    /// As a kill would.
    fn die(&self) {
        self.keeper.abort();
    }

    async fn leave(mut self) {
        if let Some(end) = self.end.take() {
            end.send(true).expect("the keeper runs");
        }
        (&mut self.keeper).await.expect("the keeper ends");
    }

    async fn wait(&self, state: State) {
        until("a state", || self.sharing.state() == state).await;
    }
}

async fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let due = Instant::now() + DEADLINE;
    while !ready() {
        assert!(Instant::now() < due, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What one request costs, picodollars: a tenth of a cent.
const COST: i64 = 1_000_000_000;
/// A budget for exactly a thousand of them.
const BUDGET: i64 = 1000 * COST;

/// One request, as it goes through weir: false where it is refused.
async fn spend(stock: &Stock, amount: i64) -> bool {
    let Some(held) = hold(stock, amount).await else {
        return false;
    };
    // A model that thinks.
    tokio::time::sleep(Duration::from_millis(2)).await;
    held.settle(amount);
    true
}

/// Clients that ask, by turns of one host and another, until `enough`; how many requests got through.
struct Clients(Vec<JoinHandle<u64>>, Arc<AtomicU64>);

impl Clients {
    fn of(
        stocks: &[Stock],
        clients: usize,
        amount: i64,
        enough: impl Fn(bool) -> bool + Clone + Send + 'static,
    ) -> Self {
        let through = Arc::new(AtomicU64::new(0));
        let all = (0..clients).map(|number| {
            let (stock, enough) = (stocks[number % stocks.len()].clone(), enough.clone());
            let through = Arc::clone(&through);
            tokio::spawn(async move {
                let mut own = 0;
                loop {
                    let got = spend(&stock, amount).await;
                    own += u64::from(got);
                    through.fetch_add(u64::from(got), Ordering::Relaxed);
                    if enough(got) {
                        return own;
                    }
                }
            })
        });
        Self(all.collect(), through)
    }

    /// Until each has been refused once.
    fn until_refused(stocks: &[Stock], clients: usize) -> Self {
        Self::of(stocks, clients, COST, |got| !got)
    }

    async fn reach(&self, through: u64) {
        until("requests", || self.1.load(Ordering::Relaxed) >= through).await;
    }

    async fn through(self) -> u64 {
        let mut through = 0;
        for client in self.0 {
            through += client.await.expect("a client");
        }
        through
    }
}

/// The clients come again until `all` got through: who asks just as another host gives back what is left
/// is refused, and finds it later. One more time they find nothing.
async fn rest(stocks: &[Stock], through: u64, all: u64) {
    rest_of(stocks, COST, through, all).await;
}

async fn rest_of(stocks: &[Stock], amount: i64, mut through: u64, all: u64) {
    let again = || Clients::of(stocks, 8, amount, |got| !got).through();
    let due = Instant::now() + DEADLINE;
    while through < all {
        assert!(Instant::now() < due, "{through}: the rest is found");
        through += again().await;
    }
    assert_eq!((through, again().await), (all, 0));
}

async fn two_hosts(redis: &Redis, on_down: OnDown) -> ([Host; 2], [Stock; 2]) {
    let hosts = [(); 2].map(|()| Host::start(settings(redis, on_down)));
    for host in &hosts {
        host.wait(State::Up).await;
    }
    let stocks = hosts
        .each_ref()
        .map(|host| host.stock(Kind::Budget, BUDGET));
    (hosts, stocks)
}

fn used(stocks: &[Stock]) -> Vec<i64> {
    let used = stocks.iter().map(|stock| stock.account().total() / COST);
    used.collect()
}

// === budgets ===

#[test]
fn two_hosts_spend_a_budget_together_to_its_last_unit_and_no_further() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let (_hosts, stocks) = two_hosts(&redis, OnDown::Refuse).await;
        let before = redis.scripts();
        let through = Clients::until_refused(&stocks, 64).through().await;
        let trips = redis.scripts() - before;
        println!(
            "{through} through, {:?} by host, {trips} round trips",
            used(&stocks)
        );
        assert!(trips < 200, "{trips} round trips for 1000 requests");
        rest(&stocks, through, 1000).await;
    });
}

#[test]
fn what_one_host_doesnt_use_another_finds() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let (_hosts, stocks) = two_hosts(&redis, OnDown::Refuse).await;
        let [one, two] = &stocks;
        assert!(spend(one, BUDGET / 10).await);
        let drawn = one.account().granted();
        assert!(drawn > BUDGET / 10, "{drawn}: some more than was asked for");
        // All the rest on the other host, when the first has given back what it sits on.
        let due = Instant::now() + DEADLINE;
        while !spend(two, BUDGET / 10 * 9).await {
            assert!(Instant::now() < due, "the rest is found");
        }
        assert!(!spend(one, 1).await && !spend(two, 1).await);
    });
}

/// Through in all, by hosts that lose Redis when half of the budget is spent.
async fn killed_half_way(redis: &mut Redis, on_down: OnDown) -> (u64, [Host; 2], [Stock; 2]) {
    let (hosts, stocks) = two_hosts(redis, on_down).await;
    let clients = Clients::until_refused(&stocks, 64);
    clients.reach(500).await;
    let at_least = clients.1.load(Ordering::Relaxed);
    redis.kill();
    let through = clients.through().await;
    println!(
        "{on_down:?}: killed after {at_least}, {through} through in all, {:?} by host",
        used(&stocks)
    );
    (through, hosts, stocks)
}

#[test]
fn without_redis_hosts_that_refuse_go_on_with_their_leases_alone() {
    let Some(mut redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let (through, hosts, stocks) = killed_half_way(&mut redis, OnDown::Refuse).await;
        assert!((500..=1000).contains(&through), "{through}");
        redis.start_again();
        for host in &hosts {
            host.wait(State::Up).await;
        }
        // A server that has forgotten hears from both before it grants anything.
        let rest = finish(&stocks).await;
        assert_eq!(through + rest, 1000, "reconciled");
    });
}

#[test]
fn without_redis_hosts_on_their_own_share_what_was_left() {
    let Some(mut redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let (through, hosts, stocks) = killed_half_way(&mut redis, OnDown::Local).await;
        // Half of what was left as each has heard it: no more than that twice.
        assert!((500..=1250).contains(&through), "{through}");
        redis.start_again();
        for host in &hosts {
            host.wait(State::Up).await;
        }
        let rest = finish(&stocks).await;
        println!("and {rest} when it was back");
        assert_eq!(through + rest, through.max(1000), "reconciled");
    });
}

/// What gets through when the clients come again and again until nothing is left.
async fn finish(stocks: &[Stock]) -> u64 {
    let mut through = 0;
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_secs(7) {
        let now = Clients::until_refused(stocks, 8).through().await;
        if now > 0 {
            quiet_since = Instant::now();
        }
        through += now;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    through
}

#[test]
fn what_a_host_that_died_had_used_stays_used_and_the_rest_of_its_lease_comes_back() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let ([one, _two], [here, there]) = two_hosts(&redis, OnDown::Refuse).await;
        assert!(spend(&here, BUDGET / 10).await);
        // Nanodollars. What it uses after its last word, half a second at most, dies with it.
        let word = format!(" {}", BUDGET / 10 / 1000);
        until("its word", || redis.ask("HVALS {weir}:a:a").contains(&word)).await;
        one.die();
        assert!(
            !spend(&there, BUDGET / 10 * 9).await,
            "the lease isn't over"
        );
        let due = Instant::now() + DEADLINE;
        while !spend(&there, BUDGET / 10 * 9).await {
            assert!(Instant::now() < due, "the unused part comes back");
        }
        assert!(!spend(&there, COST).await, "a tenth was used");
    });
}

#[test]
fn a_host_that_leaves_gives_back_what_it_doesnt_use_at_once() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let ([one, _two], [here, there]) = two_hosts(&redis, OnDown::Refuse).await;
        assert!(spend(&here, BUDGET / 10).await);
        until("a stock", || here.account().granted() > BUDGET / 10).await;
        one.leave().await;
        assert!(spend(&there, BUDGET / 10 * 9).await);
        assert!(!spend(&there, COST).await);
    });
}

#[test]
fn two_processes_of_a_host_are_one_host() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let folder = Arc::new(Folder::new());
        let start = || Host::with(settings(&redis, OnDown::Refuse), Arc::clone(&folder));
        let processes = [
            start(),
            start(),
            Host::start(settings(&redis, OnDown::Refuse)),
        ];
        for process in &processes {
            process.wait(State::Up).await;
        }
        let stocks = processes
            .each_ref()
            .map(|it| it.stock(Kind::Budget, BUDGET));
        let through = Clients::until_refused(&stocks, 63).through().await;
        rest(&stocks, through, 1000).await;
        assert_eq!(stocks[0].account().total(), stocks[1].account().total());
        let hosts = redis.ask("ZCARD {weir}:hosts");
        assert!(hosts.starts_with(":2\r\n"), "{hosts}");
    });
}

#[test]
fn a_budget_begins_with_what_the_host_had_used_of_it_before_it_shared() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let hosts = [(); 2].map(|()| Host::start(settings(&redis, OnDown::Refuse)));
        let account = hosts[0].accounts.account("a", Keep::Weeks);
        account.add(BUDGET / 2);
        let stocks = hosts
            .each_ref()
            .map(|host| host.stock(Kind::Budget, BUDGET));
        // It tells before the other draws.
        let word = format!(" {}", BUDGET / 2 / 1000);
        until("its word", || redis.ask("HVALS {weir}:a:a").contains(&word)).await;
        rest(&stocks, 0, 500).await;
    });
}

#[test]
fn what_an_answer_costs_beyond_its_reservation_counts_on_all_hosts() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let (_hosts, [here, there]) = two_hosts(&redis, OnDown::Refuse).await;
        assert!(spend(&here, COST).await);
        let held = hold(&here, COST).await.expect("it is granted");
        held.settle(BUDGET * 2);
        let due = Instant::now() + DEADLINE;
        while spend(&there, COST).await {
            assert!(Instant::now() < due, "the other host hears");
        }
        assert!(there.standing().elsewhere > BUDGET * 2);
        assert!(!spend(&here, COST).await);
    });
}

// === a Redis that forgets ===

#[test]
fn a_server_that_has_forgotten_hears_of_budgets_that_nobody_uses_any_more() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let hosts = [(); 2].map(|()| Host::start(settings(&redis, OnDown::Refuse)));
        for host in &hosts {
            host.wait(State::Up).await;
        }
        let here = hosts[0].stock(Kind::Budget, BUDGET);
        assert!(spend(&here, BUDGET / 10 * 4).await);
        until_told(&redis, &here).await;
        redis.ask("FLUSHALL");
        // Another host, which has never heard of it.
        let there = hosts[1].stock(Kind::Budget, BUDGET);
        assert_eq!(finish(&[there]).await, 600);
    });
}

#[test]
fn what_a_server_short_of_memory_throws_away_is_remembered_by_hosts() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let (_hosts, [here, there]) = two_hosts(&redis, OnDown::Refuse).await;
        assert!(spend(&here, BUDGET / 10 * 4).await);
        until_told(&redis, &here).await;
        assert!(spend(&there, COST).await);
        until_told(&redis, &there).await;
        assert!(redis.ask("DEL {weir}:a:a").starts_with(":1"));
        assert_eq!(finish(&[there]).await, 599);
    });
}

/// Until the host has given back all that it didn't use, and the server knows that.
async fn until_told(redis: &Redis, stock: &Stock) {
    // Nanodollars: granted, used, and used for good.
    let used = stock.account().total() / 1000;
    let word = format!("{used} {used} {used}");
    let mut since = Instant::now();
    until("its last word", || {
        let is_told = redis.ask("HVALS {weir}:a:a").contains(&word);
        if !is_told {
            since = Instant::now();
        }
        // That nothing comes after it is no event.
        since.elapsed() > Duration::from_secs(1)
    })
    .await;
}

// === servers of other kinds ===

#[test]
fn what_one_script_touches_is_in_one_part_of_a_cluster() {
    let Some(redis) = Redis::start(&["--cluster-enabled", "yes"]) else {
        return;
    };
    redis.ask("CLUSTER ADDSLOTSRANGE 0 16383");
    eventually("a cluster of one", || {
        (redis.ask("CLUSTER INFO").contains("cluster_state:ok")).then_some(())
    });
    runtime().block_on(async {
        let (_hosts, stocks) = two_hosts(&redis, OnDown::Refuse).await;
        assert!(spend(&stocks[0], COST).await && spend(&stocks[1], COST).await);
    });
}

// === a Redis that doesn't answer ===

#[test]
fn a_frozen_redis_delays_no_request_beyond_its_patience_and_late_words_change_nothing() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let (hosts, stocks) = two_hosts(&redis, OnDown::Refuse).await;
        let clients = Clients::until_refused(&stocks, 64);
        clients.reach(300).await;
        redis.freeze();
        // Each ends at the latest when its patience does: none hangs on Redis.
        let mut through = clients.through().await;
        let longest = longest_refusal(&stocks[0]).await;
        println!("{through} through; a refusal took {longest:?} while Redis was frozen");
        for host in &hosts {
            host.wait(State::Down).await;
        }
        let longest = longest_refusal(&stocks[0]).await;
        println!("{longest:?} when that was known");
        // What was sent while it was frozen is read now, after newer words or before.
        redis.thaw();
        for host in &hosts {
            host.wait(State::Up).await;
        }
        through += finish(&stocks).await;
        assert_eq!(through, 1000);
    });
}

/// Of requests one after another for more than there is.
async fn longest_refusal(stock: &Stock) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let began = Instant::now();
        if !spend(stock, BUDGET).await {
            longest = longest.max(began.elapsed());
        }
    }
    longest
}

#[test]
fn a_host_that_refuses_lets_its_lease_go_before_others_get_it() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let (hosts, [here, _there]) = two_hosts(&redis, OnDown::Refuse).await;
        assert!(spend(&here, COST).await);
        until("a stock", || !here.is_short(COST)).await;
        redis.freeze();
        hosts[0].wait(State::Down).await;
        assert!(here.hold(COST, i64::MAX).is_ok(), "on with its lease");
        until("the end of the lease", || here.is_short(1)).await;
        assert!(here.hold(COST, i64::MAX).is_err());
        redis.thaw();
    });
}

#[test]
fn a_host_that_never_met_redis_goes_on_by_its_policy() {
    let Some(mut redis) = Redis::start(&[]) else {
        return;
    };
    redis.kill();
    runtime().block_on(async {
        for (on_down, through) in [(OnDown::Refuse, 0), (OnDown::Local, 1000)] {
            let host = Host::start(settings(&redis, on_down));
            let stocks = [host.stock(Kind::Budget, BUDGET)];
            host.wait(State::Down).await;
            let got = Clients::until_refused(&stocks, 16).through().await;
            assert_eq!(got, through, "{on_down:?}");
        }
    });
}

// === rates and slots ===

#[test]
fn two_hosts_share_a_rate() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let hosts = [(); 2].map(|()| Host::start(settings(&redis, OnDown::Refuse)));
        let rate = Kind::Rate { burst: 100 };
        // One a minute comes back, so that within a test it is the burst alone.
        let stocks = hosts.each_ref().map(|host| host.stock(rate, 1));
        let through = Clients::of(&stocks, 64, 1, |got| !got).through().await;
        rest_of(&stocks, 1, through, 100).await;
        assert!(!spend(&stocks[0], 1).await);
        let wait = stocks[0].wait_for(1);
        assert!(
            wait > Duration::from_secs(30) && wait <= Duration::from_secs(60),
            "{wait:?}"
        );
    });
}

#[test]
fn who_waits_as_a_shared_rate_says_gets_in() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let host = Host::start(settings(&redis, OnDown::Refuse));
        let stock = host.stock(Kind::Rate { burst: 1 }, 120);
        assert!(spend(&stock, 1).await);
        assert!(!spend(&stock, 1).await);
        let wait = stock.wait_for(1);
        assert!(
            wait > Duration::from_millis(200) && wait <= Duration::from_millis(500),
            "{wait:?}"
        );
        tokio::time::sleep(wait).await;
        assert!(spend(&stock, 1).await);
    });
}

#[test]
fn as_many_as_allowed_are_in_flight_on_all_hosts_and_one_more_when_one_ends() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    runtime().block_on(async {
        let hosts = [(); 2].map(|()| Host::start(settings(&redis, OnDown::Refuse)));
        let stocks = hosts.each_ref().map(|host| host.stock(Kind::Slots, 10));
        let mut held = Vec::new();
        // One after the other, so that the last is where the first was not.
        for number in 0..10 {
            held.push(hold(&stocks[number % 2], 1).await.expect("a slot"));
        }
        assert!(hold(&stocks[0], 1).await.is_none());
        assert!(hold(&stocks[1], 1).await.is_none());
        held.remove(0);
        let due = Instant::now() + DEADLINE;
        let again = loop {
            // On the host where none has ended.
            if let Some(again) = hold(&stocks[1], 1).await {
                break again;
            }
            assert!(Instant::now() < due, "a slot that is free is found");
        };
        assert!(hold(&stocks[0], 1).await.is_none());
        drop(again);
    });
}

async fn hold(stock: &Stock, amount: i64) -> Option<Held> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Ok(held) = stock.hold(amount, i64::MAX) {
            return Some(held);
        }
        if !stock.wait(amount, until).await {
            return None;
        }
    }
}

// === whole weirs ===

/// A model whose answers have ten tokens; see [`weir`].
const TEN_TOKENS: &str = r#"{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a b c d e f g h i j"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":10,"total_tokens":11}}"#;
const SECRET: &str = "sk-shared-0123456789";

/// A weir with one key, whose team has a budget for exactly a thousand requests.
fn weir(model: &Provider, redis: &Redis, on_down: &str, more: &str) -> Gateway {
    Gateway::start(&config(model, redis, on_down, more))
}

fn config(model: &Provider, redis: &Redis, on_down: &str, more: &str) -> String {
    format!(
        "model_routes: {{m: \"{0}\", without-a-price: \"{0}\"}}\n\
         prices: {{m: {{input: 0, output: 100}}}}\n\
         teams: [{{name: search, {more}, keys: [{{name: ci, sha256: {1}}}]}}]\n\
         shared_state: {{url: \"{2}\", on_down: {on_down}, lease: 3s}}\n\
         state_dir: \"{{folder}}/state\"\n",
        model.url(),
        sha256(SECRET),
        redis.url(),
    )
}

const BUDGET_OF_1000: &str = "budget: {usd: 1, per: total}";

fn ask(client: &mut Client) -> Answer {
    let headers = [
        ("content-type", "application/json"),
        ("authorization", &format!("Bearer {SECRET}")),
    ];
    let body = br#"{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"a"}]}"#;
    client.request("POST", "/v1/chat/completions", &headers, body);
    client.answer()
}

/// Clients of several weirs that ask until they are refused.
struct Crowd {
    clients: Vec<std::thread::JoinHandle<()>>,
    through: Arc<AtomicU64>,
    /// The longest that a refusal took, ms.
    longest: Arc<AtomicU64>,
}

impl Crowd {
    fn start(weirs: &[&Gateway], clients: usize) -> Self {
        let through = Arc::new(AtomicU64::new(0));
        let longest = Arc::new(AtomicU64::new(0));
        let clients = (0..clients).map(|number| {
            let address = weirs[number % weirs.len()].address();
            let (through, longest) = (Arc::clone(&through), Arc::clone(&longest));
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                loop {
                    let began = std::time::Instant::now();
                    let answer = ask(&mut client);
                    if answer.status() != 200 {
                        // 503 is what can't be learnt in time: another host has it, or Redis is away.
                        assert!([429, 503].contains(&answer.status()), "{}", answer.text());
                        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                        longest.fetch_max(took, Ordering::Relaxed);
                        return;
                    }
                    through.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Self {
            clients: clients.collect(),
            through,
            longest,
        }
    }

    fn reach(&self, count: u64) {
        eventually("requests", || {
            (self.through.load(Ordering::Relaxed) >= count).then_some(())
        });
    }

    fn end(self) -> (u64, u64) {
        for client in self.clients {
            client.join().expect("a client");
        }
        (
            self.through.load(Ordering::Relaxed),
            self.longest.load(Ordering::Relaxed),
        )
    }
}

/// Crowds that come again until so many got through: a client whose unit is just given back by another host
/// is refused, and finds it later. One more finds nothing.
#[track_caller]
fn spend_all(weirs: &[&Gateway], all: u64) {
    let mut through = 0;
    let due = std::time::Instant::now() + DEADLINE;
    while through < all {
        assert!(
            std::time::Instant::now() < due,
            "{through}: the rest is spent"
        );
        through += Crowd::start(weirs, 8).end().0;
    }
    assert_eq!(through, all);
    assert_eq!(Crowd::start(weirs, 8).end().0, 0, "nothing is left");
}

fn up(weirs: &[&Gateway]) {
    for weir in weirs {
        weir.wait_value("weir_shared_state_up", &[], 1.0);
    }
}

/// Both share, and have read what they weigh requests by: the first request waits for that.
fn ready(weirs: &[&Gateway]) {
    up(weirs);
    for weir in weirs {
        let mut client = weir.client();
        let headers = [("authorization", format!("Bearer {SECRET}"))];
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let body = br#"{"model":"without-a-price","messages":[{"role":"user","content":"a"}]}"#;
        client.request("POST", "/v1/chat/completions", &headers, body);
        assert_ne!(client.answer().status(), 200);
    }
}

#[test]
fn sixty_four_clients_of_two_weirs_spend_a_budget_exactly() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let model = Provider::json(TEN_TOKENS);
    let weirs = [(); 2].map(|()| weir(&model, &redis, "refuse", BUDGET_OF_1000));
    let weirs = weirs.each_ref();
    ready(&weirs);
    let before = redis.scripts();
    let (through, longest) = Crowd::start(&weirs, 64).end();
    let trips = redis.scripts() - before;
    println!("{through} through, {trips} round trips, longest refusal {longest} ms");
    spend_all(&weirs, 1000 - through);
    assert_eq!(model.requests().len(), 1000);
    // 1,000 took a second or two; a beat is told twice a second.
    assert!(trips < 500, "{trips} round trips");
    let answer = ask(&mut weirs[0].client());
    assert_eq!(answer.header("x-weir-error"), Some("budget_exceeded"));
    assert_eq!(answer.json()["error"]["code"], "insufficient_quota");
}

#[test]
fn two_weirs_whose_redis_is_killed_half_way_go_on_by_their_policy_and_are_reconciled() {
    for (on_down, most) in [("refuse", 1000), ("local", 1250)] {
        let Some(mut redis) = Redis::start(&[]) else {
            return;
        };
        let model = Provider::json(TEN_TOKENS);
        let weirs = [(); 2].map(|()| weir(&model, &redis, on_down, BUDGET_OF_1000));
        let weirs = weirs.each_ref();
        ready(&weirs);
        let crowd = Crowd::start(&weirs, 64);
        crowd.reach(500);
        redis.kill();
        let (mut through, longest) = crowd.end();
        println!("{on_down}: {through} through without it, longest refusal {longest} ms");
        assert!((500..=most).contains(&through), "{through}");
        redis.start_again();
        up(&weirs);
        // A server that has forgotten waits for hosts to come back.
        let due = std::time::Instant::now() + DEADLINE;
        while through < 1000 {
            assert!(
                std::time::Instant::now() < due,
                "{through}: the rest is spent"
            );
            through += Crowd::start(&weirs, 8).end().0;
        }
        println!("{on_down}: {through} through in all");
        assert!(through <= most);
        assert_eq!(Crowd::start(&weirs, 8).end().0, 0, "nothing is left");
    }
}

#[test]
fn a_budget_that_isnt_spent_is_never_called_so_while_redis_is_away() {
    let Some(mut redis) = Redis::start(&[]) else {
        return;
    };
    let model = Provider::json(TEN_TOKENS);
    let month = "budget: {usd: 1, per: month}";
    let weir = weir(&model, &redis, "refuse", month);
    ready(&[&weir]);
    let mut client = weir.client();
    assert_eq!(ask(&mut client).status(), 200);
    redis.kill();
    weir.wait_value("weir_shared_state_up", &[], 0.0);
    let refused = eventually("the end of the lease", || {
        Some(ask(&mut client)).filter(|answer| answer.status() != 200)
    });
    refused.assert_refused(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    redis.start_again();
    eventually("an answer to who waits", || {
        (ask(&mut client).status() == 200).then_some(())
    });
}

#[test]
fn a_frozen_redis_keeps_no_client_of_weir_waiting() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let model = Provider::json(TEN_TOKENS);
    let weirs = [(); 2].map(|()| weir(&model, &redis, "refuse", BUDGET_OF_1000));
    let weirs = weirs.each_ref();
    ready(&weirs);
    let crowd = Crowd::start(&weirs, 64);
    crowd.reach(200);
    redis.freeze();
    let (through, longest) = crowd.end();
    println!("{through} through, longest refusal {longest} ms while Redis was frozen");
    assert!(through < 1000, "{through}");
    weirs[0].wait_log("allowances can't be shared");
    redis.thaw();
    up(&weirs);
}

#[test]
fn a_rate_and_what_is_in_flight_hold_for_two_weirs_together() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let model = Provider::json(TEN_TOKENS);
    let limits = "limits: {requests_per_minute: 1, requests_burst: 40}";
    let weirs = [(); 2].map(|()| weir(&model, &redis, "refuse", limits));
    let weirs = weirs.each_ref();
    up(&weirs);
    assert_eq!(Crowd::start(&weirs, 8).end().0, 40);
    let refused = ask(&mut weirs[1].client());
    refused.assert_refused(429, "rate_limited");
    let wait: u64 = refused
        .header("retry-after")
        .expect("Retry-After")
        .parse()
        .expect("seconds");
    assert!((30..=61).contains(&wait), "{wait}");

    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let gate = Gate::new();
    let waiting = Provider::start({
        let gate = gate.clone();
        move |exchange| {
            exchange.wait(&gate);
            exchange.json(200, TEN_TOKENS);
        }
    });
    let weirs = [(); 2].map(|()| weir(&waiting, &redis, "refuse", "limits: {in_flight: 2}"));
    let weirs = weirs.each_ref();
    up(&weirs);
    let mut clients = weirs.map(Gateway::client);
    for client in &mut clients {
        let headers = [("authorization", format!("Bearer {SECRET}"))];
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        client.request(
            "POST",
            "/v1/chat/completions",
            &headers,
            br#"{"model":"m"}"#,
        );
    }
    waiting.wait_requests(2);
    for weir in weirs {
        assert_eq!(ask(&mut weir.client()).status(), 429);
    }
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
    eventually("a place", || {
        let free = |weir: &&Gateway| ask(&mut weir.client()).status() == 200;
        weirs.iter().all(free).then_some(())
    });
}

#[test]
fn a_key_that_is_made_or_revoked_on_one_host_is_so_on_all_also_when_redis_was_away() {
    let Some(mut redis) = Redis::start(&[]) else {
        return;
    };
    let model = Provider::json(TEN_TOKENS);
    let no_limits = "limits: {requests_per_minute: 0}";
    let weirs = [(); 2].map(|()| weir(&model, &redis, "local", no_limits));
    let [one, two] = &weirs;
    up(&[one, two]);
    let new = |weir: &Gateway, name: &str| {
        made(&directly(
            weir,
            &["new", "--team", "search", "--name", name],
        ))
    };
    let revoke = |weir: &Gateway, name: &str| {
        let name = format!("search/{name}");
        assert!(directly(weir, &["revoke", &name]).status.success());
    };
    let comes = |weir: &Gateway, secret: &str, expected: u16| {
        let began = std::time::Instant::now();
        while status(weir, secret) != expected {
            assert!(began.elapsed() < DEADLINE, "a key is known, or no more");
            // Who fails too often is turned away for that.
            std::thread::sleep(Duration::from_millis(50));
        }
        began.elapsed()
    };
    let first = new(one, "first");
    println!(
        "made: works on the other host after {:?}",
        comes(two, &first, 200)
    );
    revoke(two, "first");
    println!(
        "revoked: stops on the other host after {:?}",
        comes(one, &first, 401)
    );
    let (kept, lost) = (new(one, "kept"), new(two, "lost"));
    comes(two, &kept, 200);
    comes(one, &lost, 200);

    redis.kill();
    two.wait_log("allowances can't be shared");
    let meanwhile = new(two, "meanwhile");
    revoke(one, "lost");
    comes(one, &lost, 401);
    assert_eq!(status(two, &lost), 200, "nobody has told it");
    // It has forgotten all that it knew.
    redis.start_again();
    comes(one, &meanwhile, 200);
    comes(two, &lost, 401);
    for weir in [one, two] {
        assert_eq!((status(weir, &kept), status(weir, &first)), (200, 401));
    }
    // A host that comes anew.
    let three = self::weir(&model, &redis, "local", no_limits);
    comes(&three, &kept, 200);
    comes(&three, &meanwhile, 200);
    assert_eq!((status(&three, &lost), status(&three, &first)), (401, 401));
    assert_eq!(status(one, &kept), 200);
}

#[test]
fn a_redis_behind_tls_and_a_password_is_reached_by_name_and_a_wrong_password_is_told_without_it() {
    let Some(redis) = Redis::start(&["--requirepass", "s3cret"]) else {
        return;
    };
    let authority = Authority::new();
    let front = authority.front("DNS:localhost", &[], redis.address());
    let model = Provider::json(TEN_TOKENS);
    let start = |password: &str| {
        let port = front.address().port();
        Launch::file(&format!(
            "model_routes: {{m: \"{}\"}}\n\
             teams: [{{name: search, limits: {{in_flight: 2}}, keys: [{{name: ci, sha256: {}}}]}}]\n\
             shared_state: \"rediss://:{password}@localhost:{port}/1\"\n\
             state_dir: \"{{folder}}/state\"\n",
            model.url(),
            sha256(SECRET),
        ))
        .env("SSL_CERT_FILE", &authority.ca().display().to_string())
        .start()
    };
    let good = start("s3cret");
    up(&[&good]);
    assert_eq!(ask(&mut good.client()).status(), 200);
    let bad = start("wr0ng");
    let told = bad.wait_log("allowances can't be shared");
    assert!(told.contains("WRONGPASS"), "{told}");
    assert!(!bad.log().contains("wr0ng") && !good.log().contains("s3cret"));
    assert_eq!(ask(&mut bad.client()).status(), 429, "by its policy");
}

#[test]
fn a_budget_that_is_lowered_while_leases_are_out_is_spent_to_its_new_end() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let model = Provider::json(TEN_TOKENS);
    let weirs = [(); 2].map(|()| weir(&model, &redis, "refuse", BUDGET_OF_1000));
    let weirs = weirs.each_ref();
    ready(&weirs);
    for number in 0..200 {
        let answer = ask(&mut weirs[number % 2].client());
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    let lower = config(&model, &redis, "refuse", "budget: {usd: 0.5, per: total}");
    for weir in weirs {
        weir.reload(&lower);
    }
    spend_all(&weirs, 300);
    assert_eq!(model.requests().len(), 500);
}

#[test]
fn a_host_that_is_upgraded_stays_one_host_with_one_lease() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let model = Provider::json(TEN_TOKENS);
    let one = Launch::supervised(&config(&model, &redis, "refuse", BUDGET_OF_1000)).start();
    let two = weir(&model, &redis, "refuse", BUDGET_OF_1000);
    let weirs = [&one, &two];
    ready(&weirs);
    for number in 0..100 {
        let answer = ask(&mut weirs[number % 2].client());
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    assert!(one.upgrade().status.success());
    spend_all(&weirs, 900);
    let hosts = redis.ask("ZCARD {weir}:hosts");
    assert!(hosts.starts_with(":2\r\n"), "{hosts}");
}

/// A user of a server's, with a password, who may do what weir does and no more.
const USER: &str = "ACL SETUSER weir on >s3cret ~{weir}:* -@all +@scripting +@read +@write +time";

#[test]
fn a_user_who_may_do_what_the_readme_says_is_enough() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let readme = include_str!("../../README.md");
    let rights = USER.split_once("~").expect("rights").1;
    assert!(readme.contains(rights), "{rights}");
    assert!(redis.ask(USER).starts_with("+OK"));
    let model = Provider::json(TEN_TOKENS);
    let weirs = [(); 2].map(|()| {
        Gateway::start(&format!(
            "model_routes: {{m: \"{}\"}}\n\
             teams: [{{name: search, limits: {{in_flight: 2}}, keys: [{{name: ci, sha256: {}}}]}}]\n\
             shared_state: \"redis://weir:s3cret@{}\"\n\
             state_dir: \"{{folder}}/state\"\n",
            model.url(),
            sha256(SECRET),
            redis.address(),
        ))
    });
    let [one, two] = &weirs;
    up(&[one, two]);
    assert_eq!(ask(&mut one.client()).status(), 200);
    let made = made(&directly(one, &["new", "--team", "search", "--name", "a"]));
    eventually("a key of the other host", || {
        (status(two, &made) == 200).then_some(())
    });
    let told = limits(two);
    assert_eq!(told["teams"][0]["in_flight"]["limit"], 2);
    assert!(!one.log().contains("can't be shared"), "{}", one.log());
}

// === keys ===

#[test]
fn where_keys_cant_be_shared_limits_are() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let model = Provider::json(TEN_TOKENS);
    // Somebody else's.
    redis.ask("HSET {weir}:changes a b");
    let weirs = [(); 2].map(|()| weir(&model, &redis, "refuse", BUDGET_OF_1000));
    let [one, two] = &weirs;
    for weir in [one, two] {
        let told = weir.wait_log("keys can't be shared");
        assert!(told.contains("WRONGTYPE"), "{told}");
    }
    ready(&[one, two]);
    let key = made(&directly(one, &["new", "--team", "search", "--name", "a"]));
    // And those of one host can't be written for as long as somebody else has them.
    let lock = std::fs::File::create(two.folder().join("state/keys.lock")).expect("the lock");
    lock.lock().expect("locked");
    redis.ask("DEL {weir}:changes");
    two.wait_log("another process has");
    spend_all(&[one, two], 1000);
    for weir in [one, two] {
        assert!(!weir.log().contains("allowances can't be shared"));
    }
    drop(lock);
    eventually("the key", || (status(two, &key) == 429).then_some(()));
}

#[test]
fn of_many_keys_only_what_is_new_travels() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let model = Provider::json(TEN_TOKENS);
    let no_limits = "limits: {requests_per_minute: 0}";
    let weirs = [(); 2].map(|()| weir(&model, &redis, "local", no_limits));
    let [one, two] = &weirs;
    up(&[one, two]);
    let secret = |number: usize| format!("weir-secret-{number}");
    let keys: Vec<String> = (0..2_000)
        .map(|number| {
            format!(
                r#"{{"team":"search","name":"k{number}","sha256":{},"created":"2026-11-01T00:00:00Z"}}"#,
                serde_json::json!(sha256(&secret(number)))
            )
        })
        .collect();
    let text = format!(r#"{{"version":1,"keys":[{}]}}"#, keys.join(","));
    let began = std::time::Instant::now();
    std::fs::write(one.folder().join("state/keys.json"), &text).expect("keys");
    eventually("the last key", || {
        (status(two, &secret(1_999)) == 200).then_some(())
    });
    println!(
        "2,000 keys, {} bytes, after {:?}",
        text.len(),
        began.elapsed()
    );
    let before = redis.bytes();
    let began = std::time::Instant::now();
    assert!(directly(two, &["revoke", "search/k7"]).status.success());
    eventually("a key that was revoked", || {
        (status(one, &secret(7)) == 401).then_some(())
    });
    let took = began.elapsed();
    let bytes = redis.bytes() - before;
    println!("one is revoked after {took:?}, {bytes} bytes");
    assert!(bytes < text.len() as u64 / 5, "{bytes} bytes for one key");
    assert_eq!(status(one, &secret(8)), 200);
}

// === what people see ===

/// As whoever is on the host may look.
fn limits(weir: &Gateway) -> serde_json::Value {
    let mut client = Client::connect(weir.admin());
    client.request("GET", "/api/limits", &[("host", "127.0.0.1")], b"");
    let answer = client.answer();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()
}

#[test]
fn limits_are_told_of_all_hosts_by_one_that_nobody_asked() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let gate = Gate::new();
    let model = Provider::start({
        let gate = gate.clone();
        move |exchange| {
            exchange.wait(&gate);
            exchange.json(200, TEN_TOKENS);
        }
    });
    let terms = "budget: {usd: 1, per: total}, limits: {in_flight: 8, requests_per_minute: 60}";
    let weirs = [(); 2].map(|()| weir(&model, &redis, "refuse", terms));
    let [one, two] = &weirs;
    up(&[one, two]);
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let address = one.address();
            // Who is first may find nothing granted yet.
            std::thread::spawn(move || {
                eventually("a request to get in", || {
                    (ask(&mut Client::connect(address)).status() == 200).then_some(())
                });
            })
        })
        .collect();
    model.wait_requests(3);
    let standing = |weir: &Gateway| limits(weir)["teams"][0].clone();
    let usd = |value: &serde_json::Value| value.as_f64().expect("US dollars");
    let here = eventually("what the host has told", || {
        let there = standing(two);
        (there["in_flight"]["elsewhere"] == 3).then(|| (standing(one), there))
    });
    let (here, there) = here;
    assert_eq!(
        (&here["in_flight"]["used"], &there["in_flight"]["used"]),
        (&3.into(), &3.into())
    );
    assert_eq!(
        (
            &here["in_flight"]["elsewhere"],
            &there["in_flight"]["remaining"]
        ),
        (&0.into(), &5.into())
    );
    assert_eq!(there["in_flight"]["share"], 0);
    gate.open();
    for client in clients {
        client.join().expect("a client");
    }
    // A thousandth of the budget each.
    eventually("what is spent", || {
        let there = &standing(two)["budgets"][0];
        let told = [
            &there["used_usd"],
            &there["elsewhere_usd"],
            &there["remaining_usd"],
        ]
        .map(usd);
        let near = |(is, expected): (&f64, f64)| (is - expected).abs() < 1e-9;
        (told.iter().zip([0.003, 0.003, 0.997]).all(near)).then_some(())
    });
    let here = standing(one);
    assert!(
        (usd(&here["budgets"][0]["used_usd"]) - 0.003).abs() < 1e-9,
        "{here}"
    );
    assert_eq!(usd(&here["budgets"][0]["elsewhere_usd"]), 0.0);
    assert!(usd(&here["budgets"][0]["share_usd"]) >= 0.0);
    eventually("a rate", || {
        let there = standing(two)["requests"].clone();
        let remaining = there["remaining"].as_u64().expect("a count");
        (remaining < 60 && there["share"] == 0 && there["elsewhere"] == 60 - remaining)
            .then_some(())
    });
    // Without the server, as it was heard last: nothing.
    redis.freeze();
    assert_eq!(standing(two)["in_flight"]["limit"], 8);
    redis.thaw();
}
