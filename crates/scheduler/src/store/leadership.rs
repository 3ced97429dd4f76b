//! The row that says who leads; see [`crate::core::leadership`] for who may change it when.

use std::sync::Arc;

use protocol::Account;

use super::{Connection, Store, StoreError, Transaction};
use crate::core::leadership::{LeaderEpoch, LeaderRow};

impl Store {
    /// Who leads, as far as the database knows.
    pub(crate) async fn leader(&self) -> Result<Option<LeaderRow>, StoreError> {
        let mut db = self.writer.acquire().await?;
        read(&mut db).await
    }

    /// Takes over from the leader that was seen, unless the row has changed since. Says under which epoch.
    pub(crate) async fn claim(&self, seen: Option<&LeaderRow>, url: &str) -> Result<Option<LeaderEpoch>, StoreError> {
        let claimed: Option<(i64,)> = match seen {
            None => {
                sqlx::query_as(
                    "INSERT INTO leader (only_row, leader_epoch, beat, url, resigned) VALUES (1, 1, 0, $1, 0)
                     ON CONFLICT (only_row) DO NOTHING RETURNING leader_epoch",
                )
                .bind(url)
                .fetch_optional(&self.writer)
                .await?
            }
            Some(row) => {
                sqlx::query_as(
                    "UPDATE leader SET leader_epoch = leader_epoch + 1, beat = 0, url = $1, resigned = 0
                     WHERE leader_epoch = $2 AND beat = $3 RETURNING leader_epoch",
                )
                .bind(url)
                .bind(row.epoch.get())
                .bind(row.beat)
                .fetch_optional(&self.writer)
                .await?
            }
        };
        Ok(claimed.map(|(epoch,)| LeaderEpoch::new(epoch)))
    }

    /// Takes over without waiting: only for who knows by other means that no other scheduler uses this database.
    pub(crate) async fn claim_alone(&self, url: &str, scheduler: &Arc<Account>) -> Result<Led, StoreError> {
        loop {
            let seen = self.leader().await?;
            if let Some(epoch) = self.claim(seen.as_ref(), url).await? {
                return Ok(self.led(epoch, scheduler.clone()));
            }
        }
    }

    /// The database as the leader of this epoch uses it. The history is signed by `scheduler`.
    pub(crate) fn led(&self, epoch: LeaderEpoch, scheduler: Arc<Account>) -> Led {
        Led { store: self.clone(), epoch, scheduler }
    }
}

async fn read(db: &mut Connection) -> Result<Option<LeaderRow>, StoreError> {
    let row: Option<(i64, i64, String, i64)> =
        sqlx::query_as("SELECT leader_epoch, beat, url, CAST(resigned AS BIGINT) FROM leader")
            .fetch_optional(db)
            .await?;
    Ok(row.map(|(epoch, beat, url, resigned)| LeaderRow {
        epoch: LeaderEpoch::new(epoch),
        beat,
        url,
        has_resigned: resigned != 0,
    }))
}

/// The database of a leader. Everything that changes it besides the leader's row goes through here, and fails with
/// [`StoreError::Deposed`] once another scheduler leads.
#[derive(Clone)]
pub(crate) struct Led {
    pub(super) store: Store,
    epoch: LeaderEpoch,
    /// Who signs the history.
    pub(super) scheduler: Arc<Account>,
}

impl Led {
    /// Says that the leader lives; `false` when it does not lead any more.
    pub(crate) async fn beat(&self) -> Result<bool, StoreError> {
        self.change("UPDATE leader SET beat = beat + 1 WHERE leader_epoch = $1").await
    }

    /// Steps down. Whoever does that grants nothing any more.
    pub(crate) async fn resign(&self) -> Result<bool, StoreError> {
        self.change("UPDATE leader SET resigned = 1 WHERE leader_epoch = $1").await
    }

    async fn change(&self, statement: &'static str) -> Result<bool, StoreError> {
        let done = sqlx::query(statement).bind(self.epoch.get()).execute(&self.store.writer).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Starts to write. Until the transaction ends nobody can take over; dropping it undoes everything.
    pub(super) async fn write(&self) -> Result<Transaction<'static>, StoreError> {
        let mut tx = self.store.begin().await?;
        let check = self.store.engine.leader_check();
        let leads: Option<(i64,)> = sqlx::query_as(check).bind(self.epoch.get()).fetch_optional(&mut *tx).await?;
        leads.map(|_| tx).ok_or(StoreError::Deposed)
    }
}
