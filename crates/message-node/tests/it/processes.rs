//! Several processes on one PostgreSQL database: one leads, the others follow and take over.

use std::collections::BTreeSet;

use aleph_message_node::StoragePlace;
use futures_util::future::join_all;
use protocol::Account;
use protocol::api::message_node::{MessageFilter, MessageStatus, StoredMessage};
use protocol::client::EventStream;
use protocol::message::{Envelope, ErrorCode};
use serde_json::json;
use sqlx::Connection as _;
use tokio::time::timeout;

use crate::support::*;

/// A process that leads, and one that follows it.
async fn pair() -> (TestNode, TestNode) {
    let leader = TestNode::with_database(Some(postgres_database().await), |_| ()).await;
    let follower = leader.beside(|_| ()).await;
    follows(&follower, &leader).await;
    (leader, follower)
}

async fn follows(follower: &TestNode, leader: &TestNode) {
    let expected = json!({"status": "follower", "leader": leader.url});
    eventually(async || (follower.json("/health").await == (200, expected.clone())).then_some(())).await;
}

async fn leads(node: &TestNode) {
    let expected = json!({"status": "ok", "leader": null});
    eventually(async || (node.json("/health").await == (200, expected.clone())).then_some(())).await;
}

/// The hashes of what is told next, as many as these.
async fn told(stream: &mut EventStream<StoredMessage>, count: usize) -> Vec<String> {
    let mut hashes = Vec::new();
    while hashes.len() < count {
        let message = timeout(PATIENCE, stream.next()).await.expect("something is told in time");
        hashes.push(message.unwrap().expect("the stream goes on").envelope.item_hash);
    }
    hashes
}

/// Sends until it is accepted, as clients do that are told to try again.
async fn insist(node: &TestNode, message: &Envelope) {
    eventually(async || {
        let sent = node.client.submit(message, true).await;
        assert!(sent.as_ref().is_ok_and(|s| *s != MessageStatus::Rejected) || is_temporary(&sent), "{sent:?}");
        matches!(sent, Ok(MessageStatus::Processed)).then_some(())
    })
    .await;
}

fn is_temporary<T>(sent: &Result<T, protocol::client::ClientError>) -> bool {
    sent.as_ref().is_err_and(|error| error.status().is_none_or(|status| status == 503))
}

#[tokio::test]
async fn a_follower_reads_itself_and_passes_on_what_changes_something() {
    let (leader, follower) = pair().await;
    let account = Account::generate();
    // Accepted through the one, read through the other at once.
    let (mut sent, mut nodes) = (Vec::new(), [&leader, &follower]);
    for n in 0..6 {
        let hash = nodes[0].accept(&post(&account, "note", json!({"n": n}))).await;
        for node in nodes {
            assert_eq!(node.status(&hash).await, MessageStatus::Processed);
        }
        sent.push(hash);
        nodes.reverse();
    }
    let list = format!("/api/v0/messages.json?addresses={}", account.address());
    assert_eq!(leader.json(&list).await, follower.json(&list).await);
    // What is refused is refused in the leader's words.
    let refused = program(&account, "c", "r", json!({"colour": "red"}));
    follower.reject(&refused, ErrorCode::InvalidFormat).await;
    let (status, body) = follower.post("/api/v0/messages", &json!({"sync": true})).await;
    assert_eq!((status, &body["code"]), (422, &json!("invalid")), "{body}");
    // A message that only the leader has seen, and has not decided, is known to the other one as well.
    let waits = store(&account, &protocol::FileHash::of(b"never").to_string(), json!({}));
    leader.send(&waits).await;
    assert!(matches!(follower.status(&waits.item_hash).await, MessageStatus::Pending | MessageStatus::Rejected));
    for (node, leads) in [(&leader, 1), (&follower, 0)] {
        let metrics = node.text("/metrics").await;
        assert!(metrics.lines().any(|line| line == format!("aleph_leads {leads}")), "{metrics}");
    }
    let metrics = follower.text("/metrics").await;
    let passed_on = metrics.lines().find_map(|line| line.strip_prefix("aleph_passed_on_total "));
    assert_eq!(passed_on, Some("5"), "{metrics}");
}

#[tokio::test]
async fn streams_of_all_processes_tell_the_same_in_the_same_order() {
    let (leader, follower) = pair().await;
    let account = Account::generate();
    let before = follower.accept(&post(&account, "note", json!({"n": "before"}))).await;
    let all = MessageFilter::default();
    let mut streams = [leader.client.watch(&all, 5).await.unwrap(), follower.client.watch(&all, 5).await.unwrap()];
    let senders: Vec<_> = (0..4).map(|_| Account::generate()).collect();
    join_all(senders.iter().map(async |sender| {
        for n in 0..10 {
            let node = if n % 2 == 0 { &leader } else { &follower };
            node.accept(&post(sender, "note", json!({"n": n}))).await;
        }
    }))
    .await;
    let [one, two] = &mut streams;
    let (one, two) = (told(one, 41).await, told(two, 41).await);
    assert_eq!(one, two);
    assert_eq!(one[0], before);
    assert_eq!(BTreeSet::from_iter(&one).len(), 41, "each once");
    // Statuses are told with what the message was.
    let gone = MessageFilter { statuses: vec![MessageStatus::Processed], ..MessageFilter::default() };
    let mut stream = follower.client.watch(&gone, 0).await.unwrap();
    let message = leader.accept(&forget(&account, &[&before])).await;
    assert_eq!(told(&mut stream, 1).await, [message]);
}

