//! Snapshots as streams of bytes, between nodes: `btrfs send` and `btrfs receive`.
//!
//! A stream names the snapshot that it builds on by the UUID that this had where it was made first, which travels along
//! as the received UUID. So differences also apply on the way back, as long as both sides have kept a snapshot in
//! common.

use std::io;
use std::process::Stdio;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use protocol::{Epoch, ProgramId};
use tokio::io::{AsyncRead, AsyncReadExt};
use tracing::info;

use crate::btrfs::{self, Access, kernel};
use crate::core::name::{VolumeName, VolumeSpec};
use crate::core::program::{Program, Refusal, check};
use crate::core::snapshot::{Origin, SnapshotId, SnapshotSet};
use crate::error::Error;
use crate::foreign;
use crate::live::{make_folder, path_in};
use crate::pool::{Pool, Slot};
use crate::process::ProcessStream;
use crate::records::Places;
use crate::snapshots::complete;

/// Keeps a snapshot set from being deleted, until it is dropped: what is sent, or what the next difference shall be from.
#[derive(Debug)]
pub struct Hold {
    slot: Arc<Slot>,
    id: SnapshotId,
}

impl Slot {
    pub(crate) fn is_held(&self, id: SnapshotId) -> bool {
        self.held.lock().expect("no code panics while it holds this lock").contains_key(&id)
    }

    pub(crate) fn start_holding(self: &Arc<Self>, id: SnapshotId) -> Hold {
        *self.held.lock().expect("no code panics while it holds this lock").entry(id).or_default() += 1;
        Hold { slot: self.clone(), id }
    }
}

impl Hold {
    /// The set.
    pub fn id(&self) -> SnapshotId {
        self.id
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.slot.held.lock().expect("no code panics while it holds this lock");
        if let Some(count) = held.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.id);
            }
        }
    }
}

impl Pool {
    /// Keeps a complete snapshot set from being deleted or pruned.
    ///
    /// # Errors
    /// When there is no such set.
    pub async fn hold(&self, program: ProgramId, id: SnapshotId) -> Result<Hold, Error> {
        let slot = self.slot(program);
        let state = slot.state.lock().await;
        state.known()?.set(id)?;
        Ok(slot.start_holding(id))
    }

    /// Starts to send a volume of a snapshot set: all of it, or what is different from the parent. A volume that the
    /// parent set does not have is sent in full. Neither set can be deleted meanwhile.
    ///
    /// # Errors
    /// When there is no such snapshot, parent or volume. What goes wrong later is an error of the stream.
    pub async fn send(
        &self,
        program: ProgramId,
        id: SnapshotId,
        volume: &VolumeName,
        parent: Option<SnapshotId>,
    ) -> Result<ProcessStream, Error> {
        let (slot, places) = (self.slot(program), self.places(program));
        let state = slot.state.lock().await;
        let known = state.known()?;
        let has = |set: &SnapshotSet| set.volumes.iter().any(|v| v.name == *volume);
        if !has(known.set(id)?) {
            return Err(Refusal::NoVolume(volume.clone()).into());
        }
        let parent = match parent {
            Some(parent) if has(known.set(parent)?) => Some(parent),
            _ => None,
        };
        let held = [Some(slot.start_holding(id)), parent.map(|parent| slot.start_holding(parent))];

        let mut command = btrfs::command("btrfs");
        command.args(["-q", "send"]);
        if let Some(parent) = parent {
            command.arg("-p").arg(places.snapshot(parent, &volume.key()));
        }
        let started = command.arg(places.snapshot(id, &volume.key())).spawn();
        let process = started.map_err(|e| btrfs::not_started("btrfs", e))?;
        // The kernel does not delete what a process still sends.
        Ok(ProcessStream::new(process, "btrfs send", async move { drop(held) }))
    }

    /// Takes in the stream of one volume of a set that another node took, up to `max_bytes`. It is no snapshot before
    /// [`Pool::commit_received`]; the caller compares the digest of the bytes before that. Returns how many bytes it
    /// were.
    ///
    /// Volumes of one program come one after the other. The same volume of the same set may be sent again.
    ///
    /// # Errors
    /// [`Error::UnknownParent`] when the stream builds on a snapshot that is not here; when the epoch is over; when the
    /// stream is damaged, cut or too long; when there is no room. Then nothing of the volume stays.
    pub async fn receive(
        &self,
        program: ProgramId,
        id: SnapshotId,
        volume: &VolumeName,
        max_bytes: u64,
        stream: impl AsyncRead,
    ) -> Result<u64, Error> {
        let bytes = Arriving { stream, most: max_bytes, taken_over_by: None };
        self.receive_if(program, id, volume, bytes, |p| p.may_receive(id)).await
    }

