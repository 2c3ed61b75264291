//! The part of the keeper that keeps the words of all hosts alike.

use super::super::link::Fault;
use super::super::words::{self, WORDS_MAX, Word};
use super::{EXCHANGE, Keeper};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::timeout;

/// How often it is looked for what other processes of this host have said.
const LOOK: Duration = Duration::from_millis(100);

impl Keeper {
    /// What another process of this host has said.
    pub(super) fn look_for_words(&mut self, now: Instant) {
        let Some(words) = &self.words else { return };
        if now.saturating_duration_since(self.looked) >= LOOK {
            self.looked = now;
            if words.have_changed() {
                self.agreed = None;
            }
        }
    }

    /// Tells and hears words until this host and the server have the same.
    pub(super) async fn agree(&mut self) {
        /// Others may say something meanwhile; what is left then is said with the next beat.
        const ROUNDS: usize = 3;
        let (Some(words), Some(mut link)) = (self.words.clone(), self.link.take()) else {
            self.agreed = Some(self.changes);
            return;
        };
        let mut ours: Vec<Word> = Vec::new();
        for _ in 0..ROUNDS {
            let told = ours.len().min(WORDS_MAX);
            let call = words::call(&self.settings.prefix, &ours[..told]);
            let reply = timeout(EXCHANGE, link.run(&call))
                .await
                .unwrap_or(Err(Fault::Slow));
            let heard = reply.and_then(|reply| words::heard(reply).ok_or(Fault::Unexpected));
            let (changes, theirs) = match heard {
                Ok(heard) => heard,
                Err(fault) => return self.failed(&fault),
            };
            let keeper = Arc::clone(&words);
            let agreed = tokio::task::spawn_blocking(move || keeper.agree(&theirs)).await;
            match agreed.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(left) if left.is_empty() => {
                    (self.agreed, self.changes) = (Some(changes), changes);
                    break;
                }
                Ok(left) => ours = left,
                Err(why) => {
                    tracing::error!(%why, "keys can't be shared with other hosts until they change again");
                    (self.agreed, self.changes) = (Some(changes), changes);
                    break;
                }
            }
        }
        self.link = Some(link);
    }
}

/// Resolves when this host has something to say.
pub(super) async fn said(news: Option<&Arc<Notify>>) {
    match news {
        Some(news) => news.notified().await,
        None => std::future::pending().await,
    }
}
