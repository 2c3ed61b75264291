//! Keeps certificates fresh: looks at what is on disk, asks the server when it would have them
//! renewed, orders, checks, writes, and says so. Whatever fails, the old certificate stays, and the
//! server is left alone for a while. Started once by `app`, in the generation that serves.

use super::account;
use super::aside::{self, Aside};
use super::certificate::Pair;
use super::challenge::Kind;
use super::client::Client;
use super::due::{Backoff, Need, Window};
use super::error::Error;
use super::order::Request;
use super::pause::Pause;
use super::store::{self, Store};
use crate::listen::tls::settings::Acme;
use crate::listen::tls::{Challenges, acme_certificate};
use instant_acme::{Account, CertificateIdentifier};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How often it looks at what is on disk.
const LOOK: Duration = Duration::from_secs(3600);

/// The longest sleep: clocks can be set.
const SLEEP_MAX: Duration = Duration::from_secs(600);

/// How often it asks for a lock that another process has.
const LOCK: Duration = Duration::from_secs(5);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How soon it asks again when to renew, where the server doesn't say or can't (RFC 9773 section 4.3).
const ASK: Duration = Duration::from_secs(6 * 3600);

/// What time it is.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What has happened to the certificate for these domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new one is on disk.
    Issued {
        /// As configured.
        domains: Vec<String>,
        /// The private key and the chain.
        path: PathBuf,
        /// It is valid until then.
        not_after: SystemTime,
    },
    /// There is no new one.
    Failed {
        /// As configured.
        domains: Vec<String>,
        /// Why.
        error: Error,
        /// When the next attempt begins.
        again_in: Duration,
    },
}

/// The certificates that weir gets for itself.
pub struct Renewal {
    /// One certificate each. The same may be there twice; different ones begin with different domains.
    pub wanted: Vec<Acme>,
    /// `state_dir`.
    pub state_dir: PathBuf,
    /// What the listeners can show, the best first.
    pub offers: Vec<Kind>,
    /// Where the listeners look.
    pub challenges: Challenges,
    /// What time it is.
    pub clock: Clock,
    /// Told what has happened, and the one to log it; must not block.
    pub told: Arc<dyn Fn(Event) + Send + Sync>,
}

/// One certificate.
struct Entry {
    wanted: Acme,
    backoff: Backoff,
    /// How often its names could not be proved.
    unproved: usize,
    /// Nothing is done before.
    next: SystemTime,
    suggestion: Suggestion,
}

/// When the server would have a certificate renewed.
#[derive(Default)]
struct Suggestion {
    window: Option<Window>,
    /// Chosen once in a window.
    moment: Option<SystemTime>,
    /// Not asked again before; `None` for never asked.
    ask_again: Option<SystemTime>,
    /// It has answered, so it wants to hear what a new one replaces.
    answered: bool,
}

