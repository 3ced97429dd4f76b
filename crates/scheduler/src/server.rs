//! Starts everything, serves connections and stops in order.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lease::LeaseTimes;
use protocol::Account;
use protocol::client::MessageNode;
use protocol::control::random_nonce;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::api::{self, Api};
use crate::config::Config;
use crate::control::Control;
use crate::core::{Policy, Scheduler};
use crate::engine::{Engine, INBOX};
use crate::error::RunError;
use crate::follow::Following;
use crate::follow::nodes::Nodes;
use crate::follow::programs::Programs;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::store::{Store, writer};

/// Connections at the same time at most; others wait in the backlog of the operating system.
const MAX_CONNECTIONS: usize = 16_384;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait when the operating system gives no connections (no free file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests under way may take when the scheduler stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs a scheduler until `shutdown`, then writes what is left to write. What it assigned runs on until the leases end, and
/// a scheduler that starts before that renews them.
///
/// `ready` is called with the address that is listened on as soon as requests are answered.
///
/// # Errors
/// [`RunError`] when it cannot start, or a part of it ends unexpectedly. A message node that is down is no error.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr) + Send,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let times = LeaseTimes::new(config.lease)?;
    check_url("message node's URL", &config.message_node)?;
    if let Some(gateway) = &config.gateway_url {
        check_url("gateway's URL", gateway)?;
    }
    let _lock = lock(&config.data_dir)?;
    let account = Account::from_file_or_generate(&config.data_dir.join("scheduler.key"))?;
    let path = config.data_dir.join("scheduler.sqlite");
    let database =
        |cause: crate::store::StoreError| RunError::Database { path: path.clone(), cause: cause.to_string() };
    let store = Store::open(&path).await.map_err(database)?;
    let restored = store.restore(times.longest_wait()).await.map_err(database)?;
    let bind = |source| RunError::Bind { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    tracing::info!(%address, scheduler = %account.address(), data_dir = %config.data_dir.display(),
        programs = restored.programs.len(), assignments = restored.assignments.len(), "the scheduler is ready");

    let metrics = Arc::new(Metrics::new());
    let (inbox, events_in) = mpsc::channel(INBOX);
    let (writes, writes_in) = mpsc::unbounded_channel();
    let (snapshot, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let (following, following_in) = watch::channel(Following::default());
    let (health, database_health) = watch::channel(None);
    let events = broadcast::Sender::new(api::QUEUE);
    let client = MessageNode::new(config.message_node.as_str());
    let (nodes, node_list) = Nodes::new(client.clone(), inbox.clone(), snapshots.clone());
    let known: BTreeSet<_> = (restored.programs.iter().map(|(spec, _)| spec.id))
        .chain(restored.assignments.iter().map(|assignment| assignment.program))
        .collect();
    let programs = Programs::new(client, inbox.clone(), known, following, node_list.clone(), config.resync);
    let core = Scheduler::new(times, Policy::default(), random_nonce());
    let engine = Engine::new(core, events_in, writes, snapshot, events.clone(), metrics.clone());
    let control = Control::new(account, times, inbox.clone(), snapshots.clone(), node_list, metrics.clone());
    let stop = shutdown.child_token();
    let api = Api {
        snapshots,
        events,
        following: following_in,
        database: database_health,
        store: store.clone(),
        control: Arc::new(control),
        gateway: config.gateway_url.as_deref().map(Into::into),
        metrics: metrics.clone(),
        streams: Arc::new(Semaphore::new(api::MAX_STREAMS)),
        sockets: TaskTracker::new(),
        shutdown: stop.clone(),
    };

    let writer = tokio::spawn(writer::run(store.clone(), writes_in, inbox, health, metrics));
    let (sockets, connections) = (api.sockets.clone(), TaskTracker::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(engine.run(restored, stop.clone()));
    tasks.spawn(programs.run(stop.clone()));
    tasks.spawn(nodes.run(stop.clone()));
    tasks.spawn(accept(listener, api::router(api), connections.clone(), stop.clone()));
    ready(address);

    // Every task runs until it is told to stop: one that ends before has failed, and the log says how.
    let _ = tasks.join_next().await;
    let failed = !shutdown.is_cancelled();
    stop.cancel();
    drain(&connections, &sockets).await;
    while tasks.join_next().await.is_some() {}
    // The engine has gone, and with it the queue: what is in it is written now.
    let written = writer.await.is_ok();
    store.close().await;
    if failed || !written {
        return Err(RunError::Ended("a task of the scheduler"));
    }
    tracing::info!("the scheduler stopped; what it assigned runs on until its leases end");
    Ok(())
}

fn check_url(what: &'static str, url: &str) -> Result<(), RunError> {
    match Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => Ok(()),
        _ => Err(RunError::Url { what, url: url.to_owned() }),
    }
}

/// Makes the data directory and makes sure that nobody else uses it.
fn lock(data_dir: &Path) -> Result<File, RunError> {
    let failed = |source: io::Error| RunError::DataDir { path: data_dir.into(), source };
    fs::create_dir_all(data_dir).map_err(failed)?;
    let file = File::create(data_dir.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RunError::Locked(data_dir.into())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Accepts connections until the shutdown.
async fn accept(listener: TcpListener, router: axum::Router, connections: TaskTracker, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            (slot, listener.accept().await)
        };
        let (slot, stream) = match stop.run_until_cancelled(next).await {
            None => return,
            Some((slot, Ok((stream, _)))) => (slot, stream),
            Some((_, Err(error))) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            serve(stream, router, stop).await;
            drop(slot);
        });
    }
}

async fn serve(stream: TcpStream, router: axum::Router, stop: CancellationToken) {
    // Grants must not wait for more; an error is no reason not to answer.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // Errors are those of clients that break off.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Lets requests under way and open sockets end.
async fn drain(connections: &TaskTracker, sockets: &TaskTracker) {
    connections.close();
    sockets.close();
    let ended = async { tokio::join!(connections.wait(), sockets.wait()) };
    if tokio::time::timeout(DRAIN, ended).await.is_err() {
        tracing::warn!("some connections did not end in time and are cut");
    }
}
