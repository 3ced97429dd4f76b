//! A message node that says what a test wants it to say: lists by cursor, statuses, the list of nodes, and the stream.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use protocol::api::message_node::{MessageStatus, MessageWithStatus, StoredMessage};
use protocol::message::{Envelope, MessageTime, MessageType};
use protocol::network::{CoreChannel, ResourceNode};
use protocol::{Account, ProgramId};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::compute_node::FakeNode;

/// Messages in a page: few, so that lists have several.
const PAGE: usize = 2;

#[derive(Default)]
struct Contents {
    messages: Vec<(StoredMessage, MessageStatus)>,
    nodes: Vec<ResourceNode>,
    /// What the node answers about these messages, whatever it has.
    instead: BTreeMap<String, StatusCode>,
    /// How often each message was asked for.
    asked: BTreeMap<String, usize>,
    listed: usize,
    subscribed: usize,
    has_no_stream: bool,
}

#[derive(Clone)]
struct Shared {
    contents: Arc<Mutex<Contents>>,
    stream: broadcast::Sender<String>,
    stop: CancellationToken,
}

/// See the module.
pub(crate) struct FakeMessageNode {
    address: SocketAddr,
    shared: Shared,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl FakeMessageNode {
    /// One that answers.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Shared { contents: Arc::default(), stream: broadcast::Sender::new(100), stop: CancellationToken::new() };
        let mut node = Self { address, shared, task: None };
        node.serve(listener);
        node
    }

    fn serve(&mut self, listener: TcpListener) {
        let router = Router::new()
            .route("/api/v0/messages.json", get(list))
            .route("/api/v0/messages/{hash}", get(message))
            .route("/api/v0/aggregates/{file}", get(aggregate))
            .route("/api/ws0/messages", get(subscribe))
            .with_state(self.shared.clone());
        let stop = self.shared.stop.clone();
        self.task = Some(tokio::spawn(async move {
            axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await.unwrap();
        }));
    }

    /// Nobody answers at its address any more.
    pub(crate) async fn stop(&mut self) {
        self.shared.stop.cancel();
        if let Some(task) = self.task.take() {
            task.await.unwrap();
        }
    }

