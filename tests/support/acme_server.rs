//! An ACME server (RFC 8555, ARI of RFC 9773) that a test can make misbehave: it checks signatures and
//! nonces, looks at hosts for itself on the ports it is told, and signs with its own authority.
//!
//! Every name leads to the loopback address here. One account, order or certificate is one entry in a
//! list; its number is in its URL.

use super::DEADLINE;
use super::gate::Board;
use super::tls::{Authority, TlsFront};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509CertificationRequest};

/// The server, on a port of its own.
pub struct AcmeServer {
    authority: Authority,
    front: TlsFront,
    shared: Arc<Shared>,
}

/// What it can do wrong. Each is done once, at its next occasion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misdeed {
    /// Says that a good nonce is a bad one.
    BadNonce,
    /// Refuses an order, for this many seconds.
    RateLimited(u64),
    /// Says it can't make sure of a name, without looking.
    Invalid,
    /// Is still at it when it is asked for a signature, this many times.
    Slow(usize),
    /// Sends the certificate of somebody else behind the right one.
    WrongChain,
    /// Signs for another name.
    WrongName,
    /// Answers a request with an error page, as a gateway in front of it does.
    ErrorPage,
}

struct Shared {
    board: Board<State>,
    /// Where it looks at hosts; it waits until it is told.
    targets: Board<Option<Targets>>,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    other_pem: String,
    base: OnceLock<String>,
}

#[derive(Clone, Copy, Default)]
struct Targets {
    http: Option<SocketAddr>,
    tls: Option<SocketAddr>,
}

struct State {
    nonces: HashSet<String>,
    misdeeds: Vec<Misdeed>,
    accounts: Vec<Account>,
    orders: Vec<Order>,
    names: Vec<Name>,
    /// `POST /order` and the like, in their order.
    requests: Vec<String>,
    offers: Vec<&'static str>,
    lifetime: Duration,
    /// The window for every certificate; `None`: it has no ARI.
    renewal: Option<(SystemTime, SystemTime)>,
}

struct Account {
    key: Value,
    status: &'static str,
    contact: Value,
}

struct Order {
    domains: Vec<String>,
    /// In the list of names.
    names: Vec<usize>,
    replaces: Option<String>,
    /// Asked for so often before it is done.
    slow: usize,
    chain: Option<String>,
}

struct Name {
    domain: String,
    token: String,
    /// The kind that is tried, and what was found.
    tried: Option<(&'static str, Result<(), String>)>,
    status: &'static str,
}

struct Request {
    method: String,
    path: String,
    host: String,
    body: Vec<u8>,
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    kind: &'static str,
}

impl Default for State {
    fn default() -> Self {
        Self {
            nonces: HashSet::new(),
            misdeeds: Vec::new(),
            accounts: Vec::new(),
            orders: Vec::new(),
            names: Vec::new(),
            requests: Vec::new(),
            offers: vec!["http-01", "tls-alpn-01"],
            lifetime: Duration::from_secs(90 * 24 * 3600),
            renewal: None,
        }
    }
}

// === impl AcmeServer ===

impl AcmeServer {
    /// Starts it. It offers http-01 and tls-alpn-01, signs for 90 days and has no ARI.
    pub fn start() -> Self {
        let (pem, issuer) = signer("signer");
        let shared = Arc::new(Shared {
            board: Board::default(),
            targets: Board::default(),
            issuer,
            pem,
            other_pem: signer("signer").0,
            base: OnceLock::new(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let of = Arc::clone(&shared);
        // Ends with the tests' process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&of);
                std::thread::spawn(move || serve(client, &shared));
            }
        });
        let authority = Authority::new();
        let front = authority.front("IP:127.0.0.1", &["http/1.1"], address);
        let base = format!("https://{}", front.address());
        shared.base.set(base).expect("once");
        Self {
            authority,
            front,
            shared,
        }
    }

    /// `acme.directory`.
    pub fn directory(&self) -> String {
        format!("https://{}/directory", self.front.address())
    }

