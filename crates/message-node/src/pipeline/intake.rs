//! Makes arriving messages durable, many in one commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::message::Envelope;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Context, Outcome, Signals, SubmitError};
use crate::clock::now_us;
use crate::store::{StoreError, Stored, pending};

/// Messages that share a commit at most.
const BATCH: usize = 256;
/// How long a commit may take. One that takes longer may be done or not.
const MOST: Duration = Duration::from_secs(30);

/// A message that arrived.
pub(super) struct Arrival {
    /// The message.
    pub envelope: Envelope,
    /// Whom to tell what became of it.
    pub decided: Option<oneshot::Sender<Outcome>>,
    /// Whom to tell that it is durable.
    pub stored: oneshot::Sender<Result<(), SubmitError>>,
}

/// The task that takes what arrives.
pub(super) struct Intake {
    context: Arc<Context>,
    signals: Arc<Signals>,
}

impl Intake {
    pub(super) fn new(context: Arc<Context>, signals: Arc<Signals>) -> Self {
        Self { context, signals }
    }

    /// Takes what arrives until `stop`. While one commit is on its way to the disk, the next batch gathers.
    pub(super) async fn run(self, mut arrivals: mpsc::Receiver<Arrival>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                count = arrivals.recv_many(&mut batch, BATCH) => if count == 0 { return },
                () = stop.cancelled() => return,
            }
            #[allow(clippy::cast_precision_loss)] // At most BATCH.
            self.context.metrics.intake_batch.record(batch.len() as f64);
            self.store(std::mem::take(&mut batch)).await;
        }
    }

    async fn store(&self, mut batch: Vec<Arrival>) {
        let hangs = || Err(StoreError::Away("it does not answer".to_owned()));
        let result = timeout(MOST, self.commit(&mut batch)).await.unwrap_or_else(|_| hangs());
        match &result {
            Ok(()) => {
                self.context.metrics.received.increment(batch.len() as u64);
                self.signals.wake.notify_one();
            }
            Err(error) => {
                tracing::error!(%error, messages = batch.len(), "arriving messages could not be stored");
                self.signals.uncounted.store(true, Ordering::Relaxed);
            }
        }
        for arrival in batch {
            let answer = match &result {
                Ok(()) => Ok(()),
                Err(StoreError::Away(why)) => Err(StoreError::Away(why.clone()).into()),
                Err(_) => Err(SubmitError::NotStored),
            };
            // An error means that the client went away.
            let _ = arrival.stored.send(answer);
        }
    }

    async fn commit(&self, batch: &mut [Arrival]) -> Stored<()> {
        let received_us = now_us();
        let mut tx = self.context.store.write().await?;
        let mut added = 0;
        for arrival in &mut *batch {
            let (seq, is_new) = pending::insert(&mut tx, &arrival.envelope, received_us).await?;
            added += usize::from(is_new);
            // Before the commit: the worker cannot see the message, and so decide it, earlier than that.
            if let Some(decided) = arrival.decided.take() {
                self.signals.wait_for(seq, decided);
            }
        }
        self.signals.pending.fetch_add(added, Ordering::Relaxed);
        Ok(tx.commit().await?)
    }
}
