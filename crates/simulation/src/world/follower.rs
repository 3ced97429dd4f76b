//! How a scheduler follows the message node: the shell of `scheduler/src/follow`. The stream is fast and breaks; the list is
//! slow and complete; what is missing in it is asked about, and only an answer counts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use protocol::{Address, ProgramId};
use scheduler::core::data::OnLoss;
use scheduler::core::{Event, Gone, Origin, Registration};

use crate::trap::Trap;

use super::{Happening, MachineId, SchedulerRun, World, say};

/// As in the product.
const QUICKEST: Duration = Duration::from_millis(250);
const SLOWEST: Duration = Duration::from_secs(15);
const RESYNC: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_secs(10);

impl World {
    /// The scheduler opens the stream and reads the list of programs.
    pub(super) fn lists_programs(&mut self, run: SchedulerRun) {
        if self.scheduler_puts_off(run, || Happening::ListsPrograms(run)) {
            return;
        }
        let answers = self.message_node.answers(self.now);
        let Some(process) = self.process_mut(run) else { return };
        process.has_stream = answers;
        if !answers {
            process.pause = (process.pause * 2).clamp(QUICKEST, SLOWEST);
            let pause = process.pause;
            return self.after(pause, Happening::ListsPrograms(run));
        }
        process.pause = Duration::ZERO;
        let is_empty = self.message_node.empty_until > self.now;
        let listed: BTreeSet<ProgramId> =
            if is_empty { BTreeSet::new() } else { self.message_node.in_force().collect() };
        let (known, unread) =
            self.process(run).map(|process| (process.known.clone(), process.unread.clone())).unwrap_or_default();
        for program in listed.iter().filter(|program| !known.contains(program) || unread.contains(program)) {
            self.desires(run, *program, Origin::Listed);
        }
        for program in known.difference(&listed) {
            self.asks_about(run, *program);
        }
        self.after(RESYNC, Happening::ListsPrograms(run));
    }

    /// The stream brings a message about a program.
    pub(super) fn hears(&mut self, run: SchedulerRun, program: ProgramId) {
        if self.scheduler_puts_off(run, || Happening::Hears(run, program)) {
            return;
        }
        let answers = self.message_node.answers(self.now);
        let Some(process) = self.process_mut(run).filter(|process| process.has_stream) else { return };
        if !answers {
            // The stream breaks; the next list brings what was missed.
            process.has_stream = false;
            return self.after(QUICKEST, Happening::ListsPrograms(run));
        }
        let is_known = process.known.contains(&program) && !process.unread.contains(&program);
        if !self.message_node.is_in_force(program) {
            self.asks_about(run, program);
        } else if !is_known {
            let origin = if self.message_node.was_taken_back(program) { Origin::Listed } else { Origin::Published };
            self.desires(run, program, origin);
        }
    }

    fn desires(&mut self, run: SchedulerRun, program: ProgramId, origin: Origin) {
        let Some(mut spec) = self.message_node.spec(program) else { return };
        if self.has_trap(Trap::FreshForWait) && spec.data.is_some() {
            Arc::make_mut(&mut spec).data = Some(OnLoss::Fresh);
        }
        if let Some(process) = self.process_mut(run) {
            process.known.insert(program);
            process.unread.remove(&program);
            self.tell_scheduler(run, Event::ProgramDesired { spec, origin });
        }
    }

    /// Asks whether a program is still in force.
    fn asks_about(&mut self, run: SchedulerRun, program: ProgramId) {
        let is_empty = self.message_node.empty_until > self.now;
        let evidence = match self.message_node.gone(program) {
            // A message node that lost its memory does not know: that is no evidence.
            _ if is_empty && self.has_trap(Trap::EmptyMeansStop) => Gone::Forgotten,
            Some(evidence) if !is_empty => evidence,
            _ => return,
        };
        let Some(process) = self.process_mut(run) else { return };
        if process.known.remove(&program) {
            self.tell_scheduler(run, Event::ProgramGone { program, evidence });
        }
    }

    /// The scheduler reads the list of nodes.
    pub(super) fn lists_nodes(&mut self, run: SchedulerRun) {
        if self.scheduler_puts_off(run, || Happening::ListsNodes(run)) {
            return;
        }
        if self.process(run).is_none() {
            return;
        }
        if !self.message_node.answers(self.now) {
            return self.after(QUICKEST * 4, Happening::ListsNodes(run));
        }
        let is_empty = self.message_node.empty_until > self.now;
        let (listed, gone): (Vec<_>, Vec<_>) =
            self.machine_ids().into_iter().partition(|id| !self.plan.withdrawn.contains(id));
        let list = if is_empty { Vec::new() } else { listed.into_iter().map(|id| self.registration(id)).collect() };
        self.tell_scheduler(run, Event::NodesListed(list));
        for id in gone {
            let node = self.machine(id).node;
            let is_known = self.process(run).and_then(|process| process.core.node_view(node));
            if !is_empty && is_known.is_some_and(|view| !view.is_gone) {
                say!(self, "{} {id} left the network", run.0);
                self.tell_scheduler(run, Event::NodeGone { node });
            }
        }
        self.after(POLL, Happening::ListsNodes(run));
    }

    fn registration(&self, id: MachineId) -> Registration {
        Registration {
            node: self.machine(id).node,
            name: id.to_string(),
            owner: Address::new("0x01"),
            manager: None,
            address: format!("http://node-{}", id.0),
            url: None,
        }
    }
}
