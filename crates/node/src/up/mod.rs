//! `aleph-node up`: a whole network on one machine, each part a process of its own.
//!
//! ```text
//!  port     process        data
//!  +0       message node   message-node/   + ledger.json, or a token on a chain
//!  +1       scheduler      scheduler/
//!  +2       gateway
//!  +3 …     compute nodes  nodes/1 …
//! ```
//! The network's authority (`authority.key`) publishes what clients look for: settings and runtime images. The first account
//! (`account/`, a configuration directory of the client) gets tokens in the ledger.

mod children;
mod layout;
mod publish;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use protocol::client::{MessageNode, Scheduler};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use self::children::{Child, Children};
use self::layout::Layout;
use crate::options::UpOptions;
use crate::roles;

/// How long everything together may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// How often readiness is asked for.
const ASK: Duration = Duration::from_millis(50);

/// Runs the network until it is asked to end.
pub(crate) async fn run(options: UpOptions, json: bool) -> anyhow::Result<()> {
    // Before anything is started, so that no signal is missed.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    lease::LeaseTimes::new(options.lease.config()).context("--heartbeat and --lease do not fit together")?;
    let layout = Layout::open(&options)?;
    layout.check_ports(options.nodes)?;
    let mut children = Children::new(layout.logs());
    let started = tokio::select! {
        started = start(&options, &layout, &mut children) => started,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("asked to end")),
    };
    if let Err(error) = started {
        children.end().await;
        return Err(error);
    }
    announce(&layout, &children, json)?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = children.report_ended() => {}
        }
    }
    eprintln!("ending the network; interrupt again to kill it");
    tokio::select! {
        () = children.end() => {}
        _ = interrupt.recv() => children.kill(),
    }
    Ok(())
}

/// Starts all parts in order and waits until each works.
async fn start(options: &UpOptions, layout: &Layout, children: &mut Children) -> anyhow::Result<()> {
    let progress = spinner();
    let deadline = Instant::now() + READY_WITHIN;

    progress.set_message("message node");
    let runtimes = roles::installation()?.runtimes;
    let images = publish::images(layout, &runtimes)?;
    let alias = publish::public_runtime(&images, &runtimes)?;
    let (arguments, environment) = layout.message_node_arguments(options, &alias);
    children.start_with(Child::MessageNode, arguments, environment).await?;
    let message_node = MessageNode::new(layout.message_node_url());
    progress.set_message("runtime images");
    publish::publish_images(layout, &message_node, images).await?;

    progress.set_message("scheduler");
    children.start(Child::Scheduler, layout.scheduler_arguments(options)).await?;
    let scheduler = Scheduler::new(layout.scheduler_url());
    let address = scheduler.health().await.context("the scheduler does not say who it is")?.address;

    publish::publish_settings(layout, &message_node, &address).await?;

    progress.set_message("gateway");
    children.start(Child::Gateway, layout.gateway_arguments()).await?;
    for number in 1..=options.nodes {
        progress.set_message(format!("compute node {number}"));
        children
            .start(Child::ComputeNode(number), layout.compute_node_arguments(options, number, &address, &alias))
            .await?;
    }
    progress.set_message("waiting for the compute nodes to connect");
    loop {
        let health = scheduler.health().await.context("the scheduler stopped answering")?;
        if health.nodes_healthy >= u32::from(options.nodes) {
            break;
        }
        children.check()?;
        if Instant::now() >= deadline {
            bail!(
                "only {} of {} compute nodes connected to the scheduler within {} s; their logs are in {}",
                health.nodes_healthy,
                options.nodes,
                READY_WITHIN.as_secs(),
                layout.logs().display()
            );
        }
        sleep(ASK).await;
    }
    let nodes = scheduler.nodes().await.context("the scheduler stopped answering")?;
    for number in 1..=options.nodes {
        let url = layout.compute_node_url(number);
        let node = nodes.iter().find(|node| node.address == url);
        children.set_node_id(number, node.context("a compute node that is connected is listed")?.node_hash.to_string());
    }
    progress.finish_and_clear();
    Ok(())
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("a valid template"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Says where everything is: one line of JSON, or a few for people.
fn announce(layout: &Layout, children: &Children, json: bool) -> anyhow::Result<()> {
    let nodes: Vec<_> = children
        .compute_nodes()
        .map(|(number, pid, id)| {
            json!({
                "id": id,
                "url": layout.compute_node_url(number),
                "pid": pid,
                "data_dir": layout.compute_node_data(number),
            })
        })
        .collect();
    let account = json!({ "address": layout.account_address(), "private_key_file": layout.account_key() });
    if json {
        let line = json!({
            "message_node": { "url": layout.message_node_url(), "pid": children.pid(Child::MessageNode) },
            "scheduler": { "url": layout.scheduler_url(), "pid": children.pid(Child::Scheduler) },
            "compute_nodes": nodes,
            "account": account,
            "gateway": layout.gateway_url(),
            "gateway_pid": children.pid(Child::Gateway),
        });
        println!("{line}");
        return Ok(std::io::stdout().flush()?);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "The network runs. Ctrl-C ends it; the same directory brings it back.")?;
    writeln!(out, "  message node  {}", layout.message_node_url())?;
    writeln!(out, "  scheduler     {}", layout.scheduler_url())?;
    writeln!(out, "  gateway       {}", layout.gateway_url())?;
    for (number, _, id) in children.compute_nodes() {
        writeln!(out, "  compute node  {}  {id}", layout.compute_node_url(number))?;
    }
    writeln!(out, "  account       {}", layout.account_address())?;
    writeln!(out, "  data and logs {}", layout.root().display())?;
    if std::io::stdout().is_terminal() {
        writeln!(out, "\nUse it from another terminal:\n")?;
        writeln!(out, "  export ALEPH_API_HOST={}", layout.message_node_url())?;
        writeln!(out, "  export ALEPH_CONFIG_HOME={}", layout.account_home().display())?;
        writeln!(out, "  aleph program upload --persistent ./src/ main:app")?;
    }
    Ok(())
}
