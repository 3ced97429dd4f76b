//! Snapshots of the archive that people want programs to go back to.
//!
//! ```text
//!             ordered                   stopped, or was not placed          ready
//!   nothing ───────────▶ being stopped ───────────────────────────▶ starts ───────▶ done
//!                                                                    │ its node says that the archive has no such set
//!                                                                    └──▶ it goes on with what it had
//! ```
//! The order lasts until the program was ready with that snapshot: whatever ends before starts with it again.
//!
//! The snapshot may be another program's, to which nothing happens: it need not even be known here. Whose it is, is checked
//! before the order comes here, and by the message node when it is read.

use chrono::{DateTime, Utc};
use protocol::data::ArchivedSet;
use protocol::history::Fact;
use protocol::{Address, Epoch, ProgramId};

use super::Scheduler;
use super::assignment::Stage;
use super::data::OnLoss;
use super::event::{Cause, Command, Write};
use super::moves::{Objection, unknown};
use super::turn::Turn;

/// What somebody wants a program to go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedRestore {
    /// The program.
    pub program: ProgramId,
    /// The set of the archive.
    pub set: ArchivedSet,
    /// The epoch that it has to leave for that: it starts with the snapshot under every later one. None, if it ran nowhere.
    pub of: Option<Epoch>,
    /// Who ordered it.
    pub by: Address,
    /// When it was recorded.
    pub at: DateTime<Utc>,
}

impl Scheduler {
    pub(super) fn object_to_restore(&self, id: ProgramId) -> Option<Objection> {
        let Some(program) = self.programs.get(&id) else { return Some(unknown(id)) };
        let not_now = |why: &str| Some(Objection::NotNow(why.to_owned()));
        if let Some(gone) = program.gone {
            return Some(Objection::NotNow(format!("it is not restored any more: {}", Cause::Gone(gone))));
        }
        if program.spec.data != Some(OnLoss::Archive) {
            return not_now("it has no volume with the persistence `store`, and only those are in the archive");
        }
        match &program.stage {
            _ if program.moves.under_way.is_some() => not_now("it is being moved: wait until it runs"),
            Stage::Assigned(_) | Stage::Unplaced => None,
            _ => not_now("it is being started or stopped: wait until it runs"),
        }
    }

    /// Somebody wants a program to go back to this snapshot. An order before counts no more.
    pub(super) fn ask_to_restore(&mut self, turn: &mut Turn, asked: AskedRestore) {
        let (id, ordered) = (asked.program, asked.at);
        let is_possible = self.object_to_restore(id).is_none();
        let program = self.programs.get_mut(&id).filter(|_| is_possible);
        let of = program.as_ref().and_then(|program| program.stage.assignment()).map(|assignment| assignment.epoch);
        let Some(data) = program.and_then(|program| program.data.as_mut()) else {
            // What changed between question and order.
            return turn.command(Command::Store(Write::RestoreOver { program: id, ordered }));
        };
        data.wanted = Some(AskedRestore { of, ..asked });
        match of {
            Some(_) => self.release(turn, id, Cause::Restored, None),
            None => self.waiting.retry(&self.programs[&id]),
        }
        self.settle(turn, id);
    }

    /// The order of an earlier scheduler's time.
    pub(super) fn restore_asked(&mut self, turn: &mut Turn, asked: AskedRestore) {
        let (id, ordered) = (asked.program, asked.at);
        let program = self.programs.get_mut(&id);
        let Some(program) = program.filter(|program| program.data.is_some()) else {
            return turn.command(Command::Store(Write::RestoreOver { program: id, ordered }));
        };
        let epoch = program.stage.assignment().map(|assignment| assignment.epoch);
        let is_to_leave = epoch.is_some() && epoch <= asked.of;
        if let Some(data) = &mut program.data {
            data.wanted = Some(asked);
        }
        if is_to_leave {
            self.release(turn, id, Cause::Restored, None);
        }
        self.settle(turn, id);
        self.sync_data(turn, id);
    }

    /// Records under the new assignment that it starts with what somebody wanted.
    pub(super) fn record_restore(&self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get(&id) else { return };
        let wanted = program.data.as_ref().and_then(|data| data.wanted.clone());
        let (Some(wanted), Some(assignment)) = (wanted, program.stage.assignment()) else { return };
        let (epoch, node) = (assignment.epoch, assignment.node);
        let ArchivedSet { snapshot, from } = wanted.set;
        let fact = Fact::Restoring { by: wanted.by, snapshot, from };
        turn.command(Command::Store(Write::Record { program: id, epoch, node, at: turn.wall, fact }));
    }

    /// It is ready with what somebody wanted, or its node cannot have that: the order is over.
    pub(super) fn restore_over(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(data) = self.programs.get_mut(&id).and_then(|program| program.data.as_mut()) else { return };
        let restored = data.restored;
        if let Some(AskedRestore { at, .. }) = data.wanted.take_if(|asked| restored == Some(asked.set)) {
            turn.command(Command::Store(Write::RestoreOver { program: id, ordered: at }));
        }
    }
}
