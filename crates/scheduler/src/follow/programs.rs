//! What shall run: the PROGRAM messages of the message node.
//!
//! A session opens the stream first and lists everything then, so that nothing falls between the two; afterwards it applies
//! the stream and lists again from time to time. A program that is not in the list any more is not gone: the message node is
//! asked about it, and only "forgotten", "rejected" and "removed" count. So a scheduler that was down learns exactly what it
//! missed, and a message node that lost its memory stops nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use protocol::ProgramId;
use protocol::api::message_node::{MessageFilter, MessageStatus, StoredMessage};
use protocol::client::{ClientError, MessageNode, Pauses};
use protocol::message::{ForgetContent, MessageType, parse_content};
use protocol::network::NODE_OPERATION_POST;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Following;
use super::nodes::NodeList;
use super::verify::read;
use crate::core::{Event, Gone, Origin};
use crate::engine::Input;

/// How soon a program is asked about again that a FORGET names and that is still in force.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often programs are listed when there is no stream.
const POLL: Duration = Duration::from_secs(10);
/// Messages that are remembered as unusable at most, so that they are not checked and logged again with every list.
const MAX_UNUSABLE: usize = 10_000;

/// Follows the programs.
pub(crate) struct Programs {
    client: MessageNode,
    engine: mpsc::Sender<Input>,
    /// The programs that the core knows as desired.
    desired: BTreeSet<ProgramId>,
    /// Those of them of which it does not know more than that.
    unread: BTreeSet<ProgramId>,
    /// Messages of the list that are no persistent programs: they never change, so they are looked at once.
    others: BTreeSet<String>,
    status: watch::Sender<Following>,
    nodes: NodeList,
    resync: Duration,
    /// When everything is listed again.
    next_sync: Instant,
    /// Whether it was logged that there is no stream.
    is_polled: bool,
}

impl Programs {
    /// A follower that starts with the programs that the database knows, and those of them of which it knows only the id.
    pub(crate) fn new(
        client: MessageNode,
        engine: mpsc::Sender<Input>,
        (desired, unread): (BTreeSet<ProgramId>, BTreeSet<ProgramId>),
        status: watch::Sender<Following>,
        nodes: NodeList,
        resync: Duration,
    ) -> Self {
        let next_sync = Instant::now();
        Self {
            client,
            engine,
            desired,
            unread,
            others: BTreeSet::new(),
            status,
            nodes,
            resync,
            next_sync,
            is_polled: false,
        }
    }

