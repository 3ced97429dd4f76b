//! Which node shall run a program: a pure function of the program and of what the nodes offer.
//!
//! A node is filtered out by the first [`Obstacle`] that applies. Of the rest those are preferred that do not fall silent again
//! and again, and of these the best fit wins: the node on which the least
//! is left of its dominant resource, the one of which the largest share would be used. Equal candidates are spread: the one
//! with the fewest programs, and then the one that a hash of program and node picks, so that different programs prefer
//! different nodes and the same question always has the same answer.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write;

use protocol::control::Capacity;
use protocol::{Address, NodeId, ProgramId};
use sha2::{Digest, Sha256};

use super::desired::{Needs, ProgramSpec};

/// What a node offers to programs.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The node.
    pub node: NodeId,
    /// The account that registered it.
    pub owner: Address,
    /// The URL that it is registered with.
    pub address: String,
    /// Whether it is in the network's newest list of nodes.
    pub is_listed: bool,
    /// Whether it is connected and sends heartbeats.
    pub is_healthy: bool,
    /// Whether it fell silent again and again of late: others are preferred.
    pub is_unsteady: bool,
    /// Why it takes no new programs.
    pub draining: Option<String>,
    /// What it has in all; `None` before its first heartbeat.
    pub capacity: Option<Capacity>,
    /// What is assigned to it, assignments that are being written and programs that are on their way to it included.
    pub used: Needs,
    /// How many programs that are.
    pub programs: u32,
    /// How many of them nobody knows the needs of yet.
    pub unread: u32,
}

/// Why a node does not fit, in the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// No longer in the network's list of nodes.
    Unlisted,
    /// Not connected, or silent.
    Silent,
    /// It takes no new programs.
    Draining,
    /// It has a program of which nobody knows yet how much it takes.
    Unread,
    /// The program asks for another node, owner or address.
    OtherNode,
    /// The program asks for another processor.
    OtherCpu,
    /// The program asks for something else between it and the machine.
    OtherIsolation,
    /// Too little memory left.
    Memory,
    /// Too few virtual processors left.
    Vcpus,
    /// Too little disk left.
    Disk,
    /// Too little left for volumes.
    Pool,
    /// It refused or failed this program a short while ago.
    Avoided,
}

/// What is left of a node.
pub fn left(capacity: &Capacity, used: Needs) -> Needs {
    Needs {
        vcpus: u64::from(capacity.vcpus).saturating_sub(used.vcpus),
        memory_mib: capacity.memory_mib.saturating_sub(used.memory_mib),
        disk_mib: capacity.disk_mib.saturating_sub(used.disk_mib),
        pool_mib: capacity.pool_mib.saturating_sub(used.pool_mib),
    }
}

/// The first reason why this program cannot run there; `None` when it can.
pub fn obstacle(spec: &ProgramSpec, offer: &Offer, avoided: bool) -> Option<Obstacle> {
    if !offer.is_listed {
        return Some(Obstacle::Unlisted);
    }
    let Some(capacity) = offer.capacity.as_ref().filter(|_| offer.is_healthy) else { return Some(Obstacle::Silent) };
    let (demands, left) = (&spec.demands, left(capacity, offer.used));
    let other_node = demands.owner.as_ref().is_some_and(|wanted| *wanted != offer.owner)
        || demands.node.is_some_and(|wanted| wanted != offer.node)
        || demands.address.as_ref().is_some_and(|pattern| !pattern.is_match(&offer.address));
    let checks = [
        (offer.draining.is_some(), Obstacle::Draining),
        (offer.unread > 0, Obstacle::Unread),
        (other_node, Obstacle::OtherNode),
        (!cpu_fits(spec, capacity), Obstacle::OtherCpu),
        (demands.isolation.is_some_and(|wanted| !capacity.isolation.contains(&wanted)), Obstacle::OtherIsolation),
        (left.memory_mib < spec.needs.memory_mib, Obstacle::Memory),
        (left.vcpus < spec.needs.vcpus, Obstacle::Vcpus),
        (left.disk_mib < spec.needs.disk_mib, Obstacle::Disk),
        (left.pool_mib < spec.needs.pool_mib, Obstacle::Pool),
        (avoided, Obstacle::Avoided),
    ];
    checks.into_iter().find_map(|(applies, obstacle)| applies.then_some(obstacle))
}

fn cpu_fits(spec: &ProgramSpec, capacity: &Capacity) -> bool {
    let wanted = &spec.demands.cpu;
    wanted.architecture.as_ref().is_none_or(|a| *a == capacity.architecture)
        && wanted.vendor.as_ref().is_none_or(|v| *v == capacity.cpu_vendor)
        && wanted.features.iter().flatten().all(|feature| capacity.cpu_features.contains(feature))
}

/// The best of the nodes that fit; `None` when none does, or when none ever can.
pub fn choose<'a>(
    spec: &ProgramSpec,
    offers: impl Iterator<Item = &'a Offer>,
    avoided: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    if spec.impossible.is_some() {
        return None;
    }
    offers
        .filter(|offer| obstacle(spec, offer, avoided(offer.node)).is_none())
        .min_by(|a, b| compare(spec, a, b))
        .map(|offer| offer.node)
}

