//! The threads that serve clients, one for each processor, each with a runtime of its own: a request is read, passed on and answered
//! without another thread being woken. What takes processor time or blocks for long has no place on them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{DRAIN, Services, serve_client};

/// A connection that somebody else accepted. Until a thread has it, it belongs to no runtime.
type Accepted = (std::net::TcpStream, SocketAddr);

/// The threads.
pub(super) struct Threads(Vec<Thread>);

struct Thread {
    connections: mpsc::UnboundedSender<Accepted>,
    /// How many connections it has.
    count: Arc<AtomicUsize>,
    /// Ends with the thread.
    ended: oneshot::Receiver<()>,
}

impl Threads {
    /// Starts them. Once `shutdown` is told they leave their connections when those are idle.
    ///
    /// # Errors
    /// When the operating system gives no thread, or no descriptors for its runtime.
    pub(super) fn start(services: &Arc<Services>, shutdown: &CancellationToken) -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let threads = (0..count).map(|number| Thread::start(number, services.clone(), shutdown.clone()));
        Ok(Self(threads.collect::<io::Result<_>>()?))
    }

    /// Has the thread with the fewest connections serve another.
    pub(super) fn serve(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let thread = self.0.iter().min_by_key(|thread| thread.count.load(Ordering::Relaxed)).expect("there is one");
        let stream = stream.into_std()?;
        thread.count.fetch_add(1, Ordering::Relaxed);
        thread.connections.send((stream, peer)).map_err(|_| io::Error::other("the thread has ended"))
    }

    /// Waits until what is under way is over, for as long as it may take.
    pub(super) async fn end(self) {
        let ended: Vec<_> = self.0.into_iter().map(|thread| thread.ended).collect();
        for ended in ended {
            let _ = ended.await;
        }
    }
}

impl Thread {
    fn start(number: usize, services: Arc<Services>, shutdown: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (connections, accepted) = mpsc::unbounded_channel();
        let (tell_ended, ended) = oneshot::channel::<()>();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        thread::Builder::new().name(format!("clients-{number}")).spawn(move || {
            run(&runtime, accepted, &counted, &services, &shutdown);
            drop(tell_ended);
        })?;
        Ok(Self { connections, count, ended })
    }
}

/// Serves what is accepted until there is nobody any more who accepts.
fn run(
    runtime: &Runtime,
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    count: &AtomicUsize,
    services: &Arc<Services>,
    shutdown: &CancellationToken,
) {
    runtime.block_on(async {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                next = accepted.recv() => match next.map(|(stream, peer)| (TcpStream::from_std(stream), peer)) {
                    Some((Ok(stream), peer)) => {
                        connections.spawn(serve_client(stream, peer, services.clone(), shutdown.clone()));
                    }
                    Some((Err(error), peer)) => {
                        debug!(%peer, %error, "a connection was lost");
                        count.fetch_sub(1, Ordering::Relaxed);
                    }
                    None => break,
                },
                Some(_) = connections.join_next() => {
                    count.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    });
}
