//! A gateway between a client and nodes that are made here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{any, get, post};
use protocol::Account;
use protocol::client::MessageNode;
use protocol::control::{Failure, FailureKind};
use protocol::message::{Envelope, MessageTime, MessageType};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::ClientLimits;
use crate::core::whereabouts::Whereabouts;
use crate::gateway::Routes;
use crate::metrics::Metrics;
use crate::programs::catalog::Catalog;
use crate::programs::endpoint::Endpoints;
use crate::server::{self, Services};

const LONG: Duration = Duration::from_secs(30);

/// How a node behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    HasRoom,
    /// It has room for those who wait.
    Full,
}

/// A node, and what it was asked: `ready` or the request's method, and whether it waits.
#[derive(Debug, Clone)]
struct Node(Arc<Mutex<(Mood, Vec<String>)>>);

impl Node {
    fn set(&self, mood: Mood) {
        self.0.lock().unwrap().0 = mood;
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().1)
    }

    fn answer(&self, what: &str, headers: &HeaderMap) -> Option<Response> {
        let mut node = self.0.lock().unwrap();
        let waits = waits(headers);
        node.1.push(format!("{what}{}", if waits { ", waits" } else { "" }));
        let failure = Failure { kind: FailureKind::NodeFault, message: "no room".into() };
        (node.0 == Mood::Full && !waits)
            .then(|| Refusal::Failed(failure).respond().map(axum::body::Body::new).into_response())
    }
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn node() -> (Node, String) {
    let node = Node(Arc::new(Mutex::new((Mood::HasRoom, Vec::new()))));
    let ready = async |State(node): State<Node>, headers: HeaderMap| {
        node.answer("ready", &headers).unwrap_or_else(|| http::StatusCode::NO_CONTENT.into_response())
    };
    let request = async |State(node): State<Node>, method: Method, headers: HeaderMap, body: Bytes| {
        node.answer(method.as_str(), &headers).unwrap_or_else(|| body.into_response())
    };
    let router = Router::new()
        .route(&format!("{READY_PATH}{{program}}"), post(ready))
        .route("/vm/{*rest}", any(request))
        .with_state(node.clone());
    (node, format!("http://{}", serve(router).await))
}

/// The nodes of a network, in the order of its program. The first one before them is not there.
struct World {
    nodes: Vec<Node>,
    url: String,
    _shutdown: tokio_util::sync::DropGuard,
}

impl World {
    async fn new() -> Self {
        Self::with(None).await
    }

    /// With a gateway that has a node of its own: that with this number.
    async fn with(own: Option<usize>) -> Self {
        let owner = Account::generate();
        let content = json!({
            "address": owner.address(), "time": MessageTime::now(), "type": "vm-function", "allow_amend": false,
            "on": {"http": true}, "environment": {}, "resources": {"seconds": 10}, "volumes": [],
            "code": {"encoding": "zip", "entrypoint": "main:app", "ref": "cd".repeat(32)},
            "runtime": {"ref": "ef".repeat(32), "comment": ""},
        });
        let message =
            Envelope::sign_inline(&owner, MessageType::Program, content.to_string(), MessageTime::now(), None);
        let program: ProgramId = message.item_hash.parse().unwrap();

        let mut known: Vec<_> = (1..=4).map(|number| NodeId::from_bytes([number; 32])).collect();
        Whereabouts::default().order(clock::now(), program, &mut known, |node| *node);
        let (mut nodes, mut urls) = (Vec::new(), BTreeMap::new());
        urls.insert(known.remove(0), "http://127.0.0.1:1".to_owned());
        for id in &known {
            let (node, url) = node().await;
            nodes.push(node);
            urls.insert(*id, url);
        }
        let records: Vec<Value> = urls.iter().map(|(id, url)| record(*id, url)).collect();

        let services = Self::services(message, records, own.map(|number| known[number])).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/vm/{program}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        tokio::spawn(server::serve(listener, services, shutdown.clone()));
        Self { nodes, url, _shutdown: shutdown.drop_guard() }
    }

