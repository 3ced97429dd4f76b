//! Decides which compute node runs each persistent program, and proves that only one does.
//!
//! ```text
//!   message node ◀── follow ──┐                       ┌──▶ store (SQLite): epochs, assignments
//!                             ▼                       │
//!   compute nodes ◀─▶ control ──▶ engine ──▶ core ────┤ commands
//!                             ▲     (one task)  (pure)│
//!                             │                       └──▶ snapshot, events ──▶ api ──▶ everybody
//!                             └── answers of the store
//! ```
//! * [`Config`] and [`run`] are the entrance; the binary `aleph-node` reads the one and calls the other.
//! * [`core`] decides and does no I/O: read its documentation first.
//! * `engine` owns the core and carries out what it asks for. `follow`, `control`, `store` and `api` are the shells.

mod api;
mod config;
mod control;
pub mod core;
mod engine;
mod error;
mod follow;
mod follower;
mod lead;
mod leadership;
mod metrics;
mod notices;
mod server;
mod snapshot;
mod store;

pub use config::{Config, DEFAULT_RESYNC, Database, RESTORE_AFTER};
pub use error::RunError;
pub use notices::scheduler_event;
pub use server::run;
