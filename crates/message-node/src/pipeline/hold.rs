//! Keeps `hold` true: what the balance of its owner does not cover any more goes out of force, and comes back.
//!
//! [`crate::core::hold`] says what is to happen; this looks the facts up and carries it out. An owner is reviewed when its
//! balance has changed, when it takes something back, when a deadline of its is over, and when the node starts. An owner
//! whose balance is unknown is left alone.

use protocol::api::message_node::MessageStatus;
use protocol::message::ProgramContent;
use rust_decimal::Decimal;
use sqlx::Connection as _;

use super::Context;
use super::forget::put_out_of_force;
use super::process::{Processing, Stop};
use super::settle::BALANCE_INSUFFICIENT;
use crate::clock::micros;
use crate::core::chain::Holding;
use crate::core::content::Content;
use crate::core::hold::{self, Change, Held, Terms};
use crate::events::{Event, News};
use crate::filter::Traits;
use crate::store::pending::Submission;
use crate::store::{Connection, StoreError, Stored, costs, files, holds, messages, programs, stores};
use crate::view::{self, MessageView};

impl Context {
    /// Reviews what an owner, canonical, has to hold tokens for; gives what is to be told of it.
    pub(super) async fn review(&self, db: &mut Connection, owner: &str, now_us: i64) -> Stored<Vec<Event>> {
        let held = holds::of_owner(db, owner).await?;
        if held.is_empty() {
            self.balances.release(owner);
            return Ok(Vec::new());
        }
        let balance = match self.balances.watch(db, owner).await? {
            Holding::Tokens(balance) => balance,
            // The operator does not ask anybody to pay any more.
            Holding::Unlimited => Decimal::MAX,
            Holding::Unknown => return Ok(Vec::new()),
        };
        let terms = Terms { grace_us: micros(self.timing.grace), retention_us: micros(self.timing.retention) };
        let mut events = Vec::new();
        for (item_hash, change) in hold::review(balance, &held, now_us, terms) {
            let Some(held) = held.iter().find(|held| held.item_hash == item_hash) else { continue };
            if let Some(event) = self.carry_out(db, owner, held, change, now_us).await? {
                tracing::info!(item_hash, owner, %balance, ?change, "what the balance covers has changed");
                events.push(event);
            }
        }
        Ok(events)
    }

    /// Gives what is to be told of the change; nothing when it has to wait.
    async fn carry_out(
        &self,
        db: &mut Connection,
        owner: &str,
        held: &Held,
        change: Change,
        now_us: i64,
    ) -> Stored<Option<Event>> {
        let item_hash = &held.item_hash;
        let status = match change {
            Change::Warn(until_us) => {
                holds::put(db, owner, held, false, until_us).await?;
                MessageStatus::Removing
            }
            Change::Keep => {
                holds::delete(db, item_hash).await?;
                MessageStatus::Processed
            }
            // A program in force needs its files, whosever they are. It is looked at again.
            Change::Remove(_) if !held.is_program && programs::user_of(db, item_hash, &[]).await?.is_some() => {
                return Ok(None);
            }
            Change::Remove(until_us) => {
                self.remove(db, owner, held, until_us).await?;
                MessageStatus::Removed
            }
            Change::Return => return self.bring_back(db, item_hash).await,
            Change::End => {
                put_out_of_force(db, item_hash, now_us + micros(self.timing.file_grace)).await?;
                messages::remove(db, item_hash, BALANCE_INSUFFICIENT).await?;
                tracing::info!(item_hash, owner, "it was not paid for again in time, and is gone");
                return Ok(None);
            }
        };
        let reason = (status != MessageStatus::Processed).then_some(BALANCE_INSUFFICIENT);
        messages::set_status(db, item_hash, status, reason).await?;
        status_event(db, item_hash, status).await
    }

    /// Puts a message out of force, so that it can come back: its content stays, and so do its files.
    async fn remove(&self, db: &mut Connection, owner: &str, held: &Held, until_us: i64) -> Stored<()> {
        let item_hash = &held.item_hash;
        programs::delete(db, item_hash).await?;
        if let Some(file) = stores::delete(db, item_hash).await? {
            files::keep_until(db, &file, until_us.saturating_add(micros(self.timing.file_grace))).await?;
        }
        costs::delete(db, item_hash).await?;
        holds::put(db, owner, held, true, until_us).await
    }

    /// Puts a message in force again as if it had just arrived; its sender was allowed to send it when it did. It stays
    /// removed when something that it needs is gone.
    async fn bring_back(&self, db: &mut Connection, item_hash: &str) -> Stored<Option<Event>> {
        let Some(row) = messages::get(db, item_hash).await? else { return Ok(None) };
        let text = row.content.clone().unwrap_or_default();
        let envelope = row.envelope()?;
        let content = Content::parse(envelope.message_type, &text)
            .map_err(|rejection| StoreError::corrupt("content", item_hash, rejection.details()))?;
        let traits = Traits::new(&envelope, Some(&content));
        let submission = Submission { seq: 0, envelope, received_us: row.received_us };
        let mut point = db.begin().await?;
        let mut processing = Processing { context: self, db: &mut point, submission: &submission };
        let put = match content {
            // What it replaced was forgotten for it, as clients do.
            Content::Program(content) => processing.put_program(&ProgramContent { replaces: None, ..*content }).await,
            Content::Store(content) => processing.put_store(&content).await,
            _ => Err(Stop::Failed(StoreError::corrupt("type", item_hash, "it costs nothing"))),
        };
        match put {
            Ok(()) => {}
            Err(Stop::Refused(refusal)) => {
                tracing::info!(item_hash, ?refusal, "it is paid for again and cannot come back now");
                point.rollback().await?;
                return Ok(None);
            }
            Err(Stop::Failed(error)) => return Err(error),
        }
        holds::delete(&mut point, item_hash).await?;
        messages::set_status(&mut point, item_hash, MessageStatus::Processed, None).await?;
        point.commit().await?;
        let json = view::to_json(&submission.envelope, Some(&text));
        Ok(Some(Event::new(traits, News::Back, json)))
    }
}

/// Tells that a message, which has its content, has another status now.
pub(super) async fn status_event(db: &mut Connection, item_hash: &str, status: MessageStatus) -> Stored<Option<Event>> {
    let Some(row) = messages::get(db, item_hash).await? else { return Ok(None) };
    let envelope = row.envelope()?;
    let content = row.content.as_deref().and_then(|text| Content::parse(envelope.message_type, text).ok());
    let traits = Traits::new(&envelope, content.as_ref());
    let json = serde_json::to_string(&MessageView::of_row(&row).with_status(status)).expect("a message is JSON");
    Ok(Some(Event::new(traits, News::Status(status), json)))
}
