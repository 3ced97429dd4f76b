//! Takes messages back.

use std::collections::HashMap;

use protocol::api::message_node::MessageStatus;
use protocol::message::{ForgetContent, MessageType};

use super::process::{Processing, Stop};
use crate::clock::{micros, now_us};
use crate::core::forget::{self, Target};
use crate::core::permission::Authorizations;
use crate::store::messages::MessageRow;
use crate::store::{
    Connection, Stored, aggregates, costs, files, holds, messages, nodes, pending, posts, programs, stores,
};

impl Processing<'_> {
    pub(super) async fn accept_forget(&mut self, content: &ForgetContent) -> Result<(), Stop> {
        let hashes = self.targets_of(content).await?;
        let mut given: HashMap<String, Authorizations> = HashMap::new();
        let (mut targets, mut rows) = (Vec::with_capacity(hashes.len()), Vec::new());
        for hash in &hashes {
            let row = messages::outline(self.db, hash).await?;
            let target = self.look_at(hash, row.as_ref(), &hashes, &mut given).await?;
            if matches!(target, Target::Decided { .. }) {
                rows.extend(row);
            }
            targets.push((hash.clone(), target));
        }
        let envelope = &self.submission.envelope;
        forget::check(&envelope.sender, content, &targets)?;
        let keep_until_us = now_us() + micros(self.context.timing.file_grace);
        forget_all(self.db, rows, &envelope.item_hash, keep_until_us).await?;
        Ok(())
    }

    /// The messages that are to be forgotten. An entry of `aggregates` is the key of one of the account's documents, or the
    /// hash of one AGGREGATE message: clients write either.
    async fn targets_of(&mut self, content: &ForgetContent) -> Stored<Vec<String>> {
        let mut hashes = content.hashes.clone();
        for entry in &content.aggregates {
            let elements = aggregates::elements(self.db, &content.address.canonical(), entry).await?;
            match elements.is_empty() {
                true => hashes.push(entry.clone()),
                false => hashes.extend(elements.into_iter().map(|(hash, _)| hash)),
            }
        }
        hashes.sort_unstable();
        hashes.dedup();
        Ok(hashes)
    }

    async fn look_at(
        &mut self,
        hash: &str,
        row: Option<&MessageRow>,
        together: &[String],
        given: &mut HashMap<String, Authorizations>,
    ) -> Stored<Target> {
        let Some(row) = row else { return Ok(Target::NotYet) };
        match row.status.0 {
            MessageStatus::Pending => return Ok(Target::NotYet),
            MessageStatus::Rejected if pending::exists(self.db, hash).await? => return Ok(Target::NotYet),
            MessageStatus::Rejected => return Ok(Target::Over),
            MessageStatus::Removed if holds::until(self.db, hash).await?.is_none() => return Ok(Target::Over),
            // What could come back does not when it was taken back.
            MessageStatus::Removed | MessageStatus::Processed | MessageStatus::Removing | MessageStatus::Forgotten => {}
        }
        let Some(subject) = row.subject()? else { return Ok(Target::Over) };
        let owner = subject.owner.canonical();
        if !given.contains_key(&owner) {
            given.insert(owner.clone(), self.authorizations(&subject.owner).await?);
        }
        let used_by = match subject.message_type {
            MessageType::Store => programs::user_of(self.db, hash, together).await?,
            _ => None,
        };
        Ok(Target::Decided { subject, given: given[&owner].clone(), used_by })
    }
}

/// Forgets messages and what cannot stand without them: the amends of a post. Programs that replace a forgotten one stay.
async fn forget_all(db: &mut Connection, rows: Vec<MessageRow>, by: &str, keep_until_us: i64) -> Stored<()> {
    let mut aggregates_left: HashMap<(String, String), Vec<String>> = HashMap::new();
    let mut todo = rows;
    while let Some(row) = todo.pop() {
        if row.status.0.is_in_force() || row.status.0 == MessageStatus::Removed {
            if row.message_type()? == MessageType::Post {
                for amend in posts::amends_of(db, &row.item_hash).await? {
                    todo.extend(messages::outline(db, &amend).await?);
                }
            }
            if let (MessageType::Aggregate, Some(owner), Some(key)) =
                (row.message_type()?, row.owner.clone(), row.content_key.clone())
            {
                aggregates_left.entry((owner, key)).or_default().push(row.item_hash.clone());
            }
            put_out_of_force(db, &row.item_hash, keep_until_us).await?;
            messages::forget(db, &row.item_hash).await?;
        }
        messages::add_forgotten_by(db, &row.item_hash, by).await?;
    }
    for ((owner, key), hashes) in aggregates_left {
        aggregates::delete(db, &owner, &key, &hashes).await?;
    }
    Ok(())
}

/// Undoes what a message did when it came into force; documents of AGGREGATE messages are made anew by the caller.
pub(super) async fn put_out_of_force(db: &mut Connection, item_hash: &str, keep_until_us: i64) -> Stored<()> {
    let file = stores::delete(db, item_hash).await?;
    let content = files::remove_content(db, item_hash).await?;
    for file in file.into_iter().chain(content) {
        files::keep_until(db, &file, keep_until_us).await?;
    }
    programs::delete(db, item_hash).await?;
    posts::delete(db, item_hash).await?;
    nodes::delete(db, item_hash).await?;
    holds::delete(db, item_hash).await?;
    costs::delete(db, item_hash).await
}
