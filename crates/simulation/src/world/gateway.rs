//! Gateways: the shell around [`KnownRoutes`]. A gateway follows one scheduler's events and asks it now and then; stream and
//! answers overtake each other.

use std::collections::BTreeMap;
use std::time::Duration;

use compute_node::core::routes::{KnownRoutes, Route};
use protocol::api::scheduler::SchedulerEvent;
use protocol::{Epoch, ProgramId};
use scheduler::core::Notice;
use scheduler::scheduler_event;

use crate::check::Invariant;
use crate::time::Moment;
use crate::trap::Trap;

use super::{GatewayId, Happening, SchedulerId, SchedulerRun, World, name};

/// How long a gateway waits before it opens the stream again.
const RECONNECT: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(crate) struct Gateway {
    id: GatewayId,
    routes: KnownRoutes<Moment>,
    /// The highest epoch of each program that this stream's routes had.
    highest: BTreeMap<ProgramId, Epoch>,
    /// The scheduler that it follows; and which of its streams this is.
    follows: Option<SchedulerId>,
    stream: u32,
    next_scheduler: u8,
    /// When the newest event of the stream arrives.
    last: Moment,
}

/// What arrives at a gateway.
#[derive(Debug, Clone)]
pub(crate) enum RouteNews {
    Event(SchedulerEvent),
    Answer(ProgramId, Route),
}

impl Gateway {
    pub(crate) fn new(id: GatewayId) -> Self {
        let routes = KnownRoutes::default();
        Self { id, routes, highest: BTreeMap::new(), follows: None, stream: 0, next_scheduler: 0, last: Moment::ZERO }
    }
}

impl World {
    fn gateway_mut(&mut self, id: GatewayId) -> &mut Gateway {
        &mut self.gateways[usize::from(id.0)]
    }

    /// Opens the stream of the next scheduler.
    pub(super) fn gateway_follows(&mut self, id: GatewayId) {
        let count = u8::try_from(self.schedulers.len()).unwrap_or(1);
        let gateway = self.gateway_mut(id);
        let scheduler = SchedulerId(gateway.next_scheduler % count);
        gateway.next_scheduler = gateway.next_scheduler.wrapping_add(1);
        if self.host(scheduler).process.is_none() {
            return self.after(RECONNECT, Happening::GatewayFollows(id));
        }
        let gateway = self.gateway_mut(id);
        gateway.follows = Some(scheduler);
        gateway.stream += 1;
        // What changed while nobody listened is asked for when it is needed.
        gateway.routes.clear();
        gateway.highest.clear();
    }

    pub(super) fn scheduler_is_lost_to_gateways(&mut self, scheduler: SchedulerId) {
        let lost: Vec<_> = self.gateways.iter().filter(|g| g.follows == Some(scheduler)).map(|g| g.id).collect();
        for id in lost {
            self.gateway_mut(id).follows = None;
            self.after(RECONNECT, Happening::GatewayFollows(id));
        }
    }

    pub(super) fn tell_gateways(&mut self, run: SchedulerRun, notice: &Notice) {
        let Some(event) = scheduler_event(notice) else { return };
        for index in 0..self.gateways.len() {
            let takes = self.chance.millis(1, 60);
            let gateway = &mut self.gateways[index];
            if gateway.follows == Some(run.0) {
                // The stream keeps its order.
                gateway.last = gateway.last.max(self.now + takes);
                let (at, id, stream) = (gateway.last, gateway.id, gateway.stream);
                self.at(at, Happening::GatewayHears(id, stream, RouteNews::Event(event.clone())));
            }
        }
    }

    /// A request needs a route, and the gateway asks for it.
    pub(super) fn gateway_asks(&mut self, id: GatewayId) {
        let again = self.chance.millis(100, 3000);
        self.after(again, Happening::GatewayAsks(id));
        let programs: Vec<_> = self.message_node.all().collect();
        let (Some(program), Some(scheduler)) = (self.chance.one_of(&programs), self.gateway_mut(id).follows) else {
            return;
        };
        let host = self.host(scheduler);
        let Some(view) = host.process.as_ref().and_then(|process| process.core.program_view(program)) else { return };
        let route = Route {
            epoch: view.epoch.unwrap_or(Epoch::new(0)),
            node_url: view.place.map(|place| place.node.to_string()),
            state: view.state,
            reason: None,
            is_fault_of_node: false,
        };
        let takes = self.chance.mostly_short(Duration::from_secs(8));
        let stream = self.gateway_mut(id).stream;
        self.after(takes, Happening::GatewayHears(id, stream, RouteNews::Answer(program, route)));
    }

    pub(super) fn gateway_hears(&mut self, id: GatewayId, stream: u32, news: RouteNews) {
        let (now, believes_all) = (self.now, self.has_trap(Trap::RouteIgnoresEpoch));
        let gateway = self.gateway_mut(id);
        if gateway.stream != stream {
            return;
        }
        let program = match &news {
            RouteNews::Answer(program, _) => *program,
            RouteNews::Event(
                SchedulerEvent::VmScheduled { vm_hash, .. }
                | SchedulerEvent::VmState { vm_hash, .. }
                | SchedulerEvent::VmMoving { vm_hash, .. }
                | SchedulerEvent::VmUnscheduled { vm_hash, .. }
                | SchedulerEvent::VmUnschedulable { vm_hash, .. },
            ) => *vm_hash,
        };
        match news {
            RouteNews::Event(event) => gateway.routes.apply(event, now),
            RouteNews::Answer(program, route) => {
                if believes_all {
                    gateway.routes.clear();
                }
                gateway.routes.learn(program, route, now);
            }
        }
        let Some((route, _)) = gateway.routes.get(program) else { return };
        let highest = gateway.highest.entry(program).or_insert(route.epoch);
        let before = std::mem::replace(highest, route.epoch.max(*highest));
        if route.epoch < before {
            let what = format!("gateway {} takes epoch {} of {} after {before}", id.0, route.epoch, name(program));
            self.violated(Invariant::Routes, what);
        }
    }
}
