//! The command line: one file a verb.

mod ask;
mod check;
mod completions;
mod demo;
mod dns;
mod echo;
mod explain;
mod keys;
mod run;
mod serve;
mod usage;

use crate::app::{Fault, Source};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// An edge proxy for LLM traffic: routes each request to the right model server, streams without
/// delay, counts every token.
#[derive(Debug, Parser)]
#[command(name = "weir", version, propagate_version = true, after_help = ENVIRONMENT)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const ENVIRONMENT: &str = "\
Without a file weir listens on port 8080 and serves what the environment names:
  OPENAI_API_KEY  OpenAI, or the API at OPENAI_BASE_URL
  OLLAMA_BASE     Ollama, such as http://localhost:11434
With both, OpenAI's model names go to OpenAI and all else goes to Ollama.
HTTPS_PROXY names the proxy on the way there, and NO_PROXY the hosts without one.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve until SIGTERM (finishes open requests) or SIGINT (ends at once); SIGHUP reloads, SIGUSR1
    /// reopens logs, SIGUSR2 upgrades
    #[command(after_help = ENVIRONMENT)]
    Run(run::Run),
    /// One generation of a supervised weir; `weir run` starts it
    #[command(hide = true)]
    Serve(serve::Serve),
    /// Make live what is on disk: the configuration, and the program where it was replaced
    Reload(ask::Ask),
    /// Start a new generation of the program on disk; the old one finishes what it carries
    Upgrade(ask::Ask),
    /// Tell of the generations: their connections and streams, how the last reload ended
    Status(ask::AskStatus),
    /// Look into the DNS cache of a running weir, or empty it
    Dns(dns::Dns),
    /// Make, list, revoke and replace keys of teams, without a reload
    Keys(keys::Keys),
    /// Check the configuration and report all mistakes at once, without serving
    Check(File),
    /// Tell where a request would go and why, without sending anything
    Explain(explain::Explain),
    /// Sum up what requests used, by team, key, model, provider or day; compare it with a provider's
    /// export
    Usage(Box<usage::Usage>),
    /// Serve a built-in echo model: no key, no network
    Demo(demo::Demo),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// The configuration's file.
#[derive(Debug, Args)]
struct File {
    /// Configuration file [default: /etc/weir/weir.yaml, or the environment alone where that file
    /// isn't there and OPENAI_API_KEY or OLLAMA_BASE is set]
    #[arg(
        short = 'c',
        long = "config",
        visible_short_alias = 'f',
        value_name = "FILE"
    )]
    config: Option<PathBuf>,
}

impl File {
    fn source(&self) -> Source {
        const DEFAULT: &str = "/etc/weir/weir.yaml";
        match &self.config {
            Some(path) => Source::File(path.clone()),
            None if std::path::Path::new(DEFAULT).exists() => Source::File(DEFAULT.into()),
            None => Source::Environment,
        }
    }
}

impl Cli {
    /// Runs the verb; mistakes go to standard error.
    pub fn run(self) -> ExitCode {
        let done = match self.verb {
            Verb::Run(run) => run.run(),
            Verb::Serve(serve) => serve.run(),
            Verb::Reload(ask) => ask.reload().map_err(Fault::Unusable),
            Verb::Upgrade(ask) => ask.upgrade().map_err(Fault::Unusable),
            Verb::Status(ask) => ask.run().map_err(Fault::Unusable),
            Verb::Dns(dns) => dns.run().map_err(Fault::Unusable),
            Verb::Keys(keys) => keys.run(),
            Verb::Check(file) => check::check(&file.source()),
            Verb::Explain(explain) => explain.run(),
            Verb::Usage(usage) => usage.run(),
            Verb::Demo(demo) => demo.run(),
            Verb::Completions(completions) => {
                completions.print();
                Ok(())
            }
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(fault) => {
                eprintln!("{fault}");
                ExitCode::FAILURE
            }
        }
    }
}
