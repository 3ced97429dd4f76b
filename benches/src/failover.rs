//! A compute node is killed with everything of it: how long until the same URL answers again, from another node.

use aleph_tests::{Aleph, Network};
use anyhow::ensure;
use serde_json::json;
use tokio::time::Instant;

use crate::contestants::App;
use crate::http::first_200;
use crate::network::{gateway_port, up};
use crate::report::{Measurement, Table};
use crate::stats::{Samples, ratio, seconds};

/// How often, each time with a new network.
const RUNS: u32 = 5;
const NODES: u16 = 3;

/// The constants of leases: those of `aleph-node up`, said here so that the result can be compared with them.
const HEARTBEAT_SECONDS: u32 = 1;
const LEASE_SECONDS: u32 = 5;

pub(crate) async fn run() -> anyhow::Result<Measurement> {
    let mut measurement = Measurement {
        settings: json!({
            "runs": RUNS, "nodes": NODES, "lease_seconds": LEASE_SECONDS, "heartbeat_seconds": HEARTBEAT_SECONDS,
        }),
        results: Vec::new(),
        tables: Vec::new(),
        notes: Vec::new(),
    };
    let apps = [(App::Fastapi, RUNS), (App::Static, RUNS)];
    let title = format!("Failover: lease {LEASE_SECONDS} s, heartbeat {HEARTBEAT_SECONDS} s, {NODES} compute nodes");
    let columns = ["persistent program", "n", "median", "max", "median ÷ lease", "not 200 meanwhile"];
    let mut table = Table::new(title, &columns);
    for (app, runs) in apps {
        let (mut times, mut refused) = (Samples::default(), Vec::new());
        for run in 1..=runs {
            eprintln!("bench: failover: {}: run {run} of {runs}", app.name());
            let (seconds, others) = fail_over(app).await?;
            times.add(seconds);
            refused.extend(others);
        }
        table.row(vec![
            app.name().to_owned(),
            times.len().to_string(),
            seconds(times.median()),
            seconds(times.max()),
            ratio(times.median(), LEASE_SECONDS.into()),
            refused.len().to_string(),
        ]);
        measurement.results.push(json!({ "app": app.name(), "seconds": times.to_json(), "refused": refused }));
    }
    measurement.tables.push(table);
    Ok(measurement)
}

/// Seconds from the kill to the answer of the next copy, and what was answered instead before.
async fn fail_over(app: App) -> anyhow::Result<(f64, Vec<String>)> {
    let (heartbeat, lease) = (format!("{HEARTBEAT_SECONDS}s"), format!("{LEASE_SECONDS}s"));
    let network = up(NODES, &["--heartbeat", &heartbeat, "--lease", &lease]).await;
    let aleph = Aleph::of(&network);
    let (folder, entrypoint, options) = app.upload();
    let program = aleph.upload(&folder, entrypoint, &[options, &["--persistent"]].concat()).await;
    let path = format!("/vm/{program}/");
    first_200(Instant::now(), gateway_port(&network), &path).await?;
    let before = place(&network, &aleph, &program).await;
    let began = Instant::now();
    network.node(&before).kill_everything();
    let first = first_200(began, gateway_port(&network), &path).await?;
    let after = place(&network, &aleph, &program).await;
    ensure!(after != before, "the program still answers from {before}, which was killed");
    Ok((first.seconds, first.refused))
}

/// Which node has it, as the client says.
async fn place(network: &Network, aleph: &Aleph, program: &str) -> String {
    let found = aleph.find(program).await;
    network.node(found["node_url"].as_str().unwrap_or_default()).url.clone()
}
