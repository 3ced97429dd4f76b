//! `make bench`: measures a real network of this machine beside what it should be compared with, in one run, and writes
//! tables on standard output and JSON into `target/bench/`. It is never too slow to succeed. See `docs/benchmarks.md`.

mod contestants;
mod failover;
mod fetch;
mod first_request;
mod haproxy;
mod http;
mod lists;
mod machine;
mod many;
mod memory;
mod messages;
mod moves;
mod network;
mod nginx;
mod report;
mod stats;
mod store;
mod streams;
mod warm;
mod wrk;

use std::time::Instant;

use anyhow::{Context, bail};

use crate::machine::Machine;
use crate::report::Measurement;

/// What there is to measure, in this order.
const NAMES: [&str; 10] =
    ["first_request", "fetch", "many", "warm", "streams", "memory", "failover", "messages", "lists", "moves"];

fn main() -> anyhow::Result<()> {
    let mut only: Vec<String> = std::env::args().skip(1).collect();
    let postgres = take_store(&mut only)?;
    if let Some(unknown) = only.iter().find(|name| !NAMES.contains(&name.as_str())) {
        bail!("there is no measurement '{unknown}'; choose of {}", NAMES.join(", "));
    }
    // While there is one thread only.
    machine::enter_own_namespace().context("cannot make a mount namespace: this needs root")?;
    let machine = Machine::look()?;
    println!("{machine}\n");
    for name in NAMES {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let began = Instant::now();
        eprintln!("bench: {name}");
        let measurement = measure(name, postgres).with_context(|| format!("cannot measure {name}"))?;
        measurement.print();
        let file = measurement.write(name, &machine)?;
        eprintln!("bench: {name} took {:.0} s, written to {}", began.elapsed().as_secs_f64(), file.display());
    }
    Ok(())
}

/// Takes `--store postgres` out of the arguments; tells whether it was there.
fn take_store(arguments: &mut Vec<String>) -> anyhow::Result<bool> {
    let Some(at) = arguments.iter().position(|argument| argument == "--store") else { return Ok(false) };
    let wanted: Vec<String> = arguments.drain(at..arguments.len().min(at + 2)).skip(1).collect();
    match wanted.first().map(String::as_str) {
        Some("postgres") => Ok(true),
        Some("sqlite") => Ok(false),
        _ => bail!("--store takes postgres, which is measured beside SQLite, or sqlite"),
    }
}

/// Measures on a runtime of its own, which has ended when this returns. With `postgres` the message node is also measured on
/// PostgreSQL.
fn measure(name: &str, postgres: bool) -> anyhow::Result<Measurement> {
    let environment = match name {
        "first_request" => &first_request::ENVIRONMENT[..],
        "many" => &many::ENVIRONMENT,
        "memory" => &memory::ENVIRONMENT,
        _ => &[],
    };
    for (key, value) in environment {
        // SAFETY: this process has one thread between measurements.
        unsafe { std::env::set_var(key, value) };
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measurement = match name {
        "first_request" => runtime.block_on(first_request::run()),
        "fetch" => runtime.block_on(fetch::run()),
        "many" => runtime.block_on(many::run()),
        "warm" => runtime.block_on(warm::run()),
        "streams" => runtime.block_on(streams::run()),
        "memory" => runtime.block_on(memory::run()),
        "failover" => runtime.block_on(failover::run()),
        "messages" => runtime.block_on(messages::run(postgres)),
        "lists" => runtime.block_on(lists::run(postgres)),
        _ => runtime.block_on(moves::run()),
    };
    drop(runtime);
    for (key, _) in environment {
        // SAFETY: as above.
        unsafe { std::env::remove_var(key) };
    }
    measurement
}
