//! Decided messages.

use protocol::api::message_node::MessageStatus;
use protocol::message::{Envelope, ItemType, MessageType};
use serde_json::{Value, json};
use sqlx::FromRow;

use super::{Connection, StoreError, Stored, from_db, to_db};
use crate::core::permission::Subject;
use crate::core::{Rejection, type_from_name};
use crate::filter::Traits;

/// The columns of [`MessageRow`].
pub(crate) const COLUMNS: &str = "item_hash, status, type, chain, sender, signature, item_type, content, size, time_us, \
     channel, received_us, owner, content_type, content_key, error_code, error_details, reason";

/// A decided message.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct MessageRow {
    /// Its hash.
    pub item_hash: String,
    /// Where it is in its life.
    #[sqlx(try_from = "String")]
    pub status: Status,
    /// The word of its type.
    #[sqlx(rename = "type")]
    pub message_type: String,
    /// The word of its chain.
    pub chain: String,
    /// Who sent it, as written.
    pub sender: String,
    /// As sent.
    pub signature: Option<String>,
    /// The word of its item type.
    pub item_type: String,
    /// The item content byte for byte, unless it was forgotten or removed, or never seen.
    pub content: Option<String>,
    /// Bytes of the content.
    pub size: i64,
    /// The envelope's time, microseconds since 1970.
    pub time_us: i64,
    /// Its channel.
    pub channel: Option<String>,
    /// When it arrived, microseconds since 1970.
    pub received_us: i64,
    /// Its owner, canonical.
    pub owner: Option<String>,
    /// `content.type`.
    pub content_type: Option<String>,
    /// `content.key`.
    pub content_key: Option<String>,
    /// Why it was rejected.
    pub error_code: Option<i32>,
    /// Details of the rejection, JSON.
    pub error_details: Option<String>,
    /// Why it was removed.
    pub reason: Option<String>,
}

/// A status as a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(pub MessageStatus);

impl TryFrom<String> for Status {
    type Error = serde_json::Error;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        serde_json::from_value(Value::String(word)).map(Self)
    }
}

impl MessageRow {
    /// The type.
    pub(crate) fn message_type(&self) -> Stored<MessageType> {
        type_from_name(&self.message_type)
            .ok_or_else(|| StoreError::corrupt("type", &self.item_hash, &self.message_type))
    }

    /// The message as it was sent.
    pub(crate) fn envelope(&self) -> Stored<Envelope> {
        let inline = self.content.as_ref().filter(|_| self.item_type == ItemType::Inline.to_string());
        let time = crate::clock::seconds(self.time_us);
        serde_json::from_value(json!({
            "sender": self.sender, "chain": self.chain, "signature": self.signature, "type": self.message_type,
            "item_type": self.item_type, "item_content": inline, "item_hash": self.item_hash, "time": time,
            "channel": self.channel,
        }))
        .map_err(|e| StoreError::corrupt("message", &self.item_hash, e))
    }

    /// Bytes of the content.
    pub(crate) fn size(&self) -> u64 {
        from_db(self.size)
    }

    /// What it is and whose, for checks of permission. `None` when the owner is unknown (of rejected messages).
    pub(crate) fn subject(&self) -> Stored<Option<Subject>> {
        let message_type = self.message_type()?;
        Ok(self.owner.as_ref().map(|owner| Subject {
            owner: protocol::Address::new(owner),
            message_type,
            chain: self.chain.clone(),
            channel: self.channel.clone(),
            post_type: self.content_type.clone(),
            aggregate_key: self.content_key.clone(),
        }))
    }
}

/// One message.
pub(crate) async fn get(db: &mut Connection, item_hash: &str) -> Stored<Option<MessageRow>> {
    let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM messages WHERE item_hash = $1"));
    Ok(sqlx::query_as(sql).bind(item_hash).fetch_optional(db).await?)
}

/// One message without its content, for those who look at many.
pub(crate) async fn outline(db: &mut Connection, item_hash: &str) -> Stored<Option<MessageRow>> {
    let columns = COLUMNS.replacen(" content,", " NULL AS content,", 1);
    let sql = sqlx::AssertSqlSafe(format!("SELECT {columns} FROM messages WHERE item_hash = $1"));
    Ok(sqlx::query_as(sql).bind(item_hash).fetch_optional(db).await?)
}

