//! What agent and supervisor say to each other: JSON, one message a line.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use guest::StartFailure;
use lease::{BootTime, HolderDeadline};
use protocol::{Epoch, Isolation, ProgramId};
use serde::{Deserialize, Serialize};

/// The first step: what a sandbox is made of before it is anybody's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareSpec {
    /// The sandbox's name on this machine, unique over restarts.
    pub name: String,
    /// Which driver makes it, and how.
    pub driver: DriverSpec,
    /// Whether it waits for its program with an interpreter that runs already. It is made with little of the processor then,
    /// so that nobody is slowed down by it.
    #[serde(default)]
    pub warm: bool,
    /// When it ends if nobody claims or renews it.
    pub deadline: HolderDeadline,
}

/// The drivers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "snake_case")]
pub enum DriverSpec {
    /// An OCI container.
    Container(ContainerSpec),
}

/// How an OCI container is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// What stands between it and the machine.
    #[serde(default)]
    pub isolation: Isolation,
    /// The OCI runtime's binary: `crun` or `runc`, or `runsc` with [`Isolation::Gvisor`].
    pub oci_runtime: PathBuf,
    /// Where the runtime image is mounted, read-only.
    pub image: PathBuf,
    /// The directory with the init and the ASGI glue.
    pub guest: PathBuf,
    /// The first of the 65536 user ids of the machine that are the sandbox's 0 to 65535.
    pub first_uid: u32,
    /// The cgroup to make, relative to the hierarchy's root.
    pub cgroup: String,
}

/// The second step: whose sandbox it becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimSpec {
    /// The program.
    pub program: ProgramId,
    /// The epoch of a persistent program; `None` for a copy on demand.
    pub epoch: Option<Epoch>,
    /// Which of the copies on demand it is; for an agent that finds it running.
    #[serde(default)]
    pub copy: u16,
    /// What it may use at most.
    pub limits: Limits,
    /// Its code.
    pub code: CodeSource,
    /// What the init starts.
    pub configure: guest::Configure,
    /// Its network; none but loopback when absent.
    pub network: Option<NetworkSpec>,
    /// Its volumes, one that lies in another after it.
    #[serde(default)]
    pub volumes: Vec<VolumeSpec>,
    /// Where its output goes.
    pub logs: LogSpec,
    /// How long it has to become ready, in milliseconds.
    pub ready_within_ms: u64,
    /// How long one of its requests may take, in milliseconds; for an agent that finds it running.
    #[serde(default = "usual_request_limit")]
    pub request_limit_ms: u64,
    /// How long it stays when nobody uses it, as its message says; for an agent that finds it running.
    #[serde(default)]
    pub idle: IdleSpec,
    /// How many copies on demand there may be, if its message says so; for an agent that finds it running.
    #[serde(default)]
    pub copies: Option<u16>,
    /// When it ends unless it is renewed.
    pub deadline: HolderDeadline,
}

/// What claims that do not say it had.
const fn usual_request_limit() -> u64 {
    60_000
}

/// How long a copy on demand stays when nobody uses it, counted from the last request, in milliseconds. The node's settings
/// count for what is not given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleSpec {
    /// Until it is frozen.
    pub freeze_after_ms: Option<u64>,
    /// Until it is stopped.
    pub stop_after_ms: Option<u64>,
}

/// What a sandbox may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// MiB of memory, what it writes outside its volumes included.
    pub memory_mib: u64,
    /// Processors.
    pub vcpus: u32,
    /// Processes and threads.
    pub pids: u32,
    /// MiB that it may write outside its volumes.
    pub scratch_mib: u64,
}

/// Where the code is, on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeSource {
    /// A squashfs image.
    Squashfs(PathBuf),
    /// A directory.
    Directory(PathBuf),
}

/// Storage that a program sees beside its code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Where the program sees it: an absolute path.
    pub mount: PathBuf,
    /// Where it is on the machine.
    pub source: VolumeSource,
}

