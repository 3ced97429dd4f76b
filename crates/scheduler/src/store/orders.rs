//! Operators' orders.

use chrono::{DateTime, Utc};
use protocol::operation::{Operation, Order, SignedOrder};
use protocol::{Address, NodeId};

use super::{Connection, Led, StoreError, id};

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
        remember(&mut tx, &order.operation).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Keeps what lasts longer than a moment.
async fn remember(tx: &mut Connection, operation: &Operation) -> Result<(), StoreError> {
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
        Operation::Lost { .. } | Operation::Resume => {}
    }
    Ok(())
}

/// The nodes that operators drain, and why.
pub(super) async fn draining(tx: &mut Connection) -> Result<Vec<(NodeId, String)>, StoreError> {
    let rows: Vec<(String, String)> = sqlx::query_as("SELECT node_id, reason FROM draining").fetch_all(tx).await?;
    rows.into_iter().map(|(node, reason)| Ok((id("a node", &node)?, reason))).collect()
}
