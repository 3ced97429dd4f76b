//! Follows another message node through its public API, so that this one has the same messages and files.
//!
//! A session opens the stream first and lists everything then, so that nothing falls between the two; afterwards it takes
//! what is streamed and lists again from time to time ([`crate::core::follow`]). A node without a stream is listed more
//! often. What it says proves nothing: signatures, hashes and this node's own rules decide, as for everything that arrives.
//!
//! What is known already is not fetched again, so a list costs little. A message whose file cannot be had is left out, and
//! tried again when everything is listed the next time.

mod fetch;

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use protocol::api::message_node::{MessageFilter, StoredMessage};
use protocol::client::{ClientError, MessageNode, Pauses};
use protocol::message::{Envelope, ForgetContent, MessageType, parse_content};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{now_us, seconds};
use crate::config::FollowConfig;
use crate::node::Node;
use crate::pipeline::SubmitError;
use crate::store::{StoreError, follow, messages, pending};

/// Messages whose files are fetched at the same time.
const FETCHES: usize = 4;
/// How often a node is listed that streams.
const LIST_EVERY: Duration = Duration::from_secs(600);
/// How often a node is listed that does not.
const POLL_EVERY: Duration = Duration::from_secs(10);

/// Why following stopped; it is tried again.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Source(#[from] ClientError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// Follows one message node.
pub(crate) struct Follower {
    node: Node,
    source: MessageNode,
    only: Vec<MessageType>,
    /// What the database knows the source by.
    key: String,
    /// Whether it was logged that there is no stream.
    is_polled: bool,
}

/// A message of the other node, ready to be taken.
enum Ready {
    /// This one has it, or cannot have it.
    Nothing,
    /// To be taken. The content is there if it was needed to see what else is.
    Message(Box<Envelope>, Option<String>),
}

/// Whether an error says something of the other node, and not of the one file that was asked for. Nodes answer 500 or 504
/// when they look for a file in vain.
fn is_about_the_source(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. }) || matches!(error.status(), Some(429 | 503))
}

impl Follower {
    /// A follower of this node.
    pub(crate) fn new(node: Node, config: &FollowConfig) -> Self {
        let source = MessageNode::new(config.url.as_str());
        let mut types: Vec<String> = config.only.iter().map(ToString::to_string).collect();
        types.sort();
        let key = format!("{} {}", source.url(), types.join(","));
        Self { node, source, only: config.only.clone(), key, is_polled: false }
    }