    async fn services(message: Envelope, records: Vec<Value>, own: Option<NodeId>) -> Arc<Services> {
        let one = async |State(message): State<Envelope>, Path(hash): Path<String>| {
            Json(json!({"status": "processed", "item_hash": hash, "reception_time": "", "message": message}))
        };
        let message_node = Router::new().route("/api/v0/messages/{hash}", get(one)).with_state(message);
        let count = records.len();
        let page = json!({
            "items": records,
            "pagination": {"page": 1, "page_size": 200, "total_items": count, "total_pages": 1},
        });
        let scheduler = Router::new().route("/api/v1/nodes", get(async move || Json(page.clone())));
        let catalog = Catalog::new(MessageNode::new(format!("http://{}", serve(message_node).await)));
        let routes = Routes::new(&[format!("http://{}", serve(scheduler).await)]);
        let agent = own.map(|own| {
            // One that starts nothing any more.
            let (agent, _) = AgentHandle::new(Arc::new(Endpoints::default()));
            agent.introduce(own);
            agent
        });
        let gateway = Gateway::new(catalog, routes, agent, (LONG, LONG), Metrics::new());
        let limits = ClientLimits { header_bytes: 16 << 10, header_timeout: LONG, idle_timeout: LONG };
        let api_runtime = tokio::runtime::Handle::current();
        Arc::new(Services { gateway, api: Router::new(), api_runtime, is_gateway_only: own.is_none(), limits })
    }

    async fn get(&self) -> u16 {
        reqwest::get(&self.url).await.unwrap().status().as_u16()
    }

    async fn post(&self) -> (u16, String) {
        let answer = reqwest::Client::new().post(&self.url).body("the body").send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// What each node was asked since the last time.
    fn asked(&self) -> Vec<Vec<String>> {
        self.nodes.iter().map(Node::asked).collect()
    }
}

fn record(id: NodeId, url: &str) -> Value {
    json!({
        "node_hash": id, "name": "n", "owner": "0x1", "address": url, "status": "Healthy", "staked": true,
        "vcpus_total": 1, "vcpus_available": 1, "memory_mb_total": 1, "memory_mb_available": 1, "disk_mb_total": 1,
        "disk_mb_available": 1, "supports_ipv6": false, "vm_count": 0, "updated_at": "",
    })
}

#[tokio::test]
async fn requests_go_to_the_first_node_with_room_and_stay_where_it_is_warm() {
    let world = World::new().await;
    assert_eq!(world.get().await, 200);
    assert_eq!(world.asked(), [vec!["GET"], vec![], vec![]]);
    world.nodes[0].set(Mood::Full);
    assert_eq!(world.get().await, 200);
    assert_eq!(world.asked(), [vec!["GET"], vec!["GET"], vec![]]);
    world.nodes[0].set(Mood::HasRoom);
    assert_eq!(world.get().await, 200);
    assert_eq!(world.asked(), [vec![], vec!["GET"], vec![]], "it is warm there");
}

#[tokio::test]
async fn when_no_node_has_room_the_first_one_is_waited_for() {
    let world = World::new().await;
    world.nodes.iter().for_each(|node| node.set(Mood::Full));
    assert_eq!(world.get().await, 200);
    assert_eq!(world.asked(), [vec!["GET", "GET, waits"], vec!["GET"], vec!["GET"]]);
}

#[tokio::test]
async fn a_body_is_sent_once_to_a_node_that_has_a_copy() {
    let world = World::new().await;
    world.nodes[0].set(Mood::Full);
    assert_eq!(world.post().await, (200, "the body".to_owned()));
    assert_eq!(world.asked(), [vec!["ready"], vec!["ready", "POST, waits"], vec![]]);
    assert_eq!(world.post().await, (200, "the body".to_owned()));
    assert_eq!(world.asked(), [vec![], vec!["POST, waits"], vec![]], "a moment ago it had one");

    let world = World::new().await;
    world.nodes.iter().for_each(|node| node.set(Mood::Full));
    assert_eq!(world.post().await, (200, "the body".to_owned()));
    assert_eq!(world.asked(), [vec!["ready", "ready, waits", "POST, waits"], vec!["ready"], vec!["ready"]]);
}

#[tokio::test]
async fn a_gateways_own_node_is_one_among_the_others() {
    // Behind another one, which is asked first, and before that: then the next one is, as it has no room.
    for (own, asked) in [(1, [1, 0, 0]), (0, [0, 1, 0])] {
        let world = World::with(Some(own)).await;
        assert_eq!(world.get().await, 200);
        assert_eq!(world.asked().iter().map(Vec::len).collect::<Vec<_>>(), asked);
    }
}

#[tokio::test]
async fn what_a_gateway_asks_a_node_no_other_node_is_asked() {
    let world = World::with(Some(1)).await;
    for value in [AT_ONCE, WAITS] {
        let request = reqwest::Client::new().get(&world.url).header(FORWARDED, value);
        assert_eq!(request.send().await.unwrap().status(), 503);
    }
    assert_eq!(world.asked(), [const { Vec::<String>::new() }; 3]);
}
