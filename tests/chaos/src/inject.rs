//! Doing harm, and undoing it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aleph_tests::signal;
use rustix::process::Signal;

use crate::daemon::Daemon;
use crate::fault::{Fault, Host, Meanwhile, Part};
use crate::hosts::Place;
use crate::world::{World, disk};

/// Whom it hits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Victims {
    /// The program, if it is one.
    pub(crate) program: usize,
    /// The compute node, if it is one.
    pub(crate) node: usize,
    /// The scheduler that leads.
    pub(crate) leader: usize,
    /// How long into something else it comes.
    pub(crate) into: Duration,
}

/// What was done and has to be undone.
pub(crate) struct Injury {
    fault: Fault,
    victims: Victims,
    stopped: Vec<i32>,
}

impl Victims {
    fn place(self, host: Host) -> Place {
        match host {
            Host::Node => Place::Node(self.node),
            Host::Leader => Place::Scheduler(self.leader),
            Host::MessageNode => Place::MessageNode,
            Host::Postgres => Place::Postgres,
        }
    }
}

impl World<'_> {
    /// Makes it happen.
    pub(crate) async fn injure(&mut self, fault: Fault, victims: Victims) -> Injury {
        let mut stopped = Vec::new();
        match fault {
            Fault::Kill(part) => self.processes(part, victims).into_iter().for_each(|pid| signal(pid, Signal::KILL)),
            Fault::Stop(part) => {
                stopped = self.processes(part, victims);
                stopped.iter().for_each(|pid| signal(*pid, Signal::STOP));
            }
            Fault::Link(host, cut) => self.hosts.cut(victims.place(host), cut),
            Fault::FullDisk(host) => fill(&disk(self.root, victims.place(host))),
            Fault::Move(meanwhile) => {
                let target = self.order_move(victims.program).await;
                tokio::time::sleep(victims.into).await;
                self.dying(meanwhile, victims, target).into_iter().for_each(|pid| signal(pid, Signal::KILL));
            }
        }
        Injury { fault, victims, stopped }
    }

    /// Undoes it, and starts again what it killed. Says what had ended although nobody killed it.
    pub(crate) fn heal(&mut self, injury: &Injury) -> Vec<String> {
        injury.stopped.iter().for_each(|pid| signal(*pid, Signal::CONT));
        match injury.fault {
            Fault::Link(host, cut) => self.hosts.heal(injury.victims.place(host), cut),
            Fault::FullDisk(host) => {
                let _ = std::fs::remove_file(filler(&disk(self.root, injury.victims.place(host))));
            }
            Fault::Kill(_) | Fault::Stop(_) | Fault::Move(_) => {}
        }
        let missing = self.start_missing();
        if matches!(injury.fault, Fault::Kill(_) | Fault::Move(_)) { Vec::new() } else { missing }
    }

    fn dying(&mut self, meanwhile: Meanwhile, victims: Victims, target: Option<usize>) -> Vec<i32> {
        match (meanwhile, target) {
            (Meanwhile::Source, _) => self.processes(Part::Node, victims),
            (Meanwhile::Target, Some(node)) => self.processes(Part::Node, Victims { node, ..victims }),
            (Meanwhile::Leader, _) => self.processes(Part::Leader, victims),
            (Meanwhile::Nothing | Meanwhile::Target, _) => Vec::new(),
        }
    }

    fn processes(&mut self, part: Part, victims: Victims) -> Vec<i32> {
        let Victims { node, leader, .. } = victims;
        match part {
            Part::Agent => self.nodes[node].pid().into_iter().collect(),
            Part::Supervisors => self.supervisors(node),
            // The agent first, so that it does nothing about its supervisors.
            Part::Node => self.nodes[node].pid().into_iter().chain(self.supervisors(node)).collect(),
            Part::Leader => self.schedulers[leader].pid().into_iter().collect(),
            Part::Schedulers => self.schedulers.iter_mut().filter_map(Daemon::pid).collect(),
            Part::MessageNode => self.message_node.pid().into_iter().collect(),
            Part::Postgres => self.postgres.processes(),
            Part::Gateway => self.gateway.pid().into_iter().collect(),
            Part::Everything => {
                let nodes = (0..self.nodes.len()).map(|node| Victims { node, ..victims });
                let nodes: Vec<_> = nodes.flat_map(|victims| self.processes(Part::Node, victims)).collect();
                let others = [Part::Schedulers, Part::MessageNode, Part::Postgres, Part::Gateway];
                let others = others.into_iter().flat_map(|part| self.processes(part, victims));
                nodes.into_iter().chain(others.collect::<Vec<_>>()).collect()
            }
        }
    }
}

fn filler(disk: &Path) -> PathBuf {
    disk.join("filler")
}

/// Writes until the disk refuses, in ever smaller pieces.
fn fill(disk: &Path) {
    let mut file = File::create(filler(disk)).expect("a file can be made");
    for piece in [1 << 20, 4 << 10] {
        while file.write_all(&vec![0; piece]).is_ok() {}
    }
}