    /// `acme.ca`.
    pub fn ca(&self) -> PathBuf {
        self.authority.ca()
    }

    /// The authority that it signs certificates with, in PEM.
    pub fn root(&self) -> &str {
        &self.shared.pem
    }

    /// Where it looks instead of ports 80 and 443 of a name. Until this is said it waits.
    pub fn look_at(&self, http: Option<SocketAddr>, tls: Option<SocketAddr>) {
        let targets = Targets { http, tls };
        self.shared.targets.change(|it| *it = Some(targets));
    }

    /// Does this wrong at the next occasion, and then no more.
    pub fn misbehave(&self, misdeed: Misdeed) {
        self.shared.board.change(|it| it.misdeeds.push(misdeed));
    }

    /// Offers only these kinds of challenges from now on.
    pub fn offer(&self, kinds: &[&'static str]) {
        self.shared.board.change(|it| it.offers = kinds.to_vec());
    }

    /// Signs for this long from now on.
    pub fn sign_for(&self, lifetime: Duration) {
        self.shared.board.change(|it| it.lifetime = lifetime);
    }

    /// Has ARI from now on, with this window for every certificate.
    pub fn suggest(&self, start: SystemTime, end: SystemTime) {
        self.shared
            .board
            .change(|it| it.renewal = Some((start, end)));
    }

    /// Forgets or deactivates all accounts.
    pub fn end_accounts(&self, forget: bool) {
        self.shared.board.change(|state| {
            for account in &mut state.accounts {
                account.status = if forget { "unknown" } else { "deactivated" };
            }
        });
    }

    /// How many accounts were registered.
    pub fn accounts(&self) -> usize {
        self.shared.board.lock().accounts.len()
    }

    /// The contacts of the last account.
    pub fn contact(&self) -> Value {
        let state = self.shared.board.lock();
        state.accounts.last().expect("an account").contact.clone()
    }

    /// The domains of every order, and what it says it replaces.
    pub fn orders(&self) -> Vec<(Vec<String>, Option<String>)> {
        let state = self.shared.board.lock();
        let of = |order: &Order| (order.domains.clone(), order.replaces.clone());
        state.orders.iter().map(of).collect()
    }

    /// The kinds of challenges that were tried, in their order.
    pub fn tried(&self) -> Vec<&'static str> {
        let state = self.shared.board.lock();
        let kind = |name: &Name| name.tried.as_ref().map(|(kind, _)| *kind);
        state.names.iter().filter_map(kind).collect()
    }

    /// Requests so far, each `METHOD /path`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.board.lock().requests.clone()
    }

    /// Waits until a request was made with this beginning.
    #[track_caller]
    pub fn wait_request(&self, start: &str) {
        self.shared.board.wait(start, |state| {
            let made = state.requests.iter().any(|it| it.starts_with(start));
            made.then_some(())
        });
    }

    /// Misdeeds that it had no occasion for yet.
    pub fn misdeeds_left(&self) -> usize {
        self.shared.board.lock().misdeeds.len()
    }
}

fn signer(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("signed").pem();
    (pem, Issuer::new(params, key))
}

// === HTTP ===

fn serve(mut client: TcpStream, shared: &Shared) {
    let _ = client.set_read_timeout(Some(DEADLINE));
    let Some(request) = read_request(&mut client) else {
        return;
    };
    let mut reply = shared.answer(&request);
    let nonce = uuid::Uuid::now_v7().simple().to_string();
    shared.board.change(|it| it.nonces.insert(nonce.clone()));
    reply.headers.push(("Replay-Nonce", nonce));
    let mut head = format!(
        "HTTP/1.1 {} -\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n",
        reply.status,
        reply.kind,
        reply.body.len()
    );
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let _ = client.write_all(head.as_bytes());
    if request.method != "HEAD" {
        let _ = client.write_all(&reply.body);
    }
}

