//! Makes arriving messages durable, many in one commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocol::message::Envelope;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Context, Outcome, Signals, SubmitError};
use crate::clock::now_us;
use crate::store::{Stored, pending};

/// Messages that share a commit at most.
const BATCH: usize = 256;

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
    /// The last place that was given. Smaller ones are those of messages that were pending already.
    last: i64,
}

impl Intake {
    pub(super) fn new(context: Arc<Context>, signals: Arc<Signals>, last: i64) -> Self {
        Self { context, signals, last }
    }

    /// Takes what arrives until `stop`. While one commit is on its way to the disk, the next batch gathers.
    pub(super) async fn run(mut self, mut arrivals: mpsc::Receiver<Arrival>, stop: CancellationToken) {
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

    async fn store(&mut self, mut batch: Vec<Arrival>) {
        let result = self.commit(&mut batch).await;
        match &result {
            Ok(()) => {
                self.context.metrics.received.increment(batch.len() as u64);
                self.signals.wake.notify_one();
            }
            Err(error) => tracing::error!(%error, messages = batch.len(), "arriving messages could not be stored"),
        }
        for arrival in batch {
            let answer = if result.is_ok() { Ok(()) } else { Err(SubmitError::NotStored) };
            // An error means that the client went away.
            let _ = arrival.stored.send(answer);
        }
    }

    async fn commit(&mut self, batch: &mut [Arrival]) -> Stored<()> {
        let received_us = now_us();
        let mut tx = self.context.store.take_in().await?;
        let (mut last, mut new) = (self.last, 0);
        for arrival in &mut *batch {
            let seq = pending::insert(&mut tx, &arrival.envelope, received_us).await?;
            if seq > last {
                (last, new) = (seq, new + 1);
            }
            // Before the commit: the worker cannot see the message, and so decide it, earlier than that.
            if let Some(decided) = arrival.decided.take() {
                self.signals.wait_for(seq, decided);
            }
        }
        self.signals.pending.fetch_add(new, Ordering::Relaxed);
        if let Err(error) = tx.commit().await {
            self.signals.pending.fetch_sub(new, Ordering::Relaxed);
            return Err(error.into());
        }
        self.last = last;
        Ok(())
    }
}
