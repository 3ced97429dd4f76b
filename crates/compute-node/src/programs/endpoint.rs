//! Where programs of this node are reached: the sockets of their sandboxes, and how many requests are inside.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use http::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lease::{BootTime, clock};
use protocol::{Epoch, ProgramId};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tower::Service;
use tracing::{info, warn};

use super::standstill::Standstill;

/// How long an unused connection to a program is kept. Shorter than the 75 s after which the ASGI server closes it.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);

/// How many unused connections to one program are kept.
const MAX_IDLE_CONNECTIONS: usize = 64;

/// A program that answers, on this node.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) program: ProgramId,
    /// The epoch that it runs under; `None` for a copy on demand.
    pub(crate) epoch: Option<Epoch>,
    /// How long one request may take.
    pub(crate) request_limit: Duration,
    pub(crate) client: Client<SocketConnector, Body>,
    in_flight: AtomicUsize,
    last_used: AtomicU64,
    closed: AtomicBool,
    left: Notify,
    /// How it is held still while nobody is inside; `None` for what never is.
    standstill: Option<Arc<Standstill>>,
}

/// A request inside a program. It has left when this is dropped.
#[derive(Debug)]
pub(crate) struct Visit(Arc<Endpoint>);

impl Endpoint {
    pub(crate) fn new(
        program: ProgramId,
        epoch: Option<Epoch>,
        request_limit: Duration,
        socket: PathBuf,
        standstill: Option<Arc<Standstill>>,
    ) -> Arc<Self> {
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .build(SocketConnector(socket));
        Arc::new(Self {
            program,
            epoch,
            request_limit,
            client,
            in_flight: AtomicUsize::new(0),
            last_used: AtomicU64::new(clock::now().as_nanos()),
            closed: AtomicBool::new(false),
            left: Notify::new(),
            standstill,
        })
    }

    /// Goes in, and has the program go on if it stands still; `None` when it is closed.
    pub(crate) async fn enter(self: &Arc<Self>) -> Option<Visit> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let visit = Visit(self.clone());
        // After counting: either this sees the door closed, or the program held, or who does that sees this visit.
        if self.closed.load(Ordering::SeqCst) {
            return None;
        }
        self.wake().await;
        Some(visit)
    }

    /// Has the program go on, if it stands still.
    pub(crate) async fn wake(&self) {
        if let Some(standstill) = &self.standstill {
            standstill.wake().await;
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
    pub(crate) async fn enter(&self, program: ProgramId) -> Option<Visit> {
        self.get(program)?.enter().await
    }

    /// Where a program answers, if it does on this node.
    pub(crate) fn get(&self, program: ProgramId) -> Option<Arc<Endpoint>> {
        self.0.read().expect("no code panics while it holds this lock").get(&program).cloned()
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

/// Connects to a sandbox's socket, whatever the address says.
#[derive(Debug, Clone)]
pub(crate) struct SocketConnector(PathBuf);

/// A connection to a sandbox.
pub(crate) struct SocketConnection(TokioIo<UnixStream>);

impl Service<Uri> for SocketConnector {
    type Response = SocketConnection;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<SocketConnection>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = self.0.clone();
        Box::pin(async move { Ok(SocketConnection(TokioIo::new(UnixStream::connect(socket).await?))) })
    }
}

impl Connection for SocketConnection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for SocketConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for SocketConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Endpoint::new(ProgramId::from_bytes([1; 32]), None, Duration::from_secs(1), "/nowhere".into(), None)
    }

    #[tokio::test]
    async fn who_is_inside_may_finish_after_the_door_is_closed() {
        let endpoint = endpoint();
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
        let program = ProgramId::from_bytes([1; 32]);
        let newer = Endpoint::new(program, Some(Epoch::new(2)), Duration::ZERO, "/nowhere".into(), None);
        endpoints.insert(newer);
        assert!(endpoints.remove(program, Some(Epoch::new(1))).is_none());
        assert!(endpoints.enter(program).await.is_some());
        assert!(endpoints.remove(program, Some(Epoch::new(2))).is_some());
    }
}
