//! The body of an answer that is passed back.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::io::Connect;
use crate::pool::InUse;
use crate::upload::{BoxError, Source};

/// Why an answer breaks off that is not over in time.
const TOO_LONG: &str = "the answer took longer than it may";

/// The body of an answer, with the connection that it comes on and what must be kept until it is over.
pub struct Answer<C: Connect, B: Source, V>(State<C, B, V>);

enum State<C: Connect, B: Source, V> {
    /// All of it, or nothing any more.
    Whole(Option<Bytes>),
    /// It comes.
    Coming(Box<Coming<C, B, V>>),
}

struct Coming<C: Connect, B: Source, V> {
    /// What came with the head.
    first: Option<Result<Frame<Bytes>, hyper::Error>>,
    body: Incoming,
    connection: InUse<C, B>,
    /// When it is cut off.
    deadline: Option<Instant>,
    /// Wakes then.
    alarm: Option<Pin<Box<Sleep>>>,
    _visit: V,
}

impl<C: Connect, B: Source, V> Answer<C, B, V> {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self(State::Whole(None))
    }

    /// The body of an answer whose head just came. A short one came with its head: then the connection is free at once.
    pub(crate) fn new(mut body: Incoming, connection: InUse<C, B>, deadline: Option<Instant>, visit: V) -> Self {
        if body.is_end_stream() {
            connection.give_back();
            return Self::empty();
        }
        let first = match connection.has_come(|cx| Pin::new(&mut body).poll_frame(cx)) {
            Some(Some(Ok(frame))) if frame.is_data() && body.is_end_stream() => {
                connection.give_back();
                return Self(State::Whole(frame.into_data().ok()));
            }
            Some(None) => {
                connection.give_back();
                return Self::empty();
            }
            Some(Some(frame)) => Some(frame),
            None => None,
        };
        Self(State::Coming(Box::new(Coming { first, body, connection, deadline, alarm: None, _visit: visit })))
    }
}

impl<C: Connect, B: Source, V> Coming<C, B, V> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first.map_err(Into::into)));
        }
        // Looked at in any case: what always has something more never waits.
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Poll::Ready(Some(Err(TOO_LONG.into())));
        }
        let body = &mut self.body;
        let polled = self.connection.poll(cx, |cx| Pin::new(&mut *body).poll_frame(cx));
        if polled.is_pending()
            && let Some(deadline) = self.deadline
        {
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if alarm.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(Err(TOO_LONG.into())));
            }
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_over(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }
}

impl<C: Connect, B: Source, V: Unpin> Body for Answer<C, B, V> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let coming = match &mut self.0 {
            State::Whole(body) => return Poll::Ready(body.take().map(|data| Ok(Frame::data(data)))),
            State::Coming(coming) => coming,
        };
        let polled = coming.poll_frame(cx);
        let ends = match &polled {
            Poll::Ready(Some(Ok(_))) => coming.is_over(),
            Poll::Ready(_) => true,
            Poll::Pending => false,
        };
        if ends && let State::Coming(coming) = std::mem::replace(&mut self.0, State::Whole(None)) {
            // One that broke off is not for anybody else.
            if !matches!(polled, Poll::Ready(Some(Err(_)))) {
                coming.connection.give_back();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Whole(body) => body.is_none(),
            State::Coming(coming) => coming.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |data| data.len() as u64)),
            State::Coming(coming) => {
                let first = coming.first.as_ref().and_then(|first| first.as_ref().ok()?.data_ref());
                let first = first.map_or(0, |data| data.len() as u64);
                match coming.body.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(first + rest),
                    None => SizeHint::default(),
                }
            }
        }
    }
}

impl<C: Connect, B: Source, V> std::fmt::Debug for Answer<C, B, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}
