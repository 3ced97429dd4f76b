//! Runs many worlds, or tells the story of one.

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use aleph_simulation::{Options, Outcome, Report, Tracing, Trap, fault_names, run, run_many};
use clap::Parser;

/// Lines of the story that are told of a seed that fails.
const LAST_LINES: usize = 120;
/// Failing seeds that are told at most.
const MAX_FAILURES: usize = 10;

/// Runs the pure cores in worlds with faults, one world a seed.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Tell the whole story of this seed instead.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads; as many as there are processors when absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Plant this mistake.
    #[arg(long)]
    trap: Option<Trap>,
    /// Kinds of faults that strike often and alone, separated by commas; by default every world draws its own.
    #[arg(long, value_delimiter = ',')]
    faults: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let named = |name: &String| fault_names().find(|known| known == name).ok_or(name.clone());
    let faults: Result<Option<Vec<_>>, String> =
        args.faults.as_ref().map(|names| names.iter().map(named).collect()).transpose();
    let faults = match faults {
        Ok(faults) => faults.map(|faults| &*faults.leak()),
        Err(name) => {
            eprintln!("there is no fault '{name}'; there are:");
            fault_names().for_each(|name| eprintln!("  {name}"));
            return ExitCode::FAILURE;
        }
    };
    let options = Options { trap: args.trap, faults, ..Options::default() };
    match args.seed {
        Some(seed) => tell(seed, &options),
        None => run_seeds(&args, &options),
    }
}

/// The whole story of one seed.
fn tell(seed: u64, options: &Options) -> ExitCode {
    let report = run(seed, &Options { trace: Tracing::Full, ..*options });
    for line in &report.trace {
        println!("{line}");
    }
    println!("{}", report.tally);
    verdict(&report)
}

fn verdict(report: &Report) -> ExitCode {
    match &report.violation {
        Some(violation) => {
            println!("seed {}: {violation}", report.seed);
            ExitCode::FAILURE
        }
        None => {
            println!("seed {}: every invariant held until {}", report.seed, report.ended);
            ExitCode::SUCCESS
        }
    }
}

fn run_seeds(args: &Args, options: &Options) -> ExitCode {
    let began = Instant::now();
    let threads = args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    let Outcome { tally, failed } = run_many(args.from..args.from + args.seeds, threads, options);
    for report in failed.iter().take(MAX_FAILURES) {
        tell_failure(report.seed, options, failed.len() == 1);
    }
    println!("seeds                {}", args.seeds);
    println!("violations           {}", failed.len());
    println!("{tally}");
    println!("time                 {:.1} s on {threads} threads", began.elapsed().as_secs_f64());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A seed that fails, with the end of its story; of several, only the verdicts and how to see more.
fn tell_failure(seed: u64, options: &Options, is_alone: bool) {
    let lines = if is_alone { LAST_LINES } else { 12 };
    let report = run(seed, &Options { trace: Tracing::Last(lines), ..*options });
    verdict(&report);
    for line in &report.trace {
        println!("    {line}");
    }
    println!("    the whole story: make simulate SEED={seed}\n");
}
