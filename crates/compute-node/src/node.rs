//! Puts a compute node, or a gateway without one, together and runs it.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use lease::{LeaseTimes, clock};
use protocol::client::{Archive, MessageNode};
use protocol::control::Capacity;
use protocol::{Account, Isolation, account::AccountError};
use rustix::fs::{FlockOperation, flock};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::admin::Admin;
use crate::agent::{Agent, AgentHandle, Message, Parts};
use crate::api::{self, ApiState};
use crate::config::{ClientLimits, Config, Offer};
use crate::control::{self, Identity};
use crate::core::on_demand::{OnDemand, Patience};
use crate::core::persistent::{Needs, Persistent};
use crate::epochs::EpochStore;
use crate::gateway::{Gateway, Routes};
use crate::guest_api::GuestApi;
use crate::machine;
use crate::metrics::Metrics;
use crate::programs::catalog::{Catalog, Change, POLL};
use crate::programs::code::CodeCache;
use crate::programs::data::ProgramData;
use crate::programs::endpoint::Endpoints;
use crate::programs::fetch::Fetcher;
use crate::programs::files::Files;
use crate::programs::freezer::Freezers;
use crate::programs::images::Images;
use crate::programs::sandboxes::{Happened, OfData, Owner, Sandboxes};
use crate::registration::Registration;
use crate::server::{self, Services};

/// How many events of sandboxes may wait.
const EVENTS: usize = 1024;

