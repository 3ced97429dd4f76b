//! The routes that a gateway knows: what it is told carries an epoch, and a lower one than the known is not believed.

use std::collections::HashMap;

use protocol::api::scheduler::{ProgramState, SchedulerEvent};
use protocol::{Epoch, ProgramId};

/// How many routes are kept at most.
const MAX_ROUTES: usize = 100_000;

/// Where a program runs and what it does there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The epoch of its assignment; 0 when it never had one.
    pub epoch: Epoch,
    /// The base URL of its node; `None` while it has none.
    pub node_url: Option<String>,
    /// What it does there.
    pub state: ProgramState,
    /// Why it is not ready, for people.
    pub reason: Option<String>,
}

/// The routes, each with the time `T` at which it was learned.
#[derive(Debug)]
pub struct KnownRoutes<T>(HashMap<ProgramId, (Route, T)>);

impl<T> Default for KnownRoutes<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Copy> KnownRoutes<T> {
    /// The route of a program, and when it was learned.
    pub fn get(&self, program: ProgramId) -> Option<(Route, T)> {
        self.0.get(&program).cloned()
    }

    /// Takes over a route, unless it is of a lower epoch than the known one.
    pub fn learn(&mut self, program: ProgramId, route: Route, now: T) {
        if self.0.len() >= MAX_ROUTES {
            self.0.clear();
        }
        if self.0.get(&program).is_none_or(|(current, _)| current.epoch <= route.epoch) {
            self.0.insert(program, (route, now));
        }
    }

    /// Takes in an event of a scheduler's stream.
    pub fn apply(&mut self, event: SchedulerEvent, now: T) {
        use SchedulerEvent::{VmScheduled, VmState, VmUnschedulable, VmUnscheduled};
        match event {
            VmScheduled { vm_hash, epoch, node_url, .. } => {
                let state = ProgramState::Assigned;
                self.learn(vm_hash, Route { epoch, node_url: Some(node_url), state, reason: None }, now);
            }
            VmState { vm_hash, epoch, state } => {
                let known = self.get(vm_hash).filter(|(route, _)| route.epoch == epoch);
                match known {
                    // Why it fails is asked for when somebody wants to know.
                    Some(_) if state == ProgramState::Failing => self.forget(vm_hash),
                    Some((route, _)) => self.learn(vm_hash, Route { state, reason: None, ..route }, now),
                    None => {}
                }
            }
            VmUnscheduled { vm_hash, epoch, reason, .. } => {
                let (node_url, state) = (None, ProgramState::Unplaced);
                self.learn(vm_hash, Route { epoch, node_url, state, reason: Some(reason) }, now);
            }
            VmUnschedulable { vm_hash, .. } => self.forget(vm_hash),
        }
    }

    /// Forgets a route that proved wrong, unless another has taken its place.
    pub fn doubt(&mut self, program: ProgramId, route: &Route) {
        if self.0.get(&program).is_some_and(|(current, _)| current == route) {
            self.0.remove(&program);
        }
    }

    /// Forgets a route.
    pub fn forget(&mut self, program: ProgramId) {
        self.0.remove(&program);
    }

    /// Forgets all routes.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
