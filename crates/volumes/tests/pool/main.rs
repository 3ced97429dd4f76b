//! The pool on the real btrfs of this machine. Needs root.

mod export;
mod keeping;
mod live;
mod open;
mod replication;
mod snapshots;
mod streams;
mod support;
