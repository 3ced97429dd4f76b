//! The read API: `/api/v0` and `/api/v1` in the shapes that Aleph clients know, the event stream, health and metrics. The
//! nodes' control protocol has its door here as well.

pub(crate) mod error;
mod events;
mod lists;
mod meta;
mod orders;
mod records;
mod v0;
mod v1;

use std::sync::Arc;

use axum::Router;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Utf8Bytes, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use chrono::{DateTime, SecondsFormat, Utc};
use protocol::Address;
use protocol::client::MessageNode;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::cors::CorsLayer;

use crate::control::{Control, MAX_FRAME_BYTES};
use crate::engine::Input;
use crate::follow::Following;
use crate::metrics::Metrics;
use crate::snapshot::{Snapshot, Snapshots};
use crate::store::{Led, Store};
use error::{Answer, ApiError};
pub(crate) use events::{MAX_STREAMS, QUEUE};

/// What requests are answered from.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) snapshots: Snapshots,
    pub(crate) events: broadcast::Sender<Utf8Bytes>,
    pub(crate) following: watch::Receiver<Following>,
    /// What is wrong with the database, if something is.
    pub(crate) database: watch::Receiver<Option<String>>,
    pub(crate) store: Store,
    pub(crate) led: Led,
    pub(crate) engine: mpsc::Sender<Input>,
    /// The accounts whose orders are carried out.
    pub(crate) operators: Arc<[Address]>,
    pub(crate) control: Arc<Control>,
    pub(crate) messages: MessageNode,
    pub(crate) gateway: Option<Arc<str>>,
    pub(crate) metrics: Arc<Metrics>,
    /// Free event streams.
    pub(crate) streams: Arc<Semaphore>,
    /// Connections that outlive their request.
    pub(crate) sockets: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

impl Api {
    /// The newest state.
    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }
}

/// All routes.
pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v0/allocation/{hash}", get(v0::allocation))
        .route("/api/v0/plan", get(v0::plan))
        .route("/api/v0/nodes", get(v0::nodes))
        .route("/api/v1/vms", get(v1::vms))
        .route("/api/v1/vms/{hash}", get(v1::vm))
        .route("/api/v1/vms/{hash}/history", get(v1::vm_history))
        .route("/api/v1/vms/{hash}/history/signed", get(v1::signed_history))
        .route("/api/v1/nodes", get(v1::nodes))
        .route("/api/v1/nodes/{hash}", get(v1::node))
        .route("/api/v1/nodes/{hash}/history", get(v1::node_history))
        .route("/api/v1/stats", get(v1::stats))
        .route("/api/v1/orders", post(orders::order))
        .route("/api/v1/ws", get(events::subscribe))
        .route("/health", get(meta::health))
        .route("/metrics", get(meta::metrics))
        // Browsers of any site may read.
        .layer(CorsLayer::permissive())
        .route("/api/v1/control", get(control))
        .fallback(ApiError::no_such_route)
        .method_not_allowed_fallback(ApiError::no_such_method)
        .with_state(api)
}

/// A request to open a WebSocket, or what is wrong with it.
type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// A WebSocket whose frames are bounded.
fn bounded(upgrade: Upgrade, most: usize) -> Answer<WebSocketUpgrade> {
    let upgrade = upgrade.map_err(|e| ApiError::bad_request(format!("this is a WebSocket: {}", e.body_text())))?;
    Ok(upgrade.max_message_size(most).max_frame_size(most))
}

/// Opens a node's connection.
async fn control(State(api): State<Api>, upgrade: Upgrade) -> Answer<Response> {
    if !api.control.leads() {
        return Err(ApiError::unavailable("this scheduler is not sure to lead; try another"));
    }
    let upgrade = bounded(upgrade, MAX_FRAME_BYTES)?;
    let open = api.sockets.token();
    Ok(upgrade.on_upgrade(async move |socket| {
        let _open = open;
        api.control.serve(socket, api.shutdown.clone()).await;
    }))
}

/// An id in a path.
fn id<T: std::str::FromStr<Err: std::fmt::Display>>(Path(text): Path<String>) -> Answer<T> {
    text.parse().map_err(|e: T::Err| ApiError::bad_request(e.to_string()))
}

/// A time as the API writes it: ISO 8601 in UTC, to the millisecond.
pub(crate) fn iso(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
