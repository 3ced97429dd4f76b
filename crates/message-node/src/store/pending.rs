//! Submissions that are not decided yet.

use protocol::message::Envelope;
use sha2::{Digest, Sha256};
use sqlx::FromRow;

use super::{Connection, StoreError, Stored};

/// A submission in the order of arrival.
#[derive(Debug, Clone)]
pub(crate) struct Submission {
    /// Its place in the order of arrival; never used twice.
    pub seq: i64,
    /// The message.
    pub envelope: Envelope,
    /// When it arrived, microseconds since 1970.
    pub received_us: i64,
}

#[derive(FromRow)]
struct Row {
    seq: i64,
    envelope: String,
    received_us: i64,
}

impl Row {
    fn read(self) -> Stored<Submission> {
        let envelope = serde_json::from_str(&self.envelope)
            .map_err(|e| StoreError::corrupt("envelope", self.seq.to_string(), e))?;
        Ok(Submission { seq: self.seq, envelope, received_us: self.received_us })
    }
}

/// Keeps a submission; gives its place and whether it is new. The same message from the same sender with the same signature
/// has one place, however often it is submitted while it is pending.
pub(crate) async fn insert(db: &mut Connection, envelope: &Envelope, received_us: i64) -> Stored<(i64, bool)> {
    let json = serde_json::to_string(envelope).expect("an envelope is JSON");
    let identity = identity(envelope);
    let inserted: Option<i64> = sqlx::query_scalar(
        "INSERT INTO pending (item_hash, identity, sender_key, envelope, received_us) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (item_hash, identity) DO NOTHING RETURNING seq",
    )
    .bind(&envelope.item_hash)
    .bind(&identity)
    .bind(envelope.sender.canonical())
    .bind(json)
    .bind(received_us)
    .fetch_optional(&mut *db)
    .await?;
    if let Some(seq) = inserted {
        return Ok((seq, true));
    }
    let known = sqlx::query_scalar("SELECT seq FROM pending WHERE item_hash = $1 AND identity = $2")
        .bind(&envelope.item_hash)
        .bind(&identity)
        .fetch_one(db)
        .await?;
    Ok((known, false))
}

/// What makes two submissions of one item hash the same.
fn identity(envelope: &Envelope) -> String {
    let signature = envelope.signature.as_deref().unwrap_or_default();
    let text = format!("{}\n{}\n{}", envelope.signed_text(), envelope.item_type, signature);
    hex::encode(Sha256::digest(text))
}

/// The next submissions after a place, in order.
pub(crate) async fn after(db: &mut Connection, seq: i64, limit: u32) -> Stored<Vec<Submission>> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT seq, envelope, received_us FROM pending WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(seq)
            .bind(i64::from(limit))
            .fetch_all(db)
            .await?;
    rows.into_iter().map(Row::read).collect()
}

/// One submission.
pub(crate) async fn get(db: &mut Connection, seq: i64) -> Stored<Option<Submission>> {
    let row: Option<Row> = sqlx::query_as("SELECT seq, envelope, received_us FROM pending WHERE seq = $1")
        .bind(seq)
        .fetch_optional(db)
        .await?;
    row.map(Row::read).transpose()
}

/// All submissions of one message, oldest first.
pub(crate) async fn of_message(db: &mut Connection, item_hash: &str) -> Stored<Vec<Submission>> {
    /// Copies with wrong signatures are cheap to make; nobody needs to see more of them.
    const MOST: i64 = 10;
    let rows: Vec<Row> =
        sqlx::query_as("SELECT seq, envelope, received_us FROM pending WHERE item_hash = $1 ORDER BY seq LIMIT $2")
            .bind(item_hash)
            .bind(MOST)
            .fetch_all(db)
            .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Whether any submission of this message waits.
pub(crate) async fn exists(db: &mut Connection, item_hash: &str) -> Stored<bool> {
    let found: Option<i64> = sqlx::query_scalar("SELECT seq FROM pending WHERE item_hash = $1 LIMIT 1")
        .bind(item_hash)
        .fetch_optional(db)
        .await?;
    Ok(found.is_some())
}

/// Takes a decided submission out.
pub(crate) async fn delete(db: &mut Connection, seq: i64) -> Stored<()> {
    sqlx::query("DELETE FROM pending WHERE seq = $1").bind(seq).execute(db).await?;
    Ok(())
}

/// How many submissions wait.
pub(crate) async fn count(db: &mut Connection) -> Stored<i64> {
    Ok(sqlx::query_scalar("SELECT COUNT(*) FROM pending").fetch_one(db).await?)
}
