//! What was answered with success is still there after the node stopped, however it stopped.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aleph_message_node::{Config, RunError, run};
use futures_util::future::join_all;
use protocol::Account;
use protocol::api::message_node::{MessageFilter, MessageStatus};
use protocol::client::MessageNode;
use protocol::message::ErrorCode;
use protocol::network::{CORECHANNEL_ADDRESS, CORECHANNEL_KEY, CoreChannel, NODE_OPERATION_POST, NodeOperation};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::*;

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let file = node.publish(&account, b"code").await;
    let running = node.accept(&program(&account, &file, &file, persistent())).await;
    let gone = node.accept(&post(&account, "note", json!({}))).await;
    node.accept(&forget(&account, &[&gone])).await;
    node.accept(&aggregate(&account, "k", json!({"a": 1}))).await;
    let operation = NodeOperation::create_compute_node("n".into(), "http://n".into());
    node.accept(&post(&account, NODE_OPERATION_POST, serde_json::to_value(operation).unwrap())).await;
    let bad = program(&account, "c", "r", json!({"colour": "red"}));
    node.submit(&bad).await;
    let paths = [
        "/api/v0/messages.json?msgStatuses=processed,forgotten,rejected".to_owned(),
        format!("/api/v0/messages/{running}"),
        format!("/api/v0/messages/{gone}"),
        format!("/api/v0/messages/{}", bad.item_hash),
        format!("/api/v0/price/{running}"),
        format!("/api/v0/addresses/{}/balance", account.address()),
        format!("/api/v0/aggregates/{}.json", account.address()),
        "/api/v0/posts.json".to_owned(),
    ];
    let look = async |node: &TestNode| join_all(paths.iter().map(|path| node.text(path))).await;
    let before = look(&node).await;
    let (config, folder) = node.stop().await;
    let node = TestNode::launch(config, folder).await.unwrap();
    assert_eq!(look(&node).await, before);
    let nodes: CoreChannel = node.client.aggregate(CORECHANNEL_ADDRESS, CORECHANNEL_KEY).await.unwrap().unwrap();
    assert_eq!(nodes.resource_nodes.len(), 1);
    assert_eq!(node.text(&format!("/api/v0/storage/raw/{}", protocol::FileHash::of(b"code"))).await, "code");
    // The rules still know what was there.
    node.reject(&forget(&account, &[&file]), ErrorCode::ForgetNotAllowed).await;
}

#[tokio::test]
async fn what_was_pending_is_decided_after_the_restart() {
    let node = TestNode::with(|config| config.timing.retry_window = PATIENCE).await;
    let account = Account::generate();
    let late = b"late";
    let waits = store(&account, &protocol::FileHash::of(late).to_string(), json!({}));
    node.send(&waits).await;
    let (config, folder) = node.kill();
    let node = TestNode::launch(config, folder).await.unwrap();
    assert_eq!(node.status(&waits.item_hash).await, MessageStatus::Pending);
    let upload = node.http.post(format!("{}/api/v0/storage/add_file", node.url)).body(late.as_slice()).send().await;
    assert_eq!(upload.unwrap().status(), 200);
    node.until(&waits.item_hash, MessageStatus::Processed).await;
}

#[tokio::test]
async fn a_replacement_is_settled_after_the_restart() {
    let account = Account::generate();
    let ledger = json!({account.address().as_str(): "200"});
    let node =
        TestNode::with_ledger(ledger, |config| config.timing.replacement_window = Duration::from_millis(500)).await;
    let file = node.publish(&account, b"code").await;
    let old = node.accept(&program(&account, &file, &file, json!({}))).await;
    let next = node.accept(&program(&account, &file, &file, json!({"replaces": old}))).await;
    let (config, folder) = node.kill();
    let node = TestNode::launch(config, folder).await.unwrap();
    node.until(&next, MessageStatus::Removed).await;
}

#[tokio::test]
async fn one_message_that_cannot_be_decided_does_not_stop_the_others() {
    use sqlx::{Connection, SqliteConnection};

    let (node, account) = (TestNode::start().await, Account::generate());
    node.accept(&aggregate(&account, "k", json!({"a": 1}))).await;
    let path = node.config().data_dir.join("messages.sqlite");
    let mut db = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    let write = async |db: &mut SqliteConnection, entries: &str| {
        sqlx::query("UPDATE aggregates SET entries = $1").bind(entries.to_owned()).execute(db).await.unwrap();
    };
    write(&mut db, "damaged").await;
    let (bad, good) = (aggregate(&account, "k", json!({"a": 2})), post(&account, "note", json!({})));
    let (rejected, accepted) = tokio::join!(node.reject(&bad, ErrorCode::InternalError), node.accept(&good));
    assert!(rejected["errors"][0].as_str().unwrap().contains("try again"), "{rejected}");
    assert_eq!(node.status(&accepted).await, MessageStatus::Processed);
    let path = format!("/api/v0/aggregates/{}.json", account.address());
    assert_eq!(node.json(&path).await.0, 500);
    write(&mut db, "{}").await;
    node.accept(&bad).await;
}

const CHILD_DIR: &str = "MESSAGE_NODE_TEST_CHILD_DIR";

