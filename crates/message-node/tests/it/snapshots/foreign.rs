//! A program that starts with what another one of its owner wrote: what its node may read, and for how long.

use std::sync::Arc;

use protocol::api::archive::ArchiveCode;
use protocol::client::Archive;
use protocol::signed_request::RequestSigner;
use protocol::{Account, Epoch, NodeId, ProgramId};
use serde_json::json;

use super::world::{World, code};
use crate::support::{eventually, persistent, program, with};

/// A world whose program has three sets, the third of them full, and another node with another program of the same owner that
/// shall start with the second.
struct Both {
    world: World,
    other: ProgramId,
    node_id: NodeId,
    node: Archive,
}

const EPOCH: Epoch = Epoch::new(8);

async fn both() -> Both {
    let world = World::start().await;
    world.archive(1, None, b"full").await;
    world.archive(2, Some(1), b"difference").await;
    world.archive(3, None, b"newest").await;
    let volumes = json!([{"mount": "/old", "name": "data", "persistence": "store", "size_mib": 4}]);
    let other = world.publish_program(volumes).await;
    let (node_id, node) = world.other_node().await;
    let node = node.on_behalf_of(other);
    world.scheduler.assign_with(&other, node_id, EPOCH, (world.program, world.id(2)));
    Both { world, other, node_id, node }
}

#[tokio::test]
async fn its_node_reads_the_set_that_it_starts_with_and_what_that_builds_on() {
    let Both { world, other, node, .. } = both().await;
    let list = node.list(&world.program).await.unwrap();
    assert_eq!(list.sets.iter().map(|set| set.id).collect::<Vec<_>>(), [world.id(1), world.id(2)]);
    assert!(list.chain_of(world.id(2)).is_some());
    assert_eq!(world.get(&node, 1, "data").await.unwrap(), b"full");
    assert_eq!(world.get(&node, 2, "data").await.unwrap(), b"difference");
    assert_eq!(node.set(&world.program, world.id(2)).await.unwrap().id, world.id(2));
    assert_eq!(code(node.set(&world.program, world.id(3)).await), ArchiveCode::NotFound);
    assert_eq!(code(node.download(&world.program, world.id(3), "data").await), ArchiveCode::NotFound);
    // It writes nothing there, and does not end the epoch of whoever does.
    assert_eq!(code(node.begin(&world.program, &world.draft(world.id(4), None)).await), ArchiveCode::NotAllowed);
    world.archive(4, Some(3), b"it goes on").await;
    // For its own program nobody goes on in an earlier epoch from now on.
    world.scheduler.assign(&other, world.node_id, Epoch::new(7));
    eventually(async || {
        let error = world.node.list(&other).await.err()?;
        (error.code() == Some(ArchiveCode::StaleEpoch)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nobody_else_reads_it_and_nothing_else_is_read() {
    let Both { world, other, node_id, node } = both().await;
    let plain = world.other_node().await.1;
    assert_eq!(code(plain.on_behalf_of(other).list(&world.program).await), ArchiveCode::NotAllowed, "not its node");
    let (path, now) = (format!("/api/v1/programs/{}/snapshots", world.program), chrono::Utc::now());
    let headers = RequestSigner::new(&world.node_account, "127.0.0.1", now).headers("GET", &path, now);
    let answer = world.with_headers("GET", &format!("{path}?for=mine"), &headers, "").await;
    assert_eq!(answer, (400, "bad_id".to_owned()));
    // A program that starts with something else, or in its next epoch with what it has.
    let elsewhere = world.publish_program(json!([])).await;
    world.scheduler.assign(&elsewhere, node_id, EPOCH);
    let error = node.on_behalf_of(elsewhere).list(&world.program).await.unwrap_err();
    assert!(error.to_string().contains("does not say that"), "{error}");
    node.list(&world.program).await.unwrap();
    world.scheduler.assign(&other, node_id, EPOCH.next());
    eventually(async || {
        // What the scheduler said before is good for a few seconds.
        let error = node.list(&world.program).await.err()?;
        (error.code() == Some(ArchiveCode::NotAllowed)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn programs_of_other_owners_get_nothing_whatever_the_scheduler_says() {
    let Both { world, node_id, node, .. } = both().await;
    let stranger = Arc::new(Account::generate());
    let file = world.mn.publish(&stranger, b"code").await;
    let theirs = world.mn.accept(&program(&stranger, &file, &file, with(persistent(), json!({})))).await;
    let theirs: ProgramId = theirs.parse().unwrap();
    world.scheduler.assign_with(&theirs, node_id, EPOCH, (world.program, world.id(2)));
    let error = node.on_behalf_of(theirs).list(&world.program).await.unwrap_err();
    assert_eq!(error.code(), Some(ArchiveCode::NotFound));
    assert!(error.to_string().contains("another owner"), "{error}");
}

#[tokio::test]
async fn a_forgotten_program_is_read_until_its_retention_is_over() {
    let Both { world, node, .. } = both().await;
    let forget = crate::support::forget(&world.owner, &[&world.program.to_string()]);
    world.mn.accept(&forget).await;
    assert_eq!(world.get(&node, 2, "data").await.unwrap(), b"difference");
}
