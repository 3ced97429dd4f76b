//! Where programs of this node are reached: the sockets of their sandboxes, and how many requests are inside.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use forward::{Pool, UnixSocket};
use http::HeaderValue;
use hyper::body::Incoming;
use lease::{BootTime, clock};
use protocol::{Epoch, ProgramId};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::sandboxes::Owner;
use super::standstill::Standstill;
use crate::core::on_demand::CopyId;

/// A program that answers, on this node.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) program: ProgramId,
    /// The program's id, as answers have it.
    pub(crate) item_hash: HeaderValue,
    /// The epoch that it runs under; `None` for a copy on demand.
    pub(crate) epoch: Option<Epoch>,
    owner: Owner,
    /// How long one request may take.
    pub(crate) request_limit: Duration,
    /// The connections to its sandbox.
    pub(crate) pool: Arc<Pool<UnixSocket, Incoming>>,
    in_flight: AtomicUsize,
    last_used: AtomicU64,
    closed: AtomicBool,
    stuck: AtomicBool,
    left: Notify,
    /// How it is held still while nobody is inside; `None` for what never is.
    standstill: Option<Arc<Standstill>>,
}

/// A copy that stands still and cannot be let go on: nobody goes in any more, and it has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stuck(pub(crate) CopyId);

/// A request inside a program. It has left when this is dropped.
#[derive(Debug)]
pub(crate) struct Visit {
    endpoint: Arc<Endpoint>,
    was_frozen: bool,
}

impl Endpoint {
    pub(crate) fn new(
        owner: Owner,
        request_limit: Duration,
        socket: PathBuf,
        standstill: Option<Arc<Standstill>>,
    ) -> Arc<Self> {
        let program = owner.program();
        let item_hash = program.to_string().try_into().expect("hexadecimal digits are a header's value");
        Arc::new(Self {
            program,
            item_hash,
            epoch: owner.epoch(),
            owner,
            request_limit,
            pool: Pool::new(UnixSocket(socket)),
            in_flight: AtomicUsize::new(0),
            last_used: AtomicU64::new(clock::now().as_nanos()),
            closed: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            left: Notify::new(),
            standstill,
        })
    }

    /// Goes in, and has the program go on if it stands still; `None` when it is closed, as it is from now on if the program
    /// cannot go on.
    pub(crate) async fn enter(self: &Arc<Self>) -> Option<Visit> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let mut visit = Visit { endpoint: self.clone(), was_frozen: false };
        // After counting: either this sees the door closed, or the program held, or who does that sees this visit.
        if self.closed.load(Ordering::SeqCst) {
            return None;
        }
        if let Ok(was_frozen) = self.wake().await {
            visit.was_frozen = was_frozen;
            return Some(visit);
        }
        self.stuck.store(true, Ordering::SeqCst);
        self.close();
        None
    }

    /// Has the program go on, if it stands still. Says whether it did.
    ///
    /// # Errors
    /// When it cannot go on.
    pub(crate) async fn wake(&self) -> io::Result<bool> {
        match &self.standstill {
            Some(standstill) => standstill.wake().await,
            None => Ok(false),
        }
    }

    /// Whether the program stands still.
    pub(crate) fn is_frozen(&self) -> bool {
        self.standstill.as_ref().is_some_and(|standstill| standstill.is_frozen())
    }

    /// Has the program stand still and give memory back, unless somebody is inside. Says whether it stands still.
    pub(crate) async fn freeze(self: &Arc<Self>) -> bool {
        let Some(standstill) = self.standstill.clone() else { return false };
        let (endpoint, program) = (self.clone(), self.program);
        let freeze = move || {
            let is_frozen = standstill.freeze(|| endpoint.may_stand_still())?;
            Ok::<_, io::Error>(is_frozen.then(|| standstill.give_back()))
        };
        match tokio::task::spawn_blocking(freeze).await.expect("it does not panic") {
            Ok(None) => false,
            Ok(Some(given)) => {
                let given_back = given.unwrap_or_else(|error| {
                    warn!(%program, %error, "cannot take memory back from a frozen program");
                    0
                });
                info!(%program, given_back, "frozen: nobody uses it");
                true
            }
            Err(error) => {
                warn!(%program, %error, "cannot freeze a program that nobody uses");
                false
            }
        }
    }

    fn may_stand_still(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) == 0 && !self.closed.load(Ordering::SeqCst)
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Waits until nobody is inside.
    pub(crate) async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self.in_flight.load(Ordering::SeqCst) == 0 {
                return;
            }
            left.await;
        }
    }

    /// How many requests are inside.
    fn inside(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Which copy it is, of those on demand.
    pub(crate) fn copy(&self) -> Option<CopyId> {
        match self.owner {
            Owner::OnDemand(copy) => Some(copy),
            Owner::Persistent(_) => None,
        }
    }

    /// Since when nobody has been inside; `None` while somebody is.
    pub(crate) fn idle_since(&self) -> Option<BootTime> {
        (self.in_flight.load(Ordering::SeqCst) == 0)
            .then(|| BootTime::from_nanos(self.last_used.load(Ordering::SeqCst)))
    }
}

