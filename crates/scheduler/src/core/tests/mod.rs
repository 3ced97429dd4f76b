//! Tests of the decisions: `bench` is a scheduler with a database in memory and nodes that do as they are told; `behaviour`
//! tells stories on it, `data` those about programs' data, `archive` those about what the archive has of it, `moves` those
//! about planned moves, `leases` those about time, `faults` those about failures, `operators` those about orders and brakes;
//! `world` and `properties` let chance act.

mod archive;
mod behaviour;
mod bench;
mod data;
mod faults;
mod leases;
mod moves;
mod operators;
mod placing;
mod properties;
mod world;

use serde_json::{Value, json};

/// The content of a persistent program.
pub(crate) fn content(time: u32, memory: u64) -> Value {
    json!({
        "address": "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "time": time, "allow_amend": true,
        "environment": {}, "resources": {"vcpus": 1, "memory": memory}, "volumes": [], "type": "vm-function",
        "code": {"encoding": "zip", "entrypoint": "main:app", "ref": "aa"},
        "runtime": {"ref": "bb", "comment": ""}, "on": {"http": true, "persistent": true},
    })
}
