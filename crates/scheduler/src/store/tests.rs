//! Tests on real files.

mod data;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aleph_tests::Postgres;
use chrono::DateTime;
use protocol::history::{Fact, Stated, Statement, Trust, verify};
use protocol::operation::{Operation, SignedOrder};
use protocol::{Account, Address, Epoch, NodeId, ProgramId};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::history::Of;
use super::{Database, Led, Store, StoreError, writer};
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
    let (node, at_least, at) = (node(to), Epoch::new(at_least), DateTime::UNIX_EPOCH);
    Write::Assign { spec, node, at_least, start: None, loss: None, at }
}

fn assign(number: u8, to: u8) -> Write {
    assign_at_least(number, to, 1)
}

fn close(number: u8, epoch: u64) -> Write {
    let (epoch, at) = (Epoch::new(epoch), DateTime::UNIX_EPOCH);
    Write::Close { program: program(number), epoch, cause: Cause::NodeSilent, proof: Proof::LeaseOver, at }
}

/// A new database, and its leader.
struct Fixture {
    folder: TempDir,
    store: Store,
    led: Led,
    account: Arc<Account>,
}

impl Fixture {
    /// A file, and a database of a PostgreSQL server: what holds for one, holds for the other.
    async fn each() -> [Self; 2] {
        [Self::file().await, Self::server().await]
    }

