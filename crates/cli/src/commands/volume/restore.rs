//! `aleph volume restore`: has the scheduler start a program with a snapshot of the archive, and follows.

use std::time::Duration;

use anyhow::Result;
use protocol::ProgramId;
use protocol::api::scheduler::VmRecord;
use protocol::client::ArchiveError;
use protocol::data::SnapshotId;
use protocol::operation::Operation;
use serde_json::json;
use tokio::time::Instant;

use super::download::cannot_be_restored;
use super::{archive, failure};
use crate::args::RestoreArgs;
use crate::commands::node;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{facts, printable};
use crate::{ids, waiting};

/// Orders it.
///
/// # Errors
/// Why the program does not run with the snapshot.
pub(super) async fn restore(context: &Context, args: RestoreArgs) -> Result<()> {
    let program = ids::program(context, &args.program).await?;
    let network = context.network().await?;
    let before = network.vm(&program).await?.ok_or_else(|| {
        Failure::new(Code::NotFound, format!("the scheduler knows no persistent program {program}"))
            .hint("only persistent programs have volumes that can be restored")
    })?;
    check(context, &program, args.snapshot).await?;
    node::give(context, &Operation::Restore { program, snapshot: args.snapshot }).await?;
    let goes_on = format!("It goes on: look with `aleph program find {program}`.");
    if args.no_wait {
        let value = json!({ "item_hash": program, "outcome": "ordered", "snapshot": args.snapshot });
        return context.out.result(&value, || goes_on);
    }
    context.interruption.leaves(goes_on);
    let deadline = Instant::now() + Duration::from_secs(args.wait_seconds);
    let record = waiting::until_restored(context, network, &before, args.snapshot, deadline).await?;
    report(context, args.snapshot, &record)
}

/// The program is not stopped for a snapshot that cannot be had. Operators do not see the archive; its node does.
async fn check(context: &Context, program: &ProgramId, snapshot: SnapshotId) -> Result<()> {
    match archive(context)?.list(program).await {
        Ok(list) if list.chain_of(snapshot).is_some() => Ok(()),
        Ok(_) => Err(cannot_be_restored(snapshot, program).into()),
        Err(ArchiveError::Refused { code: protocol::api::archive::ArchiveCode::NotAllowed, .. }) => {
            context
                .out
                .warn("this account does not see the archive: whether the snapshot is there shows when it starts");
            Ok(())
        }
        Err(error) => Err(failure(error, program)),
    }
}

fn report(context: &Context, snapshot: SnapshotId, record: &VmRecord) -> Result<()> {
    let value = json!({
        "item_hash": record.vm_hash,
        "outcome": "done",
        "snapshot": snapshot,
        "node_id": record.allocated_node,
        "node_url": record.node_url,
        "epoch": record.epoch,
        "state": record.state,
    });
    context.out.result(&value, || {
        facts([
            ("Program", Some(record.vm_hash.to_string())),
            ("Snapshot", Some(snapshot.to_string())),
            ("Runs on", record.allocated_node.map(|node| node.to_string())),
            ("Node URL", record.node_url.as_deref().map(printable)),
            ("Epoch", record.epoch.map(|epoch| epoch.to_string())),
        ])
    })
}
