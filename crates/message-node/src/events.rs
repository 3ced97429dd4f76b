//! The stream of messages as they are processed, and as their status changes.
//!
//! Every subscriber has its own place in one bounded queue. One that falls behind by more than the queue is told so and
//! closed, instead of being buffered for without end: it lists what it missed and subscribes again. So do all of them when
//! the process lost the right to write, and it is not known what it was the last to decide.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::ws::Utf8Bytes;
use protocol::api::message_node::MessageStatus;
use tokio::sync::broadcast;

use crate::filter::Traits;

/// What is told of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// It was processed.
    Arrived,
    /// It is in force again, after it was removed.
    Back,
    /// It has another status.
    Status(MessageStatus),
}

impl News {
    /// The word for it in the journal.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Back => "back",
            Self::Status(status) => status.as_str(),
        }
    }

    /// What the word stands for.
    ///
    /// # Errors
    /// When it is none of them.
    pub(crate) fn from_word(word: &str) -> serde_json::Result<Self> {
        match word {
            "arrived" => Ok(Self::Arrived),
            "back" => Ok(Self::Back),
            status => serde_json::from_value(status.into()).map(Self::Status),
        }
    }
}

/// A message that something is told of.
#[derive(Debug)]
pub(crate) struct Event {
    /// What it is filtered by.
    pub traits: Traits,
    /// What is told of it.
    pub news: News,
    /// The message as clients read it.
    pub json: Utf8Bytes,
}

impl Event {
    /// The event of a message.
    pub(crate) fn new(traits: Traits, news: News, json: String) -> Self {
        let json = Utf8Bytes::try_from(Bytes::from(json)).expect("a string is UTF-8");
        Self { traits, news, json }
    }
}

/// The queue of events.
#[derive(Debug)]
pub(crate) struct Events {
    sender: Mutex<broadcast::Sender<Arc<Event>>>,
    queue: usize,
}

impl Events {
    /// A queue of this many messages.
    pub(crate) fn new(queue: usize) -> Self {
        let queue = queue.max(1);
        Self { sender: Mutex::new(broadcast::Sender::new(queue)), queue }
    }

    /// Tells all subscribers of something that is durable.
    pub(crate) fn publish(&self, event: Event) {
        // An error means that nobody listens.
        let _ = self.sender.lock().unwrap_or_else(PoisonError::into_inner).send(Arc::new(event));
    }

    /// What happens from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).subscribe()
    }

    /// Something may have happened that nobody is told of: ends what all have subscribed to, so that they list what they
    /// missed and subscribe again.
    pub(crate) fn interrupt(&self) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = broadcast::Sender::new(self.queue);
    }
}