impl Visit {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether the program stood still until this request came.
    pub(crate) fn was_frozen(&self) -> bool {
        self.was_frozen
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.endpoint.last_used.store(clock::now().as_nanos(), Ordering::SeqCst);
        if self.endpoint.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.endpoint.left.notify_waiters();
        }
    }
}

/// The programs that answer on this node.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    /// The copies of each, by their numbers; of persistent programs one.
    all: RwLock<HashMap<ProgramId, Vec<Arc<Endpoint>>>>,
    requests_per_copy: usize,
}

impl Endpoints {
    /// None yet. More requests than this do not go into one copy as long as another has fewer.
    pub(crate) fn new(requests_per_copy: usize) -> Self {
        Self { all: RwLock::default(), requests_per_copy }
    }

    /// Goes into a program, if it answers on this node.
    ///
    /// # Errors
    /// When the copy that it would go into turned out to be stuck. That is said once of each.
    pub(crate) async fn enter(&self, program: ProgramId) -> Result<Option<Visit>, Stuck> {
        let Some(endpoint) = self.choose(program) else { return Ok(None) };
        let visit = endpoint.enter().await;
        match endpoint.copy() {
            Some(copy) if visit.is_none() && self.take_out_stuck(&endpoint) => Err(Stuck(copy)),
            _ => Ok(visit),
        }
    }

    /// Whether this endpoint is stuck and was still here.
    fn take_out_stuck(&self, endpoint: &Arc<Endpoint>) -> bool {
        if !endpoint.stuck.load(Ordering::SeqCst) {
            return false;
        }
        let mut all = self.all.write().expect("no code panics while it holds this lock");
        let Some(copies) = all.get_mut(&endpoint.program) else { return false };
        let before = copies.len();
        copies.retain(|other| !Arc::ptr_eq(other, endpoint));
        let was_here = copies.len() < before;
        if copies.is_empty() {
            all.remove(&endpoint.program);
        }
        was_here
    }

    /// The first copy that has room for another request, so that those that are not needed any more have none; or the one
    /// with the fewest.
    fn choose(&self, program: ProgramId) -> Option<Arc<Endpoint>> {
        let all = self.all.read().expect("no code panics while it holds this lock");
        let copies = all.get(&program)?;
        let has_room = copies.iter().find(|copy| copy.inside() < self.requests_per_copy);
        has_room.or_else(|| copies.iter().min_by_key(|copy| copy.inside())).cloned()
    }

    /// Where the copies of a program answer on this node.
    pub(crate) fn of(&self, program: ProgramId) -> Vec<Arc<Endpoint>> {
        self.all.read().expect("no code panics while it holds this lock").get(&program).cloned().unwrap_or_default()
    }

    pub(crate) fn insert(&self, endpoint: Arc<Endpoint>) {
        let mut all = self.all.write().expect("no code panics while it holds this lock");
        let copies = all.entry(endpoint.program).or_default();
        match endpoint.copy() {
            Some(copy) => copies.retain(|other| other.copy().is_some_and(|other| other != copy)),
            None => copies.clear(),
        }
        copies.push(endpoint);
        copies.sort_by_key(|endpoint| endpoint.copy());
    }

