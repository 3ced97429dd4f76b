//! A program with data, moved by the network.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aleph_tests::{Aleph, Network, folder_with, reqwest_client, within};
use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Moved;
use crate::network::up;
use crate::stats::Samples;

/// How long ten gibibytes may take to be written, and to be copied.
const PATIENCE: Duration = Duration::from_secs(1200);

/// How many MiB are written for one request.
const PIECE_MIB: u64 = 512;

/// How often the program is asked while it moves.
const EVERY: Duration = Duration::from_millis(5);

/// How long the program writes before it is moved.
const WRITES_BEFORE: Duration = Duration::from_secs(3);

/// A network with a program that holds data.
pub(super) struct Holder {
    pub(super) network: Network,
    pub(super) aleph: Aleph,
    pub(super) program: String,
    http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Holder {
    /// Starts one with room for so much data.
    pub(super) async fn start(nodes: u16, mib: u64, arguments: &[&str], options: &[&str]) -> Self {
        // What is overwritten counts twice, in the volume and in its snapshots.
        let (volume, pool) = (mib * 2 + 400, (mib * 2 + 2048).to_string());
        let network = up(nodes, &[&["--pool-mib", &pool], arguments].concat()).await;
        let aleph = Aleph::of(&network);
        let folder = folder_with("main.py", include_str!("holder.py"));
        let volume = format!("name=data,mount=/data,size_mib={volume}");
        let options =
            [&["--persistent", "--persistent-volume", &volume, "--timeout-seconds", "1000"], options].concat();
        let program = aleph.upload(folder.path(), "main:app", &options).await;
        Self { network, aleph, program, http: reqwest_client(), _folder: folder }
    }

    /// Has the program do something, and says what came of it.
    pub(super) async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.network.program_url(&self.program));
        let answer = self.http.get(url).timeout(PATIENCE).send().await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.text().await?);
        Ok(answer.json().await?)
    }

    /// The node that runs it.
    pub(super) async fn node(&self) -> String {
        self.aleph.find(&self.program).await["node_url"].as_str().unwrap_or_default().to_owned()
    }

    /// A number that the program's node shows about it.
    async fn metric(&self, node: &str, name: &str) -> Option<f64> {
        let text = self.http.get(format!("{node}/metrics")).send().await.ok()?.text().await.ok()?;
        let start = format!("{name}{{program=\"{}\"}} ", self.program);
        text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
    }

    /// Waits until another node has everything that was written before.
    pub(super) async fn is_copied(&self) {
        let (node, since) = (self.node().await, Instant::now());
        within(PATIENCE, "the standby has everything", async || {
            let lag = self.metric(&node, "aleph_replication_lag_seconds").await?;
            (Duration::from_secs_f64(lag) < since.elapsed()).then_some(())
        })
        .await;
    }
}

/// Moves a program with so much data, at each rate so often.
pub(super) async fn move_there_and_back(mib: u64, rates: &[u32], runs: u32) -> anyhow::Result<Vec<Moved>> {
    let holder = Holder::start(2, mib, &[], &[]).await;
    eprintln!("bench: moves: {mib} MiB are written");
    // No request takes longer than clients wait.
    let mut left = mib;
    while left > 0 {
        let piece = left.min(PIECE_MIB);
        holder.ask(&format!("/fill/{piece}")).await?;
        left -= piece;
    }
    let mut all = Vec::new();
    for &rate in rates {
        let mut moved = Moved { rate, ..Moved::default() };
        for run in 1..=runs {
            eprintln!("bench: moves: {mib} MiB at {rate} MiB/s: run {run} of {runs}");
            holder.is_copied().await;
            move_once(&holder, &mut moved).await?;
        }
        all.push(moved);
    }
    Ok(all)
}

async fn move_once(holder: &Holder, moved: &mut Moved) -> anyhow::Result<()> {
    let from = holder.node().await;
    holder.ask(&format!("/rate/{}", moved.rate)).await?;
    sleep(WRITES_BEFORE).await;
    let sent = holder.metric(&from, "aleph_replication_sent_bytes_total").await.context("nothing is sent")?;
    let wrote = holder.ask("/").await?["answer"].as_f64().unwrap_or_default();
    let ended = Arc::new(AtomicBool::default());
    let asking = tokio::spawn(keep_asking(holder.network.program_url(&holder.program), ended.clone()));
    let watching =
        tokio::spawn(watch(holder.http.clone(), format!("{from}/metrics"), holder.program.clone(), ended.clone()));
    let began = Instant::now();
    let finished = holder.aleph.run(&["program", "move", &holder.program]).await;
    let whole = began.elapsed();
    ended.store(true, Ordering::Relaxed);
    ensure!(finished.code == 0, "the program does not move: {}", finished.stderr);
    ensure!(holder.node().await != from, "it has not moved");
    let (pause, last_written) = asking.await??;
    eprintln!("bench: moves: stopped for {:.2} s, {:.2} s in all", pause.as_secs_f64(), whole.as_secs_f64());
    moved.pauses.add(pause.as_secs_f64());
    moved.whole.add(whole.as_secs_f64());
    moved.sent_mib.add((watching.await?.max(sent) - sent) / f64::from(1 << 20));
    moved.written_mib.add((last_written.max(wrote) - wrote) / f64::from(1 << 20));
    Ok(())
}

/// The longest time between two answers, and what the program had written before.
async fn keep_asking(url: String, ended: Arc<AtomicBool>) -> anyhow::Result<(Duration, f64)> {
    let (http, mut last, mut longest, mut written) = (reqwest_client(), Instant::now(), Duration::ZERO, 0.0);
    loop {
        let has_ended = ended.load(Ordering::Relaxed);
        let answer = http.get(&url).timeout(PATIENCE).send().await;
        if let Some(answer) = answer.ok().filter(|answer| answer.status().is_success()) {
            let answer: Value = answer.json().await?;
            longest = longest.max(last.elapsed());
            last = Instant::now();
            written = answer["answer"].as_f64().unwrap_or_default().max(written);
            if has_ended {
                return Ok((longest, written));
            }
        }
        sleep(EVERY).await;
    }
}

/// The bytes that a node has sent for a program, until it is not that node's any more.
async fn watch(http: reqwest::Client, url: String, program: String, ended: Arc<AtomicBool>) -> f64 {
    let start = format!("aleph_replication_sent_bytes_total{{program=\"{program}\"}} ");
    let mut most = 0.0_f64;
    while !ended.load(Ordering::Relaxed) {
        if let Ok(answer) = http.get(&url).send().await {
            let text = answer.text().await.unwrap_or_default();
            let sent = text.lines().find_map(|line| line.strip_prefix(&start)?.parse::<f64>().ok());
            most = most.max(sent.unwrap_or_default());
        }
        sleep(EVERY).await;
    }
    most
}

/// Where a node keeps what a program printed.
pub(super) fn log_folder(holder: &Holder, node: &str) -> PathBuf {
    holder.network.node(node).data_dir.join("logs").join(&holder.program)
}

/// Numbers, for a table.
pub(super) fn of(samples: impl IntoIterator<Item = f64>) -> Samples {
    let mut all = Samples::default();
    all.extend(samples);
    all
}
