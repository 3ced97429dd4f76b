//! The routes that a gateway knows: what it is told carries an epoch, and a lower one than the highest is not believed. A
//! route that is forgotten leaves its epoch behind: an answer that comes late may be older than what was forgotten.

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
pub struct KnownRoutes<T>(HashMap<ProgramId, Known<T>>);

#[derive(Debug)]
struct Known<T> {
    route: Route,
    /// `None` when it is forgotten, and only its epoch counts.
    learned: Option<T>,
}

impl<T> Default for KnownRoutes<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Copy> KnownRoutes<T> {
    /// The route of a program, and when it was learned.
    pub fn get(&self, program: ProgramId) -> Option<(Route, T)> {
        let known = self.0.get(&program)?;
        Some((known.route.clone(), known.learned?))
    }

    /// Takes over a route, unless it is of a lower epoch than the highest that was known.
    pub fn learn(&mut self, program: ProgramId, route: Route, now: T) {
        if self.0.len() >= MAX_ROUTES {
            self.0.clear();
        }
        if self.0.get(&program).is_none_or(|known| known.route.epoch <= route.epoch) {
            self.0.insert(program, Known { route, learned: Some(now) });
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
        if self.0.get(&program).is_some_and(|known| known.route == *route) {
            self.forget(program);
        }
    }

    /// Forgets a route, but not its epoch.
    pub fn forget(&mut self, program: ProgramId) {
        if let Some(known) = self.0.get_mut(&program) {
            known.learned = None;
        }
    }

    /// Forgets all routes and their epochs: another scheduler, or another run of one, may count anew.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(epoch: u64) -> Route {
        Route { epoch: Epoch::new(epoch), node_url: None, state: ProgramState::Ready, reason: None }
    }

    #[test]
    fn an_answer_that_is_older_than_a_forgotten_route_is_not_believed() {
        let program = ProgramId::from_bytes([1; 32]);
        let mut routes = KnownRoutes::default();
        routes.learn(program, route(2), 1);
        routes.apply(SchedulerEvent::VmUnschedulable { vm_hash: program, reason: String::new() }, 2);
        assert_eq!(routes.get(program), None);
        routes.learn(program, route(1), 3);
        assert_eq!(routes.get(program), None, "the answer to a question from before");
        routes.learn(program, route(2), 4);
        assert_eq!(routes.get(program), Some((route(2), 4)));
        routes.doubt(program, &route(2));
        routes.learn(program, route(1), 5);
        assert_eq!(routes.get(program), None);
        routes.clear();
        routes.learn(program, route(1), 6);
        assert_eq!(routes.get(program), Some((route(1), 6)));
    }
}
