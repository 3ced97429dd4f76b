//! What the core of a node's persistent programs is told, and what it asks for.

use std::time::Duration;

use lease::{BootTime, HolderDeadline, LeaseTimes};
use protocol::control::{Failure, Grant};
use protocol::{Epoch, ProgramId};

/// A program under one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment {
    /// The program.
    pub program: ProgramId,
    /// The epoch that it was assigned under.
    pub epoch: Epoch,
}

/// What a program needs of the node's capacity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Virtual processors.
    pub vcpus: u32,
    /// MiB of memory.
    pub memory_mib: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The scheduler answered the heartbeat that was sent then.
    Granted {
        /// When the heartbeat was sent, by this node's clock.
        sent: BootTime,
        /// The constants of the lease, with the length that the scheduler granted.
        times: LeaseTimes,
        /// The answer.
        grant: Grant,
    },
    /// A sandbox of an agent before this one was found alive.
    Adopted {
        /// Whose it is.
        assignment: Assignment,
        /// What it takes.
        needs: Needs,
        /// Whether it answers.
        ready: bool,
    },
    /// Everything that a program needs is there.
    Fetched {
        /// The program.
        assignment: Assignment,
        /// What it will take.
        needs: Needs,
    },
    /// Something that a program needs cannot be had.
    FetchFailed(Assignment, Failure),
    /// This node does not have the data that the program shall start with.
    NoData(Assignment),
    /// Copies of its data on this node are of this higher epoch.
    Overtaken(Assignment, Epoch),
    /// Its sandbox answers.
    Ready(Assignment),
    /// Nothing of its sandbox runs any more. `None` when it was told to end, or its lease ended.
    SandboxGone(Assignment, Option<Failure>),
    /// What it wrote was brought to its standby, as far as that was possible.
    Settled(Assignment),
    /// Its code has a newer revision.
    CodeChanged(ProgramId),
    /// Time passed.
    Tick,
}

/// What to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Write down, durably, that this epoch was seen. Nothing after it happens before.
    RememberEpoch(Assignment),
    /// Fetch what the program needs.
    Fetch(Assignment),
    /// Start its sandbox.
    Start(Assignment, HolderDeadline),
    /// Let its sandbox run until then.
    Renew(Assignment, HolderDeadline),
    /// End its sandbox.
    Stop(Assignment, Duration),
    /// Bring the rest of what it wrote to its standby. Nothing of it runs any more.
    Settle(Assignment),
    /// Tell the scheduler now.
    Heartbeat,
}
