//! The client: aleph.
