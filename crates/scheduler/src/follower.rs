//! What a scheduler answers that does not lead: it passes requests on to the one that does.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use forward::{Leader, Limits, Upload};
use hyper_util::client::legacy::connect::HttpConnector;
use protocol::Address;
use protocol::api::scheduler::Health;
use tokio::sync::watch;

use crate::api::error::ApiError;
use crate::metrics::Metrics;
use crate::server::Seat;

/// How long the leader may take to answer, and who asks to send what they ask.
const LIMITS: Limits = Limits { head: Duration::from_secs(10), whole: None, client: Duration::from_secs(10) };
/// How long connecting to the leader may take.
const CONNECT: Duration = Duration::from_secs(1);

/// Marks what was passed on already: two schedulers that take each other for the leader do not play ball.
const PASSED_ON: &str = "aleph-scheduler-passed-on";

struct Follower {
    leader: watch::Receiver<Option<String>>,
    address: Address,
    database: watch::Receiver<Option<String>>,
    metrics: Arc<Metrics>,
    connections: Leader<Body>,
}

/// All routes of a follower. `leader` is the leader's URL, as far as it is known.
pub(crate) fn router(seat: &Seat, leader: watch::Receiver<Option<String>>) -> Router {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_nodelay(true);
    let follower = Follower {
        leader,
        address: seat.account.address().clone(),
        database: seat.database.subscribe(),
        metrics: seat.metrics.clone(),
        connections: Leader::new(connector),
    };
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(async |State(follower): State<Arc<Follower>>| follower.metrics.render_follower()))
        // Nodes connect to the leader themselves, so that nothing is between it and them.
        .route("/api/v1/control", get(async |State(follower): State<Arc<Follower>>| follower.no_leader()))
        .fallback(pass_on)
        .with_state(Arc::new(follower))
}

impl Follower {
    fn no_leader(&self) -> Response {
        let message = match &*self.leader.borrow() {
            Some(leader) => format!("this scheduler does not lead; ask the one at {leader}"),
            None => "no scheduler leads now; try again in a few seconds".to_owned(),
        };
        let mut response = ApiError::unavailable(message).into_response();
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }
}

/// `GET /health`.
async fn health(State(follower): State<Arc<Follower>>) -> Json<Health> {
    let leader = follower.leader.borrow().clone();
    let database = follower.database.borrow().clone();
    Json(Health {
        status: "follower".to_owned(),
        address: follower.address.clone(),
        message_node: "not asked".to_owned(),
        nodes_healthy: 0,
        programs: 0,
        database: Some(database.unwrap_or_else(|| "ok".to_owned())),
        leader,
        brake: None,
    })
}

async fn pass_on(State(follower): State<Arc<Follower>>, mut request: Request) -> Response {
    let leader = follower.leader.borrow().as_deref().and_then(|url| url.parse::<Uri>().ok());
    let Some(leader) = leader.filter(|_| !request.headers().contains_key(PASSED_ON)) else {
        return follower.no_leader();
    };
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| axum::http::uri::PathAndQuery::from_static("/"));
    request.headers_mut().insert(PASSED_ON, HeaderValue::from_static("1"));
    let connections = follower.connections.at(&leader);
    match forward::forward(&connections, request.map(Upload::new), path, LIMITS, ()).await {
        Ok(response) => response.map(Body::new),
        Err(error) => {
            tracing::debug!(%leader, %error, "the leader does not answer");
            follower.no_leader()
        }
    }
}
