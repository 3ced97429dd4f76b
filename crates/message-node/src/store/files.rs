//! Which files are there, and what refers to them. The bytes are in the file store.

use sqlx::AssertSqlSafe;

use super::{Connection, Stored, from_db, to_db};

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

/// The size of a file in bytes; `None` when it is not there.
pub(crate) async fn size(db: &mut Connection, hash: &str) -> Stored<Option<u64>> {
    let size: Option<i64> =
        sqlx::query_scalar("SELECT size FROM files WHERE hash = $1").bind(hash).fetch_optional(db).await?;
    Ok(size.map(from_db))
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
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).bind(now_us).bind(limit).fetch_all(db).await?)
}

/// Takes a file's row away, unless the file came to be needed; tells whether it did so.
pub(crate) async fn delete_if_unneeded(db: &mut Connection, hash: &str, now_us: i64) -> Stored<bool> {
    let sql = format!("DELETE FROM files WHERE {UNNEEDED} AND hash = $2");
    Ok(sqlx::query(AssertSqlSafe(sql)).bind(now_us).bind(hash).execute(db).await?.rows_affected() > 0)
}

/// How many files there are, and their bytes together.
pub(crate) async fn totals(db: &mut Connection) -> Stored<(i64, i64)> {
    let (count, bytes): (i64, Option<i64>) =
        sqlx::query_as("SELECT COUNT(*), CAST(SUM(size) AS BIGINT) FROM files").fetch_one(db).await?;
    Ok((count, bytes.unwrap_or(0)))
}
