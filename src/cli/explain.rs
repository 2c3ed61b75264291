//! `weir explain`

use super::File;
use crate::app::{self, Fault};
use crate::proxy::model_in_path;
use crate::route::{Found, join};
use crate::snapshot::Snapshot;
use clap::Args;

/// Tells where a request would go and why.
#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    file: File,
    /// The request's path
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// The model that the request names
    #[arg(long)]
    model: Option<String>,
    /// The caller's key (not built yet)
    #[arg(long)]
    key: Option<String>,
}

impl Explain {
    /// Prints rule, candidates, road and limits. Resolves names; sends nothing to an upstream.
    pub fn run(&self) -> Result<(), Fault> {
        if self.key.is_some() {
            return Err(Fault::Unusable("not built yet: --key".into()));
        }
        let settings = self.file.source().load()?;
        let snapshot = app::offline(&settings)?;
        let model = self.model.as_deref().or_else(|| model_in_path(&self.path));
        println!("path:       {}", self.path);
        println!("model:      {}", model.unwrap_or("(none)"));
        match snapshot.routes.find(&self.path, model) {
            Err(missing) => println!("answer:     404, {missing}"),
            Ok(found) => {
                println!("rule:       {}", rule(&snapshot, found, &settings));
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(self.candidates(&snapshot, found));
            }
        }
        let govern = &settings.govern;
        match govern.rate_limit {
            Some(limit) => println!(
                "limits:     {} requests/s per address, burst {}",
                limit.per_second, limit.burst
            ),
            None => println!("limits:     no rate limit"),
        }
        println!(
            "            {} requests in flight, body up to {} bytes, {} bytes buffered in all",
            govern.in_flight_max, govern.body_bytes_max, govern.buffered_bytes_max
        );
        Ok(())
    }

    async fn candidates(&self, snapshot: &Snapshot, found: Found) {
        for choice in snapshot.group(found).choices() {
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
            if let Some(model) = &choice.model {
                println!("            model there: {model}");
            }
            let key = match provider.authorization {
                Some(_) => "its own api_key",
                None => "the client's own",
            };
            println!("            credential: {key}");
            println!(
                "            road: {}",
                snapshot.egress.explain(&exit.endpoint).await
            );
        }
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
