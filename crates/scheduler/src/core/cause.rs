//! Why assignments end, and how that is known.

use std::fmt;

/// Why a program is not desired any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Its owner took the message back.
    Forgotten,
    /// The message node refused the message after all.
    Rejected,
    /// The message is not paid for.
    Removed,
}

impl Gone {
    /// The word for the database and for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forgotten => "forgotten",
            Self::Rejected => "rejected",
            Self::Removed => "removed",
        }
    }
}

/// Why an assignment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its node was silent until the lease was over.
    NodeSilent,
    /// The program is not desired any more.
    Gone(Gone),
    /// The node had no room or took no new programs.
    Refused,
    /// The node had seen a higher epoch.
    StaleEpoch,
    /// The node stopped it without being asked.
    GivenUp,
    /// The node failed, not the program.
    NodeFault,
    /// The node is no longer part of the network.
    NodeWithdrawn,
    /// An operator drains the node.
    Draining,
    /// An operator said that the node is gone for good.
    NodeGivenUp,
    /// Somebody ordered to move it.
    Moved,
    /// Somebody ordered to go back to a snapshot.
    Restored,
}

impl Cause {
    /// The word for the database and for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodeSilent => "node_silent",
            Self::Gone(gone) => gone.as_str(),
            Self::Refused => "refused",
            Self::StaleEpoch => "stale_epoch",
            Self::GivenUp => "given_up",
            Self::NodeFault => "node_fault",
            Self::NodeWithdrawn => "node_withdrawn",
            Self::Draining => "draining",
            Self::NodeGivenUp => "node_given_up",
            Self::Moved => "moved",
            Self::Restored => "restored",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodeSilent => "its node was silent until the lease was over",
            Self::Gone(Gone::Forgotten) => "its message was forgotten",
            Self::Gone(Gone::Rejected) => "its message was rejected",
            Self::Gone(Gone::Removed) => "its message was removed, because it is not paid for",
            Self::Refused => "its node did not take it",
            Self::StaleEpoch => "its node had seen a higher epoch",
            Self::GivenUp => "its node stopped it",
            Self::NodeFault => "its node kept failing",
            Self::NodeWithdrawn => "its node left the network",
            Self::Draining => "its node is drained",
            Self::NodeGivenUp => "an operator said that its node is gone for good",
            Self::Moved => "it is moved, as somebody asked",
            Self::Restored => "it goes back to a snapshot, as somebody asked",
        })
    }
}

/// How it is known that nothing of an assignment runs any more: without one of these, nothing ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The node was told to stop it and says that it is gone.
    Released,
    /// The node can never start it, because it has seen a higher epoch.
    Refused,
    /// The lease is over.
    LeaseOver,
    /// No grant ever named it, so no node ever had the right to start it.
    NeverGranted,
    /// An operator vouches for it. This is no proof but somebody's word.
    Declared,
}

impl Proof {
    /// The word for the database and for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Refused => "refused",
            Self::LeaseOver => "lease_over",
            Self::NeverGranted => "never_granted",
            Self::Declared => "declared",
        }
    }
}
