//! Programs and nodes as the API writes them.

use std::time::Duration;

use protocol::api::scheduler::{
    AllocationNode, DataRecord, LossRecord, MoveRecord, MoveResult, NodeRecord, NodeStatus, VmRecord, VmStatus,
};
use protocol::control::Capacity;
use protocol::network::program_url;
use protocol::{NodeId, ProgramId};

use super::iso;
use crate::core::Loss;
use crate::core::desired::Needs;
use crate::core::moves::MoveEnd;
use crate::core::placement::left;
use crate::core::view::{DataView, MovingView, NodeView, Place, ProgramView};
use crate::snapshot::Snapshot;

/// The only type of virtual machine that this scheduler knows.
pub(super) const VM_TYPE: &str = "persistent_program";

/// A program's stable URL.
pub(super) fn url(gateway: Option<&str>, program: &ProgramId) -> Option<String> {
    gateway.map(|gateway| program_url(gateway, program))
}

/// A program in v1.
pub(super) fn vm(snapshot: &Snapshot, gateway: Option<&str>, program: &ProgramView) -> VmRecord {
    let spec = &program.spec;
    let place = program.place.as_ref();
    let is_scheduled = place.is_some() && program.status != VmStatus::Orphaned;
    VmRecord {
        vm_hash: spec.id,
        vm_type: VM_TYPE.to_owned(),
        owner: spec.owner.clone(),
        name: spec.name.clone(),
        status: program.status,
        scheduling_status: if is_scheduled { "scheduled" } else { "unscheduled" }.to_owned(),
        allocated_node: place.map(|place| place.node),
        allocated_at: place.map(|place| iso(place.at)),
        observed_nodes: observed(snapshot, program),
        last_observed_at: place.and_then(|place| place.observed_at).map(iso),
        requirements_vcpus: u32::try_from(spec.needs.vcpus).unwrap_or(u32::MAX),
        requirements_memory_mb: spec.needs.memory_mib,
        requirements_disk_mb: spec.needs.disk_mib,
        payment_type: "hold".to_owned(),
        payment_status: "validated".to_owned(),
        migration_target: program.target.map(|(node, _)| node),
        migration_started_at: program.target.map(|(_, since)| iso(since)),
        epoch: program.epoch,
        node_url: place.and_then(|place| snapshot.nodes.get(&place.node)).map(|node| node.url.clone()),
        url: url(gateway, &spec.id),
        state: program.state,
        state_since: iso(program.since),
        reason: snapshot.reason(program),
        failure: place.and_then(|place| place.failure.clone()),
        restarts: place.map_or(0, |place| place.restarts),
        data: program.data.as_ref().map(data),
        moving: program.moving.as_ref().map(moving),
        last_move: program.last_move.as_ref().map(last_move),
    }
}

fn data(data: &DataView) -> DataRecord {
    let loss = |loss: &Loss| LossRecord {
        epoch: loss.epoch,
        snapshot: loss.snapshot,
        from_archive: loss.from_archive,
        at_most_ms: loss.at_most.map(millis),
    };
    DataRecord {
        standby: data.standby.map(|(node, _)| node),
        standby_is_complete: data.standby.is_some_and(|(_, is_complete)| is_complete),
        at_risk_ms: data.at_risk.map(millis),
        loss: data.loss.as_ref().map(loss),
        restored: data.restored.map(|set| set.snapshot),
        restored_from: data.restored.and_then(|set| set.from),
        waits_for: data.waits_for.clone(),
    }
}

fn moving(moving: &MovingView) -> MoveRecord {
    MoveRecord {
        phase: moving.phase,
        to: moving.to,
        since: iso(moving.since),
        cause: moving.cause.as_str().to_owned(),
        by: moving.by.clone(),
        behind_ms: moving.behind.map(millis),
    }
}

fn last_move(end: &MoveEnd) -> MoveResult {
    MoveResult {
        outcome: end.outcome,
        from: end.from,
        to: end.to,
        at: iso(end.at),
        reason: end.reason.clone(),
        not_ready_ms: end.not_ready.map(millis),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The nodes that report a program: its own, and those that hold it although it is not theirs.
fn observed(snapshot: &Snapshot, program: &ProgramView) -> Vec<NodeId> {
    let own = program.place.iter().filter(|place| place.observed_at.is_some()).map(|place| place.node);
    let strays = snapshot.nodes.values().filter(|node| node.strays.contains(&program.spec.id));
    own.chain(strays.map(|node| node.offer.node)).collect()
}

/// A node in v1.
pub(super) fn node(node: &NodeView) -> NodeRecord {
    let offer = &node.offer;
    let (total, left) = match &offer.capacity {
        Some(capacity) => (left(capacity, Needs::default()), left(capacity, offer.used)),
        None => (Needs::default(), Needs::default()),
    };
    let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    NodeRecord {
        node_hash: offer.node,
        name: node.name.clone(),
        owner: offer.owner.clone(),
        address: node.url.clone(),
        status: node.status,
        staked: true,
        vcpus_total: short(total.vcpus),
        vcpus_available: short(left.vcpus),
        memory_mb_total: total.memory_mib,
        memory_mb_available: left.memory_mib,
        disk_mb_total: total.disk_mib,
        disk_mb_available: left.disk_mib,
        supports_ipv6: false,
        vm_count: offer.programs,
        updated_at: iso(node.updated_at),
        software: node.software.clone(),
        draining: offer.draining.clone(),
    }
}

/// What a node has and what is left of it, when it sends heartbeats.
pub(super) fn capacity(node: &NodeView) -> Option<(Needs, Needs)> {
    let capacity: &Capacity = node.offer.capacity.as_ref().filter(|_| node.status == NodeStatus::Healthy)?;
    Some((left(capacity, Needs::default()), left(capacity, node.offer.used)))
}

/// A node in v0.
pub(super) fn allocation_node(id: NodeId, node: Option<&NodeView>) -> AllocationNode {
    let url = node.map(|node| node.url.clone()).unwrap_or_default();
    AllocationNode { node_id: id, url, ipv6: None, supports_ipv6: false }
}

/// The assignment that counts: programs that are being stopped have none any more.
pub(super) fn allocation(program: &ProgramView) -> Option<&Place> {
    program.place.as_ref().filter(|_| program.status != VmStatus::Orphaned)
}
