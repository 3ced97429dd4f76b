//! What the node's operator sees of the data, and does with it.

use chrono::Utc;
use protocol::ProgramId;
use volumes::{Error, Inventory, ProcessStream, Readable, Source};

use super::ProgramData;

impl ProgramData {
    /// The programs that there are records of, also those of which nothing else is left.
    pub(crate) fn programs(&self) -> Vec<ProgramId> {
        let mut programs = self.pool.programs();
        programs.sort_unstable();
        programs
    }

    /// What there is of these programs.
    ///
    /// # Errors
    /// When the pool does not tell. One whose records are damaged has an error of its own.
    pub(crate) async fn inventory(
        &self,
        programs: Vec<ProgramId>,
    ) -> Result<Vec<(ProgramId, Result<Inventory, Error>)>, Error> {
        let pool = self.pool.clone();
        let look = async move {
            let found = pool.inventory(&programs).await?;
            Ok(programs.into_iter().zip(found).collect())
        };
        self.threads.run(look).await
    }

    /// Keeps the data of a program that was forgotten, until [`Self::forget`].
    ///
    /// # Errors
    /// When it is not forgotten, or that was too long ago.
    pub(crate) async fn undelete(&self, program: ProgramId) -> Result<(), Error> {
        let pool = self.pool.clone();
        self.threads.run(async move { pool.undelete(program, Utc::now()).await }).await
    }

    /// Takes that back: the retention time starts anew.
    ///
    /// # Errors
    /// When it was not undeleted.
    pub(crate) async fn forget(&self, program: ProgramId) -> Result<(), Error> {
        let (pool, until) = (self.pool.clone(), Utc::now() + self.config.retention);
        self.threads.run(async move { pool.forget(program, until).await }).await
    }

    /// A copy of all volumes of a program as a tar archive, and which one it is.
    ///
    /// # Errors
    /// When there is no such copy, or it cannot be begun. What goes wrong later is an error of the stream.
    pub(crate) async fn export(
        &self,
        program: ProgramId,
        wanted: Option<Source>,
    ) -> Result<(Readable, ProcessStream), Error> {
        let (pool, freezers) = (self.pool.clone(), self.freezers.clone());
        let export = async move { pool.export(program, wanted, |epoch| freezers.freeze(program, epoch)).await };
        self.threads.run(export).await
    }
}
