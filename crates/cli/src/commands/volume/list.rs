//! `aleph volume list`: the volumes of a program, and where their data is.

use anyhow::Result;
use comfy_table::Cell;
use protocol::api::archive::ArchiveList;
use protocol::api::scheduler::VmRecord;
use protocol::message::{Persistence, PlacedVolume, VolumeKind};
use serde_json::{Value, json};

use super::{archive, failure, program_with_volumes, size};
use crate::commands::program::copies;
use crate::context::Context;
use crate::ids;
use crate::output::{facts, printable, table};

/// Lists them.
///
/// # Errors
/// Why they are not known. That the archive cannot be asked is said, and is no failure.
pub(super) async fn list(context: &Context, named: &str) -> Result<()> {
    let program = ids::program(context, named).await?;
    let (found, content, placed) = program_with_volumes(context, &program).await?;
    let record = match content.is_persistent() && found.status.is_in_force() {
        true => context.network().await?.vm(&program).await?,
        false => None,
    };
    let archived = match placed.iter().any(|volume| class(&volume.kind) == "store") {
        true => Some(match archive(context) {
            Ok(archive) => archive.list(&program).await.map_err(|e| failure(e, &program)),
            Err(error) => Err(error),
        }),
        false => None,
    };
    let archived = archived.map(|listed| listed.map_err(|error| format!("{error:#}")));
    let data = record.as_ref().and_then(|record| record.data.as_ref());
    let value = json!({
        "item_hash": program,
        "volumes": placed.iter().map(volume_json).collect::<Vec<_>>(),
        "node": record.as_ref().and_then(|record| record.allocated_node),
        "data": data,
        "archive": archived.as_ref().and_then(|listed| listed.as_ref().ok()).map(archive_json),
        "archive_error": archived.as_ref().and_then(|listed| listed.as_ref().err()),
    });
    context.out.result(&value, || {
        if placed.is_empty() {
            return "It has no volumes.\n".to_owned();
        }
        let rows = table(["NAME", "CLASS", "SIZE", "MOUNT"], placed.iter().map(row));
        format!("{rows}\n{}", where_it_is(record.as_ref(), archived.as_ref()))
    })
}

fn where_it_is(record: Option<&VmRecord>, archived: Option<&Result<ArchiveList, String>>) -> String {
    let newest = |list: &ArchiveList| match list.restore_chain().last() {
        Some(set) => format!("snapshot {}, taken {}", set.id, set.taken.format("%Y-%m-%d %H:%M:%S")),
        None => "nothing that could be restored yet".to_owned(),
    };
    facts([
        ("Runs on", record.and_then(|record| record.allocated_node).map(|node| format!("node {node}"))),
        ("Copies on", record.and_then(|record| record.data.as_ref()).map(copies)),
        ("In the archive", archived.map(|listed| listed.as_ref().map_or_else(|why| printable(why), newest))),
    ])
}

/// What becomes of it, in one word.
fn class(kind: &VolumeKind) -> &'static str {
    match kind {
        VolumeKind::Immutable { .. } => "immutable",
        VolumeKind::Ephemeral { .. } => "ephemeral",
        VolumeKind::Persistent { persistence: Some(Persistence::Store), .. } => "store",
        VolumeKind::Persistent { .. } => "host",
    }
}

fn size_mib(kind: &VolumeKind) -> Option<u64> {
    match kind {
        VolumeKind::Immutable { .. } => None,
        VolumeKind::Ephemeral { size_mib } | VolumeKind::Persistent { size_mib, .. } => Some(*size_mib),
    }
}

fn volume_json(volume: &PlacedVolume) -> Value {
    json!({
        "name": volume.name,
        "class": class(&volume.kind),
        "size_mib": size_mib(&volume.kind),
        "mount": volume.mount,
    })
}

fn archive_json(list: &ArchiveList) -> Value {
    let newest = list.restore_chain().last().map(|set| json!({ "id": set.id, "taken": set.taken }));
    json!({ "newest": newest, "sets": list.sets.len(), "bytes": list.bytes, "quota_bytes": list.quota_bytes })
}

fn row(volume: &PlacedVolume) -> [Cell; 4] {
    [
        Cell::new(volume.name.as_deref().map_or_else(|| "-".to_owned(), printable)),
        Cell::new(class(&volume.kind)),
        Cell::new(size_mib(&volume.kind).map_or_else(|| "-".to_owned(), |mib| size(mib << 20))),
        Cell::new(printable(&volume.mount)),
    ]
}
