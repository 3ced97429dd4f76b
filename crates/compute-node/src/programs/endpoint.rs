//! Where programs of this node are reached: the sockets of their sandboxes, and how many requests are inside.

use std::collections::HashMap;
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

/// A program that answers, on this node.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) program: ProgramId,
    /// The program's id, as answers have it.
    pub(crate) item_hash: HeaderValue,
    /// The epoch that it runs under; `None` for a copy on demand.
    pub(crate) epoch: Option<Epoch>,
    /// How long one request may take.
    pub(crate) request_limit: Duration,
    /// The connections to its sandbox.
    pub(crate) pool: Arc<Pool<UnixSocket, Incoming>>,
    in_flight: AtomicUsize,
    last_used: AtomicU64,
    closed: AtomicBool,
    left: Notify,
}

/// A request inside a program. It has left when this is dropped.
#[derive(Debug)]
pub(crate) struct Visit(Arc<Endpoint>);

impl Endpoint {
    pub(crate) fn new(program: ProgramId, epoch: Option<Epoch>, request_limit: Duration, socket: PathBuf) -> Arc<Self> {
        let item_hash = program.to_string().try_into().expect("hexadecimal digits are a header's value");
        Arc::new(Self {
            program,
            item_hash,
            epoch,
            request_limit,
            pool: Pool::new(UnixSocket(socket)),
            in_flight: AtomicUsize::new(0),
            last_used: AtomicU64::new(clock::now().as_nanos()),
            closed: AtomicBool::new(false),
            left: Notify::new(),
        })
    }

    /// Goes in; `None` when it is closed.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Visit> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let visit = Visit(self.clone());
        // After counting: either this sees the door closed, or who closes it sees this visit.
        (!self.closed.load(Ordering::SeqCst)).then_some(visit)
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

    /// Since when nobody has been inside; `None` while somebody is.
    pub(crate) fn idle_since(&self) -> Option<BootTime> {
        (self.in_flight.load(Ordering::SeqCst) == 0)
            .then(|| BootTime::from_nanos(self.last_used.load(Ordering::SeqCst)))
    }
}

impl Visit {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.last_used.store(clock::now().as_nanos(), Ordering::SeqCst);
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

/// The programs that answer on this node.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(RwLock<HashMap<ProgramId, Arc<Endpoint>>>);

impl Endpoints {
    /// Goes into a program, if it answers on this node.
    pub(crate) fn enter(&self, program: ProgramId) -> Option<Visit> {
        self.0.read().expect("no code panics while it holds this lock").get(&program)?.enter()
    }

    pub(crate) fn insert(&self, endpoint: Arc<Endpoint>) {
        self.0.write().expect("no code panics while it holds this lock").insert(endpoint.program, endpoint);
    }

    /// Closes a program's endpoint, if it has this epoch. Who is inside may finish.
    pub(crate) fn remove(&self, program: ProgramId, epoch: Option<Epoch>) -> Option<Arc<Endpoint>> {
        let mut all = self.0.write().expect("no code panics while it holds this lock");
        if all.get(&program)?.epoch != epoch {
            return None;
        }
        let endpoint = all.remove(&program)?;
        endpoint.close();
        Some(endpoint)
    }

    /// The copies on demand.
    pub(crate) fn on_demand(&self) -> Vec<Arc<Endpoint>> {
        let all = self.0.read().expect("no code panics while it holds this lock");
        all.values().filter(|endpoint| endpoint.epoch.is_none()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Endpoint::new(ProgramId::from_bytes([1; 32]), None, Duration::from_secs(1), "/nowhere".into())
    }

    #[tokio::test]
    async fn who_is_inside_may_finish_after_the_door_is_closed() {
        let endpoint = endpoint();
        let visit = endpoint.enter().unwrap();
        assert_eq!(endpoint.idle_since(), None);
        endpoint.close();
        assert!(endpoint.enter().is_none());
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

    #[test]
    fn an_older_epochs_end_does_not_remove_a_newer_one() {
        let endpoints = Endpoints::default();
        let program = ProgramId::from_bytes([1; 32]);
        endpoints.insert(Endpoint::new(program, Some(Epoch::new(2)), Duration::ZERO, "/nowhere".into()));
        assert!(endpoints.remove(program, Some(Epoch::new(1))).is_none());
        assert!(endpoints.enter(program).is_some());
        assert!(endpoints.remove(program, Some(Epoch::new(2))).is_some());
    }
}
