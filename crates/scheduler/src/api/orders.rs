//! `POST /api/v1/orders`: what operators order, see [`protocol::operation`].

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use chrono::Utc;
use protocol::api::scheduler::NodeStatus;
use protocol::operation::{Operation, Order, SignedOrder};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Api;
use super::error::{Answer, ApiError};
use crate::core::Event;
use crate::engine::Input;

/// Carries out an order. The answer comes when it shows in the API.
pub(super) async fn order(
    State(api): State<Api>,
    body: Result<Json<SignedOrder>, JsonRejection>,
) -> Answer<Json<Value>> {
    let Json(signed) = body.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let now = Utc::now();
    let (order, operator) =
        signed.read(api.control.account().address(), now).map_err(|e| ApiError::forbidden(e.to_string()))?;
    if !api.operators.contains(&operator) {
        return Err(ApiError::forbidden(format!("{operator} is no operator that this scheduler trusts (--operator)")));
    }
    check(&api, &order)?;
    if !api.led.record(&order, &signed, &operator, now).await? {
        return Err(ApiError::conflict("this order was taken before; sign a new one"));
    }
    tracing::warn!(%operator, order = signed.order, "an operator's order was recorded");
    let (shown, is_shown) = oneshot::channel();
    for input in [Input::Event(Event::Ordered(order.operation)), Input::Barrier(shown)] {
        api.engine.send(input).await.map_err(|_| stopping())?;
    }
    is_shown.await.map_err(|_| stopping())?;
    Ok(Json(json!({ "status": "done" })))
}

fn stopping() -> ApiError {
    ApiError::unavailable("the scheduler is stopping; the order is recorded, ask again what became of it")
}

/// What makes no sense is refused before it is recorded.
fn check(api: &Api, order: &Order) -> Answer<()> {
    let Some(id) = order.operation.node() else { return Ok(()) };
    let snapshot = api.snapshot();
    let node = snapshot.nodes.get(&id).ok_or_else(|| ApiError::not_found(format!("there is no node {id}")))?;
    match order.operation {
        Operation::Lost { .. } if node.status == NodeStatus::Healthy => Err(ApiError::conflict(format!(
            "the node {id} sends heartbeats, so it is not gone; drain it to move its programs"
        ))),
        _ => Ok(()),
    }
}
