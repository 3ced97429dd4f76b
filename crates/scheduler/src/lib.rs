//! Decides which compute node runs each persistent program, and proves that only one does.

pub mod core;