/// Why a compute node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is something else using the port?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// A directory cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process uses the data directory.
    #[error("{} is in use by another compute node; stop it first, or name another --data-dir", .0.display())]
    InUse(PathBuf),
    /// Something that sandboxes need is not there.
    #[error("{what} is missing at {}: {hint}", path.display())]
    Missing {
        /// What.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// gVisor is there, and of no use.
    #[error("{0}")]
    Gvisor(String),
    /// The operating system gives no threads.
    #[error("cannot start the threads that serve clients: {0}")]
    Threads(#[source] io::Error),
    /// Not root.
    #[error("a compute node makes sandboxes, which only root can do: run it as root")]
    NotRoot,
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] AccountError),
    /// The lease's constants do not fit together.
    #[error("the lease settings do not fit together: {0}")]
    Lease(#[from] lease::LeaseConfigError),
    /// The pool for volumes cannot be used.
    #[error("the pool for volumes cannot be used: {0}")]
    Pool(#[from] volumes::Error),
    /// No scheduler is named.
    #[error("name at least one scheduler with --scheduler URL")]
    NoScheduler,
}

fn in_directory(path: &std::path::Path) -> impl FnOnce(io::Error) -> RunError {
    let path = path.to_owned();
    move |source| RunError::Directory { path, source }
}

/// Runs a compute node until `shutdown`. Calls `ready` with the address it listens on, once requests are answered.
///
/// # Errors
/// [`RunError`] when it cannot start. Once it runs it goes on, whatever else in the network is down.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr) + Send,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    check(&config)?;
    let _lock = lock(&config.data_dir)?;
    let admin = Admin::listen(&config.data_dir).map_err(in_directory(&config.data_dir))?;
    let listener = listen(config.listen).await?;
    let address = listener.local_addr().map_err(|source| RunError::Listen { address: config.listen, source })?;

    let account = Account::from_file_or_generate(&config.data_dir.join("node.key"))?;
    let message_node = MessageNode::new(&config.message_node);
    let catalog = Catalog::new(message_node.clone());
    let routes = Routes::new(&config.schedulers);
    let (handle, messages) = AgentHandle::new(Arc::new(Endpoints::new(config.requests_per_copy)));
    let metrics = Metrics::new();
    let freezers = Arc::new(Freezers::default());
    let (data, pool_mib) = open_pool(&config, &freezers).await?;
    let mut capacity = persistent_capacity(&config.offer, &config.sandboxes.isolation);
    capacity.pool_mib = pool_mib;
    let node = Arc::new(OnceCell::new());
    let of_data = OfData { guest_api: GuestApi::new(node.clone(), data.clone()), data: data.clone(), freezers };
    let (agent, events, sandboxes) = build_agent(&config, &catalog, &message_node, &handle, &metrics, of_data).await?;

    let api = api::router(Arc::new(ApiState {
        name: config.name.clone(),
        node: node.clone(),
        domains: domains(&config),
        capacity: capacity.clone(),
        data_dir: config.data_dir.clone(),
        message_node: message_node.clone(),
        catalog: catalog.clone(),
        sandboxes,
        agent: handle.clone(),
        data: data.clone(),
        metrics: metrics.clone(),
        started: Instant::now(),
    }));
    let limits = config.clients;
    let waits = (config.hold_requests, limits.idle_timeout);
    let gateway = Gateway::new(catalog.clone(), routes.clone(), Some(handle.clone()), waits, metrics);
    let api_runtime = Handle::current();
    let services = Arc::new(Services { gateway, api, api_runtime, is_gateway_only: false, limits });

    // What serves requests ends before what runs programs.
    let (edge, core) = (shutdown.child_token(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(routes.follow(edge.clone()));
    tasks.spawn(follow_catalog(catalog.clone(), handle.clone(), edge.clone()));
    tasks.spawn(admin.serve(data.clone(), edge.clone()));
    if let Some(data) = &data {
        tasks.spawn(data.clone().keep_house(core.clone()));
        tasks.spawn(data.clone().forget_what_is_over(catalog.clone(), edge.clone()));
    }
    tasks.spawn(connect(
        config,
        account,
        (node, capacity, data),
        (message_node, catalog.clone()),
        handle,
        edge.clone(),
    ));
    let agent = tokio::spawn(agent.run(messages, events, core.clone()));
    ready(address);
    let served = server::serve(listener, services, edge.clone()).await.map_err(RunError::Threads);
    edge.cancel();
    core.cancel();
    let _ = agent.await;
    while tasks.join_next().await.is_some() {}
    served
}

/// What a gateway without a compute node is told.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Base URL of the message node.
    pub message_node: String,
    /// Base URLs of the schedulers.
    pub schedulers: Vec<String>,
    /// How long a request waits for a program that starts or moves.
    pub hold_requests: Duration,
    /// What clients may do.
    pub clients: ClientLimits,
}

/// Runs a gateway without a compute node until `shutdown`. Calls `ready` with the address it listens on.
///
/// # Errors
/// [`RunError`] when it cannot start.
pub async fn run_gateway(
    config: GatewayConfig,
    ready: impl FnOnce(SocketAddr) + Send,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    if config.schedulers.is_empty() {
        return Err(RunError::NoScheduler);
    }
    let listener = listen(config.listen).await?;
    let address = listener.local_addr().map_err(|source| RunError::Listen { address: config.listen, source })?;
    let catalog = Catalog::new(MessageNode::new(&config.message_node));
    let routes = Routes::new(&config.schedulers);
    let metrics = Metrics::new();
    let rendered = metrics.clone();
    let api = Router::new()
        .route("/health", axum::routing::get(async || axum::Json(serde_json::json!({ "status": "ok" }))))
        .route("/metrics", axum::routing::get(async move || rendered.render(&[])));
    let limits = config.clients;
    let waits = (config.hold_requests, limits.idle_timeout);
    let gateway = Gateway::new(catalog.clone(), routes.clone(), None, waits, metrics);
    let (changes, mut ignored) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(routes.follow(shutdown.clone()));
    tasks.spawn(catalog.follow(changes, POLL, shutdown.clone()));
    // Nothing runs here that would have to follow.
    tasks.spawn(async move { while ignored.recv().await.is_some() {} });
    ready(address);
    let services = Services { gateway, api, api_runtime: Handle::current(), is_gateway_only: true, limits };
    let served = server::serve(listener, Arc::new(services), shutdown.clone()).await.map_err(RunError::Threads);
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    served
}

fn check(config: &Config) -> Result<(), RunError> {
    if !rustix::process::geteuid().is_root() {
        return Err(RunError::NotRoot);
    }
    if config.schedulers.is_empty() {
        return Err(RunError::NoScheduler);
    }
    LeaseTimes::new(config.lease)?;
    let made = &config.sandboxes;
    let missing = |what, path: PathBuf, hint| Err(RunError::Missing { what, path, hint });
    for isolation in &made.isolation {
        let runtime = made.runtime_of(*isolation);
        let (found, (what, hint)) = (
            find_program(runtime),
            match isolation {
                Isolation::Container => {
                    ("the OCI runtime", "install the Debian package crun, or name another runtime with --oci-runtime")
                }
                Isolation::Gvisor => {
                    ("gVisor", "install the Debian package runsc from backports, or say where it is with --runsc")
                }
            },
        );
        let Some(found) = found else { return missing(what, runtime.to_owned(), hint) };
        if *isolation == Isolation::Gvisor {
            sandbox::container::check_gvisor(&found).map_err(RunError::Gvisor)?;
        }
    }
    if !made.supervisor.is_file() {
        return missing(
            "aleph-supervisor",
            made.supervisor.clone(),
            "it belongs next to aleph-node: `make build` puts it there",
        );
    }
    if !made.guest.join("aleph-init").is_file() {
        return missing("aleph-init", made.guest.join("aleph-init"), "`make guest` builds it");
    }
    Ok(())
}

/// A program by its path, or by its name in one of the usual directories.
fn find_program(name: &std::path::Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Keeps other compute nodes off the data directory as long as the file is held.
fn lock(data_dir: &std::path::Path) -> Result<File, RunError> {
    let open = || {
        fs::create_dir_all(data_dir)?;
        File::create(data_dir.join("lock"))
    };
    let file = open().map_err(in_directory(data_dir))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| RunError::InUse(data_dir.to_owned()))?;
    Ok(file)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })
}

