//! Balances of a token, from an RPC node that can be slow, wrong and dead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aleph_message_node::{Config, TokenAddress, TokenConfig};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use protocol::Account;
use protocol::api::message_node::MessageStatus;
use protocol::message::ErrorCode;
use serde_json::{Value, json};

use crate::support::*;

const CONTRACT: TokenAddress = TokenAddress([0xc0; 20]);

/// How the RPC node behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Well,
    /// It answers nothing.
    Silent,
    /// It answers with HTTP status 502 and a page.
    Dead,
    /// It answers with a page, and says that all is well.
    Nonsense,
    /// It answers with an error of JSON-RPC.
    Refusing,
    /// It knows nothing of the newest two blocks.
    Behind,
}

struct Block {
    hash: String,
    touched: Vec<String>,
    balances: HashMap<String, u128>,
}

struct World {
    blocks: Vec<Block>,
    mood: Mood,
    asked: usize,
}

/// A chain with one token, told over JSON-RPC.
#[derive(Clone)]
struct FakeChain {
    world: Arc<Mutex<World>>,
    url: String,
}

impl FakeChain {
    async fn start() -> Self {
        let first = Block { hash: hash(0), touched: Vec::new(), balances: HashMap::new() };
        let world = Arc::new(Mutex::new(World { blocks: vec![first], mood: Mood::Well, asked: 0 }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/key", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/key", post(rpc)).with_state(Arc::clone(&world));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { world, url }
    }

    /// A node that reads this chain often.
    async fn node(&self, change: impl FnOnce(&mut Config)) -> TestNode {
        TestNode::with(|config| {
            let mut token = TokenConfig::new(self.url.parse().unwrap(), CONTRACT);
            token.confirmations = 0;
            token.interval = Duration::from_millis(30);
            token.timeout = Duration::from_millis(200);
            config.token = Some(token);
            config.timing.review_every = Duration::from_millis(30);
            config.timing.balance_wait = Duration::from_millis(200);
            change(config);
        })
        .await
    }

    /// A new block after which the account has this.
    fn pay(&self, account: &Account, tokens: u128) {
        let account = account.address().canonical();
        let mut world = self.world.lock().unwrap();
        let mut balances = world.blocks.last().unwrap().balances.clone();
        balances.insert(account.clone(), tokens * 10_u128.pow(18));
        let number = world.blocks.len();
        world.blocks.push(Block { hash: hash(number), touched: vec![account], balances });
    }

    /// The newest blocks are no part of the chain any more; others take their places.
    fn reorganise(&self, blocks: usize) {
        let mut world = self.world.lock().unwrap();
        let keep = world.blocks.len() - blocks;
        world.blocks.truncate(keep);
        let balances = world.blocks.last().unwrap().balances.clone();
        for number in keep..=keep + blocks {
            let balances = balances.clone();
            world.blocks.push(Block { hash: hash(number + 1000), touched: Vec::new(), balances });
        }
    }

    fn become_(&self, mood: Mood) {
        self.world.lock().unwrap().mood = mood;
    }

    /// Waits until it was asked some more.
    async fn until_asked(&self) {
        let before = self.world.lock().unwrap().asked;
        eventually(async || (self.world.lock().unwrap().asked > before + 3).then_some(())).await;
    }
}

fn hash(number: usize) -> String {
    format!("0x{number:064x}")
}

async fn rpc(State(world): State<Arc<Mutex<World>>>, Json(question): Json<Value>) -> Response {
    let mood = {
        let mut world = world.lock().unwrap();
        world.asked += 1;
        world.mood
    };
    match mood {
        Mood::Silent => std::future::pending().await,
        Mood::Dead => (StatusCode::BAD_GATEWAY, "<html>no</html>").into_response(),
        Mood::Nonsense => "<html>welcome</html>".into_response(),
        Mood::Refusing => {
            Json(json!({"id": 0, "error": {"code": -32005, "message": "<b>limit</b> exceeded"}})).into_response()
        }
        Mood::Well | Mood::Behind => {
            let world = world.lock().unwrap();
            let hidden = if mood == Mood::Behind { 2 } else { 0 };
            let blocks = &world.blocks[..world.blocks.len() - hidden];
            let answer = |question: &Value| json!({"id": question["id"], "result": result(blocks, question)});
            match &question {
                Value::Array(questions) => Json(questions.iter().map(answer).collect::<Value>()).into_response(),
                question => Json(answer(question)).into_response(),
            }
        }
    }
}

fn result(blocks: &[Block], question: &Value) -> Value {
    let number = |value: &Value| usize::from_str_radix(&value.as_str().unwrap()[2..], 16).unwrap();
    let by_hash = |value: &Value| blocks.iter().position(|block| value == block.hash.as_str());
    let parameter = &question["params"][0];
    match question["method"].as_str().unwrap() {
        "eth_blockNumber" => json!(format!("{:#x}", blocks.len() - 1)),
        "eth_getBlockByNumber" => match blocks.get(number(parameter)) {
            Some(block) => json!({"number": parameter, "hash": block.hash, "timestamp": "0x5"}),
            None => Value::Null,
        },
        "eth_getLogs" => {
            let (from, to) = match by_hash(&parameter["blockHash"]) {
                Some(at) => (at, at),
                None => (number(&parameter["fromBlock"]), number(&parameter["toBlock"])),
            };
            let topic = |account: &String| format!("0x{:0>64}", &account[2..]);
            let log = |account| json!({"topics": [parameter["topics"][0], hash(0), topic(account)]});
            blocks[from..=to].iter().flat_map(|block| block.touched.iter().map(log)).collect()
        }
        "eth_call" => {
            let data = parameter["data"].as_str().unwrap();
            let account = format!("0x{}", &data[data.len() - 40..]);
            let at = by_hash(&question["params"][1]["blockHash"]).unwrap();
            json!(format!("0x{:064x}", blocks[at].balances.get(&account).copied().unwrap_or(0)))
        }
        other => panic!("{other}"),
    }
}

async fn metric(node: &TestNode, name: &str) -> Option<i64> {
    let text = node.text("/metrics").await;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn who_has_one_token_too_few_is_refused_and_who_sells_one_is_stopped_until_it_buys() {
    let (chain, account) = (FakeChain::start().await, Account::generate());
    let node = chain.node(|config| config.timing.grace = Duration::from_millis(50)).await;
    let file = node.publish(&account, b"code").await;
    chain.pay(&account, 1999);
    let details = node.reject(&program(&account, &file, &file, persistent()), ErrorCode::BalanceInsufficient).await;
    assert_eq!(details, json!({"errors": [{"account_balance": "1999", "required_balance": "2000"}]}));
    let balance = async || node.client.balance(account.address()).await.unwrap().balance;
    assert_eq!(balance().await, 1999.0);
    chain.pay(&account, 2000);
    eventually(async || (balance().await == 2000.0).then_some(())).await;
    let hash = node.accept(&program(&account, &file, &file, persistent())).await;
    chain.pay(&account, 1999);
    node.until(&hash, MessageStatus::Removed).await;
    chain.pay(&account, 2000);
    node.until(&hash, MessageStatus::Processed).await;
    let (_, list) = node.json("/api/v0/balances").await;
    assert_eq!(
        list["balances"],
        json!([{"address": account.address().canonical(), "balance": 2000.0, "chain": "ETH"}])
    );
    assert!(metric(&node, "aleph_chain_block").await >= Some(3));
}

#[tokio::test]
async fn an_unknown_balance_is_waited_for_and_the_reason_is_said() {
    for mood in [Mood::Silent, Mood::Dead, Mood::Nonsense, Mood::Refusing] {
        let (chain, account) = (FakeChain::start().await, Account::generate());
        chain.pay(&account, 2000);
        chain.become_(mood);
        let node = chain.node(|config| config.timing.sync_wait = Duration::from_millis(100)).await;
        let file = node.publish(&account, b"small files are free").await;
        let message = program(&account, &file, &file, persistent());
        assert_eq!(node.submit(&message).await, MessageStatus::Pending, "{mood:?}");
        // Far beyond the time that anything else is waited for.
        for _ in 0..5 {
            chain.until_asked().await;
        }
        let reason = eventually(async || node.get(&message.item_hash).await.reason).await;
        assert!(reason.contains("balance of its owner is not known: the RPC node"), "{mood:?}: {reason}");
        assert!(!reason.contains("/key"), "the URL may hold a secret: {reason}");
        assert_eq!(node.status(&message.item_hash).await, MessageStatus::Pending);
        let (status, error) = node.json(&format!("/api/v0/addresses/{}/balance", account.address())).await;
        assert_eq!((status, error["code"].as_str()), (503, Some("busy")), "unknown is not zero: {error}");
        assert_eq!(metric(&node, "aleph_chain_up").await, Some(0));
        let page = node.text("/status").await;
        assert!(page.contains("They are not read now") && !page.contains("<b>limit"), "{page}");
        let large = vec![1; 30 * 1024 * 1024];
        let of_large = store(&account, &protocol::FileHash::of(&large).to_string(), json!({}));
        assert_eq!(node.add_file(&of_large, &large).await.unwrap_err().status(), Some(503));

        chain.become_(Mood::Well);
        node.until(&message.item_hash, MessageStatus::Processed).await;
        assert_eq!(metric(&node, "aleph_chain_up").await, Some(1));
        assert!(!node.text("/status").await.contains("They are not read now"));
    }
}

#[tokio::test]
async fn a_message_that_waits_for_its_balance_outlives_a_restart() {
    let (chain, account) = (FakeChain::start().await, Account::generate());
    chain.pay(&account, 2000);
    chain.become_(Mood::Dead);
    let node = chain.node(|_| ()).await;
    let file = node.publish(&account, b"code").await;
    let message = program(&account, &file, &file, persistent());
    node.send(&message).await;
    eventually(async || node.get(&message.item_hash).await.reason).await;
    let (config, folder) = node.kill();
    let node = TestNode::launch(config, folder).await.unwrap();
    chain.until_asked().await;
    assert_eq!(node.status(&message.item_hash).await, MessageStatus::Pending);
    chain.become_(Mood::Well);
    node.until(&message.item_hash, MessageStatus::Processed).await;
}

#[tokio::test]
async fn nothing_stops_while_the_rpc_node_is_dead_or_behind_or_after_a_restart() {
    let (chain, account) = (FakeChain::start().await, Account::generate());
    chain.pay(&account, 2000);
    let node = chain.node(|config| config.timing.grace = Duration::ZERO).await;
    let file = node.publish(&account, b"code").await;
    let hash = node.accept(&program(&account, &file, &file, persistent())).await;
    for mood in [Mood::Dead, Mood::Silent, Mood::Nonsense, Mood::Refusing] {
        chain.become_(mood);
        chain.until_asked().await;
        assert_eq!(node.status(&hash).await, MessageStatus::Processed, "{mood:?}");
        assert_eq!(node.client.balance(account.address()).await.unwrap().balance, 2000.0, "the last known one");
    }
    // Paid, and seen, after which the node does not know of it any more.
    chain.become_(Mood::Well);
    chain.pay(&account, 2001);
    eventually(async || (metric(&node, "aleph_chain_block").await == Some(2)).then_some(())).await;
    chain.become_(Mood::Behind);
    eventually(async || node.text("/status").await.contains("behind").then_some(())).await;
    assert_eq!(node.client.balance(account.address()).await.unwrap().balance, 2001.0);
    // It never was zero for a node that knows nothing yet.
    chain.become_(Mood::Dead);
    let (config, folder) = node.stop().await;
    let node = TestNode::launch(config, folder).await.unwrap();
    chain.until_asked().await;
    assert_eq!(node.status(&hash).await, MessageStatus::Processed);
    chain.become_(Mood::Well);
    chain.pay(&account, 1);
    node.until(&hash, MessageStatus::Removed).await;
}

#[tokio::test]
async fn what_a_reorganisation_undoes_was_never_paid() {
    let (chain, account) = (FakeChain::start().await, Account::generate());
    chain.pay(&account, 2000);
    chain.pay(&account, 4000);
    let node = chain.node(|config| config.timing.grace = Duration::from_secs(3600)).await;
    let file = node.publish(&account, b"code").await;
    let [old, new] = [1, 2].map(|n| program(&account, &file, &file, with(persistent(), json!({"metadata": {"n": n}}))));
    let [old, new] = [node.accept(&old).await, node.accept(&new).await];
    chain.reorganise(1);
    node.until(&new, MessageStatus::Removing).await;
    assert_eq!(node.status(&old).await, MessageStatus::Processed);
    assert_eq!(metric(&node, "aleph_chain_reorganisations").await, Some(1));
}

#[tokio::test]
async fn a_balance_counts_when_it_is_deep_enough() {
    let (chain, account) = (FakeChain::start().await, Account::generate());
    let node = chain.node(|config| config.token.as_mut().unwrap().confirmations = 1).await;
    let balance = async || node.client.balance(account.address()).await.unwrap().balance;
    chain.pay(&account, 7);
    assert_eq!(balance().await, 0.0);
    chain.pay(&Account::generate(), 1);
    eventually(async || (balance().await == 7.0).then_some(())).await;
}

#[tokio::test]
async fn those_who_wait_for_balances_do_not_fill_the_queue() {
    let chain = FakeChain::start().await;
    chain.become_(Mood::Dead);
    let node = chain.node(|config| config.limits.unfunded = 2).await;
    let accounts = [(); 3].map(|()| Account::generate());
    let file = node.publish(&accounts[0], b"code").await;
    let waiting: Vec<_> = accounts.iter().map(|account| program(account, &file, &file, json!({}))).collect();
    for message in &waiting[..2] {
        node.send(message).await;
        eventually(async || node.get(&message.item_hash).await.reason).await;
    }
    let details = node.reject(&waiting[2], ErrorCode::BalanceInsufficient).await;
    assert!(details.to_string().contains("send this again later"), "{details}");
    for account in &accounts {
        chain.pay(account, 200);
    }
    chain.become_(Mood::Well);
    for message in &waiting[..2] {
        node.until(&message.item_hash, MessageStatus::Processed).await;
    }
    // It was not refused for good.
    eventually(async || (node.submit(&waiting[2]).await == MessageStatus::Processed).then_some(())).await;
}
