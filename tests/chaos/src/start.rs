//! How a network is started: in order, each part with its arguments.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aleph_tests::{Aleph, Postgres};
use anyhow::Context;
use protocol::client::{MessageNode, Scheduler};
use protocol::network::NetworkSettings;
use protocol::{Account, Address};
use rustix::mount::{MountFlags, mount};
use serde_json::json;

use crate::daemon::Daemon;
use crate::hosts::{Hosts, Place, SCHEDULERS};
use crate::world::{World, disk};
use crate::{Options, publish};

const MESSAGE_NODE_PORT: u16 = 4024;
pub(crate) const SCHEDULER_PORT: u16 = 4025;
pub(crate) const GATEWAY_PORT: u16 = 4026;
pub(crate) const NODE_PORT: u16 = 4020;

/// The first user id of the first node's sandboxes: far from those of other networks of this machine.
const FIRST_UID: u32 = 0x6000_0000;
const SLOTS: u32 = 60;
const IDS: u32 = 65_536;

/// Where everything is, and who may speak for it.
struct Start<'a> {
    hosts: &'a Hosts,
    root: &'a Path,
    options: &'a Options,
    authority: Account,
}

impl<'a> World<'a> {
    /// Starts everything, and programs.
    ///
    /// # Errors
    /// What does not start.
    pub(crate) async fn start(hosts: &'a Hosts, root: &'a Path, options: &'a Options) -> anyhow::Result<Self> {
        let start = Start { hosts, root, options, authority: Account::generate() };
        std::fs::create_dir_all(root.join("logs"))?;
        let home = start.account()?;
        let message_node = start.message_node().await?;
        let messages = MessageNode::new(message_node_url());
        publish::runtime(&start.authority, &messages).await?;
        let disk = small_disk(root, Place::Postgres, 200)?;
        let postgres = Postgres::start_in(hosts.at(Place::Postgres).clone(), Place::Postgres.address(), &disk);
        let (schedulers, addresses) = start.schedulers(&postgres.database()).await?;
        let settings = NetworkSettings {
            scheduler_urls: scheduler_urls(),
            scheduler_addresses: addresses.clone(),
            gateway_url: Some(gateway_url()),
        };
        publish::settings(&start.authority, &messages, &settings).await?;
        let gateway = start.gateway().await;
        let mut nodes = Vec::new();
        for number in 0..options.nodes {
            nodes.push(start.compute_node(number, &addresses).await?);
        }
        let aleph = Aleph::new(message_node_url(), home);
        let (programs, start) = (Vec::new(), Duration::ZERO);
        let mut world = Self {
            hosts,
            postgres,
            message_node,
            schedulers,
            gateway,
            nodes,
            programs,
            writers: 0..0,
            aleph,
            root,
            start,
        };
        world.upload(options.programs, options.writers).await?;
        Ok(world)
    }
}

