//! What operators and owners do, and what the message node suffers from.

use std::time::Duration;

use chrono::DateTime;
use protocol::data::ArchivedSet;
use protocol::operation::Operation;
use protocol::{Address, NodeId};
use scheduler::core::Event;

use crate::store::Health;
use crate::time::Moment;
use crate::world::message_node::Act;
use crate::world::scheduler::SchedulerHost;
use crate::world::{Happening, SchedulerRun, World, say};

use super::Fault;

impl World {
    pub(super) fn strike_users(&mut self, fault: Fault) {
        let until = self.a_while();
        match fault {
            Fault::SilenceMessageNode => self.message_node.silent_until = until,
            Fault::EmptyMessageNode => self.message_node.empty_until = until,
            Fault::Drain => self.drain_node(until),
            Fault::DrainTwo => {
                self.drain_node(until);
                self.drain_node(until);
            }
            Fault::GiveUp => self.give_up_node(),
            Fault::Flood => {
                for _ in 0..self.chance.between(5, 25) {
                    self.act(Act::Publish);
                }
            }
            _ => {
                let Some(id) = self.some_machine() else { return };
                // At least two remain.
                if !self.plan.withdrawn.remove(&id) && self.machines.len() > self.plan.withdrawn.len() + 2 {
                    self.plan.withdrawn.insert(id);
                }
            }
        }
    }

    /// An operator drains a node for a while.
    fn drain_node(&mut self, until: Moment) {
        let Some(node) = self.some_machine().map(|id| self.machine(id).node) else { return };
        let reason = "maintenance".to_owned();
        if self.order(Operation::Drain { node, reason }) {
            self.at(until, Happening::Undrains(node));
        }
    }

    /// An operator knows that a machine is off, and says so.
    fn give_up_node(&mut self) {
        let off: Vec<_> = self.machines.iter().filter(|machine| !machine.is_on).map(|machine| machine.node).collect();
        if let Some(node) = self.chance.one_of(&off) {
            self.order(Operation::Lost { node });
        }
    }

    /// Gives an order to the scheduler that leads. Whether it was there to take it.
    pub(in crate::world) fn order(&mut self, operation: Operation) -> bool {
        let leads = |host: &&SchedulerHost| host.process.is_some() && host.paused_until <= self.now;
        let Some(run) = self.schedulers.iter().find(leads).map(|host| SchedulerRun(host.id, host.run)) else {
            return false;
        };
        let term = self.process(run).and_then(|process| process.term);
        let is_durable = self.store.health != Health::Refuses && self.host(run.0).cut_until <= self.now;
        if !is_durable || term.is_some_and(|term| !self.store.database.leads(term.epoch)) {
            return false;
        }
        if self.process(run).is_none_or(|process| process.core.objection(&operation).is_some()) {
            return false;
        }
        let by = Address::new("operator");
        let at = DateTime::UNIX_EPOCH + Duration::from_secs(self.fresh_number());
        match &operation {
            Operation::Drain { node, reason } => self.store.database.drain(*node, Some(reason.clone())),
            Operation::Undrain { node } => self.store.database.drain(*node, None),
            Operation::Move { program, to } => self.store.database.ask_to_move(*program, *to, by.clone(), at),
            Operation::CancelMove { program } => self.store.database.cancel_move(*program),
            Operation::Restore { program, snapshot, from } => {
                self.checker.data.ordered(*program, *snapshot, at);
                let set = ArchivedSet { snapshot: *snapshot, from: *from };
                self.store.database.ask_to_restore(*program, set, by.clone(), at);
            }
            Operation::Lost { .. } | Operation::Resume => {}
        }
        say!(self, "  {} is ordered: {operation:?}", run.0);
        self.tell_scheduler(run, Event::Ordered { operation, by, at });
        true
    }

    /// The maintenance is over; the operator says so until somebody hears it.
    pub(in crate::world) fn undrains(&mut self, node: NodeId) {
        if !self.order(Operation::Undrain { node }) {
            self.after(Duration::from_secs(1), Happening::Undrains(node));
        }
    }
}
