//! The node that keeps copies: takes in what the nodes send whose programs it is a standby of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use lease::{BootTime, clock};
use protocol::data::{CopyReport, SnapshotId};
use protocol::{Account, Address, Epoch, NodeId, ProgramId};
use tokio::sync::oneshot;
use tokio::time::{error::Elapsed, sleep, timeout};
use tracing::warn;

use super::arriving::{Arriving, Problem};
use super::secure::{self, Proven, SecureError, SecureReader, SecureWriter};
use super::sender::{Stream, milliseconds};
use super::wire::{self, BadFrame, Begin, Frame, FromPrimary, FromStandby};
use crate::error::Error;
use crate::pool::Pool;

/// How long proving keys may take, and saying what the connection is about.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a sender may be silent, or not take an answer. It says something every ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a connection is over. It is always over for one of these reasons: a sender does not end it.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The connection broke, or was never secure.
    #[error(transparent)]
    Secure(#[from] SecureError),
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] BadFrame),
    /// The other side says what it may not say now.
    #[error("the other node does not keep to the protocol: {0}; both need the same version of aleph-node")]
    Protocol(&'static str),
    /// Nobody said that this account sends this program.
    #[error("{} of node {} does not send {program} in epoch {epoch} to this node; wait for the scheduler's order", .from.account, .from.node)]
    Unauthorised {
        /// Who dialed.
        from: Proven,
        /// What it wants to send.
        program: ProgramId,
        /// In which epoch.
        epoch: Epoch,
    },
    /// Another node has the program now.
    #[error("epoch {offered} is over: epoch {highest} has been seen for this program")]
    Stale {
        /// What was offered.
        offered: Epoch,
        /// The highest that was ever seen.
        highest: Epoch,
    },
    /// It said nothing for long.
    #[error("the other node was silent for too long")]
    Silent(#[from] Elapsed),
    /// The same node dialed again, or another one for the same program.
    #[error("a newer connection for this program took over")]
    Replaced,
    /// The pool cannot tell.
    #[error(transparent)]
    Volumes(#[from] Error),
}

/// How much is taken in, and what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveLimits {
    /// How long the beginning of a stream that was cut off is kept, for the rest to come.
    pub keep_cut: Duration,
    /// How many times the sizes of all its volumes the streams of a snapshot may have.
    pub factor: u64,
}

impl Default for ReceiveLimits {
    fn default() -> Self {
        Self { keep_cut: Duration::from_secs(60), factor: 2 }
    }
}

/// Takes in copies. Clones are the same receiver.
#[derive(Debug, Clone)]
pub struct Receiver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: Pool,
    account: Arc<Account>,
    node: NodeId,
    limits: ReceiveLimits,
    copies: Mutex<HashMap<ProgramId, Arc<Copy>>>,
}

/// The copy of one program.
#[derive(Debug, Default)]
struct Copy {
    /// What has come of a snapshot. The connection that feeds it holds the lock.
    arriving: tokio::sync::Mutex<Option<Arriving>>,
    /// Dropped when a newer connection takes over.
    current: Mutex<Option<oneshot::Sender<()>>>,
    /// The newest, if this process took it in.
    newest: Mutex<Option<Newest>>,
}

/// How old a snapshot was at some time, at most.
#[derive(Debug, Clone, Copy)]
struct Newest {
    id: SnapshotId,
    at: BootTime,
    age: Duration,
}

impl Receiver {
    /// Proves this node's key to those who send.
    pub fn new(pool: Pool, account: Arc<Account>, node: NodeId, limits: ReceiveLimits) -> Self {
        Self(Arc::new(Inner { pool, account, node, limits, copies: Mutex::default() }))
    }

