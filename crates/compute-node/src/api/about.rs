//! Usage, settings and what runs, in the shapes of aleph-vm (contract: compute node, 1.2).

use std::sync::Arc;

use axum::extract::State;
use axum::response::Json;
use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::ApiState;
use crate::machine;
use crate::programs::sandboxes::Owner;

/// `GET /about/usage/system`.
pub(super) async fn usage(State(state): State<Arc<ApiState>>) -> Json<Value> {
    let memory = machine::memory().unwrap_or_default();
    let disk = machine::disk(&state.data_dir).unwrap_or_default();
    let load = machine::load().unwrap_or_default();
    Json(json!({
        "cpu": {
            "count": machine::processors(),
            "load_average": { "load1": load[0], "load5": load[1], "load15": load[2] },
            "core_frequencies": { "min": 0.0, "max": 0.0 },
        },
        "mem": { "total_kB": memory.total / 1000, "available_kB": memory.available / 1000 },
        "disk": { "total_kB": disk.total / 1000, "available_kB": disk.available / 1000 },
        "period": { "start_timestamp": Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true), "duration_seconds": 60.0 },
        "properties": { "cpu": {
            "architecture": state.capacity.architecture,
            "vendor": state.capacity.cpu_vendor,
            "features": state.capacity.cpu_features,
        } },
        "gpu": { "devices": [], "available_devices": [] },
        "active": true,
    }))
}

/// `GET /status/config`.
pub(super) async fn config(State(state): State<Arc<ApiState>>) -> Json<Value> {
    Json(json!({
        "DOMAIN_NAME": state.domains.first(),
        "node_hash": state.node.get(),
        "version": env!("CARGO_PKG_VERSION"),
        "references": { "API_SERVER": state.message_node.url() },
        "payment": { "AVAILABLE_PAYMENTS": ["hold"] },
        "computing": { "ENABLE_QEMU_SUPPORT": false, "ENABLE_CONFIDENTIAL_COMPUTING": false, "ENABLE_GPU_SUPPORT": false },
    }))
}

fn kind(owner: Owner) -> &'static str {
    match owner {
        Owner::Persistent(_) => "persistent_program",
        Owner::OnDemand(_) => "microvm",
    }
}

/// `GET /about/executions/list`: what runs now.
pub(super) async fn executions(State(state): State<Arc<ApiState>>) -> Json<Map<String, Value>> {
    let entry = |owner: Owner| {
        let about = json!({ "networking": {}, "vm_type": kind(owner), "awaiting_confidential_init": false });
        (owner.program().to_string(), about)
    };
    Json(state.sandboxes.owners().into_iter().map(entry).collect())
}

/// `GET /v2/about/executions/list`.
pub(super) async fn executions_v2(State(state): State<Arc<ApiState>>) -> Json<Map<String, Value>> {
    let entry = |owner: Owner| {
        // Looked at and not used: what is frozen stays so.
        let endpoints = state.agent.endpoints(owner.program());
        let about = json!({
            "networking": {},
            "status": {},
            "running": !endpoints.is_empty(),
            "frozen": !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.is_frozen()),
            "copies": endpoints.len(),
            "awaiting_confidential_init": false,
            "vm_type": kind(owner),
            "epoch": owner.epoch(),
        });
        (owner.program().to_string(), about)
    };
    Json(state.sandboxes.owners().into_iter().map(entry).collect())
}
