//! A scheduler that runs, the message node that it follows, and nodes.

use std::net::SocketAddr;
use std::time::Duration;

use aleph_scheduler::{Config, Database, RunError, run};
use lease::{LeaseConfig, LeaseTimes};
use protocol::api::scheduler::{AssignmentRecord, Page, ProgramState, VmRecord};
use protocol::client::{Scheduler, http_client};
use protocol::{Account, NodeId, ProgramId};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::compute_node::FakeNode;
use crate::message_node::FakeMessageNode;

/// How long a condition may take to come true before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Short, but long enough for a machine that is busy with something else.
pub(crate) const LEASE: LeaseConfig = LeaseConfig {
    heartbeat: Duration::from_millis(100),
    lease: Duration::from_millis(1500),
    grace: Duration::from_millis(100),
    kill_allowance: Duration::from_millis(100),
    drift_ppm: 20_000,
    margin: Duration::from_millis(100),
};

/// How long the scheduler waits for a silent node.
pub(crate) fn longest_wait() -> Duration {
    LeaseTimes::new(LEASE).unwrap().longest_wait()
}

/// Waits until something is there.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

/// A scheduler that runs.
pub(crate) struct Running {
    pub(crate) url: String,
    pub(crate) client: Scheduler,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    pub(crate) async fn start(config: Config) -> Self {
        let (ready, address) = tokio::sync::oneshot::channel::<SocketAddr>();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(config, |address| ready.send(address).unwrap(), shutdown.clone()));
        let url = format!("http://{}", address.await.expect("the scheduler starts"));
        Self { client: Scheduler::new(url.clone()), url, shutdown, task }
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Reads a path of the API.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let response = http_client().get(format!("{}{path}", self.url)).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e} in {text}"))
    }

    /// The status and body of a path that answers with an error.
    pub(crate) async fn error(&self, path: &str) -> (u16, Value) {
        let response = http_client().get(format!("{}{path}", self.url)).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub(crate) async fn vm(&self, program: ProgramId) -> Option<VmRecord> {
        self.client.vm(&program).await.unwrap()
    }

    pub(crate) async fn history(&self, program: ProgramId) -> Vec<AssignmentRecord> {
        self.get::<Page<AssignmentRecord>>(&format!("/api/v1/vms/{program}/history")).await.items
    }

    /// Waits until a program is ready, and says where and under which epoch.
    pub(crate) async fn until_ready(&self, program: ProgramId) -> (NodeId, u64) {
        until("the program is ready", async || {
            let vm = self.vm(program).await?;
            (vm.state == ProgramState::Ready).then(|| (vm.allocated_node.unwrap(), vm.epoch.unwrap().get()))
        })
        .await
    }

    /// Waits until a program is ready under this epoch or a later one.
    pub(crate) async fn until_epoch(&self, program: ProgramId, epoch: u64) -> NodeId {
        until("the program is ready under a later epoch", async || {
            let vm = self.vm(program).await?;
            let is_there = vm.state == ProgramState::Ready && vm.epoch?.get() >= epoch;
            is_there.then(|| vm.allocated_node.unwrap())
        })
        .await
    }

    /// Waits until a program has no node, and says why.
    pub(crate) async fn until_unplaced(&self, program: ProgramId) -> String {
        until("the program has no node", async || {
            let vm = self.vm(program).await?;
            vm.reason.filter(|reason| reason.starts_with("no node fits"))
        })
        .await
    }

    /// Waits until a program is not known any more.
    pub(crate) async fn until_gone(&self, program: ProgramId) {
        until("the program is gone", async || self.vm(program).await.is_none().then_some(())).await;
    }

    /// Waits until the message node was read.
    pub(crate) async fn until_synced(&self) {
        until("the list was read", async || (self.client.health().await.unwrap().status == "ok").then_some(())).await;
    }
}

/// See the module.
pub(crate) struct Network {
    pub(crate) messages: FakeMessageNode,
    pub(crate) owner: Account,
    pub(crate) folder: TempDir,
    pub(crate) resync: Duration,
    pub(crate) lease: LeaseConfig,
}

impl Network {
    pub(crate) async fn new() -> Self {
        Self {
            messages: FakeMessageNode::start().await,
            owner: Account::generate(),
            folder: tempfile::tempdir().unwrap(),
            resync: Duration::from_millis(200),
            lease: LEASE,
        }
    }

    /// A network with a running scheduler and connected nodes, each with so much memory.
    pub(crate) async fn with_nodes(memory: &[u64]) -> (Self, Running, Vec<FakeNode>) {
        let network = Self::new().await;
        let mut nodes: Vec<_> = (1..).zip(memory).map(|(number, memory)| FakeNode::new(number, *memory)).collect();
        for node in &nodes {
            network.messages.register(node.listed());
        }
        let scheduler = network.start().await;
        for node in &mut nodes {
            node.connect(&scheduler.url).await;
        }
        scheduler.until_synced().await;
        until("all nodes are healthy", async || {
            let health = scheduler.client.health().await.unwrap();
            (health.nodes_healthy as usize == memory.len()).then_some(())
        })
        .await;
        (network, scheduler, nodes)
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: self.folder.path().into(),
            database: Database::Sqlite(self.folder.path().join("scheduler.sqlite")),
            url: None,
            operators: vec![self.owner.address().clone()],
            message_node: self.messages.url(),
            gateway_url: Some("http://localhost:8080".into()),
            lease: self.lease,
            restore_after: aleph_scheduler::RESTORE_AFTER,
            resync: self.resync,
        }
    }

    pub(crate) async fn start(&self) -> Running {
        Running::start(self.config()).await
    }

    /// Publishes a persistent program that needs so much memory.
    pub(crate) fn publish(&self, memory: u64) -> ProgramId {
        self.messages.publish(&self.owner, &self.content(memory))
    }

    pub(crate) fn content(&self, memory: u64) -> Value {
        json!({
            "address": self.owner.address(), "time": seconds(), "allow_amend": true, "metadata": {"name": "demo"},
            "environment": {}, "resources": {"vcpus": 1, "memory": memory}, "volumes": [], "type": "vm-function",
            "code": {"encoding": "zip", "entrypoint": "main:app", "ref": "aa"},
            "runtime": {"ref": "bb", "comment": ""}, "on": {"http": true, "persistent": true},
        })
    }
}

fn seconds() -> f64 {
    protocol::message::MessageTime::now().as_seconds()
}
