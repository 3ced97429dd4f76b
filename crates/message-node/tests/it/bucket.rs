//! Files in a bucket, on a server of the S3 protocol that others wrote.

use std::time::Duration;

use aleph_message_node::{Bucket, Config, StoragePlace};
use aleph_tests::S3;
use protocol::{Account, FileHash};
use serde_json::json;

use crate::support::*;

const PREFIX: &str = "below/here";

fn place(s3: &S3) -> StoragePlace {
    StoragePlace::S3(Bucket::new(&S3::place(PREFIX), s3.environment()).unwrap())
}

/// The objects of files.
fn objects(s3: &S3) -> usize {
    s3.objects(PREFIX).iter().filter(|path| !path.ends_with("place")).count()
}

fn bytes_of(count: u32) -> Vec<u8> {
    (0..count).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn get(node: &TestNode, hash: &str, range: Option<&str>) -> (u16, bytes::Bytes) {
    let mut request = node.http.get(format!("{}/api/v0/storage/raw/{hash}", node.url));
    if let Some(range) = range {
        request = request.header("range", range);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap())
}

async fn upload(node: &TestNode, content: Vec<u8>) -> u16 {
    let answer = node.http.post(format!("{}/api/v0/storage/add_file", node.url)).body(content).send().await;
    answer.unwrap().status().as_u16()
}

#[tokio::test]
async fn files_are_kept_in_a_bucket_as_in_a_folder() {
    let s3 = S3::start().await;
    let node = TestNode::with(|config| config.files = Some(place(&s3))).await;
    let account = Account::generate();
    // Nothing, what is written in one request, and what is written in pieces.
    for (count, content) in (1..).zip([Vec::new(), bytes_of(1000), bytes_of(20_000_000)]) {
        let hash = FileHash::of(&content).to_string();
        node.publish(&account, &content).await;
        let (length, last) = (content.len(), content.len().saturating_sub(10));
        assert_eq!(get(&node, &hash, None).await, (200, content.clone().into()));
        if length > 0 {
            let end = content[last..].to_vec();
            assert_eq!(get(&node, &hash, Some(&format!("bytes={last}-"))).await, (206, end.into()));
            assert_eq!(get(&node, &hash, Some(&format!("bytes={length}-"))).await.0, 416);
        }
        let head = node.http.head(format!("{}/api/v0/storage/raw/{hash}", node.url)).send().await.unwrap();
        assert_eq!(head.headers()["content-length"], length.to_string().as_str());
        assert_eq!(objects(&s3), count);
    }
    let kept = walk(&node.config().data_dir.join("files"));
    assert!(kept.is_empty(), "nothing is in the data directory: {kept:?}");
    // The same again, and what is refused, leave nothing.
    assert_eq!(upload(&node, bytes_of(20_000_000)).await, 200);
    let other = store(&account, &FileHash::of(b"something else").to_string(), json!({}));
    assert!(node.add_file(&other, &bytes_of(9_000_000)).await.is_err());
    eventually(async || (objects(&s3) == 3).then_some(())).await;
    // They are there after a crash, and what has no row is not.
    s3.put_two_days_ago(&format!("{PREFIX}/ab/abcdef"), b"stray");
    assert_eq!(objects(&s3), 4);
    let (config, folder) = node.kill();
    let node = TestNode::launch(config, folder).await.unwrap();
    assert_eq!(get(&node, &FileHash::of(&bytes_of(1000)).to_string(), None).await, (200, bytes_of(1000).into()));
    eventually(async || (objects(&s3) == 3).then_some(())).await;
}

#[tokio::test]
async fn what_nothing_refers_to_leaves_the_bucket() {
    let s3 = S3::start().await;
    let node = TestNode::with(|config| {
        config.files = Some(place(&s3));
        config.timing.file_grace = Duration::from_millis(100);
        config.timing.collect_every = Duration::from_millis(100);
    })
    .await;
    let account = Account::generate();
    let kept = node.publish(&account, b"kept").await;
    let forgotten = node.publish(&account, b"forgotten").await;
    assert_eq!(upload(&node, b"never named".to_vec()).await, 200);
    eventually(async || (objects(&s3) == 2).then_some(())).await;
    node.accept(&forget(&account, &[&forgotten])).await;
    eventually(async || (objects(&s3) == 1).then_some(())).await;
    assert_eq!(get(&node, &FileHash::of(b"forgotten").to_string(), None).await.0, 404);
    assert_eq!(get(&node, &FileHash::of(b"kept").to_string(), None).await.0, 200);
    node.accept(&forget(&account, &[&kept])).await;
    eventually(async || (objects(&s3) == 0).then_some(())).await;
    // What comes again is there again.
    node.publish(&account, b"kept").await;
    assert_eq!(get(&node, &FileHash::of(b"kept").to_string(), None).await, (200, "kept".into()));
}

#[tokio::test]
async fn processes_share_a_bucket() {
    let s3 = S3::start().await;
    let change = |config: &mut Config| config.files = Some(place(&s3));
    let leader = TestNode::with_database(Some(postgres_database().await), change).await;
    let follower = leader.beside(|_| ()).await;
    let content = bytes_of(9_000_000);
    follower.publish(&Account::generate(), &content).await;
    for node in [&leader, &follower] {
        assert_eq!(get(node, &FileHash::of(&content).to_string(), None).await, (200, content.clone().into()));
    }
    let elsewhere = Bucket::new(&S3::place("elsewhere"), s3.environment()).unwrap();
    let error = refused(|config| {
        config.postgres = leader.config().postgres.clone();
        config.files = Some(StoragePlace::S3(elsewhere));
    });
    let error = error.await.to_string();
    assert!(error.contains("the files of this message node are not at s3://bucket/elsewhere: give --files"), "{error}");
}

#[tokio::test]
async fn a_bucket_that_cannot_be_used_is_named_with_the_reason() {
    let s3 = S3::start().await;
    let mut environment = s3.environment();
    environment.iter_mut().filter(|(name, _)| name.contains("SECRET")).for_each(|(_, key)| *key = "wrong".into());
    let bucket = Bucket::new(&S3::place(PREFIX), environment).unwrap();
    let error = refused(|config| config.files = Some(StoragePlace::S3(bucket))).await.to_string();
    assert!(error.contains("cannot use the files at s3://bucket/below/here: "), "{error}");
    assert!(error.contains("SignatureDoesNotMatch") && error.contains("set --files"), "{error}");
    assert!(!error.contains("wrong"), "{error}");
}
