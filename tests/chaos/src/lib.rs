//! `make chaos`: real faults on the real processes of a network of several hosts.
//!
//! ```text
//!   faults ──▶ hosts (network namespaces), each with its part of a network ◀── requests, all the time
//!                │ programs write into their nodes' logs     │ their processes           │ answers
//!                ▼                                           ▼                           ▼
//!              the witness: who believed to run, when  ──▶  check: overlaps, stale answers, gaps  ◀── signed histories
//! ```
//! One fault at a time, healed after a while; the next one comes when everything is well again. It needs root and what `make
//! test` builds.

pub mod check;
mod daemon;
pub mod data;
pub mod fault;
mod history;
pub mod hosts;
mod inject;
pub mod load;
mod publish;
mod remains;
pub mod report;
mod start;
mod story;
pub mod witness;
mod world;

use std::time::Duration;

use anyhow::Context;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio_util::sync::CancellationToken;

use crate::fault::Fault;
use crate::hosts::{Hosts, Place};
use crate::remains::Remains;
use crate::report::Report;

/// What is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many faults.
    pub runs: usize,
    /// Draws them, their victims and how long they last.
    pub seed: u64,
    /// How many compute nodes.
    pub nodes: usize,
    /// How many programs without data.
    pub programs: usize,
    /// How many programs that write to volumes, all the time.
    pub writers: usize,
    /// How long a lease lasts.
    pub lease: Duration,
    /// How often nodes renew theirs.
    pub heartbeat: Duration,
    /// Only these faults, in this order over and over; of all, one after the other as drawn, when absent.
    pub faults: Option<Vec<Fault>>,
}

impl Default for Options {
    fn default() -> Self {
        let (lease, heartbeat) = (Duration::from_secs(3), Duration::from_millis(500));
        Self { runs: 50, seed: 1, nodes: 3, programs: 3, writers: 0, lease, heartbeat, faults: None }
    }
}

impl Options {
    /// After which time a program whose node is gone may be started elsewhere.
    pub fn lease_and_margin(&self) -> Duration {
        self.lease.mul_f64(1.02) + Duration::from_millis(100)
    }
}

/// Makes a network, hurts it as often as asked for, and says what came of it.
///
/// # Errors
/// When the network does not start, or it is interrupted twice.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let remains = Remains::new(options.nodes)?;
    let hosts = Hosts::new(options.nodes);
    let report = hosts.at(Place::Client).run(|| {
        // Disks are mounted for this thread and what it starts.
        // SAFETY: descriptors are shared as before, and nothing of this thread depends on its mounts.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("cannot make a mount namespace: this needs root")?;
        let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
        mount_change("/", private).context("cannot make mounts private")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let enough = CancellationToken::new();
            let told = story::tell(options, &hosts, remains.root(), enough.clone());
            let interrupted = async {
                // The fault that is under way is healed, and what came of all of them is said.
                let _ = tokio::signal::ctrl_c().await;
                eprintln!("chaos: no more faults; interrupt again to end at once");
                enough.cancel();
                let _ = tokio::signal::ctrl_c().await;
            };
            tokio::select! {
                report = told => report,
                () = interrupted => Err(anyhow::anyhow!("interrupted")),
            }
        })
    });
    if report.as_ref().map_or(true, |report| !report.holds()) {
        let folder = remains.keep_logs(options.seed)?;
        eprintln!("chaos: the logs of all parts are in {}", folder.display());
    }
    report
}
