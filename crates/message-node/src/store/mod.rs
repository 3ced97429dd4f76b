//! Everything that is kept, in a SQLite file or a PostgreSQL database.
//!
//! One writes at a time, several read; on PostgreSQL that may be several processes ([`leadership`]). What was committed is on the disk, so whoever answers after a commit has kept its
//! word. Queries keep to the SQL that both share, and to what sqlx's `Any` has: it reads no booleans from SQLite.

pub(crate) mod aggregates;
pub(crate) mod archive;
pub(crate) mod balances;
pub(crate) mod copy;
pub(crate) mod costs;
mod engine;
pub(crate) mod files;
pub(crate) mod follow;
pub(crate) mod holds;
pub(crate) mod journal;
pub(crate) mod leadership;
pub(crate) mod list;
pub(crate) mod messages;
pub(crate) mod nodes;
pub(crate) mod pending;
pub(crate) mod places;
pub(crate) mod posts;
pub(crate) mod programs;
pub(crate) mod query;
pub(crate) mod stores;

use std::sync::Arc;

use futures_util::{Stream, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::{Pool, Transaction};

pub(crate) use engine::Database;
use engine::{Engine, Term};

use crate::error::RunError;

/// The database engine, which is chosen when the node starts.
pub(crate) type Db = sqlx::Any;
/// A connection to it.
pub(crate) type Connection = sqlx::AnyConnection;

/// What can go wrong with what is kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database cannot be used at the moment. Whether a commit under way was done is not known.
    #[error("the node's database cannot be used now: {0}; try again in a few seconds")]
    Away(String),
    /// It was asked with a text that it cannot have: PostgreSQL knows no NUL.
    #[error("the character \\u0000 is not supported")]
    Nul,
    /// The database was changed by another version of this program.
    #[error("the database cannot be used: {0}; start the same version")]
    OtherTables(&'static str),
    /// The process was given another place for files or snapshots than the one that belongs to the database.
    #[error("{0}")]
    OtherPlace(String),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(sqlx::Error),
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

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            error if engine::is_away(&error) => Self::Away(error.to_string()),
            error if engine::is_nul(&error) => Self::Nul,
            error => Self::Database(error),
        }
    }
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
    engine: Engine,
    writer: Pool<Db>,
    readers: Pool<Db>,
    term: Arc<Term>,
}

impl Store {
    /// Opens the database and brings it to the current schema. A file is made when it does not exist.
    ///
    /// # Errors
    /// [`RunError::Database`].
    pub(crate) async fn open(database: &Database) -> Result<Self, RunError> {
        engine::open(database).await
    }

    /// A connection for reading.
    pub(crate) async fn read(&self) -> Stored<PoolConnection<Db>> {
        Ok(self.readers.acquire().await?)
    }

    /// Starts to write. Nobody else writes until the transaction ends; dropping it undoes everything.
    ///
    /// # Errors
    /// [`StoreError::Away`] while the database cannot be reached or another process writes to it.
    pub(crate) async fn write(&self) -> Stored<Transaction<'static, Db>> {
        self.writer.begin_with(self.engine.begin()).await.map_err(|error| self.why_not(error))
    }

    /// The number of the time for which this process has the right to write without a break, which it takes if nobody has it.
    /// Whatever was read in an earlier one may have been changed by another process.
    ///
    /// # Errors
    /// [`StoreError::Away`] while it has not that right.
    pub(crate) async fn term(&self) -> Stored<u64> {
        if self.engine == Engine::Postgres {
            drop(self.writer.acquire().await.map_err(|error| self.why_not(error))?);
        }
        Ok(self.last_term())
    }

    /// The last [`Self::term`]; in a transaction that writes it is the transaction's.
    pub(crate) fn last_term(&self) -> u64 {
        self.term.number()
    }

    fn why_not(&self, error: sqlx::Error) -> StoreError {
        match error {
            sqlx::Error::PoolTimedOut => StoreError::Away(self.term.trouble()),
            error => error.into(),
        }
    }

    /// Closes all connections; SQLite moves its write-ahead log into the file.
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

    /// A file, and a database of a PostgreSQL server: what holds for one, holds for the other.
    async fn databases() -> (tempfile::TempDir, [Database; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let file = Database::Sqlite(folder.path().join("messages.sqlite"));
        let url = tokio::task::spawn_blocking(|| aleph_tests::Postgres::shared().database()).await.unwrap();
        (folder, [file, Database::Postgres(url.parse().unwrap())])
    }

    #[tokio::test]
    async fn opens_again_and_keeps_what_was_committed() {
        let (_folder, databases) = databases().await;
        for database in databases {
            keeps_what_was_committed(&database).await;
        }
    }

    async fn keeps_what_was_committed(database: &Database) {
        let store = Store::open(database).await.unwrap();
        let mut tx = store.write().await.unwrap();
        files::insert(&mut tx, "committed", 7, 0).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.write().await.unwrap();
        files::insert(&mut tx, "dropped", 7, 0).await.unwrap();
        drop(tx);
        store.close().await;
        let store = Store::open(database).await.unwrap();
        let mut db = store.read().await.unwrap();
        assert!(files::is_object(&mut db, "committed").await.unwrap());
        assert!(!files::is_object(&mut db, "dropped").await.unwrap());
    }

    #[tokio::test]
    async fn messages_of_earlier_versions_get_their_tags() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("messages.sqlite");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut old = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        engine::SQLITE_MIGRATIONS.run_to(7, &mut old).await.unwrap();
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
        let store = Store::open(&Database::Sqlite(path)).await.unwrap();
        let tags: Vec<(String, String)> = sqlx::query_as("SELECT item_hash, tag FROM message_tags ORDER BY 1, 2")
            .fetch_all(&mut *store.read().await.unwrap())
            .await
            .unwrap();
        let expected = [("aggregate", "a"), ("post", "a"), ("post", "b")];
        assert_eq!(tags, expected.map(|(hash, tag)| (hash.to_owned(), tag.to_owned())));
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let (_folder, databases) = databases().await;
        for database in databases {
            let store = Store::open(&database).await.unwrap();
            let mut db = store.read().await.unwrap();
            assert!(files::insert(&mut db, "x", 1, 0).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_a_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("messages.sqlite");
        std::fs::write(&path, "this is no database, and it is long enough to be looked at".repeat(20)).unwrap();
        let error = Store::open(&Database::Sqlite(path.clone())).await.unwrap_err();
        assert!(matches!(error, RunError::Database { .. }), "{error}");
    }
}
