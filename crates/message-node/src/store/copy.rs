//! Copies a node's SQLite database into an empty PostgreSQL database.
//!
//! Everything is copied in one transaction, table by table: what the tables and their columns are is asked of the database,
//! so that no migration can be forgotten here. Both engines have the same, but for the tables of several processes.

use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use sqlx::AssertSqlSafe;
use url::Url;

use super::leadership::Lock;
use super::{Connection, Database, Store, StoreError, Stored, from_db};
use crate::error::RunError;
use crate::server::lock;

/// Rows that are sent at once at most.
const BATCH_ROWS: usize = 1000;
/// Bytes of rows that are sent at once, when there is more than one row.
const BATCH_BYTES: usize = 4 << 20;

/// Why a database was not copied. Nothing of it is in the new one then.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is nothing to copy.
    #[error("there is no {0}; give the data directory of a message node that keeps its messages in SQLite")]
    NoDatabase(PathBuf),
    /// Something is in the database that it is to be copied to.
    #[error("{table} of {database} is not empty; give a new database")]
    NotEmpty {
        /// The database, without its password.
        database: String,
        /// The first table with rows.
        table: String,
    },
    /// A table has not as many rows as it should have.
    #[error("{table} has {found} rows of {expected} after it was copied; nothing is kept")]
    Incomplete {
        /// The table.
        table: String,
        /// Rows that were copied.
        expected: u64,
        /// Rows that are there.
        found: u64,
    },
    /// A node uses the directory or the database, or one of them cannot be used.
    #[error(transparent)]
    Unusable(#[from] RunError),
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Rows that were copied.
    pub rows: u64,
    /// Rows that there are.
    pub of: u64,
}

/// Copies `messages.sqlite` of a data directory, whose node is stopped, into an empty PostgreSQL database. `progress` is told
/// how far it is, first of nothing and last of all. Files stay where they are.
///
/// # Errors
/// [`CopyError`].
pub async fn copy(data_dir: &Path, to: &Url, mut progress: impl FnMut(Copied)) -> Result<Copied, CopyError> {
    let path = data_dir.join("messages.sqlite");
    if !path.is_file() {
        return Err(CopyError::NoDatabase(path));
    }
    let _lock = lock(data_dir).await?;
    let (from, to) = (Database::Sqlite(path), Database::Postgres(to.clone()));
    let (source, target) = (Store::open(&from).await?, Store::open(&to).await?);
    if let Lock::Theirs(leader) = target.lock().await.map_err(|error| to.failed(error))? {
        return Err(to.failed(format!("a message node uses it ({}); give a new database", leader.who)).into());
    }
    let unreadable = |error: StoreError| CopyError::from(from.failed(error));
    let unwritable = |error: StoreError| CopyError::from(to.failed(error));

    let mut tables = Vec::new();
    let mut copied = Copied { rows: 0, of: 0 };
    let mut rows = source.read().await.map_err(unreadable)?;
    for name in names(&mut rows, TABLES).await.map_err(unreadable)? {
        let count = count(&mut rows, &name).await.map_err(unreadable)?;
        copied.of += count;
        tables.push((name, count));
    }
    progress(copied);

    let mut tx = target.write().await.map_err(unwritable)?;
    for (table, _) in &tables {
        if count(&mut tx, table).await.map_err(unwritable)? > 0 {
            return Err(CopyError::NotEmpty { database: to.name(), table: table.clone() });
        }
    }
    // What the triggers count is copied, too.
    run(&mut tx, "SET LOCAL statement_timeout = 0; ALTER TABLE messages DISABLE TRIGGER USER")
        .await
        .map_err(unwritable)?;
    for (table, expected) in tables {
        let mut batches = Batches::of(&mut rows, &table).await.map_err(unreadable)?;
        while let Some(batch) = batches.next().await.map_err(unreadable)? {
            insert(&mut tx, &table, &batch).await.map_err(unwritable)?;
            copied.rows += batch.len() as u64;
            progress(copied);
        }
        drop(batches);
        let found = count(&mut tx, &table).await.map_err(unwritable)?;
        if found != expected {
            return Err(CopyError::Incomplete { table, expected, found });
        }
    }
    let last = "SELECT seq FROM sqlite_sequence WHERE name = 'pending'";
    let last: Option<i64> =
        sqlx::query_scalar(last).fetch_optional(&mut *rows).await.map_err(|error| unreadable(error.into()))?;
    finish(&mut tx, last.filter(|last| *last > 0)).await.map_err(unwritable)?;
    tx.commit().await.map_err(|error| unwritable(error.into()))?;
    drop(rows);
    source.close().await;
    target.close().await;
    Ok(copied)
}

/// The names of all tables.
const TABLES: &str = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name NOT LIKE '\\_%' ESCAPE '\\'
    ORDER BY name";

async fn names(db: &mut Connection, sql: &str) -> Stored<Vec<String>> {
    Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(db).await?)
}

