//! The same tests once more, with nodes that keep their messages on PostgreSQL: what holds for one engine, holds for the other.

include!("../it/modules.rs");
