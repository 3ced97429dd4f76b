//! Registered compute nodes.

use sqlx::FromRow;

use super::{Connection, Stored};
use crate::core::network::Node;

/// More nodes than any network of ours has; what is beyond is not listed.
const MOST: i64 = 10_000;

#[derive(FromRow)]
struct Row {
    item_hash: String,
    address: String,
    name: String,
    url: String,
    time_us: i64,
}

/// A node registered.
pub(crate) async fn insert(db: &mut Connection, node: &Node) -> Stored<()> {
    sqlx::query("INSERT INTO nodes (item_hash, owner, address, name, url, time_us) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(&node.item_hash)
        .bind(node.owner.canonical())
        .bind(node.owner.as_str())
        .bind(&node.name)
        .bind(&node.url)
        .bind(node.time_us)
        .execute(db)
        .await?;
    Ok(())
}

/// The registration was taken back.
pub(crate) async fn delete(db: &mut Connection, item_hash: &str) -> Stored<()> {
    sqlx::query("DELETE FROM nodes WHERE item_hash = $1").bind(item_hash).execute(db).await?;
    Ok(())
}

/// All nodes, oldest first.
pub(crate) async fn all(db: &mut Connection) -> Stored<Vec<Node>> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT item_hash, address, name, url, time_us FROM nodes ORDER BY time_us, item_hash LIMIT $1")
            .bind(MOST)
            .fetch_all(db)
            .await?;
    Ok(rows
        .into_iter()
        .map(|row| Node {
            item_hash: row.item_hash,
            owner: protocol::Address::new(row.address),
            name: row.name,
            url: row.url,
            time_us: row.time_us,
        })
        .collect())
}

/// The account that registered a node; `None` when no such node is registered.
pub(crate) async fn owner_of(db: &mut Connection, item_hash: &str) -> Stored<Option<protocol::Address>> {
    let owner: Option<String> =
        sqlx::query_scalar("SELECT address FROM nodes WHERE item_hash = $1").bind(item_hash).fetch_optional(db).await?;
    Ok(owner.map(protocol::Address::new))
}
