//! What this node states about its programs for the signed history: that one started, answers, stopped.
//!
//! A statement is made once, when the report changes, and sent again on every new connection, byte for byte the same, as long
//! as the program is reported. So none is lost, and the scheduler can tell which it has.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use protocol::control::{ProgramReport, ReportedState};
use protocol::history::{Stated, Statement};
use protocol::{Account, Epoch, NodeId, ProgramId};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    told: BTreeMap<(ProgramId, Epoch), Told>,
}

/// What was stated about one program under one epoch.
#[derive(Debug, Default)]
struct Told {
    made: Vec<Statement>,
    /// How many of them the connection has had.
    sent: usize,
}

impl Statements {
    /// A new connection has had none.
    pub(crate) fn reconnected(&mut self) {
        self.told.values_mut().for_each(|told| told.sent = 0);
    }

    /// Forgets what is not reported any more. One that was said to run stays: a node that started a moment ago does not
    /// report at once that it is gone.
    fn forget(&mut self, reports: &[ProgramReport]) {
        let reported: BTreeSet<_> = reports.iter().map(|report| (report.program, report.epoch)).collect();
        let mut silent = 0;
        self.told.retain(|key, told| {
            let runs = told.made.last().is_some_and(|last| last.stated != Stated::Stopped);
            silent += usize::from(runs && !reported.contains(key));
            reported.contains(key) || (runs && silent <= MOST_SILENT)
        });
    }

    /// Takes in what the next heartbeat reports; says what to send before it.
    pub(crate) fn of(
        &mut self,
        account: &Account,
        node: NodeId,
        reports: &[ProgramReport],
        now: DateTime<Utc>,
    ) -> Vec<Statement> {
        self.forget(reports);
        let mut news = Vec::new();
        for report in reports {
            let Told { made, sent } = self.told.entry((report.program, report.epoch)).or_default();
            let last = made.last().map(|statement| statement.stated);
            if let Some(stated) = stated(&report.state, last) {
                let since = now - std::time::Duration::from_millis(report.for_ms);
                made.push(Statement::new(account, node, report.program, report.epoch, stated, since));
            }
            news.extend(made[*sent..].iter().cloned());
            *sent = made.len();
            // Enough to tell where it is; a program that crashes again and again does not fill the memory.
            if made.len() > MOST {
                made.remove(0);
                *sent = made.len();
            }
        }
        news
    }
}

/// Programs that are not reported any more, and of which the last word is that they run, are kept up to this number.
const MOST_SILENT: usize = 1000;

/// Statements of a program that are kept for the next connection.
const MOST: usize = 8;

/// What a report means, if that was not the last thing stated.
fn stated(state: &ReportedState, last: Option<Stated>) -> Option<Stated> {
    let stated = match state {
        ReportedState::Starting => Stated::Started,
        ReportedState::Ready => Stated::Ready,
        // One that never started has not stopped either.
        ReportedState::Failing(_) | ReportedState::Released if last.is_some() => Stated::Stopped,
        _ => return None,
    };
    (last != Some(stated)).then_some(stated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::control::{Failure, FailureKind};

    fn report(state: ReportedState) -> ProgramReport {
        let program = ProgramId::from_bytes([1; 32]);
        ProgramReport { program, epoch: Epoch::FIRST, state, for_ms: 0, restarts: 0 }
    }

    #[test]
    fn each_change_is_stated_once_and_again_to_a_new_connection() {
        let (account, node) = (Account::generate(), NodeId::from_bytes([2; 32]));
        let mut statements = Statements::default();
        let mut next = |state| {
            let new = statements.of(&account, node, &[report(state)], DateTime::UNIX_EPOCH);
            assert!(new.iter().all(|statement| statement.signer().as_ref() == Ok(account.address())));
            new.iter().map(|statement| statement.stated).collect::<Vec<_>>()
        };
        assert_eq!(next(ReportedState::Preparing), []);
        assert_eq!(next(ReportedState::Starting), [Stated::Started]);
        assert_eq!(next(ReportedState::Ready), [Stated::Ready]);
        assert_eq!(next(ReportedState::Ready), []);
        let failure = Failure { kind: FailureKind::Exited, message: String::new() };
        assert_eq!(next(ReportedState::Failing(failure)), [Stated::Stopped]);
        assert_eq!(next(ReportedState::Starting), [Stated::Started]);
        statements.reconnected();
        let again = statements.of(&account, node, &[report(ReportedState::Starting)], DateTime::UNIX_EPOCH);
        assert_eq!(again.len(), 4);
        assert!(statements.of(&account, node, &[], DateTime::UNIX_EPOCH).is_empty());
        let stopped = statements.of(&account, node, &[report(ReportedState::Released)], DateTime::UNIX_EPOCH);
        assert_eq!(stopped.len(), 1, "although it was not reported for a moment");
        statements.of(&account, node, &[], DateTime::UNIX_EPOCH);
        assert!(statements.told.is_empty(), "what has stopped and is not reported any more is forgotten");
    }

    #[test]
    fn what_never_started_did_not_stop() {
        let (account, node) = (Account::generate(), NodeId::from_bytes([2; 32]));
        let mut statements = Statements::default();
        assert!(statements.of(&account, node, &[report(ReportedState::Released)], DateTime::UNIX_EPOCH).is_empty());
    }

    #[test]
    fn a_program_that_crashes_again_and_again_is_stated_every_time() {
        let (account, node) = (Account::generate(), NodeId::from_bytes([2; 32]));
        let mut statements = Statements::default();
        for _ in 0..50 {
            for state in [ReportedState::Starting, ReportedState::Ready] {
                assert_eq!(statements.of(&account, node, &[report(state)], DateTime::UNIX_EPOCH).len(), 1);
            }
        }
        assert!(statements.told.values().all(|told| told.made.len() <= MOST));
    }
}
