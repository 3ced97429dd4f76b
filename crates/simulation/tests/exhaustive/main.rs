//! Leases and epochs, exhaustively: everything that can happen to one program within a few ticks, by `stateright`. The
//! simulation around this draws stories; this leaves none out, of a world that is smaller.
//!
//! ```text
//!   scheduler            look: free                 claim taken
//!             Following ───────────▶ claims ──────────────────────▶ Leading: may grant ──time──▶ may not
//!                 ▲                    │ the row is another             │      ▲                   │
//!                 └────────────────────┴───── resigns, or the row ◀─────┘      └──── beat taken ◀──┘
//!                                             is another's when it beats or writes
//!
//!   its program          place            write: open, epoch + 1           heartbeat: renewed, granted
//!             Unplaced ─────────▶ Storing ──────────────────────▶ Assigned ─────┐
//!                 ▲                                                │   │ ▲──────┘
//!                 │                             lease over,        │   │ release
//!                 │   write: closed             never granted      ▼   ▼
//!                 └──────────────────── Closing ◀────────────── · Releasing
//!                                                released, lease over
//!   node      nothing ──grant: Run──▶ lease ──▶ sandbox ──grant: Release──▶ stops ──▶ gone, says so from then on
//!                                                  └── fuse: gone, whether or not the agent lives
//!   network   what was sent arrives at any later time or never; on one connection in its order, and once
//! ```
//! The product decides when a lease ends (`lease::LeaseTimes`) and when a leader is gone (`scheduler::core::leadership`).
//! The rest is told again in `model`, as the cores count versions and keep timers, which makes every state a new one: whether
//! *they* do what is told here is for the simulation to say.
//!
//! Bounds: one program, two schedulers, three nodes, one store; so many ticks of the true time, of which a lease lasts two
//! and some (`clocks`); a heartbeat of each node and a beat of the leader in each; and of each kind of mishap one.
//! A lost message is one that never arrives, a paused scheduler one to which nothing happens. Not looked at: messages that
//! arrive later than a lease after their heartbeat, beats that are under way while others act, and databases that forget.
//! That no deposed leader writes is what the transaction's check is for; a planted mistake shows that one tries.
//!
//! `make exhaustive DEPTH=4` looks at all mishaps together for so many ticks, at each alone for one more, and at none for two.

mod clocks;
mod model;
mod properties;
mod state;
mod trap;

use std::collections::BTreeSet;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use model::{Bounds, Protocol};
use properties::{DEPOSED, EPOCHS, LEADER_GONE, ONE_COPY, ONE_LEADER, OUTLIVED, REALLOCATED, RELEASED, TAKEN_OVER};
use state::{Left, Tick};
use trap::Trap;

const NEVER: [&str; 4] = [ONE_COPY, EPOCHS, DEPOSED, ONE_LEADER];
const SOMETIMES: [&str; 5] = [REALLOCATED, RELEASED, TAKEN_OVER, LEADER_GONE, OUTLIVED];

const NO_MISHAPS: Left = Left { agent_deaths: 0, releases: 0, resignations: 0, lost_answers: 0 };
const AGENT_DIES: Left = Left { agent_deaths: 1, ..NO_MISHAPS };
const RELEASE: Left = Left { releases: 1, ..NO_MISHAPS };
const RESIGNATION: Left = Left { resignations: 1, ..NO_MISHAPS };
const LOST_ANSWER: Left = Left { lost_answers: 1, ..NO_MISHAPS };
const ALL: Left = Left { agent_deaths: 1, releases: 1, resignations: 1, lost_answers: 1 };

fn bounds(ticks: Tick, left: Left) -> Bounds {
    Bounds { nodes: 3, ticks, heartbeats_a_tick: 1, left }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, Into::into)
}

/// Looks at everything within the bounds. Returns what came to pass of that which has to.
fn holds(bounds: Bounds) -> BTreeSet<&'static str> {
    let began = Instant::now();
    let checker = Protocol::new(bounds, None).checker().threads(threads()).spawn_bfs().join();
    println!(
        "{} states, {} of them different, stories of up to {} steps in {} ticks with {:?}: {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        bounds.ticks,
        bounds.left,
        began.elapsed().as_secs_f64(),
    );
    for name in NEVER {
        checker.assert_no_discovery(name);
    }
    SOMETIMES.into_iter().filter(|name| checker.discovery(name).is_some()).collect()
}

