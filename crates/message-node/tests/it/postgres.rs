//! Nodes on PostgreSQL: what they do while the database is away, or somebody else has the right to write.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aleph_message_node::copy;
use aleph_tests::Postgres;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use protocol::Account;
use protocol::api::message_node::{MessageFilter, MessageStatus};
use protocol::message::Envelope;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use url::Url;

use crate::support::*;

async fn connect(url: &Url) -> AnyConnection {
    sqlx::any::install_default_drivers();
    AnyConnection::connect(url.as_str()).await.unwrap()
}

/// Sends a message without waiting; gives the status of the answer and what it says.
async fn try_send(node: &TestNode, message: &Envelope) -> (u16, String) {
    let (status, body) = node.post("/api/v0/messages", &json!({"sync": false, "message": message})).await;
    (status, body["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_named_without_its_password() {
    let mut url = postgres_database().await;
    url.set_path("/missing");
    url.set_password(Some("secret")).unwrap();
    let error = refused(|config| config.postgres = Some(url)).await.to_string();
    assert!(error.contains("/missing") && error.contains("does not exist") && !error.contains("secret"), "{error}");
}

/// Ends the connection that has the right to write, which goes to whoever waits for it.
const END_WRITER: &str = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_locks
    WHERE locktype = 'advisory' AND objid = 1 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

#[tokio::test]
async fn a_node_that_lost_the_right_to_write_writes_nothing_and_says_who_has_it() {
    let url = postgres_database().await;
    let (node, account) = (TestNode::with_database(Some(url.clone()), |_| ()).await, Account::generate());
    let before = node.accept(&post(&account, "note", json!({"n": 0}))).await;
    let mut stream = node.client.watch(&MessageFilter::default(), 0).await.unwrap();

    // Another node waits for the right to write, and gets it.
    let (mut rival, mut operator) = (connect(&url).await, connect(&url).await);
    sqlx::query("SET application_name = 'rival'").execute(&mut rival).await.unwrap();
    let lock = async |rival: &mut AnyConnection| {
        sqlx::query("SELECT CAST(pg_advisory_lock(1) AS TEXT)").execute(rival).await.unwrap();
    };
    let end = async {
        eventually(async || {
            let waiting = "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut operator).await.unwrap();
            (waiting == 1).then_some(())
        })
        .await;
        let ended: i64 = sqlx::query_scalar(END_WRITER).fetch_one(&mut operator).await.unwrap();
        assert_eq!(ended, 1);
    };
    tokio::join!(lock(&mut rival), end);

    let message = post(&account, "note", json!({"n": 1}));
    let (status, says) = try_send(&node, &message).await;
    assert_eq!(status, 503, "{says}");
    assert!(
        says.contains("another process of this message node leads (rival, from 127.0.0.1") && says.contains("try again"),
        "{says}"
    );
    let pending: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM pending").fetch_one(&mut operator).await.unwrap();
    assert_eq!(pending, 0);
    assert_eq!(node.status(&before).await, MessageStatus::Processed, "it still answers what it can");
    // Whoever listened would not be told what the other decides.
    let end = timeout(PATIENCE, stream.next()).await.unwrap();
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");

    // The other ends, after it decided a message itself.
    sqlx::query("DELETE FROM pending").execute(&mut rival).await.unwrap();
    rival.close().await.unwrap();
    eventually(async || (try_send(&node, &message).await.0 == 202).then_some(())).await;
    node.until(&message.item_hash, MessageStatus::Processed).await;
}

#[tokio::test]
async fn while_the_server_is_away_requests_are_told_so() {
    let mut server = spawn_blocking(Postgres::start).await.unwrap();
    let url = server.database().parse().unwrap();
    let (node, account) = (TestNode::with_database(Some(url), |_| ()).await, Account::generate());
    let before = node.accept(&post(&account, "note", json!({"n": 0}))).await;
    server.kill();
    let message = post(&account, "note", json!({"n": 1}));
    let path = format!("/api/v0/messages/{before}");
    let (sent, read) = tokio::join!(try_send(&node, &message), node.json(&path));
    for (status, says) in [sent, (read.0, read.1["message"].as_str().unwrap_or_default().to_owned())] {
        assert_eq!(status, 503, "{says}");
        assert!(says.contains("the node's database cannot be used now") && says.contains("try again"), "{says}");
    }
    let mut server = spawn_blocking(|| {
        server.resume();
        server
    })
    .await
    .unwrap();
    eventually(async || (try_send(&node, &message).await.0 == 202).then_some(())).await;
    node.until(&message.item_hash, MessageStatus::Processed).await;
    assert_eq!(node.status(&before).await, MessageStatus::Processed);
    drop(node);
    spawn_blocking(move || server.stop()).await.unwrap();
}

#[tokio::test]
async fn a_character_that_postgres_does_not_know_is_refused() {
    let node = TestNode::with_database(Some(postgres_database().await), |_| ()).await;
    let (status, body) = node.json("/api/v0/messages.json?channels=%00").await;
    assert_eq!((status, body["message"].as_str()), (422, Some("the character \\u0000 is not supported")));
}

/// Passes on what a node and PostgreSQL tell each other, until it is to cut off the answer to a COMMIT.
struct Proxy {
    url: Url,
    /// Commits until then; 0 for never.
    left: Arc<AtomicUsize>,
}

impl Proxy {
    async fn before(database: &Url) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut url = database.clone();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let server = format!("{}:{}", database.host_str().unwrap(), database.port().unwrap());
        let left = Arc::<AtomicUsize>::default();
        let commits = Arc::clone(&left);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, server.clone(), Arc::clone(&commits)));
            }
        });
        Self { url, left }
    }
}

