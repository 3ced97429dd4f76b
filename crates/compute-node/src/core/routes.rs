//! The routes that a gateway knows: what it is told carries an epoch, and a lower one than the highest is not believed. A
//! route that is forgotten leaves its epoch behind: an answer that comes late may be older than what was forgotten.

use std::collections::HashMap;
use std::time::Duration;

use protocol::api::scheduler::{ProgramState, SchedulerEvent};
use protocol::{Epoch, ProgramId};

/// A route to a program that answers is asked for again after this long even if no event told of a change.
const FRESH: Duration = Duration::from_secs(30);

/// The same for a program that does not answer, and for every route while no events come: somebody may be waiting.
const FRESH_IN_DOUBT: Duration = Duration::from_millis(500);

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
    /// Whether what keeps it from being ready is its node's fault, which passes: it is tried again or moved.
    pub is_fault_of_node: bool,
}

impl Route {
    fn new(epoch: Epoch, node_url: Option<String>, state: ProgramState, reason: Option<String>) -> Self {
        Self { epoch, node_url, state, reason, is_fault_of_node: false }
    }

    /// How long it is believed after it was learned, if no event told of another. `streaming` is whether events come.
    pub fn fresh_for(&self, streaming: bool) -> Duration {
        if streaming && self.state == ProgramState::Ready { FRESH } else { FRESH_IN_DOUBT }
    }
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
        use SchedulerEvent::{VmMoving, VmScheduled, VmState, VmUnschedulable, VmUnscheduled};
        match event {
            VmScheduled { vm_hash, epoch, node_url, .. } => {
                self.learn(vm_hash, Route::new(epoch, Some(node_url), ProgramState::Assigned, None), now);
            }
            VmState { vm_hash, epoch, state } => {
                let known = self.get(vm_hash).filter(|(route, _)| route.epoch == epoch);
                match known {
                    // Why it fails is asked for when somebody wants to know.
                    Some(_) if state == ProgramState::Failing => self.forget(vm_hash),
                    Some((route, _)) => self.learn(vm_hash, Route::new(epoch, route.node_url, state, None), now),
                    None => {}
                }
            }
            VmUnscheduled { vm_hash, epoch, reason, .. } => {
                self.learn(vm_hash, Route::new(epoch, None, ProgramState::Unplaced, Some(reason)), now);
            }
            VmUnschedulable { vm_hash, .. } => self.forget(vm_hash),
            VmMoving { .. } => {}
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
        Route::new(Epoch::new(epoch), None, ProgramState::Ready, None)
    }

    #[test]
    fn only_a_route_that_works_and_would_be_contradicted_is_believed_for_long() {
        let ready = route(1);
        assert_eq!(ready.fresh_for(true), FRESH);
        assert_eq!(ready.fresh_for(false), FRESH_IN_DOUBT);
        let starting = Route { state: ProgramState::Starting, ..ready };
        assert_eq!(starting.fresh_for(true), FRESH_IN_DOUBT);
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
