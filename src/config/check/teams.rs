//! `teams`: who may use what, and the keys that stand in the file.

use super::Check;
use super::allowance::allowance;
use super::providers::NAME;
use crate::config::file::{self, Budgets, ClientAuth, File, ListenEntry, TeamLimits};
use crate::config::lists::List;
use crate::config::path::Path;
use crate::config::units::Text;
use crate::govern::settings::{
    Allowance, Budget, Credential, Key, Models, Period, PriorityHeader, Team,
};
use crate::types::digest::of_hex;
use crate::types::{Money, Priority, is_name};
use chrono::{DateTime, NaiveDate, NaiveTime};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

/// The teams; `None` where everybody may come.
pub(super) fn teams(file: &File, check: &mut Check<'_>) -> Option<Vec<Arc<Team>>> {
    let path = check.key("teams");
    let list = file.teams.as_ref()?;
    if list.0.is_empty() {
        // Whoever wrote that wants a door; nothing must leave it open by mistake.
        let allowed = "at least one team, or no `teams` at all, which lets everybody in";
        check
            .findings
            .wrong_because(&path, "an empty list", allowed);
    }
    let mut reader = Reader {
        asks_for_certificates: asks_for_certificates(file),
        credentials: HashMap::new(),
        check,
    };
    let mut names = HashMap::new();
    let mut teams = Vec::new();
    for (index, team) in list.items() {
        teams.push(Arc::new(reader.team(team, &mut names, &path.index(index))));
    }
    Some(teams)
}

/// Whether any listener asks clients for a certificate.
fn asks_for_certificates(file: &File) -> bool {
    let listeners = file.listen.iter().flat_map(|list| list.items());
    listeners.into_iter().any(|(_, entry)| match entry {
        ListenEntry::Address(_) => false,
        ListenEntry::Full(listener) => listener.tls.as_ref().is_some_and(|tls| {
            matches!(
                tls.client_auth,
                Some(ClientAuth::Optional | ClientAuth::Required)
            )
        }),
    })
}

fn priority(priority: file::Priority) -> Priority {
    match priority {
        file::Priority::High => Priority::High,
        file::Priority::Normal => Priority::Normal,
        file::Priority::Batch => Priority::Batch,
    }
}

struct Reader<'r, 'c> {
    asks_for_certificates: bool,
    /// Where each credential was seen first.
    credentials: HashMap<Credential, Path>,
    check: &'r mut Check<'c>,
}

/// Where each name was seen first.
type Names = HashMap<String, Path>;

/// Stands for requests of nobody that is known.
const RESERVED: &str = "other";

impl Reader<'_, '_> {
    fn team(&mut self, team: &file::Team, names: &mut Names, path: &Path) -> Team {
        let name = self.name(team.name.as_ref(), names, &path.key("name"));
        if name == RESERVED {
            let found = format!("{RESERVED:?}, which stands for no team in metrics");
            let at = path.key("name");
            self.check
                .findings
                .wrong_because(&at, found, "another name");
        }
        let mut keys = Vec::new();
        let mut names = Names::new();
        for (index, key) in team.keys.iter().flat_map(List::items) {
            let path = path.key("keys").index(index);
            keys.extend(self.key(key, &mut names, &path).map(Arc::new));
        }
        Team {
            name: name.into(),
            models: self.models(team.models.as_ref(), &path.key("models")),
            allowance: self.allowance(team.limits.as_ref(), team.budget.as_ref(), path),
            priority: team.priority.map(priority).unwrap_or_default(),
            priority_header: match team.priority_header {
                None | Some(file::PriorityHeader::Lower) => PriorityHeader::Lower,
                Some(file::PriorityHeader::Any) => PriorityHeader::Any,
                Some(file::PriorityHeader::Off) => PriorityHeader::Off,
            },
            keys,
        }
    }

