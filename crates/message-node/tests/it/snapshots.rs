//! The archive of snapshot sets, as compute nodes and owners use it. The scheduler is a small server that says what the
//! test wants.

mod bucket;
mod damage;
mod fences;
mod foreign;
mod keeping;
mod world;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use protocol::api::archive::{ArchiveCode, NextSet, SetState};
use protocol::client::ArchiveError;

use world::{World, bytes_of, chunks, code};

#[tokio::test]
async fn two_volumes_and_three_sets_return_as_they_were() {
    let world = World::start().await;
    let contents = [
        [bytes_of(1, 300_000), bytes_of(2, 65_536)],
        [bytes_of(3, 70_000), Vec::new()],
        [bytes_of(4, 1), bytes_of(5, 131_072)],
    ];
    let mut parent = None;
    for (sequence, [data, odd]) in (1..).zip(&contents) {
        let id = world.id(sequence);
        let begun = world.node.begin(&world.program, &world.draft(id, parent)).await.unwrap();
        let advised = parent.map_or(NextSet::Full, |from| NextSet::Difference { from });
        assert_eq!(begun.next, advised);
        world.fill(&world.node, id, data, odd).await;
        parent = Some(id);
    }
    let list = world.node.list(&world.program).await.unwrap();
    assert_eq!(list.next, NextSet::Difference { from: world.id(3) });
    assert_eq!(list.bytes, contents.iter().flatten().map(|stream| stream.len() as u64).sum::<u64>());
    assert_eq!(list.quota_bytes, 4 * 5 * 1024 * 1024);
    let chain = list.restore_chain();
    assert_eq!(chain.iter().map(|set| set.id).collect::<Vec<_>>(), [world.id(1), world.id(2), world.id(3)]);
    assert!(chain.iter().all(|set| set.made_by == *world.node_account.address() && set.volumes.len() == 2));

    let world = world.restarted(|_| ()).await;
    for (sequence, [data, odd]) in (1..).zip(&contents) {
        for (name, content) in [("data", data), (world::ODD_NAME, odd)] {
            assert_eq!(world.get(&world.node, sequence, name).await.unwrap(), *content);
        }
    }
    assert!(world.objects().iter().all(|(name, _)| !name.contains("data") && !name.contains('#')));
    let secret = &contents[0][0][..64];
    for (name, content) in world.objects() {
        assert!(!content.windows(64).any(|window| window == secret), "{name} is not encrypted");
    }
}

#[tokio::test]
async fn owners_list_and_download_and_strangers_do_not() {
    let world = World::start().await;
    world.archive(1, None, b"data").await;
    let owner = world.archive_of(&world.owner);
    let list = owner.list(&world.program).await.unwrap();
    assert_eq!((list.sets.len(), list.sets[0].state), (1, SetState::Complete));
    assert_eq!(owner.set(&world.program, world.id(1)).await.unwrap(), list.sets[0]);
    let download = owner.download(&world.program, world.id(1), "data").await.unwrap();
    assert_eq!((download.bytes(), Some(download.sha256())), (Some(4), list.sets[0].volumes[0].sha256));
    let all: Vec<_> = download.into_stream().map(Result::unwrap).collect().await;
    assert_eq!(all.concat(), b"data");
    assert_eq!(code(owner.begin(&world.program, &world.draft(world.id(2), None)).await), ArchiveCode::NotAllowed);

    let stranger = world.archive_of(&std::sync::Arc::new(protocol::Account::generate()));
    assert_eq!(code(stranger.list(&world.program).await), ArchiveCode::NotAllowed);
    assert_eq!(code(stranger.set(&world.program, world.id(1)).await), ArchiveCode::NotAllowed);
    assert_eq!(code(stranger.download(&world.program, world.id(1), "data").await), ArchiveCode::NotAllowed);
    assert_eq!(code(stranger.begin(&world.program, &world.draft(world.id(2), None)).await), ArchiveCode::NotAllowed);
    assert_eq!(code(stranger.delete(&world.program, world.epoch, world.id(1)).await), ArchiveCode::NotAllowed);
    let (status, body) = world.mn.json(&format!("/api/v1/programs/{}/snapshots", world.program)).await;
    assert_eq!((status, body["code"].as_str()), (401, Some("bad_signature")), "{body}");
}

