//! The task that writes: in order, off the core's path, as many changes a transaction as are waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Led, StoreError};
use crate::core::{Event, Write};
use crate::engine::Input;
use crate::metrics::Metrics;

/// Changes in one transaction at most.
const MAX_BATCH: usize = 256;
/// A transaction that takes longer has failed, as far as is known.
const WRITE: Duration = Duration::from_secs(10);

/// Writes until `writes` is closed. `health` says what is wrong with the database, if something is; `deposed` is cancelled
/// when another scheduler leads.
///
/// The queue has no bound of its own: the core has at most one write a program under way, and one a node's change.
pub(crate) async fn run(
    store: Led,
    mut writes: mpsc::UnboundedReceiver<Write>,
    answers: mpsc::Sender<Input>,
    health: watch::Sender<Option<String>>,
    deposed: CancellationToken,
    metrics: Arc<Metrics>,
) {
    // What the history lacks is written first: nothing that follows it may overtake it.
    let (mut batch, mut unwritten) = (Vec::new(), Vec::new());
    while writes.recv_many(&mut batch, MAX_BATCH).await > 0 {
        batch.splice(..0, std::mem::take(&mut unwritten));
        let began = Instant::now();
        let mut failure = None;
        for event in write(&store, &batch, &mut unwritten, &mut failure).await {
            // An error means that the scheduler is stopping; what was written is read when it starts again.
            let _ = answers.send(Input::Event(event)).await;
        }
        metrics.write_seconds.record(began.elapsed());
        if let Some(error) = &failure {
            metrics.write_failures.increment(1);
            tracing::error!(%error, "the database cannot be written; it is tried again");
            if matches!(error, StoreError::Deposed) {
                deposed.cancel();
            }
        }
        let failure = failure.map(|error| error.to_string());
        health.send_if_modified(|health| std::mem::replace(health, failure.clone()) != failure);
        batch.clear();
    }
}

/// All together; and when one of them breaks a rule of the schema, each by itself, so that it fails alone.
async fn write(
    store: &Led,
    batch: &[Write],
    unwritten: &mut Vec<Write>,
    failure: &mut Option<StoreError>,
) -> Vec<Event> {
    let applied = timeout(WRITE, store.apply(batch)).await;
    match applied.unwrap_or(Err(StoreError::Database(sqlx::Error::PoolTimedOut))) {
        Ok(events) => events,
        Err(error) if batch.len() > 1 && is_about_one_row(&error) => {
            let mut events = Vec::new();
            for write in batch {
                events.extend(Box::pin(self::write(store, std::slice::from_ref(write), unwritten, failure)).await);
            }
            events
        }
        Err(error) => {
            *failure = Some(error);
            unwritten.extend(batch.iter().filter(|write| write.is_repeated()).cloned());
            batch.iter().filter_map(Write::answers_to).map(|program| Event::StoreFailed { program }).collect()
        }
    }
}

fn is_about_one_row(error: &StoreError) -> bool {
    match error {
        StoreError::Database(sqlx::Error::Database(error)) => error.kind() != sqlx::error::ErrorKind::Other,
        StoreError::Corrupt { .. } => true,
        StoreError::Database(_) | StoreError::Migration(_) | StoreError::Deposed | StoreError::NotText(_) => false,
    }
}
