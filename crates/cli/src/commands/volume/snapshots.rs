//! `aleph volume snapshots`: what the archive has of a program.

use anyhow::Result;
use comfy_table::Cell;
use protocol::api::archive::{SetRecord, SetState};

use super::{archive, bytes_of, failure, size};
use crate::context::Context;
use crate::ids;
use crate::output::table;

/// Lists the sets, oldest first.
///
/// # Errors
/// Why that is not known.
pub(super) async fn snapshots(context: &Context, named: &str) -> Result<()> {
    let program = ids::program(context, named).await?;
    let list = archive(context)?.list(&program).await.map_err(|e| failure(e, &program))?;
    context.out.result(&list, || {
        if list.sets.is_empty() {
            return "The archive has nothing of this program: only volumes with the persistence `store` are archived.\n"
                .to_owned();
        }
        let rows = list.sets.iter().map(|set| row(set, list.chain_of(set.id).is_some()));
        let rows = table(["SNAPSHOT", "TAKEN", "SIZE", "KIND", "STATE"], rows);
        format!("{rows}\n{} of {} are used.\n", size(list.bytes), size(list.quota_bytes))
    })
}

fn row(set: &SetRecord, can_be_restored: bool) -> [Cell; 5] {
    let state = match set.state {
        SetState::Complete if can_be_restored => "complete",
        SetState::Complete => "builds on a set that cannot be restored",
        SetState::Open => "being sent",
        SetState::Damaged => "damaged",
        SetState::Unreadable => "unreadable: its key is lost",
    };
    let kind = set.parent.map_or_else(|| "full".to_owned(), |parent| format!("difference from {parent}"));
    [
        Cell::new(set.id),
        Cell::new(set.taken.format("%Y-%m-%d %H:%M:%S")),
        Cell::new(size(bytes_of(set))),
        Cell::new(kind),
        Cell::new(state),
    ]
}