    fn key(&mut self, key: &file::Key, names: &mut Names, path: &Path) -> Option<Key> {
        let name = self.name(key.name.as_ref(), names, &path.key("name"));
        let models = self.models(key.models.as_ref(), &path.key("models"));
        let allowance = self.allowance(key.limits.as_ref(), key.budget.as_ref(), path);
        let expires = self.expires(key.expires.as_ref(), &path.key("expires"));
        Some(Key {
            name: name.into(),
            credential: self.credential(key, path)?,
            expires,
            models,
            allowance,
            priority: key.priority.map(priority),
        })
    }

    fn name(&mut self, name: Option<&Text>, names: &mut Names, path: &Path) -> String {
        let findings = &mut self.check.findings;
        let Some(Text(name)) = name else {
            self.check.missing(path, NAME);
            return String::new();
        };
        if !is_name(name) {
            findings.wrong(path, NAME);
        } else if let Some(first) = names.get(name) {
            let found = format!("{name:?} a second time (first at {first})");
            findings.wrong_because(path, found, "each name once");
        } else {
            names.insert(name.clone(), path.clone());
        }
        name.clone()
    }

    fn credential(&mut self, key: &file::Key, path: &Path) -> Option<Credential> {
        let (hash_path, cert_path) = (path.key("sha256"), path.key("client_cert"));
        let (at, credential) = match (&key.sha256, &key.client_cert) {
            (Some(hash), None) => (hash_path.clone(), self.digest(hash, &hash_path)?),
            (None, Some(Text(name))) => {
                if name.trim().is_empty() || name.contains(char::is_control) {
                    let allowed =
                        "the subject of a certificate such as CN=ana,O=search, or one of its URIs";
                    self.check.findings.wrong(&cert_path, allowed);
                    return None;
                }
                if !self.asks_for_certificates {
                    self.check.warnings.push(format!(
                        "{cert_path}: no listener asks clients for a certificate (client_ca and \
                         client_auth of its tls), so nobody can use this key"
                    ));
                }
                (cert_path, Credential::ClientCert(name.clone()))
            }
            (Some(_), Some(_)) => {
                let allowed = "either `sha256` or `client_cert`, not both";
                self.check.findings.wrong(&cert_path, allowed);
                return None;
            }
            (None, None) => {
                if !self.check.findings.covers(path) {
                    let found = "neither `sha256` nor `client_cert`";
                    self.check
                        .findings
                        .wrong_because(path, found, "one of them");
                }
                return None;
            }
        };
        if let Some(first) = self.credentials.get(&credential) {
            let found = format!("what is the key at {first} already");
            let allowed = "a credential that no other key has, of no team";
            self.check.findings.wrong_because(&at, found, allowed);
            return None;
        }
        self.credentials.insert(credential.clone(), at);
        Some(credential)
    }

    fn digest(&mut self, Text(text): &Text, path: &Path) -> Option<Credential> {
        const ALLOWED: &str = "the SHA-256 of the key in 64 hexadecimal digits, which \
                               `printf %s \"$KEY\" | sha256sum` prints; never the key itself";
        let Some(digest) = of_hex(text) else {
            let found = match text.len() {
                64 => "64 characters that aren't all hexadecimal digits".to_owned(),
                _ => format!("{} characters, which aren't shown", text.chars().count()),
            };
            self.check.findings.wrong_because(path, found, ALLOWED);
            return None;
        };
        /// What `printf '' | sha256sum` prints: a variable was empty when the key was hashed.
        const OF_NOTHING: [u8; 4] = [0xe3, 0xb0, 0xc4, 0x42];
        if digest.starts_with(&OF_NOTHING) {
            let found = "the SHA-256 of an empty text";
            self.check.findings.wrong_because(path, found, ALLOWED);
            return None;
        }
        Some(Credential::Sha256(digest))
    }

    fn expires(&mut self, text: Option<&Text>, path: &Path) -> Option<SystemTime> {
        let Text(text) = text?;
        let Some(expires) = moment(text) else {
            let allowed = "a day such as 2027-01-31, or a moment such as 2027-01-31T12:00:00Z";
            self.check.findings.wrong(path, allowed);
            return None;
        };
        if expires <= SystemTime::now() {
            let warning = format!("{path}: the key has expired ({text}) and isn't accepted");
            self.check.warnings.push(warning);
        }
        Some(expires)
    }

