//! What gateways ask nodes before they send a request that can be sent only once.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use protocol::ProgramId;

use super::ApiState;
use crate::gateway::{self, Refusal};

/// `POST /control/on-demand/{program}`: has a copy of the program ready, as a request would. Nothing (204), or what a request
/// would be refused with.
pub(super) async fn have_ready(
    State(state): State<Arc<ApiState>>,
    Path(program): Path<String>,
    request: Request,
) -> Response {
    let waits = gateway::waits(request.headers());
    let refusal = ready(&state, &program, waits).await.err();
    gateway::readiness(refusal.as_ref()).map(Body::new)
}

async fn ready(state: &ApiState, program: &str, waits: bool) -> Result<(), Refusal> {
    let id: ProgramId = program.parse().map_err(|_| Refusal::NotAnId(program.to_owned()))?;
    if state.agent.enter(id).await.is_some() {
        return Ok(());
    }
    let program = gateway::found(id, state.catalog.lookup(id).await)?;
    if program.content.is_persistent() || !program.content.on.http {
        return Err(Refusal::NotOnRequests(id));
    }
    state.agent.enter_on_demand(&program, waits).await.map(drop).map_err(Refusal::Failed)
}