#[tokio::test]
async fn a_stream_that_is_not_what_was_sent_does_not_count() {
    let world = World::start().await;
    let (node, program, id) = (&world.node, &world.program, world.id(1));
    node.begin(program, &world.draft(id, None)).await.unwrap();
    let first = node.send(program, id, "data", chunks(b"data")).await.unwrap();
    assert_eq!(code(node.complete(program, id, vec![first.clone()]).await), ArchiveCode::Invalid, "one is not named");
    let mut odd = node.send(program, id, world::ODD_NAME, chunks(b"odd")).await.unwrap();
    let right = odd.clone();
    odd.sha256 = protocol::FileHash::of(b"other");
    assert_eq!(code(node.complete(program, id, vec![first.clone(), odd]).await), ArchiveCode::WrongDigest);
    let both = vec![first.clone(), right];
    assert_eq!(code(node.complete(program, id, both.clone()).await), ArchiveCode::Incomplete, "it was dropped");
    assert_eq!(node.list(program).await.unwrap().sets[0].state, SetState::Open);
    assert_eq!(code(node.download(program, id, "data").await), ArchiveCode::Incomplete);

    let failing = stream::iter([Ok(Bytes::from("od")), Err(std::io::Error::other("btrfs send failed"))]);
    let failed = node.send(program, id, world::ODD_NAME, failing).await.unwrap_err();
    assert!(matches!(&failed, ArchiveError::Source(e) if e.to_string().contains("btrfs send")), "{failed}");
    assert_eq!(code(node.complete(program, id, both.clone()).await), ArchiveCode::Incomplete);

    node.send(program, id, world::ODD_NAME, chunks(b"odd")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            node.complete(program, id, both.clone()).await.unwrap().state,
            SetState::Complete,
            "as often as asked"
        );
    }
    let other = vec![first, protocol::api::archive::SentStream { bytes: 9, ..both[1].clone() }];
    assert_eq!(code(node.complete(program, id, other).await), ArchiveCode::Duplicate);
    assert_eq!(code(node.send(program, id, "data", chunks(b"x")).await), ArchiveCode::Duplicate);
    assert_eq!(code(node.begin(program, &world.draft(id, None)).await), ArchiveCode::Duplicate);
}

#[tokio::test]
async fn drafts_that_make_no_sense_are_refused() {
    let world = World::start().await;
    let (node, program) = (&world.node, &world.program);
    let unknown = world.draft(world.id(2), Some(world.id(1)));
    assert_eq!(code(node.begin(program, &unknown).await), ArchiveCode::UnknownParent);
    let mut other = world.draft(world.id(1), None);
    other.volumes[0].size_mib += 1;
    assert_eq!(code(node.begin(program, &other).await), ArchiveCode::Invalid);
    assert_eq!(code(node.send(program, world.id(1), "data", chunks(b"x")).await), ArchiveCode::NotFound);
    assert_eq!(code(node.complete(program, world.id(1), Vec::new()).await), ArchiveCode::NotFound);
    assert_eq!(code(node.set(program, world.id(1)).await), ArchiveCode::NotFound);
    assert_eq!(code(node.download(program, world.id(1), "data").await), ArchiveCode::NotFound);
    assert_eq!(code(node.delete(program, world.epoch, world.id(1)).await), ArchiveCode::NotFound);
    node.begin(program, &world.draft(world.id(1), None)).await.unwrap();
    assert_eq!(code(node.send(program, world.id(1), "none", chunks(b"x")).await), ArchiveCode::NotFound);
    let nobody = protocol::ProgramId::from_bytes([9; 32]);
    assert_eq!(code(node.list(&nobody).await), ArchiveCode::NotFound);
    world.archive(1, None, b"data").await;
    assert_eq!(code(node.download(program, world.id(1), "none").await), ArchiveCode::NotFound);
}

#[tokio::test]
async fn bad_ids_and_bodies_are_refused() {
    let world = World::start().await;
    let base = format!("/api/v1/programs/{}/snapshots", world.program);
    for path in [
        "/api/v1/programs/..%2f..%2fx/snapshots".to_owned(),
        format!("{base}/3"),
        format!("{base}/..%2f1-1"),
        format!("{base}/1-9223372036854775808"),
        format!("{base}/1-1/volumes/data"),
    ] {
        let (status, body) = world.mn.json(&path).await;
        assert_eq!((status, body["code"].as_str()), (400, Some("bad_id")), "{path}: {body}");
    }
    assert_eq!(world.raw("POST", &base, "{}").await, (422, "invalid".to_owned()));
    let long = "x".repeat(5 << 20);
    assert_eq!(world.raw("POST", &base, &long).await, (413, "too_large".to_owned()));
    assert_eq!(world.raw("DELETE", &format!("{base}/1-1"), "").await, (422, "invalid".to_owned()));
}

#[tokio::test]
async fn programs_without_such_volumes_have_no_archive() {
    let world = World::start().await;
    let volumes = serde_json::json!([{"mount": "/d", "name": "data", "persistence": "host", "size_mib": 4}]);
    let program = world.publish_program(volumes).await;
    world.scheduler.assign(&program, world.node_id, world.epoch);
    assert_eq!(code(world.node.begin(&program, &world.draft(world.id(1), None)).await), ArchiveCode::Invalid);
    assert_eq!(world.node.list(&program).await.unwrap().quota_bytes, 0);
}
