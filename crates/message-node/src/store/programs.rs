//! PROGRAM messages in force, and the files they need.

use sqlx::FromRow;

use super::list::Order;
use super::{Connection, Stored};

/// A new program.
pub(crate) struct NewProgram<'a> {
    /// The message.
    pub item_hash: &'a str,
    /// Its owner, canonical.
    pub owner: &'a str,
    /// The program that it replaces.
    pub replaces: Option<&'a str>,
    /// Whether it may be replaced.
    pub allow_amend: bool,
    /// JSON of `on.message`.
    pub subscriptions: Option<String>,
    /// The content's time, microseconds since 1970.
    pub time_us: i64,
    /// When the program that it replaces must be forgotten, microseconds since 1970.
    pub settle_by_us: Option<i64>,
}

/// What others need to know of a program to replace it.
#[derive(Debug)]
pub(crate) struct ProgramFacts {
    /// Its owner, canonical.
    pub owner: String,
    /// Whether it may be replaced.
    pub allow_amend: bool,
    /// What it needs its owner to hold, in tokens.
    pub cost: Option<String>,
}

/// A program that was accepted without counting the one that it replaces.
#[derive(Debug, FromRow)]
pub(crate) struct Unsettled {
    /// The program.
    pub item_hash: String,
    /// Its owner, canonical.
    pub owner: String,
    /// The program that it replaces.
    pub replaces: Option<String>,
}

/// Puts a program in force that needs these STORE messages.
pub(crate) async fn insert(db: &mut Connection, program: &NewProgram<'_>, references: &[&str]) -> Stored<()> {
    sqlx::query(
        "INSERT INTO programs (item_hash, owner, replaces, allow_amend, subscriptions, time_us, settle_by_us)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(program.item_hash)
    .bind(program.owner)
    .bind(program.replaces)
    .bind(program.allow_amend)
    .bind(&program.subscriptions)
    .bind(program.time_us)
    .bind(program.settle_by_us)
    .execute(&mut *db)
    .await?;
    for reference in references {
        sqlx::query("INSERT INTO program_references (program_hash, ref_hash) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(program.item_hash)
            .bind(reference)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Puts a program out of force.
pub(crate) async fn delete(db: &mut Connection, item_hash: &str) -> Stored<()> {
    sqlx::query("DELETE FROM program_references WHERE program_hash = $1").bind(item_hash).execute(&mut *db).await?;
    sqlx::query("DELETE FROM programs WHERE item_hash = $1").bind(item_hash).execute(db).await?;
    Ok(())
}

/// What others need to know of a program to replace it; `None` when it is not in force.
pub(crate) async fn facts(db: &mut Connection, item_hash: &str) -> Stored<Option<ProgramFacts>> {
    let row: Option<(String, i64, Option<String>)> = sqlx::query_as(
        "SELECT p.owner, CASE WHEN p.allow_amend THEN 1 ELSE 0 END, c.cost
         FROM programs p LEFT JOIN costs c ON c.item_hash = p.item_hash WHERE p.item_hash = $1",
    )
    .bind(item_hash)
    .fetch_optional(db)
    .await?;
    Ok(row.map(|(owner, allow_amend, cost)| ProgramFacts { owner, allow_amend: allow_amend != 0, cost }))
}

/// A program in force, other than these, that needs a STORE message.
pub(crate) async fn user_of(db: &mut Connection, reference: &str, except: &[String]) -> Stored<Option<String>> {
    // One more than may be left out is enough to find one that is not.
    let limit = i64::try_from(except.len()).unwrap_or(i64::MAX).saturating_add(1);
    let users: Vec<String> =
        sqlx::query_scalar("SELECT program_hash FROM program_references WHERE ref_hash = $1 LIMIT $2")
            .bind(reference)
            .bind(limit)
            .fetch_all(db)
            .await?;
    Ok(users.into_iter().find(|user| !except.contains(user)))
}

/// Programs that start on messages, with the JSON of what they subscribe to.
pub(crate) async fn on_message(db: &mut Connection, order: Order, limit: u32) -> Stored<Vec<(String, String)>> {
    let sql = match order {
        Order::Ascending => {
            "SELECT item_hash, subscriptions FROM programs WHERE subscriptions IS NOT NULL
             ORDER BY time_us ASC, item_hash ASC LIMIT $1"
        }
        Order::Descending => {
            "SELECT item_hash, subscriptions FROM programs WHERE subscriptions IS NOT NULL
             ORDER BY time_us DESC, item_hash DESC LIMIT $1"
        }
    };
    Ok(sqlx::query_as(sql).bind(i64::from(limit)).fetch_all(db).await?)
}

/// Programs whose predecessor should be forgotten by now, oldest first.
pub(crate) async fn to_settle(db: &mut Connection, now_us: i64, limit: u32) -> Stored<Vec<Unsettled>> {
    Ok(sqlx::query_as(
        "SELECT item_hash, owner, replaces FROM programs WHERE settle_by_us <= $1 ORDER BY settle_by_us LIMIT $2",
    )
    .bind(now_us)
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?)
}

/// When the next program has to be looked at again, microseconds since 1970.
pub(crate) async fn next_to_settle(db: &mut Connection) -> Stored<Option<i64>> {
    Ok(sqlx::query_scalar("SELECT MIN(settle_by_us) FROM programs").fetch_one(db).await?)
}

/// A program stays: nothing is left to look at.
pub(crate) async fn settled(db: &mut Connection, item_hash: &str) -> Stored<()> {
    sqlx::query("UPDATE programs SET settle_by_us = NULL WHERE item_hash = $1").bind(item_hash).execute(db).await?;
    Ok(())
}
