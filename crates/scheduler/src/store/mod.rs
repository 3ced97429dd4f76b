//! The scheduler's database: SQLite in one file for a scheduler alone, or PostgreSQL for several.
//!
//! What was committed is on the disk, so an assignment that was answered survives a crash. The SQL keeps to what both share.

mod chain;
mod engine;
pub(crate) mod history;
pub(crate) mod leadership;
mod orders;
mod restore;
pub(crate) mod write;
pub(crate) mod writer;

use std::path::PathBuf;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use protocol::Epoch;
use sqlx::Pool;
use sqlx::pool::PoolConnection;

pub use engine::Database;
use engine::Engine;
pub(crate) use leadership::Led;

/// The database engine, which is chosen when the scheduler starts.
type Db = sqlx::Any;
/// A connection to it.
type Connection = sqlx::AnyConnection;
/// A transaction.
type Transaction<'a> = sqlx::Transaction<'a, Db>;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the schema cannot be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// Another scheduler leads.
    #[error("another scheduler has taken over")]
    Deposed,
    /// A file name that SQLite cannot be told.
    #[error("the path {0} is no text; choose another")]
    NotText(PathBuf),
    /// The database holds something that this program did not write.
    #[error("the database holds '{value}' where {what} should be")]
    Corrupt {
        /// What should be there.
        what: &'static str,
        /// What is there.
        value: String,
    },
}

impl StoreError {
    /// Whether the database did not answer at all, which may change.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        let Self::Database(error) = self else { return false };
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
            // It is starting or stopping (PostgreSQL: class 57, operator intervention).
            sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57")),
            _ => false,
        }
    }
}

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    engine: Engine,
    writer: Pool<Db>,
    readers: Pool<Db>,
}

impl Store {
    /// Opens the database and brings it to the current schema. A file is made when it does not exist.
    pub(crate) async fn open(database: &Database) -> Result<Self, StoreError> {
        let (engine, writer, readers) = engine::connect(database).await?;
        MIGRATIONS.run(&writer).await?;
        Ok(Self { engine, writer, readers })
    }

    async fn read(&self) -> Result<PoolConnection<Db>, StoreError> {
        Ok(self.readers.acquire().await?)
    }

    async fn begin(&self) -> Result<Transaction<'static>, StoreError> {
        Ok(self.writer.begin_with(self.engine.begin()).await?)
    }

    /// Closes all connections; SQLite moves its write-ahead log into the file.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Reads an id.
fn id<T: FromStr>(what: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt { what, value: text.to_owned() })
}

fn epoch(number: i64) -> Result<Epoch, StoreError> {
    let corrupt = |_| StoreError::Corrupt { what: "an epoch", value: number.to_string() };
    u64::try_from(number).map(Epoch::new).map_err(corrupt)
}

/// An epoch as the database keeps it.
fn number(epoch: Epoch) -> i64 {
    i64::try_from(epoch.get()).unwrap_or(i64::MAX)
}

fn time(micros: i64) -> Result<DateTime<Utc>, StoreError> {
    DateTime::from_timestamp_micros(micros)
        .ok_or_else(|| StoreError::Corrupt { what: "a time", value: micros.to_string() })
}

#[cfg(test)]
mod tests;
