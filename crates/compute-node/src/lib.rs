//! Runs programs, and takes requests for them wherever they run.
//!
//! ```text
//!                    ┌──────────────────── agent ────────────────────┐
//!  scheduler ◀─────▶ control        core/persistent   core/on_demand │
//!                    │    what programs are, need and run in:        │
//!  message node ◀──▶ │    programs/ (catalog, files, images, code,   │
//!                    │               sandboxes, network)             │
//!                    └───────────────────────────────────────────────┘
//!  programs ───────▶ guest_api/ ─▶ who they are, flushing of volumes
//!  requests ───────▶ server ─▶ gateway/ ─▶ a sandbox here, or another node
//!                           └▶ api/
//!  its operator ────▶ admin/ ─▶ what there is of programs' volumes
//! ```
//!
//! [`core`] is pure. [`node::run`] puts everything together.

pub mod admin;
mod agent;
mod api;
pub mod config;
mod control;
pub mod core;
mod epochs;
mod gateway;
mod guest_api;
pub mod machine;
mod metrics;
pub mod node;
mod programs;
mod registration;
mod server;
mod single_flight;
mod statements;
#[cfg(test)]
mod warnings;

pub use config::Config;
pub use node::{GatewayConfig, RunError, run, run_gateway};
/// Gives this process mounts of its own, so that runtime images are unmounted when it ends, however it ends. A compute
/// node's process calls it first of all, while it has one thread.
pub use sandbox::container::enter_own_namespace;
pub use volumes::{FileConfig, PoolConfig, Storage};
