//! Where persistent programs run: asked of the scheduler once, then kept true by its event stream. What carries a lower
//! epoch than the highest seen is not believed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use protocol::api::scheduler::{NodeStatus, SchedulerEvent, VmRecord};
use protocol::client::{ClientError, Scheduler};
use protocol::control::FailureKind;
use protocol::{Epoch, NodeId, ProgramId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::core::routes::KnownRoutes;
pub(crate) use crate::core::routes::Route;
use crate::single_flight::SingleFlight;

/// How long to wait before the stream is opened again.
const RECONNECT: Duration = Duration::from_millis(500);

/// A scheduler that sends no event is asked for a sign of life after this long, and given up after as long again: a request
/// for a program that moved would wait in vain for the news.
const PING_AFTER: Duration = Duration::from_secs(1);

/// A scheduler that did not answer for this long is not waited for alone: the next one is asked, too.
const HEDGE: Duration = Duration::from_millis(300);

/// How long a request waits for news before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

fn route_of(record: VmRecord) -> Route {
    let failure = record.failure.map(|failure| failure.kind);
    Route {
        epoch: record.epoch.unwrap_or(Epoch::new(0)),
        node_url: record.node_url,
        state: record.state,
        reason: failure.map(|kind| kind.words().to_owned()).or(record.reason),
        is_fault_of_node: failure.is_some_and(FailureKind::is_fault_of_node),
    }
}

type Asked = Result<Option<Route>, Arc<ClientError>>;

/// Nodes by their URLs.
type NodeList = Arc<[(NodeId, String)]>;

/// The list of nodes counts for so long.
const NODES_FRESH: Duration = Duration::from_secs(1);

/// For so long nobody waits for a newer one: a node that is gone by then is passed over.
const NODES_USABLE: Duration = Duration::from_secs(60);

/// The routes that this gateway knows.
pub(crate) struct Routes {
    schedulers: Vec<Scheduler>,
    known: Mutex<KnownRoutes<Instant>>,
    lookups: SingleFlight<ProgramId, Asked>,
    nodes: Mutex<Option<(NodeList, Instant)>>,
    node_lookups: SingleFlight<(), Result<NodeList, Arc<ClientError>>>,
    changed: Notify,
    streaming: AtomicBool,
    /// The number of the scheduler whose events come, or came last.
    followed: AtomicUsize,
}

impl Routes {
    pub(crate) fn new(schedulers: &[String]) -> Arc<Self> {
        Arc::new(Self {
            schedulers: schedulers.iter().map(Scheduler::new).collect(),
            known: Mutex::default(),
            lookups: SingleFlight::default(),
            nodes: Mutex::default(),
            node_lookups: SingleFlight::default(),
            changed: Notify::new(),
            streaming: false.into(),
            followed: 0.into(),
        })
    }

    /// Where a program runs; `None` when no scheduler knows it. Schedulers that cannot be asked do not make a known route
    /// unknown.
    pub(crate) async fn find(self: &Arc<Self>, program: ProgramId) -> Asked {
        let known = self.known(program);
        let streaming = self.streaming.load(Ordering::Relaxed);
        if let Some((route, learned)) = &known
            && learned.elapsed() < route.fresh_for(streaming)
        {
            return Ok(Some(route.clone()));
        }
        let routes = self.clone();
        let asked = self.lookups.run(program, || async move { routes.ask(program).await }).await;
        match (asked, known) {
            (Err(_), Some((route, _))) => Ok(Some(route)),
            (asked, _) => asked,
        }
    }

    /// Forgets a route that proved wrong, so that it is asked for again.
    pub(crate) fn doubt(&self, program: ProgramId, route: &Route) {
        self.locked().doubt(program, route);
    }

    /// Waits until some route changes, or for a while.
    pub(crate) async fn change(&self) {
        let _ = tokio::time::timeout(LOOK_AGAIN, self.changed.notified()).await;
    }

    fn known(&self, program: ProgramId) -> Option<(Route, Instant)> {
        self.locked().get(program)
    }

    fn locked(&self) -> MutexGuard<'_, KnownRoutes<Instant>> {
        self.known.lock().expect("no code panics while it holds this lock")
    }

    /// The nodes that could run a copy on demand, by their URLs: as they were a moment ago, or, while no scheduler can be asked,
    /// as they were when one could.
    pub(crate) async fn healthy_nodes(self: &Arc<Self>) -> Result<NodeList, Arc<ClientError>> {
        let known = self.nodes.lock().expect("no code panics while it holds this lock").clone();
        if let Some((nodes, asked)) = &known {
            let age = asked.elapsed();
            if age < NODES_FRESH {
                return Ok(nodes.clone());
            }
            if age < NODES_USABLE {
                let routes = self.clone();
                tokio::spawn(async move { routes.ask_for_nodes().await });
                return Ok(nodes.clone());
            }
        }
        match (self.ask_for_nodes().await, known) {
            (Err(error), Some((nodes, asked))) => {
                let age_s = asked.elapsed().as_secs();
                warn!(%error, age_s, "no scheduler says which nodes there are: going on with those that were known");
                Ok(nodes)
            }
            (asked, _) => asked,
        }
    }

    async fn ask_for_nodes(self: &Arc<Self>) -> Result<NodeList, Arc<ClientError>> {
        let routes = self.clone();
        let ask = || async move {
            let nodes = routes.first_answer(|scheduler| async move { scheduler.nodes().await }).await;
            let nodes = nodes.map_err(Arc::new)?.unwrap_or_default();
            let healthy = nodes.into_iter().filter(|n| n.status == NodeStatus::Healthy && n.draining.is_none());
            let healthy: NodeList = healthy.map(|node| (node.node_hash, node.address)).collect();
            let mut known = routes.nodes.lock().expect("no code panics while it holds this lock");
            *known = Some((healthy.clone(), Instant::now()));
            Ok(healthy)
        };
        self.node_lookups.run((), ask).await
    }

    async fn ask(&self, program: ProgramId) -> Asked {
        let record = self
            .first_answer(move |scheduler| async move { scheduler.vm(&program).await })
            .await
            .map_err(Arc::new)?
            .flatten();
        if let Some(record) = record {
            self.locked().learn(program, route_of(record), Instant::now());
        }
        // What is known may be newer than the answer; an answer that is older than what was known is none.
        Ok(self.known(program).map(|(route, _)| route))
    }

    /// Asks the scheduler whose events come, then, while there is no answer, the others as well. `None` without schedulers.
    async fn first_answer<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        ask: impl Fn(Scheduler) -> F,
    ) -> Result<Option<T>, ClientError> {
        let first = self.followed.load(Ordering::Relaxed);
        let in_order = self.schedulers.iter().cycle().skip(first).take(self.schedulers.len());
        let ask = &ask;
        let mut answers: FuturesUnordered<_> = (0..)
            .zip(in_order)
            .map(|(rank, scheduler)| async move {
                tokio::time::sleep(HEDGE * rank).await;
                ask(scheduler.clone()).await
            })
            .collect();
        let mut failed = Ok(None);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => failed = Err(error),
            }
        }
        failed
    }

    fn apply(&self, event: SchedulerEvent) {
        self.locked().apply(event, Instant::now());
        self.changed.notify_waiters();
    }

    /// Follows the schedulers' events until `shutdown`.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut next = 0;
        while !shutdown.is_cancelled() && !self.schedulers.is_empty() {
            let number = next % self.schedulers.len();
            let scheduler = &self.schedulers[number];
            let followed = shutdown.run_until_cancelled(self.follow_once(number)).await;
            if self.streaming.swap(false, Ordering::Relaxed) {
                warn!(scheduler = scheduler.url(), error = ?followed.map(Result::err), "the scheduler's events are interrupted");
            }
            next += 1;
            shutdown.run_until_cancelled(tokio::time::sleep(RECONNECT)).await;
        }
    }

    async fn follow_once(&self, number: usize) -> Result<(), ClientError> {
        let scheduler = &self.schedulers[number];
        let mut events = scheduler.events().await?.ping_after(PING_AFTER);
        // What changed while nobody listened is asked for when it is needed.
        self.locked().clear();
        self.followed.store(number, Ordering::Relaxed);
        self.streaming.store(true, Ordering::Relaxed);
        // Whoever waits for news may have missed them.
        self.changed.notify_waiters();
        info!(scheduler = scheduler.url(), "following the scheduler");
        while let Some(event) = events.next().await? {
            self.apply(event);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use protocol::api::scheduler::ProgramState;

    use super::*;

    fn scheduled(epoch: u64, url: &str) -> SchedulerEvent {
        SchedulerEvent::VmScheduled {
            vm_hash: ProgramId::from_bytes([1; 32]),
            node_hash: NodeId::from_bytes([2; 32]),
            epoch: Epoch::new(epoch),
            node_url: url.into(),
        }
    }

    fn state(epoch: u64, state: ProgramState) -> SchedulerEvent {
        SchedulerEvent::VmState { vm_hash: ProgramId::from_bytes([1; 32]), epoch: Epoch::new(epoch), state }
    }

    #[test]
    fn lower_epochs_are_not_believed() {
        let routes = Routes::new(&[]);
        let program = ProgramId::from_bytes([1; 32]);
        let route = || routes.known(program).map(|(route, _)| (route.epoch.get(), route.node_url, route.state));
        routes.apply(scheduled(2, "http://new"));
        routes.apply(scheduled(1, "http://old"));
        routes.apply(state(1, ProgramState::Ready));
        assert_eq!(route(), Some((2, Some("http://new".into()), ProgramState::Assigned)));
        routes.apply(state(2, ProgramState::Ready));
        assert_eq!(route(), Some((2, Some("http://new".into()), ProgramState::Ready)));
        let (node_hash, reason) = (NodeId::from_bytes([2; 32]), "lost".to_owned());
        routes.apply(SchedulerEvent::VmUnscheduled { vm_hash: program, node_hash, epoch: Epoch::new(2), reason });
        assert_eq!(route(), Some((2, None, ProgramState::Unplaced)));
    }

    #[test]
    fn a_route_is_doubted_only_while_it_is_the_current_one() {
        let routes = Routes::new(&[]);
        let program = ProgramId::from_bytes([1; 32]);
        routes.apply(scheduled(1, "http://old"));
        let old = routes.known(program).unwrap().0;
        routes.apply(scheduled(2, "http://new"));
        routes.doubt(program, &old);
        assert!(routes.known(program).is_some());
        let new = routes.known(program).unwrap().0;
        routes.doubt(program, &new);
        assert!(routes.known(program).is_none());
    }
}
