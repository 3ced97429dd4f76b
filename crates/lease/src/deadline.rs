//! When the holder must have stopped, and when the issuer may go on.

use serde::{Deserialize, Serialize};

use crate::BootTime;

/// When a holder must stop, by its own clock. Made by [`crate::LeaseTimes::holder`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderDeadline {
    /// From here on the program is asked to end (SIGTERM).
    pub soft: BootTime,
    /// From here on the sandbox is killed.
    pub kill: BootTime,
    /// Here the kernel kills it, should the one who kills be stopped or hung.
    pub fuse: BootTime,
}

impl HolderDeadline {
    /// The later of two leases. A renewal never shortens one that is already held: answers can arrive out of order.
    #[must_use]
    pub fn extended_by(self, renewal: Self) -> Self {
        if renewal.fuse > self.fuse { renewal } else { self }
    }
}

/// When an issuer may consider a lease ended, by its own clock. Made by [`crate::LeaseTimes::issuer`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IssuerExpiry(pub(crate) BootTime);

impl IssuerExpiry {
    /// Whether the lease has ended.
    pub fn is_over(self, now: BootTime) -> bool {
        now >= self.0
    }

    /// The moment at which it ends.
    pub fn at(self) -> BootTime {
        self.0
    }
}
