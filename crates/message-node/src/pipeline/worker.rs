//! The one task that decides messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use protocol::api::message_node::MessageStatus;
use protocol::message::{ErrorCode, MessageType};
use sqlx::Connection as _;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::parked::{Parked, Reason};
use super::process::Verdict;
use super::verify::{self, Checked};
use super::{Context, Outcome, Signals, settle};
use crate::clock::{micros, now_us};
use crate::core::{Awaited, Rejection};
use crate::events::Event;
use crate::store::{Connection, StoreError, Stored, holds, journal, pending, programs};

/// Messages that are decided in one transaction at most.
const BATCH: usize = 128;
/// Owners who are reviewed in one transaction at most.
const REVIEWS: u32 = 64;
/// How long a transaction may go on before others may write.
const BATCH_TIME: Duration = Duration::from_millis(200);
/// A turn that takes longer has failed: the database does not answer.
const TURN: Duration = Duration::from_secs(60);
/// How long to wait when the database fails.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The task that decides messages.
pub(super) struct Worker {
    context: Arc<Context>,
    signals: Arc<Signals>,
    /// Messages that wait for something. Their signatures are right.
    parked: Parked,
    /// Messages to be tried now, in the order of arrival.
    ready: BTreeSet<i64>,
    /// Those of them that were read and checked already.
    checked: BTreeMap<i64, Checked>,
    /// The last message that was read from the queue.
    last_seen: i64,
    /// When to look at programs that are not settled and at deadlines of what is not covered, microseconds since 1970.
    settle_at_us: Option<i64>,
    /// Owners, canonical, to be reviewed.
    owners: BTreeSet<String>,
    /// Owners up to this one were looked at whether something of theirs is due; from the start again when it is empty.
    due_after: String,
    /// At the start all owners are reviewed: those after this one still have to be.
    sweep: Option<String>,
    /// When to look for balances that changed.
    look_at: Instant,
    /// When all this was read; `None` at first. See [`Store::term`](crate::store::Store::term).
    term: Option<u64>,
}

/// Lets go of whoever waits for an outcome when the worker is dropped, because another process decides from now on.
struct StartOver(Arc<Signals>);

impl Drop for StartOver {
    fn drop(&mut self) {
        self.0.start_over();
    }
}

/// What was decided in one transaction, to be told once it is durable.
#[derive(Default)]
struct Decisions {
    tried: usize,
    outcomes: Vec<(i64, MessageType, Outcome)>,
    events: Vec<Event>,
}

impl Worker {
    pub(super) fn new(context: Arc<Context>, signals: Arc<Signals>) -> Self {
        let parked = Parked::new(context.timing.retry_window);
        let (ready, checked) = Default::default();
        // Programs may have become due while the node was down.
        Self {
            context,
            signals,
            parked,
            ready,
            checked,
            last_seen: 0,
            settle_at_us: Some(0),
            owners: BTreeSet::new(),
            due_after: String::new(),
            sweep: Some(String::new()),
            look_at: Instant::now(),
            term: None,
        }
    }

