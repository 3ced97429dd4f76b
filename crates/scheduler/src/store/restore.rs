//! What the database says when the scheduler starts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use protocol::history::Entry;
use protocol::{Address, Epoch, ProgramId};

use super::{Connection, Led, StoreError, epoch, id, time};
use crate::core::{OpenAssignment, ProgramSpec, Registration, Restored, Writer};

/// How long leases that were granted can last, in nanoseconds.
const LEASE_WAIT: &str = "lease_wait_ns";
/// There when every assignment that can live is in the database.
const COMPLETE: &str = "complete";

type NodeRow = (String, String, String, Option<String>, String, Option<String>);

impl Led {
    /// Reads everything. In the same transaction it notes that leases of this process last up to `own_wait`, or as long as
    /// those of earlier processes: whoever starts next has to wait for both.
    pub(crate) async fn restore(&self, own_wait: Duration) -> Result<Restored, StoreError> {
        let mut tx = self.write().await?;
        let programs: Vec<(String, String, Option<i64>)> = sqlx::query_as(
            "SELECT p.program_id, p.content, e.epoch FROM programs p LEFT JOIN epochs e ON e.program_id = p.program_id",
        )
        .fetch_all(&mut *tx)
        .await?;
        let assignments: Vec<(String, String, i64, Option<String>, i64)> = sqlx::query_as(
            "SELECT program_id, node_id, epoch, starts_with, assigned_at FROM assignments WHERE closed_at IS NULL",
        )
        .fetch_all(&mut *tx)
        .await?;
        let nodes: Vec<NodeRow> =
            sqlx::query_as("SELECT node_id, name, owner, manager, address, url FROM nodes").fetch_all(&mut *tx).await?;
        let writers: Vec<(String, String, i64, Option<String>)> = sqlx::query_as(
            "SELECT program_id, node_id, epoch, starts_with FROM assignments AS a
             WHERE closed_at IS NOT NULL AND close_proof NOT IN ('never_granted', 'refused') AND close_cause <> 'refused'
             AND epoch = (SELECT MAX(epoch) FROM assignments AS b WHERE b.program_id = a.program_id
                          AND b.closed_at IS NOT NULL AND b.close_proof NOT IN ('never_granted', 'refused')
                          AND b.close_cause <> 'refused')",
        )
        .fetch_all(&mut *tx)
        .await?;
        let standbys: Vec<(String, String)> =
            sqlx::query_as("SELECT program_id, node_id FROM standbys").fetch_all(&mut *tx).await?;
        let draining = super::orders::draining(&mut tx).await?;
        let moves = super::orders::moves(&mut tx).await?;
        let restores = super::orders::restores(&mut tx).await?;
        let started = started(&mut tx).await?;
        let earlier_wait = match meta(&mut tx, LEASE_WAIT).await? {
            Some(text) => Some(Duration::from_nanos(id("a duration", &text)?)),
            None => None,
        };
        let is_complete = meta(&mut tx, COMPLETE).await?.is_some();
        set_lease_wait(&mut tx, earlier_wait.unwrap_or(own_wait).max(own_wait)).await?;
        tx.commit().await?;

        let program = |(program, content, last): (String, String, Option<i64>)| {
            Ok((spec(id("a program", &program)?, content), last.map(epoch).transpose()?))
        };
        let assignment = |(program, node, number, start, at): (String, String, i64, Option<String>, i64)| {
            let writer = writer((program, node, number, start))?;
            let was_seen = started.contains(&(writer.program, writer.epoch));
            Ok(OpenAssignment { writer, at: time(at)?, was_seen })
        };
        Ok(Restored {
            programs: programs.into_iter().map(program).collect::<Result<_, StoreError>>()?,
            assignments: assignments.into_iter().map(assignment).collect::<Result<_, StoreError>>()?,
            writers: writers.into_iter().map(writer).collect::<Result<_, StoreError>>()?,
            standbys: standbys
                .into_iter()
                .map(|(program, node)| Ok((id("a program", &program)?, id("a node", &node)?)))
                .collect::<Result<_, StoreError>>()?,
            nodes: nodes.into_iter().map(registration).collect::<Result<_, StoreError>>()?,
            moves,
            restores,
            draining,
            earlier_wait,
            is_complete,
        })
    }
}

fn writer((program, node, number, start): (String, String, i64, Option<String>)) -> Result<Writer, StoreError> {
    let (program, node, epoch) = (id("a program", &program)?, id("a node", &node)?, epoch(number)?);
    let read = |text: String| {
        let corrupt = |_| StoreError::Corrupt { what: "what an assignment starts with", value: text.clone() };
        serde_json::from_str(&text).map_err(corrupt)
    };
    Ok(Writer { program, node, epoch, start: start.map(read).transpose()? })
}

/// The programs, and epochs, of which a node last stated something while their assignment was open: it had started.
async fn started(tx: &mut Connection) -> Result<BTreeSet<(ProgramId, Epoch)>, StoreError> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT h.entry FROM history h JOIN assignments a ON a.program_id = h.program_id AND a.closed_at IS NULL
         WHERE h.sequence = (SELECT MAX(sequence) FROM history AS l
                             WHERE l.program_id = h.program_id AND l.statement IS NOT NULL)",
    )
    .fetch_all(tx)
    .await?;
    let read = |(entry,): (String,)| {
        let corrupt = |_| StoreError::Corrupt { what: "an entry of the history", value: entry.clone() };
        serde_json::from_str::<Entry>(&entry).map(|entry| (entry.program, entry.epoch)).map_err(corrupt)
    };
    rows.into_iter().map(read).collect()
}

/// What a program needs. A program that this version cannot read keeps what it has.
fn spec(program: ProgramId, content: String) -> Arc<ProgramSpec> {
    let unreadable = |why: String| {
        tracing::error!(%program, why, "the database holds a program that cannot be read; it stays where it runs");
        ProgramSpec::unknown(program, format!("its stored content cannot be read: {why}"))
    };
    Arc::new(match ProgramSpec::read(program, content) {
        Ok(Some(spec)) => spec,
        Ok(None) => unreadable("it is not persistent".to_owned()),
        Err(error) => unreadable(error.to_string()),
    })
}

fn registration((node, name, owner, manager, address, url): NodeRow) -> Result<Registration, StoreError> {
    let (owner, manager) = (Address::new(owner), manager.map(Address::new));
    Ok(Registration { node: id("a node", &node)?, name, owner, manager, address, url })
}

/// Leases of earlier processes have ended.
pub(super) async fn earlier_leases_ended(tx: &mut Connection, lease_wait: Duration) -> Result<(), StoreError> {
    set_lease_wait(tx, lease_wait).await?;
    set_meta(tx, COMPLETE, "yes").await
}

async fn set_lease_wait(tx: &mut Connection, wait: Duration) -> Result<(), StoreError> {
    set_meta(tx, LEASE_WAIT, &wait.as_nanos().to_string()).await
}

async fn meta(tx: &mut Connection, name: &str) -> Result<Option<String>, StoreError> {
    let row: Option<(String,)> =
        sqlx::query_as("SELECT value FROM meta WHERE name = $1").bind(name).fetch_optional(tx).await?;
    Ok(row.map(|(value,)| value))
}

async fn set_meta(tx: &mut Connection, name: &str, value: &str) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )
    .bind(name)
    .bind(value)
    .execute(tx)
    .await?;
    Ok(())
}