impl Start<'_> {
    /// The client's folder, and tokens for it and for the authority, whose image has a price.
    fn account(&self) -> anyhow::Result<PathBuf> {
        let home = self.root.join("account");
        let key = home.join("private-keys/ethereum.key");
        let account = Account::from_file_or_generate(&key)?;
        let config =
            json!({ "path": key, "type": "imported", "chain": "ETH", "address": null, "derivation_path": null });
        std::fs::write(home.join("config.json"), config.to_string())?;
        let balances = json!({ account.address().as_str(): "1000000", self.authority.address().as_str(): "1000000" });
        std::fs::write(self.root.join("ledger.json"), balances.to_string())?;
        Ok(home)
    }

    async fn role(&self, place: Place, name: &str, arguments: &[&[&str]]) -> Daemon {
        let log = self.root.join("logs").join(format!("{name}.log"));
        Daemon::ready(self.hosts.at(place), &arguments.concat(), log).await
    }

    async fn message_node(&self) -> anyhow::Result<Daemon> {
        let place = Place::MessageNode;
        let (data, ledger) = (small_disk(self.root, place, 300)?, self.root.join("ledger.json"));
        let arguments: [&[&str]; 5] = [
            &["message-node"],
            &["--listen", &listen(place, MESSAGE_NODE_PORT)],
            &["--data-dir", text(&data)],
            &["--ledger", text(&ledger)],
            &["--authority", self.authority.address().as_str()],
        ];
        Ok(self.role(place, "message-node", &arguments).await)
    }

    async fn schedulers(&self, database: &str) -> anyhow::Result<(Vec<Daemon>, Vec<Address>)> {
        let (mut daemons, mut addresses) = (Vec::new(), Vec::new());
        for (number, url) in scheduler_urls().iter().enumerate() {
            let place = Place::Scheduler(number);
            let data = disk(self.root, place);
            let arguments: [&[&str]; 9] = [
                &["scheduler"],
                &["--listen", &listen(place, SCHEDULER_PORT)],
                &["--data-dir", text(&data)],
                &["--store", database],
                &["--url", url],
                &["--message-node", &message_node_url()],
                &["--gateway", &gateway_url()],
                &["--lease", &millis(self.options.lease)],
                &["--heartbeat", &millis(self.options.heartbeat)],
            ];
            daemons.push(self.role(place, &format!("scheduler-{number}"), &arguments).await);
            addresses.push(Scheduler::new(url).health().await?.address);
        }
        Ok((daemons, addresses))
    }

    async fn gateway(&self) -> Daemon {
        let place = Place::Gateway;
        let arguments: [&[&str]; 4] = [
            &["gateway"],
            &["--listen", &listen(place, GATEWAY_PORT)],
            &["--message-node", &message_node_url()],
            &["--scheduler", &scheduler_urls().join(",")],
        ];
        self.role(place, "gateway", &arguments).await
    }

    async fn compute_node(&self, number: usize, schedulers: &[Address]) -> anyhow::Result<Daemon> {
        let place = Place::Node(number);
        let data = small_disk(self.root, place, 300)?;
        let (name, index) = (format!("node-{number}"), u32::try_from(number)?);
        let trusted: Vec<_> = schedulers.iter().map(Address::as_str).collect();
        let pool = pool(self.root, place)?;
        // Room for two persistent programs on each, so that they are spread, and for what the standby of writers needs.
        let vcpus = if self.options.writers > 0 { "6" } else { "3" };
        let arguments: [&[&str]; 14] = [
            &["compute-node"],
            &["--listen", &listen(place, NODE_PORT)],
            &["--url", &place.url(NODE_PORT)],
            &["--name", &name],
            &["--data-dir", text(&data)],
            &["--message-node", &message_node_url()],
            &["--scheduler", &scheduler_urls().join(",")],
            &["--scheduler-address", &trusted.join(",")],
            &["--gateway", &gateway_url()],
            &["--vcpus", vcpus, "--memory-mib", "1024", "--disk-mib", "4096", "--log-mib", "100"],
            &["--pool", text(&pool)],
            &["--first-uid", &(FIRST_UID + index * SLOTS * IDS).to_string()],
            &["--slots", &SLOTS.to_string()],
            &["--network", &format!("100.{}.0.0/16", 64 + number)],
        ];
        Ok(self.role(place, &name, &arguments).await)
    }
}

/// Gives a host a small disk, which only this mount namespace sees.
fn small_disk(root: &Path, place: Place, mib: u32) -> anyhow::Result<PathBuf> {
    let folder = disk(root, place);
    std::fs::create_dir_all(&folder)?;
    let size = std::ffi::CString::new(format!("size={mib}m,mode=755"))?;
    mount("disk", &folder, "tmpfs", MountFlags::empty(), Some(size.as_c_str())).context("cannot mount a disk")?;
    Ok(folder)
}

/// Gives a compute node a disk for volumes, which is not the one that faults fill.
fn pool(root: &Path, place: Place) -> anyhow::Result<PathBuf> {
    let name = format!("{}-pool", disk(root, place).file_name().unwrap_or_default().to_string_lossy());
    let (folder, mounted) = (root.join(&name), root.join(name + "-mounted"));
    std::fs::create_dir_all(&folder)?;
    std::fs::create_dir_all(&mounted)?;
    let size = std::ffi::CString::new("size=1100m,mode=755")?;
    mount("disk", &folder, "tmpfs", MountFlags::empty(), Some(size.as_c_str())).context("cannot mount a disk")?;
    let file = folder.join("pool.btrfs");
    std::fs::File::create(&file)?.set_len(1 << 30)?;
    // The loop device goes with the mount, and the mount with its namespace.
    for (program, arguments) in [
        ("mkfs.btrfs", vec!["--quiet", text(&file)]),
        ("mount", vec!["-t", "btrfs", "-o", "loop,noatime,nodev,nosuid", text(&file), text(&mounted)]),
    ] {
        let status = std::process::Command::new(program).args(arguments).status();
        anyhow::ensure!(status.context(program)?.success(), "{program} fails");
    }
    Ok(mounted)
}

fn message_node_url() -> String {
    Place::MessageNode.url(MESSAGE_NODE_PORT)
}

fn gateway_url() -> String {
    Place::Gateway.url(GATEWAY_PORT)
}

fn scheduler_urls() -> Vec<String> {
    (0..SCHEDULERS).map(|number| Place::Scheduler(number).url(SCHEDULER_PORT)).collect()
}

fn listen(place: Place, port: u16) -> String {
    format!("{}:{port}", place.address())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test folders have plain names")
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}
