//! What is stored is changed behind the node's back: it is noticed, and never taken for data.

use protocol::api::archive::{ArchiveCode, NextSet, SetState};

use super::world::{World, bytes_of, code};
use crate::support::{ON_POSTGRES, TestNode};

/// Both in one: a world with one set of this content.
async fn with_set(content: &[u8]) -> World {
    let world = World::start().await;
    world.archive(1, None, content).await;
    world
}

#[tokio::test]
async fn a_flipped_byte_is_an_error_and_never_data() {
    let content = bytes_of(1, 2_000_000);
    // In the first chunk it is known before the answer begins, later it cuts the stream off.
    for at in [100, 1_500_000] {
        let world = with_set(&content).await;
        let object = world.object_of(1, "data");
        let mut bytes = std::fs::read(&object).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&object, bytes).unwrap();
        let owner = world.archive_of(&world.owner);
        let mut got = Vec::new();
        let error = match owner.download(&world.program, world.id(1), "data").await {
            Err(error) => error,
            Ok(mut download) => loop {
                match download.chunk().await {
                    Ok(chunk) => got.extend_from_slice(&chunk.expect("it never ends as if it were whole")),
                    Err(error) => break error,
                }
            },
        };
        assert_eq!(error.code(), Some(ArchiveCode::Damaged), "{error}");
        assert!(error.to_string().contains("older"), "{error}");
        assert!(content.starts_with(&got) && got.len() < content.len());
        let list = owner.list(&world.program).await.unwrap();
        assert_eq!((list.sets[0].state, list.next), (SetState::Damaged, NextSet::Full));
        assert!(list.restore_chain().is_empty());
        let draft = world.draft(world.id(2), Some(world.id(1)));
        assert_eq!(code(world.node.begin(&world.program, &draft).await), ArchiveCode::UnknownParent);
        assert_eq!(world.get(&owner, 1, super::world::ODD_NAME).await.unwrap(), b"odd", "what is whole can be had");
    }
}

#[tokio::test]
async fn objects_cannot_stand_for_each_other() {
    let world = with_set(b"first").await;
    world.archive(2, None, b"other").await;
    let (one, two) = (world.object_of(1, "data"), world.object_of(2, "data"));
    std::fs::copy(&two, &one).unwrap();
    assert_eq!(code(world.get(&world.node, 1, "data").await), ArchiveCode::Damaged);
    assert_eq!(world.get(&world.node, 2, "data").await.unwrap(), b"other");
    std::fs::copy(world.object_of(2, super::world::ODD_NAME), &two).unwrap();
    assert_eq!(code(world.get(&world.node, 2, "data").await), ArchiveCode::Damaged, "another volume of the same set");
}

#[tokio::test]
async fn manifests_cannot_be_changed_swapped_or_missing() {
    let world = with_set(b"first").await;
    world.archive(2, None, b"other").await;
    let manifest = |sequence| world.snapshots().join(format!("{}/{}/manifest.json", world.program, world.id(sequence)));
    let right = std::fs::read_to_string(manifest(1)).unwrap();
    for wrong in [
        right.replace("\"size_mib\":4", "\"size_mib\":5"),
        std::fs::read_to_string(manifest(2)).unwrap(),
        "no manifest".to_owned(),
    ] {
        assert_ne!(right, wrong);
        std::fs::write(manifest(1), wrong).unwrap();
        assert_eq!(code(world.get(&world.node, 1, "data").await), ArchiveCode::Damaged);
    }
    std::fs::remove_file(manifest(1)).unwrap();
    assert_eq!(code(world.get(&world.node, 1, "data").await), ArchiveCode::Damaged);
    std::fs::write(manifest(1), right).unwrap();
    assert_eq!(world.get(&world.node, 1, "data").await.unwrap(), b"first");
    std::fs::remove_file(world.object_of(1, "data")).unwrap();
    assert_eq!(code(world.get(&world.node, 1, "data").await), ArchiveCode::Damaged);
}

#[tokio::test]
async fn a_lost_key_is_said_and_not_replaced() {
    let world = with_set(b"first").await;
    let key = world.mn.config().data_dir.join("snapshots.key");
    let saved = std::fs::read(&key).unwrap();
    let world = world.restarted(|_| std::fs::remove_file(&key).unwrap()).await;
    assert!(!key.exists(), "a new key would hide the loss");
    let error = world.get(&world.node, 1, "data").await.unwrap_err();
    assert_eq!(error.code(), Some(ArchiveCode::KeyLost));
    assert!(error.to_string().contains("snapshots.key"), "{error}");
    assert_eq!(code(world.node.begin(&world.program, &world.draft(world.id(2), None)).await), ArchiveCode::KeyLost);
    let list = world.node.list(&world.program).await.unwrap();
    assert_eq!((list.sets[0].state, list.next), (SetState::Unreadable, NextSet::Full));

    if ON_POSTGRES {
        // Other processes may have the right one: who has another does not start.
        let (config, folder) = world.mn.stop().await;
        std::fs::write(&key, [7; 32]).unwrap();
        let error = TestNode::launch(config, folder).await.err().unwrap().to_string();
        return assert!(error.contains("snapshots.key is not the key of this message node's archive"), "{error}");
    }
    // Another key: what comes is archived, what was there stays unreadable.
    let world = world.restarted(|_| std::fs::write(&key, [7; 32]).unwrap()).await;
    assert_eq!(code(world.get(&world.node, 1, "data").await), ArchiveCode::KeyLost);
    let draft = world.draft(world.id(2), Some(world.id(1)));
    assert_eq!(code(world.node.begin(&world.program, &draft).await), ArchiveCode::UnknownParent);
    world.archive(3, None, b"third").await;
    assert_eq!(world.get(&world.node, 3, "data").await.unwrap(), b"third");

    let world = world.restarted(|_| std::fs::write(&key, saved).unwrap()).await;
    assert_eq!(world.get(&world.node, 1, "data").await.unwrap(), b"first", "the right key is back");
    let (config, folder) = world.mn.stop().await;
    std::fs::write(&key, b"short").unwrap();
    let error = TestNode::launch(config, folder).await.err().unwrap();
    assert!(error.to_string().contains("snapshots.key"), "{error}");
}