/// The pool, if this node has one, and how large it can become, in MiB.
async fn open_pool(config: &Config, freezers: &Arc<Freezers>) -> Result<(Option<Arc<ProgramData>>, u64), RunError> {
    let Some(config) = &config.data else { return Ok((None, 0)) };
    let data = ProgramData::open_pool(config.clone(), freezers.clone()).await?;
    let size = data.size_mib()?;
    Ok((Some(data), size))
}

async fn build_agent(
    config: &Config,
    catalog: &Arc<Catalog>,
    message_node: &MessageNode,
    handle: &AgentHandle,
    metrics: &Arc<Metrics>,
    of_data: OfData,
) -> Result<(Agent, mpsc::Receiver<(Owner, Happened)>, Arc<Sandboxes>), RunError> {
    let data = &config.data_dir;
    let (events_in, events) = mpsc::channel(EVENTS);
    // Downloaded and unpacked files share the cache's size.
    let half = config.cache_bytes / 2;
    let open = |name: &str| data.join("cache").join(name);
    let files = Files::open(open("files"), open("images"), half, message_node.clone(), metrics.clone())
        .map_err(in_directory(&open("files")))?;
    let images = Images::open(open("images")).map_err(in_directory(&open("images")))?;
    let code = Arc::new(CodeCache::open(open("code"), half).map_err(in_directory(&open("code")))?);
    let program_data = of_data.data.clone();
    let sandboxes = Sandboxes::new(config.clone(), code.clone(), of_data, metrics.clone(), events_in)
        .map_err(in_directory(&config.run_dir))?;
    let (epochs, seen) = EpochStore::open(data.join("epochs")).map_err(in_directory(&data.join("epochs")))?;
    let (aliases, has_pool) = (config.aliases.clone(), program_data.is_some());
    let isolation = config.sandboxes.isolation.clone();
    let (catalog, message_node) = (catalog.clone(), message_node.clone());
    let fetcher = Fetcher {
        catalog,
        message_node,
        files,
        images,
        code,
        aliases,
        sandboxes: sandboxes.clone(),
        has_pool,
        isolation,
    };
    let capacity = persistent_capacity(&config.offer, &config.sandboxes.isolation);
    let mut agent = Agent::new(Parts {
        persistent: Persistent::new(clock::now(), capacity, seen, config.lease.lease),
        on_demand: OnDemand::new(on_demand_capacity(&config.offer), config.requests_per_copy),
        epochs,
        sandboxes: sandboxes.clone(),
        fetcher: Arc::new(fetcher),
        data: program_data,
        handle: handle.clone(),
        patience: Patience { freeze_after: config.freeze_after, stop_after: config.idle_after },
        copies: config.copies,
        leave_running: config.leave_running,
    });
    // Before the first heartbeat: what it does not mention is not there.
    let adopted = sandboxes.adopt().await.map_err(in_directory(&config.run_dir))?;
    agent.take_over(adopted);
    Ok((agent, events, sandboxes))
}

