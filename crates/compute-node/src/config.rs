//! What a compute node is told when it starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use lease::LeaseConfig;
use protocol::{Address, Aliases, Isolation, NodeId};
use volumes::PoolConfig;

/// The settings of a compute node. See `aleph-node compute-node --help` for what each means to an operator.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its public base URL, where gateways reach it.
    pub url: String,
    /// What people call it.
    pub name: String,
    /// Keys, caches, logs.
    pub data_dir: PathBuf,
    /// Sandboxes; on a tmpfs, short because sockets are in it.
    pub run_dir: PathBuf,
    /// Base URL of the message node.
    pub message_node: String,
    /// Base URLs of the schedulers.
    pub schedulers: Vec<String>,
    /// Base URLs of gateways that pass owners' requests on to this node.
    pub gateway_urls: Vec<String>,
    /// The only scheduler account that it obeys; any when absent.
    pub scheduler_addresses: Vec<Address>,
    /// Other names of files that programs refer to.
    pub aliases: Aliases,
    /// Its id, when it is registered already; it registers itself otherwise.
    pub node_id: Option<NodeId>,
    /// How its sandboxes are made.
    pub sandboxes: SandboxConfig,
    /// What it offers.
    pub offer: Offer,
    /// Constants of leases that are not the scheduler's: grace, kill allowance.
    pub lease: LeaseConfig,
    /// A copy on demand that nobody used for this long is frozen, unless it is stopped by then.
    pub freeze_after: Duration,
    /// A copy on demand that nobody used for this long is stopped.
    pub idle_after: Duration,
    /// A program on demand gets another copy when more requests than this are inside each.
    pub requests_per_copy: usize,
    /// How many copies on demand of one program there are at most.
    pub copies: u16,
    /// How long a program has to become ready.
    pub ready_within: Duration,
    /// How long a request waits for a program that starts or moves.
    pub hold_requests: Duration,
    /// What clients may do.
    pub clients: ClientLimits,
    /// Where volumes are kept that programs write to, if anywhere.
    pub data: Option<DataConfig>,
    /// Bytes of downloaded and unpacked files that are kept at most.
    pub cache_bytes: u64,
    /// Bytes of output that are kept of each program at most.
    pub log_bytes: u64,
    /// Whether programs go on running when the agent is asked to end, to be found by the next one.
    pub leave_running: bool,
}

/// What clients of a gateway may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Bytes of a request's head; longer ones are answered with 431.
    pub header_bytes: usize,
    /// How long a client may take to send a request's head, the time before its first byte included.
    pub header_timeout: Duration,
    /// How long a client may send nothing of a body that it has announced, or take nothing of its answer.
    pub idle_timeout: Duration,
}

/// How the data of programs is kept.
#[derive(Debug, Clone)]
pub struct DataConfig {
    /// Where.
    pub pool: PoolConfig,
    /// How often what has changed is sent to the standby.
    pub snapshot_interval: Duration,
    /// How often what has changed in volumes with the persistence `store` is sent to the message node's archive.
    pub archive_interval: Duration,
    /// Bytes a second that this node sends at most, for all its programs.
    pub bandwidth: Option<u64>,
    /// How long volumes of programs that are over, and volumes that were overtaken, are kept.
    pub retention: Duration,
    /// How often the message node is asked which of the programs that have volumes here are over.
    pub over_interval: Duration,
}

/// How sandboxes are made.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// What can stand between programs and the machine; the first of them counts for programs that do not say. Never empty.
    pub isolation: Vec<Isolation>,
    /// The OCI runtime: `crun` or `runc`, by name or path.
    pub oci_runtime: PathBuf,
    /// gVisor, by name or path.
    pub runsc: PathBuf,
    /// The binary `aleph-supervisor`.
    pub supervisor: PathBuf,
    /// The directory with `aleph-init` and the ASGI server.
    pub guest: PathBuf,
    /// The first user id of the machine that sandboxes may have.
    pub first_uid: u32,
    /// How many sandboxes there can be at once, each with 65536 ids.
    pub slots: u32,
    /// MiB of memory for sandboxes that wait for a program; 0 for none.
    pub spare_mib: u64,
    /// Addresses for sandboxes with a network, four each.
    pub network: Ipv4Net,
}

impl SandboxConfig {
    /// What a program gets that asks for this, or for nothing.
    pub(crate) fn isolation_for(&self, asked: Option<Isolation>) -> Isolation {
        asked.or(self.isolation.first().copied()).unwrap_or_default()
    }

    /// What makes sandboxes with this isolation.
    pub(crate) fn runtime_of(&self, isolation: Isolation) -> &Path {
        match isolation {
            Isolation::Container => &self.oci_runtime,
            Isolation::Gvisor => &self.runsc,
        }
    }
}

/// What a node offers, in all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offer {
    /// Virtual processors.
    pub vcpus: u32,
    /// MiB of memory.
    pub memory_mib: u64,
    /// MiB of disk.
    pub disk_mib: u64,
    /// The part of processors and memory that is kept for programs on demand, 0 to 1. The rest is for persistent ones, so
    /// that neither ever takes what was promised to the other.
    pub on_demand_share: f64,
}
