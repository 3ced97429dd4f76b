//! Programs that were accepted without counting the one that they replace.
//!
//! Clients switch a program between persistent and on demand by submitting a new one that `replaces` the old one and then a
//! FORGET of the old one. An account that can pay for one of them can do that. If the old one is not forgotten in time and
//! the balance does not cover both, the new one is removed.

use protocol::api::message_node::MessageStatus;

use super::Context;
use super::forget::put_out_of_force;
use super::hold::status_event;
use crate::core::chain::Holding;
use crate::events::Event;
use crate::store::programs::Unsettled;
use crate::store::{Connection, Stored, costs, messages, programs};

/// The reason of a removal as clients read it.
pub(super) const BALANCE_INSUFFICIENT: &str = "balance_insufficient";

/// Programs that are looked at in one transaction.
pub(super) const BATCH: u32 = 64;

impl Context {
    /// Looks at every program whose predecessor should be forgotten by now; gives their owners, and what was removed.
    pub(super) async fn settle(&self, db: &mut Connection, now_us: i64) -> Stored<(Vec<String>, Vec<Event>)> {
        let due = programs::to_settle(db, now_us, BATCH).await?;
        let mut events = Vec::new();
        for program in &due {
            events.extend(self.settle_one(db, program).await?);
        }
        Ok((due.into_iter().map(|program| program.owner).collect(), events))
    }

    async fn settle_one(&self, db: &mut Connection, program: &Unsettled) -> Stored<Option<Event>> {
        let replaced_is_in_force = match &program.replaces {
            Some(replaced) => programs::facts(db, replaced).await?.is_some(),
            None => false,
        };
        let covered = match self.balances.watch(db, &program.owner).await? {
            Holding::Unlimited => true,
            Holding::Tokens(balance) => balance >= costs::locked(db, &program.owner).await?,
            // It is looked at again.
            Holding::Unknown if replaced_is_in_force => return Ok(None),
            Holding::Unknown => true,
        };
        if !replaced_is_in_force || covered {
            programs::settled(db, &program.item_hash).await?;
            return Ok(None);
        }
        tracing::info!(program = program.item_hash, "removed: the balance does not cover it and the one it replaces");
        // With its content, which is gone then.
        let event = status_event(db, &program.item_hash, MessageStatus::Removed).await?;
        put_out_of_force(db, &program.item_hash, 0).await?;
        messages::remove(db, &program.item_hash, BALANCE_INSUFFICIENT).await?;
        Ok(event)
    }
}
