//! The scheduler's read API: `/api/v0` and `/api/v1` in the shapes that the Aleph clients read, plus epoch, URL and the
//! reason why something is not placed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::control::Failure;
use crate::{Address, Epoch, NodeId, ProgramId};

pub use super::moves::{DataRecord, LossRecord, MoveOutcome, MovePhase, MoveRecord, MoveResult};

/// `GET /api/v1/vms/{hash}` and the items of `GET /api/v1/vms`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmRecord {
    /// The program.
    pub vm_hash: ProgramId,
    /// Always `persistent_program`.
    pub vm_type: String,
    /// The owner.
    pub owner: Address,
    /// The name that its owner gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// In the words of the Aleph scheduler.
    pub status: VmStatus,
    /// `scheduled` or `unscheduled`.
    pub scheduling_status: String,
    /// The node that it is assigned to.
    pub allocated_node: Option<NodeId>,
    /// Since when, ISO 8601.
    pub allocated_at: Option<String>,
    /// The nodes that report it.
    pub observed_nodes: Vec<NodeId>,
    /// When a node last reported it, ISO 8601.
    pub last_observed_at: Option<String>,
    /// Virtual processors that it asks for.
    pub requirements_vcpus: u32,
    /// MiB of memory that it asks for.
    pub requirements_memory_mb: u64,
    /// MiB of disk that it asks for.
    pub requirements_disk_mb: u64,
    /// `hold`.
    pub payment_type: String,
    /// `validated`: the message node accepted it.
    pub payment_status: String,
    /// Where it is being moved to.
    pub migration_target: Option<NodeId>,
    /// Since when it is being moved, ISO 8601.
    pub migration_started_at: Option<String>,

    /// The epoch of its assignment; of the last one when it has none now.
    pub epoch: Option<Epoch>,
    /// The base URL of its node.
    pub node_url: Option<String>,
    /// Its stable URL at the network's gateway.
    pub url: Option<String>,
    /// What it does.
    pub state: ProgramState,
    /// Since when it does that, ISO 8601.
    pub state_since: String,
    /// Why it is not ready, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// How often it was started again in this epoch.
    #[serde(default)]
    pub restarts: u32,
    /// Its data, if it has persistent volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataRecord>,
    /// Its move to another node, when one is under way or waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<MoveRecord>,
    /// How its last move ended, as far as this scheduler was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_move: Option<MoveResult>,
}

/// What a persistent program does, as the scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgramState {
    /// No node fits; `reason` says why.
    Unplaced,
    /// Assigned; its node has not reported it yet.
    Assigned,
    /// Its node fetches code and runtime.
    Preparing,
    /// Its sandbox starts.
    Starting,
    /// It answers.
    Ready,
    /// It ended or never came up; its node tries again.
    Failing,
    /// It is being stopped.
    Stopping,
    /// Its node is silent and its lease has not ended yet: nobody can know whether it runs.
    Unknown,
}

impl VmStatus {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dispatched => "dispatched",
            Self::Scheduled => "scheduled",
            Self::Unscheduled => "unscheduled",
            Self::Unschedulable => "unschedulable",
            Self::Orphaned => "orphaned",
            Self::Missing => "missing",
            Self::Migrating => "migrating",
            Self::Unknown => "unknown",
        }
    }
}

impl ProgramState {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unplaced => "unplaced",
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Failing => "failing",
            Self::Stopping => "stopping",
            Self::Unknown => "unknown",
        }
    }
}

/// A program's status in the words of the Aleph scheduler (v1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmStatus {
    /// Observed on the right node.
    Dispatched,
    /// Assigned, not yet observed.
    Scheduled,
    /// Should run, and is not assigned yet.
    Unscheduled,
    /// No node fits.
    Unschedulable,
    /// Being stopped.
    Orphaned,
    /// Its node is silent.
    Missing,
    /// Being moved.
    Migrating,
    /// Not known.
    Unknown,
}

/// `GET /api/v1/nodes/{hash}` and the items of `GET /api/v1/nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node.
    pub node_hash: NodeId,
    /// What people call it.
    pub name: String,
    /// Who registered it.
    pub owner: Address,
    /// Its public base URL.
    pub address: String,
    /// Whether it is heard of.
    pub status: NodeStatus,
    /// Not used on this network; always true.
    pub staked: bool,
    /// Virtual processors for persistent programs.
    pub vcpus_total: u32,
    /// Those that are not assigned.
    pub vcpus_available: u32,
    /// MiB of memory for persistent programs.
    pub memory_mb_total: u64,
    /// Those that are not assigned.
    pub memory_mb_available: u64,
    /// MiB of disk for persistent programs.
    pub disk_mb_total: u64,
    /// Those that are not assigned.
    pub disk_mb_available: u64,
    /// Always false.
    pub supports_ipv6: bool,
    /// Persistent programs that are assigned to it.
    pub vm_count: u32,
    /// Last change, ISO 8601.
    pub updated_at: String,
    /// The name and version of its software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software: Option<String>,
    /// Why it takes no new programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<String>,
}

/// Whether a node is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeStatus {
    /// It sends heartbeats.
    Healthy,
    /// Its leases ended without renewal.
    Unreachable,
    /// Not heard of since this scheduler started, or silent for a while; leases may still live.
    Unknown,
    /// No longer registered.
    #[serde(rename = "removed")]
    Removed,
}

/// A page of a list of the v1 API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items of this page.
    pub items: Vec<T>,
    /// Where it is in the list.
    pub pagination: Pagination,
}

