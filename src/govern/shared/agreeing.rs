//! The task that keeps the words of all hosts alike. It has a connection of its own, so that allowances
//! go on being shared where words are slow, or can't be told or kept. Started by `keeper`, which says when
//! others have said something.

use super::link::{Dial, Fault, Link};
use super::settings::SharedState;
use super::words::{self, Heard, Theirs, Word, Words};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// The task.
pub(super) struct Agreeing {
    words: Arc<dyn Words>,
    settings: SharedState,
    dial: Dial,
    /// How words stand, as the keeper has heard.
    stands: watch::Receiver<String>,
    link: Option<Link>,
    theirs: Theirs,
    /// Heard, and not taken over yet.
    others: Vec<Word>,
}

/// Why words aren't alike yet.
enum Trouble {
    Link(Fault),
    /// This host's can't be read or written.
    Words(String),
}

/// How often it is looked for what other processes of this host have said.
const LOOK: Duration = Duration::from_millis(100);
/// By when there must be a connection, and an answer. Nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Words that are heard before they are taken over.
const HEARD_MAX: usize = 20_000;

impl Agreeing {
    pub(super) fn new(
        words: Arc<dyn Words>,
        settings: SharedState,
        dial: Dial,
        stands: watch::Receiver<String>,
    ) -> Self {
        Self {
            words,
            settings,
            dial,
            stands,
            link: None,
            theirs: Theirs::default(),
            others: Vec::new(),
        }
    }

    /// Keeps words alike until the keeper is gone. Dropping the future leaves them as they are: what isn't
    /// told yet is told by whoever comes next.
    pub(super) async fn run(mut self) {
        // The last trouble that was told.
        let (mut pause, mut told) = (PAUSE_MIN, String::new());
        loop {
            match self.agree().await {
                Ok(()) => {
                    if !std::mem::take(&mut told).is_empty() {
                        tracing::info!("keys are shared with other hosts again");
                    }
                    pause = PAUSE_MIN;
                    if !self.something_new().await {
                        return;
                    }
                }
                Err(trouble) => {
                    let error = trouble.to_string();
                    if told != error {
                        tracing::error!(
                            error,
                            "keys can't be shared with other hosts: it is tried again and again"
                        );
                        told = error;
                    }
                    sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Waits until somebody has said something; false when there is no keeper any more.
    async fn something_new(&mut self) -> bool {
        let news = self.words.news();
        loop {
            tokio::select! {
                () = news.notified() => return true,
                changed = self.stands.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    if *self.stands.borrow_and_update() != self.theirs.stand() {
                        return true;
                    }
                }
                () = sleep(LOOK) => {
                    if self.words.have_changed() {
                        return true;
                    }
                }
            }
        }
    }

    /// Tells and hears words until this host and the server have the same.
    async fn agree(&mut self) -> Result<(), Trouble> {
        let mut ours: Vec<Word> = Vec::new();
        loop {
            let told = words::next(&mut ours);
            let heard = self.exchange(&told).await.map_err(Trouble::Link)?;
            if self.theirs.hear(&heard) {
                ours.clear();
            }
            let is_part = heard.is_part();
            self.others.extend(heard.words);
            if !ours.is_empty() || is_part && self.others.len() < HEARD_MAX {
                continue;
            }
            ours = self.take_over().await?;
            if ours.is_empty() && !is_part {
                return Ok(());
            }
        }
    }

    async fn exchange(&mut self, told: &[Word]) -> Result<Heard, Fault> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => timeout(PATIENCE, Link::open(&self.dial, &self.settings.server))
                .await
                .unwrap_or(Err(Fault::Slow))?,
        };
        let call = self.theirs.call(&self.settings.prefix, told);
        let reply = timeout(PATIENCE, link.run(&call)).await;
        let heard = Heard::of(reply.unwrap_or(Err(Fault::Slow))?).ok_or(Fault::Unexpected)?;
        self.link = Some(link);
        Ok(heard)
    }

    /// What this host has to tell, when it has taken over what others said.
    async fn take_over(&mut self) -> Result<Vec<Word>, Trouble> {
        let words = Arc::clone(&self.words);
        let (theirs, others) = (
            std::mem::take(&mut self.theirs),
            std::mem::take(&mut self.others),
        );
        let work = move || {
            let ours = words.agree(&others, &theirs.versions);
            (ours, theirs, others)
        };
        let done = tokio::task::spawn_blocking(work).await;
        // Where that ended in a panic all is heard once more.
        let (ours, theirs, others) = done.map_err(|error| Trouble::Words(error.to_string()))?;
        self.theirs = theirs;
        if ours.is_err() {
            self.others = others;
        }
        ours.map_err(Trouble::Words)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(fault) => write!(f, "{fault}"),
            Self::Words(why) => f.write_str(why),
        }
    }
}
