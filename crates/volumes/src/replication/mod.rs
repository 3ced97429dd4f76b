//! How the volumes of a program get to another node, continuously.
//!
//! On the node where a program is live, a [`Replicator`] takes snapshots and sends what is different to the standby; there
//! a [`Receiver`] takes them in. What to do when is decided in [`core`]; who may send what is the scheduler's to say. The
//! two speak [`wire`] over a connection that [`secure`] has made.
//!
//! What may be relied on: a snapshot counts on the standby once all its volumes have come with their digests and are
//! durable, and only then is it said to be there. A stream of an epoch below the highest ever seen is refused, when the
//! connection begins and again when the snapshot is to be complete. How much is at risk is never said to be less than it
//! is.

mod arriving;
pub mod bucket;
pub mod core;
mod link;
mod receiver;
pub mod secure;
mod sender;
pub mod wire;

pub use receiver::{ReceiveError, ReceiveLimits, Receiver};
pub use sender::{Bandwidth, Dial, Freeze, Later, ReplicationError, Replicator, Source, Status, Stream};