    /// The same for the stream of a set from the archive, with which the program shall start under this epoch.
    /// [`Pool::commit_restored`] makes the set complete; sets of which only later ones are differences need not become it.
    /// Those of another program are told by their names ([`SnapshotId::is_foreign`]).
    ///
    /// # Errors
    /// As [`Pool::receive`].
    pub async fn receive_archived(
        &self,
        program: ProgramId,
        epoch: Epoch,
        id: SnapshotId,
        volume: &VolumeName,
        max_bytes: u64,
        stream: impl AsyncRead,
    ) -> Result<u64, Error> {
        let bytes = Arriving { stream, most: max_bytes, taken_over_by: id.is_foreign().then_some(program) };
        self.receive_if(program, id, volume, bytes, |p| p.may_restore(id, epoch)).await
    }

    async fn receive_if(
        &self,
        program: ProgramId,
        id: SnapshotId,
        volume: &VolumeName,
        bytes: Arriving<impl AsyncRead>,
        may: impl FnOnce(&mut Program) -> Result<(), Refusal>,
    ) -> Result<u64, Error> {
        self.grow_if_needed().await?;
        let (slot, places) = (self.slot(program), self.places(program));
        let _one_at_a_time = slot.arriving.lock().await;
        {
            let mut state = slot.state.lock().await;
            state.change(&places, may)?;
            if !places.snapshot_folder(id).exists() {
                make_folder(&places, &places.snapshot_folder(id)).await?;
            }
        }
        let (arriving, arrived) = (places.arriving(&volume.key()), places.snapshot(id, &volume.key()));
        btrfs::remove(&arriving).await?;
        btrfs::remove(&arrived).await?;
        let result = match apply(&places, bytes).await {
            Ok(bytes) => take_over(&places, volume, id).await.map(|()| bytes),
            Err(error) => Err(error),
        };
        if result.is_err() {
            // It is removed when the pool is opened the next time if it cannot be now; the stream's error tells more.
            let _ = btrfs::remove(&arriving).await;
        }
        result
    }

    /// Makes a set of what was received complete: it is durable, and counts from now on.
    ///
    /// # Errors
    /// When the epoch is over, the set is complete already, or a volume has not arrived.
    pub async fn commit_received(
        &self,
        program: ProgramId,
        id: SnapshotId,
        taken: DateTime<Utc>,
        volumes: Vec<VolumeSpec>,
    ) -> Result<SnapshotSet, Error> {
        self.commit_if(program, id, (taken, volumes), |p| p.may_receive(id)).await
    }

    /// The same for a set from the archive; see [`Pool::receive_archived`].
    ///
    /// # Errors
    /// As [`Pool::commit_received`].
    pub async fn commit_restored(
        &self,
        program: ProgramId,
        epoch: Epoch,
        id: SnapshotId,
        taken: DateTime<Utc>,
        volumes: Vec<VolumeSpec>,
    ) -> Result<SnapshotSet, Error> {
        self.commit_if(program, id, (taken, volumes), |p| p.may_restore(id, epoch)).await
    }

    async fn commit_if(
        &self,
        program: ProgramId,
        id: SnapshotId,
        (taken, volumes): (DateTime<Utc>, Vec<VolumeSpec>),
        may: impl FnOnce(&mut Program) -> Result<(), Refusal>,
    ) -> Result<SnapshotSet, Error> {
        check(&volumes)?;
        let (slot, places) = (self.slot(program), self.places(program));
        let _none_arrives = slot.arriving.lock().await;
        let mut state = slot.state.lock().await;
        state.change(&places, may)?;
        for volume in &volumes {
            let there = kernel::subvolume(&path_in(&places.snapshot_folder(id), volume));
            if !there.is_ok_and(|there| there.received && there.read_only) {
                return Err(Error::Incomplete(volume.name.clone()));
            }
        }
        let set = complete(&mut state, &places, SnapshotSet { id, taken, volumes, origin: Origin::Received })?;
        info!(%program, snapshot = %id, "received a snapshot");
        Ok(set)
    }

