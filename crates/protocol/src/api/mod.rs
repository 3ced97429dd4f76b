//! The shapes of the public HTTP APIs, shared by the servers and the clients.

pub mod archive;
pub mod compute_node;
pub mod message_node;
mod moves;
pub mod scheduler;
