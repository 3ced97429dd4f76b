//! What a node says about itself, in the shapes of aleph-vm, and what it lets owners see.

mod about;
mod logs;
mod on_demand;
mod replication;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use protocol::client::MessageNode;
use protocol::control::Capacity;
use protocol::data::REPLICATION_PATH;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::agent::AgentHandle;
use crate::gateway::READY_PATH;
use crate::metrics::{self, Metrics};
use crate::programs::catalog::Catalog;
use crate::programs::data::ProgramData;
use crate::programs::sandboxes::Sandboxes;

/// What the API shows.
pub(crate) struct ApiState {
    pub(crate) name: String,
    pub(crate) node: Arc<OnceCell<protocol::NodeId>>,
    /// Host names under which owners' requests may be signed for this node.
    pub(crate) domains: Vec<String>,
    pub(crate) capacity: Capacity,
    pub(crate) data_dir: std::path::PathBuf,
    pub(crate) message_node: MessageNode,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) agent: AgentHandle,
    pub(crate) data: Option<Arc<ProgramData>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started: Instant,
}

/// An answer that says no, as aleph-vm writes it.
pub(crate) struct ApiError(pub(crate) StatusCode, pub(crate) String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// The node's own routes.
pub(crate) fn router(state: Arc<ApiState>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(show_metrics))
        .route("/status/config", get(about::config))
        .route("/about/usage/system", get(about::usage))
        .route("/about/executions/list", get(about::executions))
        .route("/v2/about/executions/list", get(about::executions_v2))
        .route("/control/machine/{program}/logs", get(logs::read))
        .route("/control/machine/{program}/stream_logs", get(logs::stream))
        .route(REPLICATION_PATH, get(replication::accept))
        .route(&format!("{READY_PATH}{{program}}"), post(on_demand::have_ready))
        .fallback(unknown)
        .with_state(state)
}

async fn health(State(state): State<Arc<ApiState>>) -> Json<Value> {
    Json(json!({
        "status": "ok",
        "name": state.name,
        "node": state.node.get(),
        "uptime_seconds": state.started.elapsed().as_secs(),
    }))
}

async fn show_metrics(State(state): State<Arc<ApiState>>) -> String {
    let owners = state.sandboxes.owners();
    let count = |kind| owners.iter().filter(|owner| owner.kind() == kind).count();
    let (warm, bare) = state.sandboxes.waiting();
    let frozen = state.agent.frozen();
    let on_demand = count("on_demand").saturating_sub(frozen);
    let programs = [("persistent", count("persistent")), ("on_demand", on_demand), ("frozen", frozen)];
    let waiting = [("waiting_with_interpreter", warm), ("waiting", bare)];
    let mut text = state.metrics.render(&[&programs[..], &waiting].concat());
    if let Some(data) = &state.data {
        metrics::render_data(&mut text, &data.replica_statuses(), &data.archive_statuses(), &data.usage());
    }
    text
}

async fn unknown(uri: axum::http::Uri) -> ApiError {
    ApiError(StatusCode::NOT_FOUND, format!("there is nothing at {} on this compute node", uri.path()))
}
