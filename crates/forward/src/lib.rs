//! Passes a request on and its answer back, as they are: streaming both ways, upgrades included.
//!
//! ```text
//!  request ─▶ a kept connection, or a new one ─▶ head of the answer ─▶ Answer: streams, then keeps the connection
//!               ▲                │ broke before it answered
//!               └────────────────┘ once, if it may be repeated
//! ```

mod answer;
mod headers;
mod io;
mod leader;
mod pool;
mod upload;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, EXPECT, HeaderValue, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::time::{Instant, timeout_at};

pub use self::answer::Answer;
use self::headers::{pass_request, strip_hop_by_hop, upgrade_of};
pub use self::io::{Connect, Origin, UnixSocket};
pub use self::leader::Leader;
pub use self::pool::Pool;
use self::pool::{Failed, InUse};
use self::upload::Progress;
pub use self::upload::{BoxError, Source, Upload};

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until the answer begins, since the request was there or, while its body comes, since the last piece of that was taken.
    pub head: Duration,
    /// Until the answer is over, if that is limited, too.
    pub whole: Option<Duration>,
    /// How long the client may send nothing of a body that it has announced.
    pub client: Duration,
}

/// Why there is no answer to pass back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The answer did not begin in time.
    #[error("no answer within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// The client sent nothing of the request's body for so long.
    #[error("nothing of the request's body came for {} s", .0.as_secs())]
    ClientTooSlow(Duration),
    /// The request's body broke off, or is not what its headers say.
    #[error("the request's body is broken: {0}")]
    BadBody(String),
    /// There is no connection, so nothing was sent.
    #[error("{0}")]
    Unreachable(String),
    /// The connection broke, or what came was no answer. The request may have been acted upon.
    #[error("{0}")]
    Broken(String),
}

/// Sends a request to an origin at `path`, and keeps `visit` as long as anything of it is under way.
///
/// A request is sent a second time only if the connection had been used before, broke before it answered, and either nothing of
/// the request was sent or its method is one that may be repeated and it has no body (RFC 9110, 9.2.2).
///
/// # Errors
/// [`ForwardError`], before anything of an answer was there.
pub async fn forward<C: Connect, B: Source, V: Send + Sync + Unpin + 'static>(
    pool: &Arc<Pool<C, B>>,
    mut request: Request<Upload<B>>,
    path: PathAndQuery,
    limits: Limits,
    visit: V,
) -> Result<Response<Answer<C, B, V>>, ForwardError> {
    let began = Instant::now();
    let upgrade = upgrade_of(request.headers());
    let is_upgrade = upgrade.is_some();
    let client_side = is_upgrade.then(|| hyper::upgrade::on(&mut request));
    let version = request.version();
    pass_request(request.headers_mut(), version, upgrade);
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    // To look at a body is to ask for it.
    if request.body().is_coming() && !request.headers().contains_key(EXPECT) {
        let looked = std::future::poll_fn(|cx| std::task::Poll::Ready(request.body_mut().take_what_is_there(cx))).await;
        looked.map_err(|error| ForwardError::BadBody(innermost(&*error)))?;
    }
    if request.body().size_hint().exact().is_none() && !request.headers().contains_key(CONTENT_LENGTH) {
        // Otherwise a GET would lose it.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let progress = request.body().is_coming().then(|| request.body_mut().watch());
    let exchange = exchange(pool, request, is_upgrade, progress.as_deref());
    let (mut response, connection) = in_time(began, limits, progress.as_deref(), exchange).await??;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client_side) = client_side else {
            return Err(ForwardError::Broken("it switched to another protocol, which nobody asked for".to_owned()));
        };
        let program_side = hyper::upgrade::on(&mut response);
        connection.give_back();
        tokio::spawn(async move {
            let _visit = visit;
            if let (Ok(client), Ok(program)) = (client_side.await, program_side.await) {
                // Either side may break off whenever it likes.
                let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(program)).await;
            }
        });
        return Ok(response.map(|_| Answer::empty()));
    }
    strip_hop_by_hop(response.headers_mut());
    // Connections to clients are of their own version.
    *response.version_mut() = Version::HTTP_11;
    let deadline = limits.whole.map(|whole| began + whole);
    Ok(response.map(|body| Answer::new(body, connection, deadline, visit)))
}

/// Sends the request on a kept connection, or on a new one if there is none or it turns out to be closed.
async fn exchange<C: Connect, B: Source>(
    pool: &Arc<Pool<C, B>>,
    mut request: Request<Upload<B>>,
    is_upgrade: bool,
    progress: Option<&Progress>,
) -> Result<(Response<Incoming>, InUse<C, B>), ForwardError> {
    let mut kept = std::future::poll_fn(|cx| std::task::Poll::Ready(pool.take(cx))).await;
    loop {
        let line = match kept.take() {
            Some(line) => line,
            None => pool.connect().await.map_err(|error| ForwardError::Unreachable(innermost(&error)))?,
        };
        let mut connection = if is_upgrade {
            InUse::upgrading(line)
        } else if request.body().is_coming() {
            InUse::in_task(pool.clone(), line)
        } else {
            InUse::here(pool.clone(), line)
        };
        let again = if connection.was_used() && !is_upgrade { repeated(&request) } else { None };
        let Failed { error, unsent } = match connection.send(request).await {
            Ok(response) => return Ok((response, connection)),
            Err(failed) => failed,
        };
        let may_repeat = connection.was_used() && !error.is_parse();
        match unsent.or(again).filter(|_| may_repeat) {
            Some(repeated) => request = repeated,
            None if progress.is_some_and(Progress::is_broken) => return Err(ForwardError::BadBody(innermost(&error))),
            None => return Err(ForwardError::Broken(innermost(&error))),
        }
    }
}

/// Whether a request that may have been acted upon may be sent again: it has no body, whose bytes would be gone, and its method
/// is idempotent (RFC 9110, 9.2.2).
pub fn may_repeat<B: Source>(request: &Request<Upload<B>>) -> bool {
    const IDEMPOTENT: [Method; 6] =
        [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];
    request.body().is_empty() && IDEMPOTENT.contains(request.method())
}

/// The request once more, if it may be sent twice.
fn repeated<B: Source>(request: &Request<Upload<B>>) -> Option<Request<Upload<B>>> {
    may_repeat(request).then(|| without_body(request))
}

/// A request with the same head and no body.
pub fn without_body<B: Source>(request: &Request<Upload<B>>) -> Request<Upload<B>> {
    let mut again = Request::new(Upload::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    again
}

/// Waits as long as it may take.
async fn in_time<T>(
    began: Instant,
    limits: Limits,
    progress: Option<&Progress>,
    exchange: impl Future<Output = T>,
) -> Result<T, ForwardError> {
    let mut exchange = std::pin::pin!(exchange);
    loop {
        let (last, waits_for_client) = progress.map_or((began, false), Progress::last);
        let (limit, error) = if waits_for_client {
            (limits.client, ForwardError::ClientTooSlow(limits.client))
        } else {
            (limits.head, ForwardError::TooSlow(limits.head))
        };
        let (until, error) = match limits.whole {
            Some(whole) if began + whole <= last + limit => (began + whole, ForwardError::TooSlow(whole)),
            _ => (last + limit, error),
        };
        let now = Instant::now();
        if until <= now {
            return Err(error);
        }
        // It may become the client's turn, or be it no longer.
        let look = if progress.is_some() { until.min(now + limits.client) } else { until };
        if let Ok(done) = timeout_at(look, &mut exchange).await {
            return Ok(done);
        }
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
