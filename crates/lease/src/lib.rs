//! Leases: how long a node may run what is assigned to it, and when the scheduler may give it to another.
//!
//! ```text
//!   holder (compute node)                      issuer (scheduler)
//!   sends heartbeat  t0 ────────────────────▶
//!                        ◀──────────────────── answers t1 ≥ t0
//!   t0 + soft    asks the program to end
//!   t0 + kill    kills the sandbox
//!   t0 + fuse    the kernel kills it, whoever is stopped or hung
//!   t0 + lease   nothing of it runs any more
//!                                               t1 + lease + drift + margin   may be assigned again
//! ```
//!
//! The holder counts from when it *sent* the heartbeat that was answered, the issuer from when it *answered*, so the
//! holder's lease always ends first, however long the answer took. Both count on monotonic clocks that go on while the
//! machine sleeps ([`BootTime`]); wall-clock time never enters. [`LeaseTimes`] holds the constants and cannot be built
//! inconsistent; the two kinds of deadline are different types, so that neither is taken for the other.
//!
//! Everything but [`clock`] is pure.

pub mod clock;
mod deadline;
mod time;
mod times;

pub use deadline::{HolderDeadline, IssuerExpiry};
pub use time::BootTime;
pub use times::{LeaseConfig, LeaseConfigError, LeaseTimes};
