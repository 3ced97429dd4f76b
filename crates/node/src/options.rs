//! The command line. Every option can be given as an environment variable, too, `ALEPH_NODE_…`.

mod clients;
mod message_node;
mod payment;
mod senders;
mod token;
mod volumes;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use lease::LeaseConfig;
use protocol::{Address, Alias, Isolation, NodeId};
use url::Url;

pub(crate) use self::message_node::{CopyOptions, MessageNodeCommand, MessageNodeOptions};
use clients::ClientOptions;
use payment::HoldOptions;
use token::TokenOptions;
pub(crate) use volumes::{ExportOptions, VolumesCommand, VolumesOptions};

/// Runs programs on a network of independent compute nodes.
#[derive(Debug, Parser)]
#[command(name = "aleph-node", version, propagate_version = true)]
pub(crate) struct Options {
    /// Print one line of JSON on standard output: when ready, or what a command found
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// How log lines look
    #[arg(long, global = true, value_enum, default_value = "text", env = "ALEPH_NODE_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,

    #[command(subcommand)]
    pub(crate) role: Role,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What this process is.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Run a whole network on this machine
    Up(UpOptions),
    /// Accept, check, store and stream messages and files
    MessageNode(Box<MessageNodeOptions>),
    /// Decide which compute node runs each persistent program
    Scheduler(SchedulerOptions),
    /// Run programs
    ComputeNode(Box<ComputeNodeOptions>),
    /// Take requests for programs and pass them on to compute nodes
    Gateway(GatewayOptions),
    /// See and keep what the compute node of this machine has of programs' volumes
    Volumes(VolumesOptions),
}

/// `aleph-node up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpOptions {
    /// How many compute nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,

    /// Where everything is kept; the same directory is the same network
    #[arg(long, env = "ALEPH_NODE_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// The message node's port; the scheduler, the gateway and the compute nodes take the ports after it
    #[arg(long, default_value_t = 4024)]
    pub(crate) port: u16,

    /// Tokens that the first account gets when the network is made
    #[arg(long, default_value_t = 10_000, conflicts_with = "token_rpc")]
    pub(crate) balance: u64,

    #[command(flatten)]
    pub(crate) token: TokenOptions,

    #[command(flatten)]
    pub(crate) hold: HoldOptions,

    /// MiB that each compute node has for volumes that programs write to, at most; 0 for none
    #[arg(long, default_value_t = 4096, value_parser = pool_mib)]
    pub(crate) pool_mib: u64,

    /// How often what programs have written is sent to the nodes that keep copies
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub(crate) snapshot_interval: Duration,

    /// How often what programs have written to volumes with the persistence `store` is sent to the archive
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub(crate) archive_interval: Duration,

    /// How often the message node is asked which of the programs that have volumes on compute nodes are over
    #[arg(long, default_value = "60s", value_parser = interval)]
    pub(crate) over_interval: Duration,

    /// Start a program whose data is lost with what the archive has, when no copy was heard of for this long
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(crate) restore_after: Duration,

    /// Freeze a copy on demand that nobody used for this long: it keeps its memory and answers at once, and does nothing else
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub(crate) freeze_after: Duration,

    /// Stop a copy on demand that nobody used for this long
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub(crate) idle_after: Duration,

    /// Start another copy of a program on demand when more requests than this are inside each copy
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) requests_per_copy: u32,

    /// How many copies on demand of one program a compute node runs at most
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) copies: u16,

    /// How long a program has to become ready
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(crate) ready_within: Duration,

    /// MiB of memory of each compute node for sandboxes that wait for a program, beside what it offers; 0 for none
    #[arg(long, default_value_t = 256)]
    pub(crate) spare_mib: u64,

    #[command(flatten)]
    pub(crate) lease: LeaseOptions,

    /// The OCI runtime that compute nodes make sandboxes with
    #[arg(long, default_value = "crun")]
    pub(crate) oci_runtime: PathBuf,

    /// What can stand between programs and the machines of compute nodes: container, gvisor; the first counts for programs that do not say
    #[arg(long, default_value = "container", value_delimiter = ',')]
    pub(crate) isolation: Vec<Isolation>,

    /// gVisor, which makes sandboxes of the isolation gvisor, by name or path
    #[arg(long, default_value = "runsc")]
    pub(crate) runsc: PathBuf,
}

/// `aleph-node scheduler`.
#[derive(Debug, Args)]
pub(crate) struct SchedulerOptions {
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:4025", env = "ALEPH_NODE_LISTEN")]
    pub(crate) listen: SocketAddr,

