//! `aleph volume restore`: has the scheduler start a program with a snapshot of the archive, and follows.

use std::time::Duration;

use anyhow::Result;
use protocol::ProgramId;
use protocol::api::archive::{ArchiveCode, SetRecord, VolumeDraft};
use protocol::api::scheduler::VmRecord;
use protocol::client::ArchiveError;
use protocol::data::ArchivedSet;
use protocol::operation::Operation;
use serde_json::json;
use tokio::time::Instant;

use super::download::cannot_be_restored;
use super::{archive, failure, program_with_volumes};
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
    let source = ids::program(context, &args.program).await?;
    let program = match &args.into {
        Some(named) => ids::program(context, named).await?,
        None => source,
    };
    if args.into.is_some() && program == source {
        return Err(Failure::usage("--into names the program itself").hint("leave it out to go back in place").into());
    }
    let set = ArchivedSet { snapshot: args.snapshot, from: args.into.is_some().then_some(source) };
    let network = context.network().await?;
    let before = network.vm(&program).await?.ok_or_else(|| {
        Failure::new(Code::NotFound, format!("the scheduler knows no persistent program {program}"))
            .hint("only persistent programs have volumes that can be restored")
    })?;
    check(context, &program, set).await?;
    let ArchivedSet { snapshot, from } = set;
    node::give(context, &Operation::Restore { program, snapshot, from }).await?;
    let goes_on = format!("It goes on: look with `aleph program find {program}`.");
    if args.no_wait {
        let value = json!({ "item_hash": program, "outcome": "ordered", "snapshot": snapshot, "from": from });
        return context.out.result(&value, || goes_on);
    }
    context.interruption.leaves(goes_on);
    let deadline = Instant::now() + Duration::from_secs(args.wait_seconds);
    let record = waiting::until_restored(context, network, &before, set, deadline).await?;
    report(context, set, &record)
}

/// The program is not stopped for a snapshot that cannot be had, or that is not for it. Operators do not see the archive; its
/// node does.
async fn check(context: &Context, program: &ProgramId, ArchivedSet { snapshot, from }: ArchivedSet) -> Result<()> {
    let source = from.as_ref().unwrap_or(program);
    match archive(context)?.list(source).await {
        Ok(list) => match list.chain_of(snapshot).as_deref() {
            Some([.., set]) if from.is_some() => check_volumes(context, program, set).await,
            Some(_) => Ok(()),
            None => Err(cannot_be_restored(snapshot, source).into()),
        },
        Err(ArchiveError::Refused { code: ArchiveCode::NotAllowed, .. }) => {
            context
                .out
                .warn("this account does not see the archive: whether the snapshot is there shows when it starts");
            Ok(())
        }
        Err(error) => Err(failure(error, source)),
    }
}

/// Whether another program's set has all volumes of this one, and they have room for it.
async fn check_volumes(context: &Context, program: &ProgramId, set: &SetRecord) -> Result<()> {
    let (_, _, placed) = program_with_volumes(context, program).await?;
    let volumes = VolumeDraft::archived(&placed);
    set.fits(&volumes).map_err(|why| {
        Failure::new(Code::Refused, format!("snapshot {} cannot be restored into {program}: {why}", set.id)).hint(
            "upload a program whose volumes have the same names, at least the same sizes, and `persistence=store`",
        )
    })?;
    for left_out in set.volumes.iter().filter(|there| volumes.iter().all(|volume| volume.name != there.name)) {
        let name = printable(&left_out.name);
        context.out.note(format!("Volume '{name}' of the snapshot is left out: the program has no such volume"));
    }
    Ok(())
}

fn report(context: &Context, ArchivedSet { snapshot, from }: ArchivedSet, record: &VmRecord) -> Result<()> {
    let value = json!({
        "item_hash": record.vm_hash,
        "outcome": "done",
        "snapshot": snapshot,
        "from": from,
        "node_id": record.allocated_node,
        "node_url": record.node_url,
        "epoch": record.epoch,
        "state": record.state,
    });
    context.out.result(&value, || {
        facts([
            ("Program", Some(record.vm_hash.to_string())),
            ("Snapshot", Some(snapshot.to_string())),
            ("Of program", from.map(|from| from.to_string())),
            ("Runs on", record.allocated_node.map(|node| node.to_string())),
            ("Node URL", record.node_url.as_deref().map(printable)),
            ("Epoch", record.epoch.map(|epoch| epoch.to_string())),
        ])
    })
}
