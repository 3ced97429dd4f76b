//! The volumes of programs on a compute node.
//!
//! A [`Pool`] is a btrfs file system of this node. Each persistent volume is a subvolume in it, whose size the file
//! system enforces. The volumes of a program belong together: they are live under an epoch, have snapshots in sets,
//! travel to another node as streams, and become live there under the next epoch. What may become of them is decided in
//! [`core`]; the diagram of their states is in [`core::program`].

mod btrfs;
pub mod core;
mod error;
mod export;
mod foreign;
mod inventory;
mod live;
mod pool;
mod process;
mod records;
pub mod replication;
mod snapshots;
mod streams;

pub use btrfs::ScrubReport;
pub use core::keeping::{Evidence, Heeded, Readable, Role};
pub use core::name::{NameTooLong, VolumeName, VolumeSpec};
pub use core::program::{Program, RecoveryPoint, Refusal, Source};
pub use core::snapshot::{SnapshotId, SnapshotSet};
pub use error::Error;
pub use inventory::{Inventory, Kept};
pub use live::{Removed, VolumeUsage};
pub use pool::{FileConfig, Pool, PoolConfig, PoolUsage, Storage};
pub use process::ProcessStream;
pub use streams::Hold;