/// The names of a table's columns in SQLite.
async fn columns(db: &mut Connection, table: &str) -> Stored<Vec<String>> {
    names(db, &format!("SELECT name FROM pragma_table_info('{table}') ORDER BY name")).await
}

async fn count(db: &mut Connection, table: &str) -> Stored<u64> {
    let sql = format!("SELECT COUNT(*) FROM {table}");
    Ok(from_db(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db).await?))
}

async fn run(db: &mut Connection, sql: &'static str) -> Stored<()> {
    Ok(sqlx::raw_sql(sql).execute(db).await.map(drop)?)
}

/// Adds rows, each of which is a JSON object.
async fn insert(db: &mut Connection, table: &str, rows: &[String]) -> Stored<()> {
    let sql = format!(
        "INSERT INTO {table} OVERRIDING SYSTEM VALUE
         SELECT * FROM json_populate_recordset(CAST(NULL AS {table}), CAST($1 AS JSON))"
    );
    let json = format!("[{}]", rows.join(","));
    Ok(sqlx::query(AssertSqlSafe(sql)).bind(json).execute(db).await.map(drop)?)
}

/// Numbers go on after the last one that was given, lists are planned with what is there now.
async fn finish(db: &mut Connection, last: Option<i64>) -> Stored<()> {
    if let Some(last) = last {
        let sql = "SELECT setval(pg_get_serial_sequence('pending', 'seq'), $1)";
        let _: i64 = sqlx::query_scalar(sql).bind(last).fetch_one(&mut *db).await?;
    }
    run(db, "ALTER TABLE messages ENABLE TRIGGER USER; ANALYZE").await
}

/// The rows of a table, some at a time, each as a JSON object.
struct Batches<'a> {
    rows: futures_util::stream::BoxStream<'a, sqlx::Result<String>>,
    /// The row that the last batch had no room for.
    next: Option<String>,
}

impl<'a> Batches<'a> {
    async fn of(db: &'a mut Connection, table: &str) -> Stored<Self> {
        let fields: Vec<String> =
            columns(db, table).await?.iter().map(|column| format!("'{column}', \"{column}\"")).collect();
        let sql = format!("SELECT json_object({}) FROM {table}", fields.join(", "));
        Ok(Self { rows: sqlx::query_scalar(AssertSqlSafe(sql)).fetch(db), next: None })
    }

    async fn next(&mut self) -> Stored<Option<Vec<String>>> {
        let mut batch: Vec<String> = self.next.take().into_iter().collect();
        let mut bytes = batch.iter().map(String::len).sum::<usize>();
        while batch.len() < BATCH_ROWS
            && let Some(row) = self.rows.try_next().await?
        {
            bytes += row.len();
            if bytes > BATCH_BYTES && !batch.is_empty() {
                self.next = Some(row);
                break;
            }
            batch.push(row);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_engines_have_the_same_tables_and_columns() {
        let folder = tempfile::tempdir().unwrap();
        let url = tokio::task::spawn_blocking(|| aleph_tests::Postgres::shared().database()).await.unwrap();
        let sqlite = Store::open(&Database::Sqlite(folder.path().join("messages.sqlite"))).await.unwrap();
        let postgres = Store::open(&Database::Postgres(url.parse().unwrap())).await.unwrap();
        let (mut sqlite, mut postgres) = (sqlite.read().await.unwrap(), postgres.read().await.unwrap());
        let tables = names(&mut sqlite, TABLES).await.unwrap();
        let of_postgres = "SELECT CAST(tablename AS TEXT) FROM pg_tables
            WHERE schemaname = 'public' AND tablename NOT LIKE '\\_%' AND tablename NOT IN ('leader', 'journal') ORDER BY CAST(tablename AS TEXT) COLLATE \"C\"";
        assert_eq!(names(&mut postgres, of_postgres).await.unwrap(), tables);
        for table in tables {
            let of_postgres = format!(
                "SELECT CAST(column_name AS TEXT) FROM information_schema.columns WHERE table_name = '{table}'
                 ORDER BY CAST(column_name AS TEXT) COLLATE \"C\""
            );
            let of_postgres = names(&mut postgres, &of_postgres).await.unwrap();
            assert_eq!(of_postgres, columns(&mut sqlite, &table).await.unwrap(), "{table}");
        }
        let indexes = "SELECT name FROM sqlite_master WHERE type = 'index' AND name NOT LIKE 'sqlite%' ORDER BY name";
        let of_postgres = "SELECT CAST(indexname AS TEXT) FROM pg_indexes
            WHERE schemaname = 'public' AND indexname NOT LIKE '%\\_identity\\_key' AND indexname NOT LIKE '%\\_pkey'
            ORDER BY CAST(indexname AS TEXT) COLLATE \"C\"";
        assert_eq!(names(&mut postgres, of_postgres).await.unwrap(), names(&mut sqlite, indexes).await.unwrap());
    }
}
