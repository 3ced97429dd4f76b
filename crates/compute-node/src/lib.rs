//! Runs programs, and takes requests for them wherever they run.
pub mod core;
