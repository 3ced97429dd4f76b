//! How a world is run.

use crate::check::Invariant;
use crate::trace::Tracing;
use crate::trap::Trap;

/// How a world is run, beside its seed.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A planted mistake.
    pub trap: Option<Trap>,
    /// What is kept of the story.
    pub trace: Tracing,
    /// The kinds of faults, by name, that strike often and alone; every world draws its own when absent.
    pub faults: Option<&'static [&'static str]>,
    /// Only this invariant is looked at; all of them when absent.
    pub watches: Option<Invariant>,
}

impl Default for Options {
    fn default() -> Self {
        Self { trap: None, trace: Tracing::Off, faults: None, watches: None }
    }
}