fn read_request(client: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Request::new(&mut headers);
        if let httparse::Status::Complete(length) = head.parse(&bytes).ok()? {
            let header = |name: &str| {
                let found = head
                    .headers
                    .iter()
                    .find(|it| it.name.eq_ignore_ascii_case(name));
                found.map(|it| String::from_utf8_lossy(it.value).into_owned())
            };
            let body = header("content-length").map_or(Some(0), |it| it.parse().ok())?;
            if bytes.len() >= length + body {
                return Some(Request {
                    method: head.method?.to_owned(),
                    path: head.path?.to_owned(),
                    host: header("host")?,
                    body: bytes[length..length + body].to_vec(),
                });
            }
        }
        match client.read(&mut piece).ok()? {
            0 => return None,
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

impl Reply {
    fn json(status: u16, value: &Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: value.to_string().into_bytes(),
            kind: "application/json",
        }
    }

    fn problem(status: u16, kind: &str, detail: &str) -> Self {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        Self {
            kind: "application/problem+json",
            ..Self::json(status, &json!({"type": kind, "detail": detail}))
        }
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

// === impl Shared ===

/// Who signed a request, and what it says.
struct Signed {
    account: Option<usize>,
    key: Value,
    payload: Value,
}

impl Shared {
    fn base(&self) -> &str {
        self.base
            .get()
            .expect("set before anybody knows the address")
    }

    fn misdeed<T>(&self, which: impl Fn(&Misdeed) -> Option<T>) -> Option<T> {
        self.board.change(|state| {
            let (at, found) = state
                .misdeeds
                .iter()
                .enumerate()
                .find_map(|(at, it)| Some((at, which(it)?)))?;
            state.misdeeds.remove(at);
            Some(found)
        })
    }

    fn does(&self, misdeed: &Misdeed) -> bool {
        self.misdeed(|it| (it == misdeed).then_some(())).is_some()
    }

    fn answer(&self, request: &Request) -> Reply {
        let line = format!("{} {}", request.method, request.path);
        self.board.change(|it| it.requests.push(line));
        assert_eq!(format!("https://{}", request.host), self.base(), "Host");
        if self.does(&Misdeed::ErrorPage) {
            return Reply {
                status: 503,
                headers: vec![("Retry-After", "7200".to_owned())],
                body: b"<html>sorry</html>".to_vec(),
                kind: "text/html",
            };
        }
        let parts: Vec<_> = request.path.trim_start_matches('/').split('/').collect();
        match (&*request.method, &*parts) {
            ("GET", ["directory"]) => self.directory(),
            ("HEAD", ["nonce"]) => Reply::json(200, &Value::Null),
            ("GET", ["renewal", id]) => self.renewal(id),
            ("POST", path) => match self.verify(request, path) {
                Ok(signed) => self.post(path, &signed),
                Err(reply) => reply,
            },
            _ => Reply::problem(404, "malformed", "no such thing"),
        }
    }

    fn directory(&self) -> Reply {
        let base = self.base();
        let mut directory = json!({
            "newNonce": format!("{base}/nonce"),
            "newAccount": format!("{base}/account"),
            "newOrder": format!("{base}/order"),
            "revokeCert": format!("{base}/revoke"),
            "keyChange": format!("{base}/key"),
        });
        if self.board.lock().renewal.is_some() {
            directory["renewalInfo"] = json!(format!("{base}/renewal"));
        }
        Reply::json(200, &directory)
    }

    fn renewal(&self, id: &str) -> Reply {
        assert_eq!(
            id.split('.').count(),
            2,
            "{id} is no certificate's identifier"
        );
        let Some((start, end)) = self.board.lock().renewal else {
            return Reply::problem(404, "malformed", "no ARI here");
        };
        let text = |at: SystemTime| chrono::DateTime::<chrono::Utc>::from(at).to_rfc3339();
        let window = json!({"start": text(start), "end": text(end)});
        Reply::json(200, &json!({"suggestedWindow": window})).with("Retry-After", 21600)
    }

    /// RFC 8555 section 6: signature, nonce, URL, key.
    fn verify(&self, request: &Request, path: &[&str]) -> Result<Signed, Reply> {
        let malformed = |what: &str| Reply::problem(400, "malformed", what);
        let jws: Value = serde_json::from_slice(&request.body).map_err(|_| malformed("no JSON"))?;
        let field = |name: &str| jws[name].as_str().unwrap_or_default();
        let decode = |text: &str| BASE64.decode(text).map_err(|_| malformed("no base64url"));
        let head: Value = serde_json::from_slice(&decode(field("protected"))?)
            .map_err(|_| malformed("no head"))?;
        if head["alg"] != "ES256" {
            return Err(Reply::problem(
                400,
                "badSignatureAlgorithm",
                "only ES256 here",
            ));
        }
        let nonce = head["nonce"].as_str().unwrap_or_default();
        let known = self.board.change(|state| state.nonces.remove(nonce));
        if !known || self.does(&Misdeed::BadNonce) {
            return Err(Reply::problem(400, "badNonce", "a nonce that nobody knows"));
        }
        if head["url"] != format!("{}{}", self.base(), request.path) {
            return Err(malformed("for another URL"));
        }
        let (account, key) = match head["kid"].as_str() {
            Some(url) => {
                let number = url
                    .rsplit('/')
                    .next()
                    .and_then(|it| it.parse::<usize>().ok());
                let state = self.board.lock();
                let found = number.and_then(|number| Some((number, state.accounts.get(number)?)));
                match found {
                    Some((number, account)) if account.status == "valid" => {
                        (Some(number), account.key.clone())
                    }
                    Some((_, account)) if account.status == "deactivated" => {
                        let detail = "Account is not valid, has status \"deactivated\"";
                        return Err(Reply::problem(403, "unauthorized", detail));
                    }
                    _ => {
                        let detail = "nobody knows this account";
                        return Err(Reply::problem(400, "accountDoesNotExist", detail));
                    }
                }
            }
            None if path == ["account"] => (None, head["jwk"].clone()),
            None => return Err(malformed("signed by nobody")),
        };
        let mut point = vec![4];
        for coordinate in ["x", "y"] {
            point.extend(decode(key[coordinate].as_str().unwrap_or_default())?);
        }
        let text = format!("{}.{}", field("protected"), field("payload"));
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(text.as_bytes(), &decode(field("signature"))?)
            .map_err(|_| malformed("the signature is not by this key"))?;
        let payload = decode(field("payload"))?;
        let payload = match &*payload {
            b"" => Value::Null,
            text => serde_json::from_slice(text).map_err(|_| malformed("no JSON"))?,
        };
        Ok(Signed {
            account,
            key,
            payload,
        })
    }

    fn post(&self, path: &[&str], signed: &Signed) -> Reply {
        let number = |text: &str| text.parse::<usize>().unwrap_or(usize::MAX);
        match path {
            ["account"] => self.register(signed),
            ["account", _] => {
                let at = signed.account.expect("verified");
                self.board.change(|state| {
                    let account = &mut state.accounts[at];
                    account.contact = signed.payload["contact"].clone();
                });
                Reply::json(200, &json!({"status": "valid"}))
            }
            ["order"] => self.order(signed),
            ["order", at] => self.order_state(number(at), true),
            ["order", at, "finalize"] => self.finalize(number(at), &signed.payload),
            ["name", at] => self.name(number(at)),
            ["name", at, kind] => self.try_name(number(at), kind, signed),
            ["certificate", at] => self.certificate(number(at)),
            _ => Reply::problem(404, "malformed", "no such thing"),
        }
    }

    fn register(&self, signed: &Signed) -> Reply {
        assert_eq!(signed.payload["termsOfServiceAgreed"], true);
        let (status, at) = self.board.change(|state| {
            let known = state
                .accounts
                .iter()
                .position(|it| it.key == signed.key && it.status == "valid");
            let status = if known.is_some() { 200 } else { 201 };
            let at = known.unwrap_or_else(|| {
                state.accounts.push(Account {
                    key: signed.key.clone(),
                    status: "valid",
                    contact: signed.payload["contact"].clone(),
                });
                state.accounts.len() - 1
            });
            (status, at)
        });
        let location = format!("{}/account/{at}", self.base());
        Reply::json(status, &json!({"status": "valid"})).with("Location", location)
    }

    fn order(&self, signed: &Signed) -> Reply {
        let limited = self.misdeed(|it| match it {
            Misdeed::RateLimited(seconds) => Some(*seconds),
            _ => None,
        });
        if let Some(seconds) = limited {
            let detail = "too many certificates already issued";
            return Reply::problem(429, "rateLimited", detail).with("Retry-After", seconds);
        }
        let slow = self.misdeed(|it| match it {
            Misdeed::Slow(times) => Some(*times),
            _ => None,
        });
        let domains: Vec<_> = signed.payload["identifiers"]
            .as_array()
            .expect("identifiers")
            .iter()
            .map(|it| it["value"].as_str().expect("a name").to_owned())
            .collect();
        let at = self.board.change(|state| {
            let names = domains.iter().map(|domain| {
                state.names.push(Name {
                    domain: domain.clone(),
                    token: uuid::Uuid::now_v7().simple().to_string(),
                    tried: None,
                    status: "pending",
                });
                state.names.len() - 1
            });
            let names = names.collect();
            state.orders.push(Order {
                domains,
                names,
                replaces: signed.payload["replaces"].as_str().map(str::to_owned),
                slow: slow.unwrap_or(0),
                chain: None,
            });
            state.orders.len() - 1
        });
        let mut reply = self.order_state(at, false);
        reply.status = 201;
        reply.with("Location", format!("{}/order/{at}", self.base()))
    }

    fn order_state(&self, at: usize, asked: bool) -> Reply {
        let base = self.base();
        let state = &mut *self.board.lock();
        let Some(order) = state.orders.get_mut(at) else {
            return Reply::problem(404, "malformed", "no such order");
        };
        let names: Vec<_> = order
            .names
            .iter()
            .map(|it| state.names[*it].status)
            .collect();
        let status = if names.contains(&"invalid") {
            "invalid"
        } else if names.contains(&"pending") {
            "pending"
        } else if order.chain.is_none() {
            "ready"
        } else if order.slow > 0 {
            order.slow -= usize::from(asked);
            "processing"
        } else {
            "valid"
        };
        let names = order.names.iter().map(|it| format!("{base}/name/{it}"));
        let mut body = json!({
            "status": status,
            "identifiers": order.domains.iter()
                .map(|it| json!({"type": "dns", "value": it})).collect::<Vec<_>>(),
            "authorizations": names.collect::<Vec<_>>(),
            "finalize": format!("{base}/order/{at}/finalize"),
        });
        if let Some(replaces) = &order.replaces {
            body["replaces"] = json!(replaces);
        }
        if status == "valid" {
            body["certificate"] = json!(format!("{base}/certificate/{at}"));
        }
        Reply::json(200, &body)
    }

    fn name(&self, at: usize) -> Reply {
        let base = self.base();
        let state = self.board.lock();
        let Some(name) = state.names.get(at) else {
            return Reply::problem(404, "malformed", "no such authorization");
        };
        let challenges: Vec<_> = state
            .offers
            .iter()
            .map(|kind| {
                let mut challenge = json!({
                    "type": kind, "token": name.token, "status": "pending",
                    "url": format!("{base}/name/{at}/{kind}"),
                });
                match &name.tried {
                    Some((tried, Ok(()))) if tried == kind => challenge["status"] = json!("valid"),
                    Some((tried, Err(why))) if tried == kind => {
                        challenge["status"] = json!("invalid");
                        let kind = "urn:ietf:params:acme:error:incorrectResponse";
                        challenge["error"] = json!({"type": kind, "detail": why});
                    }
                    _ => {}
                }
                challenge
            })
            .collect();
        let identifier = json!({"type": "dns", "value": name.domain});
        let body =
            json!({"identifier": identifier, "status": name.status, "challenges": challenges});
        Reply::json(200, &body)
    }

    /// Looks at the host before it answers; real ones do that later.
    fn try_name(&self, at: usize, kind: &str, signed: &Signed) -> Reply {
        let (domain, token, kind) = {
            let state = self.board.lock();
            let name = &state.names[at];
            let kind = state.offers.iter().find(|it| **it == kind);
            let kind = *kind.expect("a kind that is offered");
            (name.domain.clone(), name.token.clone(), kind)
        };
        let thumbprint = json!({
            "crv": "P-256", "kty": "EC", "x": signed.key["x"], "y": signed.key["y"],
        });
        // The members of a thumbprint are in alphabetical order (RFC 7638), as they are in this JSON.
        let thumbprint = digest(&SHA256, thumbprint.to_string().as_bytes());
        let proof = format!("{token}.{}", BASE64.encode(thumbprint));
        let found = if self.does(&Misdeed::Invalid) {
            Err("it doesn't look right".to_owned())
        } else {
            let targets = self.targets.wait("the ports to look at", |it| *it);
            match kind {
                "http-01" => look_by_http(targets.http, &domain, &token, &proof),
                _ => look_by_tls(targets.tls, &domain, &proof),
            }
        };
        self.board.change(|state| {
            let name = &mut state.names[at];
            name.status = if found.is_ok() { "valid" } else { "invalid" };
            name.tried = Some((kind, found));
        });
        let url = format!("{}/name/{at}/{kind}", self.base());
        let body = json!({"type": kind, "token": token, "status": "processing", "url": url});
        Reply::json(200, &body)
    }

    fn finalize(&self, at: usize, payload: &Value) -> Reply {
        let refuse = |why: &str| Reply::problem(400, "badCSR", why);
        let text = payload["csr"].as_str().unwrap_or_default();
        let Ok(der) = BASE64.decode(text) else {
            return refuse("no base64url");
        };
        let (domains, lifetime) = {
            let state = self.board.lock();
            let order = &state.orders[at];
            let ready = order
                .names
                .iter()
                .all(|it| state.names[*it].status == "valid");
            if !ready {
                return Reply::problem(403, "orderNotReady", "not all names are proved");
            }
            (order.domains.clone(), state.lifetime)
        };
        let key = match requested(&der, &domains) {
            Ok(key) => key,
            Err(why) => return refuse(&why),
        };
        let names = if self.does(&Misdeed::WrongName) {
            vec!["other.test".to_owned()]
        } else {
            domains
        };
        let leaf = sign(&self.issuer, names, &key, lifetime);
        let above = if self.does(&Misdeed::WrongChain) {
            &self.other_pem
        } else {
            &self.pem
        };
        let chain = format!("{leaf}{above}");
        self.board
            .change(|state| state.orders[at].chain = Some(chain));
        self.order_state(at, false)
    }

    fn certificate(&self, at: usize) -> Reply {
        let state = self.board.lock();
        let chain = state.orders.get(at).and_then(|order| order.chain.clone());
        Reply {
            status: 200,
            headers: Vec::new(),
            body: chain.expect("signed before").into_bytes(),
            kind: "application/pem-certificate-chain",
        }
    }
}

// === certificates ===

/// A P-256 key that a request asks to be signed.
struct Key(Vec<u8>);

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// The key of a signing request that is for these names and signed by the key.
fn requested(der: &[u8], domains: &[String]) -> Result<Key, String> {
    let (_, request) =
        X509CertificationRequest::from_der(der).map_err(|_| "no signing request".to_owned())?;
    let info = &request.certification_request_info;
    let key = info.subject_pki.subject_public_key.data.to_vec();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key)
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| "not signed by its key".to_owned())?;
    let mut names: Vec<_> = request
        .requested_extensions()
        .into_iter()
        .flatten()
        .flat_map(|extension| match extension {
            x509_parser::extensions::ParsedExtension::SubjectAlternativeName(names) => {
                dns_names(&names.general_names)
            }
            _ => Vec::new(),
        })
        .collect();
    let mut domains = domains.to_vec();
    names.sort();
    domains.sort();
    if names != domains {
        return Err(format!("for {names:?} instead of {domains:?}"));
    }
    Ok(Key(key))
}

fn dns_names(names: &[GeneralName<'_>]) -> Vec<String> {
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        other => panic!("{other:?} was never asked for"),
    };
    names.iter().map(name).collect()
}

fn sign(
    issuer: &Issuer<'static, KeyPair>,
    names: Vec<String>,
    key: &Key,
    lifetime: Duration,
) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = rcgen::date_time_ymd(1970, 1, 1) + now.expect("after 1970");
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    // As public ones do, for clocks that are late.
    params.not_before = now - Duration::from_secs(60);
    params.not_after = now + lifetime;
    params.use_authority_key_identifier_extension = true;
    params.signed_by(key, issuer).expect("signed").pem()
}

