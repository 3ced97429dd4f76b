//! Tests on real processes. One binary, so that tests that need no network of their own share one.

mod bad_programs;
mod failover;
mod on_demand;
mod oracles;
mod programs;
mod shared;
mod tutorial;
mod up;