    fn models(&mut self, list: Option<&List<Text>>, path: &Path) -> Option<Models> {
        const ALLOWED: &str = "names or globs of models, such as gpt-4o or \"gpt-4o*\"";
        let list = list?;
        if list.0.is_empty() {
            let allowed = "at least one name or glob; without `models` all are allowed";
            self.check
                .findings
                .wrong_because(path, "an empty list", allowed);
        }
        let mut patterns = Vec::new();
        for (index, Text(pattern)) in list.items() {
            if pattern.is_empty() || pattern.contains(char::is_control) {
                self.check.findings.wrong(&path.index(index), ALLOWED);
            }
            patterns.push(pattern.clone());
        }
        match Models::new(patterns) {
            Ok(models) => Some(models),
            Err(error) => {
                let found = format!("patterns that can't be read ({error})");
                self.check.findings.wrong_because(path, found, ALLOWED);
                None
            }
        }
    }

    fn allowance(
        &mut self,
        limits: Option<&TeamLimits>,
        budgets: Option<&Budgets>,
        path: &Path,
    ) -> Allowance {
        let limits = allowance(limits, &path.key("limits"), self.check);
        let path = path.key("budget");
        let mut read = Vec::new();
        match budgets {
            None => {}
            Some(Budgets::One(budget)) => read.extend(self.budget(budget, &path)),
            Some(Budgets::More(list)) => {
                for (index, budget) in list.items() {
                    let path = path.index(index);
                    let Some(budget) = self.budget(budget, &path) else {
                        continue;
                    };
                    if read.iter().any(|other: &Budget| other.per == budget.per) {
                        let at = path.key("per");
                        self.check.findings.wrong(&at, "each period once");
                    }
                    read.push(budget);
                }
            }
        }
        Allowance {
            budgets: read,
            ..limits
        }
    }

    fn budget(&mut self, budget: &file::Budget, path: &Path) -> Option<Budget> {
        const USD: &str = "US dollars: a number above 0, at most 9 million";
        const USD_MAX: f64 = 9e6;
        let (usd_path, per_path) = (path.key("usd"), path.key("per"));
        let limit = match budget.usd {
            None => {
                self.check.missing(&usd_path, USD);
                None
            }
            Some(usd) => {
                let limit = Money::from_usd(usd.0).filter(|limit| *limit > Money::ZERO);
                let limit = limit.filter(|_| usd.0 <= USD_MAX);
                if limit.is_none() {
                    self.check.findings.wrong(&usd_path, USD);
                }
                limit
            }
        };
        let per = match budget.per {
            None => {
                self.check
                    .missing(&per_path, "day, week, month, year or total");
                None
            }
            Some(file::Period::Day) => Some(Period::Day),
            Some(file::Period::Week) => Some(Period::Week),
            Some(file::Period::Month) => Some(Period::Month),
            Some(file::Period::Year) => Some(Period::Year),
            Some(file::Period::Total) => Some(Period::Total),
        };
        let mut warn_at = Vec::new();
        match &budget.warn {
            None => warn_at = Budget::warn_at_default(),
            Some(list) => {
                let path = path.key("warn");
                for (index, share) in list.items() {
                    if share.0 <= 0.0 || share.0 >= 1.0 {
                        let allowed = "a share of the budget between 0 and 1, such as 0.8";
                        self.check.findings.wrong(&path.index(index), allowed);
                    }
                    warn_at.push(share.0);
                }
            }
        }
        warn_at.sort_by(f64::total_cmp);
        warn_at.dedup();
        Some(Budget {
            limit: limit?,
            per: per?,
            warn_at,
        })
    }
}

/// A day's beginning in UTC, or a moment as RFC 3339 has it.
pub(in crate::config) fn moment(text: &str) -> Option<SystemTime> {
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(day.and_time(NaiveTime::MIN).and_utc().into());
    }
    let moment = DateTime::parse_from_rfc3339(text).ok()?;
    Some(moment.into())
}
