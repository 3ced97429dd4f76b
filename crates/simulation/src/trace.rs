//! What happened, for whoever looks into a seed.

use std::collections::VecDeque;

use crate::time::Moment;

/// Which lines are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracing {
    /// None.
    Off,
    /// The last ones.
    Last(usize),
    /// All.
    Full,
}

#[derive(Debug)]
pub(crate) struct Trace {
    tracing: Tracing,
    lines: VecDeque<String>,
}

impl Trace {
    pub(crate) fn new(tracing: Tracing) -> Self {
        Self { tracing, lines: VecDeque::new() }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.tracing != Tracing::Off
    }

    pub(crate) fn push(&mut self, at: Moment, line: String) {
        if let Tracing::Last(most) = self.tracing
            && self.lines.len() >= most
        {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{at}  {line}"));
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
