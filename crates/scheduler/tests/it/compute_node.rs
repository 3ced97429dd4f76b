//! A compute node that runs nothing, but speaks the real control protocol as a real node does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use protocol::control::{
    Capacity, Challenge, Directive, FromNode, FromScheduler, Grant, Heartbeat, Hello, ProgramReport, ReportedState,
    SetEntry, SetVersion, Welcome,
};
use protocol::network::ResourceNode;
use protocol::{Account, BootId, Epoch, NodeId, ProgramId};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

use crate::network::until;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What a node does with what it is told to run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mood {
    /// It reports this instead of `Ready`.
    pub(crate) reports: Option<ReportedState>,
    /// It reports nothing at all.
    pub(crate) is_mute: bool,
    /// It does not let go of what it is told to release.
    pub(crate) clings: bool,
}

/// What a node knows.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) set: Vec<SetEntry>,
    pub(crate) applied: Option<SetVersion>,
    /// What it runs.
    pub(crate) held: BTreeMap<ProgramId, Epoch>,
    pub(crate) mood: Mood,
    pub(crate) grants: usize,
    /// When the last heartbeat was sent that was answered.
    pub(crate) renewed: Option<Instant>,
}

/// A registered node, connected or not.
pub(crate) struct FakeNode {
    pub(crate) id: NodeId,
    pub(crate) account: Account,
    pub(crate) url: String,
    pub(crate) memory_mib: u64,
    memory: Arc<Mutex<Memory>>,
    connection: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

impl FakeNode {
    pub(crate) fn new(number: u8, memory_mib: u64) -> Self {
        Self {
            id: NodeId::from_bytes([number; 32]),
            account: Account::generate(),
            url: format!("http://node-{number}.example"),
            memory_mib,
            memory: Arc::default(),
            connection: None,
        }
    }

    /// How the list of nodes shows it.
    pub(crate) fn listed(&self) -> ResourceNode {
        ResourceNode {
            hash: self.id,
            name: "fake".into(),
            owner: self.account.address().clone(),
            address: self.url.clone(),
            status: "linked".into(),
            manager: None,
            time: 0.0,
            score: 0.0,
        }
    }

    /// Connects and behaves from now on.
    pub(crate) async fn connect(&mut self, scheduler: &str) {
        let (socket, _, welcome) = open(scheduler, &self.account, self.id, &self.url).await.unwrap();
        let (stop, memory) = (CancellationToken::new(), self.memory.clone());
        memory.lock().unwrap().applied = None;
        let session = Session {
            socket,
            memory,
            sequence: 0,
            sent: BTreeMap::new(),
            memory_mib: self.memory_mib,
            beat: Duration::from_millis(welcome.heartbeat_ms),
        };
        let task = tokio::spawn(session.run(stop.clone()));
        self.connection = Some((stop, task));
    }

    /// Connects to whichever of these takes nodes: the one that leads.
    pub(crate) async fn connect_to_leader(&mut self, schedulers: &[&str]) {
        let leader = until("a scheduler takes nodes", async || {
            for scheduler in schedulers {
                if tokio_tungstenite::connect_async(control_url(scheduler)).await.is_ok() {
                    return Some((*scheduler).to_owned());
                }
            }
            None
        });
        let leader = leader.await;
        self.connect(&leader).await;
    }