    async fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::Sqlite(folder.path().join("scheduler.sqlite"));
        Self::open(folder, &database).await
    }

    async fn server() -> Self {
        let url = tokio::task::spawn_blocking(|| Postgres::shared().database()).await.unwrap();
        Self::open(tempfile::tempdir().unwrap(), &Database::Postgres(url.parse().unwrap())).await
    }

    async fn open(folder: TempDir, database: &Database) -> Self {
        let store = Store::open(database).await.unwrap();
        let account = Arc::new(Account::generate());
        let led = store.claim_alone("http://here", &account).await.unwrap();
        Self { folder, store, led, account }
    }

    /// Opens a file as it would be found after a crash: what the connections still hold is not written out first.
    async fn after_crash(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["scheduler.sqlite", "scheduler.sqlite-wal"] {
            std::fs::copy(self.folder.path().join(name), folder.path().join(name)).unwrap();
        }
        let database = Database::Sqlite(folder.path().join("scheduler.sqlite"));
        Self::open(folder, &database).await
    }

    async fn epoch_of(&self, write: Write) -> (NodeId, u64) {
        match &self.led.apply(&[write]).await.unwrap()[..] {
            [Event::Stored { node, epoch, .. }] => (*node, epoch.get()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn epochs_grow_by_one_and_skip_ahead_when_asked_to() {
    for file in Fixture::each().await {
        assert_eq!(file.epoch_of(assign(1, 1)).await, (node(1), 1));
        file.led.apply(&[close(1, 1)]).await.unwrap();
        assert_eq!(file.epoch_of(assign(1, 2)).await, (node(2), 2));
        file.led.apply(&[close(1, 2)]).await.unwrap();
        assert_eq!(file.epoch_of(assign_at_least(1, 2, 50)).await, (node(2), 50));
        file.led.apply(&[close(1, 50)]).await.unwrap();
        assert_eq!(file.epoch_of(assign_at_least(1, 2, 7)).await, (node(2), 51), "and never go back");
        assert_eq!(file.epoch_of(assign(2, 1)).await, (node(1), 1), "each program counts by itself");
    }
}

#[tokio::test]
async fn an_assignment_whose_answer_was_lost_is_the_answer() {
    for file in Fixture::each().await {
        assert_eq!(file.epoch_of(assign(1, 1)).await, (node(1), 1));
        assert_eq!(file.epoch_of(assign(1, 2)).await, (node(1), 1));
    }
}

#[tokio::test]
async fn the_schema_itself_allows_one_open_assignment() {
    for file in Fixture::each().await {
        file.led.apply(&[assign(1, 1)]).await.unwrap();
        let second =
            sqlx::query("INSERT INTO assignments (program_id, epoch, node_id, assigned_at) VALUES ($1, 9, 'x', 0)")
                .bind(program(1).to_string())
                .execute(&file.store.writer)
                .await;
        assert!(second.unwrap_err().as_database_error().unwrap().is_unique_violation());
    }
}

#[tokio::test]
async fn what_was_committed_survives_a_crash_and_what_was_not_leaves_no_trace() {
    let file = Fixture::file().await;
    file.led.restore(WAIT).await.unwrap();
    file.led.apply(&[assign(1, 1), assign(2, 1)]).await.unwrap();
    file.led.apply(&[close(2, 1)]).await.unwrap();
    let tx = file.led.write().await.unwrap();
    let crashed = file.after_crash().await;
    drop(tx);
    let restored = crashed.led.restore(WAIT).await.unwrap();
    let open = restored.assignments.iter().map(|open| (open.writer.program, open.writer.node, open.writer.epoch.get()));
    assert_eq!(open.collect::<Vec<_>>(), [(program(1), node(1), 1)]);
    let mut programs: Vec<_> = restored.programs.iter().map(|(spec, epoch)| (spec.id, epoch.unwrap().get())).collect();
    programs.sort();
    assert_eq!(programs, [(program(1), 1), (program(2), 1)]);
    assert_eq!(restored.programs[0].0.needs.memory_mib, 128);
}

#[tokio::test]
async fn the_longest_lease_that_was_ever_granted_is_waited_for() {
    for file in Fixture::each().await {
        let (short, long) = (Duration::from_secs(5), Duration::from_secs(30));
        let new = file.led.restore(long).await.unwrap();
        assert_eq!((new.earlier_wait, new.is_complete), (None, false), "a new database");
        assert_eq!(file.led.restore(short).await.unwrap().earlier_wait, Some(long));
        assert_eq!(file.led.restore(short).await.unwrap().earlier_wait, Some(long));
        assert!(!file.led.restore(short).await.unwrap().is_complete, "nobody has waited for a database before it yet");
        file.led.apply(&[Write::EarlierLeasesEnded { lease_wait: short }]).await.unwrap();
        let restored = file.led.restore(long).await.unwrap();
        assert_eq!((restored.earlier_wait, restored.is_complete), (Some(short), true));
        assert_eq!(file.led.restore(short).await.unwrap().earlier_wait, Some(long));
    }
}

#[tokio::test]
async fn nodes_are_kept_and_dropped() {
    for file in Fixture::each().await {
        let mut registration = Registration {
            node: node(1),
            name: "one".into(),
            owner: Address::new("0xabc"),
            manager: None,
            address: "http://one".into(),
            url: None,
        };
        file.led.apply(&[Write::Node(registration.clone())]).await.unwrap();
        registration.manager = Some(Address::new("0xdef"));
        registration.url = Some("http://elsewhere".into());
        file.led.apply(&[Write::Node(registration.clone())]).await.unwrap();
        assert_eq!(file.led.restore(WAIT).await.unwrap().nodes, [registration]);
        file.led.apply(&[Write::ForgetNode(node(1))]).await.unwrap();
        assert!(file.led.restore(WAIT).await.unwrap().nodes.is_empty());
    }
}

#[tokio::test]
async fn forgetting_closes_what_a_lost_write_left_open() {
    for file in Fixture::each().await {
        file.led.apply(&[assign(1, 1)]).await.unwrap();
        let forget = Write::Forget { program: program(1), cause: Gone::Forgotten, at: DateTime::UNIX_EPOCH };
        for _ in 0..2 {
            let answer = file.led.apply(std::slice::from_ref(&forget)).await.unwrap();
            assert!(matches!(answer[..], [Event::Forgotten { .. }]));
        }
        let restored = file.led.restore(WAIT).await.unwrap();
        assert!(restored.programs.is_empty() && restored.assignments.is_empty());
        assert_eq!(file.epoch_of(assign(1, 1)).await, (node(1), 2), "its epochs are not forgotten");
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_read_keeps_its_assignment() {
    for file in Fixture::each().await {
        file.led.apply(&[assign(1, 1)]).await.unwrap();
        sqlx::query("UPDATE programs SET content = '{}'").execute(&file.store.writer).await.unwrap();
        let restored = file.led.restore(WAIT).await.unwrap();
        assert!(restored.programs[0].0.is_unknown());
        assert_eq!(restored.assignments.len(), 1);
    }
}

#[tokio::test]
async fn histories_are_paged_newest_first() {
    for file in Fixture::each().await {
        for epoch in 1..=5 {
            file.led.apply(&[assign(1, 1), close(1, epoch)]).await.unwrap();
        }
        let (records, total) = file.store.history(Of::Program(program(1)), 1, 2).await.unwrap();
        assert_eq!(total, 5);
        assert_eq!(records.iter().map(|record| record.epoch.get()).collect::<Vec<_>>(), [4, 3]);
        assert_eq!(
            (records[0].cause.as_deref(), records[0].proof.as_deref()),
            (Some("node_silent"), Some("lease_over"))
        );
        assert_eq!(file.store.history(Of::Node(node(1)), 0, 200).await.unwrap().0.len(), 5);
        assert_eq!(file.store.history(Of::Node(node(2)), 0, 200).await.unwrap(), (vec![], 0));
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler.sqlite");
    std::fs::write(&path, "this is no database, and it is long enough to be looked at".repeat(20)).unwrap();
    assert!(Store::open(&Database::Sqlite(path)).await.is_err());
}

/// Runs the writer over these writes and returns its answers and what it says about the database.
async fn written(store: &Led, writes: Vec<Write>) -> (Vec<Event>, Option<String>) {
    let (queue, queued) = mpsc::unbounded_channel();
    let (answers, mut answered) = mpsc::channel(100);
    let (health, healthy) = watch::channel(None);
    for write in writes {
        queue.send(write).unwrap();
    }
    drop(queue);
    let deposed = CancellationToken::new();
    writer::run(store.clone(), queued, answers, health, deposed, Arc::new(Metrics::new())).await;
    let mut events = Vec::new();
    while let Ok(Input::Event(event)) = answered.try_recv() {
        events.push(event);
    }
    let health = healthy.borrow().clone();
    (events, health)
}

#[tokio::test]
async fn writes_are_answered_in_order() {
    for file in Fixture::each().await {
        let (events, health) = written(&file.led, vec![assign(1, 1), close(1, 1), assign(1, 2), assign(2, 1)]).await;
        let epochs: Vec<_> = events
            .iter()
            .map(|event| match event {
                Event::Stored { epoch, .. } | Event::Closed { epoch, .. } => epoch.get(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!((epochs, health), (vec![1, 1, 2, 1], None));
    }
}

#[tokio::test]
async fn a_write_that_the_schema_forbids_fails_alone() {
    for file in Fixture::each().await {
        sqlx::query("CREATE UNIQUE INDEX one_per_node ON assignments (node_id)")
            .execute(&file.store.writer)
            .await
            .unwrap();
        let (events, health) = written(&file.led, vec![assign(1, 1), assign(2, 1), assign(3, 2)]).await;
        assert!(
            matches!(events[..], [Event::Stored { .. }, Event::StoreFailed { program: failed }, Event::Stored { .. }]
            if failed == program(2)),
            "{events:?}"
        );
        assert!(health.unwrap().to_lowercase().contains("unique"));
    }
}

#[tokio::test]
async fn a_database_that_takes_no_writes_fails_them_all() {
    let file = Fixture::file().await;
    sqlx::query("PRAGMA query_only = ON").execute(&file.store.writer).await.unwrap();
    let (events, health) = written(&file.led, vec![assign(1, 1), assign(2, 1)]).await;
    assert!(matches!(events[..], [Event::StoreFailed { .. }, Event::StoreFailed { .. }]), "{events:?}");
    assert!(health.unwrap().contains("readonly"));
    sqlx::query("PRAGMA query_only = OFF").execute(&file.store.writer).await.unwrap();
    let (events, health) = written(&file.led, vec![assign(1, 1)]).await;
    assert!(matches!(events[..], [Event::Stored { .. }]) && health.is_none());
}

#[tokio::test]
async fn readers_cannot_write() {
    for file in Fixture::each().await {
        let mut reader = file.store.read().await.unwrap();
        let written = sqlx::query("DELETE FROM epochs").execute(&mut *reader).await;
        assert!(written.is_err());
        let error = StoreError::from(written.unwrap_err());
        assert!(error.to_string().starts_with("the database failed"));
    }
}

#[tokio::test]
async fn one_scheduler_leads_and_a_deposed_one_cannot_write() {
    for file in Fixture::each().await {
        let first = &file.led;
        first.apply(&[assign(1, 1)]).await.unwrap();
        let seen = file.store.leader().await.unwrap().unwrap();
        assert!(first.beat().await.unwrap());
        let late = file.store.claim(Some(&seen), "http://there").await.unwrap();
        assert_eq!(late, None, "it beat in between");
        let seen = file.store.leader().await.unwrap().unwrap();
        let epoch = file.store.claim(Some(&seen), "http://there").await.unwrap().unwrap();
        assert!(epoch > seen.epoch);
        let second = file.store.led(epoch, file.account.clone());
        assert!(!first.beat().await.unwrap());
        assert!(!first.resign().await.unwrap(), "it cannot step down for another");
        assert!(matches!(first.apply(&[assign(2, 1)]).await, Err(StoreError::Deposed)));
        assert!(matches!(first.restore(WAIT).await, Err(StoreError::Deposed)));
        let restored = second.restore(WAIT).await.unwrap();
        assert_eq!(restored.assignments.len(), 1, "what the first one wrote before, and nothing else");
        second.apply(&[close(1, 1), assign(1, 2)]).await.unwrap();
        assert!(second.resign().await.unwrap());
        let row = file.store.leader().await.unwrap().unwrap();
        assert!(row.has_resigned && row.url == "http://there");
    }
}

#[tokio::test]
async fn of_many_that_claim_at_once_one_leads() {
    for file in Fixture::each().await {
        let seen = file.store.leader().await.unwrap();
        let claims = (0..16).map(|_| file.store.claim(seen.as_ref(), "http://me"));
        let won = futures_util::future::join_all(claims).await;
        assert_eq!(won.iter().filter(|claim| matches!(claim, Ok(Some(_)))).count(), 1, "{won:?}");
    }
}

#[tokio::test]
async fn a_transaction_of_the_leader_ends_before_another_takes_over() {
    let server = Fixture::server().await;
    let tx = server.led.write().await.unwrap();
    let seen = server.store.leader().await.unwrap();
    let mut claim = tokio::spawn({
        let store = server.store.clone();
        async move { store.claim(seen.as_ref(), "http://there").await }
    });
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut claim).await.is_err(), "it waits");
    tx.commit().await.unwrap();
    assert!(claim.await.unwrap().unwrap().is_some());
}

#[tokio::test]
async fn a_writer_that_was_deposed_says_so() {
    for file in Fixture::each().await {
        file.store.claim_alone("http://there", &file.account).await.unwrap();
        let (queue, queued) = mpsc::unbounded_channel();
        queue.send(assign(1, 1)).unwrap();
        drop(queue);
        let deposed = CancellationToken::new();
        let (answers, _answered) = mpsc::channel(100);
        let health = watch::Sender::new(None);
        writer::run(file.led.clone(), queued, answers, health, deposed.clone(), Arc::new(Metrics::new())).await;
        assert!(deposed.is_cancelled());
    }
}

async fn order(led: &Led, by: &Account, operation: Operation) -> bool {
    let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
    let scheduler = Account::generate().address().clone();
    let signed = SignedOrder::new(by, scheduler.clone(), now, operation);
    let (order, by) = signed.read(&scheduler, now).unwrap();
    led.record(&order, &signed, &by, now).await.unwrap() && !led.record(&order, &signed, &by, now).await.unwrap()
}

#[tokio::test]
async fn moves_are_remembered_until_they_are_over() {
    for file in Fixture::each().await {
        let (led, owner) = (&file.led, Account::generate());
        led.apply(&[assign(1, 1), assign(2, 1), assign(3, 1)]).await.unwrap();
        for number in 1..=4 {
            let operation = Operation::Move { program: program(number), to: None };
            assert!(order(led, &owner, operation).await, "each order is taken once");
        }
        assert!(order(led, &owner, Operation::Move { program: program(1), to: Some(node(2)) }).await);
        let moves = async || {
            let moves = led.restore(WAIT).await.unwrap().moves;
            moves.into_iter().map(|asked| (asked.program, asked)).collect::<BTreeMap<_, _>>()
        };
        let remembered = moves().await;
        assert_eq!(remembered.len(), 3, "the fourth program runs nowhere");
        let first = &remembered[&program(1)];
        assert_eq!(
            (first.from, first.to, &first.by),
            (node(1), Some(node(2)), owner.address()),
            "the last order counts"
        );
        assert!(order(led, &owner, Operation::CancelMove { program: program(1) }).await);
        let forget = Write::Forget { program: program(2), cause: Gone::Forgotten, at: DateTime::UNIX_EPOCH };
        let over = |ordered| Write::MoveOver { program: program(3), ordered };
        led.apply(&[forget, over(DateTime::UNIX_EPOCH)]).await.unwrap();
        assert_eq!(moves().await.len(), 1, "an order before that is over");
        led.apply(&[over(remembered[&program(3)].at)]).await.unwrap();
        assert!(moves().await.is_empty());
    }
}

#[tokio::test]
async fn what_a_node_stated_of_an_open_assignment_is_known_after_a_restart() {
    for file in Fixture::each().await {
        let one = Account::generate();
        let writes = [assign(1, 1), states(&one, 1, 1, 1, Stated::Started), assign(2, 1), assign(3, 1)];
        file.led.apply(&writes).await.unwrap();
        file.led.apply(&[states(&one, 3, 1, 1, Stated::Ready), close(3, 1), assign(3, 2)]).await.unwrap();
        let open = file.led.restore(WAIT).await.unwrap().assignments;
        let seen: Vec<_> = open.iter().filter(|open| open.was_seen).map(|open| open.writer.program).collect();
        assert_eq!((open.len(), seen), (3, vec![program(1)]));
    }
}

/// A record of what a node states.
fn states(by: &Account, number: u8, at: u8, epoch: u64, stated: Stated) -> Write {
    let (program, node, epoch, time) = (program(number), node(at), Epoch::new(epoch), DateTime::UNIX_EPOCH);
    let statement = Statement::new(by, node, program, epoch, stated, time);
    Write::Record { program, epoch, node, at: time, fact: Fact::Stated { statement } }
}

#[tokio::test]
async fn what_happens_is_in_a_signed_history_that_holds() {
    for file in Fixture::each().await {
        let (one, two) = (Account::generate(), Account::generate());
        let writes = [
            assign(1, 1),
            states(&one, 1, 1, 1, Stated::Started),
            states(&one, 1, 1, 1, Stated::Ready),
            close(1, 1),
            assign(1, 2),
            states(&two, 1, 2, 2, Stated::Ready),
        ];
        file.led.apply(&writes).await.unwrap();
        // Written again after a failure whose effect was not known: nothing is recorded twice, nothing too late.
        file.led.apply(&[close(1, 1), writes[1].clone(), writes[5].clone()]).await.unwrap();
        let (entries, total) = file.store.chain(program(1), 0, 100).await.unwrap();
        assert_eq!((entries.len(), total), (6, 6));
        let nodes = [(node(1), vec![one.address().clone()]), (node(2), vec![two.address().clone()])];
        let trust =
            Trust { schedulers: vec![file.account.address().clone()], nodes: nodes.into(), epoch: Some(Epoch::new(2)) };
        let verified = verify(program(1), &entries, &trust).unwrap();
        assert_eq!((verified.assignments, verified.statements, verified.is_open), (2, 3, true));
        let (page, _) = file.store.chain(program(1), 4, 1).await.unwrap();
        assert_eq!(page, entries[4..5]);
        assert_eq!(file.store.chain(program(2), 0, 100).await.unwrap(), (vec![], 0));
    }
}

#[tokio::test]
async fn the_history_outlives_the_program_and_a_change_of_leaders() {
    for file in Fixture::each().await {
        file.led.apply(&[assign(1, 1)]).await.unwrap();
        let second = Arc::new(Account::generate());
        let led = file.store.claim_alone("http://there", &second).await.unwrap();
        let forget = Write::Forget { program: program(1), cause: Gone::Forgotten, at: DateTime::UNIX_EPOCH };
        led.apply(&[forget]).await.unwrap();
        let (entries, _) = file.store.chain(program(1), 0, 100).await.unwrap();
        let schedulers = vec![file.account.address().clone(), second.address().clone()];
        let trust = Trust { schedulers, ..Trust::default() };
        assert!(!verify(program(1), &entries, &trust).unwrap().is_open);
    }
}

#[tokio::test]
async fn what_the_history_lacks_is_written_before_anything_else() {
    let file = Fixture::file().await;
    file.led.apply(&[assign(1, 1)]).await.unwrap();
    let (queue, queued) = mpsc::unbounded_channel();
    let (answers, mut answered) = mpsc::channel(100);
    let (health, deposed) = (watch::Sender::new(None), CancellationToken::new());
    let writer =
        tokio::spawn(writer::run(file.led.clone(), queued, answers, health.clone(), deposed, Arc::new(Metrics::new())));
    sqlx::query("PRAGMA query_only = ON").execute(&file.store.writer).await.unwrap();
    queue.send(states(&Account::generate(), 1, 1, 1, Stated::Ready)).unwrap();
    health.subscribe().wait_for(Option::is_some).await.unwrap();
    sqlx::query("PRAGMA query_only = OFF").execute(&file.store.writer).await.unwrap();
    queue.send(close(1, 1)).unwrap();
    assert!(matches!(answered.recv().await, Some(Input::Event(Event::Closed { .. }))));
    drop(queue);
    writer.await.unwrap();
    let (entries, _) = file.store.chain(program(1), 0, 100).await.unwrap();
    assert_eq!(entries.len(), 3, "the statement is there, before the end");
    assert!(entries[1].entry.contains("ready") && entries[2].entry.contains("ended"));
}
