//! `aleph volume download`: the streams of a volume, to be applied with `btrfs receive`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use protocol::ProgramId;
use protocol::api::archive::SetRecord;
use protocol::client::Archive;
use protocol::client::packing::{self, UnpackError};
use protocol::data::SnapshotId;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{archive, failure};
use crate::args::DownloadArgs;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::ids;

/// How many times the size of its volume a stream may have, and what comes on top of that: as the archive has it.
const FACTOR: u64 = 2;
const OVERHEAD: u64 = 16 << 20;

/// Downloads the chain of a snapshot, one file for each set, unpacked.
///
/// # Errors
/// Why it is not there. Files that are there are whole.
pub(super) async fn download(context: &Context, args: DownloadArgs) -> Result<()> {
    let program = ids::program(context, &args.program).await?;
    let archive = archive(context)?;
    let list = archive.list(&program).await.map_err(|e| failure(e, &program))?;
    let chain = match args.snapshot {
        Some(id) => list.chain_of(id).ok_or_else(|| cannot_be_restored(id, &program))?,
        None => list.restore_chain(),
    };
    let Some(last) = chain.last() else {
        let text = format!("the archive has nothing of {program} that could be restored");
        return Err(Failure::new(Code::NotFound, text).hint(format!("see `aleph volume snapshots {program}`")).into());
    };
    if !last.volumes.iter().any(|volume| volume.name == args.volume) {
        let names: Vec<_> = last.volumes.iter().map(|volume| volume.name.as_str()).collect();
        let text = format!("snapshot {} has no volume '{}'", last.id, args.volume);
        return Err(Failure::new(Code::NotFound, text).hint(format!("it has: {}", names.join(", "))).into());
    }
    make_folder(&args.to).await?;
    let mut files = Vec::new();
    for set in &chain {
        context.out.note(format!("Downloading snapshot {}", set.id));
        files.push(one(&archive, &program, set, &args.volume, &args.to).await?);
    }
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let value = json!({ "item_hash": program, "volume": args.volume, "snapshot": last.id, "files": names });
    context.out.result(&value, || how_to_apply(&chain, &args.to))
}

/// Each stream makes a subvolume of the same name, so each needs a folder of its own.
fn how_to_apply(chain: &[&SetRecord], to: &Path) -> String {
    let ids: Vec<_> = chain.iter().map(|set| set.id.to_string()).collect();
    format!(
        "To apply them on a btrfs file system, as root, in a folder of it:\n\n    for id in {}; do mkdir $id && btrfs receive \
         -f '{}'/$id.btrfs $id || break; done\n\nThe volume is then the read-only snapshot in the last of these folders.\n",
        ids.join(" "),
        to.canonicalize().unwrap_or_else(|_| to.to_owned()).display(),
    )
}

/// What is there already could be older, and would be applied as well.
async fn make_folder(to: &Path) -> Result<()> {
    let at = || format!("cannot make the folder {}", to.display());
    tokio::fs::create_dir_all(to).await.with_context(at)?;
    let is_empty = tokio::fs::read_dir(to).await.with_context(at)?.next_entry().await.with_context(at)?.is_none();
    match is_empty {
        true => Ok(()),
        false => Err(Failure::usage(format!("the folder {} is not empty", to.display()))
            .hint("name one with --to that does not exist yet")
            .into()),
    }
}

async fn one(archive: &Archive, program: &ProgramId, set: &SetRecord, volume: &str, to: &Path) -> Result<PathBuf> {
    let size_mib = set.volumes.iter().find(|known| known.name == volume).map_or(0, |known| known.size_mib);
    let limit = (size_mib << 20).saturating_mul(FACTOR).saturating_add(OVERHEAD);
    let (file, part) = (to.join(format!("{}.btrfs", set.id)), to.join(format!("{}.btrfs.part", set.id)));
    let stream = archive.download(program, set.id, volume).await.map_err(|e| failure(e, program))?;
    let at = || format!("cannot write {}", part.display());
    let mut writer = tokio::fs::File::create(&part).await.with_context(at)?;
    let unpacked = packing::unpack(stream, set.format, limit, &mut writer).await;
    let written = async {
        writer.flush().await?;
        writer.sync_all().await
    };
    match unpacked {
        Ok(_) => {
            written.await.with_context(at)?;
            tokio::fs::rename(&part, &file).await.with_context(at)?;
            Ok(file)
        }
        Err(error) => {
            // What is not whole is of no use.
            let _ = tokio::fs::remove_file(&part).await;
            Err(match error {
                UnpackError::Archive(error) => failure(error, program),
                UnpackError::Write(error) => anyhow::Error::new(error).context(at()),
                UnpackError::Bad(_) => Failure::new(Code::Malformed, format!("snapshot {}: {error}", set.id)).into(),
            })
        }
    }
}

/// For sets that are not there, or of whose chain something is missing.
pub(super) fn cannot_be_restored(id: SnapshotId, program: &ProgramId) -> Failure {
    Failure::new(Code::NotFound, format!("snapshot {id} of {program} is not in the archive, or cannot be restored"))
        .hint(format!("`aleph volume snapshots {program}` lists those that are complete"))
}
