//! The archive of snapshot sets: which sets and streams count, and the highest epoch of each program. The bytes are in the
//! object store.

use protocol::api::archive::{SetDraft, StreamReceived};
use protocol::data::SnapshotId;
use protocol::{Epoch, ProgramId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::FromRow;

use super::{Connection, StoreError, Stored, from_db, to_db};

/// Where a set is in its life.
///
/// ```text
///  begin ─▶ open ─ complete ─▶ complete ─ found damaged ─▶ damaged
///             └───────────────────┴── retention, delete, over ──┴─▶ leaving ─▶ gone
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetStage {
    /// Streams arrive.
    Open,
    /// It counts.
    Complete,
    /// It was complete, and what is stored is not what was written.
    Damaged,
    /// It counts no more; its objects are being deleted.
    Leaving,
}

impl SetStage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Complete => "complete",
            Self::Damaged => "damaged",
            Self::Leaving => "leaving",
        }
    }

    fn read(word: &str, of: &str) -> Stored<Self> {
        let all = [Self::Open, Self::Complete, Self::Damaged, Self::Leaving];
        let found = all.into_iter().find(|stage| stage.as_str() == word);
        found.ok_or_else(|| StoreError::corrupt("state of a snapshot", of, word))
    }
}

/// A set.
#[derive(Debug, Clone)]
pub(crate) struct SetRow {
    /// Its name.
    pub id: SnapshotId,
    /// Where it is in its life.
    pub stage: SetStage,
    /// What it was begun with.
    pub draft: SetDraft,
    /// The account of the node that made it, as written.
    pub made_by: String,
    /// The key that it is encrypted with, JSON.
    pub wrapped_key: String,
    /// When it was begun, microseconds since 1970. It tells one attempt at the same set from another.
    pub begun_us: i64,
    /// When it was completed.
    pub completed_us: Option<i64>,
}

#[derive(FromRow)]
struct RawSet {
    id: String,
    state: String,
    draft: String,
    made_by: String,
    wrapped_key: String,
    begun_us: i64,
    completed_us: Option<i64>,
}

impl RawSet {
    fn read(self) -> Stored<SetRow> {
        Ok(SetRow {
            id: parse_id(&self.id)?,
            stage: SetStage::read(&self.state, &self.id)?,
            draft: from_json("draft", &self.id, &self.draft)?,
            made_by: self.made_by,
            wrapped_key: self.wrapped_key,
            begun_us: self.begun_us,
            completed_us: self.completed_us,
        })
    }
}

const SET_COLUMNS: &str = "id, state, draft, made_by, wrapped_key, begun_us, completed_us";

/// A stream that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamRow {
    /// The set.
    pub set: SnapshotId,
    /// What stands for its volume.
    pub volume: String,
    /// Its object within the set.
    pub object: String,
    /// What arrived.
    pub received: StreamReceived,
}

#[derive(FromRow)]
struct RawStream {
    id: String,
    volume: String,
    object: String,
    bytes: i64,
    sha256: String,
}

impl RawStream {
    fn read(self) -> Stored<StreamRow> {
        let sha256 = self.sha256.parse().map_err(|e| StoreError::corrupt("digest of a stream", &self.id, e))?;
        let received = StreamReceived { bytes: from_db(self.bytes), sha256 };
        Ok(StreamRow { set: parse_id(&self.id)?, volume: self.volume, object: self.object, received })
    }
}

fn parse_id(text: &str) -> Stored<SnapshotId> {
    text.parse().map_err(|e| StoreError::corrupt("name of a snapshot", text, e))
}

fn from_json<T: DeserializeOwned>(what: &'static str, of: &str, text: &str) -> Stored<T> {
    serde_json::from_str(text).map_err(|e| StoreError::corrupt(what, of, e))
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("drafts are JSON")
}

/// The highest epoch under which the archive of a program was used.
pub(crate) async fn highest_epoch(db: &mut Connection, program: &ProgramId) -> Stored<Option<Epoch>> {
    let epoch: Option<i64> = sqlx::query_scalar("SELECT epoch FROM archive_epochs WHERE program = $1")
        .bind(program.to_string())
        .fetch_optional(db)
        .await?;
    Ok(epoch.map(|epoch| Epoch::new(from_db(epoch))))
}

