//! The control protocol between scheduler and compute node: JSON frames on one WebSocket that the node opens
//! (`/api/v1/control` of the scheduler), because the node may sit behind NAT.
//!
//! ```text
//!   scheduler                                   node
//!      │ ── Challenge {scheduler, nonce} ────────▶ │
//!      │ ◀─ Hello {node, boot, url, nonce, sig} ── │   proves the node's key, names the scheduler
//!      │ ── Welcome {sig, lease times} ──────────▶ │   proves the scheduler's key, names the node
//!      │                                           │
//!      │ ◀─ Heartbeat {sequence, programs, …} ──── │   every heartbeat interval, and at once after a Poke
//!      │ ── Grant {sequence, set, …} ────────────▶ │   the answer: renews every `Run` entry of the set
//!      │ ── Poke ────────────────────────────────▶ │   something changed, send a heartbeat now
//! ```
//!
//! Rules:
//! * A grant renews exactly the [`Directive::Run`] entries of the assigned set whose version it names. The holder counts
//!   the lease from when it *sent* the heartbeat with the answered sequence number; the scheduler from when it answered.
//! * The set is level-triggered: a grant carries it whole when the node has not applied that version yet, not at all
//!   otherwise. Absence of an entry, an empty set or silence never stops a program by itself: only [`Directive::Release`]
//!   and the end of the lease do.
//! * A node reports [`ReportedState::Released`] only when the sandbox of that epoch is gone, and repeats it as long as the
//!   set says `Release`. Only that, or the end of the lease, lets the scheduler assign the program again.
//! * `Released` counts once the heartbeat's [`Heartbeat::applied`] names a version in which the entry says `Release`: what was
//!   sent before may be older than an order to run that is still on its way. The same holds for [`Refusal::NoCapacity`] and
//!   [`Refusal::Draining`], which the scheduler answers with `Release`. [`Refusal::StaleEpoch`] counts at once.
//! * A node that is told to release what it does not hold reports it as `Released`.
//! * A set has at most one `Run` entry a program; beside it, it may have `Release` entries of other epochs.

use serde::{Deserialize, Serialize};

use crate::account::{self, Account, SignatureError};
use crate::data::{DataEntry, DataReport};
use crate::history::Statement;
use crate::{Address, BootId, Epoch, Isolation, NodeId, ProgramId};

/// The version of this protocol. Peers of another version are refused.
pub const CONTROL_VERSION: u32 = 1;

/// The longest failure message in a report, in bytes.
pub const MAX_FAILURE_BYTES: usize = 2000;

/// Frames from scheduler to node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromScheduler {
    /// The first frame of a connection.
    Challenge(Challenge),
    /// The node is accepted.
    Welcome(Welcome),
    /// The node is not accepted; the connection ends.
    Rejected {
        /// Why and what to do.
        reason: String,
    },
    /// The answer to a heartbeat.
    Grant(Grant),
    /// Asks for a heartbeat now.
    Poke,
}

/// Frames from node to scheduler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromNode {
    /// The answer to the challenge.
    Hello(Hello),
    /// What the node states for the history. It comes before the heartbeat that reports the same.
    Statements {
        /// In their order.
        statements: Vec<Statement>,
    },
    /// The node lives and runs this.
    Heartbeat(Heartbeat),
}

/// A fresh question that only the node's key can answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// [`CONTROL_VERSION`].
    pub version: u32,
    /// Who asks.
    pub scheduler: Address,
    /// Random, used once.
    pub nonce: String,
}

/// The node's answer to a [`Challenge`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The node.
    pub node: NodeId,
    /// The machine's current boot.
    pub boot: BootId,
    /// The node's public base URL, where gateways reach it.
    pub url: String,
    /// Random, used once: the scheduler proves itself with it.
    pub nonce: String,
    /// Over [`hello_text`], by the owner's or manager's key.
    pub signature: String,
    /// Name and version of the node's software.
    pub software: String,
}

/// The scheduler's acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Over [`welcome_text`], by the scheduler's key.
    pub signature: String,
    /// How often the node shall send heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long a grant lasts, in milliseconds.
    pub lease_ms: u64,
}

/// The text that a node signs: it names both sides, the boot and the challenge, so it is of no use anywhere else.
pub fn hello_text(challenge: &Challenge, node: &NodeId, boot: &BootId, node_nonce: &str) -> String {
    format!(
        "aleph-control/{}\nnode {node}\nboot {boot}\nto scheduler {}\nchallenge {}\nnonce {node_nonce}",
        challenge.version,
        challenge.scheduler.canonical(),
        challenge.nonce
    )
}

/// The text that a scheduler signs to prove itself to the node.
pub fn welcome_text(challenge: &Challenge, node: &NodeId, node_nonce: &str) -> String {
    format!(
        "aleph-control/{}\nscheduler {}\nto node {node}\nchallenge {}\nnonce {node_nonce}",
        challenge.version,
        challenge.scheduler.canonical(),
        challenge.nonce
    )
}

