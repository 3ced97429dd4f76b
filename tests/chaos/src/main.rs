//! `make chaos RUNS=…`; see the library.

use std::process::ExitCode;
use std::time::Duration;

use aleph_chaos::fault::Fault;
use clap::Parser;

/// Hurts a network of real processes and checks that what is promised is kept.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many faults
    #[arg(long, default_value_t = 50)]
    runs: usize,
    /// Draws faults, victims and durations; of the clock if not given
    #[arg(long)]
    seed: Option<u64>,
    /// How many compute nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// How many programs without data
    #[arg(long, default_value_t = 3)]
    programs: usize,
    /// How many programs that write to volumes, all the time
    #[arg(long, default_value_t = 2)]
    writers: usize,
    /// How long a lease lasts
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    lease: Duration,
    /// How often nodes renew their leases
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    heartbeat: Duration,
    /// Only faults of which the name contains one of these, as "SIGSTOP" or "PostgreSQL"
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let chosen = |fault: &Fault| arguments.only.iter().any(|part| fault.to_string().contains(part));
    let faults: Vec<_> = Fault::all().into_iter().filter(chosen).collect();
    let faults = (!arguments.only.is_empty()).then_some(faults);
    let options = aleph_chaos::Options {
        runs: arguments.runs,
        seed: arguments.seed.unwrap_or_else(|| aleph_chaos::witness::now() / 1_000_000),
        nodes: arguments.nodes,
        programs: arguments.programs,
        writers: arguments.writers,
        lease: arguments.lease,
        heartbeat: arguments.heartbeat,
        faults,
    };
    let report = aleph_chaos::run(&options)?;
    println!("\n{report}");
    println!("Written to {}", report.write()?.display());
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
