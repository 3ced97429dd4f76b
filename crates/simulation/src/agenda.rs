//! What will happen, in order.

use std::collections::BTreeMap;

use crate::time::Moment;

/// What happens at the same moment happens in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// The kernel does it, before any process runs.
    Kernel,
    /// Everything else.
    Usual,
}

/// Happenings by their moments. Those of one moment happen in the order in which they were put down.
#[derive(Debug)]
pub(crate) struct Agenda<T> {
    entries: BTreeMap<(Moment, Urgency, u64), T>,
    last: u64,
}

impl<T> Agenda<T> {
    pub(crate) fn new() -> Self {
        Self { entries: BTreeMap::new(), last: 0 }
    }

    pub(crate) fn put(&mut self, at: Moment, urgency: Urgency, what: T) {
        self.last += 1;
        self.entries.insert((at, urgency, self.last), what);
    }

    pub(crate) fn next(&mut self) -> Option<(Moment, T)> {
        let ((at, ..), what) = self.entries.pop_first()?;
        Some((at, what))
    }

    pub(crate) fn next_at(&self) -> Option<Moment> {
        self.entries.first_key_value().map(|((at, ..), _)| *at)
    }
}
