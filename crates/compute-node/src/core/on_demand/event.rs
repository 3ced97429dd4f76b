//! What the core of copies on demand is told, and what it asks for.

use std::time::Duration;

use lease::BootTime;
use protocol::control::Failure;
use protocol::{Address, ProgramId};

use crate::core::persistent::Needs;

/// One of the copies of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyId {
    /// Whose.
    pub program: ProgramId,
    /// Which: from 0 on. Requests go to the one with the lowest number that has room for them.
    pub number: u16,
}

impl CopyId {
    /// The first copy of a program.
    pub const fn first(program: ProgramId) -> Self {
        Self { program, number: 0 }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request waits for the program.
    Wanted {
        /// Which.
        program: ProgramId,
        /// Who published it: owners take turns.
        owner: Address,
        /// Whether the request waits for room where all of it is in use; it can be had elsewhere otherwise.
        waits: bool,
    },
    /// So many requests are inside the program, in all of its copies.
    Inside(ProgramId, usize),
    /// Everything that the copy needs is there.
    Fetched(CopyId, Terms),
    /// Something that it needs cannot be had.
    FetchFailed(CopyId, Failure),
    /// Its sandbox answers.
    Ready(CopyId),
    /// Nothing of its sandbox runs any more; a failure, unless it was told to end.
    Gone(CopyId, Option<Failure>),
    /// No request has used it since then.
    Idle(CopyId, BootTime),
    /// Requests use it.
    Busy(CopyId),
    /// It stands still.
    Frozen(CopyId),
    /// It does not stand still: it was used just then, or cannot.
    NotFrozen(CopyId),
    /// It stands still and cannot be let go on.
    Stuck(CopyId),
    /// A copy of an agent before this one was found alive and ready.
    Adopted {
        /// Which.
        copy: CopyId,
        /// How it runs.
        terms: Terms,
        /// Since when it counts as unused, if it was found frozen.
        frozen: Option<BootTime>,
    },
    /// No copy of it must go on as it is: new code, or forgotten.
    Outdated(ProgramId),
    /// Time passed.
    Tick {
        /// Whether the machine has little memory left.
        memory_is_short: bool,
    },
}

/// What to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Fetch what the copy needs.
    Fetch(CopyId),
    /// Start its sandbox.
    Start(CopyId),
    /// Let the program's waiting requests through.
    Serve(ProgramId),
    /// Tell the program's waiting requests that it failed.
    Fail(ProgramId, Failure),
    /// Tell those of the program's waiting requests that do not wait for room that there is none now.
    Refuse(ProgramId, Failure),
    /// Forget what was fetched for the copy: it is not started with that.
    Drop(CopyId),
    /// Have it stand still, unless a request uses it just now.
    Freeze(CopyId),
    /// Let no new request in, wait for those inside, and end it.
    Retire(CopyId),
}

/// How long a copy stays when nobody uses it, counted from the last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until it is frozen; never, if it is stopped by then.
    pub freeze_after: Duration,
    /// Until it is stopped.
    pub stop_after: Duration,
}

/// How a copy runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What it takes of the node, also while it is frozen.
    pub needs: Needs,
    /// How long it stays.
    pub patience: Patience,
    /// How many copies its program has at most.
    pub copies: u16,
}
