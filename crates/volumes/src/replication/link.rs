//! The connection of a replicator to the standby: dialed again and again, and what is sent over it.

use std::future::{pending, ready};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::Epoch;
use protocol::data::{Peer, SnapshotId};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, error::Elapsed, sleep, timeout};
use tracing::info;

use super::core::Event;
use super::secure::{self, SecureError, SecureReader, SecureWriter};
use super::sender::{Shared, Source, Stream, milliseconds};
use super::wire::{self, BadFrame, Begin, CHUNK, Digest, Frame, FromPrimary, FromStandby, Partial};
use crate::core::snapshot::SnapshotSet;
use crate::error::Error;
use crate::process::ProcessStream;

/// How long connecting and proving keys may take, each.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long the other side may take for an answer, or to take in a frame.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often something is said when there is nothing to say.
const PING: Duration = Duration::from_secs(10);

/// The shortest and the longest pause between two tries.
const QUICKEST: Duration = Duration::from_millis(100);
const SLOWEST: Duration = Duration::from_secs(10);

/// Events that wait for the replicator.
const EVENTS: usize = 16;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("cannot connect to the standby: {0}")]
    Dial(io::Error),
    #[error(transparent)]
    Secure(#[from] SecureError),
    #[error(transparent)]
    Frame(#[from] BadFrame),
    #[error("the standby takes nothing: {reason}")]
    Refused { reason: String, highest: Option<Epoch> },
    #[error("the standby answered something else than was asked; both nodes need the same version of aleph-node")]
    Unexpected,
    #[error("the standby does not answer")]
    Silent(#[from] Elapsed),
    #[error(transparent)]
    Volumes(#[from] Error),
    #[error("the replicator is gone")]
    Gone,
}

/// A standby and the connection to it. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    peer: Peer,
    sends: mpsc::UnboundedSender<(SnapshotId, Option<SnapshotId>)>,
    events: mpsc::Receiver<Event>,
    task: AbortHandle,
}

impl Link {
    pub(crate) fn start(source: Arc<Source>, shared: Arc<Shared>, peer: Peer) -> Self {
        // Not more than one is sent at a time: the core waits for it.
        let (sends, to_send) = mpsc::unbounded_channel();
        let (events_sender, events) = mpsc::channel(EVENTS);
        let keeper = Keeper { source, shared, peer: peer.clone(), to_send, events: events_sender, confirmed: false };
        Self { peer, sends, events, task: tokio::spawn(keeper.keep()).abort_handle() }
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(crate) fn send(&self, id: SnapshotId, parent: Option<SnapshotId>) {
        // A task that is gone reports nothing, and is replaced.
        let _ = self.sends.send((id, parent));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the link reports next, if there is one.
pub(crate) async fn next(link: &mut Option<Link>) -> Option<Event> {
    match link {
        Some(link) => link.events.recv().await,
        None => pending().await,
    }
}

struct Keeper {
    source: Arc<Source>,
    shared: Arc<Shared>,
    peer: Peer,
    to_send: mpsc::UnboundedReceiver<(SnapshotId, Option<SnapshotId>)>,
    events: mpsc::Sender<Event>,
    /// Whether a snapshot was confirmed on this connection.
    confirmed: bool,
}

impl Keeper {
    async fn keep(mut self) {
        let mut pause = QUICKEST;
        loop {
            let begun = Instant::now();
            self.confirmed = false;
            let Err(error) = self.session().await;
            if matches!(error, LinkError::Gone) || self.events.send(Event::Disconnected).await.is_err() {
                return;
            }
            self.shared.problem(self.source.program, Some(error.to_string()));
            // One that only connects, and then breaks or refuses, is not to be dialed without a pause.
            if self.confirmed || begun.elapsed() > SLOWEST {
                pause = QUICKEST;
            }
            sleep(pause).await;
            pause = (pause * 2).min(SLOWEST);
        }
    }

    /// One connection, until it is over.
    async fn session(&mut self) -> Result<std::convert::Infallible, LinkError> {
        let Source { account, node, dial, program, epoch, .. } = &*self.source;
        let stream = timeout(HANDSHAKE, dial(self.peer.clone())).await?.map_err(LinkError::Dial)?;
        let proving = secure::dial(stream, account, *node, self.peer.node, &self.peer.account);
        let (reader, writer) = timeout(HANDSHAKE, proving).await??;
        let mut session =
            Session { source: self.source.clone(), shared: self.shared.clone(), reader, writer, partial: None };
        session.say(&FromPrimary::Open { program: *program, epoch: *epoch }).await?;
        let have = match session.hear().await? {
            FromStandby::Have { snapshots, partial } => {
                session.partial = partial;
                snapshots
            }
            _ => return Err(LinkError::Unexpected),
        };
        info!(%program, %epoch, standby = %self.peer.node, "connected to the standby");
        // What the connection before had to send is asked for again.
        while self.to_send.try_recv().is_ok() {}
        self.shared.problem(*program, None);
        self.report(Event::Connected(have)).await?;
        loop {
            tokio::select! {
                send = self.to_send.recv() => {
                    let (id, parent) = send.ok_or(LinkError::Gone)?;
                    let event = session.transfer(id, parent).await?;
                    if event == Event::Confirmed(id) {
                        self.confirmed = true;
                        self.shared.problem(self.source.program, None);
                    }
                    self.report(event).await?;
                }
                () = sleep(PING) => {
                    session.say(&FromPrimary::Ping).await?;
                    let FromStandby::Pong = session.hear().await? else { return Err(LinkError::Unexpected) };
                }
            }
        }
    }

    async fn report(&self, event: Event) -> Result<(), LinkError> {
        self.events.send(event).await.map_err(|_| LinkError::Gone)
    }
}

/// A connection on which both sides have proved their keys.
struct Session {
    source: Arc<Source>,
    shared: Arc<Shared>,
    reader: SecureReader<Box<dyn Stream>>,
    writer: SecureWriter<Box<dyn Stream>>,
    /// What the standby has of a snapshot that was cut off.
    partial: Option<Partial>,
}

/// Where a stream goes on.
struct Position {
    volume: usize,
    stream: Option<ProcessStream>,
    digest: Sha256,
}

impl Session {
    async fn say(&mut self, message: &FromPrimary) -> Result<(), LinkError> {
        self.write(&wire::message(message)).await
    }

    async fn write(&mut self, frame: &[u8]) -> Result<(), LinkError> {
        let sent = timeout(PATIENCE, self.writer.send(frame)).await;
        if !matches!(sent, Ok(Ok(_))) {
            // It may have said why before it went.
            if let Ok(Ok(FromStandby::Refused { reason, highest })) = timeout(QUICKEST, self.hear()).await {
                return Err(LinkError::Refused { reason, highest });
            }
        }
        self.shared.sent.fetch_add(sent??, Ordering::Relaxed);
        Ok(())
    }

    async fn hear(&mut self) -> Result<FromStandby, LinkError> {
        let frame = timeout(PATIENCE, self.reader.receive()).await??;
        read(&frame)
    }

    /// What the standby has said already, if anything.
    async fn heard(&mut self) -> Result<Option<FromStandby>, LinkError> {
        tokio::select! {
            biased;
            frame = self.reader.receive() => Ok(Some(read(&frame?)?)),
            () = ready(()) => Ok(None),
        }
    }

    /// Sends a snapshot.
    async fn transfer(&mut self, id: SnapshotId, parent: Option<SnapshotId>) -> Result<Event, LinkError> {
        let sets = self.source.pool.snapshots(self.source.program).await?;
        let Some(set) = sets.into_iter().find(|set| set.id == id) else {
            self.shared.problem(self.source.program, Some(format!("snapshot {id} is gone before it was sent")));
            return Ok(Event::NotSent);
        };
        let resumed = self.resume(&set, parent).await;
        let begin =
            Begin { snapshot: id, parent, volumes: set.volumes.clone(), taken: set.taken, resume: resumed.is_some() };
        self.say(&FromPrimary::Begin(begin)).await?;
        let answer = self.hear().await?;
        if answer != (FromStandby::Ready { snapshot: id }) {
            return self.outcome(id, answer);
        }
        let age = self.shared.age(id).or_else(|| (chrono::Utc::now() - set.taken).to_std().ok()).unwrap_or_default();
        self.say(&FromPrimary::Age { taken_ago_ms: milliseconds(age) }).await?;
        match self.send_volumes(&set, parent, resumed).await? {
            Some(early) => self.outcome(id, early),
            None => {
                let answer = self.hear().await?;
                self.outcome(id, answer)
            }
        }
    }

    /// What the standby's answer means.
    fn outcome(&self, id: SnapshotId, answer: FromStandby) -> Result<Event, LinkError> {
        match answer {
            FromStandby::Done { snapshot } if snapshot == id => Ok(Event::Confirmed(id)),
            FromStandby::UnknownParent { snapshot } if snapshot == id => Ok(Event::UnknownParent(id)),
            FromStandby::Failed { snapshot, reason } if snapshot == id => {
                let problem = format!("the standby did not take in snapshot {id}: {reason}");
                self.shared.problem(self.source.program, Some(problem));
                Ok(Event::NotSent)
            }
            _ => Err(LinkError::Unexpected),
        }
    }

    /// Sends the volumes from there on. Returns what the standby said before the end.
    async fn send_volumes(
        &mut self,
        set: &SnapshotSet,
        parent: Option<SnapshotId>,
        from: Option<Position>,
    ) -> Result<Option<FromStandby>, LinkError> {
        let mut from = from.unwrap_or(Position { volume: 0, stream: None, digest: Sha256::new() });
        for volume in &set.volumes[from.volume..] {
            let mut stream = match from.stream.take() {
                Some(stream) => stream,
                None => self.source.pool.send(self.source.program, set.id, &volume.name, parent).await?,
            };
            let mut digest = std::mem::take(&mut from.digest);
            loop {
                let chunk = next_chunk(&mut stream).await?;
                if chunk.is_empty() {
                    break;
                }
                if let Some(early) = self.heard().await? {
                    return Ok(Some(early));
                }
                digest.update(&chunk);
                self.shared.changed.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                let frame = wire::pack(&chunk).map_err(|e| Error::Io("compress a stream".to_owned(), e))?;
                self.source.bandwidth.take(frame.len()).await;
                self.write(&frame).await?;
            }
            self.say(&FromPrimary::End { digest: Digest::of(&digest) }).await?;
        }
        Ok(None)
    }

    /// The place where a snapshot goes on that was cut off, if what the standby has is the beginning of what is sent:
    /// `btrfs send` makes the same bytes of the same snapshot and parent.
    async fn resume(&mut self, set: &SnapshotSet, parent: Option<SnapshotId>) -> Option<Position> {
        let partial = self.partial.take().filter(|partial| partial.snapshot == set.id && partial.parent == parent)?;
        let volume = set.volumes.get(partial.volumes)?;
        let mut stream = self.source.pool.send(self.source.program, set.id, &volume.name, parent).await.ok()?;
        let (mut digest, mut left) = (Sha256::new(), partial.offset);
        let mut buffer = vec![0; CHUNK];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read = stream.read(&mut buffer[..wanted]).await.ok().filter(|read| *read > 0)?;
            digest.update(&buffer[..read]);
            left -= read as u64;
        }
        if Digest::of(&digest) != partial.digest {
            return None;
        }
        info!(program = %self.source.program, snapshot = %set.id, bytes = partial.offset, "going on where the stream was cut");
        self.shared.resumed.fetch_add(partial.offset, Ordering::Relaxed);
        Some(Position { volume: partial.volumes, stream: Some(stream), digest })
    }
}

fn read(frame: &[u8]) -> Result<FromStandby, LinkError> {
    match wire::read(frame)? {
        Frame::Message(FromStandby::Refused { reason, highest }) => Err(LinkError::Refused { reason, highest }),
        Frame::Message(message) => Ok(message),
        Frame::Bytes(_) => Err(LinkError::Unexpected),
    }
}

/// The next piece of a stream, as long as there is one; shorter at its end only.
async fn next_chunk(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Error> {
    let mut chunk = Vec::with_capacity(CHUNK);
    stream.take(CHUNK as u64).read_to_end(&mut chunk).await.map_err(|e| Error::Io("send a snapshot".to_owned(), e))?;
    Ok(chunk)
}
