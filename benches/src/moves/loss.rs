//! What a crash costs: writes that were on no other node yet.

use std::time::Duration;

use aleph_tests::{signal, within};
use anyhow::Context;
use rustix::process::Signal;
use serde_json::json;

use super::ours::{Holder, log_folder, of};
use crate::report::{Measurement, Table};
use crate::stats::{Samples, seconds};

/// How often what was written is sent.
const INTERVALS: [&str; 3] = ["250ms", "1s", "5s"];
const RUNS: u32 = 7;
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn measure(measurement: &mut Measurement) -> anyhow::Result<()> {
    let columns = ["interval", "n", "lost, median", "max", "said, median", "max"];
    let mut table = Table::new("SIGKILL of a node: seconds of writes lost, and what the history says", &columns);
    for interval in INTERVALS {
        let (lost, said) = crashes(interval).await?;
        table.row(vec![
            interval.to_owned(),
            lost.len().to_string(),
            seconds(lost.median()),
            seconds(lost.max()),
            seconds(said.median()),
            seconds(said.max()),
        ]);
        measurement.results.push(json!({ "interval": interval, "lost": lost.to_json(), "said": said.to_json() }));
    }
    measurement.tables.push(table);
    measurement.notes.push(
        "What the history says is counted until the lease was over, as nobody knows when the node died: so about a lease more."
            .to_owned(),
    );
    Ok(())
}

/// Seconds lost, and seconds that were said to be at most.
async fn crashes(interval: &str) -> anyhow::Result<(Samples, Samples)> {
    let holder = Holder::start(3, 100, &["--snapshot-interval", interval], &["--env", "BENCH_RECORDS=1"]).await;
    let mut lost = Samples::default();
    for run in 1..=RUNS {
        eprintln!("bench: moves: SIGKILL at an interval of {interval}: run {run} of {RUNS}");
        holder.is_copied().await;
        // At no fixed time after a snapshot.
        tokio::time::sleep(Duration::from_millis(2000 + u64::from(run) * 137)).await;
        let (from, epoch) = (holder.node().await, epoch(&holder).await);
        let node = holder.network.node(&from);
        // The agent would start it again on the spot: for it the machine stands still.
        node.signal(Signal::STOP);
        node.supervisors().into_iter().for_each(|pid| signal(pid, Signal::KILL));
        within(PATIENCE, "it runs on another node", async || {
            let found = holder.aleph.find(&holder.program).await;
            (found["state"] == "ready" && found["epoch"].as_u64() > Some(epoch)).then_some(())
        })
        .await;
        let before = lines(&holder, &from)?;
        let after = lines(&holder, &holder.node().await)?;
        let found =
            after.iter().rev().find_map(|line| line.strip_prefix("found ")?.split(' ').nth(1)?.parse::<u64>().ok());
        let found = found.context("the program did not say what it found")?;
        let writes: Vec<(u64, u64)> = before.iter().filter_map(|line| wrote(line, epoch)).collect();
        let last = writes.last().context("the program wrote nothing")?.1;
        let kept = writes.iter().rev().find(|(number, _)| *number <= found).map_or(writes[0].1, |(_, at)| *at);
        lost.add(Duration::from_nanos(last - kept).as_secs_f64());
        node.signal(Signal::CONT);
    }
    let history = holder.aleph.json(&["program", "history", &holder.program]).await;
    let entries = history["entries"].as_array().context("no history")?;
    let said = entries.iter().filter_map(|entry| entry["at_most_ms"].as_f64()).map(|ms| ms / 1000.0);
    Ok((lost, of(said)))
}

async fn epoch(holder: &Holder) -> u64 {
    holder.aleph.find(&holder.program).await["epoch"].as_u64().unwrap_or_default()
}

fn lines(holder: &Holder, node: &str) -> anyhow::Result<Vec<String>> {
    let lines = sandbox::logs::read_tail(&log_folder(holder, node), usize::MAX)?;
    Ok(lines.into_iter().map(|line| line.message).collect())
}

/// `wrote EPOCH NUMBER NANOSECONDS` of this epoch.
fn wrote(line: &str, epoch: u64) -> Option<(u64, u64)> {
    let mut words = line.strip_prefix("wrote ")?.split(' ').map(str::parse::<u64>);
    let (of, number, at) = (words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?);
    (of == epoch).then_some((number, at))
}
