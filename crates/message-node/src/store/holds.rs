//! What owners have to hold tokens for, and which of that their balance does not cover.

use sqlx::FromRow;

use super::{Connection, Stored, costs};
use crate::core::hold::{Held, State};

#[derive(FromRow)]
struct Row {
    item_hash: String,
    cost: String,
    #[sqlx(rename = "type")]
    message_type: String,
    received_us: i64,
    removed: Option<bool>,
    until_us: Option<i64>,
}

impl Row {
    fn read(self) -> Stored<Held> {
        let state = match (self.removed, self.until_us) {
            (Some(true), Some(until_us)) => State::Removed(until_us),
            (Some(false), Some(until_us)) => State::Removing(until_us),
            _ => State::InForce,
        };
        let cost = costs::read(&self.cost, &self.item_hash)?;
        let is_program = self.message_type == "PROGRAM";
        Ok(Held { item_hash: self.item_hash, is_program, cost, received_us: self.received_us, state })
    }
}

/// All that an owner has to hold tokens for, or had to. Programs that were accepted without counting the one they replace
/// are left out until that is settled.
pub(crate) async fn of_owner(db: &mut Connection, owner: &str) -> Stored<Vec<Held>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT c.item_hash, c.cost, m.type, m.received_us, u.removed, u.until_us
         FROM costs c JOIN messages m ON m.item_hash = c.item_hash
             LEFT JOIN uncovered u ON u.item_hash = c.item_hash
             LEFT JOIN programs p ON p.item_hash = c.item_hash
         WHERE c.owner = $1 AND c.cost <> '0' AND p.settle_by_us IS NULL
         UNION ALL
         SELECT u.item_hash, u.cost, m.type, m.received_us, u.removed, u.until_us
         FROM uncovered u JOIN messages m ON m.item_hash = u.item_hash
         WHERE u.owner = $1 AND u.removed",
    )
    .bind(owner)
    .fetch_all(db)
    .await?;
    let held: Stored<Vec<Held>> = rows.into_iter().map(Row::read).collect();
    Ok(held?.into_iter().filter(|held| !held.cost.is_zero()).collect())
}

/// Owners who have to hold tokens for something, or had to, in order after one of them.
pub(crate) async fn owners_after(db: &mut Connection, owner: &str, limit: u32) -> Stored<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT owner FROM costs WHERE cost <> '0' AND owner > $1
         UNION SELECT owner FROM uncovered WHERE owner > $1 ORDER BY owner LIMIT $2",
    )
    .bind(owner)
    .bind(limit)
    .fetch_all(db)
    .await?)
}

/// Owners of something whose time is over, in order after one of them.
pub(crate) async fn due(db: &mut Connection, now_us: i64, after: &str, limit: u32) -> Stored<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT DISTINCT owner FROM uncovered WHERE until_us <= $1 AND owner > $2 ORDER BY owner LIMIT $3",
    )
    .bind(now_us)
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await?)
}

/// When the time of the next is over, microseconds since 1970.
pub(crate) async fn next_due(db: &mut Connection) -> Stored<Option<i64>> {
    Ok(sqlx::query_scalar("SELECT MIN(until_us) FROM uncovered").fetch_one(db).await?)
}

/// A message is not covered, for this long.
pub(crate) async fn put(db: &mut Connection, owner: &str, held: &Held, removed: bool, until_us: i64) -> Stored<()> {
    sqlx::query(
        "INSERT INTO uncovered (item_hash, owner, cost, removed, until_us) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (item_hash) DO UPDATE SET removed = excluded.removed, until_us = excluded.until_us",
    )
    .bind(&held.item_hash)
    .bind(owner)
    .bind(held.cost.to_string())
    .bind(removed)
    .bind(until_us)
    .execute(db)
    .await?;
    Ok(())
}

/// A message is covered, or nothing of it is kept.
pub(crate) async fn delete(db: &mut Connection, item_hash: &str) -> Stored<()> {
    sqlx::query("DELETE FROM uncovered WHERE item_hash = $1").bind(item_hash).execute(db).await?;
    Ok(())
}

/// Until when a message is in force, or kept, that is not covered; `None` if it is.
pub(crate) async fn until(db: &mut Connection, item_hash: &str) -> Stored<Option<i64>> {
    Ok(sqlx::query_scalar("SELECT until_us FROM uncovered WHERE item_hash = $1")
        .bind(item_hash)
        .fetch_optional(db)
        .await?)
}