    /// Removes what has arrived of a set that will not be complete. Nothing to remove is no error.
    ///
    /// # Errors
    /// When the set is complete.
    pub async fn abort_received(&self, program: ProgramId, id: SnapshotId) -> Result<(), Error> {
        let (slot, places) = (self.slot(program), self.places(program));
        let _none_arrives = slot.arriving.lock().await;
        let state = slot.state.lock().await;
        if state.known()?.set(id).is_ok() {
            return Err(Refusal::SnapshotExists(id).into());
        }
        btrfs::remove(&places.snapshot_folder(id)).await
    }
}

/// A stream that arrives.
struct Arriving<R> {
    stream: R,
    /// The most bytes that it may have.
    most: u64,
    /// The program that it becomes a snapshot of, if another one took it.
    taken_over_by: Option<ProgramId>,
}

/// Feeds `btrfs receive`, confined to the program's own data: a stream is a list of writes to paths, and who sends it
/// may be anybody's node.
async fn apply(places: &Places, bytes: Arriving<impl AsyncRead>) -> Result<u64, Error> {
    let Arriving { stream, most, taken_over_by } = bytes;
    let mut command = btrfs::command("btrfs");
    // -e: a stream has to end with its end mark. -C confines what it writes, -m what it may name as parent or clone
    // from: without it, a stream could take in the snapshots of other programs.
    command.args(["-q", "receive", "-e", "-C", "-m"]).arg(places.data()).arg(places.data()).stdin(Stdio::piped());
    let mut process = command.spawn().map_err(|e| btrfs::not_started("btrfs", e))?;
    let mut input = process.stdin.take().expect("it is piped");
    // It ends the input when it ends, whether all was copied or not.
    let copy = async move {
        let mut stream = std::pin::pin!(stream.take(most.saturating_add(1)));
        match taken_over_by {
            Some(program) => foreign::copy(&program, &mut stream, &mut input).await,
            None => tokio::io::copy(&mut stream, &mut input).await,
        }
    };
    let (mut copy, mut process) = (std::pin::pin!(copy), std::pin::pin!(process.wait_with_output()));
    let mut ended = None;
    // Both together: a process that fails would leave the copy waiting for a stream that says nothing more.
    let copied = loop {
        tokio::select! {
            copied = &mut copy => break copied,
            output = &mut process, if ended.is_none() => {
                let output = output.map_err(|e| Error::io("wait for btrfs", e))?;
                if !output.status.success() {
                    return Err(receive_error(&output.stderr));
                }
                // It has seen the end mark. What is left of the stream is nothing, or too much.
                ended = Some(output);
            }
        }
    };
    let output = match ended {
        Some(output) => output,
        None => process.await.map_err(|e| Error::io("wait for btrfs", e))?,
    };
    match copied {
        Ok(bytes) if bytes > most => Err(Error::BadStream(format!("it has more than {most} bytes"))),
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::StreamEnded(error)),
        _ if !output.status.success() => Err(receive_error(&output.stderr)),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(Error::BadStream("there are bytes after its end".to_owned())),
    }
}

/// Puts a volume that has arrived where it belongs. A snapshot of it, as a read-only subvolume cannot move to another
/// folder; the snapshot writes out what is in memory only, and keeps the received UUID.
async fn take_over(places: &Places, volume: &VolumeName, id: SnapshotId) -> Result<(), Error> {
    let arriving = places.arriving(&volume.key());
    match kernel::subvolume(&arriving) {
        Ok(there) if there.received && there.read_only => {}
        Ok(_) => return Err(Error::BadStream("it does not complete the volume".to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::BadStream("it is about another volume".to_owned()));
        }
        Err(e) => return Err(Error::at("look at", &arriving)(e)),
    }
    btrfs::snapshot(&arriving, &places.snapshot(id, &volume.key()), Access::ReadOnly).await?;
    btrfs::delete(&arriving).await
}

fn receive_error(stderr: &[u8]) -> Error {
    let stderr = String::from_utf8_lossy(stderr);
    // The words of btrfs-progs since 3.x; a test with the real program would notice others.
    if ["cannot find parent subvolume", "parent subvol is not reachable", "did not find source subvol"]
        .iter()
        .any(|words| stderr.contains(words))
    {
        return Error::UnknownParent;
    }
    match btrfs::failed("btrfs receive".to_owned(), &stderr) {
        Error::Command { message, .. } => {
            let errors: Vec<_> = message.lines().filter_map(|line| line.strip_prefix("ERROR: ")).collect();
            Error::BadStream(errors.join("; "))
        }
        full => full,
    }
}
