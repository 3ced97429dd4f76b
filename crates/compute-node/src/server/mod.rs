//! Listens, and hands each request to the gateway or to the node's own API.

mod client;
mod streams;
mod threads;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use forward::{BoxError, Upload};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Request, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::ProgramId;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;
use tracing::{debug, warn};

use self::client::{ClientIo, Speaks};
use self::streams::Streams;
use self::threads::Threads;
use crate::config::ClientLimits;
use crate::gateway::{FORWARDED, Gateway, Reply, ReplyBody, Target, admit, host_of, target};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Bytes that are read or kept to be written at a time, of one connection.
const BUFFER: usize = 128 << 10;

/// Requests that one connection of HTTP/2 may have under way.
const MAX_STREAMS: u32 = 128;

/// Bytes that one request, and one connection, of HTTP/2 may send before they are taken.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// How often a client of HTTP/2 is asked whether it is there, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(20);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// How long requests that are under way may take when the node is asked to end.
const DRAIN: Duration = Duration::from_secs(10);

/// What answers requests.
pub(crate) struct Services {
    pub(crate) gateway: Arc<Gateway>,
    /// The node's own API; a gateway without a node has none.
    pub(crate) api: Router,
    /// Where that runs: it may do more than pass bytes on.
    pub(crate) api_runtime: Handle,
    /// Whether it runs nothing itself: owners' requests about programs are for other nodes, and nobody passes requests on to it.
    pub(crate) is_gateway_only: bool,
    /// What clients may do.
    pub(crate) limits: ClientLimits,
}

/// A connection's client.
struct Client {
    services: Arc<Services>,
    /// Its address, as programs see it.
    address: HeaderValue,
    /// Whether it may speak for others.
    is_trusted: bool,
    /// How many of its requests were begun, and how many are under way: until the last of the answer was passed on.
    begun: AtomicUsize,
    under_way: AtomicUsize,
}

/// Serves until `shutdown`; requests that are under way then may finish.
///
/// # Errors
/// When there are no threads to be had that serve.
pub(crate) async fn serve(
    listener: TcpListener,
    services: Arc<Services>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let threads = Threads::start(&services, &shutdown)?;
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        if let Err(error) = accepted.and_then(|(stream, peer)| threads.serve(stream, peer)) {
            // Out of descriptors, most likely: connections that end make room.
            warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    drop(listener);
    threads.end().await;
    Ok(())
}

/// Answers a client's requests until it has no more.
async fn serve_client(stream: TcpStream, peer: SocketAddr, services: Arc<Services>, shutdown: CancellationToken) {
    let limits = services.limits;
    let opened = shutdown.run_until_cancelled(ClientIo::open(stream, limits.header_timeout, limits.idle_timeout)).await;
    let Some(Some((io, speaks))) = opened else { return };
    let client = Arc::new(Client::new(services, peer));
    let answering = client.clone();
    let service = service_fn(move |request| {
        let under_way = UnderWay::new(answering.clone());
        async move {
            let response = under_way.0.answer(request).await;
            Ok::<_, Infallible>(response.map(|body| With(body, under_way)))
        }
    });
    let over = async {
        tokio::select! {
            () = shutdown.cancelled() => Over::Shutdown,
            () = client.is_idle(limits.header_timeout) => Over::Idle,
        }
    };
    let result = match speaks {
        Speaks::Http1 => {
            let connection = http1::Builder::new()
                // The time for a head is looked after by `is_idle`, which needs no timer for each request.
                .header_read_timeout(None)
                .max_header_size(limits.header_bytes)
                .max_buf_size(BUFFER.max(limits.header_bytes))
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades();
            let leave = |connection: Pin<&mut http1::UpgradeableConnection<_, _>>, over| {
                connection.graceful_shutdown();
                // A part of a head may be there that never becomes a whole one.
                matches!(over, Over::Shutdown)
            };
            until_left(pin!(connection), leave, over).await
        }
        Speaks::Http2 => {
            let connection = http2::Builder::new(Streams { idle: limits.idle_timeout })
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(BUFFER)
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PONG_WITHIN)
                .serve_connection(TokioIo::new(io), service);
            let leave = |connection: Pin<&mut http2::Connection<_, _, _>>, _| {
                connection.graceful_shutdown();
                true
            };
            until_left(pin!(connection), leave, over).await
        }
    };
    if let Err(error) = result {
        debug!(%peer, %error, "a connection ended");
    }
}

/// Why a connection is left.
#[derive(Debug, Clone, Copy)]
enum Over {
    /// The node ends.
    Shutdown,
    /// Nothing was asked for long.
    Idle,
}

