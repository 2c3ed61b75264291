//! `weir dns`: what a running weir knows of names, and how to make it forget.

use super::ask::{Ask, aligned, read};
use crate::app::question::{DnsAnswer, DnsName, DnsServer, Flushed, Question};
use clap::{Args, Subcommand};
use serde_json::Value;

/// Looks into the DNS cache of a running weir.
#[derive(Debug, Args)]
pub struct Dns {
    #[command(flatten)]
    ask: Ask,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the names that are remembered, and the servers
    Dump {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Forget a name, or all, in every generation: the next request asks the servers
    Flush {
        /// Only this name
        name: Option<String>,
    },
}

impl Dns {
    /// Asks, and prints the answer.
    ///
    /// # Errors
    /// No weir answers, or one that doesn't know the question; what is to be flushed is no name.
    pub fn run(&self) -> Result<(), String> {
        match &self.what {
            What::Dump { json } => {
                let answers = self.ask.answers::<Value>(&Question::DnsDump, false)?;
                let answer = answers.into_iter().next().unwrap_or_default();
                if *json {
                    let text = serde_json::to_string_pretty(&answer);
                    println!("{}", text.map_err(|error| error.to_string())?);
                } else {
                    print!("{}", table(&read(answer)?));
                }
            }
            What::Flush { name } => {
                let question = Question::flush(name.clone())?;
                let answers = self.ask.answers::<Flushed>(&question, true)?;
                println!("{}", flushed(name.as_deref(), &answers));
            }
        }
        Ok(())
    }
}

/// The first answer is that of the generation that leads.
fn flushed(name: Option<&str>, answers: &[Flushed]) -> String {
    let forgotten = answers.first().copied().unwrap_or_default().flushed;
    let what = match (name, forgotten) {
        (Some(name), 0) => format!("{name} was not known"),
        (Some(name), _) => format!("{name} is forgotten"),
        (None, 1) => "1 name is forgotten".to_owned(),
        (None, count) => format!("{count} names are forgotten"),
    };
    match answers.len() {
        0 | 1 => what,
        count => format!("{what}, in {count} generations"),
    }
}

fn table(answer: &DnsAnswer) -> String {
    let mut names = vec![
        [
            "NAME",
            "ADDRESSES",
            "SOURCE",
            "FRESH",
            "STALE",
            "AGE",
            "USED",
            "NOTE",
        ]
        .map(str::to_owned),
    ];
    names.extend(answer.names.iter().map(name_row));
    let mut servers =
        vec![["SERVER", "QUERIES", "FAILURES", "LATENCY", "STATE"].map(str::to_owned)];
    servers.extend(answer.servers.iter().map(server_row));
    format!("{}\n{}", aligned(&names), aligned(&servers))
}

fn name_row(name: &DnsName) -> [String; 8] {
    let addresses: Vec<String> = name.addresses.iter().map(ToString::to_string).collect();
    let seconds = |seconds: f64| format!("{seconds}s");
    let mut notes = Vec::new();
    if name.missing && name.addresses.is_empty() {
        notes.push("no such name".to_owned());
    } else if name.missing {
        notes.push("no such name, not confirmed yet".to_owned());
    }
    if name.failures > 0 {
        let error = name.error.as_deref().unwrap_or("no answer");
        notes.push(format!("failed {} times: {error}", name.failures));
    }
    [
        name.name.clone(),
        if addresses.is_empty() {
            "-".to_owned()
        } else {
            addresses.join(",")
        },
        name.source.clone(),
        seconds(name.fresh_seconds),
        seconds(name.stale_seconds),
        seconds(name.age_seconds),
        format!("{} ago", seconds(name.idle_seconds)),
        notes.join("; "),
    ]
}

fn server_row(server: &DnsServer) -> [String; 5] {
    [
        server.address.to_string(),
        server.queries.to_string(),
        server.failures.to_string(),
        server
            .latency_ms
            .map_or_else(|| "-".to_owned(), |it| format!("{it}ms")),
        if server.silent { "silent" } else { "well" }.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_a_table_that_people_can_read() {
        let answer = DnsAnswer {
            names: vec![
                DnsName {
                    name: "api.example".into(),
                    addresses: vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()],
                    source: "dns".into(),
                    fresh_seconds: 12.5,
                    stale_seconds: 3612.5,
                    age_seconds: 47.5,
                    idle_seconds: 0.3,
                    missing: false,
                    failures: 2,
                    error: Some("no answer in time".into()),
                },
                DnsName {
                    name: "gone.example".into(),
                    addresses: Vec::new(),
                    source: "dns".into(),
                    fresh_seconds: 3.0,
                    stale_seconds: 0.0,
                    age_seconds: 2.0,
                    idle_seconds: 2.0,
                    missing: true,
                    failures: 0,
                    error: None,
                },
            ],
            servers: vec![DnsServer {
                address: ([192, 0, 2, 53], 53).into(),
                queries: 7,
                failures: 2,
                latency_ms: Some(1.5),
                silent: false,
            }],
        };
        let expected = "\
NAME          ADDRESSES            SOURCE  FRESH  STALE    AGE    USED      NOTE
api.example   192.0.2.1,192.0.2.2  dns     12.5s  3612.5s  47.5s  0.3s ago  failed 2 times: no answer in time
gone.example  -                    dns     3s     0s       2s     2s ago    no such name

SERVER        QUERIES  FAILURES  LATENCY  STATE
192.0.2.53:53  7        2         1.5ms    well
";
        assert_eq!(
            table(&answer),
            expected.replace("SERVER        ", "SERVER         ")
        );
    }

    #[test]
    fn a_flush_says_what_was_forgotten_and_where() {
        let two = Flushed { flushed: 2 };
        let none = Flushed::default();
        assert_eq!(flushed(None, &[two]), "2 names are forgotten");
        assert_eq!(
            flushed(None, &[two, none]),
            "2 names are forgotten, in 2 generations"
        );
        assert_eq!(
            flushed(Some("a.example"), &[none]),
            "a.example was not known"
        );
    }
}