async fn pass_on(mut client: TcpStream, server: String, commits: Arc<AtomicUsize>) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
    loop {
        // Both end when one of them does.
        tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(bytes @ 1..) => {
                    let commits_now = asked[..bytes].windows(7).any(|part| part == b"COMMIT\0");
                    server.write_all(&asked[..bytes]).await.unwrap();
                    let left = |left: usize| left.checked_sub(1);
                    if commits_now && commits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left) == Ok(1) {
                        assert!(server.read(&mut answered).await.unwrap() > 0, "the commit is answered");
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut answered) => match read {
                Ok(bytes @ 1..) => if client.write_all(&answered[..bytes]).await.is_err() { return },
                _ => return,
            },
        }
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_kept_from_nobody() {
    let proxy = Proxy::before(&postgres_database().await).await;
    let (node, account) = (TestNode::with_database(Some(proxy.url.clone()), |_| ()).await, Account::generate());
    node.accept(&post(&account, "note", json!({"n": 0}))).await;

    // The intake's: the message is there, but nobody was told so. It can be sent again.
    proxy.left.store(1, Ordering::SeqCst);
    let message = post(&account, "note", json!({"n": 1}));
    let (status, says) = try_send(&node, &message).await;
    assert_eq!((status, says.contains("try again")), (503, true), "{says}");
    eventually(async || (try_send(&node, &message).await.0 == 202).then_some(())).await;
    node.until(&message.item_hash, MessageStatus::Processed).await;
    // With the next connection the process says anew that it leads, and commits that.
    let mut operator = connect(&node.config().postgres.clone().unwrap()).await;
    eventually(async || {
        let said = "SELECT COUNT(*) FROM leader JOIN pg_locks ON pid = backend_pid
            WHERE locktype = 'advisory' AND objid = 1 AND granted";
        let said: i64 = sqlx::query_scalar(said).fetch_one(&mut operator).await.unwrap();
        (said == 1).then_some(())
    })
    .await;

    // The worker's: who waits for the outcome does not wait for ever, and who listens is told to look.
    let mut stream = node.client.watch(&MessageFilter::default(), 0).await.unwrap();
    let message = post(&account, "note", json!({"n": 2}));
    proxy.left.store(2, Ordering::SeqCst);
    assert_eq!(timeout(PATIENCE, node.submit(&message)).await.unwrap(), MessageStatus::Pending);
    let end = timeout(PATIENCE, stream.next()).await.unwrap();
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    assert_eq!(node.until(&message.item_hash, MessageStatus::Processed).await.status, MessageStatus::Processed);
    assert_eq!(proxy.left.load(Ordering::SeqCst), 0, "both were cut off");
    let info: Value = node.json("/api/v0/messages.json?pagination=0").await.1;
    assert_eq!(info["pagination_total"], 3, "{info}");
}