    /// Takes in what one connection brings, until it is over, and returns why it is. `authorise` tells which account may
    /// send this program in this epoch from this node, `None` is nobody; it is asked again for each snapshot.
    ///
    /// A connection that broke ([`ReceiveError::Secure`]) and [`ReceiveError::Replaced`] are of no concern. How many
    /// connections there may be is for the caller to limit.
    pub async fn serve(
        &self,
        stream: impl Stream,
        authorise: impl Fn(ProgramId, Epoch, NodeId) -> Option<Address> + Send + Sync,
    ) -> ReceiveError {
        let Err(error) = self.try_serve(stream, authorise).await;
        error
    }

    /// The newest complete snapshot of a program here, and how old it is, never less. After a restart of this process,
    /// and for one that was taken here, only the clock on the wall of the node that took it tells, which may be wrong.
    ///
    /// # Errors
    /// When the records of the program are damaged.
    pub async fn report(&self, program: ProgramId) -> Result<Option<CopyReport>, Error> {
        let Some(set) = self.0.pool.newest_snapshot(program).await? else { return Ok(None) };
        let known = *self.copy(program).newest.lock().expect("no code panics while it holds this lock");
        let age = match known.filter(|newest| newest.id == set.id) {
            Some(newest) => clock::now().since(newest.at) + newest.age,
            None => (Utc::now() - set.taken).to_std().unwrap_or_default(),
        };
        Ok(Some(CopyReport { newest: set.id, age_ms: milliseconds(age) }))
    }

    fn copy(&self, program: ProgramId) -> Arc<Copy> {
        self.0.copies.lock().expect("no code panics while it holds this lock").entry(program).or_default().clone()
    }

    async fn try_serve(
        &self,
        stream: impl Stream,
        authorise: impl Fn(ProgramId, Epoch, NodeId) -> Option<Address> + Send + Sync,
    ) -> Result<std::convert::Infallible, ReceiveError> {
        let accepting = secure::accept(stream, &self.0.account, self.0.node);
        let (reader, writer, from) = timeout(HANDSHAKE, accepting).await??;
        let mut wire = Wire { reader, writer };
        let Frame::Message(FromPrimary::Open { program, epoch }) = timeout(HANDSHAKE, wire.hear()).await?? else {
            return Err(ReceiveError::Protocol("it does not say what it sends"));
        };
        let may_send = || authorise(program, epoch, from.node).as_ref() == Some(&from.account);
        if !may_send() {
            // To who has no business here, this node tells nothing about the program.
            return wire.refuse(None, ReceiveError::Unauthorised { from: from.clone(), program, epoch }).await;
        }
        let highest = self.0.pool.program(program).await?.highest();
        if epoch < highest {
            return wire.refuse(Some(highest), ReceiveError::Stale { offered: epoch, highest }).await;
        }
        let copy = self.copy(program);
        let (current, mut replaced) = oneshot::channel();
        *copy.current.lock().expect("no code panics while it holds this lock") = Some(current);
        // The connection before lets go of it, as its sender is dropped.
        let arriving = copy.arriving.lock().await;
        let mut held = Held { receiver: self, program, copy: &copy, arriving };
        let session =
            Session { receiver: self, copy: &copy, program, epoch, from: &from, may_send: &may_send, failed: false };
        tokio::select! {
            result = session.run(&mut wire, &mut held.arriving) => result,
            _ = &mut replaced => Err(ReceiveError::Replaced),
        }
    }

    /// Gives up what was cut off, unless the rest comes in time.
    fn abandon_later(&self, program: ProgramId, copy: Arc<Copy>) {
        let (pool, keep) = (self.0.pool.clone(), self.0.limits.keep_cut);
        // Without a runtime the process ends, and what is left is removed at the next start.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            sleep(keep).await;
            let mut arriving = copy.arriving.lock().await;
            if arriving.as_ref().is_some_and(|cut| cut.is_over(clock::now(), keep)) {
                abandon(&pool, program, &mut arriving).await;
            }
        });
    }
}

