//! STORE messages in force.

use sqlx::FromRow;

use super::list::{Order, Window, push_window};
use super::query::Query;
use super::{Connection, Stored};

/// A STORE message in force, with its file.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct StoreRow {
    /// The message.
    pub item_hash: String,
    /// Its owner, as written.
    pub address: String,
    /// The file, by the name that the message has for it.
    pub file_hash: String,
    /// `content.ref`.
    #[sqlx(rename = "ref")]
    pub reference: Option<String>,
    /// The content's time, microseconds since 1970.
    pub time_us: i64,
    /// Bytes of the file.
    pub size: i64,
}

/// A new STORE message.
pub(crate) struct NewStore<'a> {
    /// The message.
    pub item_hash: &'a str,
    /// Its owner, canonical.
    pub owner: &'a str,
    /// Its owner, as written.
    pub address: &'a str,
    /// The file, by its SHA-256.
    pub file_hash: &'a str,
    /// The file, by the name that the message has for it.
    pub named_as: &'a str,
    /// What all versions of the file share.
    pub tag: &'a str,
    /// `content.ref`.
    pub reference: Option<&'a str>,
    /// The content's time, microseconds since 1970.
    pub time_us: i64,
}

/// Puts a message in force.
pub(crate) async fn insert(db: &mut Connection, store: &NewStore<'_>) -> Stored<()> {
    sqlx::query(
        "INSERT INTO stores (item_hash, owner, address, file_hash, tag, ref, time_us, named_as)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(store.item_hash)
    .bind(store.owner)
    .bind(store.address)
    .bind(store.file_hash)
    .bind(store.tag)
    .bind(store.reference)
    .bind(store.time_us)
    .bind((store.named_as != store.file_hash).then_some(store.named_as))
    .execute(db)
    .await?;
    Ok(())
}

/// Puts a message out of force and gives the SHA-256 of its file.
pub(crate) async fn delete(db: &mut Connection, item_hash: &str) -> Stored<Option<String>> {
    Ok(sqlx::query_scalar("DELETE FROM stores WHERE item_hash = $1 RETURNING file_hash")
        .bind(item_hash)
        .fetch_optional(db)
        .await?)
}

/// Rows with the size of their file; what is left is to say which.
const SELECT: &str =
    "SELECT s.item_hash, s.address, COALESCE(s.named_as, s.file_hash) AS file_hash, s.ref, s.time_us, f.size
     FROM stores s JOIN files f ON f.hash = s.file_hash WHERE ";

/// A message in force.
pub(crate) async fn get(db: &mut Connection, item_hash: &str) -> Stored<Option<StoreRow>> {
    let mut query = Query::new(SELECT);
    query.push("s.item_hash = ").push_bind(item_hash.to_owned());
    Ok(query.rows().fetch_optional(db).await?)
}

/// The newest version with this tag.
pub(crate) async fn newest(db: &mut Connection, tag: &str) -> Stored<Option<StoreRow>> {
    let mut query = Query::new(SELECT);
    query.push("s.tag = ").push_bind(tag.to_owned());
    push_window(&mut query, "s.", Order::Descending, &Window::After(None), 1);
    Ok(query.rows().fetch_optional(db).await?)
}

/// The file that a program means by a STORE message: its own, or the newest version of it.
pub(crate) async fn resolve(db: &mut Connection, reference: &str, use_latest: bool) -> Stored<Option<StoreRow>> {
    if use_latest && let Some(newest) = newest(&mut *db, reference).await? {
        return Ok(Some(newest));
    }
    get(db, reference).await
}

/// A part of the list of an owner's files.
pub(crate) async fn of_owner(
    db: &mut Connection,
    owner: &str,
    order: Order,
    window: &Window,
    limit: u32,
) -> Stored<Vec<StoreRow>> {
    let mut query = Query::new(SELECT);
    query.push("s.owner = ").push_bind(owner.to_owned());
    push_window(&mut query, "s.", order, window, limit);
    Ok(query.rows().fetch_all(db).await?)
}

/// How many files an owner has, and their bytes together.
pub(crate) async fn totals(db: &mut Connection, owner: &str) -> Stored<(i64, i64)> {
    let (count, bytes): (i64, Option<i64>) = sqlx::query_as(
        "SELECT COUNT(*), CAST(SUM(f.size) AS BIGINT) FROM stores s JOIN files f ON f.hash = s.file_hash WHERE s.owner = $1",
    )
    .bind(owner)
    .fetch_one(db)
    .await?;
    Ok((count, bytes.unwrap_or(0)))
}
