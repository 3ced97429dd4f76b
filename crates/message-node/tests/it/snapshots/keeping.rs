//! What stays and what goes: interrupted sets, deletion, quota, retention, programs that are over.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use protocol::api::archive::{ArchiveCode, SetState};
use serde_json::json;

use super::world::{World, bytes_of, chunks, code};
use crate::support::*;

#[tokio::test]
async fn a_restart_in_the_middle_of_a_set_leaves_nothing_that_counts() {
    let world = World::start().await;
    let (program, id) = (world.program, world.id(1));
    world.node.begin(&program, &world.draft(id, None)).await.unwrap();
    world.node.send(&program, id, "data", chunks(b"data")).await.unwrap();
    // A stream that never ends, and a message node that ends in the middle of it.
    let endless = stream::iter([Ok(Bytes::from(bytes_of(1, 3_000_000)))]).chain(stream::pending());
    let node = world.node.clone();
    let sending = tokio::spawn(async move { node.send(&program, id, super::world::ODD_NAME, endless).await });
    eventually(async || world.objects().iter().any(|(name, _)| name.contains('#')).then_some(())).await;
    let world = world.killed().await;
    let error = sending.await.unwrap().unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(world.objects().iter().all(|(name, _)| !name.contains('#') && !name.contains("manifest")));
    let list = world.node.list(&program).await.unwrap();
    assert_eq!(list.sets[0].state, SetState::Open);
    assert!(list.restore_chain().is_empty());
    // Begun anew it can be completed, and nothing is left of the first attempt.
    world.archive(1, None, b"again").await;
    assert_eq!(world.get(&world.node, 1, "data").await.unwrap(), b"again");
    assert_eq!(world.objects().len(), 3, "two streams and a manifest");
}

#[tokio::test]
async fn sets_that_are_never_completed_go() {
    let world = World::start().await;
    let done = world.archive(1, None, b"data").await;
    world.node.begin(&world.program, &world.draft(world.id(2), Some(done))).await.unwrap();
    world.node.send(&world.program, world.id(2), "data", chunks(b"data")).await.unwrap();
    let world = world
        .restarted(|config| {
            config.archive.incomplete = Duration::ZERO;
        })
        .await;
    let list = eventually(async || {
        let list = world.node.list(&world.program).await.unwrap();
        (list.sets.len() == 1 && world.objects().len() == 3).then_some(list)
    })
    .await;
    assert_eq!(list.sets[0].id, done);
}

#[tokio::test]
async fn what_others_build_on_is_not_deleted() {
    let world = World::start().await;
    let (program, epoch) = (&world.program, world.epoch);
    for (sequence, parent) in [(1, None), (2, Some(1)), (3, Some(2))] {
        world.archive(sequence, parent, b"data").await;
    }
    for sequence in [1, 2] {
        let error = world.node.delete(program, epoch, world.id(sequence)).await.unwrap_err();
        assert_eq!(error.code(), Some(ArchiveCode::Needed));
        assert!(error.to_string().contains(&world.id(sequence + 1).to_string()), "{error}");
    }
    for sequence in [3, 2, 1] {
        world.node.delete(program, epoch, world.id(sequence)).await.unwrap();
        assert_eq!(code(world.node.set(program, world.id(sequence)).await), ArchiveCode::NotFound);
    }
    assert!(world.objects().is_empty());
}

#[tokio::test]
async fn streams_have_a_longest_length_and_programs_a_quota() {
    let world = World::start().await;
    let (node, program) = (&world.node, &world.program);
    node.begin(program, &world.draft(world.id(1), None)).await.unwrap();
    // The volume has 1 MiB: twice that and 16 MiB more is the most; the quota is 20 MiB.
    let long = bytes_of(1, (18 << 20) + 1);
    let error = node.send(program, world.id(1), super::world::ODD_NAME, chunks(&long)).await;
    assert_eq!(code(error), ArchiveCode::TooLarge);
    node.send(program, world.id(1), "data", chunks(&long)).await.unwrap();
    let error = node.send(program, world.id(1), super::world::ODD_NAME, chunks(&long[..2 << 20])).await.unwrap_err();
    assert_eq!(error.code(), Some(ArchiveCode::Quota));
    assert!(error.to_string().contains(&(20 << 20).to_string()), "{error}");
    assert_eq!(world.objects().len(), 1, "nothing is left of what was refused");
    // Sent again, the same volume replaces what is there.
    node.send(program, world.id(1), "data", chunks(b"short")).await.unwrap();
    assert_eq!(world.objects().len(), 1);

    let tight = World::with(|config| config.archive.quota = 0).await;
    let draft = tight.draft(tight.id(1), None);
    assert_eq!(code(tight.node.begin(&tight.program, &draft).await), ArchiveCode::Quota);
}