    /// Closes an endpoint. Who is inside may finish.
    pub(crate) fn remove(&self, owner: Owner) -> Option<Arc<Endpoint>> {
        let mut all = self.all.write().expect("no code panics while it holds this lock");
        let copies = all.get_mut(&owner.program())?;
        let endpoint = copies.remove(copies.iter().position(|endpoint| endpoint.owner == owner)?);
        if copies.is_empty() {
            all.remove(&owner.program());
        }
        endpoint.close();
        Some(endpoint)
    }

    /// The copies on demand.
    pub(crate) fn on_demand(&self) -> Vec<(CopyId, Arc<Endpoint>)> {
        let all = self.all.read().expect("no code panics while it holds this lock");
        all.values().flatten().filter_map(|endpoint| Some((endpoint.copy()?, endpoint.clone()))).collect()
    }

    /// How many requests are inside each program on demand that has more than one copy, or more of them than one shall have.
    pub(crate) fn crowds(&self) -> Vec<(ProgramId, usize)> {
        let all = self.all.read().expect("no code panics while it holds this lock");
        let on_demand = all.iter().filter(|(_, copies)| copies.iter().all(|endpoint| endpoint.copy().is_some()));
        let inside = on_demand.map(|(program, copies)| {
            let inside = copies.iter().map(|copy| copy.inside()).sum::<usize>();
            (copies.len() > 1 || inside > self.requests_per_copy).then_some((*program, inside))
        });
        inside.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::persistent::Assignment;

    const PROGRAM: ProgramId = ProgramId::from_bytes([1; 32]);

    fn endpoint(owner: Owner) -> Arc<Endpoint> {
        Endpoint::new(owner, Duration::from_secs(1), "/nowhere".into(), None)
    }

    fn on_demand(number: u16) -> Owner {
        Owner::OnDemand(CopyId { program: PROGRAM, number })
    }

    #[tokio::test]
    async fn who_is_inside_may_finish_after_the_door_is_closed() {
        let endpoint = endpoint(on_demand(0));
        let visit = endpoint.enter().await.unwrap();
        assert_eq!(endpoint.idle_since(), None);
        endpoint.close();
        assert!(endpoint.enter().await.is_none());
        let empty = tokio::spawn({
            let endpoint = endpoint.clone();
            async move { endpoint.empty().await }
        });
        tokio::task::yield_now().await;
        assert!(!empty.is_finished());
        drop(visit);
        empty.await.unwrap();
        assert!(endpoint.idle_since().is_some());
    }

    #[tokio::test]
    async fn an_older_epochs_end_does_not_remove_a_newer_one() {
        let endpoints = Endpoints::default();
        let under = |epoch| Owner::Persistent(Assignment { program: PROGRAM, epoch: Epoch::new(epoch) });
        endpoints.insert(endpoint(under(1)));
        endpoints.insert(endpoint(under(2)));
        assert!(endpoints.remove(under(1)).is_none());
        assert_eq!(endpoints.of(PROGRAM).len(), 1, "there is one at any time");
        assert!(endpoints.enter(PROGRAM).await.unwrap().is_some());
        assert!(endpoints.remove(under(2)).is_some());
        assert!(endpoints.enter(PROGRAM).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn requests_fill_one_copy_after_the_other_and_then_all_alike() {
        let endpoints = Endpoints::new(2);
        endpoints.insert(endpoint(on_demand(1)));
        endpoints.insert(endpoint(on_demand(0)));
        let mut visits = Vec::new();
        let mut numbers = Vec::new();
        for _ in 0..6 {
            let visit = endpoints.enter(PROGRAM).await.unwrap().unwrap();
            numbers.push(visit.endpoint().copy().unwrap().number);
            visits.push(visit);
        }
        assert_eq!(numbers, [0, 0, 1, 1, 0, 1]);
        assert_eq!(endpoints.crowds(), [(PROGRAM, 6)]);
        visits.truncate(1);
        assert_eq!(endpoints.enter(PROGRAM).await.unwrap().unwrap().endpoint().copy().unwrap().number, 0);
        assert_eq!(endpoints.crowds(), [(PROGRAM, 1)], "the core must know that the second is not wanted any more");
        endpoints.remove(on_demand(0));
        assert_eq!(endpoints.crowds(), []);
        assert_eq!(endpoints.enter(PROGRAM).await.unwrap().unwrap().endpoint().copy().unwrap().number, 1);
    }
}
