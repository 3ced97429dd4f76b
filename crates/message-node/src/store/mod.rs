//! Everything that is kept, in one SQLite file.
//!
//! One connection writes, several read. What was committed is on the disk (`synchronous = FULL`), so whoever answers after
//! a commit has kept its word. Queries keep to the SQL that SQLite and PostgreSQL share.

pub(crate) mod aggregates;
pub(crate) mod archive;
pub(crate) mod balances;
pub(crate) mod costs;
pub(crate) mod files;
pub(crate) mod follow;
pub(crate) mod holds;
pub(crate) mod list;
pub(crate) mod messages;
pub(crate) mod nodes;
pub(crate) mod pending;
pub(crate) mod posts;
pub(crate) mod programs;
pub(crate) mod stores;

use std::path::Path;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Pool, Transaction};

use crate::error::RunError;

/// The database engine.
pub(crate) type Db = sqlx::Sqlite;
/// A connection to it.
pub(crate) type Connection = sqlx::SqliteConnection;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// Connections that read at the same time.
const READERS: u32 = 8;
/// How long a connection waits for a lock of another process (a backup, say).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// What can go wrong with what is kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The database holds something that this program did not write.
    #[error("the database holds an unreadable {what} of {of}: {cause}")]
    Corrupt {
        /// What it should be.
        what: &'static str,
        /// Whose.
        of: String,
        /// Why it is not.
        cause: String,
    },
    /// A file could not be read or written.
    #[error("the file store failed: {0}")]
    Files(#[from] object_store::Error),
}

impl StoreError {
    pub(crate) fn corrupt(what: &'static str, of: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::Corrupt { what, of: of.into(), cause: cause.to_string() }
    }
}

/// The result of asking the store.
pub(crate) type Stored<T> = Result<T, StoreError>;

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    writer: Pool<Db>,
    readers: Pool<Db>,
}

impl Store {
    /// Opens the database file, makes it when it does not exist, and brings it to the current schema.
    ///
    /// # Errors
    /// [`RunError::Database`].
    pub(crate) async fn open(path: &Path) -> Result<Self, RunError> {
        let failed = |cause: &dyn std::fmt::Display| RunError::Database { path: path.into(), cause: cause.to_string() };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let pool = || SqlitePoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT).max_lifetime(None).idle_timeout(None);
        let writer = pool().max_connections(1).connect_with(options.clone()).await.map_err(|e| failed(&e))?;
        MIGRATIONS.run(&writer).await.map_err(|e| failed(&e))?;
        let readers = pool()
            .max_connections(READERS)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(|e| failed(&e))?;
        Ok(Self { writer, readers })
    }

    /// A connection for reading.
    pub(crate) async fn read(&self) -> Stored<PoolConnection<Db>> {
        Ok(self.readers.acquire().await?)
    }

    /// Starts to write. Nobody else writes until the transaction ends; dropping it undoes everything.
    pub(crate) async fn write(&self) -> Stored<Transaction<'static, Db>> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Closes all connections and moves the write-ahead log into the file.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// A part of a list.
#[derive(Debug)]
pub(crate) struct Part<T> {
    /// What is in it.
    pub rows: Vec<T>,
    /// Whether it ended early because it was getting too large.
    pub cut: bool,
}

/// Reads rows with at most so many bytes together (at least one row).
async fn bounded<T>(
    mut found: impl Stream<Item = sqlx::Result<T>> + Unpin,
    bytes_of: impl Fn(&T) -> u64,
    most: u64,
) -> Stored<Part<T>> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.try_next().await? {
        bytes += bytes_of(&row);
        if bytes > most && !rows.is_empty() {
            return Ok(Part { rows, cut: true });
        }
        rows.push(row);
    }
    Ok(Part { rows, cut: false })
}

/// A number of rows or bytes as the database keeps it.
pub(crate) fn to_db(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of rows or bytes as the database gave it.
pub(crate) fn from_db(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;

    use super::*;

    #[tokio::test]
    async fn opens_again_and_keeps_what_was_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("messages.sqlite");
        let store = Store::open(&path).await.unwrap();
        let mut tx = store.write().await.unwrap();
        files::insert(&mut tx, "committed", 7, 0).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.write().await.unwrap();
        files::insert(&mut tx, "dropped", 7, 0).await.unwrap();
        drop(tx);
        store.close().await;
        let store = Store::open(&path).await.unwrap();
        let mut db = store.read().await.unwrap();
        assert_eq!(files::size(&mut db, "committed").await.unwrap(), Some(7));
        assert_eq!(files::size(&mut db, "dropped").await.unwrap(), None);
    }

    #[tokio::test]
    async fn messages_of_earlier_versions_get_their_tags() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("messages.sqlite");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut old = options.connect().await.unwrap();
        MIGRATIONS.run_to(7, &mut old).await.unwrap();
        for (hash, status, message_type, content) in [
            ("post", "processed", "POST", r#"{"content":{"tags":["a",7,"b","a"]}}"#),
            ("aggregate", "processed", "AGGREGATE", r#"{"content":{"tags":["a"]}}"#),
            ("file", "processed", "STORE", r#"{"content":{"tags":["a"]}}"#),
            ("rejected", "rejected", "POST", r#"{"content":{"tags":["a"]}}"#),
            ("text", "processed", "POST", r#"{"content":{"tags":"a"}}"#),
            ("number", "processed", "POST", r#"{"content":7}"#),
            ("none", "processed", "POST", "no JSON"),
        ] {
            sqlx::query(
                "INSERT INTO messages (item_hash, status, type, content, chain, sender, sender_key, item_type, size, \
                     time_us, received_us, authentic)
                 VALUES ($1, $2, $3, $4, '', '', '', '', 0, 0, 0, TRUE)",
            )
            .bind(hash)
            .bind(status)
            .bind(message_type)
            .bind(content)
            .execute(&mut old)
            .await
            .unwrap();
        }
        old.close().await.unwrap();
        let store = Store::open(&path).await.unwrap();
        let tags: Vec<(String, String)> = sqlx::query_as("SELECT item_hash, tag FROM message_tags ORDER BY 1, 2")
            .fetch_all(&mut *store.read().await.unwrap())
            .await
            .unwrap();
        let expected = [("aggregate", "a"), ("post", "a"), ("post", "b")];
        assert_eq!(tags, expected.map(|(hash, tag)| (hash.to_owned(), tag.to_owned())));
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("messages.sqlite")).await.unwrap();
        let mut db = store.read().await.unwrap();
        assert!(files::insert(&mut db, "x", 1, 0).await.is_err());
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_a_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("messages.sqlite");
        std::fs::write(&path, "this is no database, and it is long enough to be looked at".repeat(20)).unwrap();
        let error = Store::open(&path).await.unwrap_err();
        assert!(matches!(error, RunError::Database { .. }), "{error}");
    }
}
