//! The body of a request that is passed on.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Duration, Instant};

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of a request, as it came.
pub trait Source: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static> Source for B {}

/// The body of a request: what of it is there already, and the rest as it comes.
#[derive(Debug)]
pub struct Upload<B> {
    first: Option<Bytes>,
    rest: Option<B>,
    /// How far it is, for who waits for the answer.
    progress: Option<Arc<Progress>>,
}

/// How far an upload is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// When something came, or was taken, last: nanoseconds of this process.
    last: AtomicU64,
    /// Whether it is the client's turn.
    waits_for_client: AtomicBool,
    /// Whether it broke off.
    broken: AtomicBool,
}

impl<B: Source> Upload<B> {
    /// Nothing.
    pub fn empty() -> Self {
        Self { first: None, rest: None, progress: None }
    }

    /// Everything that comes.
    pub fn new(body: B) -> Self {
        Self { first: None, rest: (!body.is_end_stream()).then_some(body), progress: None }
    }

    /// Whether some of it is still to come.
    pub(crate) fn is_coming(&self) -> bool {
        self.rest.is_some()
    }

    /// Whether there is nothing of it.
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_none()
    }

    /// Takes what has arrived: short bodies arrive with their heads.
    pub(crate) fn take_what_is_there(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        let Some(rest) = &mut self.rest else { return Ok(()) };
        // What has no known length may have trailers.
        let Some(announced) = rest.size_hint().exact() else { return Ok(()) };
        if let Poll::Ready(frame) = Pin::new(&mut *rest).poll_frame(cx) {
            let frame = frame.transpose().map_err(Into::into)?;
            if frame.is_none() && announced > 0 {
                return Err("it ended before it was as long as its headers say".into());
            }
            self.first = frame.and_then(|frame| frame.into_data().ok());
            if rest.is_end_stream() || self.first.is_none() {
                self.rest = None;
            }
        }
        Ok(())
    }

    /// Has its progress noted from now on.
    pub(crate) fn watch(&mut self) -> Arc<Progress> {
        let progress = Arc::new(Progress::default());
        progress.note(false);
        self.progress = Some(progress.clone());
        progress
    }
}

impl Progress {
    fn note(&self, waits_for_client: bool) {
        // Being asked again while there is nothing is no progress.
        if !(self.waits_for_client.swap(waits_for_client, Ordering::Relaxed) && waits_for_client) {
            self.last.store(nanos(), Ordering::Relaxed);
        }
    }

    /// Whether the upload broke off.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// When the upload stood still last, and whether for the client.
    pub(crate) fn last(&self) -> (Instant, bool) {
        let last = Duration::from_nanos(self.last.load(Ordering::Relaxed));
        (epoch() + last, self.waits_for_client.load(Ordering::Relaxed))
    }
}

/// When this process began to measure.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

fn nanos() -> u64 {
    let elapsed = Instant::now().saturating_duration_since(epoch());
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

impl<B: Source> Body for Upload<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Self { rest, progress, .. } = &mut *self;
        let Some(body) = rest else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if let Some(progress) = progress {
            progress.note(polled.is_pending());
        }
        let frame = ready!(polled);
        if let (Some(Err(_)), Some(progress)) = (&frame, progress) {
            progress.broken.store(true, Ordering::Relaxed);
        }
        if frame.is_none() {
            *rest = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        let mut hint = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let (lower, upper) = (hint.lower() + first, hint.upper().map(|upper| upper + first));
        // The upper bound first: a lower one above it is refused.
        match upper {
            Some(upper) => hint.set_upper(upper),
            None => hint = SizeHint::new(),
        }
        hint.set_lower(lower);
        hint
    }
}
