//! `aleph program history`

use std::collections::BTreeMap;

use anyhow::Result;
use comfy_table::Cell;
use protocol::data::SnapshotId;
use protocol::history::{Entry, Fact, SignedEntry, Stated, Trust, Verified, verify};
use protocol::network::{CORECHANNEL_ADDRESS, CORECHANNEL_KEY, CoreChannel};
use protocol::{Address, Epoch, NodeId, ProgramId};
use serde_json::json;

use crate::args::HistoryArgs;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::ids;
use crate::output::{printable, table};

/// Prints a program's history, and checks it when asked to.
///
/// # Errors
/// [`Failure`] with [`Code::BadHistory`] when it does not hold.
pub(super) async fn history(context: &Context, args: HistoryArgs) -> Result<()> {
    let program = ids::program(context, &args.program).await?;
    let signed = context.network().await?.signed_history(&program).await?;
    if signed.is_empty() {
        return Err(Failure::new(Code::NotFound, format!("there is no history of {program}"))
            .hint("only persistent programs have one, from their first assignment on")
            .into());
    }
    let verified = match args.verify {
        true => Some(check(context, program, &signed, args.scheduler_address).await?),
        false => None,
    };
    let entries: Vec<Entry> = signed.iter().filter_map(|signed| serde_json::from_str(&signed.entry).ok()).collect();
    let value = json!({ "program": program, "entries": entries, "signed": signed, "verified": verified });
    context.out.result(&value, || {
        let mut text = table(["WHEN", "EPOCH", "NODE", "WHAT", "WHY"], entries.iter().map(row));
        if let Some(verified) = &verified {
            text += &sentence(verified);
        }
        text
    })
}

async fn check(
    context: &Context,
    program: ProgramId,
    signed: &[SignedEntry],
    scheduler: Option<Address>,
) -> Result<Verified> {
    let network = context.network().await?;
    let schedulers = scheduler.map_or_else(|| network.scheduler_addresses().to_vec(), |address| vec![address]);
    if schedulers.is_empty() {
        return Err(Failure::new(Code::NoScheduler, "this network does not say which accounts its schedulers have")
            .hint("name the account that you trust with --scheduler-address")
            .into());
    }
    let epoch = network.vm(&program).await?.and_then(|vm| vm.epoch);
    let trust = Trust { schedulers, nodes: node_accounts(context).await?, epoch };
    verify(program, signed, &trust).map_err(|problem| {
        let sequence = problem.sequence;
        Failure::new(Code::BadHistory, format!("the history of {program} does not hold: {problem}"))
            .details(json!({ "sequence": sequence, "problem": problem.what }))
            .into()
    })
}

/// Who may speak for each node.
async fn node_accounts(context: &Context) -> Result<BTreeMap<NodeId, Vec<Address>>> {
    let listed: Option<CoreChannel> = context.node.aggregate(CORECHANNEL_ADDRESS, CORECHANNEL_KEY).await?;
    let nodes = listed.unwrap_or_default().resource_nodes;
    Ok(nodes
        .into_iter()
        .map(|node| (node.hash, [Some(node.owner), node.manager].into_iter().flatten().collect()))
        .collect())
}

fn data_lost(of: Epoch, snapshot: Option<SnapshotId>, from_archive: bool, at_most_ms: Option<u64>) -> String {
    match (snapshot, at_most_ms) {
        (None, _) if from_archive => format!("goes on with what the archive has; what epoch {of} wrote after that"),
        (None, _) => format!("everything that epoch {of} had: it starts with empty volumes"),
        (Some(snapshot), None) => format!("goes on with snapshot {snapshot}; what epoch {of} wrote after it"),
        (Some(snapshot), Some(ms)) => {
            let seconds = std::time::Duration::from_millis(ms).as_secs_f64();
            format!("goes on with snapshot {snapshot}; at most the last {seconds:.1} s of epoch {of}")
        }
    }
}

fn row(entry: &Entry) -> [Cell; 5] {
    let (what, why) = match &entry.fact {
        Fact::Assigned => ("assigned", String::new()),
        Fact::DataLost { of, snapshot, from_archive, at_most_ms } => {
            ("data lost", data_lost(*of, *snapshot, *from_archive, *at_most_ms))
        }
        Fact::Stated { statement } => match statement.stated {
            Stated::Started => ("started", String::new()),
            Stated::Ready => ("ready", String::new()),
            Stated::Stopped => ("stopped", String::new()),
        },
        Fact::MoveAsked { by, to } => {
            let to = to.map_or_else(|| "another node".to_owned(), |node| format!("node {}", ids::short(&node)));
            ("move ordered", format!("to {to}, by {by}"))
        }
        Fact::Restoring { by, snapshot, from } => {
            let of = from.map_or_else(|| "the archive".to_owned(), |other| format!("program {}", ids::short(&other)));
            ("restored", format!("from snapshot {snapshot} of {of}, by {by}"))
        }
        Fact::MoveCancelled { by } => ("stays", format!("the move was taken back by {by}")),
        Fact::MoveFailed { reason } => ("move failed", reason.clone()),
        Fact::Releasing { cause } => ("released", cause.replace('_', " ")),
        Fact::Ended { cause, proof } => {
            let what = if proof == "lease_over" || proof == "declared" { "lost" } else { "ended" };
            (what, format!("{}, {}", cause.replace('_', " "), proof.replace('_', " ")))
        }
    };
    [
        Cell::new(entry.at.format("%Y-%m-%d %H:%M:%S%.3f")),
        Cell::new(entry.epoch),
        Cell::new(ids::short(&entry.node)),
        Cell::new(what),
        Cell::new(printable(&why)),
    ]
}

fn sentence(verified: &Verified) -> String {
    let Verified { entries, assignments, statements, unchecked, declared, .. } = verified;
    let mut text = format!(
        "\nIt holds: {entries} entries, each signed and following the one before; {assignments} assignments, none \
         overlapping another; {statements} statements signed by nodes.\n"
    );
    if *unchecked > 0 {
        text += &format!("{unchecked} statements are of nodes that have left the network, and were not checked.\n");
    }
    if *declared > 0 {
        text += &format!("{declared} assignments ended on an operator's word alone.\n");
    }
    text
}