    /// Where its key and its database are kept
    #[arg(long, default_value = "/var/lib/aleph-node/scheduler", env = "ALEPH_NODE_DATA_DIR")]
    pub(crate) data_dir: PathBuf,

    /// A PostgreSQL database that several schedulers share, postgres://user:password@host/database; if not given, a SQLite
    /// file in the data directory, for this scheduler alone
    #[arg(long, env = "ALEPH_NODE_STORE", value_parser = store)]
    pub(crate) store: Option<Url>,

    /// Its own base URL, where the other schedulers of the same database reach it; where it listens if not given
    #[arg(long, env = "ALEPH_NODE_URL")]
    pub(crate) url: Option<String>,

    /// Base URL of the message node that it follows
    #[arg(long, default_value = "http://127.0.0.1:4024", env = "ALEPH_NODE_MESSAGE_NODE")]
    pub(crate) message_node: String,

    /// Accounts that may drain nodes, give them up, and let reallocation go on
    #[arg(long = "operator", value_delimiter = ',', env = "ALEPH_NODE_OPERATORS")]
    pub(crate) operators: Vec<Address>,

    /// Base URL of the gateway, to tell where programs are reached
    #[arg(long, env = "ALEPH_NODE_GATEWAY")]
    pub(crate) gateway: Option<String>,

    /// Start a program whose data is lost with what the archive has, when no copy was heard of for this long
    #[arg(long, default_value = "60s", value_parser = duration, env = "ALEPH_NODE_RESTORE_AFTER")]
    pub(crate) restore_after: Duration,

    #[command(flatten)]
    pub(crate) lease: LeaseOptions,
}

/// The constants of leases.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct LeaseOptions {
    /// How often compute nodes renew their leases
    #[arg(long, default_value = "1s", value_parser = duration, env = "ALEPH_NODE_HEARTBEAT")]
    pub(crate) heartbeat: Duration,

    /// How long a lease lasts: what a silent node runs is dead after it, and runs elsewhere soon after
    #[arg(long, default_value = "5s", value_parser = duration, env = "ALEPH_NODE_LEASE")]
    pub(crate) lease: Duration,
}

impl LeaseOptions {
    pub(crate) fn config(self) -> LeaseConfig {
        LeaseConfig { heartbeat: self.heartbeat, lease: self.lease, ..LeaseConfig::default() }
    }
}

/// `aleph-node compute-node`.
#[derive(Debug, Args)]
pub(crate) struct ComputeNodeOptions {
    /// Where it listens
    #[arg(long, default_value = "0.0.0.0:4020", env = "ALEPH_NODE_LISTEN")]
    pub(crate) listen: SocketAddr,

    /// Its public base URL, where gateways and owners reach it
    #[arg(long, env = "ALEPH_NODE_URL")]
    pub(crate) url: String,

    /// What people call it; the machine's name if not given
    #[arg(long, env = "ALEPH_NODE_NAME")]
    pub(crate) name: Option<String>,

    /// Where its key, caches and logs are kept
    #[arg(long, default_value = "/var/lib/aleph-node/compute-node", env = "ALEPH_NODE_DATA_DIR")]
    pub(crate) data_dir: PathBuf,

    /// Where sandboxes are, on a tmpfs; below /run/aleph-node if not given
    #[arg(long, env = "ALEPH_NODE_RUN_DIR")]
    pub(crate) run_dir: Option<PathBuf>,

    /// Base URL of the message node
    #[arg(long, default_value = "http://127.0.0.1:4024", env = "ALEPH_NODE_MESSAGE_NODE")]
    pub(crate) message_node: String,

