//! Kept connections to one origin, and who drives them.
//!
//! ```text
//!             take: it is alive                 answer over, request sent
//!  kept ───────────────────────────▶ in use ──────────────────────────────▶ kept
//!   │  closed meanwhile, or unused    ▲  │ given up, broken, not all of the request was read
//!   │  for long                       │  ▼
//!   └──────────▶ closed       connect: none is kept
//! ```
//! Each thread keeps connections of its own: a connection wakes the thread that made it, and no lock is waited for. (One that a
//! task of a runtime with several threads makes may end up at another; it works there as well.)
//!
//! Nobody drives a kept connection: whether it is still open shows when it is taken, or when old ones are swept. One in use is
//! driven by who waits for its answer, in that same task: no answer is handed from task to task or from thread to thread. A
//! request with a body that still comes, and one that upgrades, has a task of its own to drive its connection: both directions
//! flow independently then.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep};

use crate::io::{Connect, Forgiving};
use crate::upload::{Source, Upload};

/// How long an unused connection is kept. Shorter than the 75 s after which the ASGI server closes it.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// How many unused connections to one origin a thread keeps.
const MAX_KEPT: usize = 256;

/// Bytes of a connection that are read before they are passed on, at most; so long may the head of an answer be, too.
const BUFFER: usize = 128 << 10;

/// Boxed once, as it is handed on with each request.
type Connection<C, B> = Box<http1::Connection<Forgiving<<C as Connect>::Io>, Upload<B>>>;

/// The connections to one origin.
pub struct Pool<C: Connect, B: Source> {
    connect: C,
    /// As many as there are processors. Threads that outnumber them share.
    kept: Box<[Mutex<Kept<C, B>>]>,
}

/// The connections of a thread.
struct Kept<C: Connect, B: Source> {
    /// The one used last is taken first.
    lines: Vec<(Line<C, B>, Instant)>,
    /// Whether a task closes those that are not used any more.
    swept: bool,
}

/// A connection.
pub(crate) struct Line<C: Connect, B: Source> {
    sender: SendRequest<Upload<B>>,
    /// `None` once it is closed.
    connection: Option<Connection<C, B>>,
    /// Whether something was answered on it before.
    was_used: bool,
}

/// A connection in use. It is closed when this is dropped.
pub(crate) enum InUse<C: Connect, B: Source> {
    /// Driven by who waits.
    Here(Arc<Pool<C, B>>, Line<C, B>),
    /// Driven by a task, which gets the sender back when the answer is over.
    InTask { sender: SendRequest<Upload<B>>, over: oneshot::Sender<SendRequest<Upload<B>>>, was_used: bool },
}

/// A request that was not answered.
pub(crate) struct Failed<B> {
    pub(crate) error: hyper::Error,
    /// The request, if nothing of it was sent.
    pub(crate) unsent: Option<Request<Upload<B>>>,
}

impl<C: Connect, B: Source> Pool<C, B> {
    /// No connection yet.
    pub fn new(connect: C) -> Arc<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let kept = (0..threads).map(|_| Mutex::new(Kept { lines: Vec::new(), swept: false })).collect();
        Arc::new(Self { connect, kept })
    }

    /// How many unused connections are kept now.
    pub fn kept(&self) -> usize {
        (0..self.kept.len()).map(|place| self.locked(place).lines.len()).sum()
    }

    /// A kept connection that is still open.
    pub(crate) fn take(&self, cx: &mut Context<'_>) -> Option<Line<C, B>> {
        loop {
            let (mut line, _) = self.locked(self.place()).lines.pop()?;
            if line.is_open(cx) {
                return Some(line);
            }
        }
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> io::Result<Line<C, B>> {
        let io = Forgiving(self.connect.connect().await?);
        let (sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER).handshake(io).await.map_err(io::Error::other)?;
        Ok(Line { sender, connection: Some(Box::new(connection)), was_used: false })
    }

    /// Keeps a connection for the next request, if there can be one on it.
    fn keep(self: &Arc<Self>, mut line: Line<C, B>) {
        line.was_used = true;
        if !quietly(|cx| line.is_open(cx)) {
            return;
        }
        let place = self.place();
        let mut kept = self.locked(place);
        if kept.lines.len() < MAX_KEPT {
            kept.lines.push((line, Instant::now()));
        }
        if !kept.swept {
            kept.swept = true;
            tokio::spawn(sweep(Arc::downgrade(self), place));
        }
    }

    /// Where this thread keeps its connections.
    fn place(&self) -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed));
        NUMBER.with(|number| number % self.kept.len())
    }

    fn locked(&self, place: usize) -> MutexGuard<'_, Kept<C, B>> {
        self.kept[place].lock().expect("no code panics while it holds this lock")
    }
}

