//! The server: aleph-node.
