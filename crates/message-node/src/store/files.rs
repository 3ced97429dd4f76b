//! Which files are there, and what refers to them. The bytes are in the file store.

use protocol::FileName;
use sqlx::{AssertSqlSafe, FromRow};

use super::{Connection, Stored, to_db};

/// A file that is there.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub(crate) struct Found {
    /// Its SHA-256, under which everything else knows it.
    pub hash: String,
    /// Its size in bytes.
    #[sqlx(try_from = "i64")]
    pub bytes: u64,
    /// What the file store calls its bytes; its SHA-256 if nothing else is said.
    pub object: Option<String>,
}

impl Found {
    /// What the file store calls its bytes.
    pub(crate) fn object(&self) -> &str {
        self.object.as_deref().unwrap_or(&self.hash)
    }
}

/// The file that this is a name of; `None` when it is not there.
pub(crate) async fn find(db: &mut Connection, name: FileName) -> Stored<Option<Found>> {
    let sql = match name {
        FileName::Sha256(_) => "SELECT hash, size AS bytes, object FROM files WHERE hash = $1",
        FileName::DagPb(_) => {
            "SELECT f.hash, f.size AS bytes, f.object FROM file_cids c JOIN files f ON f.hash = c.file_hash WHERE c.cid = $1"
        }
    };
    Ok(sqlx::query_as(sql).bind(name.to_string()).fetch_optional(db).await?)
}

/// A file that is there has these names, too. Those by SHA-256 are its own and need no mention.
pub(crate) async fn add_names(db: &mut Connection, hash: &str, names: &[FileName]) -> Stored<()> {
    for name in names.iter().filter(|name| matches!(name, FileName::DagPb(_))) {
        sqlx::query(
            "INSERT INTO file_cids (cid, file_hash) SELECT $1, $2 WHERE EXISTS (SELECT 1 FROM files WHERE hash = $2)
             ON CONFLICT DO NOTHING",
        )
        .bind(name.to_string())
        .bind(hash)
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

/// Files whose CIDs are not known, in the order of their hashes, after this one, at most `limit`: they came before CIDs were
/// kept.
pub(crate) async fn without_cid(db: &mut Connection, after: &str, limit: u32) -> Stored<Vec<Found>> {
    Ok(sqlx::query_as(
        "SELECT hash, size AS bytes, object FROM files
         WHERE hash > $1 AND NOT EXISTS (SELECT 1 FROM file_cids WHERE file_hash = files.hash)
         ORDER BY hash LIMIT $2",
    )
    .bind(after)
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?)
}

/// A file is there. Nothing refers to it yet; it is kept at least until `keep_until_us`.
pub(crate) async fn insert(db: &mut Connection, hash: &str, size: u64, keep_until_us: i64) -> Stored<()> {
    sqlx::query(
        "INSERT INTO files (hash, size, keep_until_us) VALUES ($1, $2, $3)
         ON CONFLICT (hash) DO UPDATE SET keep_until_us = excluded.keep_until_us
         WHERE files.keep_until_us < excluded.keep_until_us",
    )
    .bind(hash)
    .bind(to_db(size))
    .bind(keep_until_us)
    .execute(db)
    .await?;
    Ok(())
}

/// The bytes of a file that is there are in this object.
pub(crate) async fn set_object(db: &mut Connection, hash: &str, object: &str) -> Stored<()> {
    sqlx::query("UPDATE files SET object = $1 WHERE hash = $2").bind(object).bind(hash).execute(db).await?;
    Ok(())
}

/// Whether the bytes of any file are in this object.
pub(crate) async fn is_object(db: &mut Connection, object: &str) -> Stored<bool> {
    let sql =
        "SELECT hash FROM files WHERE object = $1 UNION SELECT hash FROM files WHERE hash = $1 AND object IS NULL";
    let found: Option<String> = sqlx::query_scalar(sql).bind(object).fetch_optional(db).await?;
    Ok(found.is_some())
}

/// A file lost a reference: it is kept at least until then.
pub(crate) async fn keep_until(db: &mut Connection, hash: &str, keep_until_us: i64) -> Stored<()> {
    sqlx::query("UPDATE files SET keep_until_us = $1 WHERE hash = $2 AND keep_until_us < $1")
        .bind(keep_until_us)
        .bind(hash)
        .execute(db)
        .await?;
    Ok(())
}

/// A file holds the content of a message.
pub(crate) async fn add_content(db: &mut Connection, hash: &str, message_hash: &str) -> Stored<()> {
    sqlx::query("INSERT INTO content_files (file_hash, message_hash) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(hash)
        .bind(message_hash)
        .execute(db)
        .await?;
    Ok(())
}

/// The file that holds the content of a message is not needed for that any more; gives its hash.
pub(crate) async fn remove_content(db: &mut Connection, message_hash: &str) -> Stored<Option<String>> {
    Ok(sqlx::query_scalar("DELETE FROM content_files WHERE message_hash = $1 RETURNING file_hash")
        .bind(message_hash)
        .fetch_optional(db)
        .await?)
}

/// How many messages in force refer to a file.
pub(crate) async fn references(db: &mut Connection, hash: &str) -> Stored<i64> {
    Ok(sqlx::query_scalar(
        "SELECT (SELECT COUNT(*) FROM stores WHERE file_hash = $1)
              + (SELECT COUNT(*) FROM content_files WHERE file_hash = $1)",
    )
    .bind(hash)
    .fetch_one(db)
    .await?)
}

/// Of a file: its grace time ended before `$1`, and nothing refers to it.
const UNNEEDED: &str = "keep_until_us < $1
     AND NOT EXISTS (SELECT 1 FROM stores WHERE stores.file_hash = files.hash)
     AND NOT EXISTS (SELECT 1 FROM content_files WHERE content_files.file_hash = files.hash)";

/// Files that nothing refers to and whose grace time is over, at most `limit`.
pub(crate) async fn unneeded(db: &mut Connection, now_us: i64, limit: u32) -> Stored<Vec<String>> {
    let sql = format!("SELECT hash FROM files WHERE {UNNEEDED} ORDER BY keep_until_us LIMIT $2");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).bind(now_us).bind(i64::from(limit)).fetch_all(db).await?)
}

/// Takes a file's row and names away, unless the file came to be needed; gives what was taken away.
pub(crate) async fn delete_if_unneeded(db: &mut Connection, hash: &str, now_us: i64) -> Stored<Option<Found>> {
    let sql = format!("DELETE FROM files WHERE {UNNEEDED} AND hash = $2 RETURNING hash, size AS bytes, object");
    let deleted = sqlx::query_as(AssertSqlSafe(sql)).bind(now_us).bind(hash).fetch_optional(&mut *db).await?;
    if deleted.is_some() {
        sqlx::query("DELETE FROM file_cids WHERE file_hash = $1").bind(hash).execute(db).await?;
    }
    Ok(deleted)
}

/// How many files there are, and their bytes together.
pub(crate) async fn totals(db: &mut Connection) -> Stored<(i64, i64)> {
    let (count, bytes): (i64, Option<i64>) =
        sqlx::query_as("SELECT COUNT(*), CAST(SUM(size) AS BIGINT) FROM files").fetch_one(db).await?;
    Ok((count, bytes.unwrap_or(0)))
}
