//! Who has a program, as the scheduler says. Answers are remembered for a moment, because each stream of a set asks.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::api::archive::ArchiveCode;
use protocol::client::Scheduler;
use protocol::data::SnapshotId;
use protocol::{Epoch, NodeId, ProgramId};
use tokio::time::{Instant, sleep_until, timeout};

use crate::core::archive::{Holder, Refusal};
use crate::store::{Store, Stored, nodes};

use super::Failure;

/// How long an answer is good.
const GOOD_FOR: Duration = Duration::from_secs(3);
/// How old an answer has to be before somebody who would be refused because of it makes the scheduler be asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long one scheduler may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers that are remembered.
const MOST: usize = 4096;

/// How fresh an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// A few seconds old will do.
    Recent,
    /// From after this time: somebody would be refused otherwise, perhaps because of a change that has just happened.
    New(Instant),
}

/// What a scheduler says; `None` when the program is assigned to no node.
type Assignment = Option<Assigned>;

#[derive(Debug, Clone, Copy)]
struct Assigned {
    node: NodeId,
    epoch: Epoch,
    starts_with: Option<(ProgramId, SnapshotId)>,
}

/// The schedulers, and what they said.
pub(crate) struct Holders {
    schedulers: Vec<Scheduler>,
    answers: Mutex<HashMap<ProgramId, (Instant, Assignment)>>,
}

impl Holders {
    pub(crate) fn new(schedulers: &[String]) -> Self {
        Self { schedulers: schedulers.iter().map(Scheduler::new).collect(), answers: Mutex::default() }
    }

    /// Who has a program; `None` when it is assigned to no node.
    ///
    /// # Errors
    /// [`ArchiveCode::NoScheduler`] when nobody says.
    pub(crate) async fn of(
        &self,
        store: &Store,
        program: &ProgramId,
        freshness: Freshness,
    ) -> Result<Option<Holder>, Failure> {
        let assignment = match self.known(program, freshness).await {
            Some(assignment) => assignment,
            None => self.ask(program).await?,
        };
        let Some(Assigned { node, epoch, starts_with }) = assignment else { return Ok(None) };
        Ok(Some(Holder { node, account: account(store, &node).await?, epoch, starts_with }))
    }

    /// An answer that is fresh enough. Waits a moment rather than have the scheduler asked too often.
    async fn known(&self, program: &ProgramId, freshness: Freshness) -> Option<Assignment> {
        let (asked, assignment) = self.answer(program)?;
        let Freshness::New(since) = freshness else {
            return (asked.elapsed() < GOOD_FOR).then_some(assignment);
        };
        sleep_until((asked + ASK_AGAIN_AFTER).min(Instant::now() + ASK_AGAIN_AFTER)).await;
        self.answer(program).filter(|(asked, _)| *asked >= since).map(|(_, assignment)| assignment)
    }

    fn answer(&self, program: &ProgramId) -> Option<(Instant, Assignment)> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(program).copied()
    }

    async fn ask(&self, program: &ProgramId) -> Result<Assignment, Refusal> {
        let mut causes = Vec::new();
        for scheduler in &self.schedulers {
            let asked = Instant::now();
            match timeout(PATIENCE, scheduler.vm(program)).await {
                Ok(Ok(found)) => {
                    let assignment = found.and_then(|record| {
                        let starts_with = record.data.and_then(|data| data.restored_from.zip(data.restored));
                        Some(Assigned { node: record.allocated_node?, epoch: record.epoch?, starts_with })
                    });
                    self.remember(program, asked, assignment);
                    return Ok(assignment);
                }
                Ok(Err(error)) => causes.push(error.to_string()),
                Err(_) => causes.push(format!("{} does not answer", scheduler.url())),
            }
        }
        let message = match causes.is_empty() {
            true => "this message node knows no scheduler to ask who has the program: its operator sets --scheduler"
                .to_owned(),
            false => format!("no scheduler says who has the program; try again later ({})", causes.join("; ")),
        };
        Err(Refusal::new(ArchiveCode::NoScheduler, message))
    }

    fn remember(&self, program: &ProgramId, asked: Instant, assignment: Assignment) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST {
            answers.retain(|_, (when, _)| when.elapsed() < GOOD_FOR);
        }
        if answers.len() < MOST {
            answers.insert(*program, (asked, assignment));
        }
    }
}

async fn account(store: &Store, node: &NodeId) -> Stored<Option<protocol::Address>> {
    nodes::owner_of(&mut *store.read().await?, &node.to_string()).await
}