    /// It answers again, with what it had.
    pub(crate) async fn resume(&mut self) {
        self.shared.stop = CancellationToken::new();
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn contents<T>(&self, read: impl FnOnce(&mut Contents) -> T) -> T {
        read(&mut self.shared.contents.lock().unwrap())
    }

    /// Publishes a program of this owner.
    pub(crate) fn publish(&self, owner: &Account, content: &Value) -> ProgramId {
        let envelope =
            Envelope::sign_inline(owner, MessageType::Program, content.to_string(), MessageTime::now(), None);
        self.publish_as_is(envelope)
    }

    /// Publishes a message whatever it is.
    pub(crate) fn publish_as_is(&self, envelope: Envelope) -> ProgramId {
        let id = envelope.item_hash.parse().unwrap();
        let message = stored(envelope);
        self.contents(|contents| contents.messages.push((message.clone(), MessageStatus::Processed)));
        // An error means that nobody follows.
        let _ = self.shared.stream.send(serde_json::to_string(&message).unwrap());
        id
    }

    /// Takes a program back, and says so in the stream.
    pub(crate) fn forget(&self, owner: &Account, program: ProgramId) {
        self.set_status(program, MessageStatus::Forgotten);
        let content = json!({"address": owner.address(), "time": 1, "hashes": [program]}).to_string();
        let envelope = Envelope::sign_inline(owner, MessageType::Forget, content, MessageTime::now(), None);
        let _ = self.shared.stream.send(serde_json::to_string(&stored(envelope)).unwrap());
    }

    /// Changes a message's status without a word.
    pub(crate) fn set_status(&self, program: ProgramId, status: MessageStatus) {
        self.contents(|contents| {
            let found = contents.messages.iter_mut().find(|(m, _)| m.envelope.item_hash == program.to_string());
            found.unwrap().1 = status;
        });
    }

    /// Changes a message's status, and says so to those who asked for that.
    pub(crate) fn tell_status(&self, program: ProgramId, status: MessageStatus) {
        self.set_status(program, status);
        self.claim_status(program, status);
    }

    /// Says that a message has a status, whether or not it has.
    pub(crate) fn claim_status(&self, program: ProgramId, status: MessageStatus) {
        let message = self.contents(|contents| {
            let found = contents.messages.iter().find(|(m, _)| m.envelope.item_hash == program.to_string());
            StoredMessage { status: Some(status), ..found.unwrap().0.clone() }
        });
        let _ = self.shared.stream.send(serde_json::to_string(&message).unwrap());
    }

    /// Forgets that it ever had these messages.
    pub(crate) fn lose_everything(&self) {
        self.contents(|contents| contents.messages.clear());
    }

    /// Answers questions about a message with an error.
    pub(crate) fn fail_about(&self, program: ProgramId, status: StatusCode) {
        self.contents(|contents| contents.instead.insert(program.to_string(), status));
    }

    /// How often a message was asked for.
    pub(crate) fn asked_about(&self, program: ProgramId) -> usize {
        self.contents(|contents| contents.asked.get(&program.to_string()).copied().unwrap_or(0))
    }

    /// How often the list was read to its end.
    pub(crate) fn listed(&self) -> usize {
        self.contents(|contents| contents.listed)
    }

    /// How many streams were opened.
    pub(crate) fn subscribed(&self) -> usize {
        self.contents(|contents| contents.subscribed)
    }

    /// Streams nothing from now on: it is a message node of another kind.
    pub(crate) fn have_no_stream(&self) {
        self.contents(|contents| contents.has_no_stream = true);
    }

    /// Registers a compute node, or takes its place, and says so in the stream.
    pub(crate) fn register(&self, node: ResourceNode) {
        self.contents(|contents| {
            contents.nodes.retain(|other| other.hash != node.hash);
            contents.nodes.push(node);
        });
        self.announce_nodes();
    }

    /// Drops nodes from the list.
    pub(crate) fn unlist_nodes(&self) {
        self.contents(|contents| contents.nodes.clear());
        self.announce_nodes();
    }

    /// The message that registered a node is forgotten: the node is not listed any more, and the message says why.
    pub(crate) fn take_back_registration(&self, node: &FakeNode) {
        let text = "{}".to_owned();
        let mut envelope = Envelope::sign_inline(&node.account, MessageType::Post, text, MessageTime::now(), None);
        envelope.item_hash = node.id.to_string();
        self.contents(|contents| contents.messages.push((stored(envelope), MessageStatus::Forgotten)));
        self.unlist_nodes();
    }

    fn announce_nodes(&self) {
        let account = Account::generate();
        let content = json!({"address": account.address(), "time": 1, "type": "corechan-operation", "content": {}});
        let envelope =
            Envelope::sign_inline(&account, MessageType::Post, content.to_string(), MessageTime::now(), None);
        let _ = self.shared.stream.send(serde_json::to_string(&stored(envelope)).unwrap());
    }
}

fn stored(envelope: Envelope) -> StoredMessage {
    let content = envelope.item_content.as_ref().and_then(|text| serde_json::from_str(text).ok());
    StoredMessage { envelope, content, confirmations: vec![], confirmed: false, size: 0, status: None }
}

async fn list(State(shared): State<Shared>, Query(query): Query<BTreeMap<String, String>>) -> Json<Value> {
    let mut contents = shared.contents.lock().unwrap();
    let start: usize = query["cursor"].parse().unwrap_or(0);
    assert_eq!(query["msgTypes"], "PROGRAM");
    let in_force: Vec<_> =
        contents.messages.iter().filter(|(_, status)| status.is_in_force()).map(|(message, _)| message).collect();
    let page: Vec<_> = in_force.iter().skip(start).take(PAGE).collect();
    let next = (start + PAGE < in_force.len()).then(|| (start + PAGE).to_string());
    let answer = json!({"messages": page, "pagination_per_page": PAGE, "next_cursor": next});
    contents.listed += usize::from(next.is_none());
    Json(answer)
}

async fn message(State(shared): State<Shared>, Path(hash): Path<String>) -> Response {
    let mut contents = shared.contents.lock().unwrap();
    *contents.asked.entry(hash.clone()).or_default() += 1;
    if let Some(status) = contents.instead.get(&hash) {
        return status.into_response();
    }
    let Some((message, status)) = contents.messages.iter().find(|(m, _)| m.envelope.item_hash == hash) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let answer = MessageWithStatus {
        status: *status,
        item_hash: hash,
        reception_time: "2026-11-22T00:00:00Z".into(),
        message: Some(match status {
            MessageStatus::Forgotten => StoredMessage { content: None, ..message.clone() },
            _ => message.clone(),
        }),
        messages: None,
        error_code: None,
        details: None,
        forgotten_by: None,
        reason: None,
        until: None,
    };
    Json(answer).into_response()
}

async fn aggregate(State(shared): State<Shared>, Path(file): Path<String>) -> Json<Value> {
    let resource_nodes = shared.contents.lock().unwrap().nodes.clone();
    let list = CoreChannel { resource_nodes };
    Json(json!({"address": file.trim_end_matches(".json"), "data": {"corechannel": list}, "info": {}}))
}

async fn subscribe(State(shared): State<Shared>, upgrade: WebSocketUpgrade) -> Response {
    let mut events = shared.stream.subscribe();
    let mut contents = shared.contents.lock().unwrap();
    if contents.has_no_stream {
        return StatusCode::NOT_FOUND.into_response();
    }
    contents.subscribed += 1;
    drop(contents);
    upgrade.on_upgrade(async move |mut socket| {
        loop {
            let event = tokio::select! {
                () = shared.stop.cancelled() => return,
                event = events.recv() => event,
                closed = socket.recv() => match closed {
                    None | Some(Err(_)) => return,
                    Some(Ok(_)) => continue,
                },
            };
            let Ok(event) = event else { return };
            if socket.send(Message::Text(event.into())).await.is_err() {
                return;
            }
        }
    })
}
