//! What may happen to the volumes of a program, decided without I/O: events and times in, decisions out.

pub mod growth;
pub mod keeping;
pub mod name;
pub mod program;
pub mod snapshot;

#[cfg(test)]
mod tests;
