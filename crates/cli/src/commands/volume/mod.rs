//! `aleph volume …`: the volumes of a program, and what the message node's archive has of them.

mod download;
mod list;
mod restore;
mod snapshots;

use std::sync::Arc;

use anyhow::Result;
use protocol::ProgramId;
use protocol::api::archive::{ArchiveCode, SetRecord};
use protocol::api::message_node::MessageWithStatus;
use protocol::client::{Archive, ArchiveError};
use protocol::message::{PlacedVolume, ProgramContent, place_volumes};

use crate::args::VolumeCommand;
use crate::commands::program::{content, message};
use crate::context::Context;
use crate::failure::{Code, Failure};

/// Does what the command line says.
///
/// # Errors
/// Why it could not be done.
pub async fn run(context: &Context, command: VolumeCommand) -> Result<()> {
    match command {
        VolumeCommand::List(args) => list::list(context, &args.program).await,
        VolumeCommand::Snapshots(args) => snapshots::snapshots(context, &args.program).await,
        VolumeCommand::Download(args) => download::download(context, args).await,
        VolumeCommand::Restore(args) => restore::restore(context, args).await,
    }
}

/// The archive, as this account sees it.
fn archive(context: &Context) -> Result<Archive> {
    let account = Arc::new(context.account()?);
    Ok(Archive::new(context.settings.api_host.as_str(), account)?)
}

/// A program's message, its content, and the volumes that it asks for.
async fn program_with_volumes(
    context: &Context,
    program: &ProgramId,
) -> Result<(MessageWithStatus, ProgramContent, Vec<PlacedVolume>)> {
    let found = message(context, program).await?;
    let content = content(&found)?.ok_or_else(|| {
        Failure::new(Code::Forgotten, format!("the message node does not have the content of {program} any more"))
    })?;
    let placed = place_volumes(&content.volumes)
        .map_err(|e| Failure::new(Code::Malformed, format!("the volumes of {program} make no sense: {e}")))?;
    Ok((found, content, placed))
}

/// Why the archive could not be used, for people and programs.
fn failure(error: ArchiveError, program: &ProgramId) -> anyhow::Error {
    let code = match &error {
        ArchiveError::Request(_) => None,
        ArchiveError::Refused { code: ArchiveCode::NotAllowed, .. } => Some(Code::NotYours),
        ArchiveError::Refused { code: ArchiveCode::NotFound, .. } => Some(Code::NotFound),
        ArchiveError::Refused { code: ArchiveCode::Gone, .. } => Some(Code::Forgotten),
        ArchiveError::Refused { .. } | ArchiveError::StaleEpoch { .. } => Some(Code::Refused),
        ArchiveError::Interrupted { .. } => Some(Code::Unreachable),
        ArchiveError::Source(_) => Some(Code::Failed),
    };
    let hint = match code {
        Some(Code::NotYours) => {
            "only the owner of a program sees its archive: name the owner's key with --private-key-file"
        }
        Some(Code::NotFound) => "`aleph volume snapshots ID` lists what the archive has",
        _ => "try again in a moment",
    };
    match (code, error) {
        // The usual words for a message node that does not answer.
        (_, ArchiveError::Request(error)) => error.into(),
        (code, error) => {
            Failure::new(code.unwrap_or(Code::Failed), format!("the archive of {program}: {error}")).hint(hint).into()
        }
    }
}

/// Bytes of all streams of a set, as far as they have arrived.
fn bytes_of(set: &SetRecord) -> u64 {
    set.volumes.iter().filter_map(|volume| volume.bytes).sum()
}

/// A size for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}
