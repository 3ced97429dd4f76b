//! The way of a message from its arrival to its outcome.
//!
//! ```text
//!            intake                     worker
//!  arrives ─────────▶ pending (durable) ───────▶ processed │ rejected
//!                       ▲        │ refers to something that may still come
//!                       └────────┘ parked, at most for the retry window
//! ```
//!
//! * The [`intake`] makes a message durable in the order of arrival; many messages share one commit.
//! * The [`worker`] is the only one that decides. It takes messages in the order of arrival, signatures checked in parallel.
//! * A message that refers to something unknown is [`parked`] and tried again as soon as that is decided or uploaded, and
//!   a last time when the retry window ends. Others overtake it, with one exception: **a FORGET waits until every earlier
//!   message of its sender is decided.** So a program that replaces another is decided before the other is forgotten, and a
//!   file is forgotten after the program that uses it, however closely the messages follow each other.
//! * A message whose owner's balance is unknown waits until it is known, however long that takes.
//! * What the balance does not cover any more is put out of force, and comes back: [`hold`].
//! * Anybody can submit a copy of a message under the same item hash with a wrong signature or sender. Copies are pending
//!   side by side and decided one by one: a rejected copy never stands in the way of the real message, and never takes the
//!   place of one that is in force.

mod forget;
mod hold;
mod intake;
mod outcome;
mod parked;
mod process;
mod settle;
mod verify;
mod worker;

pub(crate) use outcome::Outcome;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::FileName;
use protocol::api::message_node::MessageStatus;
use protocol::message::Envelope;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::balances::Balances;
use crate::config::{Limits, PaymentRules, Timing};
use crate::core::Awaited;
use crate::events::Events;
use crate::files::Files;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::published::Network;
use crate::store::{Store, StoreError, Stored, messages};

/// Submissions that wait for a commit of the intake.
const INTAKE_QUEUE: usize = 1024;

/// What intake and worker share.
pub(crate) struct Context {
    pub store: Store,
    pub files: Files,
    pub balances: Balances,
    pub network: Network,
    pub events: Events,
    pub metrics: Metrics,
    pub limits: Limits,
    pub timing: Timing,
    pub payment: PaymentRules,
}

/// The entrance to the pipeline.
#[derive(Clone)]
pub(crate) struct Pipeline {
    context: Arc<Context>,
    signals: Arc<Signals>,
    queue: mpsc::Sender<intake::Arrival>,
    /// Nobody waits for an outcome any more.
    stopping: CancellationToken,
}

