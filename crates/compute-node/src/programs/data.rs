//! The data of this node's programs: what the scheduler ordered about it, and what a program starts with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use protocol::data::{CopyReport, DataBase, DataEntry, DataOrder, DataReport, LiveReport};
use protocol::message::{PlacedVolume, VolumeKind};
use protocol::{Epoch, ProgramId};
use sandbox::spec::{VolumeSource, VolumeSpec};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use volumes::{Pool, Source, VolumeName};

/// How long what was overtaken is kept, so that somebody can look at it.
const KEEP_OVERTAKEN: chrono::Duration = chrono::Duration::days(7);

/// How often the pool is looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct ProgramData {
    pool: Pool,
    orders: Mutex<HashMap<ProgramId, DataEntry>>,
    /// What the next heartbeat says: a heartbeat never waits for the pool.
    reports: Mutex<Vec<DataReport>>,
}

/// Why a program cannot have its data.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    #[error("the scheduler did not say yet what the program's volumes shall hold")]
    NoOrder,
    #[error("this node does not have the data that the program shall go on with")]
    NotHere,
    #[error(transparent)]
    Name(#[from] volumes::NameTooLong),
    #[error(transparent)]
    Pool(#[from] volumes::Error),
}

impl ProgramData {
    /// The data in a pool.
    ///
    /// # Errors
    /// When the pool does not say what it has.
    pub(crate) async fn new(pool: Pool) -> Result<Arc<Self>, volumes::Error> {
        let data = Self { pool, orders: Mutex::default(), reports: Mutex::default() };
        data.look().await?;
        Ok(Arc::new(data))
    }

    /// The scheduler's newest orders, all of them.
    pub(crate) fn take_in(&self, orders: Vec<DataEntry>) {
        let orders = orders.into_iter().map(|order| (order.program, order)).collect();
        *self.orders.lock().expect("no code panics while it holds this lock") = orders;
    }

    /// What the next heartbeat says.
    pub(crate) fn reports(&self) -> Vec<DataReport> {
        self.reports.lock().expect("no code panics while it holds this lock").clone()
    }

    /// Makes a program's persistent volumes what it shall start with under this epoch, and says where they are.
    ///
    /// # Errors
    /// [`DataError`]; then the program must not start.
    pub(crate) async fn open(
        &self,
        program: ProgramId,
        epoch: Epoch,
        placed: &[PlacedVolume],
    ) -> Result<Vec<VolumeSpec>, DataError> {
        let mut wanted = Vec::new();
        for volume in placed {
            if let (VolumeKind::Persistent { size_mib, .. }, Some(name)) = (&volume.kind, &volume.name) {
                let name = VolumeName::new(name.as_str())?;
                wanted.push((volumes::VolumeSpec::files(name, *size_mib), volume.mount.clone()));
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let specs = wanted.iter().map(|(spec, _)| spec.clone()).collect();
        self.make_live(program, epoch, specs).await?;
        let mut mounts = Vec::new();
        for (spec, mount) in wanted {
            let source = VolumeSource::Directory(self.pool.live_path(program, &spec.name).await?);
            mounts.push(VolumeSpec { mount: mount.into(), source });
        }
        self.look().await?;
        Ok(mounts)
    }

    async fn make_live(
        &self,
        program: ProgramId,
        epoch: Epoch,
        specs: Vec<volumes::VolumeSpec>,
    ) -> Result<(), DataError> {
        let live = self.pool.program(program).await?.live().map(|live| live.epoch);
        if live == Some(epoch) {
            // It was started before in this epoch, and goes on with what it wrote.
            self.pool.open_live(program, epoch, specs).await?;
            return Ok(());
        }
        let until = Utc::now() + KEEP_OVERTAKEN;
        match self.base(program, epoch)? {
            DataBase::Empty => {
                if live.is_some() {
                    self.pool.retire(program, epoch, until).await?;
                }
                self.pool.create_live(program, epoch, specs).await?;
            }
            DataBase::Own { epoch: own } if live == Some(own) => {
                self.pool.open_live(program, epoch, specs).await?;
            }
            DataBase::Own { .. } => return Err(DataError::NotHere),
            DataBase::Copy { at_least } => {
                let newest = self.pool.newest_snapshot(program).await?.map(|set| set.id);
                let newest = newest.filter(|id| at_least.is_none_or(|least| *id >= least)).ok_or(DataError::NotHere)?;
                self.pool.promote(program, Source::Snapshot(newest), epoch, until).await?;
                self.pool.open_live(program, epoch, specs).await?;
            }
        }
        Ok(())
    }

    fn base(&self, program: ProgramId, epoch: Epoch) -> Result<DataBase, DataError> {
        let orders = self.orders.lock().expect("no code panics while it holds this lock");
        match orders.get(&program) {
            Some(DataEntry { epoch: of, order: DataOrder::Live { base, .. }, .. }) if *of == epoch => Ok(*base),
            _ => Err(DataError::NoOrder),
        }
    }

    /// Looks what there is.
    async fn look(&self) -> Result<(), volumes::Error> {
        let mut reports = Vec::new();
        for program in self.pool.programs() {
            let Ok(known) = self.pool.program(program).await else { continue };
            let live = known.live().map(|live| LiveReport {
                epoch: live.epoch,
                confirmed: None,
                // No other node has any of it.
                at_risk_ms: u64::MAX,
                is_final: false,
            });
            let copy = known.sets().last().map(|set| CopyReport {
                newest: set.id,
                age_ms: (Utc::now() - set.taken).num_milliseconds().try_into().unwrap_or(0),
            });
            if live.is_some() || copy.is_some() {
                reports.push(DataReport { program, live, copy });
            }
        }
        *self.reports.lock().expect("no code panics while it holds this lock") = reports;
        Ok(())
    }

    /// Lets the pool grow and removes what is over, until `shutdown`.
    pub(crate) async fn keep_house(self: Arc<Self>, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(HOUSEKEEPING)).await.is_some() {
            let kept = async {
                self.pool.grow_if_needed().await?;
                self.pool.collect(Utc::now()).await?;
                self.look().await
            };
            if let Err(error) = kept.await {
                warn!(%error, "the pool cannot be looked after");
            }
        }
    }
}
