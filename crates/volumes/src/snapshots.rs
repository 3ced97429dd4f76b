//! Snapshot sets: taken, listed, compared with what is live, deleted.

use std::future::Future;
use std::io;
use std::path::Path;

use chrono::{DateTime, Utc};
use protocol::ProgramId;

use crate::btrfs::{self, Access, kernel};
use crate::core::name::VolumeSpec;
use crate::core::snapshot::{Origin, SnapshotId, SnapshotSet, surplus};
use crate::error::Error;
use crate::live::{make_folder, path_in};
use crate::pool::{Pool, Slot, State, in_place};
use crate::records::Places;

impl Pool {
    /// Takes a snapshot of all live volumes of a program: what was written before, also what is in memory only, is in
    /// it, and it is durable. `taken` is the time of this call, for people.
    ///
    /// A snapshot of one volume is one point in time by itself. For one of several, `freeze` is called first: it has to
    /// stop the program's writes until what it returns is dropped, which happens as soon as all snapshots are taken.
    /// With one volume it is not called.
    ///
    /// # Errors
    /// When nothing is live under the id's epoch, the id is not newer than every other, the program cannot be frozen,
    /// or there is no room. Then there is no such snapshot.
    pub async fn snapshot<Frozen, F>(
        &self,
        program: ProgramId,
        id: SnapshotId,
        taken: DateTime<Utc>,
        freeze: impl FnOnce() -> F,
    ) -> Result<SnapshotSet, Error>
    where
        F: Future<Output = io::Result<Frozen>>,
    {
        self.grow_if_needed().await?;
        let (slot, places) = (self.slot(program), self.places(program));
        let mut state = slot.state.lock().await;
        let live = state.known()?.may_take(id)?.clone();
        let (from, to) = (places.live_folder(live.folder), places.snapshot_folder(id));
        make_folder(&places, &to).await?;
        self.hold_still(&from, &to, &live.volumes, freeze).await?;
        let mut generations = Vec::new();
        for volume in &live.volumes {
            let path = path_in(&to, volume);
            // The limit came along. A difference that arrives on top of this snapshot must not run into it.
            btrfs::limit(&path, None).await?;
            generations.push(kernel::subvolume(&path).map_err(Error::at("look at", &path))?.generation);
        }
        let origin = Origin::Taken { folder: live.folder, generations };
        complete(&mut state, &places, SnapshotSet { id, taken, volumes: live.volumes, origin })
    }

    /// Makes read-only snapshots of what is live, at one point in time; `freeze` as for [`Pool::snapshot`].
    pub(crate) async fn hold_still<Frozen, F>(
        &self,
        from: &Path,
        to: &Path,
        volumes: &[VolumeSpec],
        freeze: impl FnOnce() -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = io::Result<Frozen>>,
    {
        let frozen = if volumes.len() > 1 {
            // Most is written out before, so that the program stands still for the rest only.
            self.sync().await?;
            Some(freeze().await.map_err(Error::Freeze)?)
        } else {
            None
        };
        for volume in volumes {
            btrfs::snapshot(&path_in(from, volume), &path_in(to, volume), Access::ReadOnly).await?;
        }
        drop(frozen);
        Ok(())
    }

    /// The complete snapshot sets of a program, oldest first.
    ///
    /// # Errors
    /// When its records are damaged.
    pub async fn snapshots(&self, program: ProgramId) -> Result<Vec<SnapshotSet>, Error> {
        Ok(self.slot(program).state.lock().await.known()?.sets().cloned().collect())
    }

    /// The newest complete snapshot set of a program.
    ///
    /// # Errors
    /// When its records are damaged.
    pub async fn newest_snapshot(&self, program: ProgramId) -> Result<Option<SnapshotSet>, Error> {
        Ok(self.slot(program).state.lock().await.known()?.sets().last().cloned())
    }

    /// Whether a live volume was written since this snapshot, or may have been: a snapshot that was not taken of what
    /// is live tells nothing. What programs have in memory is written out first, for all of them at once, as btrfs
    /// counts changes only when they are committed.
    ///
    /// # Errors
    /// When there is no such snapshot, or nothing is live.
    pub async fn changed_since(&self, program: ProgramId, id: SnapshotId) -> Result<bool, Error> {
        let (slot, places) = (self.slot(program), self.places(program));
        self.sync().await?;
        let state = slot.state.lock().await;
        let known = state.known()?;
        let Some(then) = known.generations_at(id)? else { return Ok(true) };
        let live = known.current()?;
        if live.volumes.len() != then.len() {
            return Ok(true);
        }
        for (name, generation) in then {
            let path = places.live_folder(live.folder).join(name.key().as_str());
            if kernel::subvolume(&path).map_err(Error::at("look at", &path))?.generation > generation {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes a snapshot set.
    ///
    /// # Errors
    /// When there is none, or it is being sent or held ([`Pool::hold`]).
    pub async fn delete_snapshot(&self, program: ProgramId, id: SnapshotId) -> Result<(), Error> {
        let (slot, places) = (self.slot(program), self.places(program));
        let mut state = slot.state.lock().await;
        delete(&slot, &mut state, &places, id).await
    }

    /// Deletes all snapshot sets of a program but the newest, those to keep and those that are being sent or held. Returns what
    /// it deleted.
    ///
    /// # Errors
    /// When one cannot be deleted.
    pub async fn prune(&self, program: ProgramId, keep: &[SnapshotId]) -> Result<Vec<SnapshotId>, Error> {
        let (slot, places) = (self.slot(program), self.places(program));
        let mut state = slot.state.lock().await;
        let mut deleted = surplus(state.known()?.sets().map(|set| &set.id), keep);
        deleted.retain(|id| !slot.is_held(*id));
        for id in &deleted {
            delete(&slot, &mut state, &places, *id).await?;
        }
        Ok(deleted)
    }
}

/// Writes down a set whose volumes are all there.
pub(crate) fn complete(state: &mut State, places: &Places, set: SnapshotSet) -> Result<SnapshotSet, Error> {
    in_place(|| places.write_set(&set))?;
    state.edit(|program| program.add_set(set.clone()));
    Ok(set)
}

/// Takes a set off the records, so that it does not count any more.
pub(crate) fn remove_set(state: &mut State, places: &Places, id: SnapshotId) -> Result<(), Error> {
    in_place(|| places.remove_set(id))?;
    state.edit(|program| program.remove_set(id));
    Ok(())
}

async fn delete(slot: &Slot, state: &mut State, places: &Places, id: SnapshotId) -> Result<(), Error> {
    state.known()?.set(id)?;
    if slot.is_held(id) {
        return Err(Error::Sending);
    }
    remove_set(state, places, id)?;
    btrfs::remove(&places.snapshot_folder(id)).await
}