#[tokio::test]
async fn a_copy_of_a_node_on_sqlite_goes_on_where_that_ended() {
    let node = TestNode::with_database(None, |config| config.timing.retry_window = PATIENCE).await;
    let account = Account::generate();
    let file = node.publish(&account, "ein Wörtchen, \"quoted\", 'and' \\ more".as_bytes()).await;
    let running = node.accept(&program(&account, &file, &file, persistent())).await;
    let gone = node.accept(&post(&account, "note", json!({"text": "🙂 \\ \" '"}))).await;
    node.accept(&forget(&account, &[&gone])).await;
    node.accept(&aggregate(&account, "k", json!({"a": 1}))).await;
    let many = stream::iter(0..1200).for_each_concurrent(16, async |n| {
        node.accept(&post(&account, "note", json!({"n": n}))).await;
    });
    many.await;
    let waits = store(&account, &protocol::FileHash::of(b"late").to_string(), json!({}));
    node.send(&waits).await;
    let paths = [
        "/api/v0/messages.json?pagination=200&msgStatuses=processed,forgotten,rejected".to_owned(),
        "/api/v0/messages.json?pagination=0".to_owned(),
        format!("/api/v0/messages/{running}"),
        format!("/api/v0/messages/{gone}"),
        format!("/api/v0/price/{running}"),
        format!("/api/v0/aggregates/{}.json", account.address()),
        "/api/v0/posts.json".to_owned(),
    ];
    let look = async |node: &TestNode| join_all(paths.iter().map(|path| node.text(path))).await;
    let before = look(&node).await;

    let url = postgres_database().await;
    let mut told = Vec::new();
    let error = copy(&node.config().data_dir, &url, |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("another message node runs"), "{error}");
    let (mut config, folder) = node.stop().await;
    let copied = copy(&config.data_dir, &url, |copied| told.push(copied)).await.unwrap();
    assert!(copied.rows > 1200 && copied.rows == copied.of, "{copied:?}");
    assert_eq!((told[0].rows, *told.last().unwrap()), (0, copied));
    assert!(told.is_sorted_by_key(|copied| copied.rows));
    let error = copy(&config.data_dir, &url, |_| ()).await.unwrap_err();
    assert!(error.to_string().ends_with("is not empty; give a new database"), "{error}");
    let error = copy(folder.as_ref().unwrap().path(), &url, |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("there is no /"), "{error}");

    config.postgres = Some(url);
    std::fs::remove_file(config.data_dir.join("messages.sqlite")).unwrap();
    let node = TestNode::launch(config, folder).await.unwrap();
    assert_eq!(look(&node).await, before);
    // The counters, the numbers of submissions and what waits go on.
    assert_eq!(node.status(&waits.item_hash).await, MessageStatus::Pending);
    node.accept(&post(&account, "note", json!({"n": "new"}))).await;
    let upload = node.http.post(format!("{}/api/v0/storage/add_file", node.url)).body("late").send().await;
    assert_eq!(upload.unwrap().status(), 200);
    node.until(&waits.item_hash, MessageStatus::Processed).await;
    assert_eq!(node.json("/api/v0/messages.json?pagination=0").await.1["pagination_total"], 1206);
}
