//! What a process answers that does not lead: reads itself, and what changes something by passing it on to the one that leads.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use forward::{Leader, Limits, Upload};
use hyper_util::client::legacy::connect::HttpConnector;

use super::MAX_JSON_BYTES;
use super::error::ApiError;
use crate::leadership::Chief;
use crate::node::Node;

/// For how long a request waits for a process that leads.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long connecting to it may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long its machine may say nothing at all.
const SILENCE: Duration = Duration::from_secs(10);
/// How much longer than the longest wait of a small request (`sync`) its answer may take.
const MARGIN: Duration = Duration::from_secs(15);
/// How long a large body may take, and how long its sender may say nothing. The process that leads has its own, shorter limits of a body's pace.
const LARGE: Duration = Duration::from_secs(6 * 3600);

/// Marks what was passed on already: two processes that take each other for the leader do not play ball.
const PASSED_ON: &str = "aleph-message-node-passed-on";

/// The way to the process that leads.
#[derive(Clone)]
pub(crate) struct Passage(Arc<Leader<Body>>);

impl Passage {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        connector.set_tcp_user_timeout(Some(SILENCE));
        connector.set_keepalive(Some(SILENCE / 2));
        connector.set_keepalive_interval(Some(SILENCE / 4));
        connector.set_keepalive_retries(Some(2));
        Self(Arc::new(Leader::new(connector)))
    }
}

/// Whether only the process that leads can answer: it changes something, or needs what that one has in memory.
fn needs_leader(method: &Method, path: &str) -> bool {
    let is_read = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    // Who reads an archive ends earlier epochs; all balances of a token are known to who decides with them.
    !is_read || path.starts_with("/api/v1/programs/") || path == "/api/v0/balances"
}

/// Passes a request on if it needs another process.
pub(super) async fn unless_leader(State(node): State<Node>, request: Request, next: Next) -> Response {
    if node.leadership.leads() || !needs_leader(request.method(), request.uri().path()) {
        return next.run(request).await;
    }
    let passed_on = match node.leadership.chief(PATIENCE).await {
        Chief::Ourselves => return next.run(request).await,
        Chief::Other(url) => pass_on(&node, request, &url).await,
        Chief::Unknown(why) => Err(why),
    };
    passed_on.unwrap_or_else(|why| {
        node.context.metrics.not_passed_on.increment(1);
        ApiError::busy(format!("{why}; try again in a few seconds")).into_response()
    })
}

async fn pass_on(node: &Node, mut request: Request, url: &str) -> Result<Response, String> {
    if request.headers_mut().insert(PASSED_ON, HeaderValue::from_static("1")).is_some() {
        return Err(format!("this process of the message node does not lead, but the one at {url}"));
    }
    let leader: Uri = url.parse().map_err(|_| format!("the process that leads says that it is reached at '{url}'"))?;
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let is_small = HttpBody::size_hint(request.body()).upper().is_some_and(|bytes| bytes <= MAX_JSON_BYTES as u64);
    let head = if is_small { node.context.timing.sync_wait + MARGIN } else { LARGE };
    let limits = Limits { head, whole: None, client: LARGE };
    let answer = forward::forward(&node.passage.0.at(&leader), request.map(Upload::new), path, limits, ()).await;
    let answer = answer.map_err(|error| {
        format!("the process that leads this message node, at {url}, cannot be reached ({error}), or ended just now")
    })?;
    node.context.metrics.passed_on.increment(1);
    Ok(answer.map(Body::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_needs_the_leader() {
        for (method, path) in [
            (Method::POST, "/api/v0/messages"),
            (Method::PUT, "/api/v1/programs/p/snapshots/1-1/v"),
            (Method::GET, "/api/v1/programs/p/snapshots"),
            (Method::GET, "/api/v0/balances"),
        ] {
            assert!(needs_leader(&method, path), "{method} {path}");
        }
        for (method, path) in [
            (Method::GET, "/api/v0/messages.json"),
            (Method::HEAD, "/api/v0/storage/raw/x"),
            (Method::OPTIONS, "/api/v0/messages"),
            (Method::GET, "/api/v0/addresses/a/balance"),
        ] {
            assert!(!needs_leader(&method, path), "{method} {path}");
        }
    }
}
