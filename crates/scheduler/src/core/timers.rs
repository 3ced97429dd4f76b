//! When to look at a program or a node again.
//!
//! A timer says "look at this not later than then". Whoever looks decides by the state of that moment and arms it again, so
//! what is put off, as a lease that is renewed every second, does not touch its timer at all.

use std::collections::{BTreeMap, BTreeSet};

use lease::BootTime;
use protocol::{NodeId, ProgramId};

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A program: its lease, a write to try again, a node to try again.
    Program(ProgramId),
    /// A node: whether it is silent.
    Node(NodeId),
    /// Reallocations that have to wait for their turn.
    Brake,
    /// The leases of earlier processes.
    EarlierLeases,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(BootTime, Timer)>,
    armed: BTreeMap<Timer, BootTime>,
}

impl Timers {
    /// Looks at it at this time, unless that is already to happen earlier.
    pub(super) fn arm(&mut self, timer: Timer, at: BootTime) {
        match self.armed.get(&timer) {
            Some(&earlier) if earlier <= at => return,
            Some(&later) => self.queue.remove(&(later, timer)),
            None => false,
        };
        self.armed.insert(timer, at);
        self.queue.insert((at, timer));
    }

    /// The next one that is due.
    pub(super) fn pop(&mut self, now: BootTime) -> Option<Timer> {
        let (at, timer) = *self.queue.first().filter(|(at, _)| *at <= now)?;
        self.queue.remove(&(at, timer));
        self.armed.remove(&timer);
        Some(timer)
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<BootTime> {
        self.queue.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_time_counts_and_each_fires_once() {
        let (at, timer) = (BootTime::from_nanos, Timer::Program(ProgramId::from_bytes([1; 32])));
        let mut timers = Timers::default();
        timers.arm(timer, at(5));
        timers.arm(timer, at(9));
        assert_eq!(timers.next(), Some(at(5)));
        timers.arm(timer, at(3));
        timers.arm(Timer::EarlierLeases, at(4));
        assert_eq!(timers.pop(at(2)), None);
        assert_eq!(timers.pop(at(9)), Some(timer));
        assert_eq!(timers.pop(at(9)), Some(Timer::EarlierLeases));
        assert_eq!((timers.pop(at(9)), timers.next()), (None, None));
    }
}
