//! The stream of messages as they are processed, and as their status changes.
//!
//! Every subscriber has its own place in one bounded queue. One that falls behind by more than the queue is told so and
//! closed, instead of being buffered for without end: it lists what it missed and subscribes again.

use std::sync::Arc;

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
#[derive(Debug, Clone)]
pub(crate) struct Events {
    sender: broadcast::Sender<Arc<Event>>,
}

impl Events {
    /// A queue of this many messages.
    pub(crate) fn new(queue: usize) -> Self {
        Self { sender: broadcast::Sender::new(queue.max(1)) }
    }

    /// Tells all subscribers of something that is durable.
    pub(crate) fn publish(&self, event: Event) {
        // An error means that nobody listens.
        let _ = self.sender.send(Arc::new(event));
    }

    /// What happens from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.subscribe()
    }
}
