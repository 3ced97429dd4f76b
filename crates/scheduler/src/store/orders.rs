//! Orders of operators and owners.

use chrono::{DateTime, Utc};
use protocol::data::ArchivedSet;
use protocol::operation::{Operation, Order, SignedOrder};
use protocol::{Address, NodeId};

use super::{Connection, Led, StoreError, epoch, id, time};
use crate::core::AskedMove;
use crate::core::restores::AskedRestore;

type RestoreRow = (String, String, Option<String>, Option<i64>, String, i64);

impl Led {
    /// Records an order; `false` when one with its nonce was recorded before.
    pub(crate) async fn record(
        &self,
        order: &Order,
        signed: &SignedOrder,
        operator: &Address,
        at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let taken = sqlx::query(
            "INSERT INTO orders (nonce, taken_at, operator, text, signature) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (nonce) DO NOTHING",
        )
        .bind(&order.nonce)
        .bind(at.timestamp_micros())
        .bind(operator.as_str())
        .bind(&signed.order)
        .bind(&signed.signature)
        .execute(&mut *tx)
        .await?;
        if taken.rows_affected() == 0 {
            return Ok(false);
        }
        remember(&mut tx, &order.operation, operator, at).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Keeps what lasts longer than a moment.
async fn remember(
    tx: &mut Connection,
    operation: &Operation,
    by: &Address,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    match operation {
        Operation::Drain { node, reason } => {
            sqlx::query(
                "INSERT INTO draining (node_id, reason) VALUES ($1, $2)
                 ON CONFLICT (node_id) DO UPDATE SET reason = excluded.reason",
            )
            .bind(node.to_string())
            .bind(reason)
            .execute(tx)
            .await?;
        }
        Operation::Undrain { node } => {
            sqlx::query("DELETE FROM draining WHERE node_id = $1").bind(node.to_string()).execute(tx).await?;
        }
        // A program that runs nowhere has nothing to leave: then the order is refused.
        Operation::Move { program, to } => {
            sqlx::query(
                "INSERT INTO moves (program_id, source, target, requested_by, requested_at)
                 SELECT program_id, node_id, $2, $3, $4 FROM assignments WHERE program_id = $1 AND closed_at IS NULL
                 ON CONFLICT (program_id) DO UPDATE SET source = excluded.source, target = excluded.target,
                 requested_by = excluded.requested_by, requested_at = excluded.requested_at",
            )
            .bind(program.to_string())
            .bind(to.map(|node| node.to_string()))
            .bind(by.as_str())
            .bind(at.timestamp_micros())
            .execute(tx)
            .await?;
        }
        Operation::CancelMove { program } => {
            sqlx::query("DELETE FROM moves WHERE program_id = $1").bind(program.to_string()).execute(tx).await?;
        }
        Operation::Restore { program, snapshot, from } => {
            sqlx::query(
                "INSERT INTO restores (program_id, snapshot, source, of_epoch, requested_by, requested_at)
                 VALUES ($1, $2, $3, (SELECT epoch FROM assignments WHERE program_id = $1 AND closed_at IS NULL), $4, $5)
                 ON CONFLICT (program_id) DO UPDATE SET snapshot = excluded.snapshot, source = excluded.source,
                 of_epoch = excluded.of_epoch, requested_by = excluded.requested_by, requested_at = excluded.requested_at",
            )
            .bind(program.to_string())
            .bind(snapshot.to_string())
            .bind(from.map(|program| program.to_string()))
            .bind(by.as_str())
            .bind(at.timestamp_micros())
            .execute(tx)
            .await?;
        }
        Operation::Lost { .. } | Operation::Resume => {}
    }
    Ok(())
}

/// The nodes that operators drain, and why.
pub(super) async fn draining(tx: &mut Connection) -> Result<Vec<(NodeId, String)>, StoreError> {
    let rows: Vec<(String, String)> = sqlx::query_as("SELECT node_id, reason FROM draining").fetch_all(tx).await?;
    rows.into_iter().map(|(node, reason)| Ok((id("a node", &node)?, reason))).collect()
}

/// The moves that people ordered and that are not over.
pub(super) async fn moves(tx: &mut Connection) -> Result<Vec<AskedMove>, StoreError> {
    let rows: Vec<(String, String, Option<String>, String, i64)> =
        sqlx::query_as("SELECT program_id, source, target, requested_by, requested_at FROM moves")
            .fetch_all(tx)
            .await?;
    let read = |(program, source, target, by, at): (String, String, Option<String>, String, i64)| {
        Ok(AskedMove {
            program: id("a program", &program)?,
            from: id("a node", &source)?,
            to: target.map(|node| id("a node", &node)).transpose()?,
            by: Address::new(by),
            at: time(at)?,
        })
    };
    rows.into_iter().map(read).collect()
}

/// The snapshots that people want programs to go back to, and that is not over.
pub(super) async fn restores(tx: &mut Connection) -> Result<Vec<AskedRestore>, StoreError> {
    let rows: Vec<RestoreRow> =
        sqlx::query_as("SELECT program_id, snapshot, source, of_epoch, requested_by, requested_at FROM restores")
            .fetch_all(tx)
            .await?;
    let read = |(program, snapshot, source, of, by, at): RestoreRow| {
        let from = source.map(|source| id("a program", &source)).transpose()?;
        Ok(AskedRestore {
            program: id("a program", &program)?,
            set: ArchivedSet { snapshot: id("a snapshot", &snapshot)?, from },
            of: of.map(epoch).transpose()?,
            by: Address::new(by),
            at: time(at)?,
        })
    };
    rows.into_iter().map(read).collect()
}
