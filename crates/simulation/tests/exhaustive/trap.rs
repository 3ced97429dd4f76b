//! Planted mistakes. A checker that does not notice them would notice nothing.

/// A planted mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trap {
    /// The holder counts from when the answer arrived instead of from when it asked.
    CountsFromArrival,
    /// A new leader takes leases of the one before it for ended.
    NoWait,
    /// The issuer waits for the lease and not for what clocks may differ.
    NoMargin,
    /// Epochs are taken from a clock instead of counted.
    EpochFromClock,
    /// A leader grants for as long as nobody tells it that another leads.
    LeadsUntilTold,
    /// Transactions do not look at the leader's row.
    NoCheckOfLeader,
    /// The order to release is taken for the release.
    ReleaseBeforeGone,
    /// Only the agent ends a program whose lease is over.
    DeadlineInAgentOnly,
    /// What was sent on one connection arrives in any order, and twice. The protocol relies on a stream's order.
    AnyOrder,
}
