//! Carries the journal into the store: all segments of the folder, whichever process wrote them, and
//! whichever is gone. One process of a host does it, the holder of a lock.
//!
//! A store that is away is tried again, ever more seldom; meanwhile segments wait on the disk. Where
//! this process dies in the middle, another goes on where the store says it stands.

use super::segment::{self, Lines, Name};
use super::settings::{Settings, Store as Kind};
use super::store::{Away, Store};
use crate::observe::Books;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The thread that carries.
#[derive(Debug)]
pub(super) struct Carrier {
    wishes: Arc<Wishes>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Wishes {
    wish: Mutex<Wish>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    leads: bool,
    stopped: bool,
}

/// How often it looks for lines.
const TICK: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often old requests are summed up.
const RETIRE_EVERY: Duration = Duration::from_secs(3600);
/// Where a segment was carried to is known this long after.
const SEGMENT_KEPT_MS: i64 = 30 * 86_400_000;

impl Carrier {
    /// Starts the thread, which waits to lead.
    pub(super) fn start(settings: &Settings, books: Books) -> io::Result<Self> {
        let wishes = Arc::<Wishes>::default();
        let mut work = Work {
            settings: settings.clone(),
            books,
            wishes: Arc::clone(&wishes),
            lock: None,
            store: None,
            carried: HashMap::new(),
            failures: 0,
            complete: Instant::now(),
            retired: None,
        };
        let thread = std::thread::Builder::new()
            .name("carrier".into())
            .spawn(move || work.run())?;
        Ok(Self {
            wishes,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Whether this process may carry.
    pub(super) fn lead(&self, leads: bool) {
        self.wishes.wish.lock().leads = leads;
        self.wishes.changed.notify_all();
    }

    /// Ends the thread; a store that doesn't answer isn't waited for.
    pub(super) fn stop(&self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        self.wishes.wish.lock().stopped = true;
        self.wishes.changed.notify_all();
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        let begun = Instant::now();
        while !thread.is_finished() {
            if begun.elapsed() > PATIENCE {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            tracing::error!("the carrier of usage ended too early");
        }
    }
}

/// What the thread has at hand.
struct Work {
    settings: Settings,
    books: Books,
    wishes: Arc<Wishes>,
    lock: Option<File>,
    store: Option<Store>,
    /// As far as each segment is in the store.
    carried: HashMap<Name, u64>,
    /// In a row.
    failures: u32,
    /// When the store had everything.
    complete: Instant,
    retired: Option<Instant>,
}

/// Why a round didn't get to its end.
enum Halt {
    /// The store doesn't take it.
    Store(Away),
    /// The journal can't be read.
    Journal(io::Error),
}

impl Work {
    fn run(&mut self) {
        loop {
            let wish = self.pause();
            if wish.stopped {
                return;
            }
            if !wish.leads || !self.locked() {
                self.rest();
                continue;
            }
            match self.round() {
                Ok(()) => self.went_well(),
                Err(halt) => self.went_wrong(&halt),
            }
        }
    }

    /// Waits for the next round, or until somebody wants something else.
    fn pause(&self) -> Wish {
        let pause = TICK
            .saturating_mul(1 << self.failures.min(5))
            .min(PAUSE_MAX);
        let mut wish = self.wishes.wish.lock();
        if !wish.stopped {
            self.wishes.changed.wait_for(&mut wish, pause);
        }
        *wish
    }

    /// Leaves the store to others.
    fn rest(&mut self) {
        self.lock = None;
        self.store = None;
        self.failures = 0;
        self.complete = Instant::now();
        self.books.lags(0, 0.0);
    }

    fn locked(&mut self) -> bool {
        if self.lock.is_some() {
            return true;
        }
        let mut how = OpenOptions::new();
        how.append(true).create(true).mode(0o600);
        let path = self.settings.journal().join("carrier.lock");
        match how.open(&path) {
            Ok(file) if file.try_lock().is_ok() => self.lock = Some(file),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, path = %path.display(), "usage can't be carried"),
        }
        self.lock.is_some()
    }

    fn round(&mut self) -> Result<(), Halt> {
        if self.store.is_none() {
            let mut store = Store::open(&self.settings)?;
            self.carried = store.carried()?;
            self.store = Some(store);
        }
        let folder = self.settings.journal();
        for name in Name::all(&folder)? {
            if self.wishes.wish.lock().stopped {
                return Ok(());
            }
            self.segment(name)?;
        }
        if self.retired.is_none_or(|at| at.elapsed() >= RETIRE_EVERY) {
            self.retire()?;
            self.retired = Some(Instant::now());
        }
        Ok(())
    }

    /// Carries what a segment has; one that nobody writes to goes then.
    fn segment(&mut self, name: Name) -> Result<(), Halt> {
        let folder = self.settings.journal();
        let path = name.path(&folder);
        let file = File::open(&path)?;
        let mut from = self.carried.get(&name).copied().unwrap_or_default();
        let closed = segment::is_closed(&file)?;
        // Asked after the lock: what came before it was there.
        if file.metadata()?.len() > from {
            loop {
                let lines = segment::read(&file, from, closed)?;
                if lines.end == from {
                    break;
                }
                from = lines.end;
                self.carry(name, lines)?;
            }
        }
        if closed {
            std::fs::remove_file(&path)?;
        }
        Ok(())
    }

    fn carry(&mut self, name: Name, lines: Lines) -> Result<(), Halt> {
        let Lines { entries, torn, end } = lines;
        if !torn.is_empty() {
            name.set_aside(&self.settings.journal(), &torn)?;
        }
        let count = entries.len() as u64;
        if let Some(store) = &mut self.store {
            store.carry(name, end, entries, now_ms())?;
        }
        self.carried.insert(name, end);
        self.books.carried.inc_by(count);
        if !torn.is_empty() {
            self.books.torn.inc_by(torn.len() as u64);
            tracing::warn!(
                segment = %name,
                lines = torn.len(),
                "lines of usage can't be read; they are set aside in {name}.torn"
            );
        }
        Ok(())
    }

    fn retire(&mut self) -> Result<(), Halt> {
        let now = now_ms();
        let retain = i64::try_from(self.settings.retain.as_millis()).unwrap_or(i64::MAX);
        let before = now.saturating_sub(retain).div_euclid(86_400_000);
        let folder = self.settings.journal();
        let left = Name::all(&folder)?;
        self.carried.retain(|name, _| left.contains(name));
        if let Some(store) = &mut self.store {
            store.retire(before, now.saturating_sub(SEGMENT_KEPT_MS))?;
        }
        Ok(())
    }

    fn went_well(&mut self) {
        if self.failures > 0 {
            tracing::info!("the store of usage has everything again");
        }
        self.failures = 0;
        self.complete = Instant::now();
        self.books.lags(0, 0.0);
    }

    fn went_wrong(&mut self, halt: &Halt) {
        self.store = None;
        self.books.failed(match halt {
            Halt::Store(_) => "store",
            Halt::Journal(_) => "journal",
        });
        if self.failures == 0 {
            let store = match &self.settings.store {
                Kind::Sqlite => self.settings.sqlite().display().to_string(),
                Kind::Postgres(at) => at.to_string(),
            };
            let error = match halt {
                Halt::Store(away) => away.to_string(),
                Halt::Journal(error) => error.to_string(),
            };
            tracing::error!(
                store,
                error,
                "usage can't be carried into its store: it waits in the journal, and is tried again"
            );
        }
        self.failures = self.failures.saturating_add(1);
        self.books
            .lags(self.uncarried(), self.complete.elapsed().as_secs_f64());
    }

    /// Bytes on disk that aren't in the store, as far as can be seen.
    fn uncarried(&self) -> u64 {
        let folder = self.settings.journal();
        let all = Name::all(&folder).unwrap_or_default();
        all.into_iter()
            .map(|name| {
                let length = std::fs::metadata(name.path(&folder)).map_or(0, |it| it.len());
                length.saturating_sub(self.carried.get(&name).copied().unwrap_or_default())
            })
            .sum()
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

impl From<Away> for Halt {
    fn from(away: Away) -> Self {
        Self::Store(away)
    }
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Self {
        Self::Journal(error)
    }
}