/// Registers the node, then stays connected to a scheduler.
async fn connect(
    config: Config,
    account: Account,
    (node, capacity, data): (Arc<OnceCell<protocol::NodeId>>, Capacity, Option<Arc<ProgramData>>),
    (message_node, catalog): (MessageNode, Arc<Catalog>),
    handle: AgentHandle,
    shutdown: CancellationToken,
) {
    let account = Arc::new(account);
    let registration = Registration::open(&config.data_dir, &account, (&config.name, &config.url));
    let known = config.node_id.or_else(|| registration.remembered());
    let id = match known {
        Some(id) => Some(id),
        None => registration.register(&message_node, &shutdown).await,
    };
    let (Some(id), Ok(boot)) = (id, machine::boot_id()) else { return };
    let _ = node.set(id);
    handle.introduce(id);
    if let Some(data) = &data {
        match Archive::new(&config.message_node, account.clone()) {
            Ok(archive) => data.introduce(account.clone(), id, archive, catalog),
            // It was registered there a moment ago, or long ago under another URL.
            Err(error) => return error!(%error, "the message node's URL cannot be used: see --message-node"),
        }
    }
    let identity = Arc::new(Identity {
        account,
        node: id,
        boot,
        url: config.url,
        capacity,
        scheduler_addresses: config.scheduler_addresses,
        lease: config.lease,
        data,
    });
    info!(node = %id, "this node");
    // One that was known already is looked after beside the rest: the message node may have lost it.
    let is_remembered = known.is_some() && config.node_id.is_none();
    let renewed = async {
        if is_remembered {
            registration.register(&message_node, &shutdown).await;
        }
    };
    tokio::join!(control::run(identity, config.schedulers, handle, shutdown.clone()), renewed);
}

/// Passes changes of programs on to the agent.
async fn follow_catalog(catalog: Arc<Catalog>, handle: AgentHandle, shutdown: CancellationToken) {
    let (changes, mut changed) = mpsc::channel::<Change>(64);
    let messages = handle.changes();
    tokio::join!(catalog.follow(changes, POLL, shutdown), async move {
        while let Some(change) = changed.recv().await {
            let _ = messages.send(Message::Changed(change)).await;
        }
    });
}

/// What persistent programs get.
fn persistent_capacity(offer: &Offer, isolation: &[Isolation]) -> Capacity {
    let on_demand = on_demand_capacity(offer);
    let (cpu_vendor, cpu_features) = machine::processor();
    Capacity {
        vcpus: offer.vcpus - on_demand.vcpus,
        memory_mib: offer.memory_mib - on_demand.memory_mib,
        disk_mib: offer.disk_mib,
        pool_mib: 0,
        architecture: machine::architecture().to_owned(),
        cpu_vendor,
        cpu_features,
        isolation: isolation.to_vec(),
    }
}

/// What copies on demand get.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn on_demand_capacity(offer: &Offer) -> Needs {
    let share = offer.on_demand_share.clamp(0.0, 1.0);
    Needs {
        vcpus: (f64::from(offer.vcpus) * share).floor() as u32,
        memory_mib: (offer.memory_mib as f64 * share).floor() as u64,
    }
}

/// The host names of this node: requests signed for another are refused.
fn domains(config: &Config) -> Vec<String> {
    let host = |url: &str| url.parse::<http::Uri>().ok()?.host().map(str::to_owned);
    std::iter::once(&config.url).chain(&config.gateway_urls).filter_map(|url| host(url)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn persistent_programs_and_copies_on_demand_share_what_is_offered() {
        let offer = Offer { vcpus: 9, memory_mib: 1001, disk_mib: 5, on_demand_share: 0.25 };
        let (persistent, on_demand) =
            (persistent_capacity(&offer, &[Isolation::Container]), on_demand_capacity(&offer));
        assert_eq!((persistent.vcpus + on_demand.vcpus, persistent.memory_mib + on_demand.memory_mib), (9, 1001));
        assert_eq!((on_demand.vcpus, on_demand.memory_mib), (2, 250));
    }
}
