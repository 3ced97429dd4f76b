//! What must never be, and what has to come to pass so that this means something.

use stateright::Property;

use crate::model::Protocol;
use crate::state::{Broken, End, Node, State};

pub(crate) const ONE_COPY: &str = "I1: at most one sandbox runs";
pub(crate) const EPOCHS: &str = "I1: every epoch is above all before";
pub(crate) const DEPOSED: &str = "a deposed leader never writes";
pub(crate) const ONE_LEADER: &str = "at most one leader may grant";
pub(crate) const REALLOCATED: &str = "a program is started elsewhere after a lease that ran out";
pub(crate) const RELEASED: &str = "a program is started elsewhere after a release";
pub(crate) const TAKEN_OVER: &str = "a new leader renews what an old one assigned";
pub(crate) const LEADER_GONE: &str = "a leader that did not resign is followed by another";
pub(crate) const OUTLIVED: &str = "a sandbox outlives its agent";

/// All of them, by these names.
pub(crate) fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(ONE_COPY, |_, state: &State| {
            state.nodes.iter().filter(|node| node.sandbox.is_some()).count() <= 1
        }),
        Property::always(EPOCHS, |_, state: &State| state.broken != Some(Broken::EpochUsedAgain)),
        Property::always(DEPOSED, |_, state: &State| state.broken != Some(Broken::DeposedWrote)),
        Property::always(ONE_LEADER, |model: &Protocol, state: &State| {
            (0..state.schedulers.len()).filter(|index| model.grants(state, *index).is_some()).count() <= 1
        }),
        Property::sometimes(REALLOCATED, |_, state: &State| state.runs_again_after(End::LeaseOver)),
        Property::sometimes(RELEASED, |_, state: &State| state.runs_again_after(End::Released)),
        Property::sometimes(TAKEN_OVER, |_, state: &State| {
            let mut sandboxes = state.nodes.iter().filter_map(|node| node.sandbox);
            sandboxes.any(|sandbox| sandbox.epoch == 1 && sandbox.by == 2)
        }),
        Property::sometimes(LEADER_GONE, |model: &Protocol, state: &State| {
            let second = state.store.leader.is_some_and(|row| row.epoch == 2);
            second && state.left.resignations == model.bounds.left.resignations
        }),
        Property::sometimes(OUTLIVED, |_, state: &State| {
            state.nodes.iter().any(|node| node.is_agent_dead && node.sandbox.is_some())
        }),
    ]
}
impl State {
    /// Whether the program runs again after its first assignment ended like that.
    fn runs_again_after(&self, end: End) -> bool {
        let runs = |node: &Node| node.sandbox.is_some_and(|sandbox| sandbox.epoch == 2);
        self.store.last_end == Some(end) && self.store.last_epoch == 2 && self.nodes.iter().any(runs)
    }
}
