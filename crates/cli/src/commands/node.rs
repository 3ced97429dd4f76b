//! `aleph node …`

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Color};
use protocol::api::scheduler::{NodeRecord, NodeStatus, VmRecord};
use protocol::operation::{Operation, SignedOrder};

use crate::args::NodeCommand;
use crate::context::{Context, ask};
use crate::failure::{Code, Failure};
use crate::ids;
use crate::output::{facts, printable, table};

/// Does what the command line says.
///
/// # Errors
/// Why it could not be done.
pub async fn run(context: &Context, command: NodeCommand) -> Result<()> {
    match command {
        NodeCommand::List { full } => list(context, full).await,
        NodeCommand::Show { id } => show(context, &id).await,
        NodeCommand::Drain { id, reason } => {
            let node = find(context, &id).await?.node_hash;
            order(context, Operation::Drain { node, reason }).await
        }
        NodeCommand::Undrain { id } => {
            let node = find(context, &id).await?.node_hash;
            order(context, Operation::Undrain { node }).await
        }
        NodeCommand::Lost { id, yes } => {
            let node = find(context, &id).await?;
            let is_sure = yes || (context.out.can_ask() && ask(&is_gone(&node), false)?);
            if !is_sure {
                return Err(Failure::usage(format!("{} It needs --yes", is_gone(&node)))
                    .hint("without it, programs move by themselves when the node's leases are over")
                    .into());
            }
            order(context, Operation::Lost { node: node.node_hash }).await
        }
        NodeCommand::Resume => order(context, Operation::Resume).await,
    }
}

fn is_gone(node: &NodeRecord) -> String {
    format!(
        "Is the machine of {} ({}) gone for good? If anything of it still runs, programs will run twice.",
        printable(&node.name),
        ids::short(&node.node_hash)
    )
}

/// Has the leading scheduler carry out an order.
///
/// # Errors
/// Why it is not carried out.
pub(super) async fn give(context: &Context, operation: &Operation) -> Result<()> {
    let account = context.account()?;
    let leader = context.network().await?.leader().await?;
    let signed = SignedOrder::new(&account, leader.health.address, chrono::Utc::now(), operation.clone());
    Ok(leader.scheduler.order(&signed).await?)
}

async fn order(context: &Context, operation: Operation) -> Result<()> {
    give(context, &operation).await?;
    context.out.result(&operation, || {
        match &operation {
            Operation::Drain { .. } => {
                "It gets no new programs, and those that it has move as soon as others have room."
            }
            Operation::Undrain { .. } => "It gets programs again.",
            Operation::Lost { .. } => "Its programs are assigned again.",
            Operation::Resume => "Reallocation goes on.",
            Operation::Move { .. } => "It moves.",
            Operation::CancelMove { .. } => "It stays where it is.",
            Operation::Restore { .. } => "It goes back to the snapshot.",
        }
        .to_owned()
            + "\n"
    })
}

/// The node with this id, or the only one whose id begins like that.
///
/// # Errors
/// [`Failure`] when there is none, or several.
pub(super) async fn find(context: &Context, id: &str) -> Result<NodeRecord> {
    let start = id.trim().to_ascii_lowercase();
    let mut nodes = context.network().await?.nodes().await?;
    nodes.retain(|node| node.node_hash.to_string().starts_with(&start));
    let hint = "`aleph node list --full` shows all ids";
    match (nodes.len(), start.len() >= 8) {
        (1, true) => Ok(nodes.remove(0)),
        (_, false) => Err(Failure::usage(format!("'{id}' is too short to name a node")).hint(hint).into()),
        (0, true) => Err(Failure::new(Code::NotFound, format!("there is no node {id}")).hint(hint).into()),
        _ => Err(Failure::new(Code::Ambiguous, format!("several nodes begin with {id}")).hint(hint).into()),
    }
}

async fn show(context: &Context, id: &str) -> Result<()> {
    let node = find(context, id).await?;
    let network = context.network().await?;
    let programs = network.programs_on(&node.node_hash).await?;
    let value = serde_json::json!({ "node": node, "programs": programs });
    context.out.result(&value, || {
        let mut text = facts([
            ("ID", Some(node.node_hash.to_string())),
            ("Name", Some(printable(&node.name))),
            ("URL", Some(printable(&node.address))),
            ("Owner", Some(node.owner.to_string())),
            ("Status", Some(status_words(&node).0.to_owned())),
            ("Draining", node.draining.as_deref().map(printable)),
            ("Software", node.software.as_deref().map(printable)),
            ("Free processors", Some(format!("{} of {}", node.vcpus_available, node.vcpus_total))),
            ("Free memory", Some(format!("{} of {} MiB", node.memory_mb_available, node.memory_mb_total))),
            ("Free disk", Some(format!("{} of {} MiB", node.disk_mb_available, node.disk_mb_total))),
        ]);
        if !programs.is_empty() {
            text.push('\n');
            text += &table(["PROGRAM", "NAME", "STATE", "EPOCH"], programs.iter().map(program_row));
        }
        text
    })
}

fn program_row(vm: &VmRecord) -> [Cell; 4] {
    [
        Cell::new(vm.vm_hash),
        Cell::new(printable(vm.name.as_deref().unwrap_or_default())),
        Cell::new(vm.state.as_str()),
        Cell::new(vm.epoch.map_or_else(String::new, |epoch| epoch.to_string())),
    ]
}

async fn list(context: &Context, full: bool) -> Result<()> {
    let mut nodes = context.network().await?.nodes().await?;
    nodes.sort_by(|a, b| (&a.name, a.node_hash).cmp(&(&b.name, b.node_hash)));
    if nodes.is_empty() {
        context.out.note("The scheduler knows no compute nodes.");
    }
    context.out.result(&nodes, || match nodes.is_empty() {
        true => String::new(),
        false => table(
            ["ID", "NAME", "URL", "STATUS", "FREE VCPUS", "FREE MEMORY", "PROGRAMS"],
            nodes.iter().map(|node| row(node, full)),
        ),
    })
}

fn row(node: &NodeRecord, full: bool) -> [Cell; 7] {
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    [
        Cell::new(if full { node.node_hash.to_string() } else { ids::short(&node.node_hash) }),
        Cell::new(printable(&node.name)),
        Cell::new(printable(&node.address)),
        status(node),
        right(format!("{}/{}", node.vcpus_available, node.vcpus_total)),
        right(format!("{}/{} MiB", node.memory_mb_available, node.memory_mb_total)),
        right(node.vm_count.to_string()),
    ]
}

fn status(node: &NodeRecord) -> Cell {
    let (word, colour) = status_words(node);
    Cell::new(word).fg(colour)
}

fn status_words(node: &NodeRecord) -> (&'static str, Color) {
    match node.status {
        NodeStatus::Healthy if node.draining.is_some() => ("draining", Color::Yellow),
        NodeStatus::Healthy => ("healthy", Color::Green),
        NodeStatus::Unreachable => ("unreachable", Color::Red),
        NodeStatus::Unknown => ("unknown", Color::Yellow),
        NodeStatus::Removed => ("removed", Color::DarkGrey),
    }
}