/// Not a test: the node of [`nothing_that_was_answered_is_lost_by_kill_9`], in a process of its own.
#[test]
#[ignore = "runs as a child of another test"]
fn child() {
    let Ok(folder) = std::env::var(CHILD_DIR) else { return };
    let config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), folder);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(config, |address| println!("\nlistening on {address}"), CancellationToken::new())).unwrap();
}

/// A node in a process of its own, which can be killed as the operating system kills.
struct Process(Child, MessageNode);

impl Process {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "restart::child", "--ignored", "--nocapture"])
            .env(CHILD_DIR, folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address =
            lines.map_while(Result::ok).find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
        Self(child, MessageNode::new(format!("http://{}", address.expect("the node starts"))))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Senders, and messages that each of them sends one after another.
const SENDERS: usize = 8;
const MESSAGES: usize = 1250;
/// How long a fifth of them may take, on a busy machine.
const LOAD_PATIENCE: Duration = Duration::from_secs(300);

/// Sends messages one after another, each until some node answers with success. Gives their hashes in that order.
async fn send_all(sender: usize, mut nodes: watch::Receiver<MessageNode>, answered: &AtomicUsize) -> Vec<String> {
    let account = Account::generate();
    let mut hashes = Vec::with_capacity(MESSAGES);
    for n in 0..MESSAGES {
        let message = post(&account, "note", json!({"sender": sender, "n": n}));
        // Some senders wait until a message is decided, the others only until it is durable.
        let sync = sender.is_multiple_of(4);
        loop {
            let node = nodes.borrow_and_update().clone();
            match node.submit(&message, sync).await {
                Ok(_) => break,
                // Its successor is on its way, or this one is busy.
                Err(_) => drop(timeout(Duration::from_millis(50), nodes.changed()).await),
            }
        }
        answered.fetch_add(1, Ordering::Relaxed);
        hashes.push(message.item_hash);
    }
    hashes
}

#[tokio::test]
async fn nothing_that_was_answered_is_lost_by_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path());
    let (current, nodes) = watch::channel(process.1.clone());
    let answered = AtomicUsize::new(0);
    let kills = async {
        for kill in 1..=4 {
            let fifth = async || (answered.load(Ordering::Relaxed) >= kill * SENDERS * MESSAGES / 5).then_some(());
            within(LOAD_PATIENCE, fifth).await;
            drop(process);
            process = Process::start(folder.path());
            current.send(process.1.clone()).unwrap();
        }
        process
    };
    let senders = join_all((0..SENDERS).map(|sender| send_all(sender, nodes.clone(), &answered)));
    let (process, sent) = tokio::join!(kills, senders);
    assert_eq!(answered.into_inner(), SENDERS * MESSAGES);

    // Each is there, in force, and was received after those that its sender had an answer for earlier.
    join_all(sent.iter().map(async |hashes| {
        let mut last = String::new();
        for hash in hashes {
            let known = within(LOAD_PATIENCE, async || {
                let known = process.1.message(hash).await.unwrap().expect("it was answered with success");
                (known.status == MessageStatus::Processed).then_some(known)
            })
            .await;
            assert!(last < known.reception_time, "{last} is not before {}", known.reception_time);
            last = known.reception_time;
        }
    }))
    .await;
    // And once: lists have nothing else and nothing twice.
    let listed = process.1.all_messages(&MessageFilter::default()).await.unwrap();
    let listed: Vec<&String> = listed.iter().map(|message| &message.envelope.item_hash).collect();
    let sent: BTreeSet<&String> = sent.iter().flatten().collect();
    assert_eq!((listed.len(), listed.into_iter().collect::<BTreeSet<_>>()), (SENDERS * MESSAGES, sent));
}

async fn refused(change: impl FnOnce(&mut Config)) -> RunError {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), folder.path().join("data"));
    change(&mut config);
    match TestNode::launch(config, Some(folder)).await {
        Ok(_) => panic!("it must not start"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_node_that_cannot_start_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = refused(|config| config.listen = address).await;
    assert!(matches!(error, RunError::Bind { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");

    let error = refused(|config| config.data_dir = "/proc/nowhere".into()).await;
    assert!(matches!(error, RunError::DataDir { .. }), "{error}");

    let error = refused(|config| {
        std::fs::create_dir_all(&config.data_dir).unwrap();
        std::fs::write(config.data_dir.join("messages.sqlite"), "no database ".repeat(1000)).unwrap();
    })
    .await;
    assert!(matches!(error, RunError::Database { .. }), "{error}");

    let error = refused(|config| config.ledger = Some(config.data_dir.join("missing.json"))).await;
    assert!(matches!(error, RunError::Ledger { .. }), "{error}");
}

#[tokio::test]
async fn a_directory_has_one_node() {
    let node = TestNode::start().await;
    let error = TestNode::launch(node.config().clone(), None).await.err().expect("it must not start");
    assert!(matches!(error, RunError::Locked(_)), "{error}");
    let (config, folder) = node.stop().await;
    assert!(TestNode::launch(config, folder).await.is_ok(), "then it is free");
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_to_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o500)).unwrap();
    if std::fs::write(path.join("probe"), "").is_ok() {
        // Permissions do not bind root.
        return;
    }
    let config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), &path);
    let error = TestNode::launch(config, None).await.err().expect("it must not start");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}
