//! `aleph program move`: has the scheduler run a program on another node, and follows.

use std::time::Duration;

use anyhow::Result;
use protocol::ProgramId;
use protocol::api::scheduler::{MoveOutcome, MoveRecord, MoveResult, VmRecord};
use protocol::operation::Operation;
use serde_json::json;
use tokio::time::Instant;

use crate::args::MoveArgs;
use crate::commands::node;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{facts, printable, seconds};
use crate::{ids, waiting};

/// Orders the move, or takes it back.
///
/// # Errors
/// Why the program does not run on another node.
pub(super) async fn move_program(context: &Context, args: MoveArgs) -> Result<()> {
    let program = ids::program(context, &args.program).await?;
    let network = context.network().await?;
    let to = match &args.to {
        Some(named) => Some(node::find(context, named).await?.node_hash),
        None => None,
    };
    let before = network.vm(&program).await?;
    let before = before.ok_or_else(|| {
        Failure::new(Code::NotFound, format!("the scheduler knows no persistent program {program}"))
            .hint("only persistent programs have a node; `aleph program find` says what this one is")
    })?;
    if args.cancel {
        node::give(context, &Operation::CancelMove { program }).await?;
        let value = json!({ "item_hash": program, "outcome": MoveOutcome::Cancelled });
        return context.out.result(&value, || "It stays where it is.".to_owned());
    }
    node::give(context, &Operation::Move { program, to }).await?;
    let goes_on = format!(
        "The move goes on: look with `aleph program find {program}`, take the order back with `aleph program move \
         {program} --cancel`."
    );
    if args.no_wait {
        let value = json!({ "item_hash": program, "outcome": "ordered", "from": before.allocated_node, "to": to });
        return context.out.result(&value, || goes_on);
    }
    context.interruption.leaves(goes_on);
    let deadline = Instant::now() + Duration::from_secs(args.wait_seconds);
    let record = waiting::until_moved(context, network, &program, &before, deadline).await?;
    report(context, &program, &before, &record)
}

fn report(context: &Context, program: &ProgramId, before: &VmRecord, record: &VmRecord) -> Result<()> {
    let not_ready = record.last_move.as_ref().and_then(|end| end.not_ready_ms);
    let value = json!({
        "item_hash": program,
        "outcome": MoveOutcome::Done,
        "from": before.allocated_node,
        "node_id": record.allocated_node,
        "node_url": record.node_url,
        "epoch": record.epoch,
        "state": record.state,
        "not_ready_ms": not_ready,
    });
    context.out.result(&value, || {
        facts([
            ("Program", Some(program.to_string())),
            ("Runs on", record.allocated_node.map(|node| node.to_string())),
            ("Node URL", record.node_url.as_deref().map(printable)),
            ("Epoch", record.epoch.map(|epoch| epoch.to_string())),
            ("Not ready for", not_ready.map(seconds)),
        ])
    })
}

/// A move that is under way, in words.
pub(super) fn words(moving: &MoveRecord) -> String {
    let why = match (moving.cause.as_str(), &moving.by) {
        ("moved", Some(by)) => format!("ordered by {by}"),
        (cause, _) => printable(&cause.replace('_', " ")),
    };
    format!("{} ({why}, since {})", waiting::move_words(moving), printable(&moving.since))
}

/// How the last move ended, when somebody has to know.
pub(super) fn failure(end: &MoveResult) -> Option<String> {
    let reason = printable(end.reason.as_deref().unwrap_or("the scheduler does not say why"));
    (end.outcome == MoveOutcome::Failed).then(|| format!("failed at {}: {reason}", printable(&end.at)))
}
