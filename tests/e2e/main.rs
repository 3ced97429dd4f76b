//! Tests on real processes. One binary, so that tests that need no network of their own share one.

mod adoption;
mod archive;
mod attacked;
mod bad_programs;
mod chain;
mod ephemeral;
mod failover;
mod full_disk;
mod guest_api;
mod ipfs;
mod isolation;
mod node_volumes;
mod on_demand;
mod operators;
mod oracles;
mod plain_code;
mod programs;
mod python_client;
mod shared;
mod spares;
mod streams;
mod tutorial;
mod up;
mod volumes;
mod waiting;
mod wrong_bytes;
