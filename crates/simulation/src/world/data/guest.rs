//! What programs with volumes do while they run: they write, and now and then want to know that it is on the standby.

use std::time::Duration;

use scheduler::core::data::OnLoss;

use crate::check::data::Start;
use crate::world::sandbox::Body;
use crate::world::{AgentRun, Happening, Place, World};
use crate::writes::Content;

impl World {
    /// The program's code begins to run, with its volumes mounted.
    pub(in crate::world) fn data_starts(&mut self, place: Place) {
        let Some((assignment, folder)) =
            self.sandbox(place).and_then(|sandbox| Some((sandbox.assignment, sandbox.folder?)))
        else {
            return;
        };
        let program = assignment.program;
        let Some(volumes) = self.machine(place.0).pool.get(program) else { return };
        let start = Start {
            program,
            epoch: assignment.epoch,
            machine: place.0,
            content: volumes.folder(folder).unwrap_or(Content::EMPTY),
            made_of: volumes.known.live().and_then(|live| live.made_of),
            waits: self.data_of(program) != Some(OnLoss::Fresh),
        };
        let mut data = std::mem::take(&mut self.checker.data);
        let flushed = data.newest_flushed(program);
        let is_kept = flushed.is_some_and(|write| self.is_on_some_disk(&data, program, write));
        let checked = data.start(start, |_| is_kept);
        self.checker.data = data;
        if let Err((invariant, what)) = checked {
            self.violated(invariant, what);
        }
        let begins = self.message_node.habit(program).starts_in + self.data_chance.millis(0, 200);
        self.after(begins, Happening::Writes(place));
    }

    fn is_on_some_disk(
        &self,
        data: &crate::check::data::DataChecker,
        program: protocol::ProgramId,
        write: crate::writes::WriteId,
    ) -> bool {
        let is_in = |content| matches!(content, Content::UpTo(last) if data.writes.is_prefix(Some(write), last));
        let pools = self.machines.iter().filter_map(|machine| machine.pool.get(program));
        let mut pools = pools.filter(|volumes| volumes.known.forgotten().is_none());
        pools.any(|volumes| volumes.has(write, is_in))
    }

    pub(in crate::world) fn writes(&mut self, place: Place) {
        let asleep = self.machine(place.0).asleep_until;
        let Some(sandbox) = self.sandbox(place).filter(|sandbox| sandbox.body == Body::Occupied) else { return };
        let (assignment, Some(folder)) = (sandbox.assignment, sandbox.folder) else { return };
        if asleep > self.now {
            return self.at(asleep, Happening::Writes(place));
        }
        let program = assignment.program;
        let every = self.message_node.habit(program).writes_every;
        let wait = self.data_chance.millis(1, u64::try_from(every.as_millis()).unwrap_or(1).max(2) * 2);
        self.after(wait, Happening::Writes(place));
        if self.is_full(place.0) {
            return;
        }
        let Some(content) = self.machine_mut(place.0).pool.of(program).folder(folder) else { return };
        let written = self.checker.data.write(program, assignment.epoch, content, self.now);
        self.tally.writes += 1;
        self.machine_mut(place.0).pool.of(program).wrote(folder, written);
        if self.data_chance.percent(4) {
            self.asks_for_flush(place, written);
        }
    }

    fn asks_for_flush(&mut self, place: Place, written: Content) {
        let run = AgentRun(place.0, self.machine(place.0).run);
        let Some(assignment) = self.sandbox(place).map(|sandbox| sandbox.assignment) else { return };
        let is_awake = self.machine(place.0).agent_sleeps_until() <= self.now;
        if let (true, Content::UpTo(write)) = (is_awake, written)
            && let Some(replica) = self.replica_of(run, assignment.program, assignment.epoch)
        {
            self.flush(replica, write);
        }
    }
}

/// How often a program writes, on average, by a number that was drawn for it.
pub(in crate::world) fn pace_of_writes(drawn: u64) -> Duration {
    Duration::from_millis([150, 400, 400, 1500, 8000][usize::try_from(drawn % 5).unwrap_or(0)])
}