/// What has come, while a connection feeds it. However that ends, also when whoever serves it gives up, it is given up
/// after a while.
struct Held<'a> {
    receiver: &'a Receiver,
    program: ProgramId,
    copy: &'a Arc<Copy>,
    arriving: tokio::sync::MutexGuard<'a, Option<Arriving>>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(cut) = self.arriving.as_mut() {
            cut.cut(clock::now());
            self.receiver.abandon_later(self.program, self.copy.clone());
        }
    }
}

/// Removes what has come of a snapshot that will not be complete.
async fn abandon(pool: &Pool, program: ProgramId, arriving: &mut Option<Arriving>) {
    let Some(cut) = arriving.take() else { return };
    if let Err(error) = cut.abandon(pool, program).await {
        warn!(%program, %error, "cannot remove the beginning of a snapshot, trying again at the next start");
    }
}

/// A connection, as messages.
struct Wire<S> {
    reader: SecureReader<S>,
    writer: SecureWriter<S>,
}

impl<S: Stream> Wire<S> {
    async fn hear(&mut self) -> Result<Frame<FromPrimary>, ReceiveError> {
        Ok(wire::read(&timeout(PATIENCE, self.reader.receive()).await??)?)
    }

    async fn say(&mut self, message: &FromStandby) -> Result<(), ReceiveError> {
        timeout(PATIENCE, self.writer.send(&wire::message(message))).await??;
        Ok(())
    }

    async fn refuse<T>(&mut self, highest: Option<Epoch>, error: ReceiveError) -> Result<T, ReceiveError> {
        self.say(&FromStandby::Refused { reason: error.to_string(), highest }).await?;
        Err(error)
    }
}

/// A connection that may send.
struct Session<'a> {
    receiver: &'a Receiver,
    copy: &'a Copy,
    program: ProgramId,
    epoch: Epoch,
    from: &'a Proven,
    may_send: &'a (dyn Fn() -> bool + Send + Sync),
    /// What comes before the next Begin is of no use.
    failed: bool,
}

