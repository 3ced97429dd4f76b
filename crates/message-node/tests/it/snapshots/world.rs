//! A message node with a program, its owner, a compute node's account and a scheduler that says what the test wants.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use aleph_message_node::Config;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{Stream, stream};
use protocol::api::archive::{ArchiveCode, SetDraft, SetRecord, StreamFormat, VolumeDraft};
use protocol::api::scheduler::{DataRecord, ProgramState, VmRecord, VmStatus};
use protocol::client::{Archive, ArchiveError};
use protocol::data::SnapshotId;
use protocol::network::{NODE_OPERATION_POST, NodeOperation};
use protocol::signed_request::RequestSigner;
use protocol::{Account, Address, Epoch, NodeId, ProgramId};
use serde_json::{Value, json};

use crate::support::*;

/// A name that must never become a path.
pub(crate) const ODD_NAME: &str = "../../\u{7f}odd";

#[derive(Clone, Copy)]
struct Assigned {
    node: NodeId,
    epoch: Epoch,
    starts_with: Option<(ProgramId, SnapshotId)>,
}

/// What the scheduler says of each program; without an entry it does not know it.
#[derive(Clone, Default)]
pub(crate) struct FakeScheduler {
    answers: Arc<Mutex<HashMap<ProgramId, Assigned>>>,
    broken: Arc<Mutex<bool>>,
    pub(crate) url: String,
}

impl FakeScheduler {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let scheduler = Self { url, ..Self::default() };
        let router = Router::new().route("/api/v1/vms/{program}", get(vm)).with_state(scheduler.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        scheduler
    }

    pub(crate) fn assign(&self, program: &ProgramId, node: NodeId, epoch: Epoch) {
        self.answers.lock().unwrap().insert(*program, Assigned { node, epoch, starts_with: None });
    }

    /// Assigns a program that starts with a set of another one.
    pub(crate) fn assign_with(
        &self,
        program: &ProgramId,
        node: NodeId,
        epoch: Epoch,
        starts_with: (ProgramId, SnapshotId),
    ) {
        let starts_with = Some(starts_with);
        self.answers.lock().unwrap().insert(*program, Assigned { node, epoch, starts_with });
    }

    pub(crate) fn forget(&self, program: &ProgramId) {
        self.answers.lock().unwrap().remove(program);
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        *self.broken.lock().unwrap() = broken;
    }
}