/// The archive of a program was used under this epoch.
pub(crate) async fn raise_epoch(db: &mut Connection, program: &ProgramId, epoch: Epoch) -> Stored<()> {
    sqlx::query(
        "INSERT INTO archive_epochs (program, epoch) VALUES ($1, $2)
         ON CONFLICT (program) DO UPDATE SET epoch = excluded.epoch WHERE archive_epochs.epoch < excluded.epoch",
    )
    .bind(program.to_string())
    .bind(to_db(epoch.get()))
    .execute(db)
    .await?;
    Ok(())
}

/// The wrapped data key of a program, JSON.
pub(crate) async fn key(db: &mut Connection, program: &ProgramId) -> Stored<Option<String>> {
    Ok(sqlx::query_scalar("SELECT wrapped FROM archive_keys WHERE program = $1")
        .bind(program.to_string())
        .fetch_optional(db)
        .await?)
}

/// The data key of a program from now on.
pub(crate) async fn put_key(db: &mut Connection, program: &ProgramId, wrapped: &str) -> Stored<()> {
    sqlx::query(
        "INSERT INTO archive_keys (program, wrapped) VALUES ($1, $2)
         ON CONFLICT (program) DO UPDATE SET wrapped = excluded.wrapped",
    )
    .bind(program.to_string())
    .bind(wrapped)
    .execute(db)
    .await?;
    Ok(())
}

/// Whether any program has a key.
pub(crate) async fn has_keys(db: &mut Connection) -> Stored<bool> {
    let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM archive_keys LIMIT 1").fetch_optional(db).await?;
    Ok(found.is_some())
}

/// The programs of which there is a set, also one that is leaving.
pub(crate) async fn programs(db: &mut Connection) -> Stored<Vec<ProgramId>> {
    let list: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT program FROM archive_sets ORDER BY program").fetch_all(db).await?;
    list.iter().map(|text| text.parse().map_err(|e| StoreError::corrupt("program of a snapshot", text, e))).collect()
}

/// The sets of a program, oldest first.
pub(crate) async fn sets(db: &mut Connection, program: &ProgramId) -> Stored<Vec<SetRow>> {
    let sql = sqlx::AssertSqlSafe(format!("SELECT {SET_COLUMNS} FROM archive_sets WHERE program = $1"));
    let rows: Vec<RawSet> = sqlx::query_as(sql).bind(program.to_string()).fetch_all(db).await?;
    let mut sets = rows.into_iter().map(RawSet::read).collect::<Stored<Vec<_>>>()?;
    sets.sort_unstable_by_key(|set| set.id);
    Ok(sets)
}

/// One set.
pub(crate) async fn set(db: &mut Connection, program: &ProgramId, id: SnapshotId) -> Stored<Option<SetRow>> {
    let sql = sqlx::AssertSqlSafe(format!("SELECT {SET_COLUMNS} FROM archive_sets WHERE program = $1 AND id = $2"));
    let row: Option<RawSet> =
        sqlx::query_as(sql).bind(program.to_string()).bind(id.to_string()).fetch_optional(db).await?;
    row.map(RawSet::read).transpose()
}

