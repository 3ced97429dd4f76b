//! What messages in force need their owners to hold.

use rust_decimal::Decimal;

use super::{Connection, StoreError, Stored};

/// A message costs something.
pub(crate) async fn insert(
    db: &mut Connection,
    item_hash: &str,
    owner: &str,
    cost: Decimal,
    price: &str,
) -> Stored<()> {
    sqlx::query("INSERT INTO costs (item_hash, owner, cost, price) VALUES ($1, $2, $3, $4)")
        .bind(item_hash)
        .bind(owner)
        .bind(cost.to_string())
        .bind(price)
        .execute(db)
        .await?;
    Ok(())
}

/// A message is out of force.
pub(crate) async fn delete(db: &mut Connection, item_hash: &str) -> Stored<()> {
    sqlx::query("DELETE FROM costs WHERE item_hash = $1").bind(item_hash).execute(db).await?;
    Ok(())
}

/// The price of a message as it was charged, JSON.
pub(crate) async fn price(db: &mut Connection, item_hash: &str) -> Stored<Option<String>> {
    Ok(sqlx::query_scalar("SELECT price FROM costs WHERE item_hash = $1").bind(item_hash).fetch_optional(db).await?)
}

/// What all messages of an owner need together, in tokens. Summed here, because SQLite has no decimal numbers.
pub(crate) async fn locked(db: &mut Connection, owner: &str) -> Stored<Decimal> {
    let costs: Vec<String> =
        sqlx::query_scalar("SELECT cost FROM costs WHERE owner = $1 AND cost <> '0'").bind(owner).fetch_all(db).await?;
    costs.iter().map(|cost| read(cost, owner)).sum()
}

/// An amount of tokens.
pub(crate) fn read(cost: &str, of: &str) -> Stored<Decimal> {
    cost.parse().map_err(|e| StoreError::corrupt("cost", of, e))
}
