//! An Aleph message node: accepts, checks, stores and streams Aleph messages; keeps files; answers aggregates, balances and
//! prices.
//!
//! ```text
//!  HTTP, WebSocket      api ──────────────┐ reads
//!                        │ submits         ▼
//!                     pipeline ─────▶ store (SQL)   files (by SHA-256; CIDs lead to it)
//!                        │ asks
//!                 core (the rules, pure)   prices   balances
//! ```
//! * [`Config`] and [`run`] are the entrance; the binary `aleph-node` reads the one and calls the other.
//! * `core` decides and does no I/O. `pipeline` looks up what `core` asks for and carries out what it says; its module
//!   documentation has the life of a message.
//! * `follow` takes in what another message node has.
//! * `archive` keeps snapshot sets of programs' volumes, encrypted, for the compute nodes that run them.
//! * Everything is in one directory: `messages.sqlite` (or a PostgreSQL database), `files/` and `snapshots/` (or buckets) and
//!   `snapshots.key`. What was answered with success is in there, durably.
//! * `leadership` says which of several processes on one PostgreSQL database decides and writes. The others answer what is
//!   read, and pass on the rest (`api/pass_on`).

mod admission;
mod api;
mod archive;
mod balances;
mod clock;
mod config;
pub mod core;
mod error;
mod events;
mod files;
mod filter;
mod follow;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod leadership;
mod metrics;
mod node;
mod pipeline;
mod place;
mod prices;
mod published;
mod server;
mod store;
mod view;

pub use crate::core::quota::{Rate, SenderRates};
pub use config::{
    ArchiveConfig, Config, FollowConfig, Limits, PaymentRules, SenderRules, Timing, TokenAddress, TokenConfig,
};
pub use error::RunError;
pub use place::{Bucket, StoragePlace};
pub use server::run;
pub use store::copy::{Copied, CopyError, copy};