/// A set is begun; one of the same name and its streams are replaced.
pub(crate) async fn put_set(db: &mut Connection, program: &ProgramId, set: &SetRow) -> Stored<()> {
    delete_set(db, program, set.id).await?;
    sqlx::query(
        "INSERT INTO archive_sets (program, id, state, draft, made_by, wrapped_key, begun_us, completed_us)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(program.to_string())
    .bind(set.id.to_string())
    .bind(set.stage.as_str())
    .bind(to_json(&set.draft))
    .bind(&set.made_by)
    .bind(&set.wrapped_key)
    .bind(set.begun_us)
    .bind(set.completed_us)
    .execute(db)
    .await?;
    Ok(())
}

/// Moves a set on, if it is still in one of these stages; tells whether it was.
pub(crate) async fn advance(
    db: &mut Connection,
    program: &ProgramId,
    id: SnapshotId,
    from: SetStage,
    to: SetStage,
) -> Stored<bool> {
    let moved = sqlx::query("UPDATE archive_sets SET state = $1 WHERE program = $2 AND id = $3 AND state = $4")
        .bind(to.as_str())
        .bind(program.to_string())
        .bind(id.to_string())
        .bind(from.as_str())
        .execute(db)
        .await?;
    Ok(moved.rows_affected() > 0)
}

/// A set is complete, if it is still the attempt that was begun then; tells whether it was.
pub(crate) async fn complete(
    db: &mut Connection,
    program: &ProgramId,
    id: SnapshotId,
    begun_us: i64,
    now_us: i64,
) -> Stored<bool> {
    let moved = sqlx::query(
        "UPDATE archive_sets SET state = 'complete', completed_us = $1
         WHERE program = $2 AND id = $3 AND state = 'open' AND begun_us = $4",
    )
    .bind(now_us)
    .bind(program.to_string())
    .bind(id.to_string())
    .bind(begun_us)
    .execute(db)
    .await?;
    Ok(moved.rows_affected() > 0)
}

/// A set is gone.
pub(crate) async fn delete_set(db: &mut Connection, program: &ProgramId, id: SnapshotId) -> Stored<()> {
    for sql in [
        "DELETE FROM archive_streams WHERE program = $1 AND id = $2",
        "DELETE FROM archive_sets WHERE program = $1 AND id = $2",
    ] {
        sqlx::query(sql).bind(program.to_string()).bind(id.to_string()).execute(&mut *db).await?;
    }
    Ok(())
}

/// The streams of all sets of a program.
pub(crate) async fn streams(db: &mut Connection, program: &ProgramId) -> Stored<Vec<StreamRow>> {
    let rows: Vec<RawStream> =
        sqlx::query_as("SELECT id, volume, object, bytes, sha256 FROM archive_streams WHERE program = $1")
            .bind(program.to_string())
            .fetch_all(db)
            .await?;
    rows.into_iter().map(RawStream::read).collect()
}

/// A stream has arrived; one of the same volume is replaced.
pub(crate) async fn put_stream(db: &mut Connection, program: &ProgramId, stream: &StreamRow) -> Stored<()> {
    delete_stream(db, program, stream.set, &stream.volume).await?;
    sqlx::query(
        "INSERT INTO archive_streams (program, id, volume, object, bytes, sha256) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(program.to_string())
    .bind(stream.set.to_string())
    .bind(&stream.volume)
    .bind(&stream.object)
    .bind(to_db(stream.received.bytes))
    .bind(stream.received.sha256.to_string())
    .execute(db)
    .await?;
    Ok(())
}

/// A stream is to be sent again.
pub(crate) async fn delete_stream(
    db: &mut Connection,
    program: &ProgramId,
    set: SnapshotId,
    volume: &str,
) -> Stored<()> {
    sqlx::query("DELETE FROM archive_streams WHERE program = $1 AND id = $2 AND volume = $3")
        .bind(program.to_string())
        .bind(set.to_string())
        .bind(volume)
        .execute(db)
        .await?;
    Ok(())
}

/// Since when a program is known to be over; from now on if it was not.
pub(crate) async fn over_since(db: &mut Connection, program: &ProgramId, now_us: i64) -> Stored<i64> {
    sqlx::query("INSERT INTO archive_over (program, noticed_us) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(program.to_string())
        .bind(now_us)
        .execute(&mut *db)
        .await?;
    Ok(sqlx::query_scalar("SELECT noticed_us FROM archive_over WHERE program = $1")
        .bind(program.to_string())
        .fetch_one(db)
        .await?)
}

/// A program is in force.
pub(crate) async fn not_over(db: &mut Connection, program: &ProgramId) -> Stored<()> {
    sqlx::query("DELETE FROM archive_over WHERE program = $1").bind(program.to_string()).execute(db).await?;
    Ok(())
}

/// The archive of a program is empty for good: without its key nobody reads copies of it either. The highest epoch stays.
pub(crate) async fn forget(db: &mut Connection, program: &ProgramId) -> Stored<()> {
    for sql in ["DELETE FROM archive_keys WHERE program = $1", "DELETE FROM archive_over WHERE program = $1"] {
        sqlx::query(sql).bind(program.to_string()).execute(&mut *db).await?;
    }
    Ok(())
}