    /// Follows until the shutdown.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut pauses = Pauses::default();
        loop {
            let pause = match shutdown.run_until_cancelled(self.session(&mut pauses)).await {
                None => return,
                Some(Ok(())) => POLL.min(self.resync),
                Some(Err(error)) => {
                    let pause = pauses.next_pause();
                    tracing::warn!(
                        %error, ?pause, "the message node cannot be followed; what is known stays, and it is tried again"
                    );
                    self.status.send_modify(|status| status.failure = Some(error.to_string()));
                    pause
                }
            };
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Follows until the connection breaks. Returns at once, when everything was listed, if there is no stream.
    async fn session(&mut self, pauses: &mut Pauses) -> Result<(), ClientError> {
        let types = vec![MessageType::Program, MessageType::Forget, MessageType::Post];
        // Named, so that what is not paid for any more is told as well.
        let statuses = vec![MessageStatus::Processed, MessageStatus::Removing, MessageStatus::Removed];
        let stream = self.client.watch(&MessageFilter { types, statuses, ..MessageFilter::default() }, 0).await;
        // Without a stream there is still the list: better late than never.
        self.sync().await?;
        pauses.reset();
        self.status.send_modify(|status| status.failure = None);
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                if !std::mem::replace(&mut self.is_polled, true) {
                    tracing::warn!(%error, every = ?POLL, "the message node has no stream: its programs are listed");
                }
                return Ok(());
            }
        };
        self.is_polled = false;
        tracing::info!(url = self.client.url(), programs = self.desired.len(), "following the message node");
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(self.next_sync) => self.sync().await?,
                message = stream.next() => match message {
                    Ok(Some(message)) => self.apply(&message).await?,
                    Ok(None) => return Err(self.stream_ended()),
                    Err(error @ ClientError::Malformed { .. }) => {
                        tracing::debug!(%error, "a message that cannot be read is skipped");
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    fn stream_ended(&self) -> ClientError {
        ClientError::Unreachable { url: self.client.url().to_owned(), cause: "it closed the stream".to_owned() }
    }

    /// Lists everything, and asks about what is missing.
    async fn sync(&mut self) -> Result<(), ClientError> {
        let filter = MessageFilter { types: vec![MessageType::Program], ..MessageFilter::default() };
        let (mut listed, mut cursor) = (BTreeSet::new(), String::new());
        loop {
            let page = self.client.messages(&filter, &cursor).await?;
            for message in page.messages {
                if let Ok(id) = message.envelope.item_hash.parse() {
                    listed.insert(id);
                }
                self.take_in(&message, Origin::Listed).await?;
            }
            match page.next_cursor {
                Some(next) if next != cursor => cursor = next,
                _ => break,
            }
        }
        let missing: Vec<ProgramId> = self.desired.difference(&listed).copied().collect();
        for program in missing {
            self.ask_about(program).await?;
        }
        self.next_sync = Instant::now() + self.resync;
        self.status.send_modify(|status| status.has_listed = true);
        Ok(())
    }

    /// A message of the stream.
    async fn apply(&mut self, message: &StoredMessage) -> Result<(), ClientError> {
        match message.envelope.message_type {
            MessageType::Program if message.status.is_some_and(MessageStatus::is_over) => self.ended(message).await,
            MessageType::Program => self.take_in(message, Origin::Published).await,
            MessageType::Forget => self.forget(message).await,
            MessageType::Post => {
                let kind = message.content.as_ref().and_then(|content| content.get("type"));
                if kind.is_some_and(|kind| kind == NODE_OPERATION_POST) {
                    self.nodes.changed();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn take_in(&mut self, message: &StoredMessage, origin: Origin) -> Result<(), ClientError> {
        let hash = &message.envelope.item_hash;
        let known = hash.parse().is_ok_and(|id: ProgramId| self.desired.contains(&id) && !self.unread.contains(&id));
        if known || self.others.contains(hash) {
            return Ok(());
        }
        let program = match read(&self.client, &message.envelope).await {
            Ok(program) => program,
            Err(error @ ClientError::Unreachable { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(program = hash, %error, "a program's content cannot be read; it is tried again");
                return Ok(());
            }
        };
        match program {
            Ok(Some(spec)) => {
                self.desired.insert(spec.id);
                self.unread.remove(&spec.id);
                self.tell(Event::ProgramDesired { spec: Arc::new(spec), origin }).await;
                return Ok(());
            }
            Ok(None) => {}
            Err(why) => tracing::warn!(program = hash, %why, "a program of the message node is ignored"),
        }
        if self.others.len() >= MAX_UNUSABLE {
            self.others.clear();
        }
        self.others.insert(hash.clone());
        Ok(())
    }

    /// Asks about a program that is said to be over; what is said proves nothing.
    async fn ended(&mut self, message: &StoredMessage) -> Result<(), ClientError> {
        let Ok(program) = message.envelope.item_hash.parse() else { return Ok(()) };
        if self.desired.contains(&program) {
            self.ask_about(program).await?;
        }
        Ok(())
    }

    /// Asks about what a FORGET names; the message itself proves nothing.
    async fn forget(&mut self, message: &StoredMessage) -> Result<(), ClientError> {
        let content = match (&message.envelope.item_content, &message.content) {
            (Some(text), _) => parse_content::<ForgetContent>(text).ok(),
            (None, Some(value)) => serde_json::from_value(value.clone()).ok(),
            (None, None) => None,
        };
        for hash in content.map(|content| content.hashes).unwrap_or_default() {
            let Ok(program) = hash.parse() else { continue };
            if self.desired.contains(&program) && !self.ask_about(program).await? {
                self.next_sync = self.next_sync.min(Instant::now() + ASK_AGAIN);
            }
        }
        Ok(())
    }

    /// Asks whether a program is still in force. Returns whether it certainly is not.
    async fn ask_about(&mut self, program: ProgramId) -> Result<bool, ClientError> {
        let status = match self.client.message(&program.to_string()).await {
            Ok(Some(answer)) => answer.status,
            Ok(None) => {
                tracing::warn!(%program, "the message node does not know a program that runs here; it keeps running");
                return Ok(false);
            }
            Err(error @ ClientError::Unreachable { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(%program, %error, "the message node does not say whether a program is in force");
                return Ok(false);
            }
        };
        let Some(evidence) = evidence(status) else { return Ok(false) };
        tracing::info!(%program, evidence = evidence.as_str(), "the program is not desired any more");
        self.desired.remove(&program);
        self.unread.remove(&program);
        self.tell(Event::ProgramGone { program, evidence }).await;
        Ok(true)
    }

    async fn tell(&self, event: Event) {
        // An error means that the scheduler is stopping.
        let _ = self.engine.send(Input::Event(event)).await;
    }
}

fn evidence(status: MessageStatus) -> Option<Gone> {
    match status {
        MessageStatus::Forgotten => Some(Gone::Forgotten),
        MessageStatus::Rejected => Some(Gone::Rejected),
        MessageStatus::Removed => Some(Gone::Removed),
        MessageStatus::Pending | MessageStatus::Processed | MessageStatus::Removing => None,
    }
}
