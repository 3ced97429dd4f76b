//! One isolated running copy of a program: its driver, and the supervisor process that owns it.
//!
//! A compute node's agent starts one `aleph-supervisor` for each sandbox. The supervisor outlives the agent, holds the
//! deadline, and has the sandbox made in two steps:
//!
//! 1. **prepare**: the runtime image is up, the init waits, nothing of anybody is in it;
//! 2. **claim**: limits, code, environment, network and identity of one program.
//!
//! ```text
//!  agent ── supervisor.sock ──▶ supervisor ── control socket ──▶ init ──▶ program
//!                                   │ driver (container/)
//!                                   └ kernel timer on itself: the fuse
//! ```
//!
//! Three things end a sandbox in time, each if the one before it cannot: the supervisor asks the program to end at the
//! lease's soft deadline and kills it through its cgroup at the kill deadline; a kernel timer kills the supervisor itself
//! at the fuse, even if it is stopped; and the init is bound to the supervisor by its parent-death signal, so that the
//! kernel kills the whole sandbox with it.

pub mod cgroup;
#[cfg(feature = "client")]
pub mod client;
pub mod container;
pub mod layout;
pub mod logs;
pub mod spec;
pub mod supervisor;
