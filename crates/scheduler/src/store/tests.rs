//! Tests on real files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use protocol::{Address, Epoch, NodeId, ProgramId};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use super::history::Of;
use super::{Store, StoreError, writer};
use crate::core::{Cause, Event, Gone, ProgramSpec, Proof, Registration, Write};
use crate::engine::Input;
use crate::metrics::Metrics;

const WAIT: Duration = Duration::from_millis(5200);

fn program(number: u8) -> ProgramId {
    ProgramId::from_bytes([number; 32])
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn assign_at_least(number: u8, to: u8, at_least: u64) -> Write {
    let content = crate::core::tests::content(number.into(), 128).to_string();
    let spec = Arc::new(ProgramSpec::read(program(number), content).unwrap().unwrap());
    Write::Assign { spec, node: node(to), at_least: Epoch::new(at_least), at: DateTime::UNIX_EPOCH }
}

fn assign(number: u8, to: u8) -> Write {
    assign_at_least(number, to, 1)
}

fn close(number: u8, epoch: u64) -> Write {
    let (epoch, at) = (Epoch::new(epoch), DateTime::UNIX_EPOCH);
    Write::Close { program: program(number), epoch, cause: Cause::NodeSilent, proof: Proof::LeaseOver, at }
}

/// A database in a folder of its own, which can be opened again.
struct File {
    folder: TempDir,
    store: Store,
}

impl File {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("scheduler.sqlite")).await.unwrap();
        Self { folder, store }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("scheduler.sqlite")
    }

    /// Opens it as it would be found after a crash: what the connections still hold is not written out first.
    async fn after_crash(&self) -> (TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["scheduler.sqlite", "scheduler.sqlite-wal"] {
            std::fs::copy(self.folder.path().join(name), folder.path().join(name)).unwrap();
        }
        let store = Store::open(&folder.path().join("scheduler.sqlite")).await.unwrap();
        (folder, store)
    }

    async fn epoch_of(&self, write: Write) -> (NodeId, u64) {
        match &self.store.apply(&[write]).await.unwrap()[..] {
            [Event::Stored { node, epoch, .. }] => (*node, epoch.get()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn epochs_grow_by_one_and_skip_ahead_when_asked_to() {
    let file = File::new().await;
    assert_eq!(file.epoch_of(assign(1, 1)).await, (node(1), 1));
    file.store.apply(&[close(1, 1)]).await.unwrap();
    assert_eq!(file.epoch_of(assign(1, 2)).await, (node(2), 2));
    file.store.apply(&[close(1, 2)]).await.unwrap();
    assert_eq!(file.epoch_of(assign_at_least(1, 2, 50)).await, (node(2), 50));
    file.store.apply(&[close(1, 50)]).await.unwrap();
    assert_eq!(file.epoch_of(assign_at_least(1, 2, 7)).await, (node(2), 51), "and never go back");
    assert_eq!(file.epoch_of(assign(2, 1)).await, (node(1), 1), "each program counts by itself");
}

#[tokio::test]
async fn an_assignment_whose_answer_was_lost_is_the_answer() {
    let file = File::new().await;
    assert_eq!(file.epoch_of(assign(1, 1)).await, (node(1), 1));
    assert_eq!(file.epoch_of(assign(1, 2)).await, (node(1), 1));
}

#[tokio::test]
async fn the_schema_itself_allows_one_open_assignment() {
    let file = File::new().await;
    file.store.apply(&[assign(1, 1)]).await.unwrap();
    let second =
        sqlx::query("INSERT INTO assignments (program_id, epoch, node_id, assigned_at) VALUES ($1, 9, 'x', 0)")
            .bind(program(1).to_string())
            .execute(&file.store.writer)
            .await;
    assert!(second.unwrap_err().as_database_error().unwrap().is_unique_violation());
}

#[tokio::test]
async fn what_was_committed_survives_a_crash_and_what_was_not_leaves_no_trace() {
    let file = File::new().await;
    file.store.restore(WAIT).await.unwrap();
    file.store.apply(&[assign(1, 1), assign(2, 1)]).await.unwrap();
    file.store.apply(&[close(2, 1)]).await.unwrap();
    let tx = file.store.write().await.unwrap();
    let (_folder, crashed) = file.after_crash().await;
    drop(tx);
    let restored = crashed.restore(WAIT).await.unwrap();
    let open: Vec<_> = restored.assignments.iter().map(|a| (a.program, a.node, a.epoch.get())).collect();
    assert_eq!(open, [(program(1), node(1), 1)]);
    let mut programs: Vec<_> = restored.programs.iter().map(|(spec, epoch)| (spec.id, epoch.unwrap().get())).collect();
    programs.sort();
    assert_eq!(programs, [(program(1), 1), (program(2), 1)]);
    assert_eq!(restored.programs[0].0.needs.memory_mib, 128);
}

#[tokio::test]
async fn the_longest_lease_that_was_ever_granted_is_waited_for() {
    let file = File::new().await;
    let (short, long) = (Duration::from_secs(5), Duration::from_secs(30));
    let new = file.store.restore(long).await.unwrap();
    assert_eq!((new.earlier_wait, new.is_complete), (None, false), "a new database");
    assert_eq!(file.store.restore(short).await.unwrap().earlier_wait, Some(long));
    assert_eq!(file.store.restore(short).await.unwrap().earlier_wait, Some(long));
    assert!(!file.store.restore(short).await.unwrap().is_complete, "nobody has waited for a database before it yet");
    file.store.apply(&[Write::EarlierLeasesEnded { lease_wait: short }]).await.unwrap();
    let restored = file.store.restore(long).await.unwrap();
    assert_eq!((restored.earlier_wait, restored.is_complete), (Some(short), true));
    assert_eq!(file.store.restore(short).await.unwrap().earlier_wait, Some(long));
}

#[tokio::test]
async fn nodes_are_kept_and_dropped() {
    let file = File::new().await;
    let mut registration = Registration {
        node: node(1),
        name: "one".into(),
        owner: Address::new("0xabc"),
        manager: None,
        address: "http://one".into(),
        url: None,
    };
    file.store.apply(&[Write::Node(registration.clone())]).await.unwrap();
    registration.manager = Some(Address::new("0xdef"));
    registration.url = Some("http://elsewhere".into());
    file.store.apply(&[Write::Node(registration.clone())]).await.unwrap();
    assert_eq!(file.store.restore(WAIT).await.unwrap().nodes, [registration]);
    file.store.apply(&[Write::ForgetNode(node(1))]).await.unwrap();
    assert!(file.store.restore(WAIT).await.unwrap().nodes.is_empty());
}

#[tokio::test]
async fn forgetting_closes_what_a_lost_write_left_open() {
    let file = File::new().await;
    file.store.apply(&[assign(1, 1)]).await.unwrap();
    let forget = Write::Forget { program: program(1), cause: Gone::Forgotten, at: DateTime::UNIX_EPOCH };
    for _ in 0..2 {
        let answer = file.store.apply(std::slice::from_ref(&forget)).await.unwrap();
        assert!(matches!(answer[..], [Event::Forgotten { .. }]));
    }
    let restored = file.store.restore(WAIT).await.unwrap();
    assert!(restored.programs.is_empty() && restored.assignments.is_empty());
    assert_eq!(file.epoch_of(assign(1, 1)).await, (node(1), 2), "its epochs are not forgotten");
}

#[tokio::test]
async fn a_program_that_cannot_be_read_keeps_its_assignment() {
    let file = File::new().await;
    file.store.apply(&[assign(1, 1)]).await.unwrap();
    sqlx::query("UPDATE programs SET content = '{}'").execute(&file.store.writer).await.unwrap();
    let restored = file.store.restore(WAIT).await.unwrap();
    assert!(restored.programs[0].0.is_unknown());
    assert_eq!(restored.assignments.len(), 1);
}

#[tokio::test]
async fn histories_are_paged_newest_first() {
    let file = File::new().await;
    for epoch in 1..=5 {
        file.store.apply(&[assign(1, 1), close(1, epoch)]).await.unwrap();
    }
    let (records, total) = file.store.history(Of::Program(program(1)), 1, 2).await.unwrap();
    assert_eq!(total, 5);
    assert_eq!(records.iter().map(|record| record.epoch.get()).collect::<Vec<_>>(), [4, 3]);
    assert_eq!((records[0].cause.as_deref(), records[0].proof.as_deref()), (Some("node_silent"), Some("lease_over")));
    assert_eq!(file.store.history(Of::Node(node(1)), 0, 200).await.unwrap().0.len(), 5);
    assert_eq!(file.store.history(Of::Node(node(2)), 0, 200).await.unwrap(), (vec![], 0));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler.sqlite");
    std::fs::write(&path, "this is no database, and it is long enough to be looked at".repeat(20)).unwrap();
    assert!(Store::open(&path).await.is_err());
}

/// Runs the writer over these writes and returns its answers and what it says about the database.
async fn written(store: &Store, writes: Vec<Write>) -> (Vec<Event>, Option<String>) {
    let (queue, queued) = mpsc::unbounded_channel();
    let (answers, mut answered) = mpsc::channel(100);
    let (health, healthy) = watch::channel(None);
    for write in writes {
        queue.send(write).unwrap();
    }
    drop(queue);
    writer::run(store.clone(), queued, answers, health, Arc::new(Metrics::new())).await;
    let mut events = Vec::new();
    while let Ok(Input::Event(event)) = answered.try_recv() {
        events.push(event);
    }
    let health = healthy.borrow().clone();
    (events, health)
}

#[tokio::test]
async fn writes_are_answered_in_order() {
    let file = File::new().await;
    let (events, health) = written(&file.store, vec![assign(1, 1), close(1, 1), assign(1, 2), assign(2, 1)]).await;
    let epochs: Vec<_> = events
        .iter()
        .map(|event| match event {
            Event::Stored { epoch, .. } | Event::Closed { epoch, .. } => epoch.get(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((epochs, health), (vec![1, 1, 2, 1], None));
}

#[tokio::test]
async fn a_write_that_the_schema_forbids_fails_alone() {
    let file = File::new().await;
    sqlx::query("CREATE UNIQUE INDEX one_per_node ON assignments (node_id)").execute(&file.store.writer).await.unwrap();
    let (events, health) = written(&file.store, vec![assign(1, 1), assign(2, 1), assign(3, 2)]).await;
    assert!(
        matches!(events[..], [Event::Stored { .. }, Event::StoreFailed { program: failed }, Event::Stored { .. }]
            if failed == program(2)),
        "{events:?}"
    );
    assert!(health.unwrap().contains("UNIQUE"));
}

#[tokio::test]
async fn a_database_that_takes_no_writes_fails_them_all() {
    let file = File::new().await;
    sqlx::query("PRAGMA query_only = ON").execute(&file.store.writer).await.unwrap();
    let (events, health) = written(&file.store, vec![assign(1, 1), assign(2, 1)]).await;
    assert!(matches!(events[..], [Event::StoreFailed { .. }, Event::StoreFailed { .. }]), "{events:?}");
    assert!(health.unwrap().contains("readonly"));
    sqlx::query("PRAGMA query_only = OFF").execute(&file.store.writer).await.unwrap();
    let (events, health) = written(&file.store, vec![assign(1, 1)]).await;
    assert!(matches!(events[..], [Event::Stored { .. }]) && health.is_none());
}

#[tokio::test]
async fn readers_cannot_write() {
    let file = File::new().await;
    let mut reader = file.store.read().await.unwrap();
    let written = sqlx::query("DELETE FROM epochs").execute(&mut *reader).await;
    assert!(written.is_err());
    assert!(file.path().exists());
    let error = StoreError::from(written.unwrap_err());
    assert!(error.to_string().starts_with("the database failed"));
}
