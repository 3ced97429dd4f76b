//! What every part of the network agrees on: names, ids and epochs, the Aleph messages and their signatures, the control
//! protocol between scheduler and compute node, and the types of the public APIs.
//!
//! Nothing here decides anything. With the `client` feature it also holds the HTTP and WebSocket clients of the message
//! node and the scheduler, because three of our crates need the same ones.

pub mod account;
pub mod address;
pub mod alias;
pub mod api;
#[cfg(feature = "client")]
pub mod client;
pub mod control;
pub mod data;
pub mod file;
pub mod history;
pub mod id;
pub mod isolation;
pub mod message;
pub mod network;
#[cfg(feature = "openapi")]
pub mod openapi;
pub mod operation;
pub mod signed_request;

pub use account::Account;
pub use address::Address;
pub use alias::{Alias, Aliases};
pub use file::{FileCheck, FileHasher, FileName, FileNameError, FileNames, NameHasher};
pub use id::{BootId, Epoch, FileHash, NodeId, ProgramId};
pub use isolation::Isolation;
