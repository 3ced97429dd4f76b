//! `aleph node …`

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Color};
use protocol::api::scheduler::{NodeRecord, NodeStatus};

use crate::args::NodeCommand;
use crate::context::Context;
use crate::ids;
use crate::output::{printable, table};

/// Does what the command line says.
///
/// # Errors
/// Why it could not be done.
pub async fn run(context: &Context, command: NodeCommand) -> Result<()> {
    match command {
        NodeCommand::List { full } => list(context, full).await,
    }
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
    let (word, colour) = match node.status {
        NodeStatus::Healthy if node.draining.is_some() => ("draining", Color::Yellow),
        NodeStatus::Healthy => ("healthy", Color::Green),
        NodeStatus::Unreachable => ("unreachable", Color::Red),
        NodeStatus::Unknown => ("unknown", Color::Yellow),
        NodeStatus::Removed => ("removed", Color::DarkGrey),
    };
    Cell::new(word).fg(colour)
}
