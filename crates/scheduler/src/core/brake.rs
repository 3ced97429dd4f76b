//! What keeps the scheduler from moving everything at once: when many nodes vanish together, the scheduler suspects itself
//! and its network first.
//!
//! ```text
//!            more than a share of the nodes went silent within the window
//!   Open ────────────────────────────────────────────────────────────────▶ Stopped
//!    ▲                                                                       │
//!    └── so many are back that the share is not exceeded any more, or an ────┘
//!        operator says that the silent ones are really gone
//! ```
//! While it is stopped no program that ran before gets a new node; new programs do, and leases go on and end as ever. Beside
//! that, reallocations have a rate: a burst, and so many a second after it.

use std::collections::BTreeMap;
use std::time::Duration;

use lease::BootTime;
use protocol::NodeId;

/// When to brake.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BrakePolicy {
    /// The share of the nodes, 0 to 1, of which more must not go silent within the window.
    pub share: f64,
    /// How many nodes have to be silent at least: in a small network one node is a large share.
    pub least: usize,
    /// The window.
    pub window: Duration,
    /// Reallocations at once.
    pub burst: u32,
    /// The time in which one more is allowed.
    pub pace: Duration,
}

impl Default for BrakePolicy {
    /// More than half, and at least four, within a minute; 200 at once and 50 a second.
    fn default() -> Self {
        Self { share: 0.5, least: 4, window: Duration::from_secs(60), burst: 200, pace: Duration::from_millis(20) }
    }
}

/// See the module.
#[derive(Debug)]
pub(in crate::core) struct Brake {
    policy: BrakePolicy,
    /// Nodes that are silent, and since when. Those that an operator has given up are not here.
    silent: BTreeMap<NodeId, BootTime>,
    /// How many nodes there were, and how many of them were silent, when it stopped.
    stopped: Option<(usize, usize)>,
    /// When the reallocations so far would have been made at the pace.
    paced: BootTime,
}

/// Whether a program may be reallocated now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// It may.
    Granted,
    /// Not before this time.
    Later(BootTime),
    /// Not until the brake opens.
    Stopped,
}

impl Brake {
    pub(in crate::core) fn new(policy: BrakePolicy) -> Self {
        Self { policy, silent: BTreeMap::new(), stopped: None, paced: BootTime::BOOT }
    }

    /// A node went silent; there are so many nodes. Whether that stops reallocation.
    pub(super) fn silent(&mut self, now: BootTime, node: NodeId, nodes: usize) -> bool {
        self.silent.entry(node).or_insert(now);
        let recent = self.silent.values().filter(|since| now.since(**since) <= self.policy.window).count();
        let stops = self.stopped.is_none() && self.is_too_many(recent, nodes);
        if stops {
            self.stopped = Some((nodes, recent));
        }
        stops
    }

    /// A node is heard, or no node any more; there are so many nodes. Whether reallocation goes on again.
    pub(super) fn heard(&mut self, node: NodeId, nodes: usize) -> bool {
        self.silent.remove(&node);
        let opens = self.stopped.is_some() && !self.is_too_many(self.silent.len(), nodes);
        if opens {
            self.stopped = None;
        }
        opens
    }

    /// An operator says that what is silent is gone. Whether reallocation was stopped.
    pub(super) fn release(&mut self) -> bool {
        self.silent.clear();
        self.stopped.take().is_some()
    }

    /// Asks to reallocate a program; a permit that is granted counts.
    pub(super) fn permit(&mut self, now: BootTime) -> Permit {
        if self.stopped.is_some() {
            return Permit::Stopped;
        }
        let earliest = self.paced - self.policy.pace * self.policy.burst.saturating_sub(1);
        if now < earliest {
            return Permit::Later(earliest);
        }
        self.paced = self.paced.max(now) + self.policy.pace;
        Permit::Granted
    }

    /// Whether a permit would be refused.
    #[cfg(test)]
    pub(super) fn holds(&self, now: BootTime) -> bool {
        let mut copy = Self { silent: BTreeMap::new(), ..*self };
        copy.permit(now) != Permit::Granted
    }

    /// Why reallocation is stopped, for people.
    pub(super) fn reason(&self) -> Option<String> {
        let (nodes, silent) = self.stopped?;
        Some(format!(
            "reallocation is stopped: {silent} of {nodes} nodes went silent within {} s. It goes on when enough of them are \
             back, or when an operator says `aleph node resume`",
            self.policy.window.as_secs()
        ))
    }

    #[allow(clippy::cast_precision_loss)] // Nobody has 2^52 nodes.
    fn is_too_many(&self, silent: usize, nodes: usize) -> bool {
        silent >= self.policy.least && silent as f64 > self.policy.share * nodes as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn at(seconds: u64) -> BootTime {
        BootTime::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn many_that_vanish_together_stop_it_and_enough_that_return_let_it_go_on() {
        let mut brake = Brake::new(BrakePolicy::default());
        for number in 1..=5 {
            assert!(!brake.silent(at(number.into()), node(number), 10), "half of them is not more than half");
        }
        assert!(brake.silent(at(6), node(6), 10));
        assert!(!brake.silent(at(7), node(7), 10), "it is stopped already");
        assert_eq!(brake.permit(at(7)), Permit::Stopped);
        assert!(brake.reason().unwrap().contains("6 of 10"));
        assert!(!brake.heard(node(1), 10));
        assert!(brake.heard(node(2), 10));
        assert_eq!(brake.permit(at(8)), Permit::Granted);
        assert_eq!(brake.reason(), None);
    }

    #[test]
    fn losses_one_after_the_other_are_no_reason() {
        let mut brake = Brake::new(BrakePolicy::default());
        for number in 1..=9 {
            assert!(!brake.silent(at(u64::from(number) * 30), node(number), 10));
        }
    }

    #[test]
    fn small_networks_go_on() {
        let mut brake = Brake::new(BrakePolicy::default());
        for number in 1..=3 {
            assert!(!brake.silent(at(1), node(number), 3));
        }
        assert_eq!(brake.permit(at(1)), Permit::Granted);
    }

    #[test]
    fn an_operator_lets_it_go_on_and_the_same_nodes_do_not_stop_it_again() {
        let mut brake = Brake::new(BrakePolicy::default());
        let stops = (1..=8).filter(|number| brake.silent(at(1), node(*number), 10)).count();
        assert_eq!(stops, 1);
        assert!(brake.release());
        assert!(!brake.release());
        assert!(!brake.silent(at(2), node(9), 10));
        assert_eq!(brake.permit(at(2)), Permit::Granted);
    }

    #[test]
    fn a_burst_and_then_a_pace() {
        let policy = BrakePolicy { burst: 3, pace: Duration::from_secs(10), ..BrakePolicy::default() };
        let mut brake = Brake::new(policy);
        for _ in 0..3 {
            assert_eq!(brake.permit(at(100)), Permit::Granted);
        }
        assert_eq!(brake.permit(at(100)), Permit::Later(at(110)));
        assert_eq!(brake.permit(at(110)), Permit::Granted);
        assert_eq!(brake.permit(at(110)), Permit::Later(at(120)));
        for _ in 0..3 {
            assert_eq!(brake.permit(at(1000)), Permit::Granted, "it recovers");
        }
    }
}
