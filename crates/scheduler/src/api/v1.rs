//! `/api/v1`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use protocol::Address;
use protocol::api::scheduler::{AssignmentRecord, NodeRecord, NodeStatus, Page, Stats, VmRecord};
use protocol::history::SignedEntry;

use super::error::{Answer, ApiError};
use super::lists::Params;
use super::records::{VM_TYPE, capacity, node as node_record, vm as vm_record};
use super::v0::unknown;
use super::{Api, id};
use crate::store::history::Of;

/// `GET /api/v1/vms`, filtered by `owner` (or `sender`), `node`, `vm_hash` (a prefix), `vm_type` and `status`.
pub(super) async fn vms(State(api): State<Api>, params: Params) -> Answer<Json<Page<VmRecord>>> {
    let window = params.window()?;
    let snapshot = api.snapshot();
    let owner = params.get("owner").or(params.get("sender")).map(Address::new);
    let node = params.get("node").map(str::to_ascii_lowercase);
    let (prefix, status) = (params.get("vm_hash").map(str::to_ascii_lowercase), params.get("status"));
    let is_other_type = params.get("vm_type").is_some_and(|wanted| wanted != VM_TYPE);
    let found: Vec<_> = snapshot
        .programs
        .values()
        .filter(|program| {
            !is_other_type
                && owner.as_ref().is_none_or(|owner| *owner == program.spec.owner)
                && node.as_ref().is_none_or(|node| program.place.as_ref().is_some_and(|p| p.node.to_string() == *node))
                && status.is_none_or(|status| status == program.status.as_str())
                && prefix.as_ref().is_none_or(|prefix| program.spec.id.to_string().starts_with(prefix))
        })
        .collect();
    Ok(Json(window.cut(&found, |program| vm_record(&snapshot, api.gateway.as_deref(), program))))
}

/// `GET /api/v1/vms/{hash}`.
pub(super) async fn vm(State(api): State<Api>, hash: Path<String>) -> Answer<Json<VmRecord>> {
    let program = id(hash)?;
    let snapshot = api.snapshot();
    let view = snapshot.programs.get(&program).ok_or_else(|| unknown(&program))?;
    Ok(Json(vm_record(&snapshot, api.gateway.as_deref(), view)))
}

/// `GET /api/v1/vms/{hash}/history`.
pub(super) async fn vm_history(
    State(api): State<Api>,
    hash: Path<String>,
    params: Params,
) -> Answer<Json<Page<AssignmentRecord>>> {
    history(&api, Of::Program(id(hash)?), &params).await
}

/// `GET /api/v1/vms/{hash}/history/signed`: see [`protocol::history`]; oldest first. Known also of programs that are gone.
pub(super) async fn signed_history(
    State(api): State<Api>,
    hash: Path<String>,
    params: Params,
) -> Answer<Json<Page<SignedEntry>>> {
    let window = params.window()?;
    let (items, total) = api.store.chain(id(hash)?, window.offset(), window.size()).await?;
    Ok(Json(window.page(items, total)))
}

/// `GET /api/v1/nodes`, filtered by `hash` (a prefix), `owner` and `status`.
pub(super) async fn nodes(State(api): State<Api>, params: Params) -> Answer<Json<Page<NodeRecord>>> {
    let window = params.window()?;
    let snapshot = api.snapshot();
    let owner = params.get("owner").map(Address::new);
    let (prefix, status) = (params.get("hash").map(str::to_ascii_lowercase), params.get("status"));
    let found: Vec<_> = snapshot
        .nodes
        .values()
        .filter(|node| {
            owner.as_ref().is_none_or(|owner| *owner == node.offer.owner)
                && status.is_none_or(|status| format!("{:?}", node.status).eq_ignore_ascii_case(status))
                && prefix.as_ref().is_none_or(|prefix| node.offer.node.to_string().starts_with(prefix))
        })
        .collect();
    Ok(Json(window.cut(&found, |node| node_record(node))))
}

/// `GET /api/v1/nodes/{hash}`.
pub(super) async fn node(State(api): State<Api>, hash: Path<String>) -> Answer<Json<NodeRecord>> {
    let node = id(hash)?;
    let snapshot = api.snapshot();
    let view = snapshot.nodes.get(&node).ok_or_else(|| {
        ApiError::not_found(format!("no compute node {node} is known: it is not in the network's list of nodes"))
    })?;
    Ok(Json(node_record(view)))
}

/// `GET /api/v1/nodes/{hash}/history`.
pub(super) async fn node_history(
    State(api): State<Api>,
    hash: Path<String>,
    params: Params,
) -> Answer<Json<Page<AssignmentRecord>>> {
    history(&api, Of::Node(id(hash)?), &params).await
}

async fn history(api: &Api, of: Of, params: &Params) -> Answer<Json<Page<AssignmentRecord>>> {
    let window = params.window()?;
    let (records, total) = api.store.history(of, window.offset(), window.size()).await?;
    Ok(Json(window.page(records, total)))
}

/// `GET /api/v1/stats`.
pub(super) async fn stats(State(api): State<Api>) -> Json<Stats> {
    let snapshot = api.snapshot();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let mut vms_by_status = BTreeMap::new();
    for program in snapshot.programs.values() {
        *vms_by_status.entry(program.status.as_str().to_owned()).or_insert(0) += 1;
    }
    let healthy = snapshot.nodes.values().filter(|node| node.status == NodeStatus::Healthy).count();
    let mut stats = Stats {
        total_nodes: count(snapshot.nodes.len()),
        healthy_nodes: count(healthy),
        total_vms: count(snapshot.programs.len()),
        vms_by_status,
        vcpus_total: 0,
        vcpus_available: 0,
        memory_mb_total: 0,
        memory_mb_available: 0,
        disk_mb_total: 0,
        disk_mb_available: 0,
    };
    for (total, left) in snapshot.nodes.values().map(Arc::as_ref).filter_map(capacity) {
        stats.vcpus_total += total.vcpus;
        stats.vcpus_available += left.vcpus;
        stats.memory_mb_total += total.memory_mib;
        stats.memory_mb_available += left.memory_mib;
        stats.disk_mb_total += total.disk_mib;
        stats.disk_mb_available += left.disk_mib;
    }
    Json(stats)
}
