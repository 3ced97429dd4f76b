//! The single roles: each reads its options, runs, and ends on SIGINT or SIGTERM.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use compute_node::config::{DataConfig, Offer, SandboxConfig};
use compute_node::{FileConfig, GatewayConfig, PoolConfig, Storage, machine};
use lease::LeaseConfig;
use protocol::FileHash;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::copy;
use crate::options::{
    ComputeNodeOptions, GatewayOptions, MessageNodeCommand, MessageNodeOptions, Role, SchedulerOptions,
};

/// Runs a role until it is asked to end.
pub(crate) async fn run(role: Role, json: bool) -> anyhow::Result<()> {
    let shutdown = end_on_signals()?;
    let ready = move |name: &'static str| move |address: SocketAddr| announce(name, address, json);
    match role {
        Role::MessageNode(options) => {
            let mut options = *options;
            if let Some(MessageNodeCommand::Copy(options)) = options.command.take() {
                return copy::run(&options, shutdown, json).await;
            }
            message_node::run(message_node_config(options), ready("message node"), shutdown).await?;
        }
        Role::Scheduler(options) => scheduler::run(scheduler_config(options), ready("scheduler"), shutdown).await?,
        Role::ComputeNode(options) => {
            compute_node::run(compute_node_config(*options)?, ready("compute node"), shutdown).await?;
        }
        Role::Gateway(options) => {
            compute_node::run_gateway(gateway_config(options), ready("gateway"), shutdown).await?;
        }
        Role::Up(_) | Role::Volumes(_) => unreachable!("it is no single role"),
    }
    Ok(())
}

/// Says that a role answers requests.
fn announce(name: &str, address: SocketAddr, json: bool) {
    if json {
        println!("{}", serde_json::json!({ "ready": name, "url": format!("http://{address}") }));
    }
    info!(url = %format!("http://{address}"), "{name} ready");
}

/// Is cancelled by SIGINT and SIGTERM.
pub(crate) fn end_on_signals() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let ended = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        info!("ending");
        ended.cancel();
    });
    Ok(token)
}

fn message_node_config(options: MessageNodeOptions) -> message_node::Config {
    let config = message_node::Config {
        authority: options.authority,
        aliases: options.aliases.into_iter().collect(),
        archive: message_node::ArchiveConfig {
            place: options.snapshots,
            schedulers: options.schedulers,
            urls: options.urls,
            quota: options.snapshots_quota,
            retention: options.snapshots_retention,
            ..message_node::ArchiveConfig::default()
        },
        follow: options.follow.map(|url| message_node::FollowConfig { url, only: options.only }),
        postgres: options.store,
        advertise: options.advertise,
        files: options.files,
        ..message_node::Config::new(options.listen, options.data_dir)
    };
    options.senders.set(options.payment.set(config))
}

fn scheduler_config(options: SchedulerOptions) -> scheduler::Config {
    scheduler::Config {
        listen: options.listen,
        database: match options.store {
            Some(url) => scheduler::Database::Postgres(url),
            None => scheduler::Database::Sqlite(options.data_dir.join("scheduler.sqlite")),
        },
        url: options.url,
        data_dir: options.data_dir,
        message_node: options.message_node,
        gateway_url: options.gateway,
        lease: options.lease.config(),
        restore_after: options.restore_after,
        resync: scheduler::DEFAULT_RESYNC,
        operators: options.operators,
    }
}

fn gateway_config(options: GatewayOptions) -> GatewayConfig {
    GatewayConfig {
        listen: options.listen,
        message_node: options.message_node,
        schedulers: options.schedulers,
        hold_requests: options.hold,
        clients: options.clients.limits(),
    }
}

/// Where volumes are kept. The records are beside the pool's file, so on another file system than what is in it.
fn program_data(options: &ComputeNodeOptions, data_dir: &Path) -> Option<DataConfig> {
    let file = |mib: u64| Storage::File(FileConfig::new(data_dir.join("pool.btrfs"), data_dir.join("pool"), mib));
    let storage = options.pool.clone().map(Storage::Folder).or_else(|| options.pool_mib.map(file))?;
    Some(DataConfig {
        pool: PoolConfig { storage, records: data_dir.join("pool-records") },
        snapshot_interval: options.snapshot_interval,
        archive_interval: options.archive_interval,
        bandwidth: options.replication_mib.map(|mib| mib << 20),
        retention: options.retention,
        over_interval: options.over_interval,
    })
}

