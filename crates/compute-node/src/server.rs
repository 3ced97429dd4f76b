//! Listens, and hands each request to the gateway or to the node's own API.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::ProgramId;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::gateway::{FORWARDED, Gateway, Target, host_of, target};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// How long a client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests that are under way may take when the node is asked to end.
const DRAIN: Duration = Duration::from_secs(10);

/// What answers requests.
pub(crate) struct Services {
    pub(crate) gateway: Arc<Gateway>,
    /// The node's own API; a gateway without a node has none.
    pub(crate) api: Router,
    /// Whether owners' requests about programs are for other nodes.
    pub(crate) passes_control_on: bool,
}

/// Serves until `shutdown`; requests that are under way then may finish.
pub(crate) async fn serve(listener: TcpListener, services: Arc<Services>, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: connections that end make room.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (services, shutdown) = (services.clone(), shutdown.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let services = services.clone();
                async move { Ok::<_, Infallible>(services.answer(request, peer).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = &mut connection => result,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                debug!(%peer, %error, "a connection ended");
            }
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

impl Services {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let mut request = request.map(Body::new);
        let forwarded = request.headers().contains_key(FORWARDED);
        match target(host_of(&request), request.uri(), forwarded) {
            Target::Node => match self.program_of_control(&request) {
                Some(program) => self.gateway.pass_to_its_node(program, request).await,
                None => {
                    let Ok(response) = self.api.clone().oneshot(request).await;
                    response
                }
            },
            for_program => {
                if !forwarded {
                    note_origin(&mut request, peer);
                }
                self.gateway.answer(for_program, request).await
            }
        }
    }

    /// The program that an owner's request is about, if this gateway only passes such requests on.
    fn program_of_control(&self, request: &Request<Body>) -> Option<ProgramId> {
        let rest = request.uri().path().strip_prefix("/control/machine/")?;
        self.passes_control_on.then(|| rest.split('/').next()?.parse().ok()).flatten()
    }
}

/// Tells the program who asked, and how. What a client says about itself is believed of this machine only: a TLS proxy,
/// for example.
fn note_origin(request: &mut Request<Body>, peer: SocketAddr) {
    let host = host_of(request).and_then(|host| HeaderValue::from_str(host).ok());
    let headers = request.headers_mut();
    let trusted = peer.ip().is_loopback();
    let mut set = |name: HeaderName, value: Option<HeaderValue>| {
        if let Some(value) = value
            && !(trusted && headers.contains_key(&name))
        {
            headers.insert(name, value);
        }
    };
    set(FORWARDED_FOR, HeaderValue::from_str(&peer.ip().to_string()).ok());
    set(FORWARDED_PROTO, Some(HeaderValue::from_static("http")));
    set(FORWARDED_HOST, host);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_may_speak_for_others() {
        let request = || {
            let mut request = Request::new(Body::empty());
            request.headers_mut().insert(FORWARDED_FOR, HeaderValue::from_static("198.51.100.7"));
            request
        };
        let mut local = request();
        note_origin(&mut local, "127.0.0.1:5".parse().unwrap());
        assert_eq!(local.headers()[FORWARDED_FOR], "198.51.100.7");
        let mut remote = request();
        note_origin(&mut remote, "203.0.113.9:5".parse().unwrap());
        assert_eq!(remote.headers()[FORWARDED_FOR], "203.0.113.9");
        assert_eq!(remote.headers()[FORWARDED_PROTO], "http");
    }
}