    /// Base URLs of the schedulers
    #[arg(
        long = "scheduler",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:4025",
        env = "ALEPH_NODE_SCHEDULERS"
    )]
    pub(crate) schedulers: Vec<String>,

    /// The scheduler accounts that this node obeys; any if not given
    #[arg(long = "scheduler-address", value_delimiter = ',', env = "ALEPH_NODE_SCHEDULER_ADDRESS")]
    pub(crate) scheduler_addresses: Vec<Address>,

    /// Another name of a file, NAME=OF: programs that name the first get what the STORE message OF stores
    #[arg(long = "alias", value_delimiter = ',', env = "ALEPH_NODE_ALIASES")]
    pub(crate) aliases: Vec<Alias>,

    /// Base URLs of gateways that pass owners' requests on to this node
    #[arg(long = "gateway", value_delimiter = ',', env = "ALEPH_NODE_GATEWAYS")]
    pub(crate) gateways: Vec<String>,

    /// Its id, if it is registered already; it registers itself otherwise
    #[arg(long, env = "ALEPH_NODE_ID")]
    pub(crate) node_id: Option<NodeId>,

    /// Virtual processors that it offers in all; four for each processor if not given
    #[arg(long, env = "ALEPH_NODE_VCPUS")]
    pub(crate) vcpus: Option<u32>,

    /// MiB of memory that it offers in all; 80 % of the machine's if not given
    #[arg(long, env = "ALEPH_NODE_MEMORY_MIB")]
    pub(crate) memory_mib: Option<u64>,

    /// MiB of disk that it offers in all; half of what is free if not given
    #[arg(long, env = "ALEPH_NODE_DISK_MIB")]
    pub(crate) disk_mib: Option<u64>,

    /// Keep volumes that programs write to, up to this many MiB in all, in a btrfs file in the data directory
    #[arg(long, conflicts_with = "pool", value_parser = clap::value_parser!(u64).range(256..), env = "ALEPH_NODE_POOL_MIB")]
    pub(crate) pool_mib: Option<u64>,

    /// Keep them in this folder of a btrfs file system instead
    #[arg(long, env = "ALEPH_NODE_POOL")]
    pub(crate) pool: Option<PathBuf>,

    /// How often what programs have written is sent to the nodes that keep copies
    #[arg(long, default_value = "1s", value_parser = duration, env = "ALEPH_NODE_SNAPSHOT_INTERVAL")]
    pub(crate) snapshot_interval: Duration,

    /// How often what programs have written to volumes with the persistence `store` is sent to the message node's archive
    #[arg(long, default_value = "5m", value_parser = duration, env = "ALEPH_NODE_ARCHIVE_INTERVAL")]
    pub(crate) archive_interval: Duration,

    /// MiB a second that are sent to such nodes at most, for all programs; no limit if not given
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 20), env = "ALEPH_NODE_REPLICATION_MIB")]
    pub(crate) replication_mib: Option<u64>,

    /// How long volumes of forgotten programs, and volumes that newer ones have replaced, are kept
    #[arg(long, default_value = "7d", value_parser = retention, env = "ALEPH_NODE_RETENTION")]
    pub(crate) retention: Duration,

    /// How often the message node is asked which of the programs that have volumes here are over
    #[arg(long, default_value = "60s", value_parser = interval, env = "ALEPH_NODE_OVER_INTERVAL")]
    pub(crate) over_interval: Duration,

    /// The part of processors and memory that is kept for programs on demand, 0 to 1
    #[arg(long, default_value_t = 0.25, value_parser = share, env = "ALEPH_NODE_ON_DEMAND_SHARE")]
    pub(crate) on_demand_share: f64,

    /// MiB of downloaded and unpacked files that are kept at most
    #[arg(long, default_value_t = 10_240, env = "ALEPH_NODE_CACHE_MIB")]
    pub(crate) cache_mib: u64,

    /// MiB of output that are kept of each program at most
    #[arg(long, default_value_t = 10, env = "ALEPH_NODE_LOG_MIB")]
    pub(crate) log_mib: u64,

    /// Freeze a copy on demand that nobody used for this long: it keeps its memory and answers at once, and does nothing else.
    /// Its message can say otherwise: metadata.freeze_after, in seconds
    #[arg(long, default_value = "15s", value_parser = duration, env = "ALEPH_NODE_FREEZE_AFTER")]
    pub(crate) freeze_after: Duration,

    /// Stop a copy on demand that nobody used for this long; never frozen, if that is not longer than --freeze-after. Its
    /// message can say otherwise: metadata.idle_after, in seconds
    #[arg(long, default_value = "10m", value_parser = duration, env = "ALEPH_NODE_IDLE_AFTER")]
    pub(crate) idle_after: Duration,

    /// Start another copy of a program on demand when more requests than this are inside each copy
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..), env = "ALEPH_NODE_REQUESTS_PER_COPY")]
    pub(crate) requests_per_copy: u32,

    /// How many copies on demand of one program there are at most. Its message can ask for fewer: metadata.copies
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..), env = "ALEPH_NODE_COPIES")]
    pub(crate) copies: u16,

    /// How long a program has to become ready
    #[arg(long, default_value = "60s", value_parser = duration, env = "ALEPH_NODE_READY_WITHIN")]
    pub(crate) ready_within: Duration,

    /// How long a request waits for a program that starts or moves
    #[arg(long, default_value = "30s", value_parser = duration, env = "ALEPH_NODE_HOLD")]
    pub(crate) hold: Duration,

    #[command(flatten)]
    pub(crate) clients: ClientOptions,

    /// Stop all programs when this process is asked to end, instead of leaving them to the next one
    #[arg(long, env = "ALEPH_NODE_STOP_PROGRAMS")]
    pub(crate) stop_programs: bool,

    /// The OCI runtime that makes sandboxes: crun or runc, by name or path
    #[arg(long, default_value = "crun", env = "ALEPH_NODE_OCI_RUNTIME")]
    pub(crate) oci_runtime: PathBuf,

    /// What can stand between programs and this machine: container, gvisor; the first counts for programs that do not say
    #[arg(long, default_value = "container", value_delimiter = ',', env = "ALEPH_NODE_ISOLATION")]
    pub(crate) isolation: Vec<Isolation>,

    /// gVisor, which makes sandboxes of the isolation gvisor, by name or path
    #[arg(long, default_value = "runsc", env = "ALEPH_NODE_RUNSC")]
    pub(crate) runsc: PathBuf,

    /// The first user id of this machine that sandboxes may have; each takes 65536
    #[arg(long, default_value_t = 0x7000_0000, env = "ALEPH_NODE_FIRST_UID")]
    pub(crate) first_uid: u32,

    /// How many sandboxes there can be at once
    #[arg(long, default_value_t = 4096, env = "ALEPH_NODE_SLOTS")]
    pub(crate) slots: u32,

    /// MiB of memory for sandboxes that wait for a program, beside what is offered; 0 for none
    #[arg(long, default_value_t = 256, env = "ALEPH_NODE_SPARE_MIB")]
    pub(crate) spare_mib: u64,

    /// Addresses for sandboxes with a network, four each; not used by anything else on this machine
    #[arg(long, default_value = "100.96.0.0/16", env = "ALEPH_NODE_NETWORK")]
    pub(crate) network: Ipv4Net,
}