    /// The agent dies: its connection breaks, its heartbeats stop.
    pub(crate) async fn kill(&mut self) {
        if let Some((stop, task)) = self.connection.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    /// Looks into what it knows, or changes it.
    pub(crate) fn memory<T>(&self, look: impl FnOnce(&mut Memory) -> T) -> T {
        look(&mut self.memory.lock().unwrap())
    }

    /// The epoch under which it runs a program.
    pub(crate) fn runs(&self, program: ProgramId) -> Option<u64> {
        self.memory(|memory| memory.held.get(&program).map(|epoch| epoch.get()))
    }
}

/// Opens a connection and proves the key. The error is what the scheduler said.
pub(crate) async fn open(
    scheduler: &str,
    account: &Account,
    node: NodeId,
    url: &str,
) -> Result<(Socket, Hello, Welcome), String> {
    let (mut socket, challenge) = dial(scheduler).await;
    let hello = Hello::answer(account, &challenge, node, BootId("boot".into()), url.into(), "fake/1".into());
    send(&mut socket, &FromNode::Hello(hello.clone())).await;
    match receive(&mut socket).await {
        Some(FromScheduler::Welcome(welcome)) => {
            welcome.verify(&challenge, &hello).unwrap();
            Ok((socket, hello, welcome))
        }
        Some(FromScheduler::Rejected { reason }) => Err(reason),
        other => Err(format!("{other:?}")),
    }
}

pub(crate) fn control_url(scheduler: &str) -> String {
    format!("{}/api/v1/control", scheduler.replacen("http", "ws", 1))
}

/// Opens a connection and reads the challenge.
pub(crate) async fn dial(scheduler: &str) -> (Socket, Challenge) {
    let (mut socket, _) = tokio_tungstenite::connect_async(control_url(scheduler)).await.unwrap();
    let Some(FromScheduler::Challenge(challenge)) = receive(&mut socket).await else { panic!("no challenge") };
    (socket, challenge)
}

/// Sends a frame; whether it arrives is seen by what follows.
pub(crate) async fn send(socket: &mut Socket, frame: &FromNode) {
    let _ = socket.send(Message::Text(serde_json::to_string(frame).unwrap().into())).await;
}

/// The next frame; `None` when the connection ended.
pub(crate) async fn receive(socket: &mut Socket) -> Option<FromScheduler> {
    loop {
        match socket.next().await? {
            Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap()),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

struct Session {
    socket: Socket,
    memory: Arc<Mutex<Memory>>,
    sequence: u64,
    sent: BTreeMap<u64, Instant>,
    memory_mib: u64,
    beat: Duration,
}

impl Session {
    async fn run(mut self, stop: CancellationToken) {
        let mut beat = tokio::time::interval(self.beat);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => self.heartbeat().await,
                frame = receive(&mut self.socket) => match frame {
                    Some(FromScheduler::Grant(grant)) => {
                        if self.apply(grant) {
                            self.heartbeat().await;
                        }
                    }
                    Some(FromScheduler::Poke) => self.heartbeat().await,
                    Some(other) => panic!("{other:?}"),
                    None => return,
                },
            }
        }
    }

    /// Takes over the set; whether there is something new to tell.
    fn apply(&mut self, grant: Grant) -> bool {
        let mut memory = self.memory.lock().unwrap();
        memory.grants += 1;
        memory.renewed = self.sent.get(&grant.sequence).copied();
        let Some(entries) = grant.entries else { return false };
        for entry in &entries {
            match entry.directive {
                Directive::Run => {
                    memory.held.insert(entry.program, entry.epoch);
                }
                Directive::Release if !memory.mood.clings => {
                    if memory.held.get(&entry.program) == Some(&entry.epoch) {
                        memory.held.remove(&entry.program);
                    }
                }
                Directive::Release => {}
            }
        }
        memory.set = entries;
        memory.applied = Some(grant.set);
        true
    }

    async fn heartbeat(&mut self) {
        self.sequence += 1;
        let heartbeat = {
            let memory = self.memory.lock().unwrap();
            Heartbeat {
                sequence: self.sequence,
                capacity: capacity(self.memory_mib),
                applied: memory.applied.clone(),
                programs: if memory.mood.is_mute { vec![] } else { reports(&memory) },
                draining: None,
                heard: None,
                data: Vec::new(),
            }
        };
        self.sent.insert(self.sequence, Instant::now());
        send(&mut self.socket, &FromNode::Heartbeat(heartbeat)).await;
    }
}

pub(crate) fn capacity(memory_mib: u64) -> Capacity {
    Capacity {
        vcpus: 16,
        memory_mib,
        disk_mib: 100_000,
        pool_mib: 0,
        architecture: "x86_64".into(),
        cpu_vendor: "GenuineIntel".into(),
        cpu_features: vec![],
        isolation: vec![protocol::Isolation::Container],
    }
}

fn reports(memory: &Memory) -> Vec<ProgramReport> {
    let report = |program, epoch, state| ProgramReport { program, epoch, state, for_ms: 0, restarts: 0 };
    let held = memory
        .held
        .iter()
        .map(|(program, epoch)| report(*program, *epoch, memory.mood.reports.clone().unwrap_or(ReportedState::Ready)));
    let released = memory
        .set
        .iter()
        .filter(|entry| entry.directive == Directive::Release && memory.held.get(&entry.program) != Some(&entry.epoch));
    held.chain(released.map(|entry| report(entry.program, entry.epoch, ReportedState::Released))).collect()
}