impl Hello {
    /// Answers a challenge.
    pub fn answer(
        account: &Account,
        challenge: &Challenge,
        node: NodeId,
        boot: BootId,
        url: String,
        software: String,
    ) -> Self {
        let nonce = random_nonce();
        let signature = account.sign(hello_text(challenge, &node, &boot, &nonce).as_bytes());
        Self { node, boot, url, nonce, signature, software }
    }

    /// The account that signed this answer to that challenge. Whether it may speak for the node is the caller's to decide.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`].
    pub fn signer(&self, challenge: &Challenge) -> Result<Address, SignatureError> {
        account::recover(hello_text(challenge, &self.node, &self.boot, &self.nonce).as_bytes(), &self.signature)
    }
}

impl Welcome {
    /// Checks that the scheduler that asked made this.
    ///
    /// # Errors
    /// [`SignatureError`] when it did not.
    pub fn verify(&self, challenge: &Challenge, hello: &Hello) -> Result<(), SignatureError> {
        let text = welcome_text(challenge, &hello.node, &hello.nonce);
        account::verify(text.as_bytes(), &self.signature, &challenge.scheduler)
    }
}

/// 128 random bits in hexadecimal.
pub fn random_nonce() -> String {
    use rand_core::RngCore;
    let mut bytes = [0; 16];
    rand_core::OsRng.fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// Which state of an assigned set. Versions of different scheduler processes never compare equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetVersion {
    /// The scheduler process, random at its start.
    pub scheduler: String,
    /// Grows with every change of the node's set.
    pub number: u64,
}

/// The node lives and runs this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Grows by one; the grant answers it.
    pub sequence: u64,
    /// What the node offers to persistent programs, in all (not what is left).
    pub capacity: Capacity,
    /// The set that the node has applied; `None` before the first grant.
    pub applied: Option<SetVersion>,
    /// Every persistent program that the node holds or was told about, with its epoch.
    pub programs: Vec<ProgramReport>,
    /// Whether the node takes no new programs (it is shutting down, or its disk is full).
    #[serde(default)]
    pub draining: Option<String>,
    /// The data of programs that the node has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataReport>,
    /// The newest grant of this connection that had arrived before this was made, by its sequence. So the scheduler knows
    /// when this was made at the earliest, and how old what it tells of can be, however long it was on its way.
    #[serde(default)]
    pub heard: Option<u64>,
}

/// What a node offers to persistent programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Virtual processors, overcommitment included.
    pub vcpus: u32,
    /// MiB of memory.
    pub memory_mib: u64,
    /// MiB of disk.
    pub disk_mib: u64,
    /// MiB of its pool for volumes; 0 when it has none, and takes no programs that write to volumes.
    #[serde(default)]
    pub pool_mib: u64,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// The processor's vendor, as `/proc/cpuinfo` names it.
    pub cpu_vendor: String,
    /// The processor's features that messages can ask for.
    #[serde(default)]
    pub cpu_features: Vec<String>,
    /// What can stand between programs and the machine. Nodes that do not say it have containers.
    #[serde(default = "containers_only")]
    pub isolation: Vec<Isolation>,
}

fn containers_only() -> Vec<Isolation> {
    vec![Isolation::Container]
}

/// The state of one program on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramReport {
    /// The program.
    pub program: ProgramId,
    /// The epoch that the node holds it under.
    pub epoch: Epoch,
    /// What it does.
    pub state: ReportedState,
    /// How long it has been in this state, in milliseconds.
    pub for_ms: u64,
    /// How often it was started again in this epoch.
    #[serde(default)]
    pub restarts: u32,
}

/// What a program does on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ReportedState {
    /// Code and runtime are being fetched and checked.
    Preparing,
    /// The sandbox runs, the program does not answer yet.
    Starting,
    /// It answers.
    Ready,
    /// It ended or never came up; the node will try again.
    Failing(Failure),
    /// It is being stopped.
    Stopping,
    /// The sandbox of this epoch is gone.
    Released,
    /// The node did not take the assignment.
    Refused(Refusal),
}

/// Why a program does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// One or a few lines for the owner, at most [`MAX_FAILURE_BYTES`].
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The message, its code or its runtime could not be fetched.
    Unavailable,
    /// The code is not what its encoding says.
    BadCode,
    /// The runtime is no squashfs image or lacks what the program needs.
    BadRuntime,
    /// A volume has no place where it could be mounted, or is no image.
    BadVolume,
    /// The entrypoint is not there or cannot be executed.
    BadEntrypoint,
    /// The code raised while it was loaded or started.
    StartupError,
    /// It did not become ready in time.
    NeverReady,
    /// It ended.
    Exited,
    /// It used more memory than it has.
    OutOfMemory,
    /// It asks for something that nodes of this version do not offer.
    Unsupported,
    /// It asks for an isolation that this node does not offer; another node may.
    Isolation,
    /// The node failed, not the program; another node may do better.
    NodeFault,
}

