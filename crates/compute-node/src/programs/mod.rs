//! The programs of this node: what they are, what they need, and the sandboxes that they run in.

pub(crate) mod catalog;
pub(crate) mod code;
pub(crate) mod data;
mod downloads;
pub(crate) mod endpoint;
pub(crate) mod fetch;
pub(crate) mod files;
pub(crate) mod freezer;
pub(crate) mod images;
pub(crate) mod launch;
mod making;
pub(crate) mod network;
pub(crate) mod pins;
mod resolutions;
mod revisions;
pub(crate) mod sandboxes;
pub(crate) mod slots;
mod spares;
mod standstill;
