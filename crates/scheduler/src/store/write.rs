//! The changes that the core asks for, each in a form that can be repeated.

use chrono::{DateTime, Utc};
use protocol::history::Fact;
use protocol::{Account, Epoch, NodeId, ProgramId};

use super::chain::{News, append};
use super::restore::earlier_leases_ended;
use super::{Connection, Led, StoreError, epoch, id, number};
use crate::core::{Cause, DataStart, Event, Loss, ProgramSpec, Proof, Registration, Write};

impl Led {
    /// Carries out writes in one transaction and says what to answer to each.
    pub(crate) async fn apply(&self, writes: &[Write]) -> Result<Vec<Event>, StoreError> {
        let mut tx = self.write().await?;
        let mut events = Vec::new();
        for write in writes {
            events.extend(apply(&mut tx, &self.scheduler, write).await?);
        }
        tx.commit().await?;
        Ok(events)
    }
}

async fn apply(tx: &mut Connection, scheduler: &Account, write: &Write) -> Result<Option<Event>, StoreError> {
    Ok(match write {
        Write::Remember(spec) => {
            remember(tx, spec).await?;
            None
        }
        Write::Assign { spec, node, at_least, start, loss, at } => {
            remember(tx, spec).await?;
            let (node, epoch) = match open_assignment(tx, spec.id).await? {
                // An earlier write made it, whose answer was lost.
                Some(open) => open,
                None => {
                    let epoch = assign(tx, spec.id, *node, *at_least, start.as_deref(), *at).await?;
                    let facts = [Fact::Assigned].into_iter().chain(loss.as_ref().map(Loss::fact));
                    for fact in facts {
                        append(tx, scheduler, News { program: spec.id, epoch, node: *node, at: *at, fact }).await?;
                    }
                    (*node, epoch)
                }
            };
            Some(Event::Stored { program: spec.id, node, epoch })
        }
        Write::Close { program, epoch, cause, proof, at } => {
            close(tx, scheduler, *program, *epoch, *cause, *proof, *at).await?;
            Some(Event::Closed { program: *program, epoch: *epoch })
        }
        Write::Forget { program, cause, at } => {
            if let Some((_, epoch)) = open_assignment(tx, *program).await? {
                close(tx, scheduler, *program, epoch, Cause::Gone(*cause), Proof::NeverGranted, *at).await?;
            }
            for table in [
                "DELETE FROM programs WHERE program_id = $1",
                "DELETE FROM standbys WHERE program_id = $1",
                "DELETE FROM moves WHERE program_id = $1",
                "DELETE FROM restores WHERE program_id = $1",
            ] {
                sqlx::query(table).bind(program.to_string()).execute(&mut *tx).await?;
            }
            Some(Event::Forgotten { program: *program })
        }
        Write::Record { program, epoch, node, at, fact } => {
            let news = News { program: *program, epoch: *epoch, node: *node, at: *at, fact: fact.clone() };
            // What arrives after the end, or after an end that was lost on the way, has nothing to tell any more.
            if open_assignment(tx, *program).await? == Some((*node, *epoch)) {
                append(tx, scheduler, news).await?;
            }
            None
        }
        Write::Standby { program, node } => {
            sqlx::query(
                "INSERT INTO standbys (program_id, node_id) VALUES ($1, $2)
                 ON CONFLICT (program_id) DO UPDATE SET node_id = excluded.node_id",
            )
            .bind(program.to_string())
            .bind(node.to_string())
            .execute(tx)
            .await?;
            None
        }
        Write::MoveOver { program, ordered } => {
            order_over(tx, "DELETE FROM moves WHERE program_id = $1 AND requested_at = $2", *program, *ordered).await?;
            None
        }
        Write::RestoreOver { program, ordered } => {
            let delete = "DELETE FROM restores WHERE program_id = $1 AND requested_at = $2";
            order_over(tx, delete, *program, *ordered).await?;
            None
        }
        Write::Node(registration) => {
            node(tx, registration).await?;
            None
        }
        Write::ForgetNode(node) => {
            sqlx::query("DELETE FROM nodes WHERE node_id = $1").bind(node.to_string()).execute(tx).await?;
            None
        }
        Write::EarlierLeasesEnded { lease_wait } => {
            earlier_leases_ended(tx, *lease_wait).await?;
            None
        }
    })
}

