//! The message node as its clients see it: a real server on a real port with a real directory.

include!("modules.rs");
