//! A copy of a program's volumes as a tar archive, for people.
//!
//! `tar` reads what nobody writes: a snapshot, a recovery point, or a snapshot that is made of what is live and removed
//! afterwards. Nothing that it reads is removed meanwhile.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use protocol::{Epoch, ProgramId};
use tracing::warn;

use crate::btrfs;
use crate::core::keeping::Readable;
use crate::core::name::VolumeSpec;
use crate::core::program::Source;
use crate::error::Error;
use crate::inventory::folder_of;
use crate::live::make_folder;
use crate::pool::{Pool, Slot};
use crate::process::ProcessStream;

/// What the next export of something live is called, in all pools of this process.
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// As long as it is there, nothing of the program is collected.
struct Reading(Arc<AtomicUsize>);

impl Reading {
    fn of(slot: &Slot) -> Self {
        slot.exports.fetch_add(1, Ordering::AcqRel);
        Self(slot.exports.clone())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pool {
    /// Starts to pack all volumes of a copy into a tar archive, each in a top folder ([`crate::VolumeName::in_archive`])
    /// with owners, modes, extended attributes, holes and links as they are. Without a copy that is asked for it is what
    /// was written last as far as this node knows ([`crate::Program::readable`]). Says which one it is.
    ///
    /// What is live may be written meanwhile: of several volumes, `freeze` has to stop that program for a moment, as for
    /// [`Pool::snapshot`]; it is given the epoch that they are live under.
    ///
    /// # Errors
    /// When there is no such copy, `tar` is not installed, or what is live cannot be frozen or there is no room for a
    /// snapshot of it. What goes wrong later is an error of the stream.
    pub async fn export<Frozen, F>(
        &self,
        program: ProgramId,
        wanted: Option<Source>,
        freeze: impl FnOnce(Epoch) -> F,
    ) -> Result<(Readable, ProcessStream), Error>
    where
        F: Future<Output = io::Result<Frozen>>,
    {
        let (slot, places) = (self.slot(program), self.places(program));
        let state = slot.state.lock().await;
        let known = state.known()?;
        let (what, volumes) = known.readable(wanted)?;
        let reading = Reading::of(&slot);
        let mut folder = folder_of(what, &places);
        let (mut held, mut made) = (None, None);
        match what {
            Readable::Snapshot(id) => held = Some(slot.start_holding(id)),
            // Nobody writes it, and nothing but collecting removes it.
            Readable::RecoveryPoint(_) => {}
            Readable::Live(_) => {
                let epoch = known.live().map_or_else(|| known.highest(), |live| live.epoch);
                let to = places.export(NEXT.fetch_add(1, Ordering::Relaxed));
                make_folder(&places, &to).await?;
                let frozen = self.hold_still(&folder, &to, volumes, || freeze(epoch)).await;
                if let Err(error) = frozen {
                    remove(program, &to).await;
                    return Err(error);
                }
                made = Some(to.clone());
                folder = to;
            }
        }
        let process = tar(&folder, volumes).spawn().map_err(|e| btrfs::not_started("tar", e));
        let after = async move {
            if let Some(made) = made {
                remove(program, &made).await;
            }
            drop((reading, held));
        };
        match process {
            Ok(process) => Ok((what, ProcessStream::new(process, "tar", after))),
            Err(error) => {
                after.await;
                Err(error)
            }
        }
    }
}

/// What cannot be removed now is removed when the pool is opened the next time.
async fn remove(program: ProgramId, folder: &Path) {
    if let Err(error) = btrfs::remove(folder).await {
        warn!(%program, folder = %folder.display(), %error, "cannot remove what was made for an export");
    }
}

/// The process that packs these volumes, which are in this folder.
fn tar(folder: &Path, volumes: &[VolumeSpec]) -> tokio::process::Command {
    let mut command = btrfs::command("tar");
    // What a user of this machine has set for their own archives.
    command.env_remove("TAR_OPTIONS");
    command.args(["--create", "--file=-", "--format=posix", "--pax-option=delete=atime,delete=ctime"]);
    command.args(["--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*", "--sparse"]);
    // Reading a file is no change of it, and sockets cannot be packed.
    command.args(["--atime-preserve=system", "--warning=no-file-ignored"]);
    for volume in volumes {
        let (key, name) = (volume.name.key(), volume.name.in_archive());
        // Of files and hard links, which are named from the top, but not of what symbolic links say. Neither of the two
        // names has a character with a meaning here, and a whole one has to fit: the name of one volume may begin with
        // the key of another.
        command.arg(format!("--transform=flags=rhS;s,^{key}\\(/\\|$\\),{name}\\1,"));
    }
    command.arg("--directory").arg(folder).arg("--");
    command.args(volumes.iter().map(|volume| volume.name.key().as_str().to_owned()));
    command
}
