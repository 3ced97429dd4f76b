//! One deterministic world around the product's pure cores, driven by a seed: machines with agents and supervisors,
//! schedulers with their store, a message node, gateways, and a network between them in which everything goes wrong that can.
//!
//! What decides is the product's: `scheduler::core` and its `leadership`, `compute_node::core::persistent` and `routes`,
//! `sandbox::supervisor::core`, `lease`. What this crate adds are shells around them as thin as the product's own, models of
//! what they talk to, faults, and a checker that sees everything at once. There is no clock and no randomness but the seed's:
//! the same seed tells the same story, on every machine.
//!
//! * `world`: what there is and what happens; `world/faults` what goes wrong; `world/phases` the story and its end.
//! * `store`: the database by the rules of the SQL store.
//! * [`check`]: the invariants.
//! * [`Trap`]: planted mistakes, which prove that the checker can fail.
//!
//! `make simulate SEEDS=10000` runs many seeds, `make simulate SEED=7` tells one story from beginning to end.
//! `tests/exhaustive` leaves nothing to chance, in a smaller world.

mod agenda;
mod chance;
pub mod check;
mod many;
mod options;
mod report;
mod store;
mod tally;
pub mod time;
mod trace;
mod trap;
mod world;

pub use check::{Invariant, Violation};
pub use many::{Outcome, run_many};
pub use options::Options;
pub use report::Report;
pub use tally::Tally;
pub use trace::Tracing;
pub use trap::Trap;

/// The names of all kinds of faults.
pub fn fault_names() -> impl Iterator<Item = &'static str> {
    world::fault_names()
}

/// Tells the story of a seed, and what became of it.
pub fn run(seed: u64, options: &Options) -> Report {
    world::run(seed, options)
}