/// Closes connections of a thread that were not used for long, or that the other side has closed, as long as there are any.
async fn sweep<C: Connect, B: Source>(pool: Weak<Pool<C, B>>, place: usize) {
    loop {
        sleep(KEPT_FOR / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut kept = pool.locked(place);
        kept.lines.retain_mut(|(line, since)| since.elapsed() < KEPT_FOR && quietly(|cx| line.is_open(cx)));
        kept.swept = !kept.lines.is_empty();
        if !kept.swept {
            return;
        }
    }
}

/// Polls what nobody has to be woken for: either it is ready now, or it will be asked again. Not within what tokio lets a task
/// do at a time, as being told to come back later would be lost.
fn quietly<T>(poll: impl FnMut(&mut Context<'_>) -> T) -> T {
    let mut poll = poll;
    let mut polled = std::pin::pin!(unconstrained(std::future::poll_fn(|cx| Poll::Ready(poll(cx)))));
    match polled.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("it is always ready"),
    }
}

impl<C: Connect, B: Source> Line<C, B> {
    /// Lets the connection do what it can do now.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    /// Whether a request can be sent: it is not closed, and nothing is under way on it.
    fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.connection.is_some() && self.sender.is_ready()
    }
}

impl<C: Connect, B: Source> InUse<C, B> {
    /// A connection for a request that has all its body.
    pub(crate) fn here(pool: Arc<Pool<C, B>>, line: Line<C, B>) -> Self {
        Self::Here(pool, line)
    }

    /// A connection for a request whose body still comes.
    pub(crate) fn in_task(pool: Arc<Pool<C, B>>, line: Line<C, B>) -> Self {
        let Line { sender, connection, was_used } = line;
        let (over, mut is_over) = oneshot::channel();
        tokio::spawn(async move {
            let Some(mut connection) = connection else { return };
            let sender = std::future::poll_fn(|cx| {
                if Pin::new(&mut connection).poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                // Dropped when the answer was given up: the connection is, too.
                Pin::new(&mut is_over).poll(cx).map(Result::ok)
            });
            if let Some(sender) = sender.await {
                pool.keep(Line { sender, connection: Some(connection), was_used });
            }
        });
        Self::InTask { sender, over, was_used }
    }

    /// A connection for a request that wants to upgrade: after that it goes on without anybody.
    pub(crate) fn upgrading(line: Line<C, B>) -> Self {
        let Line { sender, connection, was_used } = line;
        let (over, is_over) = oneshot::channel();
        tokio::spawn(async move {
            let Some(connection) = connection else { return };
            let mut connection = connection.with_upgrades();
            tokio::select! {
                _ = &mut connection => {}
                // Without a sender it ends by itself, unless it was upgraded.
                Ok(sender) = is_over => {
                    drop::<SendRequest<Upload<B>>>(sender);
                    let _ = connection.await;
                }
                // Given up, it is closed by hyper: nobody waits for what comes on it.
            }
        });
        Self::InTask { sender, over, was_used }
    }

    pub(crate) fn was_used(&self) -> bool {
        match self {
            Self::Here(_, line) => line.was_used,
            Self::InTask { was_used, .. } => *was_used,
        }
    }

    /// Sends the request; the head of its answer.
    pub(crate) async fn send(&mut self, request: Request<Upload<B>>) -> Result<Response<Incoming>, Failed<B>> {
        let answer = match self {
            Self::InTask { sender, .. } => sender.try_send_request(request).await,
            Self::Here(_, line) => {
                let mut answer = std::pin::pin!(line.sender.try_send_request(request));
                let connection = &mut line.connection;
                std::future::poll_fn(|cx| {
                    if let Some(driven) = connection
                        && Pin::new(driven).poll(cx).is_ready()
                    {
                        *connection = None;
                    }
                    // What it waits for happens while the connection is driven, so nobody has to wake it.
                    quietly(|cx| answer.as_mut().poll(cx))
                })
                .await
            }
        };
        answer.map_err(|mut failed| Failed { unsent: failed.take_message(), error: failed.into_error() })
    }

    /// Asks something that waits for the connection, and lets the connection do what it can do.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut ask: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match self {
            Self::InTask { .. } => ask(cx),
            Self::Here(_, line) => {
                if let Poll::Ready(answer) = quietly(&mut ask) {
                    return Poll::Ready(answer);
                }
                line.drive(cx);
                quietly(ask)
            }
        }
    }

    /// What has come already, if it is driven here; who drives it elsewhere is asked later.
    pub(crate) fn has_come<T>(&self, ask: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
        match self {
            Self::InTask { .. } => None,
            Self::Here(..) => match quietly(ask) {
                Poll::Ready(answer) => Some(answer),
                Poll::Pending => None,
            },
        }
    }

    /// The answer is over: the connection is for the next request.
    pub(crate) fn give_back(self) {
        match self {
            Self::Here(pool, line) => pool.keep(line),
            // It may have ended.
            Self::InTask { sender, over, .. } => drop(over.send(sender)),
        }
    }
}

impl<C: Connect, B: Source> std::fmt::Debug for Pool<C, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("kept", &self.kept()).finish_non_exhaustive()
    }
}