async fn remember(tx: &mut Connection, spec: &ProgramSpec) -> Result<(), StoreError> {
    if spec.is_unknown() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO programs (program_id, content) VALUES ($1, $2)
         ON CONFLICT (program_id) DO UPDATE SET content = excluded.content",
    )
    .bind(spec.id.to_string())
    .bind(&spec.content)
    .execute(tx)
    .await?;
    Ok(())
}

/// Counts the epoch up and opens the assignment.
async fn assign(
    tx: &mut Connection,
    program: ProgramId,
    node: NodeId,
    at_least: Epoch,
    start: Option<&DataStart>,
    at: DateTime<Utc>,
) -> Result<Epoch, StoreError> {
    let (next,): (i64,) = sqlx::query_as(
        "INSERT INTO epochs (program_id, epoch) VALUES ($1, $2)
         ON CONFLICT (program_id) DO UPDATE
         SET epoch = CASE WHEN epochs.epoch >= excluded.epoch THEN epochs.epoch + 1 ELSE excluded.epoch END
         RETURNING epoch",
    )
    .bind(program.to_string())
    .bind(number(at_least))
    .fetch_one(&mut *tx)
    .await?;
    let start = start.map(|start| serde_json::to_string(start).expect("it has string keys only"));
    sqlx::query(
        "INSERT INTO assignments (program_id, epoch, node_id, assigned_at, starts_with) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(program.to_string())
    .bind(next)
    .bind(node.to_string())
    .bind(at.timestamp_micros())
    .bind(start)
    .execute(&mut *tx)
    .await?;
    epoch(next)
}

async fn open_assignment(tx: &mut Connection, program: ProgramId) -> Result<Option<(NodeId, Epoch)>, StoreError> {
    let open: Option<(String, i64)> =
        sqlx::query_as("SELECT node_id, epoch FROM assignments WHERE program_id = $1 AND closed_at IS NULL")
            .bind(program.to_string())
            .fetch_optional(tx)
            .await?;
    open.map(|(node, number)| Ok((id("a node", &node)?, epoch(number)?))).transpose()
}

async fn close(
    tx: &mut Connection,
    scheduler: &Account,
    program: ProgramId,
    epoch: Epoch,
    cause: Cause,
    proof: Proof,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let closed: Option<(String,)> = sqlx::query_as(
        "UPDATE assignments SET closed_at = $1, close_cause = $2, close_proof = $3
         WHERE program_id = $4 AND epoch = $5 AND closed_at IS NULL RETURNING node_id",
    )
    .bind(at.timestamp_micros())
    .bind(cause.as_str())
    .bind(proof.as_str())
    .bind(program.to_string())
    .bind(number(epoch))
    .fetch_optional(&mut *tx)
    .await?;
    // One that was closed already was recorded then.
    let Some((node,)) = closed else { return Ok(()) };
    let fact = Fact::Ended { cause: cause.as_str().to_owned(), proof: proof.as_str().to_owned() };
    append(tx, scheduler, News { program, epoch, node: id("a node", &node)?, at, fact }).await
}

async fn order_over(
    tx: &mut Connection,
    delete: &'static str,
    program: ProgramId,
    ordered: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query(delete).bind(program.to_string()).bind(ordered.timestamp_micros()).execute(tx).await?;
    Ok(())
}

async fn node(tx: &mut Connection, registration: &Registration) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO nodes (node_id, name, owner, manager, address, url) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (node_id) DO UPDATE SET name = excluded.name, owner = excluded.owner, manager = excluded.manager,
         address = excluded.address, url = excluded.url",
    )
    .bind(registration.node.to_string())
    .bind(&registration.name)
    .bind(registration.owner.to_string())
    .bind(registration.manager.as_ref().map(ToString::to_string))
    .bind(&registration.address)
    .bind(registration.url.as_deref())
    .execute(tx)
    .await?;
    Ok(())
}