impl FailureKind {
    /// A few words for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Unavailable => "a file of the program cannot be fetched",
            Self::BadCode => "the code cannot be unpacked",
            Self::BadRuntime => "the runtime image cannot be used",
            Self::BadVolume => "a volume of the program cannot be mounted",
            Self::BadEntrypoint => "the entrypoint cannot be started",
            Self::StartupError => "the program failed while starting",
            Self::NeverReady => "the program never became ready",
            Self::Exited => "the program exited",
            Self::OutOfMemory => "the program ran out of memory",
            Self::Unsupported => "the program asks for something that is not offered",
            Self::Isolation => "the node does not offer the isolation that the program asks for",
            Self::NodeFault => "the compute node failed",
        }
    }

    /// Whether another node may do better.
    pub const fn is_fault_of_node(self) -> bool {
        matches!(self, Self::Isolation | Self::NodeFault)
    }
}

/// Why a node did not take an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Refusal {
    /// It has seen a higher epoch of this program: the scheduler's database is older than what it handed out.
    StaleEpoch {
        /// The highest epoch that the node has seen.
        highest: Epoch,
    },
    /// It has not enough left.
    NoCapacity,
    /// It takes no new programs.
    Draining,
    /// It does not have the data that the program shall start with.
    NoData,
}

/// The answer to a heartbeat: a lease for every `Run` entry of the set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The heartbeat that is answered.
    pub sequence: u64,
    /// How long the lease lasts, counted from when that heartbeat was sent, in milliseconds.
    pub lease_ms: u64,
    /// The set that is renewed.
    pub set: SetVersion,
    /// The whole set; absent when the heartbeat said that this version is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<SetEntry>>,
    /// What to do about the data of programs; as complete as `entries`, and there when they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataEntry>,
}

/// One program of an assigned set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetEntry {
    /// The program.
    pub program: ProgramId,
    /// The epoch of the assignment.
    pub epoch: Epoch,
    /// What to do with it.
    pub directive: Directive,
}

/// What a node shall do with a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directive {
    /// Run it, under the lease of this grant.
    Run,
    /// Stop it and say when it is gone. Its lease is not renewed.
    Release,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Stated;

    fn challenge(scheduler: &Account) -> Challenge {
        Challenge { version: CONTROL_VERSION, scheduler: scheduler.address().clone(), nonce: random_nonce() }
    }

    fn hello(account: &Account, challenge: &Challenge) -> Hello {
        let node = NodeId::from_bytes([7; 32]);
        Hello::answer(account, challenge, node, BootId("b".into()), "http://n".into(), "test".into())
    }

    #[test]
    fn both_sides_prove_their_keys() {
        let (scheduler, node) = (Account::generate(), Account::generate());
        let challenge = challenge(&scheduler);
        let hello = hello(&node, &challenge);
        assert_eq!(hello.signer(&challenge).unwrap(), *node.address());
        let signature = scheduler.sign(welcome_text(&challenge, &hello.node, &hello.nonce).as_bytes());
        let welcome = Welcome { signature, heartbeat_ms: 1, lease_ms: 2 };
        assert_eq!(welcome.verify(&challenge, &hello), Ok(()));
    }

    #[test]
    fn an_answer_is_of_no_use_to_another_scheduler_or_challenge() {
        let (scheduler, other, node) = (Account::generate(), Account::generate(), Account::generate());
        let challenge = challenge(&scheduler);
        let hello = hello(&node, &challenge);
        let replayed = Challenge { nonce: random_nonce(), ..challenge.clone() };
        assert_ne!(hello.signer(&replayed).unwrap(), *node.address());
        let elsewhere = Challenge { scheduler: other.address().clone(), ..challenge.clone() };
        assert_ne!(hello.signer(&elsewhere).unwrap(), *node.address());
        let another_node = Hello { node: NodeId::from_bytes([8; 32]), ..hello };
        assert_ne!(another_node.signer(&challenge).unwrap(), *node.address());
    }

    #[test]
    fn frames_are_tagged_json() {
        let report = ProgramReport {
            program: ProgramId::from_bytes([1; 32]),
            epoch: Epoch::new(3),
            state: ReportedState::Refused(Refusal::StaleEpoch { highest: Epoch::new(9) }),
            for_ms: 5,
            restarts: 0,
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["state"], serde_json::json!({"state": "refused", "reason": "stale_epoch", "highest": 9}));
        assert_eq!(serde_json::from_value::<ProgramReport>(json).unwrap(), report);
        assert_eq!(serde_json::to_string(&FromScheduler::Poke).unwrap(), r#"{"type":"poke"}"#);
        let (account, node) = (Account::generate(), NodeId::from_bytes([7; 32]));
        let statement =
            Statement::new(&account, node, report.program, report.epoch, Stated::Ready, chrono::DateTime::UNIX_EPOCH);
        let frame = FromNode::Statements { statements: vec![statement] };
        let json = serde_json::to_string(&frame).unwrap();
        assert!(json.starts_with(r#"{"type":"statements","statements":[{"#), "{json}");
        assert_eq!(serde_json::from_str::<FromNode>(&json).unwrap(), frame);
    }
}
