//! Removes what nobody needs: sets that retention gives up, sets that were never completed, archives of programs that are
//! over, and what an earlier removal did not finish.

use std::sync::Arc;

use futures_util::TryStreamExt;
use object_store::ObjectStoreExt;
use protocol::ProgramId;
use protocol::data::SnapshotId;
use tokio_util::sync::CancellationToken;

use super::{Archive, Failure, Shelf, is_over, place};
use crate::clock::{micros, now_us};
use crate::core::archive::budget;
use crate::core::retention::Sets;
use crate::store::archive::{self as rows, SetStage};
use crate::store::{StoreError, messages};

/// Looks at the start, when something was completed, and now and then, until the shutdown.
pub(crate) async fn run(archive: Arc<Archive>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = archive.collect(now_us()) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = archive.wake.notified() => {}
            () = tokio::time::sleep(archive.config.collect_every) => {}
        }
    }
}

impl Archive {
    async fn collect(&self, now_us: i64) {
        let programs = async { rows::programs(&mut *self.store.read().await?).await };
        let programs = match programs.await {
            Ok(programs) => programs,
            Err(error) => return tracing::warn!(%error, "could not look through the archive; trying again later"),
        };
        for program in programs {
            // What goes wrong with one program keeps no other from being looked at.
            if let Err(error) = self.collect_of(&program, now_us).await {
                tracing::warn!(%error, %program, "could not tidy an archive; trying again later");
            }
        }
    }

    async fn collect_of(&self, program: &ProgramId, now_us: i64) -> Result<(), Failure> {
        let over = self.is_past_retention(program, now_us).await?;
        let volumes = match self.program(program).await {
            Ok(facts) => facts.volumes,
            // Not knowing the program is no reason to remove anything of it.
            Err(Failure::Refused(_)) => None,
            Err(error) => return Err(error),
        };
        let mut tx = self.store.write().await?;
        let shelf = Shelf::read(&mut tx, program).await?;
        let facts = self.facts(program, &shelf);
        let sets = Sets::new(&facts);
        let surplus = match (over, volumes) {
            (false, Some(volumes)) => sets.surplus(now_us, budget(&volumes, self.config.quota, &sets)),
            _ => Vec::new(),
        };
        let abandoned = now_us - micros(self.config.incomplete);
        for set in &shelf.sets {
            let never_completed = set.stage == SetStage::Open && set.begun_us < abandoned;
            if over || never_completed || surplus.contains(&set.id) {
                tracing::info!(%program, snapshot = %set.id, over, never_completed, "a snapshot leaves the archive");
                rows::advance(&mut tx, program, set.id, set.stage, SetStage::Leaving).await?;
            }
        }
        let leaving = rows::sets(&mut tx, program).await?.into_iter().filter(|set| set.stage == SetStage::Leaving);
        let leaving: Vec<_> = leaving.map(|set| set.id).collect();
        tx.commit().await.map_err(StoreError::from)?;
        for id in leaving.into_iter().rev() {
            self.remove(program, id).await?;
        }
        if over {
            let mut tx = self.store.write().await?;
            rows::forget(&mut tx, program).await?;
            tx.commit().await.map_err(StoreError::from)?;
        }
        Ok(())
    }

    /// Whether a program is over, on the evidence of its own message, and has been so for long enough.
    async fn is_past_retention(&self, program: &ProgramId, now_us: i64) -> Result<bool, Failure> {
        let row = messages::outline(&mut *self.store.read().await?, &program.to_string()).await?;
        let over = row.as_ref().is_some_and(is_over);
        let mut tx = self.store.write().await?;
        let due = match over {
            true => now_us - rows::over_since(&mut tx, program, now_us).await? >= micros(self.config.retention),
            false => {
                rows::not_over(&mut tx, program).await?;
                false
            }
        };
        tx.commit().await.map_err(StoreError::from)?;
        Ok(due)
    }

    /// Deletes the objects of a set that is leaving, its manifest first, and then its rows.
    pub(super) async fn remove(&self, program: &ProgramId, id: SnapshotId) -> Result<(), Failure> {
        let objects = &self.place.objects;
        let manifest = place::of_manifest(program, id);
        let mut found: Vec<_> =
            objects.list(Some(&place::of_set(program, id))).map_ok(|object| object.location).try_collect().await?;
        found.sort_by_key(|location| *location != manifest);
        for location in found {
            match objects.delete(&location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut tx = self.store.write().await?;
        rows::delete_set(&mut tx, program, id).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(())
    }
}