/// How the parts of the pipeline tell each other what happened.
#[derive(Default)]
struct Signals {
    /// There is something to decide.
    wake: Notify,
    /// Files that were uploaded since the worker looked.
    uploaded: Mutex<Vec<Awaited>>,
    /// Messages that wait until a balance is known.
    unfunded: Mutex<HashSet<i64>>,
    /// Messages that wait to be decided.
    pending: AtomicUsize,
    /// They have to be counted: at first, and when it is not known whether some were stored.
    uncounted: AtomicBool,
    /// Who waits for which outcome.
    waiting: Mutex<HashMap<i64, Vec<oneshot::Sender<Outcome>>>>,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitError {
    /// Too many messages wait already.
    #[error("the node has {0} messages to decide already; try again in a few seconds")]
    Busy(usize),
    /// The node is stopping.
    #[error("the node is stopping; try again in a few seconds")]
    Stopping,
    /// The message could not be written.
    #[error("the message could not be stored; see the node's log and try again")]
    NotStored,
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Pipeline {
    /// Starts intake and worker. Both run until `stop`, and finish what they have begun; the worker works while this process
    /// leads. From `stopping` on messages are still taken, but nobody is kept waiting for an outcome.
    pub(crate) fn start(
        context: Arc<Context>,
        leadership: &Leadership,
        stopping: CancellationToken,
        stop: CancellationToken,
    ) -> (Self, Vec<JoinHandle<()>>) {
        let signals = Arc::new(Signals { uncounted: true.into(), ..Signals::default() });
        let (queue, arrivals) = mpsc::channel(INTAKE_QUEUE);
        let intake = intake::Intake::new(Arc::clone(&context), Arc::clone(&signals)).run(arrivals, stop.clone());
        let (its_context, its_signals) = (Arc::clone(&context), Arc::clone(&signals));
        let worker = leadership.spawn_while_leading(&stop, move |stop| {
            worker::Worker::new(Arc::clone(&its_context), Arc::clone(&its_signals)).run(stop)
        });
        let tasks = vec![tokio::spawn(intake), worker];
        (Self { context, signals, queue, stopping }, tasks)
    }

    /// Takes a message whose form was checked. It is durable when this returns. With `wait` this returns when the message is
    /// decided, or with `Pending` after that time.
    ///
    /// # Errors
    /// [`SubmitError`]; the message was not taken then.
    pub(crate) async fn submit(&self, envelope: Envelope, wait: Option<Duration>) -> Result<Outcome, SubmitError> {
        if let Some(known) = self.known(&envelope).await? {
            return Ok(if wait.is_some() { Outcome::of(known) } else { Outcome::PENDING });
        }
        let waiting = self.signals.pending.load(Ordering::Relaxed);
        if waiting >= self.context.limits.pending {
            return Err(SubmitError::Busy(waiting));
        }
        let (stored, is_stored) = oneshot::channel();
        let (decided, is_decided) = oneshot::channel();
        let arrival = intake::Arrival { envelope, decided: wait.map(|_| decided), stored };
        self.queue.send(arrival).await.map_err(|_| SubmitError::Stopping)?;
        is_stored.await.map_err(|_| SubmitError::Stopping)??;
        let Some(most) = wait else { return Ok(Outcome::PENDING) };
        tokio::select! {
            biased;
            // The sender is dropped when the node stops; the message is decided after the next start then.
            outcome = is_decided => Ok(outcome.unwrap_or(Outcome::PENDING)),
            () = tokio::time::sleep(most) => Ok(Outcome::PENDING),
            () = self.stopping.cancelled() => Ok(Outcome::PENDING),
        }
    }

    /// Whether this very message was decided, and is not rejected.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(crate) async fn knows(&self, envelope: &Envelope) -> Stored<bool> {
        Ok(self.known(envelope).await?.is_some())
    }

    /// The status of the very same message, from the same sender with the same signature, if it was decided and is not
    /// rejected: then there is nothing to store or to check.
    async fn known(&self, envelope: &Envelope) -> Stored<Option<MessageStatus>> {
        let mut db = self.context.store.read().await?;
        let standing = messages::standing(&mut db, &envelope.item_hash).await?;
        Ok(standing.and_then(|standing| {
            let same = standing.signature.is_some()
                && standing.signature == envelope.signature
                && standing.sender_key == envelope.sender.canonical()
                && standing.message_type == envelope.message_type.to_string();
            (same && standing.status.0 != MessageStatus::Rejected).then_some(standing.status.0)
        }))
    }

    /// Balances came to be known or changed.
    pub(crate) fn balances_changed(&self) {
        self.signals.wake.notify_one();
    }

    /// Why a message is pending for longer than the retry window, if it is.
    pub(crate) fn why_pending(&self, seq: i64) -> Option<String> {
        let unfunded = self.signals.unfunded.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = unfunded.contains(&seq);
        drop(unfunded);
        waits.then(|| format!("the balance of its owner is not known: {}", self.context.balances.why_unknown()))
    }

    /// A file with these names was uploaded and is durable: messages that waited for it are tried again.
    pub(crate) fn file_arrived(&self, names: &[FileName]) {
        let mut uploaded = self.signals.uploaded.lock().unwrap_or_else(PoisonError::into_inner);
        uploaded.extend(names.iter().map(|name| Awaited::File(*name)));
        drop(uploaded);
        self.signals.wake.notify_one();
    }
}

impl Signals {
    /// What is decided is not known here any more: nobody is kept waiting for it, and what waits is counted again.
    fn start_over(&self) {
        self.uncounted.store(true, Ordering::Relaxed);
        self.unfunded.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn waits_for_balance(&self, seq: i64, waits: bool) {
        let mut unfunded = self.unfunded.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = if waits { unfunded.insert(seq) } else { unfunded.remove(&seq) };
    }

    /// How many messages wait for a balance besides this one.
    fn others_wait_for_balance(&self, seq: i64) -> usize {
        let unfunded = self.unfunded.lock().unwrap_or_else(PoisonError::into_inner);
        unfunded.len() - usize::from(unfunded.contains(&seq))
    }

    fn wait_for(&self, seq: i64, decided: oneshot::Sender<Outcome>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let list = waiting.entry(seq).or_default();
        // Those who gave up make room for those who ask again.
        list.retain(|waiter| !waiter.is_closed());
        list.push(decided);
    }

    fn decide(&self, seq: i64, outcome: &Outcome) {
        self.waits_for_balance(seq, false);
        self.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).ok();
        let waiters = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&seq);
        for waiter in waiters.into_iter().flatten() {
            // An error means that the client did not want to wait any longer.
            let _ = waiter.send(outcome.clone());
        }
    }
}
