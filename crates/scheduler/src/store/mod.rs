//! The scheduler's database: one SQLite file, with one connection that writes and some that read.
//!
//! What was committed is on the disk (`synchronous = FULL`), so an assignment that was answered survives a crash. The SQL
//! keeps to what SQLite and PostgreSQL share.

pub(crate) mod history;
mod restore;
pub(crate) mod write;
pub(crate) mod writer;

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use protocol::Epoch;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Pool, Transaction};

/// The database engine.
type Db = sqlx::Sqlite;
/// A connection to it.
type Connection = sqlx::SqliteConnection;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Connections that read at the same time.
const READERS: u32 = 4;
/// How long a connection waits for a lock of another process (a backup, say).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the schema cannot be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The database holds something that this program did not write.
    #[error("the database holds '{value}' where {what} should be")]
    Corrupt {
        /// What should be there.
        what: &'static str,
        /// What is there.
        value: String,
    },
}

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    writer: Pool<Db>,
    readers: Pool<Db>,
}

impl Store {
    /// Opens the file, makes it when it does not exist, and brings it to the current schema.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let pool = || SqlitePoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT).max_lifetime(None).idle_timeout(None);
        let writer = pool().max_connections(1).connect_with(options.clone()).await?;
        MIGRATIONS.run(&writer).await?;
        let readers = pool().max_connections(READERS).connect_with(options.read_only(true)).await?;
        Ok(Self { writer, readers })
    }

    async fn read(&self) -> Result<PoolConnection<Db>, StoreError> {
        Ok(self.readers.acquire().await?)
    }

    /// Starts to write. Nobody else writes until the transaction ends; dropping it undoes everything.
    async fn write(&self) -> Result<Transaction<'static, Db>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Closes all connections and moves the write-ahead log into the file.
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
