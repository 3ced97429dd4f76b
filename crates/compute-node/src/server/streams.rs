//! Streams of HTTP/2. A client may take nothing of an answer and go on saying that it is there: its stream is reset then, so that its
//! request is not inside the program for ever. (A client of HTTP/1.1 has its whole connection for that, see [`super::client`].)
//!
//! hyper has a task for each stream, which asks the body for more as long as the client takes it. So a task waits for its client when
//! the body gave something the last time it was asked, and for the program otherwise.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep};

thread_local! {
    /// What the body of the stream that is being polled gave: whether it was something. `None` if it was not asked.
    static GAVE: Cell<Option<bool>> = const { Cell::new(None) };
}

/// The body of a stream's answer was asked, and this says whether it gave something.
pub(super) fn asked(gave: bool) {
    GAVE.set(Some(gave));
}

/// Starts the tasks of streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams {
    /// How long a client may take nothing of an answer.
    pub(super) idle: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        let watched = Watched {
            stream: Box::pin(stream),
            idle: self.idle,
            waits_for_client: false,
            alarm: Box::pin(sleep(self.idle)),
        };
        tokio::spawn(watched);
    }
}

/// A stream that ends when its client takes nothing of its answer for too long. Dropped, hyper resets it.
struct Watched<F> {
    stream: Pin<Box<F>>,
    idle: Duration,
    waits_for_client: bool,
    alarm: Pin<Box<Sleep>>,
}

impl<F: Future> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        GAVE.set(None);
        if self.stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Some(gave) = GAVE.take() {
            self.waits_for_client = gave;
            let until = Instant::now() + self.idle;
            self.alarm.as_mut().reset(until);
        }
        if self.waits_for_client { self.alarm.as_mut().poll(cx) } else { Poll::Pending }
    }
}