    /// Decides what arrives until `stop`; what is not decided then is decided after the next start, or by another process.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let _at_the_end = StartOver(Arc::clone(&self.signals));
        while !stop.is_cancelled() {
            let hangs = || Err(StoreError::Away("it does not answer".to_owned()));
            let sleep = match timeout(TURN, self.turn()).await.unwrap_or_else(|_| hangs()) {
                Ok(true) => continue,
                Ok(false) => self.until_next_deadline(),
                Err(error) => {
                    tracing::error!(%error, "messages could not be decided; trying again");
                    self.start_over();
                    PAUSE_AFTER_FAILURE
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.signals.wake.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Forgets everything that is not in the database; it is read again. Whether the last transaction was done is not known,
    /// and another process may have decided messages since: who waits to be told of that has to look.
    fn start_over(&mut self) {
        self.context.events.interrupt();
        self.signals.start_over();
        *self = Self { term: self.term, ..Self::new(Arc::clone(&self.context), Arc::clone(&self.signals)) };
    }

    /// Makes sure that nobody else has decided anything since the last turn, or starts over.
    async fn begin_turn(&mut self) -> Stored<()> {
        let term = self.context.store.term().await?;
        if self.term.replace(term).is_some_and(|last| last != term) {
            self.start_over();
        }
        if self.signals.uncounted.swap(false, Ordering::Relaxed) {
            // Nothing is added meanwhile.
            let mut tx = self.context.store.write().await?;
            let waiting = usize::try_from(pending::count(&mut tx).await?).unwrap_or(usize::MAX);
            self.signals.pending.store(waiting, Ordering::Relaxed);
        }
        Ok(())
    }

    fn until_next_deadline(&self) -> Duration {
        /// There is always a next look, in case another process has led for a moment.
        const AT_MOST: Duration = Duration::from_secs(10);
        let parked = self.parked.next_deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let settle = self.settle_at_us.map(|at| Duration::from_micros(u64::try_from(at - now_us()).unwrap_or(0)));
        let look = self.look_at.saturating_duration_since(Instant::now());
        parked.into_iter().chain(settle).chain([look]).fold(AT_MOST, Duration::min)
    }

    /// Decides one batch; tells whether there was anything to do.
    async fn turn(&mut self) -> Stored<bool> {
        self.begin_turn().await?;
        self.gather().await?;
        let settle_is_due = self.settle_at_us.is_some_and(|at| at <= now_us());
        if self.ready.is_empty() && !settle_is_due && self.owners.is_empty() {
            return Ok(false);
        }
        let mut decisions = Decisions::default();
        let mut tx = self.context.store.write().await?;
        if self.term != Some(self.context.store.last_term()) {
            return Ok(true);
        }
        let started = Instant::now();
        while decisions.tried < BATCH
            && started.elapsed() < BATCH_TIME
            && let Some(seq) = self.ready.pop_first()
        {
            decisions.tried += 1;
            self.try_one(&mut tx, seq, &mut decisions).await?;
        }
        let mut more_is_due = false;
        if settle_is_due {
            let (owners, events) = self.context.settle(&mut tx, now_us()).await?;
            more_is_due = owners.len() >= settle::BATCH as usize;
            // They were left out of reviews until now.
            self.owners.extend(owners);
            decisions.events.extend(events);
            more_is_due |= self.find_due(&mut tx).await?;
        }
        self.review(&mut tx, &mut decisions).await?;
        self.settle_at_us = self.next_look(&mut tx, more_is_due).await?;
        if self.context.store.is_shared() {
            journal::append(&mut tx, &decisions.events, now_us()).await?;
        }
        tx.commit().await?;
        self.tell(decisions);
        Ok(true)
    }

    /// Finds owners of what is due, some at a time: those of whom nothing can be decided do not stand in the way of others.
    /// Tells whether there may be more.
    async fn find_due(&mut self, db: &mut Connection) -> Stored<bool> {
        let owners = holds::due(db, now_us(), &self.due_after, REVIEWS).await?;
        let is_full = owners.len() >= REVIEWS as usize;
        self.due_after = owners.last().filter(|_| is_full).cloned().unwrap_or_default();
        self.owners.extend(owners);
        Ok(is_full)
    }

    /// Reviews some of the owners who are to be.
    async fn review(&mut self, db: &mut Connection, decisions: &mut Decisions) -> Stored<()> {
        let now_us = now_us();
        for _ in 0..REVIEWS {
            let Some(owner) = self.owners.pop_first() else { break };
            for event in self.context.review(db, &owner, now_us).await? {
                // Others may have waited for it.
                self.ready.extend(self.parked.arrived(&Awaited::Message(event.traits.item_hash.clone())));
                decisions.events.push(event);
            }
        }
        Ok(())
    }

    /// When to look at programs that are not settled, and at deadlines. What could not be decided, because a balance is
    /// unknown for example, is looked at again after a while.
    async fn next_look(&self, db: &mut Connection, at_once: bool) -> Stored<Option<i64>> {
        let next = [programs::next_to_settle(db).await?, holds::next_due(db).await?].into_iter().flatten().min();
        let (now, pause) = (now_us(), micros(self.context.timing.review_every));
        Ok(next.map(|at| if at <= now && !at_once { now.saturating_add(pause) } else { at }))
    }

    /// Finds out whose balances changed, and whom else to review.
    async fn look(&mut self) -> Stored<()> {
        let mut changes = self.context.balances.changes();
        if changes.everybody {
            changes.accounts.extend(self.parked.balances().map(str::to_owned));
            self.sweep = Some(String::new());
        }
        for owner in changes.accounts {
            self.ready.extend(self.parked.arrived(&Awaited::Balance(owner.clone())));
            self.owners.insert(owner);
        }
        if let Some(after) = self.sweep.take_if(|_| self.owners.is_empty()) {
            let owners = holds::owners_after(&mut *self.context.store.read().await?, &after, REVIEWS).await?;
            self.sweep = owners.last().cloned();
            self.owners.extend(owners);
        }
        if self.look_at <= Instant::now() {
            self.look_at = Instant::now() + self.context.timing.review_every;
            // So that they are not forgotten for others that are wanted as well.
            for account in self.parked.balances() {
                self.context.balances.want(account);
            }
        }
        Ok(())
    }

    /// Finds out which messages are to be tried now.
    async fn gather(&mut self) -> Stored<()> {
        self.look().await?;
        let uploaded = std::mem::take(&mut *self.signals.uploaded.lock().unwrap_or_else(PoisonError::into_inner));
        for file in &uploaded {
            self.ready.extend(self.parked.arrived(file));
        }
        self.ready.extend(self.parked.expired(Instant::now()));
        let room = BATCH.saturating_sub(self.ready.len());
        if room == 0 {
            return Ok(());
        }
        let limit = u32::try_from(room).unwrap_or(u32::MAX);
        let new = pending::after(&mut *self.context.store.read().await?, self.last_seen, limit).await?;
        for checked in verify::signatures(new).await {
            let seq = checked.submission.seq;
            self.last_seen = seq;
            self.ready.insert(seq);
            self.checked.insert(seq, checked);
        }
        Ok(())
    }

    async fn try_one(&mut self, db: &mut Connection, seq: i64, decisions: &mut Decisions) -> Stored<()> {
        let Some(checked) = self.load(db, seq).await? else { return Ok(()) };
        let envelope = &checked.submission.envelope;
        let (sender, now) = (envelope.sender.canonical(), Instant::now());
        let forgets = envelope.message_type == MessageType::Forget && checked.signature.is_ok();
        if forgets && self.parked.has_earlier(seq, &sender) {
            self.parked.park(seq, &sender, Reason::Turn, now);
            return Ok(());
        }
        let verdict = match self.attempt(db, &checked).await? {
            Verdict::Waits(Awaited::Message(_) | Awaited::File(_), rejection) if self.parked.is_last_try(seq, now) => {
                self.context.reject(db, &checked.submission, rejection, true).await?
            }
            Verdict::Waits(Awaited::Balance(_), rejection) if !self.may_wait_for_balance(seq) => {
                self.context.reject(db, &checked.submission, rejection, true).await?
            }
            verdict => verdict,
        };
        match verdict {
            Verdict::Waits(awaited, _) => {
                self.signals.waits_for_balance(seq, matches!(awaited, Awaited::Balance(_)));
                self.parked.park(seq, &sender, Reason::Reference(awaited), now);
            }
            Verdict::Decided(outcome, event) => {
                pending::delete(db, seq).await?;
                if let (MessageType::Forget, Some(event)) = (envelope.message_type, &event) {
                    // There may be room for something that was not covered.
                    self.owners.extend(event.traits.owner.clone());
                }
                let decided = Awaited::Message(envelope.item_hash.clone());
                self.ready.extend(self.parked.arrived(&decided));
                self.ready.extend(self.parked.decided(seq));
                decisions.outcomes.push((seq, envelope.message_type, outcome));
                decisions.events.extend(event.map(|event| *event));
            }
        }
        Ok(())
    }

    /// Not all messages that may wait at all: others must get through while no balances can be read.
    fn may_wait_for_balance(&self, seq: i64) -> bool {
        self.signals.others_wait_for_balance(seq) < self.context.limits.unfunded
    }

    /// Decides a message. If that fails, what it wrote is undone and it is rejected as an internal error, so that one
    /// message cannot stop all others; its sender may submit it again. If even that fails, so does the database, and
    /// everything is tried again later, as it is while the database is away.
    async fn attempt(&self, db: &mut Connection, checked: &Checked) -> Stored<Verdict> {
        let mut point = db.begin().await?;
        match self.context.process(&mut point, checked).await {
            Ok(verdict) => {
                point.commit().await?;
                Ok(verdict)
            }
            Err(error @ StoreError::Away(_)) => Err(error),
            Err(error) => {
                point.rollback().await?;
                let item_hash = &checked.submission.envelope.item_hash;
                tracing::error!(%error, item_hash, "a message could not be decided");
                let rejection = Rejection::of(ErrorCode::InternalError);
                self.context.reject(db, &checked.submission, rejection, checked.signature.is_ok()).await
            }
        }
    }

    async fn load(&mut self, db: &mut Connection, seq: i64) -> Stored<Option<Checked>> {
        if let Some(checked) = self.checked.remove(&seq) {
            return Ok(Some(checked));
        }
        let Some(submission) = pending::get(db, seq).await? else { return Ok(None) };
        // Only messages whose signature is right are parked, so those need no second check.
        let signature = if self.parked.knows(seq) { Ok(()) } else { submission.envelope.verify_signature() };
        Ok(Some(Checked { submission, signature }))
    }

    /// Tells everybody what is durable now.
    fn tell(&self, decisions: Decisions) {
        for event in decisions.events {
            self.context.events.publish(event);
        }
        for (seq, message_type, outcome) in decisions.outcomes {
            if outcome.status == MessageStatus::Rejected {
                tracing::debug!(seq, ?outcome, "rejected");
            }
            self.context.metrics.decided(message_type, outcome.status);
            self.signals.decide(seq, &outcome);
        }
    }
}