impl Session<'_> {
    fn pool(&self) -> &Pool {
        &self.receiver.0.pool
    }

    async fn run<S: Stream>(
        mut self,
        wire: &mut Wire<S>,
        arriving: &mut Option<Arriving>,
    ) -> Result<std::convert::Infallible, ReceiveError> {
        if arriving.as_ref().is_some_and(|cut| cut.id().epoch != self.epoch) {
            abandon(self.pool(), self.program, arriving).await;
        }
        let snapshots = self.pool().snapshots(self.program).await?.iter().map(|set| set.id).collect();
        let partial = arriving.as_ref().map(Arriving::partial);
        wire.say(&FromStandby::Have { snapshots, partial }).await?;
        loop {
            let answer = match wire.hear().await? {
                Frame::Message(FromPrimary::Ping) => Some(FromStandby::Pong),
                Frame::Message(FromPrimary::Begin(_)) if !(self.may_send)() => {
                    let (from, program, epoch) = (self.from.clone(), self.program, self.epoch);
                    return wire.refuse(None, ReceiveError::Unauthorised { from, program, epoch }).await;
                }
                Frame::Message(FromPrimary::Begin(begin)) => Some(self.begin(begin, arriving).await?),
                Frame::Message(FromPrimary::Open { .. }) => {
                    return Err(ReceiveError::Protocol("it says twice what it sends"));
                }
                _ if self.failed => None,
                frame => self.part(frame, arriving).await?,
            };
            if let Some(answer) = answer {
                wire.say(&answer).await?;
            }
            let highest = self.pool().program(self.program).await?.highest();
            if self.epoch < highest {
                return wire.refuse(Some(highest), ReceiveError::Stale { offered: self.epoch, highest }).await;
            }
        }
    }

    async fn begin(&mut self, begin: Begin, arriving: &mut Option<Arriving>) -> Result<FromStandby, ReceiveError> {
        let snapshot = begin.snapshot;
        if snapshot.epoch != self.epoch {
            return Err(ReceiveError::Protocol("it sends snapshots of another epoch"));
        }
        self.failed = false;
        if begin.resume && arriving.as_mut().is_some_and(|cut| cut.resume(&begin, clock::now())) {
            return Ok(FromStandby::Ready { snapshot });
        }
        abandon(self.pool(), self.program, arriving).await;
        let sets = self.pool().snapshots(self.program).await?;
        if sets.iter().any(|set| set.id == snapshot) {
            self.failed = true;
            return Ok(FromStandby::Done { snapshot });
        }
        if begin.resume {
            return Ok(self.fail(snapshot, &"the beginning that it was to go on from is gone"));
        }
        if begin.parent.is_some_and(|parent| !sets.iter().any(|set| set.id == parent)) {
            self.failed = true;
            return Ok(FromStandby::UnknownParent { snapshot });
        }
        match Arriving::new(begin, clock::now(), self.receiver.0.limits.factor) {
            Ok(new) => {
                *arriving = Some(new);
                Ok(FromStandby::Ready { snapshot })
            }
            Err(error) => Ok(self.fail(snapshot, &error)),
        }
    }

    /// A part of the snapshot that arrives.
    async fn part(
        &mut self,
        frame: Frame<FromPrimary>,
        arriving: &mut Option<Arriving>,
    ) -> Result<Option<FromStandby>, ReceiveError> {
        let Some(current) = arriving.as_mut() else {
            return Err(ReceiveError::Protocol("it sends bytes of no snapshot"));
        };
        let snapshot = current.id();
        let result = match frame {
            Frame::Bytes(bytes) => current.feed(self.pool(), self.program, &bytes).await,
            Frame::Message(FromPrimary::Age { taken_ago_ms }) => {
                current.taken_ago(Duration::from_millis(taken_ago_ms));
                Ok(())
            }
            Frame::Message(FromPrimary::End { digest }) => current.end_volume(&digest).await,
            Frame::Message(_) => return Err(ReceiveError::Protocol("it sends something else than a volume")),
        };
        let result = match result {
            Ok(()) if !current.is_whole() => return Ok(None),
            Ok(()) => self.commit(current).await.map_err(Problem::from),
            Err(problem) => Err(problem),
        };
        let answer = match result {
            Ok(()) => {
                *arriving = None;
                return Ok(Some(FromStandby::Done { snapshot }));
            }
            Err(Problem::Volumes(Error::UnknownParent)) => {
                self.failed = true;
                FromStandby::UnknownParent { snapshot }
            }
            Err(problem) => self.fail(snapshot, &problem),
        };
        abandon(self.pool(), self.program, arriving).await;
        Ok(Some(answer))
    }

    fn fail(&mut self, snapshot: SnapshotId, reason: &dyn std::fmt::Display) -> FromStandby {
        self.failed = true;
        let reason = reason.to_string();
        warn!(program = %self.program, %snapshot, %reason, "did not take in a snapshot");
        FromStandby::Failed { snapshot, reason }
    }

    /// The set is complete, and counts from now on. The one before stays, as the other side may not hear of it.
    async fn commit(&self, arrived: &Arriving) -> Result<(), Error> {
        let begin = arrived.begin();
        let id = begin.snapshot;
        self.pool().commit_received(self.program, id, begin.taken, begin.volumes.clone()).await?;
        let newest = arrived.age().map(|(at, age)| Newest { id, at, age });
        *self.copy.newest.lock().expect("no code panics while it holds this lock") = newest;
        let sets = self.pool().snapshots(self.program).await?;
        let before = sets.iter().map(|set| set.id).filter(|before| *before < id).max();
        let keep: Vec<_> = before.into_iter().chain([id]).collect();
        if let Err(error) = self.pool().prune(self.program, &keep).await {
            warn!(program = %self.program, %error, "cannot delete old copies, trying again with the next");
        }
        Ok(())
    }
}
