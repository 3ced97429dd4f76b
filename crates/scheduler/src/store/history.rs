//! Who ran what, when: the assignments as the API lists them.

use protocol::api::scheduler::AssignmentRecord;
use protocol::{NodeId, ProgramId};

use super::{Store, StoreError, epoch, id, time};
use crate::api::iso;

/// Whose history.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of {
    /// A program's.
    Program(ProgramId),
    /// A node's.
    Node(NodeId),
}

type Row = (String, String, i64, i64, Option<i64>, Option<String>, Option<String>);

impl Store {
    /// A part of a history, newest first, and how long the whole is.
    pub(crate) async fn history(
        &self,
        of: Of,
        offset: u64,
        most: u64,
    ) -> Result<(Vec<AssignmentRecord>, u64), StoreError> {
        let (count, list, key) = match of {
            Of::Program(program) => (
                "SELECT count(*) FROM assignments WHERE program_id = $1",
                "SELECT program_id, node_id, epoch, assigned_at, closed_at, close_cause, close_proof FROM assignments
                 WHERE program_id = $1 ORDER BY epoch DESC LIMIT $2 OFFSET $3",
                program.to_string(),
            ),
            Of::Node(node) => (
                "SELECT count(*) FROM assignments WHERE node_id = $1",
                "SELECT program_id, node_id, epoch, assigned_at, closed_at, close_cause, close_proof FROM assignments
                 WHERE node_id = $1 ORDER BY assigned_at DESC, program_id LIMIT $2 OFFSET $3",
                node.to_string(),
            ),
        };
        let mut db = self.read().await?;
        let (total,): (i64,) = sqlx::query_as(count).bind(&key).fetch_one(&mut *db).await?;
        let bound = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let rows: Vec<Row> =
            sqlx::query_as(list).bind(&key).bind(bound(most)).bind(bound(offset)).fetch_all(&mut *db).await?;
        let records = rows.into_iter().map(record).collect::<Result<_, _>>()?;
        Ok((records, u64::try_from(total).unwrap_or(0)))
    }
}

fn record((program, node, number, at, closed, cause, proof): Row) -> Result<AssignmentRecord, StoreError> {
    Ok(AssignmentRecord {
        vm_hash: id("a program", &program)?,
        node_hash: id("a node", &node)?,
        epoch: epoch(number)?,
        assigned_at: iso(time(at)?),
        ended_at: closed.map(time).transpose()?.map(iso),
        cause,
        proof,
    })
}
