//! `POST /api/v1/orders`: what operators order, and owners of programs, see [`protocol::operation`].

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use chrono::Utc;
use protocol::Address;
use protocol::api::scheduler::NodeStatus;
use protocol::message::MessageType;
use protocol::operation::{Operation, Order, SignedOrder};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Api;
use super::error::{Answer, ApiError};
use super::v0::unknown;
use crate::core::moves::Objection;
use crate::engine::Input;

/// Carries out an order. The answer comes when it shows in the API.
pub(super) async fn order(
    State(api): State<Api>,
    body: Result<Json<SignedOrder>, JsonRejection>,
) -> Answer<Json<Value>> {
    let Json(signed) = body.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let now = Utc::now();
    let (order, by) =
        signed.read(api.control.account().address(), now).map_err(|e| ApiError::forbidden(e.to_string()))?;
    may(&api, &order.operation, &by)?;
    check(&api, &order)?;
    check_source(&api, &order.operation).await?;
    let operation = || order.operation.clone();
    ask(&api, |answer| Input::Asked(operation(), answer)).await?;
    if !api.led.record(&order, &signed, &by, now).await? {
        return Err(ApiError::conflict("this order was taken before; sign a new one"));
    }
    tracing::warn!(%by, order = signed.order, "an order was recorded");
    ask(&api, |answer| Input::Ordered(operation(), by, now, answer)).await?;
    let (shown, is_shown) = oneshot::channel();
    api.engine.send(Input::Barrier(shown)).await.map_err(|_| stopping())?;
    is_shown.await.map_err(|_| stopping())?;
    Ok(Json(json!({ "status": "done" })))
}

/// Operators may order everything, a program's owner what is about that program only.
fn may(api: &Api, operation: &Operation, by: &Address) -> Answer<()> {
    if api.operators.contains(by) {
        return Ok(());
    }
    let Some(id) = operation.program() else {
        return Err(ApiError::forbidden(format!("{by} is no operator that this scheduler trusts (--operator)")));
    };
    let snapshot = api.snapshot();
    let program = snapshot.programs.get(&id).ok_or_else(|| unknown(&id))?;
    if program.spec.owner == *by {
        return Ok(());
    }
    Err(ApiError::forbidden(format!(
        "{by} is neither the owner of the program {id} nor an operator: sign with their key"
    )))
}

/// What another program wrote is for programs of the same owner only. The message node knows whose it is, also when it is
/// not in force any more.
async fn check_source(api: &Api, operation: &Operation) -> Answer<()> {
    let Operation::Restore { program, from: Some(from), .. } = operation else { return Ok(()) };
    if program == from {
        return Err(ApiError::bad_request("it is the program's own snapshot: leave out from which program it is"));
    }
    let snapshot = api.snapshot();
    let owner = &snapshot.programs.get(program).ok_or_else(|| unknown(program))?.spec.owner;
    let found = api.messages.message(&from.to_string()).await.map_err(|error| {
        ApiError::unavailable(format!(
            "the message node does not say whose program {from} is; try again later ({error})"
        ))
    })?;
    let message = found.and_then(|found| found.message);
    let message = message.filter(|message| message.envelope.message_type == MessageType::Program);
    let message = message.ok_or_else(|| ApiError::not_found(format!("the message node knows no program {from}")))?;
    // Of a message that was taken back only the sender is left.
    let named = message.content.as_ref().and_then(|content| content["address"].as_str()).map(Address::new);
    let theirs = named.unwrap_or(message.envelope.sender);
    if theirs == *owner {
        return Ok(());
    }
    Err(ApiError::forbidden(format!(
        "program {from} is {theirs}'s and {program} is {owner}'s: a program starts with what another program of its owner wrote"
    )))
}

/// Asks the task that decides.
async fn ask(api: &Api, input: impl FnOnce(oneshot::Sender<Result<(), Objection>>) -> Input) -> Answer<()> {
    let (answer, answered) = oneshot::channel();
    api.engine.send(input(answer)).await.map_err(|_| stopping())?;
    answered.await.map_err(|_| stopping())?.map_err(|objection| match objection {
        Objection::Unknown(what) => ApiError::not_found(what),
        Objection::NotNow(why) => ApiError::conflict(why),
    })
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