#[tokio::test]
async fn when_the_leader_dies_another_leads_and_streams_go_on() {
    let (leader, first) = pair().await;
    let second = leader.beside(|_| ()).await;
    follows(&second, &leader).await;
    let account = Account::generate();
    let all = MessageFilter::default();
    let mut streams = [first.client.watch(&all, 0).await.unwrap(), second.client.watch(&all, 0).await.unwrap()];
    let messages: Vec<_> = (0..60).map(|n| post(&account, "note", json!({"n": n}))).collect();
    let send = async {
        for (n, message) in messages.iter().enumerate() {
            insist(if n % 2 == 0 { &first } else { &second }, message).await;
        }
    };
    let kill = async {
        // In the middle of it.
        eventually(async || (first.client.message(&messages[20].item_hash).await.unwrap()).map(drop)).await;
        leader.kill()
    };
    let ((), (config, folder)) = tokio::join!(send, kill);
    let [one, two] = &mut streams;
    let (one, two) = (told(one, messages.len()).await, told(two, messages.len()).await);
    assert_eq!(one, messages.iter().map(|message| message.item_hash.clone()).collect::<Vec<_>>());
    assert_eq!(one, two, "nothing was lost, doubled, or told in another order");
    // The one that died comes back, and follows.
    let back = TestNode::launch(config, folder).await.unwrap();
    eventually(async || (back.json("/health").await.1["status"] == "follower").then_some(())).await;
    let again = post(&account, "note", json!({"n": "again"}));
    back.accept(&again).await;
    for stream in &mut streams {
        assert_eq!(told(stream, 1).await, std::slice::from_ref(&again.item_hash));
    }
}

#[tokio::test]
async fn a_leader_that_stops_in_order_is_followed() {
    let (leader, follower) = pair().await;
    let account = Account::generate();
    let mut stream = follower.client.watch(&MessageFilter::default(), 0).await.unwrap();
    let before = leader.accept(&post(&account, "note", json!({"n": 0}))).await;
    // It cannot be decided before the other leads.
    let waits = store(&account, &protocol::FileHash::of(b"late").to_string(), json!({}));
    leader.send(&waits).await;
    let (_, _files) = leader.stop().await;
    leads(&follower).await;
    follower.until(&waits.item_hash, MessageStatus::Rejected).await;
    let after = follower.accept(&post(&account, "note", json!({"n": 1}))).await;
    assert_eq!(told(&mut stream, 2).await, [before, after]);
}

#[tokio::test]
async fn who_cannot_reach_the_leader_says_so_and_what_to_do() {
    let database = postgres_database().await;
    let change = |config: &mut aleph_message_node::Config| config.advertise = Some("http://127.0.0.1:1".into());
    let leader = TestNode::with_database(Some(database), change).await;
    let follower = leader.beside(|_| ()).await;
    let message = post(&Account::generate(), "note", json!({}));
    let body = json!({"sync": false, "message": message});
    let (status, answer) = follower.post("/api/v0/messages", &body).await;
    let says = answer["message"].as_str().unwrap();
    assert_eq!(status, 503, "{says}");
    assert!(says.contains("leads this message node, at http://127.0.0.1:1, cannot be reached"), "{says}");
    assert!(says.contains("try again"), "{says}");
    assert_eq!(follower.client.message(&message.item_hash).await.unwrap(), None, "it still answers what it can");
    // One that passes on what was passed on to it would go on for ever.
    let looped = follower.http.post(format!("{}/api/v0/messages", follower.url)).json(&body);
    let looped = looped.header("aleph-message-node-passed-on", "1").send().await.unwrap();
    let retry = looped.headers().get("retry-after").is_some();
    assert_eq!((looped.status().as_u16(), retry), (503, true));
    let says = looped.text().await.unwrap();
    assert!(says.contains("does not lead, but the one at http://127.0.0.1:1"), "{says}");
    // One that listens everywhere does not know where it is reached.
    let (_, _files) = leader.stop().await;
    leads(&follower).await;
    let third = follower.beside(|config| {
        config.advertise = None;
        config.listen = ([0, 0, 0, 0], 0).into();
    });
    let third = third.await;
    follower.stop().await;
    eventually(async || (third.json("/health").await.1["status"] == "ok").then_some(())).await;
    let fourth = third.beside(|_| ()).await;
    let (status, answer) = fourth.post("/api/v0/messages", &body).await;
    let says = answer["message"].as_str().unwrap();
    assert!(status == 503 && says.contains("start it with --advertise") && says.contains("process"), "{says}");
}