/// Where a message is in its life, and who signed it how.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct Standing {
    /// Where it is in its life.
    #[sqlx(try_from = "String")]
    pub status: Status,
    /// Its type.
    #[sqlx(rename = "type")]
    pub message_type: String,
    /// Who sent it, canonical.
    pub sender_key: String,
    /// As sent.
    pub signature: Option<String>,
}

/// Where a message is in its life, and who signed it how.
pub(crate) async fn standing(db: &mut Connection, item_hash: &str) -> Stored<Option<Standing>> {
    let row = sqlx::query_as("SELECT status, type, sender_key, signature FROM messages WHERE item_hash = $1")
        .bind(item_hash)
        .fetch_optional(db)
        .await?;
    Ok(row)
}

/// A message that was decided, on its way into the table.
pub(crate) struct Decided<'a> {
    /// The message.
    pub envelope: &'a Envelope,
    /// What it is filtered by.
    pub traits: &'a Traits,
    /// Its content byte for byte, if it was seen.
    pub content: Option<&'a str>,
    /// When it arrived, microseconds since 1970.
    pub received_us: i64,
}

/// Keeps a message that is in force. It takes the place of a rejected one of the same hash, of no other.
pub(crate) async fn put_processed(db: &mut Connection, message: &Decided<'_>) -> Stored<()> {
    put(db, message, MessageStatus::Processed, None, true).await?;
    for tag in &message.traits.tags {
        // One message may name a tag twice.
        sqlx::query("INSERT INTO message_tags (item_hash, tag) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(&message.envelope.item_hash)
            .bind(tag)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Keeps a message that was rejected. It takes the place of an earlier rejected one, but one whose signature was wrong never
/// hides one whose signature was right: only the sender can have a say in what is seen of its message.
pub(crate) async fn put_rejected(
    db: &mut Connection,
    message: &Decided<'_>,
    rejection: &Rejection,
    authentic: bool,
) -> Stored<()> {
    put(db, message, MessageStatus::Rejected, Some(rejection), authentic).await
}

async fn put(
    db: &mut Connection,
    message: &Decided<'_>,
    status: MessageStatus,
    rejection: Option<&Rejection>,
    authentic: bool,
) -> Stored<()> {
    let Decided { envelope, traits, content, received_us } = message;
    sqlx::query(
        "INSERT INTO messages (item_hash, status, type, chain, sender, sender_key, signature, item_type, content, size, \
             time_us, channel, received_us, owner, content_type, content_ref, content_hash, content_key, \
             error_code, error_details, authentic)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
         ON CONFLICT (item_hash) DO UPDATE SET
             status = excluded.status, type = excluded.type, chain = excluded.chain, sender = excluded.sender,
             sender_key = excluded.sender_key, signature = excluded.signature, item_type = excluded.item_type,
             content = excluded.content, size = excluded.size, time_us = excluded.time_us, channel = excluded.channel,
             received_us = excluded.received_us, owner = excluded.owner, content_type = excluded.content_type,
             content_ref = excluded.content_ref, content_hash = excluded.content_hash,
             content_key = excluded.content_key, error_code = excluded.error_code,
             error_details = excluded.error_details, authentic = excluded.authentic
         WHERE messages.status = 'rejected' AND (excluded.authentic OR NOT messages.authentic)",
    )
    .bind(&envelope.item_hash)
    .bind(status.as_str())
    .bind(envelope.message_type.to_string())
    .bind(&traits.chain)
    .bind(envelope.sender.as_str())
    .bind(&traits.sender)
    .bind(&envelope.signature)
    .bind(envelope.item_type.to_string())
    .bind(content)
    .bind(to_db(content.map_or(0, str::len) as u64))
    .bind(traits.time_us)
    .bind(&traits.channel)
    .bind(received_us)
    .bind(&traits.owner)
    .bind(&traits.content_type)
    .bind(&traits.content_ref)
    .bind(&traits.content_hash)
    .bind(&traits.content_key)
    .bind(rejection.map(|rejection| rejection.code.code()))
    .bind(rejection.map(|rejection| rejection.details().to_string()))
    .bind(authentic)
    .execute(db)
    .await?;
    Ok(())
}

/// Sets where a message is in its life, and why; all else stays.
pub(crate) async fn set_status(
    db: &mut Connection,
    item_hash: &str,
    status: MessageStatus,
    reason: Option<&str>,
) -> Stored<()> {
    sqlx::query("UPDATE messages SET status = $1, reason = $2 WHERE item_hash = $3")
        .bind(status.as_str())
        .bind(reason)
        .bind(item_hash)
        .execute(db)
        .await?;
    Ok(())
}

/// Takes a message back: its content goes, the envelope stays. `content_type` and `content_key` stay as well, because they
/// decide who else may say that it is forgotten.
pub(crate) async fn forget(db: &mut Connection, item_hash: &str) -> Stored<()> {
    end(db, item_hash, MessageStatus::Forgotten, None).await
}

/// Puts a message out of force that is not paid for.
pub(crate) async fn remove(db: &mut Connection, item_hash: &str, reason: &str) -> Stored<()> {
    end(db, item_hash, MessageStatus::Removed, Some(reason)).await
}

async fn end(db: &mut Connection, item_hash: &str, status: MessageStatus, reason: Option<&str>) -> Stored<()> {
    sqlx::query(
        "UPDATE messages SET status = $1, reason = $2, content = NULL, content_ref = NULL, content_hash = NULL
         WHERE item_hash = $3",
    )
    .bind(status.as_str())
    .bind(reason)
    .bind(item_hash)
    .execute(&mut *db)
    .await?;
    sqlx::query("DELETE FROM message_tags WHERE item_hash = $1").bind(item_hash).execute(db).await?;
    Ok(())
}

/// Notes which FORGET took a message back.
pub(crate) async fn add_forgotten_by(db: &mut Connection, item_hash: &str, forget_hash: &str) -> Stored<()> {
    sqlx::query("INSERT INTO forgotten_by (item_hash, forget_hash) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(item_hash)
        .bind(forget_hash)
        .execute(db)
        .await?;
    Ok(())
}

/// Which FORGET messages took a message back.
pub(crate) async fn forgotten_by(db: &mut Connection, item_hash: &str) -> Stored<Vec<String>> {
    Ok(sqlx::query_scalar("SELECT forget_hash FROM forgotten_by WHERE item_hash = $1 ORDER BY forget_hash")
        .bind(item_hash)
        .fetch_all(db)
        .await?)
}

/// All channels of messages that are or were in force.
pub(crate) async fn channels(db: &mut Connection) -> Stored<Vec<String>> {
    /// More than any client shows.
    const MOST: i64 = 10_000;
    Ok(sqlx::query_scalar("SELECT DISTINCT channel FROM messages WHERE channel IS NOT NULL ORDER BY channel LIMIT $1")
        .bind(MOST)
        .fetch_all(db)
        .await?)
}

/// How many messages there are of each type and status.
pub(crate) async fn counts(db: &mut Connection) -> Stored<Vec<(String, String, i64)>> {
    let sql = "SELECT type, status, count FROM message_counts WHERE count > 0 ORDER BY type, status";
    Ok(sqlx::query_as(sql).fetch_all(db).await?)
}

/// Drops rejected messages that are older than `before_us`, and the oldest beyond the `most` newest.
pub(crate) async fn prune_rejected(db: &mut Connection, before_us: i64, most: u64) -> Stored<u64> {
    let cut: Option<i64> = sqlx::query_scalar(
        "SELECT received_us FROM messages WHERE status = 'rejected' ORDER BY received_us DESC LIMIT 1 OFFSET $1",
    )
    .bind(to_db(most))
    .fetch_optional(&mut *db)
    .await?;
    let gone =
        sqlx::query("DELETE FROM messages WHERE status = 'rejected' AND (received_us < $1 OR received_us <= $2)")
            .bind(before_us)
            .bind(cut.unwrap_or(-1))
            .execute(db)
            .await?;
    Ok(gone.rows_affected())
}
