//! Follows a message node through its public API: `programs` what shall run, `nodes` who may run it.
//!
//! A message node that does not answer is no error: what was known stays known, and it is asked again.

pub(crate) mod nodes;
pub(crate) mod programs;
mod verify;

use std::time::Duration;

/// The first and the longest pause before the message node is tried again.
const QUICKEST: Duration = Duration::from_millis(250);
const SLOWEST: Duration = Duration::from_secs(15);

/// How the message node is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Following {
    /// Whether its list of programs was read since this process started.
    pub(crate) has_listed: bool,
    /// What went wrong when it was last asked.
    pub(crate) failure: Option<String>,
}

impl Default for Following {
    fn default() -> Self {
        Self { has_listed: false, failure: Some("it was not asked yet".to_owned()) }
    }
}

/// Pauses that double.
#[derive(Debug)]
struct Pauses(Duration);

impl Pauses {
    fn new() -> Self {
        Self(QUICKEST)
    }

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(SLOWEST);
        pause
    }

    fn reset(&mut self) {
        self.0 = QUICKEST;
    }
}
