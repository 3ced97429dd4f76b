//! The real scheduler, with compute nodes and a message node that the tests play. Nothing here waits for a while: every wait
//! is for a condition.

mod api;
mod compute_node;
mod following;
mod handshake;
mod leaders;
mod message_node;
mod moving;
mod network;
mod orders;
mod restart;
mod starting;