#[test]
fn leases_and_epochs_hold_whatever_happens() {
    let with = |ticks, left| bounds(ticks, left);
    let worlds =
        [with(4, NO_MISHAPS), with(3, AGENT_DIES), with(3, RELEASE), with(3, RESIGNATION), with(3, LOST_ANSWER)];
    let seen: BTreeSet<_> = worlds.into_iter().flat_map(holds).collect();
    let missing: Vec<_> = SOMETIMES.iter().filter(|name| !seen.contains(*name)).collect();
    assert!(missing.is_empty(), "a world in which this never comes to pass shows nothing: {missing:?}");
}

#[test]
#[ignore = "make exhaustive"]
fn deeper() {
    let ticks = std::env::var("DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(3);
    holds(bounds(ticks + 2, NO_MISHAPS));
    for left in [AGENT_DIES, RELEASE, RESIGNATION, LOST_ANSWER] {
        holds(bounds(ticks + 1, left));
    }
    assert_eq!(holds(bounds(ticks, ALL)), BTreeSet::from(SOMETIMES));
}

/// The mistake breaks what it has to break, in a world that holds without it: but for the last, all of these lie within those
/// of [`leases_and_epochs_hold_whatever_happens`].
fn is_caught(trap: Trap, breaks: &'static str, bounds: Bounds) {
    let planted = Protocol::new(bounds, Some(trap));
    let finish = HasDiscoveries::AllOf(BTreeSet::from([breaks]));
    let checker = planted.checker().threads(threads()).finish_when(finish).spawn_bfs().join();
    let Some(story) = checker.discovery(breaks) else { panic!("{trap:?} is not noticed: {breaks}") };
    println!("{trap:?} breaks '{breaks}', seen after {} states:", checker.unique_state_count());
    for action in story.into_actions() {
        println!("    {action:?}");
    }
}

#[test]
fn a_holder_that_counts_from_the_arrival_of_the_answer() {
    is_caught(Trap::CountsFromArrival, ONE_COPY, bounds(3, NO_MISHAPS));
}

#[test]
fn a_new_leader_that_does_not_wait() {
    is_caught(Trap::NoWait, ONE_COPY, bounds(2, NO_MISHAPS));
}

#[test]
fn an_issuer_without_margin() {
    is_caught(Trap::NoMargin, ONE_COPY, bounds(3, NO_MISHAPS));
}

#[test]
fn epochs_from_a_clock() {
    is_caught(Trap::EpochFromClock, EPOCHS, bounds(1, RELEASE));
}

#[test]
fn a_leader_that_goes_on_until_it_is_told() {
    is_caught(Trap::LeadsUntilTold, ONE_LEADER, bounds(2, NO_MISHAPS));
}

/// What follows from two that grant: both have their programs run.
#[test]
fn two_leaders_run_two_copies() {
    is_caught(Trap::LeadsUntilTold, ONE_COPY, bounds(4, NO_MISHAPS));
}

#[test]
fn transactions_that_do_not_look_who_leads() {
    is_caught(Trap::NoCheckOfLeader, DEPOSED, bounds(2, NO_MISHAPS));
}

#[test]
fn a_release_acted_on_before_the_sandbox_is_gone() {
    is_caught(Trap::ReleaseBeforeGone, ONE_COPY, bounds(3, RELEASE));
}

#[test]
fn a_deadline_that_only_the_agent_enforces() {
    is_caught(Trap::DeadlineInAgentOnly, ONE_COPY, bounds(3, AGENT_DIES));
}

/// What a stream's order is for: an order to run that comes again after the release starts the program again.
#[test]
fn grants_in_any_order() {
    let bounds = Bounds { heartbeats_a_tick: 2, ..bounds(1, RELEASE) };
    is_caught(Trap::AnyOrder, ONE_COPY, bounds);
    holds(bounds);
}
