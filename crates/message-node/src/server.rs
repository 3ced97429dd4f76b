//! Starts everything, serves connections and stops in order.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::api::{self, Passage, Room};
use crate::archive::{self, Archive};
use crate::balances::Balances;
use crate::config::Config;
use crate::error::RunError;
use crate::events::Events;
use crate::files::{Files, collect};
use crate::follow::Follower;
use crate::leadership::{Leadership, Watch};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::pipeline::{Context, Pipeline};
use crate::place::{StoragePlace, Writers};
use crate::published::Network;
use crate::store::places::Given;
use crate::store::{Database, Store, StoreError};

/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what is sent to it, in milliseconds.
const STALLED_MS: u32 = 60_000;
/// How long to wait when the operating system gives no connections (no free file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long another process may have the data directory before it counts as somebody else's, and how often it is looked.
const LOCKED_FOR: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Runs a message node until `shutdown`, then lets requests under way end and closes the database.
///
/// `ready` is called with the address that is listened on as soon as requests are answered.
///
/// # Errors
/// [`RunError`] when it cannot start, or a part of it ends unexpectedly.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr) + Send,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let _lock = lock(&config.data_dir).await?;
    let place = config.files.clone().unwrap_or_else(|| StoragePlace::Folder(config.data_dir.join("files")));
    let unusable = |source: io::Error| RunError::Files { place: place.to_string(), source };
    let writers = Writers::of(&config, config.files.as_ref());
    let files = Files::open(&place, writers, &config.data_dir.join("uploads")).map_err(unusable)?;
    let mut places = vec![Given {
        what: "files",
        name: files.name().await.map_err(|error| unusable(io::Error::other(error)))?,
        otherwise: format!(
            "the files of this message node are not at {place}: give --files as it was given to its other processes, or before"
        ),
    }];
    let balances = Balances::open(&config)?;
    let database = match &config.postgres {
        Some(url) => Database::Postgres(url.clone()),
        None => Database::Sqlite(config.data_dir.join("messages.sqlite")),
    };
    let store = Store::open(&database).await?;
    let bind = |source| RunError::Bind { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let archive = Arc::new(Archive::open(&config, store.clone(), &database, address).await?);
    if store.is_shared() && !config.archive.schedulers.is_empty() {
        places.extend(archive.places().await?);
    }

    let context = Arc::new(Context {
        store: store.clone(),
        files: files.clone(),
        balances,
        network: Network {
            authority: config.authority.clone(),
            pricing: config.pricing.clone(),
            aliases: config.aliases.clone(),
        },
        events: Events::new(config.limits.stream_queue),
        metrics: Metrics::new(),
        limits: config.limits.clone(),
        timing: config.timing.clone(),
        payment: config.payment.clone(),
    });
    let leadership = Leadership::new(store.is_shared());
    let mut watch = Watch::new(Arc::clone(&context), leadership.clone(), own_url(&config, address), places);
    watch.begin().await.map_err(|error| match error {
        StoreError::OtherPlace(how) => RunError::OtherPlace(how),
        error => database.failed(error),
    })?;
    let (stop_serving, stop_pipeline) = (shutdown.child_token(), CancellationToken::new());
    let (pipeline, mut tasks) =
        Pipeline::start(Arc::clone(&context), &leadership, stop_serving.clone(), stop_pipeline.clone());
    tasks.push(tokio::spawn(watch.run(stop_pipeline.clone())));
    let collected = Arc::clone(&context);
    tasks.push(leadership.spawn_while_leading(&stop_pipeline, move |stop| collect::run(Arc::clone(&collected), stop)));
    let archived = Arc::clone(&archive);
    let collect = move |stop| archive::collect::run(Arc::clone(&archived), stop);
    tasks.push(leadership.spawn_while_leading(&stop_pipeline, collect));

    if let Some(token) = context.balances.token() {
        let (pipeline, stop) = (pipeline.clone(), stop_pipeline.clone());
        tasks.push(tokio::spawn(async move { token.run(|| pipeline.balances_changed(), stop).await }));
    }

    let node = Node {
        context,
        leadership,
        passage: Passage::new(),
        pipeline,
        archive,
        admission: Arc::new(Admission::new(&config.senders, config.authority.as_ref())),
        room: Room::new(config.limits.body_bytes),
        uploads: Arc::new(Semaphore::new(config.limits.uploads)),
        streams: Arc::new(Semaphore::new(config.limits.streams)),
        open_streams: TaskTracker::new(),
        shutdown: stop_serving.clone(),
    };
    if let Some(follow) = config.follow.clone() {
        let follows = node.clone();
        let work = move |stop| Follower::new(follows.clone(), &follow).run(stop);
        tasks.push(node.leadership.spawn_while_leading(&stop_pipeline, work));
    }
    tracing::info!(%address, data_dir = %config.data_dir.display(), database = database.name(), "the message node is ready");
    ready(address);

    let connections = TaskTracker::new();
    let accept = accept(listener, node.clone(), config.limits.connections, connections.clone());
    let ended = tokio::select! {
        () = accept => None,
        _ = select_all(&mut tasks) => Some(RunError::Ended("a task of the message node")),
    };
    stop_serving.cancel();
    drain(&connections, &node.open_streams, config.timing.drain).await;
    stop_pipeline.cancel();
    // After a failure some of them have ended already, and must not be asked again.
    if ended.is_none() {
        futures_util::future::join_all(tasks).await;
    }
    store.close().await;
    tracing::info!("the message node stopped");
    ended.map_or(Ok(()), Err)
}