fn compute_node_config(options: ComputeNodeOptions) -> anyhow::Result<compute_node::Config> {
    std::fs::create_dir_all(&options.data_dir)
        .with_context(|| format!("cannot make the data directory {}", options.data_dir.display()))?;
    let data_dir = options.data_dir.canonicalize()?;
    let offer = offer(&options, &data_dir)?;
    let data = program_data(&options, &data_dir);
    let run_dir = options.run_dir.unwrap_or_else(|| default_run_dir(&data_dir));
    let parts = installation()?;
    Ok(compute_node::Config {
        listen: options.listen,
        url: options.url.trim_end_matches('/').to_owned(),
        name: options.name.unwrap_or_else(host_name),
        data_dir,
        run_dir,
        message_node: options.message_node,
        schedulers: options.schedulers,
        gateway_urls: options.gateways,
        scheduler_addresses: options.scheduler_addresses,
        aliases: options.aliases.into_iter().collect(),
        node_id: options.node_id,
        sandboxes: SandboxConfig {
            isolation: options.isolation,
            oci_runtime: options.oci_runtime,
            runsc: options.runsc,
            supervisor: parts.supervisor,
            guest: parts.guest,
            first_uid: options.first_uid,
            slots: options.slots,
            spare_mib: options.spare_mib,
            network: options.network,
        },
        offer,
        lease: LeaseConfig::default(),
        freeze_after: options.freeze_after,
        idle_after: options.idle_after,
        requests_per_copy: options.requests_per_copy as usize,
        copies: options.copies,
        ready_within: options.ready_within,
        hold_requests: options.hold,
        clients: options.clients.limits(),
        data,
        cache_bytes: options.cache_mib << 20,
        log_bytes: options.log_mib << 20,
        leave_running: !options.stop_programs,
    })
}

fn offer(options: &ComputeNodeOptions, data_dir: &Path) -> anyhow::Result<Offer> {
    let memory_mib = match options.memory_mib {
        Some(mib) => mib,
        None => (machine::memory().context("cannot ask for the machine's memory")?.total >> 20) / 5 * 4,
    };
    let disk_mib = match options.disk_mib {
        Some(mib) => mib,
        None => (machine::disk(data_dir).context("cannot ask for the disk's size")?.available >> 20) / 2,
    };
    let vcpus = options.vcpus.unwrap_or_else(|| machine::processors() * 4);
    Ok(Offer { vcpus, memory_mib, disk_mib, on_demand_share: options.on_demand_share })
}

/// A directory of the machine's tmpfs, the same for the same data directory, with a short name: sockets are in it.
fn default_run_dir(data_dir: &Path) -> PathBuf {
    let name = FileHash::of(data_dir.as_os_str().as_encoded_bytes()).to_string();
    Path::new("/run/aleph-node").join(&name[..12])
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What belongs to this program and lies beside it.
pub(crate) struct Installation {
    /// The binary `aleph-supervisor`.
    pub(crate) supervisor: PathBuf,
    /// The directory of the init and the ASGI server.
    pub(crate) guest: PathBuf,
    /// The directory of the runtime images.
    pub(crate) runtimes: PathBuf,
}

/// Finds the parts of this installation: in `ALEPH_NODE_LIB`, in `../lib/aleph-node` of the binary's directory, or where
/// `make` builds them.
pub(crate) fn installation() -> anyhow::Result<Installation> {
    let binary = std::env::current_exe()?.canonicalize()?;
    let beside = binary.parent().context("the binary is in no directory")?;
    let installed = match std::env::var_os("ALEPH_NODE_LIB") {
        Some(directory) => Some(PathBuf::from(directory)),
        None => Some(beside.join("../lib/aleph-node")).filter(|directory| directory.is_dir()),
    };
    Ok(match installed {
        Some(lib) => Installation {
            supervisor: lib.join("aleph-supervisor"),
            guest: lib.join("guest"),
            runtimes: lib.join("runtimes"),
        },
        // target/release/aleph-node, target/guest, target/runtimes
        None => Installation {
            supervisor: beside.join("aleph-supervisor"),
            guest: beside.join("../guest"),
            runtimes: beside.join("../runtimes"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_data_directory_has_the_same_sandboxes() {
        let a = default_run_dir(Path::new("/var/lib/a"));
        assert_eq!(a, default_run_dir(Path::new("/var/lib/a")));
        assert_ne!(a, default_run_dir(Path::new("/var/lib/b")));
        // A sandbox's socket below it must fit into the 107 bytes of an address.
        assert!(a.as_os_str().len() + "/0123456789ab-18446744073709551615-01234567/supervisor.sock".len() < 107);
    }
}
