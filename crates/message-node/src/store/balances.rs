//! Balances that trusted senders published.

use std::collections::HashMap;

use rust_decimal::Decimal;
use sqlx::FromRow;

use super::{Connection, Stored, costs, to_db};
use crate::core::balances::Update;

/// What an account holds on a chain.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    /// The account, canonical.
    pub account: String,
    /// The word of the chain.
    pub chain: String,
    /// In tokens.
    pub balance: Decimal,
}

#[derive(FromRow)]
struct Row {
    account: String,
    chain: String,
    balance: String,
}

impl Row {
    fn read(self) -> Stored<Entry> {
        let balance = costs::read(&self.balance, &self.account)?;
        Ok(Entry { account: self.account, chain: self.chain, balance })
    }
}

/// Keeps what is newer than what is known. Gives the accounts whose balance came to be known or changed.
pub(crate) async fn put(db: &mut Connection, author: &str, update: &Update) -> Stored<Vec<String>> {
    let Update { chain, dapp, height, balances } = update;
    let known: Vec<(String, String, i64)> =
        sqlx::query_as("SELECT account, balance, height FROM balances WHERE chain = $1 AND dapp = $2")
            .bind(chain)
            .bind(dapp)
            .fetch_all(&mut *db)
            .await?;
    let known: HashMap<String, (String, i64)> =
        known.into_iter().map(|(account, balance, height)| (account, (balance, height))).collect();
    let mut changed = Vec::new();
    for (account, balance) in balances {
        let (text, before) = (balance.to_string(), known.get(account));
        if before.is_some_and(|(_, known_height)| known_height >= height) {
            continue;
        }
        sqlx::query(
            "INSERT INTO balances (account, chain, dapp, balance, height, author) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (account, chain, dapp) DO UPDATE SET
                 balance = excluded.balance, height = excluded.height, author = excluded.author",
        )
        .bind(account)
        .bind(chain)
        .bind(dapp)
        .bind(&text)
        .bind(height)
        .bind(author)
        .execute(&mut *db)
        .await?;
        if before.is_none_or(|(balance, _)| *balance != text) {
            changed.push(account.clone());
        }
    }
    Ok(changed)
}

/// What an account, canonical, holds itself, by chain. `None` while nothing is known of anybody.
pub(crate) async fn of(db: &mut Connection, account: &str) -> Stored<Option<Vec<Entry>>> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT account, chain, balance FROM balances WHERE account = $1 AND dapp = '' ORDER BY chain")
            .bind(account)
            .fetch_all(&mut *db)
            .await?;
    if rows.is_empty() && !are_known(db).await? {
        return Ok(None);
    }
    rows.into_iter().map(Row::read).collect::<Stored<_>>().map(Some)
}

/// Whether anybody's balance is known.
pub(crate) async fn are_known(db: &mut Connection) -> Stored<bool> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM balances)").fetch_one(db).await?)
}

/// A part of what accounts hold themselves, in their order, and how many entries there are in all.
pub(crate) async fn page(db: &mut Connection, skip: u64, limit: u32) -> Stored<(Vec<Entry>, u64)> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT account, chain, balance FROM balances WHERE dapp = '' ORDER BY account, chain LIMIT $1 OFFSET $2",
    )
    .bind(limit)
    .bind(to_db(skip))
    .fetch_all(&mut *db)
    .await?;
    let all: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM balances WHERE dapp = ''").fetch_one(db).await?;
    Ok((rows.into_iter().map(Row::read).collect::<Stored<_>>()?, super::from_db(all)))
}

/// Drops what was published by others than these, canonical: the operator does not trust them any more.
pub(crate) async fn keep_only(db: &mut Connection, authors: &[String]) -> Stored<()> {
    let known: Vec<String> = sqlx::query_scalar("SELECT DISTINCT author FROM balances").fetch_all(&mut *db).await?;
    for author in known.iter().filter(|author| !authors.contains(author)) {
        sqlx::query("DELETE FROM balances WHERE author = $1").bind(author).execute(&mut *db).await?;
    }
    Ok(())
}