/// Where other processes on the same database reach this one, as far as it knows.
fn own_url(config: &Config, listens_on: SocketAddr) -> Option<String> {
    let given = config.advertise.clone();
    given.or_else(|| (!listens_on.ip().is_unspecified()).then(|| format!("http://{listens_on}")))
}

/// Makes the data directory and makes sure that nobody else uses it. One that ends just now is waited for: a process that it
/// starts has its lock, too, for a moment.
pub(crate) async fn lock(data_dir: &Path) -> Result<File, RunError> {
    let failed = |source: io::Error| RunError::DataDir { path: data_dir.into(), source };
    fs::create_dir_all(data_dir).map_err(failed)?;
    let file = File::create(data_dir.join("lock")).map_err(failed)?;
    let give_up = Instant::now() + LOCKED_FOR;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < give_up => tokio::time::sleep(LOOK_AGAIN).await,
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(RunError::Locked(data_dir.into())),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Accepts connections until the shutdown, at most so many at a time; others wait in the backlog of the operating system.
async fn accept(listener: TcpListener, node: Node, most: usize, connections: TaskTracker) {
    let slots = Arc::new(Semaphore::new(most));
    let router = api::router(node.clone());
    loop {
        let slot = Arc::clone(&slots).acquire_owned();
        let accepted = tokio::select! {
            () = node.shutdown.cancelled() => return,
            accepted = async { (slot.await, listener.accept().await) } => accepted,
        };
        let (slot, stream) = match accepted {
            (Ok(slot), Ok((stream, _))) => (slot, stream),
            (_, Err(error)) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            (Err(_), _) => return,
        };
        let (router, stop) = (router.clone(), node.shutdown.clone());
        connections.spawn(async move {
            serve(stream, router, stop).await;
            drop(slot);
        });
    }
}

async fn serve(stream: TcpStream, router: axum::Router, stop: CancellationToken) {
    // Small answers must not wait for more, and a client that takes nothing is cut off; an error is no reason not to answer.
    let _ = stream.set_nodelay(true);
    let _ = set_tcp_user_timeout(&stream, STALLED_MS);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Waits until requests and streams have ended, but not for ever.
async fn drain(connections: &TaskTracker, streams: &TaskTracker, most: Duration) {
    connections.close();
    streams.close();
    let ended = async { tokio::join!(connections.wait(), streams.wait()) };
    if tokio::time::timeout(most, ended).await.is_err() {
        tracing::warn!(seconds = most.as_secs(), "some requests did not end in time and are cut off");
    }
}
