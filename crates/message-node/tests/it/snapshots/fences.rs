//! Who may write, and when: epochs, signatures, schedulers.

use std::sync::Arc;

use chrono::{Duration, Utc};
use protocol::Epoch;
use protocol::api::archive::ArchiveCode;
use protocol::client::{Archive, ArchiveError};
use protocol::data::SnapshotId;
use protocol::signed_request::RequestSigner;

use super::world::{World, chunks, code};

#[tokio::test]
async fn the_next_epoch_ends_the_one_before_for_good() {
    let world = World::start().await;
    let program = &world.program;
    let old = world.archive(1, None, b"data").await;
    world.node.begin(program, &world.draft(world.id(2), Some(old))).await.unwrap();
    let next = Epoch::new(4);
    let (other_id, other) = world.other_node().await;
    assert_eq!(code(other.list(program).await), ArchiveCode::NotAllowed, "it does not have the program");
    world.scheduler.assign(program, other_id, next);
    // The new node reads in order to restore: from here on the old one is fenced off, whatever the scheduler says.
    assert_eq!(other.list(program).await.unwrap().restore_chain().len(), 1);
    world.scheduler.assign(program, world.node_id, world.epoch);
    world.scheduler.set_broken(true);
    let stale = |result: Result<(), ArchiveError>| match result.unwrap_err() {
        ArchiveError::StaleEpoch { highest, .. } => assert_eq!(highest, next),
        error => panic!("{error}"),
    };
    stale(world.node.begin(program, &world.draft(world.id(3), None)).await.map(drop));
    stale(world.node.send(program, world.id(2), "data", chunks(b"late")).await.map(drop));
    stale(world.node.complete(program, world.id(2), Vec::new()).await.map(drop));
    stale(world.node.delete(program, world.epoch, old).await);

    let world = world.restarted(|_| ()).await;
    stale(world.node.begin(&world.program, &world.draft(world.id(3), None)).await.map(drop));
}

#[tokio::test]
async fn a_new_epoch_builds_on_the_sets_of_the_one_before() {
    let world = World::start().await;
    let program = &world.program;
    let old = world.archive(1, None, b"data").await;
    let (other_id, other) = world.other_node().await;
    world.scheduler.assign(program, other_id, Epoch::new(4));
    let id = SnapshotId::new(Epoch::new(4), 1);
    other.begin(program, &world.draft(id, Some(old))).await.unwrap();
    world.fill(&other, id, b"difference", b"").await;
    let list = other.list(program).await.unwrap();
    assert_eq!(list.restore_chain().iter().map(|set| set.id).collect::<Vec<_>>(), [old, id]);
    other.delete(program, Epoch::new(4), id).await.unwrap();
    assert_eq!(other.list(program).await.unwrap().sets.len(), 1);
}

#[tokio::test]
async fn only_the_node_that_has_the_program_writes() {
    let world = World::start().await;
    let (program, draft) = (&world.program, world.draft(world.id(1), None));
    let (_, other) = world.other_node().await;
    assert_eq!(code(other.begin(program, &draft).await), ArchiveCode::NotAllowed);
    let later = SnapshotId::new(Epoch::new(4), 1);
    assert_eq!(code(world.node.begin(program, &world.draft(later, None)).await), ArchiveCode::NotAllowed);
    // A node that nobody registered here.
    world.scheduler.assign(program, protocol::NodeId::from_bytes([8; 32]), world.epoch);
    crate::support::eventually(async || {
        // What the scheduler said before is good for a few seconds.
        let refused = world.node.begin(program, &draft).await.err()?;
        assert!(refused.to_string().contains("not registered"), "{refused}");
        Some(())
    })
    .await;
    world.scheduler.forget(program);
    let (_, stranger) = world.other_node().await;
    assert_eq!(code(stranger.begin(program, &draft).await), ArchiveCode::NotAllowed);
    assert_eq!(code(stranger.list(program).await), ArchiveCode::NotAllowed);
}

#[tokio::test]
async fn without_a_scheduler_owners_read_and_nobody_writes() {
    let silent = World::start().await;
    silent.scheduler.set_broken(true);
    let none = World::with(|config| config.archive.schedulers.clear()).await;
    for (world, word) in [(&silent, "try again later"), (&none, "--scheduler")] {
        let error = world.node.begin(&world.program, &world.draft(world.id(1), None)).await.unwrap_err();
        assert_eq!(error.code(), Some(ArchiveCode::NoScheduler));
        assert!(error.to_string().contains(word) && error.is_transient(), "{error}");
        assert_eq!(code(world.node.list(&world.program).await), ArchiveCode::NoScheduler);
        assert!(world.archive_of(&world.owner).list(&world.program).await.unwrap().sets.is_empty());
    }
    // One of several is enough.
    let also = silent.scheduler.url.clone();
    let both = World::with(|config| config.archive.schedulers.insert(0, also)).await;
    both.archive(1, None, b"data").await;
}

#[tokio::test]
async fn a_request_is_taken_once_and_only_where_it_was_signed_for() {
    let world = World::start().await;
    let path = format!("/api/v1/programs/{}/snapshots", world.program);
    let draft = serde_json::to_string(&world.draft(world.id(1), None)).unwrap();
    let now = Utc::now();
    let signer = RequestSigner::new(&world.node_account, "127.0.0.1", now);
    let headers = signer.headers("POST", &path, now);
    assert_eq!(world.with_headers("POST", &path, &headers, &draft).await.0, 201);
    let refused = (401, "bad_signature".to_owned());
    assert_eq!(world.with_headers("POST", &path, &headers, &draft).await, refused, "a replay");
    let elsewhere = RequestSigner::new(&world.node_account, "other.example", now).headers("POST", &path, now);
    let old = now - Duration::minutes(3);
    for wrong in [
        signer.headers("PUT", &path, now),
        signer.headers("POST", "/api/v1/other", now),
        signer.headers("POST", &path, old),
        elsewhere,
        [headers[0].clone(), ("X-SignedOperation", "{}".to_owned())],
    ] {
        assert_eq!(world.with_headers("POST", &path, &wrong, &draft).await, refused);
    }
    // What was signed before the node started may have been taken by the process before.
    let before = RequestSigner::new(&world.node_account, "127.0.0.1", Utc::now());
    let before = before.headers("POST", &path, Utc::now());
    let world = world.restarted(|_| ()).await;
    assert_eq!(world.with_headers("POST", &path, &before, &draft).await, refused);
}

#[tokio::test]
async fn a_node_that_listens_everywhere_is_told_its_name() {
    let everywhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let nameless = World::with(|config| config.listen = everywhere).await;
    let url = nameless.mn.url.replace("0.0.0.0", "127.0.0.1");
    let owner = Archive::new(&url, Arc::clone(&nameless.owner)).unwrap();
    let error = owner.list(&nameless.program).await.unwrap_err();
    assert_eq!(error.code(), Some(ArchiveCode::BadSignature));
    assert!(error.to_string().contains("--url"), "{error}");
    let named = World::with(|config| {
        config.listen = everywhere;
        config.archive.urls = vec!["http://127.0.0.1:4024".to_owned()];
    })
    .await;
    let url = named.mn.url.replace("0.0.0.0", "127.0.0.1");
    let owner = Archive::new(&url, Arc::clone(&named.owner)).unwrap();
    assert!(owner.list(&named.program).await.unwrap().sets.is_empty());
    assert!(Archive::new("no url", Arc::clone(&named.owner)).is_err());
}