/// Serves a connection. Once it is `over`, it is asked to `leave`, and, if that says so, served until it has; dropped otherwise.
async fn until_left<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    leave: impl FnOnce(Pin<&mut C>, Over) -> bool,
    over: impl Future<Output = Over>,
) -> hyper::Result<()> {
    // In there it is polled when it was woken, and not each time when something happens on the connection: to look whether the
    // node ends takes a lock that all connections share.
    let mut over: FuturesUnordered<_> = std::iter::once(over).collect();
    let over = tokio::select! {
        biased;
        result = &mut connection => return result,
        Some(over) = over.next() => over,
    };
    if leave(connection.as_mut(), over) { connection.await } else { Ok(()) }
}

impl Client {
    fn new(services: Arc<Services>, peer: SocketAddr) -> Self {
        let address = HeaderValue::from_str(&peer.ip().to_string()).expect("an address is a header's value");
        Self {
            services,
            address,
            is_trusted: peer.ip().is_loopback(),
            under_way: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Reply {
        // It may have had a length as well, by which somebody before this node read it: then what follows is somebody else's
        // request to one of the two. The standard demands to close the connection (RFC 9112, 6.1), and the length is not seen
        // any more here.
        let is_last = request.headers().contains_key(TRANSFER_ENCODING);
        let mut response = self.services.answer(request, self).await;
        if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Waits until there was no request for so long, or half as long again.
    async fn is_idle(&self, time: Duration) {
        const LOOKS: u32 = 2;
        let (mut quiet, mut before) = (0, 0);
        while quiet <= LOOKS {
            tokio::time::sleep(time / LOOKS).await;
            let (begun, under_way) = (self.begun.load(Ordering::Relaxed), self.under_way.load(Ordering::Relaxed));
            quiet = if begun == before && under_way == 0 { quiet + 1 } else { 0 };
            before = begun;
        }
    }

    /// Tells the program who asked, and how. What a client says about itself is believed of this machine only: a TLS proxy,
    /// for example.
    fn note_origin(&self, headers: &mut HeaderMap) {
        let host = headers.get(HOST).cloned();
        let mut set = |name: HeaderName, value: HeaderValue| {
            if !(self.is_trusted && headers.contains_key(&name)) {
                headers.insert(name, value);
            }
        };
        set(FORWARDED_FOR, self.address.clone());
        set(FORWARDED_PROTO, HeaderValue::from_static("http"));
        if let Some(host) = host {
            set(FORWARDED_HOST, host);
        }
    }
}

impl Services {
    async fn answer(&self, mut request: Request<Incoming>, client: &Client) -> Reply {
        if let Err(refusal) = admit(&mut request) {
            return self.gateway.refuse(&refusal);
        }
        if self.is_gateway_only {
            // Gateways pass requests on to nodes, so here it can only be a client's own idea.
            request.headers_mut().remove(FORWARDED);
        }
        let forwarded = request.headers().contains_key(FORWARDED);
        match target(host_of(&request), request.uri(), forwarded) {
            Target::Node => match self.program_of_control(&request) {
                Some(program) => self.gateway.pass_to_its_node(program, request.map(Upload::new)).await,
                None => {
                    let answer = self.api_runtime.spawn(self.api.clone().oneshot(request.map(Body::new)));
                    let Ok(response) =
                        AbortOnDropHandle::new(answer).await.expect("it does not panic, and nobody else ends it");
                    response.map(ReplyBody::Own)
                }
            },
            for_program => {
                if !forwarded {
                    client.note_origin(request.headers_mut());
                }
                self.gateway.answer(for_program, request.map(Upload::new)).await
            }
        }
    }

    /// The program that an owner's request is about, if this gateway only passes such requests on.
    fn program_of_control<B>(&self, request: &Request<B>) -> Option<ProgramId> {
        let rest = request.uri().path().strip_prefix("/control/machine/")?;
        self.is_gateway_only.then(|| rest.split('/').next()?.parse().ok()).flatten()
    }
}

/// A request that is under way until this is dropped.
struct UnderWay(Arc<Client>);

impl UnderWay {
    fn new(client: Arc<Client>) -> Self {
        client.begun.fetch_add(1, Ordering::Relaxed);
        client.under_way.fetch_add(1, Ordering::Relaxed);
        Self(client)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body, and what is kept as long as it is.
struct With(ReplyBody, #[allow(dead_code)] UnderWay);

impl http_body::Body for With {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.0).poll_frame(cx);
        streams::asked(polled.is_ready());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests;
