//! Troubles weir at random, from a seed, and ends with status 1 where something didn't hold. See
//! `perf/README.md`.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use weir_perf::Result;
use weir_perf::chaos::{report, run};

#[derive(Parser)]
#[command(about = "Runs weir between failing model servers and misbehaving clients")]
struct Arguments {
    /// What decides all faults and acts; without it a new one, which is printed.
    #[arg(long)]
    seed: Option<u32>,
    /// How long the chaos lasts.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How long the calm before it lasts, to compare with.
    #[arg(long, default_value_t = 10)]
    calm: u64,
    /// Acts of clients a second.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Acts at once: each has a connection at weir and one behind it.
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u32).range(1..=200))]
    acts: u32,
    /// The program.
    #[arg(long, default_value = "target/debug/weir")]
    weir: PathBuf,
    /// Where the outcome is written as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// A folder for weir's files, which is kept; without it one that is removed when all is well.
    #[arg(long)]
    folder: Option<PathBuf>,
}

fn main() -> ExitCode {
    match chaos(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}

fn chaos(arguments: Arguments) -> Result<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(|| weir_perf::now_ns() as u32);
    println!("seed {seed}");
    let options = run::Options {
        seed,
        calm: Duration::from_secs(arguments.calm),
        chaos: Duration::from_secs(arguments.seconds),
        rate: arguments.rate,
        acts_max: arguments.acts,
        weir: arguments.weir.canonicalize().unwrap_or(arguments.weir),
    };
    let kept = arguments.folder.is_some();
    let own = || std::env::temp_dir().join(format!("weir-chaos-{}", std::process::id()));
    let folder = arguments.folder.unwrap_or_else(own);
    std::fs::create_dir_all(&folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let outcome = local.block_on(&runtime, run::run(options.clone(), &folder))?;
    if let Some(path) = arguments.json {
        std::fs::write(path, report::json(&options, &outcome).to_string())?;
    }
    print!("{}", report::table(&options, &outcome));
    if outcome.violations.is_empty() {
        if !kept {
            std::fs::remove_dir_all(&folder)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::write(folder.join("weir.log"), outcome.last_words.join("\n"))?;
    println!("weir's files are in {}", folder.display());
    Ok(ExitCode::FAILURE)
}