    /// Follows until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut pauses = Pauses::default();
        loop {
            let ended = stop.run_until_cancelled(self.session(&mut pauses)).await;
            self.node.context.metrics.following.set(0.0);
            let pause = match ended {
                None => return,
                Some(Ok(pause)) => pause,
                Some(Err(error)) => {
                    let pause = pauses.next_pause();
                    tracing::warn!(source = self.source.url(), %error, ?pause, "the other message node cannot be followed");
                    pause
                }
            };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Follows until the connection breaks. Returns how long to wait before the next session when there is no stream.
    async fn session(&mut self, pauses: &mut Pauses) -> Result<Duration, FollowError> {
        let filter = MessageFilter { types: self.only.clone(), ..MessageFilter::default() };
        let stream = self.source.watch(&filter, 0).await;
        self.list().await?;
        self.node.context.metrics.following.set(1.0);
        pauses.reset();
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                if !std::mem::replace(&mut self.is_polled, true) {
                    tracing::warn!(source = self.source.url(), %error, every = ?POLL_EVERY, "no stream: messages are listed");
                }
                return Ok(POLL_EVERY);
            }
        };
        self.is_polled = false;
        tracing::info!(source = self.source.url(), "following");
        let mut next_list = Instant::now() + LIST_EVERY;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next_list) => {
                    self.list().await?;
                    next_list = Instant::now() + LIST_EVERY;
                }
                message = stream.next() => match message {
                    Ok(Some(message)) => self.take(self.prepare(message).await?).await?,
                    Ok(None) => return Ok(Duration::ZERO),
                    Err(error @ ClientError::Malformed { .. }) => self.refused("unreadable", &error),
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }

    /// Takes what is listed, oldest first.
    async fn list(&self) -> Result<(), FollowError> {
        let mut progress = follow::progress(&mut *self.node.db().await?, &self.key).await?;
        let from_us = progress.begin(now_us());
        let filter = MessageFilter {
            types: self.only.clone(),
            start_date: from_us.map(seconds),
            oldest_first: true,
            ..MessageFilter::default()
        };
        let mut cursor = String::new();
        loop {
            let page = self.source.messages(&filter, &cursor).await?;
            if page.unreadable > 0 {
                self.refused("unreadable", &format!("{} messages of a list cannot be read", page.unreadable));
            }
            let last_us = page.messages.last().map(|message| message.envelope.time.as_micros());
            let mut ready = stream::iter(page.messages).map(|message| self.prepare(message)).buffered(FETCHES);
            while let Some(message) = ready.try_next().await? {
                self.take(message).await?;
            }
            drop(ready);
            progress.took(last_us.unwrap_or(0), now_us());
            let mut tx = self.node.store().write().await?;
            follow::keep(&mut tx, &self.key, progress).await?;
            tx.commit().await.map_err(StoreError::from)?;
            self.node.context.metrics.followed_until.set(seconds(progress.until_us));
            match page.next_cursor {
                Some(next) if next != cursor => cursor = next,
                _ => return Ok(()),
            }
        }
    }

    /// Checks a message and fetches what it needs.
    async fn prepare(&self, message: StoredMessage) -> Result<Ready, FollowError> {
        let envelope = message.envelope;
        if !self.only.is_empty() && !self.only.contains(&envelope.message_type) {
            return Ok(Ready::Nothing);
        }
        if self.node.pipeline.knows(&envelope).await? {
            return Ok(Ready::Nothing);
        }
        if let Err(error) = envelope.verify() {
            self.refused(&envelope.item_hash, &error);
            return Ok(Ready::Nothing);
        }
        match self.fetch(&envelope).await {
            Ok(content) => Ok(Ready::Message(Box::new(envelope), content)),
            Err(fetch::Failure::Source(error)) if is_about_the_source(&error) => Err(error.into()),
            Err(fetch::Failure::Store(error)) => Err(error.into()),
            Err(failure) => {
                self.refused(&envelope.item_hash, &failure);
                Ok(Ready::Nothing)
            }
        }
    }

    /// Makes a message durable. It is decided as if somebody had submitted it.
    async fn take(&self, ready: Ready) -> Result<(), FollowError> {
        let Ready::Message(envelope, content) = ready else { return Ok(()) };
        if let Some(content) = content.filter(|_| envelope.message_type == MessageType::Forget)
            && !self.concerns(&content).await?
        {
            return Ok(());
        }
        let mut pauses = Pauses::default();
        loop {
            match self.node.pipeline.submit((*envelope).clone(), None).await {
                Ok(_) => break,
                Err(SubmitError::Busy(_)) => tokio::time::sleep(pauses.next_pause()).await,
                Err(error) => return Err(error.into()),
            }
        }
        self.node.context.metrics.followed.increment(1);
        Ok(())
    }

    /// Whether any message that a FORGET takes back is here. The other node does not list what was taken back, so most
    /// often there is nothing to do, and waiting for such a message would be in vain.
    async fn concerns(&self, content: &str) -> Result<bool, FollowError> {
        // What cannot be read is rejected by the rules.
        let Ok(forget) = parse_content::<ForgetContent>(content) else { return Ok(true) };
        let mut db = self.node.db().await.map_err(FollowError::Store)?;
        for hash in forget.hashes.iter().chain(&forget.aggregates) {
            if messages::standing(&mut db, hash).await?.is_some() || pending::exists(&mut db, hash).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn refused(&self, item_hash: &str, why: &dyn std::fmt::Display) {
        self.node.context.metrics.follow_refused.increment(1);
        tracing::warn!(source = self.source.url(), item_hash, %why, "a message of the other node is left out");
    }
}