fn compare(spec: &ProgramSpec, a: &Offer, b: &Offer) -> Ordering {
    (a.is_unsteady.cmp(&b.is_unsteady))
        .then_with(|| share_left(spec, a).cmp(&share_left(spec, b)))
        .then(a.programs.cmp(&b.programs))
        .then_with(|| lot(spec.id, a.node).cmp(&lot(spec.id, b.node)))
}

/// The share that would be left of the dominant resource, in parts per million: integers, so that equal nodes are equal.
fn share_left(spec: &ProgramSpec, offer: &Offer) -> u64 {
    let Some(capacity) = &offer.capacity else { return 0 };
    let left = left(capacity, offer.used);
    let share = |left: u64, need: u64, total: u64| {
        let share = u128::from(left.saturating_sub(need)) * 1_000_000 / u128::from(total.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    };
    share(left.vcpus, spec.needs.vcpus, capacity.vcpus.into())
        .min(share(left.memory_mib, spec.needs.memory_mib, capacity.memory_mib))
        .min(share(left.disk_mib, spec.needs.disk_mib, capacity.disk_mib))
        .min(if spec.needs.pool_mib == 0 {
            u64::MAX
        } else {
            share(left.pool_mib, spec.needs.pool_mib, capacity.pool_mib)
        })
}

fn lot(program: ProgramId, node: NodeId) -> [u8; 32] {
    Sha256::new().chain_update(program.as_bytes()).chain_update(node.as_bytes()).finalize().into()
}

/// Why this node cannot run the program, for people; `None` when it can.
pub fn cannot_take(spec: &ProgramSpec, offer: &Offer, avoided: bool) -> Option<String> {
    let node = offer.node;
    if let Some(impossible) = &spec.impossible {
        return Some(format!("node {node} cannot take it: {impossible}"));
    }
    let most = offer.capacity.as_ref().map(|capacity| left(capacity, offer.used)).unwrap_or_default();
    let words = |obstacle| words(obstacle, spec.needs, most);
    obstacle(spec, offer, avoided).map(|obstacle| format!("node {node} cannot take it: {}", words(obstacle)))
}

/// Why no node fits, for people: how many nodes fail for which reason, and what is missing.
pub fn explain<'a>(
    spec: &ProgramSpec,
    offers: impl Iterator<Item = &'a Offer>,
    avoided: impl Fn(NodeId) -> bool,
) -> String {
    if let Some(impossible) = &spec.impossible {
        return format!("no node fits: {impossible}");
    }
    let (mut nodes, mut most, mut counts) = (0, Needs::default(), BTreeMap::new());
    for offer in offers {
        nodes += 1;
        let Some(obstacle) = obstacle(spec, offer, avoided(offer.node)) else {
            return "it is being placed".to_owned();
        };
        *counts.entry(obstacle).or_insert(0_u32) += 1;
        if let Some(capacity) = &offer.capacity {
            let left = left(capacity, offer.used);
            match obstacle {
                Obstacle::Memory => most.memory_mib = most.memory_mib.max(left.memory_mib),
                Obstacle::Vcpus => most.vcpus = most.vcpus.max(left.vcpus),
                Obstacle::Disk => most.disk_mib = most.disk_mib.max(left.disk_mib),
                Obstacle::Pool => most.pool_mib = most.pool_mib.max(left.pool_mib),
                _ => {}
            }
        }
    }
    if nodes == 0 {
        return "no node fits: no compute node is registered".to_owned();
    }
    let mut text = format!("no node fits: {nodes} {}", if nodes == 1 { "node" } else { "nodes" });
    for (obstacle, count) in counts {
        let _ = write!(text, ", {count} {}", words(obstacle, spec.needs, most));
    }
    text
}

fn words(obstacle: Obstacle, needs: Needs, most: Needs) -> String {
    match obstacle {
        Obstacle::Unlisted => "no longer in the list of nodes".to_owned(),
        Obstacle::Silent => "not heard of".to_owned(),
        Obstacle::Draining => "draining".to_owned(),
        Obstacle::Unread => "with a program that the message node has to be asked about first".to_owned(),
        Obstacle::OtherNode => "not the node, owner or address that it asks for".to_owned(),
        Obstacle::OtherCpu => "without the processor that it asks for".to_owned(),
        Obstacle::OtherIsolation => "without the isolation that it asks for".to_owned(),
        Obstacle::Avoided => "that refused or failed it a short while ago".to_owned(),
        Obstacle::Memory => {
            format!("with too little memory (needs {} MiB, most free {} MiB)", needs.memory_mib, most.memory_mib)
        }
        Obstacle::Vcpus => format!("with too few processors (needs {}, most free {})", needs.vcpus, most.vcpus),
        Obstacle::Disk => {
            format!("with too little disk (needs {} MiB, most free {} MiB)", needs.disk_mib, most.disk_mib)
        }
        Obstacle::Pool => {
            format!("with too little room for volumes (needs {} MiB, most free {} MiB)", needs.pool_mib, most.pool_mib)
        }
    }
}
