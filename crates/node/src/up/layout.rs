//! Where the parts of a network are: directories, ports, keys, arguments.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use compute_node::machine;
use protocol::{Account, Address, Alias};
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::options::{UpOptions, in_millis};

/// The first user id of the first compute node's sandboxes, how many sandboxes each node can have, and how many ids each
/// takes.
const FIRST_UID: u32 = 0x7000_0000;
const SLOTS: u32 = 60;
const IDS: u32 = 65_536;

/// Variables of a process's environment.
pub(super) type Environment = Vec<(&'static str, OsString)>;

/// A network's directory and ports.
pub(super) struct Layout {
    root: PathBuf,
    port: u16,
    authority: Account,
    account: Account,
    _lock: File,
}

impl Layout {
    /// Opens the directory, making what is missing: keys, the account's configuration, the ledger unless there is a token.
    pub(super) fn open(options: &UpOptions) -> anyhow::Result<Self> {
        let root = match &options.data_dir {
            Some(directory) => directory.clone(),
            None => default_root()?,
        };
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        let root = root.canonicalize()?;
        let lock = File::create(root.join("lock")).with_context(|| format!("cannot write to {}", root.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "another `aleph-node up` runs the network in {}; end it first, or name another --data-dir",
                root.display()
            );
        }
        let highest = u32::from(options.port) + 2 + u32::from(options.nodes);
        if highest > u32::from(u16::MAX) {
            bail!("--port {} leaves no room for {} compute nodes: ports end at 65535", options.port, options.nodes);
        }
        let authority = Account::from_file_or_generate(&root.join("authority.key"))?;
        let account = Account::from_file_or_generate(&root.join("account/private-keys/ethereum.key"))?;
        let layout = Self { port: options.port, authority, account, root, _lock: lock };
        if !options.token.is_named() {
            let balances = json!({ layout.account.address().as_str(): options.balance.to_string() });
            layout.write_once("ledger.json", &balances)?;
        }
        let config = json!({
            "path": layout.account_key(), "type": "imported", "chain": "ETH", "address": null, "derivation_path": null,
        });
        layout.write_once("account/config.json", &config)?;
        fs::create_dir_all(layout.logs())?;
        Ok(layout)
    }

    fn write_once(&self, name: &str, content: &serde_json::Value) -> anyhow::Result<()> {
        let path = self.root.join(name);
        if path.exists() {
            return Ok(());
        }
        let written = fs::write(&path, format!("{}\n", serde_json::to_string_pretty(content)?));
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Refuses to start when a port is taken, naming all that are.
    pub(super) fn check_ports(&self, nodes: u16) -> anyhow::Result<()> {
        let last = self.port + 2 + nodes;
        let taken: Vec<_> = (self.port..=last)
            .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err())
            .map(|port| port.to_string())
            .collect();
        if taken.is_empty() {
            return Ok(());
        }
        bail!(
            "something uses port {} of {} to {last}, which this network needs; end it, or name another --port",
            taken.join(", "),
            self.port
        );
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(super) fn authority(&self) -> &Account {
        &self.authority
    }

    pub(super) fn account_address(&self) -> &Address {
        self.account.address()
    }

    /// The client's configuration directory of the first account.
    pub(super) fn account_home(&self) -> PathBuf {
        self.root.join("account")
    }

    pub(super) fn account_key(&self) -> PathBuf {
        self.account_home().join("private-keys/ethereum.key")
    }

    fn address(&self, offset: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port + offset))
    }

    pub(super) fn message_node_url(&self) -> String {
        format!("http://{}", self.address(0))
    }

    pub(super) fn scheduler_url(&self) -> String {
        format!("http://{}", self.address(1))
    }

    /// By name, so that programs below it have names of their own: every system resolves `*.localhost` to itself.
    pub(super) fn gateway_url(&self) -> String {
        format!("http://localhost:{}", self.port + 2)
    }

    pub(super) fn compute_node_url(&self, number: u16) -> String {
        format!("http://{}", self.address(2 + number))
    }

    pub(super) fn compute_node_data(&self, number: u16) -> PathBuf {
        self.root.join("nodes").join(number.to_string())
    }

    /// Arguments and environment.
    pub(super) fn message_node_arguments(&self, options: &UpOptions, alias: &Alias) -> (Vec<OsString>, Environment) {
        let mut list = vec![
            "message-node".into(),
            "--listen".into(),
            self.address(0).to_string().into(),
            "--data-dir".into(),
            self.root.join("message-node").into(),
            "--authority".into(),
            self.authority.address().as_str().into(),
            "--scheduler".into(),
            self.scheduler_url().into(),
            "--alias".into(),
            alias.to_string().into(),
        ];
        list.extend(options.hold.arguments());
        let Some((token, variable)) = options.token.pass_on() else {
            list.extend(["--ledger".into(), self.root.join("ledger.json").into()]);
            return (arguments(&list), Vec::new());
        };
        list.extend(token);
        (arguments(&list), vec![variable])
    }

    pub(super) fn scheduler_arguments(&self, options: &UpOptions) -> Vec<OsString> {
        arguments(&[
            "scheduler".into(),
            "--listen".into(),
            self.address(1).to_string().into(),
            "--data-dir".into(),
            self.root.join("scheduler").into(),
            "--message-node".into(),
            self.message_node_url().into(),
            "--gateway".into(),
            self.gateway_url().into(),
            "--operator".into(),
            self.account.address().as_str().into(),
            "--restore-after".into(),
            in_millis(options.restore_after),
            "--heartbeat".into(),
            in_millis(options.lease.heartbeat),
            "--lease".into(),
            in_millis(options.lease.lease),
        ])
    }

    pub(super) fn gateway_arguments(&self) -> Vec<OsString> {
        arguments(&[
            "gateway".into(),
            "--listen".into(),
            self.address(2).to_string().into(),
            "--message-node".into(),
            self.message_node_url().into(),
            "--scheduler".into(),
            self.scheduler_url().into(),
        ])
    }

    pub(super) fn compute_node_arguments(
        &self,
        options: &UpOptions,
        number: u16,
        scheduler: &Address,
        alias: &Alias,
    ) -> Vec<OsString> {
        let nodes = u64::from(options.nodes);
        let memory_mib = machine::memory().map_or(2048, |memory| (memory.total >> 20) * 4 / 5 / nodes);
        let disk_mib = machine::disk(&self.root).map_or(10_240, |disk| (disk.available >> 20) / 2 / nodes);
        // Every node may use all processors; what they promise together is more than there is, as usual.
        let vcpus = (machine::processors() * 4).max(8);
        let index = u32::from(number - 1);
        let mut list = vec![
            "compute-node".into(),
            "--listen".into(),
            self.address(2 + number).to_string().into(),
            "--url".into(),
            self.compute_node_url(number).into(),
            "--name".into(),
            format!("node-{number}").into(),
            "--data-dir".into(),
            self.compute_node_data(number).into(),
            "--message-node".into(),
            self.message_node_url().into(),
            "--scheduler".into(),
            self.scheduler_url().into(),
            "--scheduler-address".into(),
            scheduler.as_str().into(),
            "--gateway".into(),
            self.gateway_url().into(),
            "--vcpus".into(),
            vcpus.to_string().into(),
            "--memory-mib".into(),
            memory_mib.to_string().into(),
            "--disk-mib".into(),
            disk_mib.to_string().into(),
            "--freeze-after".into(),
            in_millis(options.freeze_after),
            "--idle-after".into(),
            in_millis(options.idle_after),
            "--requests-per-copy".into(),
            options.requests_per_copy.to_string().into(),
            "--copies".into(),
            options.copies.to_string().into(),
            "--snapshot-interval".into(),
            in_millis(options.snapshot_interval),
            "--archive-interval".into(),
            in_millis(options.archive_interval),
            "--over-interval".into(),
            in_millis(options.over_interval),
            "--ready-within".into(),
            in_millis(options.ready_within),
            "--oci-runtime".into(),
            options.oci_runtime.clone().into(),
            "--isolation".into(),
            options.isolation.iter().map(|isolation| isolation.as_str()).collect::<Vec<_>>().join(",").into(),
            "--runsc".into(),
            options.runsc.clone().into(),
            "--first-uid".into(),
            (FIRST_UID + index * SLOTS * IDS).to_string().into(),
            "--slots".into(),
            SLOTS.to_string().into(),
            "--spare-mib".into(),
            options.spare_mib.to_string().into(),
            "--network".into(),
            format!("100.{}.0.0/16", 64 + index).into(),
            "--stop-programs".into(),
            "--alias".into(),
            alias.to_string().into(),
        ];
        if options.pool_mib > 0 {
            list.extend(["--pool-mib".into(), options.pool_mib.to_string().into()]);
        }
        arguments(&list)
    }
}

fn default_root() -> anyhow::Result<PathBuf> {
    let data = match std::env::var_os("XDG_DATA_HOME") {
        Some(directory) => PathBuf::from(directory),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("there is no HOME: name a --data-dir")?).join(".local/share")
        }
    };
    Ok(data.join("aleph-node/up"))
}

fn arguments(list: &[OsString]) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("--json")];
    arguments.extend_from_slice(list);
    arguments
}
