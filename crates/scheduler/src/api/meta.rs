//! How the scheduler itself is doing.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use protocol::api::scheduler::{Health, NodeStatus, VmStatus};

use super::Api;

/// `GET /health`.
pub(super) async fn health(State(api): State<Api>) -> Json<Health> {
    let snapshot = api.snapshot();
    let following = api.following.borrow().clone();
    let database = api.database.borrow().clone();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let healthy = snapshot.nodes.values().filter(|node| node.status == NodeStatus::Healthy).count();
    Json(Health {
        status: if following.has_listed { "ok" } else { "starting" }.to_owned(),
        address: api.control.account().address().clone(),
        message_node: following.failure.unwrap_or_else(|| "ok".to_owned()),
        nodes_healthy: count(healthy),
        programs: count(snapshot.programs.values().filter(|p| p.status != VmStatus::Orphaned).count()),
        database: Some(database.unwrap_or_else(|| "ok".to_owned())),
        leader: None,
        brake: snapshot.brake.clone(),
    })
}

/// `GET /metrics`.
pub(super) async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let answers = api.following.borrow().failure.is_none();
    let text = api.metrics.render(&api.snapshot(), answers);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
