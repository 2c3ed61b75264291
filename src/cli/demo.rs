//! `weir demo`

use super::echo;
use crate::app::{self, Bound, Fault, Source};
use crate::config;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Serves a built-in echo model.
#[derive(Debug, Args)]
pub struct Demo {
    /// Port for clients; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Port for health and metrics; 0 takes a free one
    #[arg(long, default_value_t = 9900)]
    admin_port: u16,
    /// Milliseconds between two words of the echo
    #[arg(long, default_value_t = 40)]
    pace: u64,
    /// Where the access log goes [default: weir-demo.log in the folder for temporary files]
    #[arg(long)]
    log: Option<PathBuf>,
}

impl Demo {
    /// Runs until Ctrl-C.
    pub fn run(&self) -> Result<(), Fault> {
        let model = echo::start(std::time::Duration::from_millis(self.pace))?;
        let log = match &self.log {
            Some(path) => path.clone(),
            None => std::env::temp_dir().join("weir-demo.log"),
        };
        let text = self.configuration(model, &log);
        let settings =
            config::parse(&text, "the demo's configuration", &|_| None).map_err(Fault::Mistakes)?;
        let source = Source::Given(Box::new(settings));
        app::run(&source, |bound| welcome(bound, &log))
    }

    fn configuration(&self, model: SocketAddr, log: &std::path::Path) -> String {
        // JSON is YAML, and quotes every path right.
        serde_json::json!({
            "listen": [format!("127.0.0.1:{}", self.port)],
            "admin": {"address": format!("127.0.0.1:{}", self.admin_port)},
            "model_routes": {"echo": format!("http://{model}/v1")},
            "logging": {"level": "warn", "format": "json", "file": {"path": log}},
        })
        .to_string()
    }
}

fn welcome(bound: &Bound, log: &std::path::Path) {
    let Some(address) = bound.clients.first() else {
        return;
    };
    println!(
        "weir is in front of a model that echoes what you say. Try:

  curl -N http://{address}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{\"model\":\"echo\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello from the weir\"}}]}}'

  python3 -c \"from openai import OpenAI
for event in OpenAI(base_url='http://{address}/v1', api_key='none').chat.completions.create(
    model='echo', stream=True, messages=[{{'role': 'user', 'content': 'Hello from the SDK'}}]):
    print(event.choices[0].delta.content or '', end='', flush=True)\"

Access log: {}",
        log.display()
    );
    if let Some(admin) = &bound.admin {
        println!("Metrics:    http://{admin}/metrics");
    }
    println!("Ctrl-C ends it.");
}
