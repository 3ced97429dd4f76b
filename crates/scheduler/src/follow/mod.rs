//! Follows a message node through its public API: `programs` what shall run, `nodes` who may run it.
//!
//! A message node that does not answer is no error: what was known stays known, and it is asked again.

pub(crate) mod nodes;
pub(crate) mod programs;
mod verify;

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