/// Where a page is in its list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pagination {
    /// From 1.
    pub page: u64,
    /// At most 200.
    pub page_size: u64,
    /// In the whole list.
    pub total_items: u64,
    /// In the whole list.
    pub total_pages: u64,
}

/// `GET /api/v0/allocation/{hash}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// The program.
    pub vm_hash: ProgramId,
    /// `persistent_program`.
    pub vm_type: String,
    /// Always null.
    pub vm_ipv6: Option<String>,
    /// Since when.
    pub period: Period,
    /// Its node.
    pub node: AllocationNode,
    /// The epoch of the assignment.
    pub epoch: Epoch,
    /// Its stable URL at the network's gateway.
    pub url: Option<String>,
}

/// A time and how long it lasts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Period {
    /// ISO 8601.
    pub start_timestamp: String,
    /// Seconds so far.
    pub duration_seconds: f64,
}

/// A node in the v0 API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllocationNode {
    /// The node.
    pub node_id: NodeId,
    /// Its public base URL.
    pub url: String,
    /// Always null.
    pub ipv6: Option<String>,
    /// Always false.
    pub supports_ipv6: bool,
}

/// `GET /api/v0/nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeList {
    /// The nodes.
    pub nodes: Vec<AllocationNode>,
}

/// `GET /api/v0/plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Of this plan.
    pub period: Period,
    /// By node.
    pub plan: BTreeMap<NodeId, NodePlan>,
}

/// What one node shall run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// Persistent programs.
    pub persistent_vms: Vec<ProgramId>,
    /// Always empty.
    pub instances: Vec<String>,
    /// Always empty.
    pub on_demand_vms: Vec<String>,
    /// Always empty.
    pub jobs: Vec<String>,
}

/// What the event stream (`/api/v1/ws`) sends. `VmScheduled`, `VmUnscheduled` and `VmUnschedulable` have the Aleph
/// scheduler's names; all carry the epoch, which only grows for a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum SchedulerEvent {
    /// Assigned to a node.
    VmScheduled {
        /// The program.
        vm_hash: ProgramId,
        /// The node.
        node_hash: NodeId,
        /// The assignment's epoch.
        epoch: Epoch,
        /// The node's base URL.
        node_url: String,
    },
    /// Its state changed on its node.
    VmState {
        /// The program.
        vm_hash: ProgramId,
        /// The assignment's epoch.
        epoch: Epoch,
        /// What it does now.
        state: ProgramState,
    },
    /// Its move to another node goes on, or is over.
    VmMoving {
        /// The program.
        vm_hash: ProgramId,
        /// The epoch of its newest assignment.
        epoch: Option<Epoch>,
        /// How far it is; null when it is over.
        phase: Option<MovePhase>,
        /// The node that it moves to, when that is decided.
        node_hash: Option<NodeId>,
    },
    /// No longer assigned.
    VmUnscheduled {
        /// The program.
        vm_hash: ProgramId,
        /// The node that had it.
        node_hash: NodeId,
        /// The epoch that ended.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// No node fits.
    VmUnschedulable {
        /// The program.
        vm_hash: ProgramId,
        /// Why.
        reason: String,
    },
}

/// `GET /health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`, `starting` until the message node's list was read once, or `follower` while another scheduler leads.
    pub status: String,
    /// The scheduler's account, which signs on its behalf.
    pub address: Address,
    /// Whether the message node answers.
    pub message_node: String,
    /// Nodes that send heartbeats.
    pub nodes_healthy: u32,
    /// Persistent programs that should run.
    pub programs: u32,
    /// Whether the scheduler's database takes writes: `ok`, or what it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The scheduler that leads, when it is another one and known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Why programs whose nodes were lost get no other node for now, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brake: Option<String>,
}

/// `GET /api/v1/stats`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Compute nodes.
    pub total_nodes: u32,
    /// Those that send heartbeats.
    pub healthy_nodes: u32,
    /// Persistent programs.
    pub total_vms: u32,
    /// How many have which [`VmStatus`].
    pub vms_by_status: BTreeMap<String, u32>,
    /// Virtual processors of all healthy nodes.
    pub vcpus_total: u64,
    /// Those that are not assigned.
    pub vcpus_available: u64,
    /// MiB of memory of all healthy nodes.
    pub memory_mb_total: u64,
    /// Those that are not assigned.
    pub memory_mb_available: u64,
    /// MiB of disk of all healthy nodes.
    pub disk_mb_total: u64,
    /// Those that are not assigned.
    pub disk_mb_available: u64,
}

/// The items of `GET /api/v1/vms/{hash}/history` and `GET /api/v1/nodes/{hash}/history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentRecord {
    /// The program.
    pub vm_hash: ProgramId,
    /// Its node.
    pub node_hash: NodeId,
    /// The epoch.
    pub epoch: Epoch,
    /// From when, ISO 8601.
    pub assigned_at: String,
    /// Until when, ISO 8601; null while it is assigned.
    pub ended_at: Option<String>,
    /// Why it ended: `node_silent`, `forgotten`, `rejected`, `removed`, `refused`, `stale_epoch`, `given_up`, `node_fault`,
    /// `node_withdrawn`, `draining`, `node_given_up`, `moved` or `restored`.
    pub cause: Option<String>,
    /// How it was known that nothing of it ran any more: `released`, `refused`, `lease_over` or `never_granted`.
    pub proof: Option<String>,
}