impl Renewal {
    /// Goes on until it is dropped, which it may be at any time: what is on disk is whole, what is
    /// shown to servers is taken away, and the lock is free.
    pub async fn run(self) -> Infallible {
        let aside = self.locked().await;
        let mut entries: Vec<_> = distinct(&self.wanted).into_iter().map(Entry::new).collect();
        for entry in &mut entries {
            let now = (self.clock)();
            if let Some(until) = Pause::left(&aside, &entry.wanted, &self.offers, now).await {
                entry.next = until;
            }
        }
        loop {
            for entry in &mut entries {
                if (self.clock)() >= entry.next {
                    self.attend(&aside, entry).await;
                }
            }
            let now = (self.clock)();
            let next = entries.iter().map(|entry| entry.next).min();
            let pause = next
                .and_then(|next| next.duration_since(now).ok())
                .unwrap_or(SLEEP_MAX);
            // A clock that is set back and forth must not make this spin.
            let pause = pause.clamp(Duration::from_secs(1), SLEEP_MAX);
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits until no other process talks to the servers.
    async fn locked(&self) -> Aside {
        let store = Store::new(&self.state_dir);
        let mut backoff = Backoff::default();
        let mut waited = false;
        loop {
            let of = store.clone();
            match aside::run(move || of.lock()).await {
                Ok(Some(lock)) => return Aside::new(store, lock),
                Ok(None) => {
                    if !std::mem::replace(&mut waited, true) {
                        tracing::info!(
                            "certificates are looked after by another process until it ends"
                        );
                    }
                    tokio::time::sleep(LOCK).await;
                }
                Err(error) => {
                    let again_in = backoff.after_failure(None, rand::random());
                    for wanted in &self.wanted {
                        self.tell_failure(wanted, error.clone(), again_in);
                    }
                    tokio::time::sleep(again_in).await;
                }
            }
        }
    }

    /// Looks after one certificate, once.
    async fn attend(&self, aside: &Aside, entry: &mut Entry) {
        let outcome = self.look(aside, entry).await;
        let now = (self.clock)();
        match outcome {
            Ok(later) => {
                entry.backoff.after_success();
                entry.unproved = 0;
                entry.next = later.min(now + LOOK.mul_f64(0.9 + 0.2 * rand::random::<f64>()));
            }
            Err(error) => {
                entry.unproved += usize::from(error.is_validation());
                let again_in = entry.backoff.after_failure(error.wait(), rand::random());
                entry.next = now + again_in;
                Pause::new(&entry.wanted, &self.offers, now, error.wait())
                    .keep(aside, &entry.wanted)
                    .await;
                self.tell_failure(&entry.wanted, error, again_in);
            }
        }
    }

    /// Gets a new one if that is needed. When to look again.
    async fn look(&self, aside: &Aside, entry: &mut Entry) -> Result<SystemTime, Error> {
        let domains = &entry.wanted.domains;
        let path = acme_certificate(&self.state_dir, &entry.wanted);
        let from = path.clone();
        let pem = aside.run(move || store::read(&from)).await?;
        let pair = pem.map(|pem| Pair::read(&pem));
        let mut peer = None;
        let need = match &pair {
            None => Need::Missing,
            Some(Err(why)) => {
                tracing::warn!(path = %path.display(), why, "a certificate can't be used");
                Need::Unusable
            }
            Some(Ok(pair)) => {
                let now = (self.clock)();
                let mut need = Need::of(&pair.held, domains, now, entry.suggestion.moment);
                let in_use = matches!(need, Need::Due | Need::Later(_));
                if let Some(id) = &pair.id
                    && in_use
                    && entry.suggestion.is_stale(now)
                {
                    peer = self
                        .ask(aside, &entry.wanted, id, &mut entry.suggestion)
                        .await;
                    need = Need::of(&pair.held, domains, now, entry.suggestion.moment);
                }
                need
            }
        };
        if let Need::Later(moment) = need {
            return Ok(moment);
        }
        tracing::info!(?domains, reason = %need, "getting a certificate");
        let (client, account) = match peer {
            Some(peer) => peer,
            None => self.peer(aside, &entry.wanted).await?,
        };
        let offers = turned(&self.offers, entry.unproved);
        let request = Request {
            account: &account,
            file: &aside.store().account(&entry.wanted.directory),
            client: &client,
            domains,
            offers: &offers,
            challenges: &self.challenges,
            replaces: match pair {
                Some(Ok(pair)) if entry.suggestion.answered => pair.id,
                _ => None,
            },
        };
        let pem = request.issue().await?;
        let pair = Pair::read(&pem).map_err(Error::Certificate)?;
        let now = (self.clock)();
        pair.check(domains, now)?;
        let to = path.clone();
        aside.run(move || store::replace(&to, &pem)).await?;
        Pause::forget(aside, &entry.wanted).await;
        (self.told)(Event::Issued {
            domains: domains.clone(),
            path,
            not_after: pair.held.not_after,
        });
        entry.suggestion = Suggestion::for_new(&pair, now);
        match Need::of(&pair.held, domains, now, None) {
            Need::Later(moment) => Ok(moment),
            // Not as fast as the server is able to sign.
            _ => Err(Error::Certificate(
                "it was kept, but its time is so short that it is due again already".to_owned(),
            )),
        }
    }

    /// Whom to talk to.
    async fn peer(&self, aside: &Aside, wanted: &Acme) -> Result<(Client, Account), Error> {
        let ca = wanted.ca.clone();
        let client = aside.run(move || Client::new(ca.as_deref())).await?;
        let account = account::open(aside, wanted, &client).await?;
        Ok((client, account))
    }

    /// Asks the server when to renew (RFC 9773). That it doesn't say is no failure.
    async fn ask(
        &self,
        aside: &Aside,
        wanted: &Acme,
        id: &CertificateIdentifier<'static>,
        suggestion: &mut Suggestion,
    ) -> Option<(Client, Account)> {
        let now = (self.clock)();
        suggestion.ask_again = Some(now + ASK);
        let peer = match self.peer(aside, wanted).await {
            Ok(peer) => peer,
            Err(error) => {
                tracing::info!(%error, "the ACME server can't be asked when to renew");
                return None;
            }
        };
        match peer.1.renewal_info(id).await {
            Ok((info, again_in)) => {
                let window = Window {
                    start: info.suggested_window.start.into(),
                    end: info.suggested_window.end.into(),
                };
                suggestion.answered = true;
                suggestion.take(window, rand::random());
                let again_in = again_in.clamp(Duration::from_secs(60), DAY);
                suggestion.ask_again = Some(now + again_in);
            }
            Err(instant_acme::Error::Unsupported(_)) => suggestion.ask_again = Some(now + DAY),
            Err(error) => tracing::info!(%error, "the ACME server doesn't say when to renew"),
        }
        Some(peer)
    }

    fn tell_failure(&self, wanted: &Acme, error: Error, again_in: Duration) {
        let domains = wanted.domains.clone();
        (self.told)(Event::Failed {
            domains,
            error,
            again_in,
        });
    }
}

/// One of each. Two that begin with the same domain would take each other's place on disk, and be
/// renewed without end.
fn distinct(wanted: &[Acme]) -> Vec<Acme> {
    let mut all: Vec<Acme> = Vec::new();
    for one in wanted {
        match all
            .iter()
            .find(|it| it.domains.first() == one.domains.first())
        {
            None => all.push(one.clone()),
            Some(known) if known == one => {}
            Some(known) => tracing::error!(
                first = ?known.domains,
                second = ?one.domains,
                "two ACME certificates begin with the same domain; the second is not got: make them \
                 alike, or begin it with another domain"
            ),
        }
    }
    all
}

/// What failed last time is not the first choice this time.
fn turned(offers: &[Kind], unproved: usize) -> Vec<Kind> {
    let mut offers = offers.to_vec();
    if !offers.is_empty() {
        let by = unproved % offers.len();
        offers.rotate_left(by);
    }
    offers
}

// === impl Entry ===

impl Entry {
    fn new(wanted: Acme) -> Self {
        Self {
            wanted,
            backoff: Backoff::default(),
            unproved: 0,
            next: SystemTime::UNIX_EPOCH,
            suggestion: Suggestion::default(),
        }
    }
}

// === impl Suggestion ===

impl Suggestion {
    /// A certificate that has just come isn't asked for: a server whose window is always now must not
    /// make us renew without end.
    fn for_new(pair: &Pair, now: SystemTime) -> Self {
        let lifetime = pair.held.not_after.duration_since(now).unwrap_or_default();
        Self {
            ask_again: Some(now + (lifetime / 4).min(DAY)),
            ..Self::default()
        }
    }

    fn is_stale(&self, now: SystemTime) -> bool {
        self.ask_again.is_none_or(|at| now >= at)
    }

    /// The chosen moment stays as long as the window does.
    fn take(&mut self, window: Window, chance: f64) {
        if self.window != Some(window) {
            self.window = Some(window);
            self.moment = window.moment(chance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same_place_on_disk() {
        let one = |domains: &[&str]| Acme {
            directory: "https://acme.test/directory".to_owned(),
            email: None,
            domains: domains.iter().map(|it| (*it).to_owned()).collect(),
            ca: None,
        };
        let (a, b) = (one(&["a.test", "b.test"]), one(&["b.test"]));
        let wanted = [a.clone(), b.clone(), a.clone(), one(&["a.test"])];
        assert_eq!(distinct(&wanted), [a, b]);
    }

    #[test]
    fn what_failed_is_not_tried_first_again() {
        let both = [Kind::TlsAlpn01, Kind::Http01];
        assert_eq!(turned(&both, 0), both);
        assert_eq!(turned(&both, 1), [Kind::Http01, Kind::TlsAlpn01]);
        assert_eq!(turned(&both, 2), both);
        assert_eq!(turned(&[Kind::Http01], 7), [Kind::Http01]);
        assert_eq!(turned(&[], 7), []);
    }

    #[test]
    fn a_moment_is_chosen_once_in_a_window() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let window = Window {
            start: at(100),
            end: at(200),
        };
        let mut suggestion = Suggestion::default();
        assert!(suggestion.is_stale(at(0)), "never asked");
        suggestion.take(window, 0.5);
        suggestion.take(window, 0.9);
        assert_eq!(suggestion.moment, Some(at(150)));
        let moved = Window {
            end: at(110),
            ..window
        };
        suggestion.take(moved, 0.5);
        assert_eq!(suggestion.moment, Some(at(105)));
        suggestion.ask_again = Some(at(10));
        assert!(!suggestion.is_stale(at(9)));
        assert!(suggestion.is_stale(at(10)));
    }
}