#[tokio::test]
async fn older_sets_make_room_for_newer_ones() {
    let world = World::start().await;
    // Of 20 MiB, 12 may stay: the next full set may be a little larger than the newest.
    for sequence in 1..=3 {
        let large = bytes_of(sequence, 7 << 20);
        // An earlier one is removed in the background, and the next needs its room.
        let id = world.id(sequence);
        eventually(async || world.node.begin(&world.program, &world.draft(id, None)).await.ok()).await;
        eventually(async || world.node.send(&world.program, id, "data", chunks(&large)).await.ok()).await;
        world.fill(&world.node, id, &large, b"odd").await;
        eventually(async || (world.node.list(&world.program).await.unwrap().bytes <= 12 << 20).then_some(())).await;
    }
    let list = world.node.list(&world.program).await.unwrap();
    assert_eq!(list.sets.last().unwrap().id, world.id(3));
    assert!(list.sets.iter().all(|set| set.id != world.id(1)));
    assert_eq!(world.get(&world.node, 3, "data").await.unwrap(), bytes_of(3, 7 << 20));
}

#[tokio::test]
async fn a_forgotten_program_keeps_its_archive_for_a_while_for_its_owner() {
    let world = World::start().await;
    world.archive(1, None, b"data").await;
    world.mn.accept(&forget(&world.owner, &[&world.program.to_string()])).await;
    let draft = world.draft(world.id(2), None);
    assert_eq!(code(world.node.begin(&world.program, &draft).await), ArchiveCode::Gone);
    let world = world.restarted(|_| ()).await;
    let owner = world.archive_of(&world.owner);
    assert_eq!(owner.list(&world.program).await.unwrap().quota_bytes, 0);
    assert_eq!(world.get(&owner, 1, "data").await.unwrap(), b"data");

    let world = world
        .restarted(|config| {
            config.archive.retention = Duration::ZERO;
        })
        .await;
    eventually(async || world.objects().is_empty().then_some(())).await;
    let owner = world.archive_of(&world.owner);
    eventually(async || owner.list(&world.program).await.unwrap().sets.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_program_that_is_in_force_keeps_its_archive() {
    let world = World::start().await;
    world.archive(1, None, b"data").await;
    let world = world
        .restarted(|config| {
            config.archive.retention = Duration::ZERO;
            config.archive.incomplete = Duration::ZERO;
            config.archive.collect_every = Duration::from_millis(10);
        })
        .await;
    // A set of another program is removed by the same collector, later than this one was looked at.
    let volumes = json!([{"mount": "/data", "name": "data", "persistence": "store", "size_mib": 4},
                         {"mount": "/odd", "name": super::world::ODD_NAME, "persistence": "store", "size_mib": 1}]);
    let other = world.publish_program(volumes).await;
    world.scheduler.assign(&other, world.node_id, world.epoch);
    world.node.begin(&other, &world.draft(world.id(1), None)).await.unwrap();
    eventually(async || world.node.list(&other).await.unwrap().sets.is_empty().then_some(())).await;
    assert_eq!(world.get(&world.node, 1, "data").await.unwrap(), b"data");
}

#[tokio::test]
async fn a_place_that_cannot_be_used_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = aleph_message_node::Config::new(address, folder.path().join("data"));
    config.archive.place = Some(file.to_str().unwrap().parse().unwrap());
    let error = TestNode::launch(config, None).await.err().unwrap();
    assert!(error.to_string().contains("--snapshots"), "{error}");
}
