//! Hears clients, reads records, and says what doesn't hold.

use super::judge::Case;
use super::plan::{Id, Team};
use super::records::{Log, Record, Sums};
use super::seen::Seen;
use super::world::{Served, World};
use crate::Result;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long after its client's end a request's record may come.
const RECORD_LATE: Duration = Duration::from_secs(8);
/// So many violations are told whole.
const TOLD_MAX: usize = 50;

/// Everything that was heard, until it is judged.
pub struct Court {
    world: Rc<World>,
    log: Log,
    heard: HashMap<Id, (Seen, Instant)>,
    records: HashMap<Id, Vec<Record>>,
    judged: HashSet<Id>,
    /// Calls for several requests, and what their records say.
    calls: BTreeMap<u64, Call>,
    pub sums: Sums,
    pub requests: u64,
    pub statuses: BTreeMap<String, u64>,
    /// Requests of steady clients that were told to come again, and were served then; by what they were told.
    pub told_to_wait: BTreeMap<String, u64>,
    /// Of steady clients: from connect to the first byte, and to the last; in calm, and not.
    pub calm: Latencies,
    pub chaos: Latencies,
    pub violations: Vec<String>,
    /// Violations that weren't told whole.
    pub more: u64,
}

/// A call for several requests, whose answer was whole.
#[derive(Debug, Default)]
struct Call {
    requests: u64,
    /// What the server reported.
    input: u64,
    /// Of so many requests the record has a part of it.
    told: u64,
    /// These parts together.
    parts: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Latencies {
    pub first: Vec<Duration>,
    pub whole: Vec<Duration>,
}

impl Court {
    pub fn new(world: &Rc<World>, access_log: PathBuf) -> Court {
        Court {
            world: Rc::clone(world),
            log: Log::new(access_log),
            heard: HashMap::new(),
            records: HashMap::new(),
            judged: HashSet::new(),
            calls: BTreeMap::new(),
            sums: Sums::default(),
            requests: 0,
            statuses: BTreeMap::new(),
            told_to_wait: BTreeMap::new(),
            calm: Latencies::default(),
            chaos: Latencies::default(),
            violations: Vec::new(),
            more: 0,
        }
    }

    /// What all clients together saw, or what weir as a whole did.
    pub fn accuse(&mut self, violation: String) {
        if self.violations.len() < TOLD_MAX {
            self.violations.push(violation);
        } else {
            self.more += 1;
        }
    }

    /// What the client of one act saw, in calm or not.
    pub fn hear(&mut self, act: Vec<Seen>, calm: bool) {
        let last = act.len().saturating_sub(1);
        for (part, seen) in act.into_iter().enumerate() {
            self.requests += 1;
            let kind = match &seen.answer {
                None => "no answer".to_owned(),
                Some(answer) => match &answer.refusal {
                    Some(code) => format!("{} {code}", answer.status),
                    None => answer.status.to_string(),
                },
            };
            *self.statuses.entry(kind).or_default() += 1;
            if seen.team == Team::Steady && seen.id.muster().is_none() {
                self.hear_steady(&seen, part == last, calm);
            }
            self.heard.insert(seen.id, (seen, Instant::now()));
        }
    }

    /// A client that does all that it should is served, sooner or later.
    fn hear_steady(&mut self, seen: &Seen, last: bool, calm: bool) {
        let served = self.world.served(seen.id);
        let words = self.world.words(seen.id);
        let case = Case {
            seen,
            records: &[],
            served: &served,
            words,
        };
        if !case.is_success() {
            match last {
                true => self.accuse(format!(
                    "{}: a steady client wasn't served: {seen:?}",
                    seen.id
                )),
                false => {
                    let body = seen.answer.as_ref().map_or(&[][..], |it| &it.body);
                    let why = String::from_utf8_lossy(body).into_owned();
                    // The host may be full, of uploads or because its processors are; a model server that is
                    // well has places, whatever becomes of others.
                    if why.contains("The model server") {
                        self.accuse(format!("{}: a steady client had to wait: {why}", seen.id));
                    }
                    *self.told_to_wait.entry(why).or_default() += 1;
                }
            }
            return;
        }
        let latencies = if calm {
            &mut self.calm
        } else {
            &mut self.chaos
        };
        let first = seen.answer.as_ref().and_then(|answer| answer.first_byte);
        latencies.first.extend(first);
        latencies.whole.push(seen.took);
    }

    /// Reads what weir has written since the last time.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn read(&mut self) -> Result<()> {
        for record in self.log.read()? {
            self.sums.add(&record);
            let Some(id) = record.id.filter(|id| id.seed == self.world.seed) else {
                // weir gave it an id, for it never had one that it could read.
                continue;
            };
            if self.judged.contains(&id) {
                self.accuse(format!("{id}: one more record, late: {record:?}"));
            }
            self.records.entry(id).or_default().push(record);
        }
        if self.log.broken > 0 {
            let lines = std::mem::take(&mut self.log.broken);
            self.accuse(format!("{lines} lines of the access log can't be read"));
        }
        Ok(())
    }

    /// Judges each request that is long over, or all.
    pub fn judge(&mut self, all: bool) {
        let due = |ended: &Instant| all || ended.elapsed() > RECORD_LATE;
        let due: Vec<Id> = (self.heard.iter())
            .filter(|(_, (_, ended))| due(ended))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some((seen, _)) = self.heard.remove(&id) else {
                continue;
            };
            let records = self.records.remove(&id).unwrap_or_default();
            let served = self.world.served(id);
            let words = self.world.words(id);
            let case = Case {
                seen: &seen,
                records: &records,
                served: &served,
                words,
            };
            for violation in case.violations() {
                self.accuse(format!(
                    "{id}: {violation}\n    act {}: {seen:?}\n    served: {served:?}\n    record: {records:?}",
                    seen.act
                ));
            }
            self.add_part(&records, &served);
            self.world.forget(id);
            self.judged.insert(id);
        }
        if all {
            let strangers: Vec<Id> = self.records.keys().copied().collect();
            for id in strangers {
                self.accuse(format!("{id}: a record of a request that nobody sent"));
            }
        }
    }

    /// Notes what a request's record has of a call that was for several.
    fn add_part(&mut self, records: &[Record], served: &[Served]) {
        let whole: Vec<&Served> = served.iter().filter(|it| it.whole).collect();
        let ([record], [one]) = (records, &whole[..]) else {
            return;
        };
        if let Some((number, requests)) = one.shared
            && record.source.as_deref() == Some("upstream")
        {
            let call = self.calls.entry(number).or_default();
            (call.requests, call.input) = (requests, one.usage.input);
            call.told += 1;
            call.parts += record.usage.input;
        }
    }

    /// The parts of each call for several requests are together what its server reported.
    pub fn check_calls(&mut self) {
        for (number, call) in std::mem::take(&mut self.calls) {
            // Some may have left; then their parts are nobody's.
            let all = call.told == call.requests;
            if call.parts > call.input || all && call.parts != call.input {
                self.accuse(format!(
                    "call {number} isn't divided as it was used: {call:?}"
                ));
            }
        }
    }

    /// Requests whose record hasn't come, of those that are over.
    pub fn waits(&self) -> bool {
        let owed = |seen: &Seen| seen.records().0 > 0;
        self.heard
            .iter()
            .any(|(id, (seen, _))| owed(seen) && !self.records.contains_key(id))
    }
}
