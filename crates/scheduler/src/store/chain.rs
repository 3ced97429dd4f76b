//! The signed history: each entry is written in the transaction of what it tells.

use chrono::{DateTime, Utc};
use protocol::history::{Entry, Fact, SignedEntry};
use protocol::{Account, Epoch, NodeId, ProgramId};

use super::{Connection, Store, StoreError};

/// What is to be recorded.
pub(super) struct News {
    pub(super) program: ProgramId,
    pub(super) epoch: Epoch,
    pub(super) node: NodeId,
    pub(super) at: DateTime<Utc>,
    pub(super) fact: Fact,
}

/// Appends an entry. A statement that is there already is not recorded again.
pub(super) async fn append(tx: &mut Connection, scheduler: &Account, news: News) -> Result<(), StoreError> {
    let News { program, epoch, node, at, fact } = news;
    let statement = match &fact {
        Fact::Stated { statement } => Some(statement.signature.clone()),
        _ => None,
    };
    if let Some(statement) = &statement {
        let known: Option<(i64,)> =
            sqlx::query_as("SELECT sequence FROM history WHERE program_id = $1 AND statement = $2")
                .bind(program.to_string())
                .bind(statement)
                .fetch_optional(&mut *tx)
                .await?;
        if known.is_some() {
            return Ok(());
        }
    }
    let last: Option<(i64, String, String)> = sqlx::query_as(
        "SELECT sequence, entry, signature FROM history WHERE program_id = $1 ORDER BY sequence DESC LIMIT 1",
    )
    .bind(program.to_string())
    .fetch_optional(&mut *tx)
    .await?;
    let (sequence, previous) = match last {
        Some((sequence, entry, signature)) => (sequence + 1, SignedEntry { entry, signature }.hash()),
        None => (1, program.to_string()),
    };
    let entry = Entry {
        program,
        sequence: u64::try_from(sequence).unwrap_or_default(),
        previous,
        at,
        scheduler: scheduler.address().clone(),
        epoch,
        node,
        fact,
    };
    let signed = SignedEntry::new(scheduler, &entry);
    sqlx::query("INSERT INTO history (program_id, sequence, entry, signature, statement) VALUES ($1, $2, $3, $4, $5)")
        .bind(program.to_string())
        .bind(sequence)
        .bind(signed.entry)
        .bind(signed.signature)
        .bind(statement)
        .execute(tx)
        .await?;
    Ok(())
}

impl Store {
    /// A part of a program's signed history, oldest first, and how long the whole is.
    pub(crate) async fn chain(
        &self,
        program: ProgramId,
        offset: u64,
        most: u64,
    ) -> Result<(Vec<SignedEntry>, u64), StoreError> {
        let bound = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut db = self.read().await?;
        let (total,): (i64,) = sqlx::query_as("SELECT count(*) FROM history WHERE program_id = $1")
            .bind(program.to_string())
            .fetch_one(&mut *db)
            .await?;
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT entry, signature FROM history WHERE program_id = $1 ORDER BY sequence LIMIT $2 OFFSET $3",
        )
        .bind(program.to_string())
        .bind(bound(most))
        .bind(bound(offset))
        .fetch_all(&mut *db)
        .await?;
        let entries = rows.into_iter().map(|(entry, signature)| SignedEntry { entry, signature }).collect();
        Ok((entries, u64::try_from(total).unwrap_or(0)))
    }
}