/// `aleph-node gateway`.
#[derive(Debug, Args)]
pub(crate) struct GatewayOptions {
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:4026", env = "ALEPH_NODE_LISTEN")]
    pub(crate) listen: SocketAddr,

    /// Base URL of the message node
    #[arg(long, default_value = "http://127.0.0.1:4024", env = "ALEPH_NODE_MESSAGE_NODE")]
    pub(crate) message_node: String,

    /// Base URLs of the schedulers
    #[arg(
        long = "scheduler",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:4025",
        env = "ALEPH_NODE_SCHEDULERS"
    )]
    pub(crate) schedulers: Vec<String>,

    /// How long a request waits for a program that starts or moves
    #[arg(long, default_value = "30s", value_parser = duration, env = "ALEPH_NODE_HOLD")]
    pub(crate) hold: Duration,

    #[command(flatten)]
    pub(crate) clients: ClientOptions,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; write for example 500ms, 5s or 2m"))
}

/// Somebody is asked so often.
fn interval(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(100);
    duration(text).and_then(|time| if time >= SHORTEST { Ok(time) } else { Err("at least 100ms".to_owned()) })
}

/// A time as an argument of another process.
pub(crate) fn in_millis(duration: Duration) -> OsString {
    format!("{}ms", duration.as_millis()).into()
}

fn pool_mib(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(mib @ (0 | 256..)) => Ok(mib),
        _ => Err("expected 0, or 256 and more".to_owned()),
    }
}

fn retention(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    duration(text).and_then(|time| if time <= LONGEST { Ok(time) } else { Err("at most ten years".to_owned()) })
}

fn store(text: &str) -> Result<Url, String> {
    let expected = "expected postgres://user:password@host:port/database";
    let url: Url = text.parse().map_err(|e| format!("{e}; {expected}"))?;
    if matches!(url.scheme(), "postgres" | "postgresql") { Ok(url) } else { Err(expected.to_owned()) }
}

fn base_url(text: &str) -> Result<String, String> {
    let expected = "expected http://host:port or https://host";
    let url: Url = text.parse().map_err(|e| format!("{e}; {expected}"))?;
    let is_http = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
    if is_http { Ok(text.trim_end_matches('/').to_owned()) } else { Err(expected.to_owned()) }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().map_err(|_| "expected a number from 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("expected a number from 0 to 1".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn wrong_values_say_what_is_expected() {
        assert!(duration("5 parsecs").unwrap_err().contains("500ms"));
        assert_eq!(interval("0s"), Err("at least 100ms".to_owned()));
        assert_eq!(interval("1m"), Ok(Duration::from_secs(60)));
        assert!(store("mysql://x").unwrap_err().contains("postgres://"));
        assert!(base_url("localhost:4024").unwrap_err().contains("http://"));
        assert_eq!(base_url("http://localhost:4024/").unwrap(), "http://localhost:4024");
        assert!(share("1.5").unwrap_err().contains("0 to 1"));
    }
}
