//! One deterministic world around the product's pure cores, driven by a seed: machines with agents and supervisors,
//! schedulers with their store, a message node, gateways, and a network between them in which everything goes wrong that can.
//!
//! What decides is the product's: `scheduler::core` and its `leadership`, `compute_node::core::persistent`, `data` and `routes`,
//! `volumes::core` and `volumes::replication::core`, `compute_node::core::archive` and the archive's rules in `message_node::core`, `sandbox::supervisor::core`, `lease`. What this crate adds are shells around them as thin as the product's own, models of
//! what they talk to, faults, and a checker that sees everything at once. There is no clock and no randomness but the seed's:
//! the same seed tells the same story, on every machine.
//!
//! * `world`: what there is and what happens; `world/faults` what goes wrong; `world/phases` the story and its end; `world/data`
//!   the volumes of programs and their copies.
//! * `writes`: what programs wrote, and what a volume or a snapshot holds of it.
//! * `store`: the database by the rules of the SQL store.
//! * [`check`]: the invariants.
//! * [`Trap`]: planted mistakes, which prove that the checker can fail.
//!
//! | what is promised | when it is looked at |
//! | --- | --- |
//! | I1 one copy, epochs | after every step; when a sandbox becomes a program's |
//! | I2 routes | when a gateway hears of one |
//! | I2 streams | when a standby takes in a snapshot: none of an epoch below the highest that this disk has seen |
//! | I3 liveness | after all healed, and after a machine was lost in calm; a program with data where its data is |
//! | I4 one line of writes | at every start: what the last epoch left, or a beginning of it, never a mix |
//! | I4 losses | at every start with less: the scheduler said so, and not less than it is |
//! | I4 never with nothing | at every start of a program that shall wait for its data |
//! | I4 flushes | at every start with less: what was flushed is there, as long as any disk has it |
//! | I4 moves | after a node was drained in calm |
//! | I4 restores | at every assignment that goes back, that somebody wants that; at its start, that it has the snapshot, no more, no less |
//! | I4 archive | whenever it is listed or tidied up: what it lists can be restored, and is what was archived |
//! | I5 room | at the scheduler, in its store, in what nodes are told to run and to keep, and on the machines |
//! | rules 3 and 4 | at every deadline, end and stop |
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
mod writes;

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