#[tokio::test]
async fn processes_of_another_version_do_not_start_beside_the_leader() {
    let leader = TestNode::with_database(Some(postgres_database().await), |_| ()).await;
    let database = leader.config().postgres.clone();
    let mut operator = TestNode::database(leader.config()).await;
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 2").execute(&mut operator).await.unwrap();
    let error = refused(|config| config.postgres = database).await.to_string();
    assert!(error.contains("its tables are those of another version of this program, which leads"), "{error}");
    assert!(error.contains(&format!("process {}, from 127.0.0.1, since 2", std::process::id())), "{error}");
    operator.close().await.unwrap();
}

#[tokio::test]
async fn files_are_those_of_all_processes() {
    let (leader, follower) = pair().await;
    let account = Account::generate();
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let hash = protocol::FileHash::of(&content).to_string();
    follower.publish(&account, &content).await;
    let get = async |node: &TestNode, range: &str| {
        let request = node.http.get(format!("{}/api/v0/storage/raw/{hash}", node.url)).header("range", range);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap())
    };
    for node in [&leader, &follower] {
        assert_eq!(get(node, "").await, (200, content.clone().into()));
        assert_eq!(get(node, "bytes=2999990-").await, (206, content[2_999_990..].to_vec().into()));
        let head = node.http.head(format!("{}/api/v0/storage/raw/{hash}", node.url)).send().await.unwrap();
        assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &"3000000".parse().unwrap()));
    }
    // A refusal comes through while the body is still on its way.
    let large = vec![1; 30 << 20];
    let answer = follower.http.post(format!("{}/api/v0/storage/add_file", follower.url)).body(large).send().await;
    assert!(answer.as_ref().map_or(true, |answer| answer.status() == 413), "{answer:?}");
    // What one was killed in the middle of goes when the next one leads, and what was taken stays.
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = reqwest::Body::wrap_stream(futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    }));
    let slow = tokio::spawn(follower.http.post(format!("{}/api/v0/storage/add_file", follower.url)).body(body).send());
    sender.send(Ok(vec![7; 5 << 20])).await.unwrap();
    eventually(async || leader.text("/metrics").await.contains("\naleph_uploads 1\n").then_some(())).await;
    let (config, _folder) = leader.kill();
    let cut = slow.await.unwrap().unwrap();
    let (status, says) = (cut.status(), cut.text().await.unwrap());
    // A runtime that is torn down can still say that its work was given up, unlike a process that was killed.
    if status != 500 {
        assert_eq!(status, 503, "{says}");
        assert!(says.contains("cannot be reached") && says.contains("try again"), "{says}");
    }
    leads(&follower).await;
    assert_eq!(get(&follower, "").await, (200, content.into()));
    let files = config.data_dir.join("files");
    eventually(async || {
        let kept = walk(&files).into_iter().filter(|path| !path.ends_with("place"));
        // Interrupted writes of a folder go after an hour.
        (kept.filter(|path| !path.to_string_lossy().contains('#')).count() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_process_with_other_files_or_snapshots_does_not_start() {
    let database = postgres_database().await;
    let schedulers = vec!["http://127.0.0.1:1".to_owned()];
    let with_archive = |config: &mut aleph_message_node::Config| config.archive.schedulers.clone_from(&schedulers);
    let leader = TestNode::with_database(Some(database.clone()), with_archive).await;
    let files = leader.config().data_dir.join("files");
    let refusal = async |change: &dyn Fn(&mut aleph_message_node::Config)| {
        let error = refused(|config| {
            config.postgres = Some(database.clone());
            config.files = Some(StoragePlace::Folder(files.clone()));
            change(config);
        });
        error.await.to_string()
    };
    let error = refusal(&|config| config.files = None).await;
    assert!(error.contains("the files of this message node are not at /") && error.contains("give --files"), "{error}");
    let name = std::fs::read_to_string(files.join("place")).unwrap();
    assert!(error.contains(&name), "the right one is named: {error}");
    let error = refusal(&|config| with_archive(config)).await;
    assert!(error.contains("the snapshots of this message node are not at /"), "{error}");
    let place = StoragePlace::Folder(leader.config().data_dir.join("snapshots"));
    let with_place = |config: &mut aleph_message_node::Config| {
        with_archive(config);
        config.archive.place = Some(place.clone());
    };
    let error = refusal(&with_place).await;
    assert!(error.contains("snapshots.key is not the key of this message node's archive: copy the one"), "{error}");
    let key = leader.config().data_dir.join("snapshots.key");
    let second = leader.beside(|config| {
        with_place(config);
        std::fs::create_dir_all(&config.data_dir).unwrap();
        std::fs::copy(key, config.data_dir.join("snapshots.key")).unwrap();
    });
    follows(&second.await, &leader).await;
}
