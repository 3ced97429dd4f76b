//! `/api/v0`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use chrono::{DateTime, Utc};
use protocol::ProgramId;
use protocol::api::scheduler::{Allocation, NodeList, NodePlan, Period, Plan};

use super::error::{Answer, ApiError};
use super::records::{VM_TYPE, allocation as place_of, allocation_node, url};
use super::{Api, id, iso};

/// `GET /api/v0/allocation/{hash}`.
pub(super) async fn allocation(State(api): State<Api>, hash: Path<String>) -> Answer<Json<Allocation>> {
    let program: ProgramId = id(hash)?;
    let snapshot = api.snapshot();
    let view = snapshot.programs.get(&program).ok_or_else(|| unknown(&program))?;
    let (Some(place), Some(epoch)) = (place_of(view), view.epoch) else {
        let reason = snapshot.reason(view).unwrap_or_else(|| "it waits for a node".to_owned());
        return Err(ApiError::not_found(format!("program {program} is not assigned to a node: {reason}")));
    };
    Ok(Json(Allocation {
        vm_hash: program,
        vm_type: VM_TYPE.to_owned(),
        vm_ipv6: None,
        period: since(place.at),
        node: allocation_node(place.node, snapshot.nodes.get(&place.node).map(AsRef::as_ref)),
        epoch,
        url: url(api.gateway.as_deref(), &program),
    }))
}

/// `GET /api/v0/plan`.
pub(super) async fn plan(State(api): State<Api>) -> Json<Plan> {
    let snapshot = api.snapshot();
    let mut plan: BTreeMap<_, NodePlan> = BTreeMap::new();
    for program in snapshot.programs.values() {
        if let Some(place) = place_of(program) {
            plan.entry(place.node).or_default().persistent_vms.push(program.spec.id);
        }
    }
    Json(Plan { period: since(Utc::now()), plan })
}

/// `GET /api/v0/nodes`.
pub(super) async fn nodes(State(api): State<Api>) -> Json<NodeList> {
    let snapshot = api.snapshot();
    Json(NodeList { nodes: snapshot.nodes.iter().map(|(id, node)| allocation_node(*id, Some(node))).collect() })
}

/// What to say about a program that is not known.
pub(super) fn unknown(program: &ProgramId) -> ApiError {
    ApiError::not_found(format!(
        "no persistent program {program} is known: it was never published, does not ask to run always, or was taken back"
    ))
}

fn since(start: DateTime<Utc>) -> Period {
    let lasted = (Utc::now() - start).to_std().unwrap_or_default();
    Period { start_timestamp: iso(start), duration_seconds: lasted.as_secs_f64() }
}
