//! How nodes come and go: the network's list, connections, silence.

use std::collections::BTreeSet;

use protocol::control::FromScheduler;
use protocol::{Address, NodeId, ProgramId};

use super::Scheduler;
use super::assignment::Stage;
use super::event::{Cause, Command, ConnectionId, Notice, Proof, Registration, Write};
use super::nodes::{Life, Node};
use super::timers::Timer;
use super::turn::Turn;

impl Scheduler {
    /// Who is listed takes programs; who is not listed any more takes no new ones and keeps what it has: absence from a list
    /// is no evidence.
    pub(super) fn nodes_listed(&mut self, turn: &mut Turn, list: &[Registration]) {
        if list.is_empty() && !self.nodes.is_empty() {
            return turn.notice(Notice::EmptyNodeList);
        }
        let listed: BTreeSet<NodeId> = list.iter().map(|registration| registration.node).collect();
        for registration in list {
            let id = registration.node;
            let node = self.node(turn, id);
            if node.register(registration) {
                let registration = node.registration();
                turn.command(Command::Store(Write::Node(registration)));
                self.waiting.improve(id);
                self.changes.node(id, true);
                self.node_returned(turn, id);
            }
        }
        for (id, node) in &mut self.nodes {
            if !listed.contains(id) && node.offer.is_listed {
                node.offer.is_listed = false;
                self.changes.node(*id, true);
            }
        }
    }

    /// Its programs move as soon as others fit them.
    pub(super) fn node_gone(&mut self, turn: &mut Turn, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.is_gone = true;
        node.offer.is_listed = false;
        self.changes.node(id, true);
        for program in self.programs_on(id) {
            if let Some(Stage::Assigned(assignment)) = self.programs.get_mut(&program).map(|p| &mut p.stage) {
                assignment.leave(Some(Cause::NodeWithdrawn), turn.wall);
                self.settle(turn, program);
            }
        }
        self.review_keeper(turn, id);
        self.drop_if_unused(turn, id);
    }

    /// A node that left is back: its programs stay.
    fn node_returned(&mut self, turn: &mut Turn, id: NodeId) {
        for program in self.programs_on(id) {
            if let Some(Stage::Assigned(assignment)) = self.programs.get_mut(&program).map(|p| &mut p.stage)
                && assignment.unwanted() == Some(Cause::NodeWithdrawn)
            {
                assignment.leave(None, turn.wall);
                self.look_for_reason_to_leave(turn, program);
                self.settle(turn, program);
            }
        }
    }

    /// What is assigned to the node, or being released by it.
    pub(super) fn programs_on(&self, id: NodeId) -> Vec<ProgramId> {
        self.nodes.get(&id).into_iter().flat_map(|node| node.set.programs()).collect()
    }

    pub(super) fn node_connected(
        &mut self,
        turn: &mut Turn,
        id: NodeId,
        connection: ConnectionId,
        account: Address,
        url: String,
        software: &str,
    ) {
        let node = self.node(turn, id);
        let is_new_url = node.public_url() != url;
        let peer = node.peer();
        node.connect(connection, account, url.clone(), software);
        let is_new_peer = peer != node.peer();
        node.updated_at = turn.wall;
        let registration = node.registration();
        self.waiting.improve(id);
        self.changes.node(id, true);
        if is_new_url {
            turn.command(Command::Store(Write::Node(registration)));
            for id in self.programs_on(id) {
                let Some(assignment) = self.programs.get(&id).and_then(|p| p.stage.assignment()) else { continue };
                let (node, epoch, url) = (assignment.node, assignment.epoch, url.clone());
                turn.notice(Notice::Assigned { program: id, node, epoch, url, waited: None, again: false });
            }
        }
        if is_new_peer {
            self.peer_moved(turn, id);
        }
        turn.command(Command::Send { connection, frame: FromScheduler::Poke });
    }

    pub(super) fn node_disconnected(&mut self, turn: &mut Turn, id: NodeId, connection: ConnectionId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.connection == Some(connection)) else { return };
        node.disconnect();
        self.changes.node(id, true);
        self.drop_if_unused(turn, id);
    }

    /// A node sends heartbeats, for the first time or again.
    pub(super) fn node_heard(&mut self, turn: &mut Turn, id: NodeId) {
        turn.notice(Notice::NodeHeard { node: id });
        self.watch(id);
        self.review_keeper(turn, id);
        self.no_longer_silent(turn, id);
        self.show_node(turn, id);
    }

    fn no_longer_silent(&mut self, turn: &mut Turn, id: NodeId) {
        if self.brake.heard(id, self.listed()) {
            self.brake_moved(turn);
        }
    }

    /// How many nodes the network has.
    fn listed(&self) -> usize {
        self.nodes.values().filter(|node| node.offer.is_listed).count()
    }

    /// Reallocation stopped, or goes on.
    pub(super) fn brake_moved(&mut self, turn: &mut Turn) {
        turn.notice(Notice::Brake { stopped: self.brake.reason() });
        self.waiting.retry_all();
        for program in self.waiting.unplaced().collect::<Vec<_>>() {
            self.changes.program(program, true);
        }
        self.changes.is_loud = true;
    }

    /// Looks whether a node is silent.
    pub(super) fn look_at_node(&mut self, turn: &mut Turn, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.age(&self.times, turn.now) {
            let notice = match node.life {
                Life::Lost => Notice::NodeLost { node: id },
                _ => Notice::NodeSilent { node: id },
            };
            turn.notice(notice);
            if self.brake.silent(turn.now, id, self.listed()) {
                self.brake_moved(turn);
            }
            self.data_of_silent(turn, id);
            self.review_keeper(turn, id);
            self.look_at_arrivals(turn, id);
            self.end_never_granted(turn, id);
            self.show_node(turn, id);
        }
        self.watch(id);
    }

    /// Drops a node that left the network, once nothing depends on it any more.
    pub(super) fn drop_if_unused(&mut self, turn: &mut Turn, id: NodeId) {
        let unused = |node: &Node| node.is_gone && node.connection.is_none() && node.offer.programs == 0;
        if self.nodes.get(&id).is_some_and(unused) {
            self.nodes.remove(&id);
            self.no_longer_silent(turn, id);
            self.changes.node(id, true);
            turn.command(Command::Store(Write::ForgetNode(id)));
        }
    }

    /// What a silent node was not told about yet, it has no right to start: others need not wait for a lease.
    fn end_never_granted(&mut self, turn: &mut Turn, id: NodeId) {
        for program in self.programs_on(id) {
            let assignment = self.programs.get(&program).and_then(|program| program.stage.assignment());
            if assignment.is_some_and(|assignment| !assignment.granted) {
                self.end(turn, program, Cause::NodeSilent, Proof::NeverGranted);
            }
        }
    }

    fn watch(&mut self, id: NodeId) {
        if let Some(due) = self.nodes.get(&id).and_then(|node| node.due(&self.times)) {
            self.timers.arm(Timer::Node(id), due);
        }
    }

    /// Shows people the node and its programs, which nobody can know about while it is silent.
    fn show_node(&mut self, turn: &mut Turn, id: NodeId) {
        self.changes.node(id, true);
        for program in self.programs_on(id) {
            self.show(turn, program);
        }
    }
}