// === looking at hosts ===

fn connect(target: Option<SocketAddr>) -> Result<TcpStream, String> {
    let target = target.ok_or("nothing listens there")?;
    let stream = TcpStream::connect_timeout(&target, DEADLINE).map_err(|it| it.to_string())?;
    let _ = stream.set_read_timeout(Some(DEADLINE));
    Ok(stream)
}

fn look_by_http(
    target: Option<SocketAddr>,
    domain: &str,
    token: &str,
    proof: &str,
) -> Result<(), String> {
    let mut stream = connect(target)?;
    let path = format!("/.well-known/acme-challenge/{token}");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {domain}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .map_err(|it| it.to_string())?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .map_err(|it| it.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let fine = head.starts_with("HTTP/1.1 200") && body.contains(proof);
    fine.then_some(())
        .ok_or_else(|| format!("found {head} {body}"))
}

/// RFC 8737 section 3.
fn look_by_tls(target: Option<SocketAddr>, domain: &str, proof: &str) -> Result<(), String> {
    let mut stream = connect(target)?;
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let seen = Arc::new(Seen::default());
    let mut config = ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&seen) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let name = ServerName::try_from(domain.to_owned()).map_err(|it| it.to_string())?;
    let mut tls = ClientConnection::new(Arc::new(config), name).map_err(|it| it.to_string())?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).map_err(|it| it.to_string())?;
    }
    if tls.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("it doesn't speak acme-tls/1".to_owned());
    }
    let seen = seen.0.lock().expect("nobody panics with it").clone();
    let (_, leaf) = X509Certificate::from_der(&seen).map_err(|_| "no certificate".to_owned())?;
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.map_or_else(Vec::new, |it| dns_names(&it.value.general_names));
    if names != [domain] {
        return Err(format!("its certificate is for {names:?}"));
    }
    let extension = leaf
        .extensions()
        .iter()
        .find(|it| it.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
        .ok_or("its certificate has no proof in it")?;
    let expected = digest(&SHA256, proof.as_bytes());
    let fine =
        extension.critical && extension.value.strip_prefix(&[4, 32]) == Some(expected.as_ref());
    fine.then_some(())
        .ok_or_else(|| "another proof is in it".to_owned())
}

/// The certificate that a server shows; the signature of its handshake is still checked.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<u8>>);

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().expect("nobody panics with it") = leaf.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        // The proof's extension is critical and unknown to webpki, which therefore refuses to read the
        // certificate: its key is taken out by hand.
        let (_, leaf) = X509Certificate::from_der(leaf)
            .map_err(|_| rustls::Error::General("no certificate".to_owned()))?;
        let key = &leaf.public_key().subject_public_key.data;
        let fine = known.mapping.iter().any(|(scheme, algorithms)| {
            *scheme == signature.scheme
                && algorithms.iter().any(|it| {
                    it.verify_signature(key, message, signature.signature())
                        .is_ok()
                })
        });
        fine.then(HandshakeSignatureValid::assertion)
            .ok_or(rustls::Error::General("a bad signature".to_owned()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
