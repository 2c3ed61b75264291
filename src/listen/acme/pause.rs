//! A failure that outlives the process: whoever is started again and again must not ask a server each
//! time, which would use up what it allows in a week. Kept beside the certificates, gone with the next
//! success. Called by the renewal.

use super::aside::Aside;
use super::challenge::Kind;
use super::store;
use crate::listen::tls::settings::Acme;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// At most this often a process that is started anew tries what has failed: public servers allow five
/// failed looks at a name in an hour.
const BETWEEN_STARTS: Duration = Duration::from_secs(15 * 60);

/// The last attempt, which has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pause {
    /// What was tried; another attempt is not held up by it.
    what: Attempt,
    /// When, in seconds since 1970.
    failed_at: u64,
    /// For how many seconds the server wants to be left alone.
    asked_for: u64,
}

/// All that decides whether an attempt would be the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Attempt {
    directory: String,
    domains: Vec<String>,
    offers: Vec<String>,
}

impl Pause {
    pub(super) fn new(
        wanted: &Acme,
        offers: &[Kind],
        now: SystemTime,
        asked_for: Option<Duration>,
    ) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        Self {
            what: Attempt::new(wanted, offers),
            failed_at: since.unwrap_or_default().as_secs(),
            asked_for: asked_for.unwrap_or_default().as_secs(),
        }
    }

    /// Before then a new process doesn't try it again; `None`: at once.
    fn until(&self, wanted: &Acme, offers: &[Kind], now: SystemTime) -> Option<SystemTime> {
        if self.what != Attempt::new(wanted, offers) {
            return None;
        }
        let failed_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.failed_at))?;
        // A clock that was wrong then must not hold it up for years.
        if failed_at > now {
            return None;
        }
        let pause = super::due::within_limits(Duration::from_secs(self.asked_for));
        let until = failed_at + pause.max(BETWEEN_STARTS);
        (until > now).then_some(until)
    }

    /// Keeps it. That it can't is no reason for anything.
    pub(super) async fn keep(self, aside: &Aside, wanted: &Acme) {
        let path = path(aside, wanted);
        let Ok(text) = serde_json::to_string_pretty(&self) else {
            return;
        };
        let kept = aside.run(move || store::replace(&path, &text)).await;
        if let Err(error) = kept {
            tracing::debug!(%error, "a failure can't be kept");
        }
    }

    /// Until when the last process's failure holds this one up.
    pub(super) async fn left(
        aside: &Aside,
        wanted: &Acme,
        offers: &[Kind],
        now: SystemTime,
    ) -> Option<SystemTime> {
        let path = path(aside, wanted);
        let from = path.clone();
        let text = aside.run(move || store::read(&from)).await.ok()??;
        let pause: Self = serde_json::from_str(&text).ok()?;
        let until = pause.until(wanted, offers, now)?;
        let left = until.duration_since(now).unwrap_or_default();
        tracing::warn!(
            domains = ?wanted.domains,
            again_in_seconds = left.as_secs(),
            "the last attempt to get a certificate has failed not long ago; to try at once, remove {} \
             and restart",
            path.display()
        );
        Some(until)
    }

    /// It worked.
    pub(super) async fn forget(aside: &Aside, wanted: &Acme) {
        let path = path(aside, wanted);
        // Mostly there is none.
        let gone = aside.run(move || {
            let _ = std::fs::remove_file(path);
            Ok(())
        });
        let _ = gone.await;
    }
}

impl Attempt {
    fn new(wanted: &Acme, offers: &[Kind]) -> Self {
        Self {
            directory: wanted.directory.clone(),
            domains: wanted.domains.clone(),
            offers: offers.iter().map(|it| it.name().to_owned()).collect(),
        }
    }
}

fn path(aside: &Aside, wanted: &Acme) -> PathBuf {
    aside
        .store()
        .pause(wanted.domains.first().map_or("none", String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn wanted(domain: &str) -> Acme {
        Acme {
            directory: "https://acme.test/directory".to_owned(),
            email: None,
            domains: vec![domain.to_owned()],
            ca: None,
        }
    }

    #[test]
    fn a_new_process_waits_a_quarter_of_an_hour_or_as_long_as_the_server_asked() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let both = [Kind::TlsAlpn01, Kind::Http01];
        let hour = Duration::from_secs(3600);
        for (asked, expected) in [
            (None, BETWEEN_STARTS),
            (Some(SECOND), BETWEEN_STARTS),
            (Some(hour), hour),
            (Some(Duration::MAX), Duration::from_secs(7 * 24 * 3600)),
        ] {
            let pause = Pause::new(&wanted("a.test"), &both, now, asked);
            let until = |now| pause.until(&wanted("a.test"), &both, now);
            assert_eq!(until(now), Some(now + expected));
            assert_eq!(until(now + expected - SECOND), Some(now + expected));
            assert_eq!(until(now + expected), None);
            assert_eq!(until(now - SECOND), None, "the clock was wrong");
        }
    }

    #[test]
    fn what_was_put_right_is_tried_at_once() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let pause = Pause::new(&wanted("a.test"), &[Kind::Http01], now, None);
        assert!(
            pause
                .until(&wanted("a.test"), &[Kind::Http01], now)
                .is_some()
        );
        assert_eq!(pause.until(&wanted("b.test"), &[Kind::Http01], now), None);
        assert_eq!(
            pause.until(&wanted("a.test"), &[Kind::TlsAlpn01], now),
            None
        );
    }
}
