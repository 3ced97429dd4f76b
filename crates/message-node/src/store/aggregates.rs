//! AGGREGATE messages in force and the documents they make together.

use sqlx::FromRow;

use super::query::Query;
use super::{Connection, Part, StoreError, Stored, bounded};
use crate::core::aggregate::{Aggregate, Moment, names};

/// A document with its history.
#[derive(Debug)]
pub(crate) struct AggregateRow {
    /// Its key.
    pub key: String,
    /// Its values.
    pub aggregate: Aggregate,
    /// The oldest message.
    pub first: Moment,
    /// The newest message.
    pub last: Moment,
}

#[derive(FromRow)]
struct Row {
    key: String,
    entries: String,
    first_us: i64,
    first_hash: String,
    last_us: i64,
    last_hash: String,
}

const COLUMNS: &str = "key, entries, first_us, first_hash, last_us, last_hash";

impl Row {
    fn read(self) -> Stored<AggregateRow> {
        let aggregate =
            Aggregate::from_json(&self.entries).map_err(|e| StoreError::corrupt("aggregate", &self.key, e))?;
        let (first, last) = ((self.first_us, self.first_hash), (self.last_us, self.last_hash));
        Ok(AggregateRow { key: self.key, aggregate, first, last })
    }
}

/// One document.
pub(crate) async fn get(db: &mut Connection, owner: &str, key: &str) -> Stored<Option<AggregateRow>> {
    let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM aggregates WHERE owner = $1 AND key = $2"));
    let row: Option<Row> = sqlx::query_as(sql).bind(owner).bind(key).fetch_optional(db).await?;
    row.map(Row::read).transpose()
}

/// The documents of an owner, those with these keys or all, at most `limit` and with at most `max_bytes` together.
pub(crate) async fn of_owner(
    db: &mut Connection,
    owner: &str,
    keys: &[String],
    limit: u32,
    max_bytes: u64,
) -> Stored<Part<AggregateRow>> {
    let mut query = Query::new(format!("SELECT {COLUMNS} FROM aggregates WHERE owner = "));
    query.push_bind(owner.to_owned());
    if !keys.is_empty() {
        query.push(" AND ");
        query.push_in("key", keys.iter().cloned());
    }
    query.push(" ORDER BY key LIMIT ").push_bind(i64::from(limit));
    let found = bounded(query.rows().fetch(db), |row: &Row| row.entries.len() as u64, max_bytes).await?;
    Ok(Part { rows: found.rows.into_iter().map(Row::read).collect::<Stored<_>>()?, cut: found.cut })
}

/// Puts a message in force and keeps the document that results.
pub(crate) async fn insert(db: &mut Connection, owner: &str, key: &str, moment: &Moment, entries: &str) -> Stored<()> {
    sqlx::query("INSERT INTO aggregate_elements (item_hash, owner, key, time_us) VALUES ($1, $2, $3, $4)")
        .bind(&moment.1)
        .bind(owner)
        .bind(key)
        .bind(moment.0)
        .execute(&mut *db)
        .await?;
    let bounds = bounds(db, owner, key).await?;
    save(db, owner, key, entries, bounds).await
}

/// Puts messages out of force and makes the document anew from those that are left.
pub(crate) async fn delete(db: &mut Connection, owner: &str, key: &str, hashes: &[String]) -> Stored<()> {
    for hash in hashes {
        sqlx::query("DELETE FROM aggregate_elements WHERE item_hash = $1").bind(hash).execute(&mut *db).await?;
    }
    let Some(bounds) = bounds(db, owner, key).await? else {
        sqlx::query("DELETE FROM aggregates WHERE owner = $1 AND key = $2").bind(owner).bind(key).execute(db).await?;
        return Ok(());
    };
    let unaffected = get(db, owner, key).await?.filter(|row| !row.aggregate.has_values_of(hashes));
    let aggregate = match unaffected {
        Some(row) => row.aggregate,
        None => rebuild(db, owner, key).await?,
    };
    save(db, owner, key, &aggregate.to_json(), Some(bounds)).await
}

async fn rebuild(db: &mut Connection, owner: &str, key: &str) -> Stored<Aggregate> {
    let elements = elements(db, owner, key).await?;
    let mut aggregate = Aggregate::default();
    for (hash, time_us) in elements {
        // One at a time: together they can be much larger than what they make.
        let content: Option<String> = sqlx::query_scalar("SELECT content FROM messages WHERE item_hash = $1")
            .bind(&hash)
            .fetch_one(&mut *db)
            .await?;
        let names =
            names(&content.unwrap_or_default()).map_err(|e| StoreError::corrupt("aggregate message", &hash, e))?;
        aggregate.merge(names, &(time_us, hash));
    }
    Ok(aggregate)
}

/// The messages that make a document, oldest first, with their times.
pub(crate) async fn elements(db: &mut Connection, owner: &str, key: &str) -> Stored<Vec<(String, i64)>> {
    Ok(sqlx::query_as(
        "SELECT item_hash, time_us FROM aggregate_elements WHERE owner = $1 AND key = $2 ORDER BY time_us, item_hash",
    )
    .bind(owner)
    .bind(key)
    .fetch_all(db)
    .await?)
}

/// The oldest and the newest message of a document.
async fn bounds(db: &mut Connection, owner: &str, key: &str) -> Stored<Option<(Moment, Moment)>> {
    let first: Option<Moment> = sqlx::query_as(
        "SELECT time_us, item_hash FROM aggregate_elements WHERE owner = $1 AND key = $2
         ORDER BY time_us, item_hash LIMIT 1",
    )
    .bind(owner)
    .bind(key)
    .fetch_optional(&mut *db)
    .await?;
    let last: Option<Moment> = sqlx::query_as(
        "SELECT time_us, item_hash FROM aggregate_elements WHERE owner = $1 AND key = $2
         ORDER BY time_us DESC, item_hash DESC LIMIT 1",
    )
    .bind(owner)
    .bind(key)
    .fetch_optional(db)
    .await?;
    Ok(first.zip(last))
}

async fn save(
    db: &mut Connection,
    owner: &str,
    key: &str,
    entries: &str,
    bounds: Option<(Moment, Moment)>,
) -> Stored<()> {
    let Some((first, last)) = bounds else { return Ok(()) };
    sqlx::query(
        "INSERT INTO aggregates (owner, key, entries, first_us, first_hash, last_us, last_hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (owner, key) DO UPDATE SET entries = excluded.entries, first_us = excluded.first_us,
             first_hash = excluded.first_hash, last_us = excluded.last_us, last_hash = excluded.last_hash",
    )
    .bind(owner)
    .bind(key)
    .bind(entries)
    .bind(first.0)
    .bind(first.1)
    .bind(last.0)
    .bind(last.1)
    .execute(db)
    .await?;
    Ok(())
}
