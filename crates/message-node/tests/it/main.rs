//! Tests of message nodes on SQLite, by what they answer.

include!("modules.rs");
