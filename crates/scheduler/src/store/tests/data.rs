//! What the database remembers about programs' data.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::DateTime;
use protocol::data::{Branch, DataBase, Lineage, SnapshotId};
use protocol::history::{Entry, Fact};
use protocol::operation::Operation;
use protocol::{Account, Epoch};

use super::{Fixture, WAIT, assign, close, node, order, program};
use crate::core::{DataStart, Gone, Loss, Write};

/// An assignment that goes on with an older copy.
fn assign_with(number: u8, to: u8, start: DataStart, loss: Option<Loss>) -> Write {
    let mut write = assign(number, to);
    if let Write::Assign { start: at, loss: of, .. } = &mut write {
        (*at, *of) = (Some(Box::new(start)), loss);
    }
    write
}

#[tokio::test]
async fn what_an_assignment_starts_with_is_known_after_a_restart_and_what_it_costs_is_in_the_history() {
    let snapshot = SnapshotId::new(Epoch::FIRST, 7);
    let branch = Some(Branch { until: None, since: Epoch::FIRST });
    let base = DataBase::Copy { at_least: Some(snapshot), branch };
    let archived = Lineage::from(Vec::from_iter(branch));
    let start = DataStart { base, branch, archived };
    let at_most = Some(Duration::from_micros(1500));
    let loss = Loss { epoch: Epoch::FIRST, snapshot: Some(snapshot), from_archive: false, at_most };
    for file in Fixture::each().await {
        let led = &file.led;
        led.apply(&[assign(1, 1), close(1, 1), assign_with(1, 2, start, Some(loss))]).await.unwrap();
        // Written again, because its answer was lost: it is the same assignment, and costs nothing more.
        let other = DataStart { base: DataBase::Empty, branch: None, archived: Lineage::STRAIGHT };
        assert_eq!(file.epoch_of(assign_with(1, 3, other, Some(loss))).await, (node(2), 2));
        let open = led.restore(WAIT).await.unwrap().assignments;
        assert_eq!((open[0].writer.node, open[0].writer.start), (node(2), Some(start)));
        led.apply(&[close(1, 2)]).await.unwrap();
        let writers = led.restore(WAIT).await.unwrap().writers;
        assert_eq!((writers.len(), writers[0].epoch, writers[0].start), (1, Epoch::new(2), Some(start)));
        let (entries, _) = file.store.chain(program(1), 0, 100).await.unwrap();
        let facts: Vec<_> =
            entries.iter().map(|signed| serde_json::from_str::<Entry>(&signed.entry).unwrap().fact).collect();
        // Rounded up.
        let lost =
            Fact::DataLost { of: Epoch::FIRST, snapshot: Some(snapshot), from_archive: false, at_most_ms: Some(2) };
        assert_eq!(facts.len(), 5, "{facts:?}");
        assert!(facts.windows(2).any(|pair| pair[0] == Fact::Assigned && pair[1] == lost), "{facts:?}");
    }
}

#[tokio::test]
async fn restores_are_remembered_until_they_are_over() {
    for file in Fixture::each().await {
        let (led, owner) = (&file.led, Account::generate());
        led.apply(&[assign(1, 1), assign(2, 1)]).await.unwrap();
        let restores = async || led.restore(WAIT).await.unwrap().restores;
        for (number, sequence, from) in [(1, 3, Some(9)), (1, 4, None), (2, 5, Some(9)), (3, 6, None)] {
            let (snapshot, from) = (SnapshotId::new(Epoch::FIRST, sequence), from.map(program));
            assert!(order(led, &owner, Operation::Restore { program: program(number), snapshot, from }).await);
        }
        // As earlier versions wrote it.
        let mut tx = led.write().await.unwrap();
        let earlier =
            "INSERT INTO restores (program_id, snapshot, requested_by, requested_at) VALUES ($1, '1-7', 'x', 0)";
        sqlx::query(earlier).bind(program(4).to_string()).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let mut remembered = restores().await;
        remembered.sort_by_key(|asked| asked.program);
        let known =
            remembered.iter().map(|asked| (asked.program, asked.set.snapshot.sequence, asked.set.from, asked.of));
        // The last order of a program counts. The third runs nowhere: it has no epoch to leave.
        let (first, other) = (Some(Epoch::FIRST), Some(program(9)));
        let (third, earlier) = ((program(3), 6, None, None), (program(4), 7, None, None));
        let last = [(program(1), 4, None, first), (program(2), 5, other, first), third, earlier];
        assert_eq!(known.collect::<Vec<_>>(), last);
        assert_eq!(&remembered[0].by, owner.address());
        let forget = Write::Forget { program: program(2), cause: Gone::Forgotten, at: DateTime::UNIX_EPOCH };
        // What was over before the last order of a program came takes nothing of that.
        let over = |ordered| Write::RestoreOver { program: program(1), ordered };
        led.apply(&[over(DateTime::UNIX_EPOCH), forget]).await.unwrap();
        assert_eq!(restores().await.iter().filter(|asked| asked.program == program(1)).count(), 1);
        led.apply(&[over(remembered[0].at)]).await.unwrap();
        let left: BTreeSet<_> = restores().await.into_iter().map(|asked| asked.program).collect();
        assert_eq!(left, [program(3), program(4)].into());
    }
}