async fn vm(
    State(scheduler): State<FakeScheduler>,
    UrlPath(program): UrlPath<ProgramId>,
) -> Result<Json<VmRecord>, StatusCode> {
    if *scheduler.broken.lock().unwrap() {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let known = scheduler.answers.lock().unwrap().get(&program).copied();
    known.map(|assigned| Json(record(program, assigned))).ok_or(StatusCode::NOT_FOUND)
}

fn record(program: ProgramId, Assigned { node, epoch, starts_with }: Assigned) -> VmRecord {
    let data = starts_with.map(|(from, set)| DataRecord {
        standby: None,
        standby_is_complete: false,
        at_risk_ms: None,
        loss: None,
        restored: Some(set),
        restored_from: Some(from),
        waits_for: Vec::new(),
    });
    VmRecord {
        vm_hash: program,
        vm_type: "persistent_program".into(),
        owner: Address::new("0x1"),
        name: None,
        status: VmStatus::Dispatched,
        scheduling_status: "scheduled".into(),
        allocated_node: Some(node),
        allocated_at: None,
        observed_nodes: vec![node],
        last_observed_at: None,
        requirements_vcpus: 1,
        requirements_memory_mb: 1,
        requirements_disk_mb: 1,
        payment_type: "hold".into(),
        payment_status: "validated".into(),
        migration_target: None,
        migration_started_at: None,
        epoch: Some(epoch),
        node_url: None,
        url: None,
        state: ProgramState::Ready,
        state_since: String::new(),
        reason: None,
        failure: None,
        restarts: 0,
        data,
        moving: None,
        last_move: None,
    }
}

pub(crate) struct World {
    pub(crate) mn: TestNode,
    pub(crate) scheduler: FakeScheduler,
    pub(crate) owner: Arc<Account>,
    pub(crate) program: ProgramId,
    pub(crate) node_account: Arc<Account>,
    pub(crate) node_id: NodeId,
    pub(crate) epoch: Epoch,
    /// The archive as the node uses it that has the program.
    pub(crate) node: Archive,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let scheduler = FakeScheduler::start().await;
        let url = scheduler.url.clone();
        let mn = TestNode::with(|config| {
            config.archive.schedulers = vec![url];
            change(config);
        })
        .await;
        let (owner, node_account) = (Arc::new(Account::generate()), Arc::new(Account::generate()));
        let node_id = register(&mn, &node_account).await;
        let node = Archive::new(&mn.url, Arc::clone(&node_account)).unwrap();
        let program = ProgramId::from_bytes([0; 32]);
        let mut world = Self { mn, scheduler, owner, program, node_account, node_id, epoch: Epoch::new(3), node };
        let volumes = json!([
            {"mount": "/data", "name": "data", "persistence": "store", "size_mib": 4},
            {"mount": "/odd", "name": ODD_NAME, "persistence": "store", "size_mib": 1},
            {"mount": "/other", "name": "other", "persistence": "host", "size_mib": 7},
        ]);
        world.program = world.publish_program(volumes).await;
        world.scheduler.assign(&world.program, world.node_id, world.epoch);
        world
    }

    pub(crate) async fn publish_program(&self, volumes: Value) -> ProgramId {
        let file = self.mn.publish(&self.owner, b"code").await;
        let fields = with(persistent(), json!({"volumes": volumes}));
        self.mn.accept(&program(&self.owner, &file, &file, fields)).await.parse().unwrap()
    }

    /// The same world with a message node that was stopped and started again with other settings.
    pub(crate) async fn restarted(self, change: impl FnOnce(&mut Config)) -> Self {
        let Self { mn, scheduler, owner, program, node_account, node_id, epoch, .. } = self;
        let (mut config, folder) = mn.stop().await;
        change(&mut config);
        let mn = TestNode::launch(config, folder).await.unwrap();
        let node = Archive::new(&mn.url, Arc::clone(&node_account)).unwrap();
        Self { mn, scheduler, owner, program, node_account, node_id, epoch, node }
    }

    /// The same world with a message node that ended in the middle of what it did.
    pub(crate) async fn killed(self) -> Self {
        let Self { mn, scheduler, owner, program, node_account, node_id, epoch, .. } = self;
        let (config, folder) = mn.kill();
        let mn = TestNode::launch(config, folder).await.unwrap();
        let node = Archive::new(&mn.url, Arc::clone(&node_account)).unwrap();
        Self { mn, scheduler, owner, program, node_account, node_id, epoch, node }
    }

    pub(crate) fn archive_of(&self, account: &Arc<Account>) -> Archive {
        Archive::new(&self.mn.url, Arc::clone(account)).unwrap()
    }

    /// Another registered node.
    pub(crate) async fn other_node(&self) -> (NodeId, Archive) {
        let account = Arc::new(Account::generate());
        (register(&self.mn, &account).await, self.archive_of(&account))
    }

    pub(crate) fn id(&self, sequence: u64) -> SnapshotId {
        SnapshotId::new(self.epoch, sequence)
    }

    pub(crate) fn draft(&self, id: SnapshotId, parent: Option<SnapshotId>) -> SetDraft {
        let volume = |name: &str, size_mib| VolumeDraft { name: name.to_owned(), size_mib };
        SetDraft {
            id,
            parent,
            taken: DateTime::UNIX_EPOCH,
            format: StreamFormat::BtrfsZstd,
            volumes: vec![volume("data", 4), volume(ODD_NAME, 1)],
        }
    }

    /// Sends both streams of a set that was begun, and completes it.
    pub(crate) async fn fill(&self, node: &Archive, id: SnapshotId, data: &[u8], odd: &[u8]) -> SetRecord {
        let mut sent = Vec::new();
        for (name, content) in [("data", data), (ODD_NAME, odd)] {
            sent.push(node.send(&self.program, id, name, chunks(content)).await.unwrap());
        }
        node.complete(&self.program, id, sent).await.unwrap()
    }

    /// Archives a whole set.
    pub(crate) async fn archive(&self, sequence: u64, parent: Option<u64>, data: &[u8]) -> SnapshotId {
        let id = self.id(sequence);
        self.node.begin(&self.program, &self.draft(id, parent.map(|parent| self.id(parent)))).await.unwrap();
        self.fill(&self.node, id, data, b"odd").await;
        id
    }

    /// Downloads a stream.
    pub(crate) async fn get(&self, from: &Archive, sequence: u64, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let mut download = from.download(&self.program, self.id(sequence), name).await?;
        let mut all = Vec::new();
        while let Some(chunk) = download.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// A signed request of the node with any body; gives status and code.
    pub(crate) async fn raw(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let headers = RequestSigner::new(&self.node_account, "127.0.0.1", Utc::now()).headers(method, path, Utc::now());
        self.with_headers(method, path, &headers, body).await
    }

    pub(crate) async fn with_headers(
        &self,
        method: &str,
        path: &str,
        headers: &[(&'static str, String); 2],
        body: &str,
    ) -> (u16, String) {
        let request = self.mn.http.request(method.parse().unwrap(), format!("{}{path}", self.mn.url));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        let response = request.body(body.to_owned()).send().await.unwrap();
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap_or_default();
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.mn.config().data_dir.join("snapshots")
    }

    /// All stored files but the name of the place itself: the path below the folder, and the content.
    pub(crate) fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        walk(&self.snapshots(), &mut |path| {
            let name = path.strip_prefix(self.snapshots()).unwrap().to_string_lossy().into_owned();
            if name != "place" {
                found.push((name, std::fs::read(path).unwrap()));
            }
        });
        found.sort();
        found
    }

    /// The file that holds the stream of a volume.
    pub(crate) fn object_of(&self, sequence: u64, name: &str) -> PathBuf {
        let start = format!("{}/{}/{}.", self.program, self.id(sequence), protocol::api::archive::volume_key(name));
        let found = self.objects().into_iter().find(|(name, _)| name.starts_with(&start));
        self.snapshots().join(found.expect("the stream is stored").0)
    }
}

fn walk(folder: &Path, look: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, look) } else { look(&path) }
    }
}

async fn register(mn: &TestNode, account: &Account) -> NodeId {
    let operation = NodeOperation::create_compute_node("n".into(), format!("http://{}", account.address()));
    let message = post(account, NODE_OPERATION_POST, serde_json::to_value(operation).unwrap());
    mn.accept(&message).await.parse().unwrap()
}

/// Bytes that look random, the same for the same seed.
pub(crate) fn bytes_of(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// A stream in pieces that fit no boundary.
pub(crate) fn chunks(content: &[u8]) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let pieces: Vec<_> = content.chunks(10_007).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces)
}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, ArchiveError>) -> ArchiveCode {
    let error = result.unwrap_err();
    error.code().unwrap_or_else(|| panic!("the archive did not say no: {error}"))
}
