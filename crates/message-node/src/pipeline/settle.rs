//! Programs that were accepted without counting the one that they replace.
//!
//! Clients switch a program between persistent and on demand by submitting a new one that `replaces` the old one and then a
//! FORGET of the old one. An account that can pay for one of them can do that. If the old one is not forgotten in time and
//! the balance does not cover both, the new one is removed.

use super::Context;
use super::forget::put_out_of_force;
use crate::core::chain::Holding;
use crate::store::programs::Unsettled;
use crate::store::{Connection, Stored, costs, messages, programs};

/// The reason of a removal as clients read it.
pub(super) const BALANCE_INSUFFICIENT: &str = "balance_insufficient";

/// Programs that are looked at in one transaction.
pub(super) const BATCH: u32 = 64;

impl Context {
    /// Looks at every program whose predecessor should be forgotten by now; gives their owners.
    pub(super) async fn settle(&self, db: &mut Connection, now_us: i64) -> Stored<Vec<String>> {
        let due = programs::to_settle(db, now_us, BATCH).await?;
        for program in &due {
            self.settle_one(db, program).await?;
        }
        Ok(due.into_iter().map(|program| program.owner).collect())
    }

    async fn settle_one(&self, db: &mut Connection, program: &Unsettled) -> Stored<()> {
        let replaced_is_in_force = match &program.replaces {
            Some(replaced) => programs::facts(db, replaced).await?.is_some(),
            None => false,
        };
        let covered = match self.balances.watch(&program.owner) {
            Holding::Unlimited => true,
            Holding::Tokens(balance) => balance >= costs::locked(db, &program.owner).await?,
            // It is looked at again.
            Holding::Unknown if replaced_is_in_force => return Ok(()),
            Holding::Unknown => true,
        };
        if !replaced_is_in_force || covered {
            return programs::settled(db, &program.item_hash).await;
        }
        tracing::info!(program = program.item_hash, "removed: the balance does not cover it and the one it replaces");
        put_out_of_force(db, &program.item_hash, 0).await?;
        messages::remove(db, &program.item_hash, BALANCE_INSUFFICIENT).await
    }
}