/// Where a volume is on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeSource {
    /// A squashfs image; the program cannot write to it.
    Squashfs(PathBuf),
    /// A directory that the program owns. Its file system limits what can be written, and has to support mapped ids.
    Directory(PathBuf),
    /// Empty, and gone with the sandbox.
    Ephemeral {
        /// A directory on the disk that it takes its room from.
        directory: PathBuf,
        /// Its size.
        size_mib: u64,
    },
}

/// The way to the internet: a pair of interfaces, one at the machine and one in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// The name of the machine's end, at most 15 characters.
    pub interface: String,
    /// The machine's address, in a network of four addresses (/30).
    pub gateway: Ipv4Addr,
    /// The sandbox's address in it.
    pub address: Ipv4Addr,
    /// Name servers.
    pub name_servers: Vec<Ipv4Addr>,
}

/// Where output goes, and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// The directory of the program's logs.
    pub directory: PathBuf,
    /// Bytes that are kept at most.
    pub max_bytes: u64,
}

/// From agent to supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Make it this program's.
    Claim(Box<ClaimSpec>),
    /// Let it run until then. Never shortens.
    Renew {
        /// The new deadline.
        deadline: HolderDeadline,
    },
    /// End it.
    Stop {
        /// How long the program has to end by itself, in milliseconds.
        grace_ms: u64,
    },
}

/// From supervisor to agent: at once when the agent connects, and after every change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What the sandbox does.
    pub state: SandboxState,
    /// Whose it is.
    pub program: Option<ProgramId>,
    /// The epoch that it runs under.
    pub epoch: Option<Epoch>,
    /// When it became [`SandboxState::Ready`].
    pub ready_at: Option<BootTime>,
}

/// What a sandbox does. See [`crate::supervisor::core`] for who moves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SandboxState {
    /// The driver makes it.
    Preparing,
    /// Its init waits; it is nobody's.
    Prepared,
    /// The program starts.
    Starting,
    /// The program answers.
    Ready,
    /// It is being ended.
    Stopping,
    /// Nothing of it runs any more.
    Ended(End),
}

/// How a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// The agent asked for it.
    Stopped,
    /// Nobody renewed it.
    LeaseEnded,
    /// The program could not be started.
    StartFailed {
        /// What kind of failure.
        kind: StartFailure,
        /// For the owner.
        message: String,
    },
    /// It did not become ready in time.
    NeverReady,
    /// The program ended by itself.
    Exited {
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// The kernel killed it for using more memory than it has.
    OutOfMemory,
    /// The code is not what its encoding says.
    BadCode {
        /// Why.
        message: String,
    },
    /// The machine could not make or keep it.
    SandboxError {
        /// Why.
        message: String,
    },
}

impl End {
    /// A word, for counters.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::LeaseEnded => "lease_ended",
            Self::StartFailed { .. } => "start_failed",
            Self::NeverReady => "never_ready",
            Self::Exited { .. } => "exited",
            Self::OutOfMemory => "out_of_memory",
            Self::BadCode { .. } => "bad_code",
            Self::SandboxError { .. } => "sandbox_error",
        }
    }

    /// One sentence for the program's log.
    pub fn sentence(&self) -> String {
        match self {
            Self::Stopped => "stopped".to_owned(),
            Self::LeaseEnded => "stopped: the node lost touch with the scheduler, its lease ended".to_owned(),
            Self::StartFailed { message, .. } => {
                format!("could not be started: {}", message.trim_end().lines().last().unwrap_or_default())
            }
            Self::NeverReady => "stopped: it did not become ready in time".to_owned(),
            Self::Exited { code: Some(code), .. } => format!("exited with code {code}"),
            Self::Exited { signal: Some(signal), .. } => format!("ended by signal {signal}"),
            Self::Exited { .. } => "ended".to_owned(),
            Self::OutOfMemory => "killed: it used more memory than it has".to_owned(),
            Self::BadCode { message } => format!("could not be started: {message}"),
            Self::SandboxError { message } => format!("the sandbox failed: {message}"),
        }
    }
}
