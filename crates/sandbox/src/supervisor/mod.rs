//! The supervisor: the small process that owns one sandbox and its deadline. [`core`] decides, [`process`] does.

pub mod core;
mod fuse;
mod output;
mod peers;
mod process;

pub use process::run;
