//! `weir explain`

use super::File;
use crate::app::question::{Moment, told};
use crate::app::{self, Caller, Fault};
use crate::proxy::Surface;
use crate::proxy::model_in_path;
use crate::route::settings::{Affinity, Balance};
use crate::route::{Found, join};
use crate::snapshot::Snapshot;
use clap::Args;
use std::fmt;
use std::time::SystemTime;

/// Tells where a request would go and why.
#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    file: File,
    /// The request's path; a query doesn't count
    #[arg(long, default_value = "/v1/chat/completions", value_parser = path)]
    path: String,
    /// The model that the request names
    #[arg(long)]
    model: Option<String>,
    /// The caller's key, or its name as TEAM/NAME (a key itself may stay in the shell's history)
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

impl Explain {
    /// Prints rule, candidates, road and limits. Resolves names; sends nothing to an upstream.
    pub fn run(&self) -> Result<(), Fault> {
        let settings = self.file.source().load()?;
        let snapshot = app::offline(&settings)?;
        let model = self.model.as_deref().or_else(|| model_in_path(&self.path));
        println!("path:       {}", self.path);
        let surface = Surface::of(&self.path);
        if surface == Surface::Health {
            println!("answer:     answered by weir itself");
            return Ok(());
        }
        let caller = self.caller(&snapshot);
        println!("model:      {}", model.unwrap_or("(none)"));
        let alias = model.and_then(|model| snapshot.routes.models.alias_of(model));
        if let (Some(model), Some(name)) = (model, alias) {
            println!("alias:      {model} → {name}");
        }
        if surface == Surface::Models && snapshot.model_list.is_some() {
            println!("answer:     GET is answered by weir itself; other methods go on:");
        }
        match snapshot.routes.find(&self.path, model) {
            Err(missing) => println!("answer:     404, {missing}"),
            Ok(found) => {
                println!("rule:       {}", rule(&snapshot, found, &settings));
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(self.candidates(&snapshot, found, alias.map(AsRef::as_ref)));
            }
        }
        if let Some(caller) = &caller {
            let stands_for = alias.map(AsRef::as_ref);
            if !caller.may_use(model.unwrap_or(&self.path), stands_for) {
                println!("answer:     403, model_not_allowed");
            }
            println!("of the team: {}", told(&caller.team.allowance));
            println!("of the key: {}", told(&caller.key.allowance));
        }
        let govern = &settings.govern;
        match govern.rate_limit {
            Some(limit) => println!(
                "limits:     {} requests/s per address, burst {}",
                limit.per_second, limit.burst
            ),
            None => println!("limits:     no rate limit"),
        }
        let in_flight = match govern.in_flight_max {
            0 => "any number of".to_owned(),
            max => max.to_string(),
        };
        println!(
            "            {in_flight} requests in flight, body up to {}, {} buffered in all",
            Size(govern.body_bytes_max),
            Size(govern.buffered_bytes_max)
        );
        Ok(())
    }

    /// Says who asks, where there are teams; nobody else is told what else would come of it.
    fn caller(&self, snapshot: &Snapshot) -> Option<Caller> {
        let keys = &snapshot.keys;
        if keys.is_open() {
            if self.key.is_some() {
                println!("key:        none is needed: there are no teams");
            }
            return None;
        }
        if let Some(why) = keys.store().look() {
            eprintln!("warning: {why}");
        }
        match app::asked_for(keys, self.key.as_deref(), SystemTime::now()) {
            Ok(caller) => {
                let caller = caller?;
                let until = match caller.key.expires {
                    Some(expires) => format!(", until {}", Moment(expires)),
                    None => String::new(),
                };
                println!(
                    "key:        {}/{}{until}",
                    caller.team.name, caller.key.name
                );
                Some(caller)
            }
            Err(code) => {
                println!("answer:     401, {code}");
                None
            }
        }
    }

    /// `alias` is the name that the request's model stands for.
    async fn candidates(&self, snapshot: &Snapshot, found: Found, alias: Option<&str>) {
        let group = snapshot.group(found);
        if group.choices().len() > 1 {
            println!("order:      {}", order(snapshot, found));
        }
        for choice in group.choices() {
            let endpoint = snapshot.upstreams.endpoint(choice.endpoint);
            let provider = snapshot.upstreams.provider(endpoint.provider);
            let exit = snapshot.exit(choice.endpoint);
            let base = &endpoint.base;
            println!(
                "candidate:  {} {}://{}{}",
                provider.name,
                base.scheme,
                base.authority(),
                join(&base.path, &self.path, None),
            );
            if let Some(model) = choice.model.as_deref().or(alias) {
                println!("            model there: {model}");
            }
            if let Some(dialect) = &provider.dialect {
                let said = match Surface::of(&self.path) {
                    Surface::Metered(surface) if !dialect.speaks(surface) => {
                        "; requests to this path are translated, and their path too"
                    }
                    _ => "",
                };
                println!("            dialect: {}{said}", dialect.dialect.as_str());
            }
            let key = match provider.credential {
                Some(_) => "its own api_key",
                None if provider.aws.is_some() => "signed with its own AWS keys",
                None if provider.renewed.is_some() => "a token of its own service account",
                None if snapshot.keys.is_open() => "the client's own",
                None => "none: keys of weir go no further",
            };
            println!("            credential: {key}");
            println!(
                "            road: {}",
                snapshot.egress.explain(&exit.endpoint).await
            );
        }
    }
}

/// Whose turn it is among the candidates.
fn order(snapshot: &Snapshot, found: Found) -> String {
    let balance = match found {
        Found::Model(route) => &snapshot.routes.models.route(route).balance,
        Found::Path(..) | Found::Default(_) => &Balance::RoundRobin,
    };
    let hash = match balance {
        Balance::RoundRobin => return "in turns, by weight".into(),
        Balance::Random => return "by chance, by weight".into(),
        Balance::LeastLoaded => return "the better of two, by load and first-byte time".into(),
        Balance::Hash(hash) => hash,
    };
    let by = match &hash.by {
        Affinity::Key => "the key, else the address".to_owned(),
        Affinity::User => "the user, else the key, else the address".to_owned(),
        Affinity::Header(name) => format!("the header {name}, else user, key or address"),
        Affinity::Prefix(bytes) => {
            format!(
                "the prompt's first {}, else user, key or address",
                Size(*bytes)
            )
        }
    };
    format!(
        "by hash of {by}; no one carries more than {} times its share",
        hash.bound
    )
}

/// The path of a request's target: without its query.
fn path(target: &str) -> Result<String, String> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    match path.starts_with('/') {
        true => Ok(path.to_owned()),
        false => Err("a path begins with `/`".to_owned()),
    }
}

/// Bytes as the configuration writes them: `32MiB`.
struct Size(usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            let whole = bytes.checked_shr(shift).unwrap_or_default();
            if whole > 0 && whole << shift == bytes {
                return write!(f, "{whole}{unit}");
            }
        }
        write!(f, "{bytes} bytes")
    }
}

fn rule(snapshot: &Snapshot, found: Found, settings: &crate::config::Settings) -> String {
    match found {
        Found::Model(route) => {
            format!(
                "model_routes \"{}\"",
                snapshot.routes.models.route(route).pattern
            )
        }
        Found::Path(_, entry) => {
            format!("target_map \"{}\"", settings.route.target_map[entry].0)
        }
        Found::Default(_) => "routing.default_provider".into(),
    }
}
