//! Starts a scheduler, serves connections and stops in order. Whether it leads or follows: `lead`, `follower`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lease::LeaseTimes;
use protocol::Account;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use url::Url;

use crate::config::{Config, Database};
use crate::core::leadership::leadership_times;
use crate::error::RunError;
use crate::follower;
use crate::lead::Term;
use crate::leadership;
use crate::metrics::Metrics;
use crate::store::Store;

/// How soon a database that cannot be reached is tried again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// Connections at the same time at most; others wait in the backlog of the operating system.
const MAX_CONNECTIONS: usize = 16_384;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait when the operating system gives no connections (no free file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests under way may take when the scheduler stops.
const DRAIN: Duration = Duration::from_secs(5);

/// What every part of a scheduler knows, whether it leads or follows.
pub(crate) struct Seat {
    pub(crate) config: Config,
    pub(crate) times: LeaseTimes,
    pub(crate) account: Arc<Account>,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    /// Answers requests; it is another one after a change of leaders.
    pub(crate) front: watch::Sender<Router>,
    /// What is wrong with the database, if something is.
    pub(crate) database: watch::Sender<Option<String>>,
}

/// Runs a scheduler until `shutdown`, then writes what is left to write. What it assigned runs on until the leases end, and
/// a scheduler that starts or takes over before that renews them.
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
    let leadership = leadership_times(config.lease)?;
    check_url("message node's URL", &config.message_node)?;
    for (what, url) in [("gateway's URL", &config.gateway_url), ("scheduler's own URL", &config.url)] {
        url.as_deref().map_or(Ok(()), |url| check_url(what, url))?;
    }
    let _lock = lock(&config.data_dir)?;
    let account = Arc::new(Account::from_file_or_generate(&config.data_dir.join("scheduler.key"))?);
    let Some(store) = open(&config.database, &shutdown).await? else { return Ok(()) };
    let bind = |source| RunError::Bind { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let url = config.url.clone().unwrap_or_else(|| format!("http://{address}"));
    let (front, metrics) = (watch::Sender::new(Router::new()), Arc::new(Metrics::new()));
    let seat = Seat { times, account, store, metrics, front, database: watch::Sender::new(None), config };
    tracing::info!(%address, scheduler = %seat.account.address(), "the scheduler is ready");

    let (stop, connections) = (shutdown.child_token(), TaskTracker::new());
    let mut accepting = JoinSet::new();
    accepting.spawn(accept(listener, seat.front.subscribe(), connections.clone(), stop.clone()));
    let mut ready = Some(|| ready(address));
    let result = match seat.config.database {
        Database::Sqlite(_) => lead_alone(&seat, &url, &mut ready, &shutdown).await,
        Database::Postgres(_) => take_turns(&seat, leadership, &url, &mut ready, &shutdown).await,
    };
    stop.cancel();
    drain(&connections).await;
    accepting.join_next().await;
    seat.store.close().await;
    result?;
    tracing::info!("the scheduler stopped; what it assigned runs on until its leases end");
    Ok(())
}

/// Opens the database. One that cannot be reached is tried again until `shutdown`; then there is none.
async fn open(database: &Database, shutdown: &CancellationToken) -> Result<Option<Store>, RunError> {
    loop {
        let Some(opened) = shutdown.run_until_cancelled(Store::open(database)).await else { return Ok(None) };
        match opened {
            Ok(store) => return Ok(Some(store)),
            Err(error) if error.is_out_of_reach() && matches!(database, Database::Postgres(_)) => {
                tracing::warn!(%error, "the database cannot be reached; it is tried again");
                shutdown.run_until_cancelled(tokio::time::sleep(OPEN_AGAIN)).await;
            }
            Err(error) => return Err(RunError::database(database, &error)),
        }
    }
}

/// The lock of the data directory says that nobody else uses the file.
async fn lead_alone(
    seat: &Seat,
    url: &str,
    ready: &mut Option<impl FnOnce()>,
    shutdown: &CancellationToken,
) -> Result<(), RunError> {
    let led =
        seat.store.claim_alone(url, &seat.account).await.map_err(|e| RunError::database(&seat.config.database, &e))?;
    let mut term = Term::new(seat, led, watch::Sender::new(true), shutdown).await?;
    announce(ready);
    term.run().await
}

/// Follows while another scheduler leads, leads when none does.
async fn take_turns(
    seat: &Seat,
    times: LeaseTimes,
    url: &str,
    ready: &mut Option<impl FnOnce()>,
    shutdown: &CancellationToken,
) -> Result<(), RunError> {
    loop {
        let led_by = watch::Sender::new(None);
        drop(seat.front.send_replace(follower::router(seat, led_by.subscribe())));
        announce(ready);
        let acquired = leadership::acquire(&seat.store, &seat.account, times, url, &led_by, &seat.database);
        let Some((led, claimed)) = shutdown.run_until_cancelled(acquired).await else { return Ok(()) };
        tracing::info!("this scheduler leads now");
        let deposed = shutdown.child_token();
        // Until the core knows how long it leads, no node may ask it for a lease.
        let leads = watch::Sender::new(false);
        let mut term = match Term::new(seat, led.clone(), leads.clone(), &deposed).await {
            Ok(term) => term,
            Err(error) => {
                tracing::error!(%error, "this scheduler cannot lead");
                continue;
            }
        };
        let engine = term.engine();
        let keep = async {
            leadership::keep(&led, times, claimed, engine, &leads).await;
            deposed.cancel();
        };
        let (result, ()) = tokio::join!(term.run(), keep_until(keep, &deposed));
        if shutdown.is_cancelled() || result.is_err() {
            // It grants nothing any more: another may lead at once.
            let _ = led.resign().await;
            return result;
        }
        tracing::warn!("another scheduler leads now");
    }
}

async fn keep_until(keep: impl Future<Output = ()>, end: &CancellationToken) {
    end.run_until_cancelled(keep).await;
}

fn announce(ready: &mut Option<impl FnOnce()>) {
    if let Some(ready) = ready.take() {
        ready();
    }
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
async fn accept(
    listener: TcpListener,
    front: watch::Receiver<Router>,
    connections: TaskTracker,
    stop: CancellationToken,
) {
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
        let (front, stop) = (front.clone(), stop.clone());
        connections.spawn(async move {
            serve(stream, front, stop).await;
            drop(slot);
        });
    }
}

async fn serve(stream: TcpStream, front: watch::Receiver<Router>, stop: CancellationToken) {
    // Grants must not wait for more; an error is no reason not to answer.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(|request: Request<Incoming>| {
        let router = front.borrow().clone();
        router.oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // Errors are those of clients that break off.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Lets what is under way end.
pub(crate) async fn drain(tasks: &TaskTracker) {
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("some connections did not end in time and are cut");
    }
}
