//! Sums of what was used: of the store, and of the journal as far as it isn't carried yet. It needs no
//! running weir, and changes nothing.

use super::Fault;
use super::entry::{Entry, Instance};
use super::segment::{self, Name};
use super::settings::{Settings, Store as Kind};
use super::store::{Posted, Store};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::time::SystemTime;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// One row for each combination of these; without any, one row.
    pub by: Vec<By>,
    /// From this moment on: Unix time, milliseconds.
    pub since_ms: i64,
    /// Before this moment.
    pub until_ms: i64,
    /// Of this team alone.
    pub team: Option<String>,
    /// Of this provider alone.
    pub provider: Option<String>,
}

/// What sums are made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Days in UTC.
    Day,
    /// Teams.
    Team,
    /// Keys; a name alone says little without the team.
    Key,
    /// Models, as clients name them.
    Model,
    /// Models, as upstreams were asked for them.
    UpstreamModel,
    /// Providers.
    Provider,
}

impl By {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Day,
        Self::Team,
        Self::Key,
        Self::Model,
        Self::UpstreamModel,
        Self::Provider,
    ];

    /// Its name: a column of the store, and the word for it on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Team => "team",
            Self::Key => "key",
            Self::Model => "model",
            Self::UpstreamModel => "upstream_model",
            Self::Provider => "provider",
        }
    }
}

/// One combination and its sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// In the order of [`Query::by`].
    pub by: Vec<Label>,
    /// What was used.
    pub sums: Sums,
}

/// What a row is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// Days since 1970.
    Day(i64),
    /// A name.
    Text(String),
    /// Requests without one.
    None,
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Requests that an upstream was tried for.
    pub requests: i64,
    /// Prompt tokens, cached ones included.
    pub input: i64,
    /// Generated tokens, reasoning included.
    pub output: i64,
    /// Prompt tokens that came from a cache.
    pub cached: i64,
    /// Prompt tokens that were put into a cache.
    pub cache_write: i64,
    /// Generated tokens that were reasoning.
    pub reasoning: i64,
    /// Requests whose model has no price.
    pub unpriced: i64,
    /// What the others cost: picodollars.
    pub cost_pico: i128,
}

impl Query {
    /// All that there is.
    pub fn all(by: Vec<By>) -> Self {
        Self {
            by,
            since_ms: i64::MIN,
            until_ms: i64::MAX,
            team: None,
            provider: None,
        }
    }
}

impl std::ops::Add for Sums {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cached: self.cached.saturating_add(other.cached),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            reasoning: self.reasoning.saturating_add(other.reasoning),
            unpriced: self.unpriced.saturating_add(other.unpriced),
            cost_pico: self.cost_pico.saturating_add(other.cost_pico),
        }
    }
}

impl Sums {
    /// Columns in the store.
    pub(super) const COUNT: usize = 9;

    /// From the columns in their order.
    pub(super) fn of(columns: [i64; Self::COUNT]) -> Self {
        let [
            requests,
            input,
            output,
            cached,
            cache_write,
            reasoning,
            micro,
            rest,
            unpriced,
        ] = columns;
        Self {
            requests,
            input,
            output,
            cached,
            cache_write,
            reasoning,
            unpriced,
            cost_pico: i128::from(micro) * 1_000_000 + i128::from(rest),
        }
    }
}

/// Asks the ledger; waits for its store. Rows are in the order of their labels.
///
/// # Errors
/// Why the store or the journal can't be read.
pub fn report(settings: &Settings, query: &Query) -> Result<Vec<Row>, Fault> {
    // What is open stays readable when a carrier takes the file away.
    let open = Open::all(settings)
        .map_err(|error| Fault::of("the journal can't be read in", &settings.journal(), error))?;
    let pending = |carried: &HashMap<Name, u64>| open.beyond(carried);
    let store = |error: &dyn std::fmt::Display| match &settings.store {
        Kind::Sqlite => Fault::of("usage can't be read from", &settings.sqlite(), error),
        Kind::Postgres(at) => Fault(format!("usage can't be read from {at}: {error}")),
    };
    let found = match Store::open_to_read(settings).map_err(|error| store(&error))? {
        Some(mut it) => it.report(query, pending),
        None => Store::empty().and_then(|mut it| it.report(query, pending)),
    };
    let mut rows = found.map_err(|error| store(&error))?;
    // Without a label there is a row even of nothing.
    rows.retain(|row| row.sums.requests > 0 || query.by.is_empty());
    rows.sort_by(|one, other| one.by.cmp(&other.by));
    Ok(rows)
}

/// All segments of the journal, open.
struct Open(Vec<(Name, File)>);

impl Open {
    fn all(settings: &Settings) -> io::Result<Self> {
        let folder = settings.journal();
        let mut all = Vec::new();
        for name in Name::all(&folder)? {
            match File::open(name.path(&folder)) {
                Ok(file) => all.push((name, file)),
                // Carried meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(all))
    }

    /// What is in the files beyond what was carried; of each request the last word.
    fn beyond(&self, carried: &HashMap<Name, u64>) -> io::Result<Vec<Posted>> {
        let mut last: HashMap<(Instance, u64), Entry<'static>> = HashMap::new();
        for (name, file) in &self.0 {
            let mut from = carried.get(name).copied().unwrap_or_default();
            loop {
                let lines = segment::read(file, from, false)?;
                if lines.end == from {
                    break;
                }
                from = lines.end;
                for entry in lines.entries {
                    let known = last.entry((name.instance, entry.number));
                    let newer = |it: &Entry<'_>| it.revision < entry.revision;
                    match known {
                        std::collections::hash_map::Entry::Occupied(mut known) => {
                            if newer(known.get()) {
                                known.insert(entry);
                            }
                        }
                        std::collections::hash_map::Entry::Vacant(free) => {
                            free.insert(entry);
                        }
                    }
                }
            }
        }
        let all = last.into_iter();
        Ok(all
            .map(|((instance, _), entry)| (instance, entry))
            .collect())
    }
}

/// What a team's key has spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// The team.
    pub team: String,
    /// Its key, where it asked with one.
    pub key: Option<String>,
    /// Requests and tokens and money.
    pub sums: Sums,
}

/// What the requests of each key of each team cost that came since a moment and before another one, as
/// budgets want it after a loss of their own accounts.
///
/// # Errors
/// As [`report`].
pub fn spent(
    settings: &Settings,
    since: SystemTime,
    until: SystemTime,
) -> Result<Vec<Spent>, Fault> {
    let millis = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        i64::try_from(millis).unwrap_or(i64::MAX)
    };
    let query = Query {
        since_ms: millis(since),
        until_ms: millis(until),
        ..Query::all(vec![By::Team, By::Key])
    };
    let rows = report(settings, &query)?;
    Ok(rows.into_iter().filter_map(Spent::of).collect())
}

impl Spent {
    fn of(row: Row) -> Option<Self> {
        let mut by = row.by.into_iter();
        let (Some(Label::Text(team)), key) = (by.next(), by.next()) else {
            return None;
        };
        let key = match key {
            Some(Label::Text(key)) => Some(key),
            _ => None,
        };
        Some(Self {
            team,
            key,
            sums: row.sums,
        })
    }
}
